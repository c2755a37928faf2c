//! `Sandbox-Signature: t=<unix seconds>,v1=<hex HMAC-SHA256 of "t.body">`: how the sandbox provider signs its notices.
//!
//! Whether the moment is recent is for the caller to say, by Postgres' clock, which all replicas share; so a forged
//! notice costs no query.

use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

/// The header that carries the signature.
pub const SIGNATURE_HEADER: &str = "Sandbox-Signature";
/// Furthest that the signed moment may lie from now, in seconds, either way.
pub const SIGNATURE_AGE_S_MAX: i64 = 300;
/// Most bytes of the header: room for two signatures while a secret is being changed.
const HEADER_BYTES_MAX: usize = 256;
/// Most digits of the moment.
const DIGITS_MAX: usize = 12;

/// The header's value for a body that is sent at `unix_s`.
pub fn sign(secret: &SecretString, unix_s: i64, body: &[u8]) -> Option<String> {
    let code = mac(secret, unix_s.to_string().as_bytes(), body)?.finalize().into_bytes();
    Some(format!("t={unix_s},v1={}", hex::encode(code)))
}

/// The moment that was signed together with `body`, in unix seconds; `None` when the header was not made with
/// `secret` for exactly these bytes. The comparison takes the same time wherever the first wrong byte is.
pub fn verify(secret: &SecretString, header: &str, body: &[u8]) -> Option<i64> {
    if header.len() > HEADER_BYTES_MAX {
        return None;
    }
    let parts = || header.split(',').filter_map(|part| part.trim().split_once('='));
    let moment = parts().find(|(name, _)| *name == "t").map(|(_, value)| value)?;
    if moment.is_empty() || moment.len() > DIGITS_MAX || !moment.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let expected = mac(secret, moment.as_bytes(), body)?;
    let genuine = parts()
        .filter(|(name, _)| *name == "v1")
        .filter_map(|(_, value)| hex::decode(value).ok())
        .any(|code| expected.clone().verify_slice(&code).is_ok());
    if genuine { moment.parse().ok() } else { None }
}

/// The code over `moment.body`; `None` never happens, since HMAC takes keys of any length.
fn mac(secret: &SecretString, moment: &[u8], body: &[u8]) -> Option<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()).ok()?;
    mac.update(moment);
    mac.update(b".");
    mac.update(body);
    Some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> SecretString {
        SecretString::from("0123456789abcdef0123456789abcdef")
    }

    #[test]
    fn what_was_signed_is_genuine_and_nothing_else() {
        let body = br#"{"amount_cents":990}"#;
        let header = sign(&secret(), 1_900_000_000, body).expect("signed");
        assert_eq!(verify(&secret(), &header, body), Some(1_900_000_000));

        assert_eq!(verify(&SecretString::from("another secret of thirty-two byte"), &header, body), None);
        for index in 0..body.len() {
            let mut mutated = body.to_vec();
            mutated[index] ^= 1;
            assert_eq!(verify(&secret(), &header, &mutated), None, "byte {index} of the body");
        }
        for index in 0..header.len() {
            let mut mutated = header.clone().into_bytes();
            mutated[index] ^= 1;
            let mutated = String::from_utf8_lossy(&mutated).into_owned();
            assert_eq!(verify(&secret(), &mutated, body), None, "byte {index} of the header");
        }
    }

    #[test]
    fn headers_of_another_shape_are_not_genuine() {
        let body = b"{}";
        let code = hex::encode(mac(&secret(), b"+5", body).expect("mac").finalize().into_bytes());
        let long = format!("t=5,v1={}", "0".repeat(HEADER_BYTES_MAX));
        let signed_plus = format!("t=+5,v1={code}");
        for header in ["", "t=5", "v1=00", "t=,v1=00", "t=5,v1=", "t=5,v1=zz", &long, &signed_plus] {
            assert_eq!(verify(&secret(), header, body), None, "{header}");
        }
    }

    /// Pinned, so that other implementations can check themselves against it.
    #[test]
    fn the_code_is_hmac_sha256_over_moment_dot_body() {
        let header = sign(&secret(), 1, b"{}").expect("signed");
        let code = mac(&secret(), b"1", b"{}").expect("mac").finalize().into_bytes();
        assert_eq!(header, format!("t=1,v1={}", hex::encode(code)));
        assert_eq!(header.len(), "t=1,v1=".len() + 64);
    }
}
