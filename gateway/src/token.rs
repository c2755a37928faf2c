//! Access tokens: JWT. Ours are HS256; those of an identity provider are EdDSA or RS256, by the keys that it publishes.
//!
//! Which algorithm counts is said by the key, never by the token: ours for HS256, and each of the provider's for the
//! one of its type.

pub mod jwks;
pub mod keys;
mod provider;
mod verified;

use std::sync::Arc;

use common::ids::UserId;
pub use common::internal::Role;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};

use crate::settings::AuthSettings;
use jwks::Jwks;
use keys::KeySet;
use verified::Verified;

/// Longest token that is looked at, in bytes.
const TOKEN_LENGTH_MAX_BYTES: usize = 2048;
/// How far clocks may be apart, in seconds.
const LEEWAY_S: u64 = 60;

/// Who a token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user.
    pub user: UserId,
    /// What it may do.
    pub role: Role,
    /// When the token ends, as Unix time in seconds.
    pub expires_at_s: u64,
}

/// All of these are required, and typed: a number is not a text, and an audience is not a list.
#[derive(Serialize, Deserialize)]
struct Claims {
    sub: UserId,
    role: Role,
    exp: u64,
    iat: u64,
    iss: String,
    aud: String,
}

/// A token that does not count. Why is nobody's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejected;

/// What became of a token.
enum Checked {
    Counts(Caller),
    Rejected,
    /// It names a key that is not among these: the provider may have changed its keys.
    UnknownKey(Option<Arc<KeySet>>),
}

/// Issues tokens and checks them.
pub struct Tokens {
    /// Our own key; `None` where only the provider's count.
    own: Option<EncodingKey>,
    /// Whose HS256 tokens count: ours, and the one before or after it.
    own_checks: Vec<DecodingKey>,
    own_validation: Validation,
    /// Those of `own` that were seen lately.
    verified: Verified,
    jwks: Option<Arc<Jwks>>,
    jwks_issuer: String,
    settings: AuthSettings,
    admin_ttl_max_s: u64,
}

impl Tokens {
    /// With the key of the settings and the keys of the provider; `dev` lifts the limit on the lifetime of admins'
    /// tokens.
    pub fn new(settings: &AuthSettings, jwks: Option<Arc<Jwks>>, dev: bool) -> Self {
        provider::install();
        let secret = settings.jwt_secret.expose_secret().as_bytes();
        let own = (!secret.is_empty()).then(|| EncodingKey::from_secret(secret));
        let also = settings.jwt_secret_also.expose_secret().as_bytes();
        let counts = [secret, also].into_iter().filter(|secret| !secret.is_empty());
        let own_checks = counts.map(DecodingKey::from_secret).collect();
        let jwks_issuer =
            if settings.jwks_issuer.is_empty() { &settings.issuer } else { &settings.jwks_issuer };
        Self {
            own,
            own_checks,
            own_validation: validation(Algorithm::HS256, &settings.issuer, &settings.audience),
            verified: Verified::default(),
            jwks,
            jwks_issuer: jwks_issuer.clone(),
            settings: settings.clone(),
            admin_ttl_max_s: if dev { u64::MAX } else { settings.admin_token_ttl_max_s },
        }
    }

    /// A token for `user`, valid from now on.
    ///
    /// # Errors
    /// There is no key of ours, or the claims cannot be written, which would be a defect.
    pub fn issue(&self, user: &UserId, role: Role) -> Result<String, jsonwebtoken::errors::Error> {
        let Some(key) = &self.own else {
            return Err(jsonwebtoken::errors::ErrorKind::InvalidKeyFormat.into());
        };
        let iat = jsonwebtoken::get_current_timestamp();
        let claims = Claims {
            sub: user.clone(),
            role,
            exp: iat + self.settings.token_ttl_s,
            iat,
            iss: self.settings.issuer.clone(),
            aud: self.settings.audience.clone(),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, key)
    }

    /// Who the token speaks for. Waits only when it names a key that has not been seen yet.
    ///
    /// # Errors
    /// It does not count: not ours, not valid now, or not whole.
    pub async fn check(&self, token: &str) -> Result<Caller, Rejected> {
        match self.check_once(token) {
            Checked::Counts(caller) => return Ok(caller),
            Checked::Rejected => return Err(Rejected),
            Checked::UnknownKey(known) => {
                let Some(jwks) = &self.jwks else { return Err(Rejected) };
                if !jwks.look_again(known.as_ref()).await {
                    return Err(Rejected);
                }
            }
        }
        match self.check_once(token) {
            Checked::Counts(caller) => Ok(caller),
            Checked::Rejected | Checked::UnknownKey(_) => Err(Rejected),
        }
    }

    fn check_once(&self, token: &str) -> Checked {
        if token.len() > TOKEN_LENGTH_MAX_BYTES {
            return Checked::Rejected;
        }
        if let Some(caller) = self.verified.get(token) {
            let ended = jsonwebtoken::get_current_timestamp() > caller.expires_at_s.saturating_add(LEEWAY_S);
            return if ended { Checked::Rejected } else { Checked::Counts(caller) };
        }
        let Some(jwks) = &self.jwks else { return self.check_own(token) };
        let Ok(header) = jsonwebtoken::decode_header(token) else { return Checked::Rejected };
        if header.alg == Algorithm::HS256 {
            return self.check_own(token);
        }
        let known = header.alg == Algorithm::EdDSA || header.alg == Algorithm::RS256;
        // `crit` asks not to be passed over (RFC 7515), and nothing that it can name is known here.
        if !known || header.crit.is_some() {
            return Checked::Rejected;
        }
        let Some(kid) = header.kid else { return Checked::Rejected };
        let keys = jwks.keys();
        let Some(key) = keys.as_ref().and_then(|keys| keys.get(&kid)) else {
            return Checked::UnknownKey(keys);
        };
        let validation = validation(key.algorithm, &self.jwks_issuer, &self.settings.audience);
        self.judge(token, &key.key, &validation)
    }

    fn check_own(&self, token: &str) -> Checked {
        let checked = self.own_checks.iter().map(|key| self.judge(token, key, &self.own_validation));
        let counts = checked.into_iter().find(|checked| matches!(checked, Checked::Counts(_)));
        let checked = counts.unwrap_or(Checked::Rejected);
        if let Checked::Counts(caller) = &checked {
            self.verified.insert(token, caller);
        }
        checked
    }

    fn judge(&self, token: &str, key: &DecodingKey, validation: &Validation) -> Checked {
        let Ok(decoded) = jsonwebtoken::decode::<Claims>(token, key, validation) else {
            return Checked::Rejected;
        };
        let claims = decoded.claims;
        let from_the_future = claims.iat > jsonwebtoken::get_current_timestamp() + LEEWAY_S;
        let too_long =
            claims.role == Role::Admin && claims.exp.saturating_sub(claims.iat) > self.admin_ttl_max_s;
        if from_the_future || too_long {
            return Checked::Rejected;
        }
        Checked::Counts(Caller { user: claims.sub, role: claims.role, expires_at_s: claims.exp })
    }
}

fn validation(algorithm: Algorithm, issuer: &str, audience: &str) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.leeway = LEEWAY_S;
    validation.validate_nbf = true;
    validation.set_issuer(&[issuer]);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation
}
