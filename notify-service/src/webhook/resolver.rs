//! Resolving names of webhooks: once per connection, checked, and connected to exactly what was checked.

use std::error::Error as _;
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

/// The refusal among the causes of a failed request, if there is one.
pub fn refusal(error: &reqwest::Error) -> Option<Refused> {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(refused) = inner.downcast_ref::<Refused>() {
            return Some(*refused);
        }
        cause = inner.source();
    }
    None
}

async fn addresses(name: &str) -> std::io::Result<Vec<IpAddr>> {
    // Port 0 stands for the one in the URL.
    Ok(lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    /// The way to the socket itself: a name that has got a private address since it was checked is not connected to.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_name_that_resolves_to_this_machine_is_not_connected_to() {
        common::http_client::install_crypto();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://localhost:{}/", listener.local_addr().unwrap().port());
        let client = |allow_private: bool| {
            let resolver = Resolver(Rules::new(allow_private, vec![443]));
            reqwest::Client::builder().no_proxy().dns_resolver(Arc::new(resolver)).build().unwrap()
        };

        let error = client(false).get(&url).send().await.unwrap_err();
        assert_eq!(refusal(&error), Some(Refused::NotPublic), "{error:?}");
        assert!(timeout(Duration::from_millis(200), listener.accept()).await.is_err(), "it was connected to");

        // The same without the rules does connect: the name is not refused for another reason.
        let _unanswered = tokio::spawn(client(true).get(&url).send());
        timeout(Duration::from_secs(20), listener.accept()).await.unwrap().unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_name_is_refused_only_when_it_is_known_to_be_private() {
        let resolver = Resolver(Rules::new(false, vec![443]));
        assert_eq!(resolver.check("localhost").await, Err(Refused::NotPublic));
        assert_eq!(resolver.check("does-not-exist.invalid").await, Ok(()));
    }
}
