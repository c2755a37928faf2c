//! Where webhooks may be: nowhere that only we can reach.
//!
//! The rules are asked twice: when a webhook is registered, and for every attempt, because a name may have got
//! another address since ([`super::resolver`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Longest address of a webhook, in bytes.
const URL_BYTES_MAX: usize = 2_000;
/// Names that mean this machine or this network, whatever they resolve to.
const LOCAL_NAMES: [&str; 6] = ["localhost", "local", "internal", "intranet", "lan", "home.arpa"];

/// IPv4 networks that are not the internet: IANA's special-purpose registry, and multicast.
const V4_REFUSED: [(Ipv4Addr, u32); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),       // this network
    (Ipv4Addr::new(10, 0, 0, 0), 8),      // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),   // carriers' NAT
    (Ipv4Addr::new(127, 0, 0, 0), 8),     // loopback
    (Ipv4Addr::new(169, 254, 0, 0), 16),  // link-local, cloud metadata
    (Ipv4Addr::new(172, 16, 0, 0), 12),   // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),    // protocol assignments
    (Ipv4Addr::new(192, 0, 2, 0), 24),    // documentation
    (Ipv4Addr::new(192, 31, 196, 0), 24), // AS112
    (Ipv4Addr::new(192, 52, 193, 0), 24), // AMT
    (Ipv4Addr::new(192, 88, 99, 0), 24),  // 6to4 relays
    (Ipv4Addr::new(192, 168, 0, 0), 16),  // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),   // benchmarks
    (Ipv4Addr::new(198, 51, 100, 0), 24), // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),  // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 3),     // multicast, reserved, broadcast
];

/// IPv6: only global unicast is allowed at all, and of that not these, which are special or carry IPv4 inside.
const V6_GLOBAL: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
const V6_REFUSED: [(Ipv6Addr, u32); 5] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocol assignments, Teredo
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4
    (Ipv6Addr::new(0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0), 48), // AS112
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

/// Why a webhook may not be at an address. `Display` continues the field's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too long.
    #[error("must be at most {URL_BYTES_MAX} characters")]
    TooLong,
    /// Not an absolute URL.
    #[error("must be an absolute URL")]
    NotAUrl,
    /// Not a scheme that we speak.
    #[error("must begin with https://")]
    NotHttps,
    /// Not a scheme that we speak, in development.
    #[error("must begin with https:// or http://")]
    NotHttp,
    /// User or password in it.
    #[error("must not hold a user or password")]
    Credentials,
    /// A fragment, which is never sent.
    #[error("must not hold a fragment")]
    Fragment,
    /// A port that is not on the list.
    #[error("must not use this port")]
    Port,
    /// An address or name of this machine or a private network, or a name that resolves to one.
    #[error("must be at a public address")]
    NotPublic,
}

/// Which addresses webhooks may have.
#[derive(Debug, Clone)]
pub struct Rules {
    allow_private: bool,
    ports: Vec<u16>,
}

impl Rules {
    /// `allow_private` lifts all of it but the form; `ports` are those allowed otherwise.
    pub fn new(allow_private: bool, ports: Vec<u16>) -> Self {
        Self { allow_private, ports }
    }

    /// Checks the text of an address, and the address itself where it is a number; names are for the resolver.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn check(&self, text: &str) -> Result<Url, Refused> {
        if text.len() > URL_BYTES_MAX {
            return Err(Refused::TooLong);
        }
        // Parsers differ in what they make of these; no real address needs them.
        if text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\') {
            return Err(Refused::NotAUrl);
        }
        let url = Url::parse(text).map_err(|_| Refused::NotAUrl)?;
        match url.scheme() {
            "https" => {}
            "http" if self.allow_private => {}
            _ if self.allow_private => return Err(Refused::NotHttp),
            _ => return Err(Refused::NotHttps),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::Credentials);
        }
        if url.fragment().is_some() {
            return Err(Refused::Fragment);
        }
        let port = url.port_or_known_default().filter(|port| *port != 0).ok_or(Refused::Port)?;
        let host = url.host().ok_or(Refused::NotAUrl)?;
        if !self.allow_private {
            if !self.ports.contains(&port) {
                return Err(Refused::Port);
            }
            let public = match host {
                Host::Ipv4(address) => is_public(IpAddr::V4(address)),
                Host::Ipv6(address) => is_public(IpAddr::V6(address)),
                Host::Domain(name) => is_public_name(name),
            };
            if !public {
                return Err(Refused::NotPublic);
            }
        }
        Ok(url)
    }

    /// Checks what a name resolved to: one address that is not public spoils all of them.
    ///
    /// # Errors
    /// [`Refused::NotPublic`].
    pub fn check_addresses(&self, addresses: &[IpAddr]) -> Result<(), Refused> {
        if self.allow_private || addresses.iter().all(|address| is_public(*address)) {
            return Ok(());
        }
        Err(Refused::NotPublic)
    }
}

fn is_public_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let local = LOCAL_NAMES
        .iter()
        .any(|local| name.strip_suffix(local).is_some_and(|front| front.is_empty() || front.ends_with('.')));
    name.contains('.') && !local
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !V4_REFUSED.iter().any(|(network, bits)| in_v4(address, *network, *bits)),
        IpAddr::V6(address) => {
            in_v6(address, V6_GLOBAL.0, V6_GLOBAL.1)
                && !V6_REFUSED.iter().any(|(network, bits)| in_v6(address, *network, *bits))
        }
    }
}

fn in_v4(address: Ipv4Addr, network: Ipv4Addr, bits: u32) -> bool {
    let shift = u32::BITS - bits;
    address.to_bits() >> shift == network.to_bits() >> shift
}

fn in_v6(address: Ipv6Addr, network: Ipv6Addr, bits: u32) -> bool {
    let shift = u128::BITS - bits;
    address.to_bits() >> shift == network.to_bits() >> shift
}

#[cfg(test)]
mod tests;
