//! Signatures of Standard Webhooks (version 1: HMAC-SHA256).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// What a secret begins with.
const PREFIX: &str = "whsec_";
/// Bytes of a secret, as Standard Webhooks bounds them.
const SECRET_BYTES_MIN: usize = 24;
const SECRET_BYTES_MAX: usize = 64;
/// Bytes of a secret that is made here.
const SECRET_BYTES: usize = 32;

/// Why a text is not a secret. `Display` continues the field's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be whsec_ followed by base64 of {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes")]
pub struct NotASecret;

/// The key of one webhook.
pub struct Key(Vec<u8>);

impl Key {
    /// The key that `secret` (`whsec_…`) stands for.
    ///
    /// # Errors
    /// The text is not such a secret.
    pub fn parse(secret: &str) -> Result<Self, NotASecret> {
        let bytes =
            STANDARD.decode(secret.strip_prefix(PREFIX).ok_or(NotASecret)?).map_err(|_| NotASecret)?;
        if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len()) {
            return Err(NotASecret);
        }
        Ok(Self(bytes))
    }

    /// The `webhook-signature` of one attempt: of `id.timestamp.body`.
    pub fn sign(&self, id: &str, timestamp_s: i64, body: &str) -> String {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            unreachable!("HMAC takes keys of any length");
        };
        mac.update(format!("{id}.{timestamp_s}.").as_bytes());
        mac.update(body.as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// A new secret.
pub fn new_secret() -> String {
    let bytes: [u8; SECRET_BYTES] = rand::random();
    format!("{PREFIX}{}", STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example that the Standard Webhooks libraries test themselves with.
    #[test]
    fn signs_as_the_published_example() {
        let key = Key::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_new_secret_is_a_secret() {
        assert!(Key::parse(&new_secret()).is_ok());
    }

    #[test]
    fn what_is_not_a_secret_is_refused() {
        let short = format!("whsec_{}", STANDARD.encode([7; 23]));
        let long = format!("whsec_{}", STANDARD.encode([7; 65]));
        for text in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!!!!", &short, &long] {
            assert!(Key::parse(text).is_err(), "{text}");
        }
    }
}
