//! Resolving names of webhooks: once per connection, checked, and connected to exactly what was checked.

use std::net::{IpAddr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::net::lookup_host;

use super::target::{Refused, Rules};

/// The resolver of the HTTP client: whatever it answers is connected to, with no second look-up in between.
#[derive(Debug, Clone)]
pub struct Resolver(pub Rules);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let rules = self.0.clone();
        Box::pin(async move {
            let addresses = addresses(name.as_str()).await?;
            rules.check_addresses(&addresses)?;
            let sockets = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(sockets) as Addrs)
        })
    }
}

impl Resolver {
    /// Whether `name` may be called now. A name that cannot be resolved may: it is asked again at each delivery.
    ///
    /// # Errors
    /// It resolves to an address that is not public.
    pub async fn check(&self, name: &str) -> Result<(), Refused> {
        match addresses(name).await {
            Ok(addresses) => self.0.check_addresses(&addresses),
            Err(error) => {
                tracing::info!(name, %error, "a webhook's name does not resolve yet");
                Ok(())
            }
        }
    }
}

async fn addresses(name: &str) -> std::io::Result<Vec<IpAddr>> {
    // Port 0 stands for the one in the URL.
    Ok(lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
}
