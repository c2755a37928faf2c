//! Where a server listens.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for Address {
    type Err = String;

    /// `host:port`; the last colon counts, as in Redis' own texts of IPv6 addresses.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = parts.ok_or_else(|| format!("`{text}` is not host:port"))?;
        Ok(Self { host: host.trim_start_matches('[').trim_end_matches(']').to_owned(), port })
    }
}

/// Addresses with commas between, as in a setting; may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AddressList(Vec<Address>);

impl AddressList {
    /// The addresses.
    pub fn as_slice(&self) -> &[Address] {
        &self.0
    }
}

impl TryFrom<String> for AddressList {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let addresses = parts.map(|part| {
            let address: Address = part.parse()?;
            if address.host.is_empty() { Err(format!("`{part}` has no host")) } else { Ok(address) }
        });
        addresses.collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_addresses_with_commas_between() {
        let list = AddressList::try_from("a:1, b.c:2,[::1]:3,".to_owned()).unwrap();
        let texts: Vec<_> = list.as_slice().iter().map(|address| (&*address.host, address.port)).collect();
        assert_eq!(texts, [("a", 1), ("b.c", 2), ("::1", 3)]);
        assert_eq!(AddressList::try_from(String::new()).unwrap(), AddressList::default());
        for bad in ["a", "a:b", ":1", "a:99999"] {
            AddressList::try_from(bad.to_owned()).unwrap_err();
        }
    }
}
