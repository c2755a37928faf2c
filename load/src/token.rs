//! Access tokens of buyers, signed here with the gateway's key: asking it for fifty thousand would be a load of its own.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::json;
use sha2::Sha256;

/// How long a token is valid.
const LIFETIME: Duration = Duration::from_secs(86_400);
/// As in the gateway's default settings.
const ISSUER: &str = "stampede";
/// As in the gateway's default settings.
const AUDIENCE: &str = "stampede-api";

/// Tokens of the customers `<prefix>-0`, `<prefix>-1` and so on.
///
/// # Errors
/// The clock is before 1970.
pub fn sign_all(secret: &str, prefix: &str, count: usize) -> anyhow::Result<Vec<String>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("this machine's clock is wrong")?;
    let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"HS256"}"#);
    let key = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).context("the gateway's key")?;
    let token = |n: usize| {
        let claims = json!({
            "sub": format!("{prefix}-{n}"), "role": "customer", "iat": now.as_secs(),
            "exp": (now + LIFETIME).as_secs(), "iss": ISSUER, "aud": AUDIENCE,
        });
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = key.clone().chain_update(&signed).finalize().into_bytes();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    Ok((0..count).map(token).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_three_parts_and_its_own_subject() {
        let tokens = sign_all("secret-secret-secret-secret-secret", "buyer", 2).unwrap();
        let claims = tokens[1].split('.').nth(1).unwrap();
        let claims: serde_json::Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        assert_eq!(claims["sub"], "buyer-1");
        assert_eq!(tokens[0].split('.').count(), 3);
        assert_ne!(tokens[0], tokens[1]);
    }
}
