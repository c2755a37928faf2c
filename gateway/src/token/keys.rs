//! A JSON Web Key Set: the public keys of an identity provider. Each key counts for one algorithm, which follows from
//! its type and never from a token.

use std::collections::HashMap;

use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

/// Longest document that is read, in bytes.
pub const DOCUMENT_MAX_BYTES: usize = 64 * 1024;
/// Most keys in a document.
const KEYS_MAX: usize = 32;
/// Longest name of a key, in bytes.
const KID_LENGTH_MAX: usize = 128;
/// Shortest and longest modulus of an RSA key, in base64 digits: 2048 and 4096 bits.
const MODULUS_DIGITS: std::ops::RangeInclusive<usize> = 342..=683;

/// Why a document is not taken.
#[derive(Debug, thiserror::Error)]
pub enum BadKeys {
    /// Longer than 64 KiB.
    #[error("the document is longer than {DOCUMENT_MAX_BYTES} bytes")]
    TooLong,
    /// Not a key set.
    #[error("the document is not a key set")]
    NotAKeySet(#[source] serde_json::Error),
    /// More than 32 keys.
    #[error("there are more than {KEYS_MAX} keys")]
    TooMany,
    /// Two keys of one name: which of them counts would be chance.
    #[error("two keys have the same kid")]
    SameName,
    /// A private key, which somebody has published.
    #[error("there is a private key among the keys")]
    Private,
    /// Nothing that tokens could be checked with.
    #[error("there is no key for EdDSA or RS256")]
    Empty,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Entry>,
}

/// One key (RFC 7517, RFC 7518, RFC 8037). Members that are not here do not matter.
#[derive(Deserialize)]
struct Entry {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    n: Option<String>,
    e: Option<String>,
    d: Option<serde::de::IgnoredAny>,
}

/// One key, and the only algorithm that it counts for.
pub struct PublicKey {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// The key.
    pub key: DecodingKey,
}

/// The keys of a provider by name.
pub struct KeySet(HashMap<String, PublicKey>);

impl KeySet {
    /// From a document. Keys for other purposes or algorithms are passed over.
    ///
    /// # Errors
    /// See [`BadKeys`]; the keys before stay in use then.
    pub fn parse(document: &[u8]) -> Result<Self, BadKeys> {
        if document.len() > DOCUMENT_MAX_BYTES {
            return Err(BadKeys::TooLong);
        }
        let document: Document = serde_json::from_slice(document).map_err(BadKeys::NotAKeySet)?;
        if document.keys.len() > KEYS_MAX {
            return Err(BadKeys::TooMany);
        }
        let mut keys = HashMap::new();
        for entry in document.keys {
            if entry.d.is_some() {
                return Err(BadKeys::Private);
            }
            let Some((kid, key)) = entry.usable() else { continue };
            if keys.insert(kid, key).is_some() {
                return Err(BadKeys::SameName);
            }
        }
        if keys.is_empty() { Err(BadKeys::Empty) } else { Ok(Self(keys)) }
    }

    /// The key of this name.
    pub fn get(&self, kid: &str) -> Option<&PublicKey> {
        self.0.get(kid)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl Entry {
    /// The key with its name, if tokens can be checked with it.
    fn usable(self) -> Option<(String, PublicKey)> {
        let kid = self.kid.filter(|kid| (1..=KID_LENGTH_MAX).contains(&kid.len()))?;
        if self.purpose.is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let (algorithm, name, key) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("OKP", Some("Ed25519")) => {
                let key = DecodingKey::from_ed_components(&self.x?).ok()?;
                (Algorithm::EdDSA, "EdDSA", key)
            }
            ("RSA", None) => {
                let modulus = self.n.filter(|n| MODULUS_DIGITS.contains(&n.len()))?;
                let key = DecodingKey::from_rsa_components(&modulus, &self.e?).ok()?;
                (Algorithm::RS256, "RS256", key)
            }
            _ => return None,
        };
        if self.alg.is_some_and(|alg| alg != name) {
            return None;
        }
        Some((kid, PublicKey { algorithm, key }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The key of RFC 8037, appendix A.
    fn ed(kid: &str) -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" })
    }

    fn with(kid: &str, name: &str, value: Value) -> Value {
        let mut key = ed(kid);
        key[name] = value;
        key
    }

    fn parse(keys: Value) -> Result<KeySet, BadKeys> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes())
    }

    #[test]
    fn keys_that_do_not_fit_are_passed_over() {
        let rsa =
            |bits: usize| json!({ "kty": "RSA", "kid": "r", "e": "AQAB", "n": "A".repeat(bits.div_ceil(6)) });
        for other in [
            with("b", "use", json!("enc")),
            with("b", "alg", json!("RS256")),
            with("b", "alg", json!("HS256")),
            with("b", "crv", json!("Ed448")),
            with("b", "x", json!("***")),
            with("b", "kty", json!("EC")),
            with("", "x", json!("AA")),
            json!({ "kty": "oct", "kid": "b", "k": "c2VjcmV0" }),
            json!({ "kty": "EC", "crv": "P-256", "kid": "b", "x": "AA", "y": "AA" }),
            rsa(1024),
            rsa(16384),
        ] {
            let keys = parse(json!([ed("a"), other])).expect("a key set");
            assert_eq!(keys.count(), 1, "{other}");
            assert_eq!(keys.get("a").expect("the good one").algorithm, Algorithm::EdDSA);
        }
        assert_eq!(parse(json!([rsa(2048)])).expect("a key set").count(), 1);
    }

    #[test]
    fn a_document_that_cannot_be_trusted_is_refused_whole() {
        assert!(matches!(parse(json!([])), Err(BadKeys::Empty)));
        assert!(matches!(parse(json!([ed("a"), ed("a")])), Err(BadKeys::SameName)));
        assert!(matches!(parse(json!([ed("a"), with("b", "d", json!("AA"))])), Err(BadKeys::Private)));
        let many: Vec<_> = (0..33).map(|number| ed(&number.to_string())).collect();
        assert!(matches!(parse(json!(many)), Err(BadKeys::TooMany)));
        assert!(matches!(parse(json!([{ "kid": 1 }])), Err(BadKeys::NotAKeySet(_))));
        assert!(matches!(KeySet::parse(b"<html>"), Err(BadKeys::NotAKeySet(_))));
        assert!(matches!(KeySet::parse(&[b' '; 70_000]), Err(BadKeys::TooLong)));
    }
}
