//! The door of `/internal/v1`: only our own services come in, on somebody's behalf, with a deadline.

use std::future::{Ready, ready};
use std::rc::Rc;
use std::time::Duration;

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Payload, Service, ServiceRequest, ServiceResponse, Transform};
use actix_web::error::InternalError;
use actix_web::middleware::{Next, from_fn};
use actix_web::{Error, FromRequest, HttpRequest};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::ids::UserId;
use crate::problem::{Code, Problem};
use crate::settings::InternalSettings;

/// Proves that the caller is one of our services.
pub const TOKEN_HEADER: &str = "x-internal-token";
/// The user that the call is made for.
pub const USER_HEADER: &str = "x-user-id";
/// The role of that user, `customer` or `admin`.
pub const ROLE_HEADER: &str = "x-user-role";
/// How long the caller still waits, in milliseconds.
pub const DEADLINE_HEADER: &str = "x-deadline-ms";

/// How long a caller is taken to wait that does not say it, and the most that is believed.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(5);
const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// Wraps the scope `/internal/v1`: whoever brings neither of the tokens gets 401.
pub fn guard<S, B>(
    settings: &InternalSettings,
) -> impl Transform<S, ServiceRequest, Response = ServiceResponse<EitherBody<B>>, Error = Error, InitError = ()>
+ use<S, B>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    let tokens = [&settings.token, &settings.token_also].map(|token| token.expose_secret().as_bytes());
    let tokens: Rc<[Vec<u8>]> =
        tokens.iter().filter(|token| !token.is_empty()).map(|token| token.to_vec()).collect();
    from_fn(move |request: ServiceRequest, next: Next<B>| {
        let tokens = tokens.clone();
        async move {
            let given = request.headers().get(TOKEN_HEADER).map_or(&[][..], |value| value.as_bytes());
            if tokens.iter().any(|token| bool::from(given.ct_eq(token))) {
                return next.call(request).await.map(ServiceResponse::map_into_left_body);
            }
            let refusal = Problem::new(Code::Unauthenticated).response();
            Ok(request.into_response(refusal).map_into_right_body())
        }
    })
}

/// When the caller stops waiting, as an extractor.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(pub Instant);

impl FromRequest for Deadline {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let remaining_ms =
            request.headers().get(DEADLINE_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
        let remaining = remaining_ms.map_or(DEADLINE_DEFAULT, Duration::from_millis).min(DEADLINE_MAX);
        ready(Ok(Self(Instant::now() + remaining)))
    }
}

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
    /// The value of [`ROLE_HEADER`], and of the claim `role`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Admin => "admin",
        }
    }
}

/// Whom the call is made for, as an extractor; without it the answer is 401. The gateway has checked the role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnBehalfOf {
    /// The user.
    pub user_id: UserId,
    /// What the user may do.
    pub role: Role,
}

impl FromRequest for OnBehalfOf {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        let user_id = text(USER_HEADER).and_then(|user| user.parse().ok());
        let role = match text(ROLE_HEADER) {
            Some("admin") => Role::Admin,
            Some(_) | None => Role::Customer,
        };
        ready(user_id.map(|user_id| Self { user_id, role }).ok_or_else(|| {
            let refusal = Problem::new(Code::Unauthenticated).response();
            InternalError::from_response("no user", refusal).into()
        }))
    }
}
