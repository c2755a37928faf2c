//! Access tokens: JWT, HS256 and nothing else.

mod hs256;

use common::ids::UserId;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::settings::AuthSettings;

/// Longest token that is looked at, in bytes.
const TOKEN_LENGTH_MAX_BYTES: usize = 2048;
/// How far clocks may be apart, in seconds.
const LEEWAY_S: u64 = 60;

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Buys.
    Customer,
    /// Runs sales.
    Admin,
}

impl Role {
    /// The role as services know it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Admin => "admin",
        }
    }
}

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

/// Issues tokens and checks them.
pub struct Tokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    settings: AuthSettings,
    admin_ttl_max_s: u64,
}

impl Tokens {
    /// With the key of the settings; `dev` lifts the limit on the lifetime of admins' tokens.
    pub fn new(settings: &AuthSettings, dev: bool) -> Self {
        hs256::install();
        let secret = settings.jwt_secret.expose_secret().as_bytes();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_S;
        validation.validate_nbf = true;
        validation.set_issuer(&[&settings.issuer]);
        validation.set_audience(&[&settings.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        Self {
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
            validation,
            settings: settings.clone(),
            admin_ttl_max_s: if dev { u64::MAX } else { settings.admin_token_ttl_max_s },
        }
    }

    /// A token for `user`, valid from now on.
    ///
    /// # Errors
    /// The claims cannot be written, which would be a defect.
    pub fn issue(&self, user: &UserId, role: Role) -> Result<String, jsonwebtoken::errors::Error> {
        let iat = jsonwebtoken::get_current_timestamp();
        let claims = Claims {
            sub: user.clone(),
            role,
            exp: iat + self.settings.token_ttl_s,
            iat,
            iss: self.settings.issuer.clone(),
            aud: self.settings.audience.clone(),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)
    }

    /// Who the token speaks for.
    ///
    /// # Errors
    /// It does not count: not ours, not valid now, or not whole.
    pub fn check(&self, token: &str) -> Result<Caller, Rejected> {
        if token.len() > TOKEN_LENGTH_MAX_BYTES {
            return Err(Rejected);
        }
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation)
            .map_err(|_| Rejected)?
            .claims;
        let from_the_future = claims.iat > jsonwebtoken::get_current_timestamp() + LEEWAY_S;
        let too_long =
            claims.role == Role::Admin && claims.exp.saturating_sub(claims.iat) > self.admin_ttl_max_s;
        if from_the_future || too_long {
            return Err(Rejected);
        }
        Ok(Caller { user: claims.sub, role: claims.role, expires_at_s: claims.exp })
    }
}
