//! One route of the public API: who may call it, what it expects, how it is limited, what answers it.
//!
//! [`crate::http::ENDPOINTS`] is the only list of routes, so nothing is served that does not say who may call it.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use actix_web::http::Method;
use actix_web::http::header::{HeaderMap, HeaderName};
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use common::problem::{Code, Problem};
use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use uuid::Uuid;

use crate::body::{self, Expect};
use crate::error::ApiError;
use crate::limits::Class;
use crate::routes;
use crate::state::State;
use crate::token::{Caller, Role};

/// Length of a UUID as text; other spellings of the same id are not ids here.
const UUID_LENGTH: usize = 36;
/// Longest query that is passed on, in bytes.
const QUERY_LENGTH_MAX_BYTES: usize = 2048;
/// Most parameters in a query.
const PARAMETERS_MAX: usize = 20;

/// The header by which an app names the device that it runs on, and how long the name is, in bytes.
const DEVICE_HEADER: &str = "device-id";
const DEVICE_LENGTH: std::ops::RangeInclusive<usize> = 8..=128;

/// Below this nothing is for anybody but admins.
const ADMIN: &str = "/api/v1/admin";

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody; a token is not looked at.
    Anyone,
    /// Everybody with a token.
    User,
    /// As `User`; the token may also be in the query, because a browser's EventSource sends no headers.
    Stream,
    /// Admins.
    Admin,
}

/// When a route is served at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// In the dev profile.
    Dev,
    /// With the settings of a WeChat mini-program.
    Wechat,
}

/// What answers a call.
pub type Answer = Result<HttpResponse, ApiError>;
/// A handler, as the table of routes has it.
pub type Handle = fn(Call) -> LocalBoxFuture<'static, Answer>;

/// One route.
pub struct Endpoint {
    /// Its method.
    pub method: Method,
    /// Its path, with parameters in braces.
    pub path: &'static str,
    /// Who may call it.
    pub access: Access,
    /// What it is counted as.
    pub class: Class,
    /// What its body is.
    pub expect: Expect,
    /// When it is served.
    pub when: When,
    /// What answers it.
    pub handle: Handle,
}

impl Endpoint {
    /// Whether only admins may call it: what says so, and everything below `/api/v1/admin` whatever it says.
    pub fn needs_admin(&self) -> bool {
        self.access == Access::Admin || self.path.starts_with(ADMIN)
    }

    /// Whether a token is needed at all.
    pub fn needs_token(&self) -> bool {
        self.needs_admin() || self.access != Access::Anyone
    }

    /// Whether clients of a blocked network are refused. Not admins, who lift blocks; nor payment providers, whose word
    /// on money must get through.
    pub fn can_be_blocked(&self) -> bool {
        !self.needs_admin() && self.class != Class::Callback
    }

    /// Whether HEAD is answered as GET is, without the body. A stream of events has nothing to tell but its body.
    pub fn answers_head(&self) -> bool {
        self.method == Method::GET && self.access != Access::Stream
    }
}

/// One call that has passed the gate: the caller is known, the body is read.
pub struct Call {
    /// The route.
    pub endpoint: &'static Endpoint,
    /// The head of the request.
    pub request: HttpRequest,
    /// The body.
    pub body: Bytes,
    /// Whose token it brought; `None` only where [`Access::Anyone`] may call.
    pub caller: Option<Caller>,
    /// When nobody waits for the answer any more.
    pub deadline: Instant,
    /// The parts of the process.
    pub state: Data<State>,
}

impl Call {
    /// Who calls.
    ///
    /// # Errors
    /// `unauthenticated`, on a route that anyone may call.
    pub fn caller(&self) -> Result<&Caller, ApiError> {
        self.caller.as_ref().ok_or_else(|| Code::Unauthenticated.into())
    }

    /// What the path has for a parameter of the route; empty if there is no such parameter.
    pub fn path_parameter(&self, parameter: &str) -> &str {
        routes::parameter(self.endpoint.path, self.request.uri().path(), parameter)
    }

    /// An id in the path.
    ///
    /// # Errors
    /// `not_found`: what is no id names nothing.
    pub fn id(&self, parameter: &str) -> Result<Uuid, ApiError> {
        let text = self.path_parameter(parameter);
        if text.len() != UUID_LENGTH {
            return Err(Code::NotFound.into());
        }
        text.parse().map_err(|_| Code::NotFound.into())
    }

    /// The body as a `T`.
    ///
    /// # Errors
    /// `invalid_request` with the field.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        body::json(&self.body)
    }

    /// The query, decoded, in its order.
    ///
    /// # Errors
    /// `invalid_request` when there is too much of it.
    pub fn query(&self) -> Result<Vec<(String, String)>, ApiError> {
        let text = self.request.query_string();
        if text.len() > QUERY_LENGTH_MAX_BYTES {
            return Err(
                Problem::invalid("query", format!("must be at most {QUERY_LENGTH_MAX_BYTES} bytes")).into()
            );
        }
        let pairs: Vec<_> = url::form_urlencoded::parse(text.as_bytes()).into_owned().collect();
        if pairs.len() > PARAMETERS_MAX {
            return Err(
                Problem::invalid("query", format!("must have at most {PARAMETERS_MAX} parameters")).into()
            );
        }
        Ok(pairs)
    }

    /// One parameter of the query; `None` without it.
    ///
    /// # Errors
    /// `invalid_request` when it is not a `T`, or there twice.
    pub fn parameter<T: FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let pairs = self.query()?;
        let mut values = pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| value);
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => match value.parse() {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(Problem::invalid(name, "is not a valid value").into()),
            },
            (Some(_), Some(_)) => Err(Problem::invalid(name, "must be given once").into()),
        }
    }

    /// The device that the client says it is; `None` where it says nothing. It proves nothing: see SECURITY.md.
    ///
    /// # Errors
    /// `invalid_request` when it is not 8 to 128 visible ASCII characters.
    pub fn device(&self) -> Result<Option<&str>, ApiError> {
        let Some(device) = self.header(DEVICE_HEADER)? else { return Ok(None) };
        let fits =
            DEVICE_LENGTH.contains(&device.len()) && device.bytes().all(|byte| byte.is_ascii_graphic());
        if !fits {
            return Err(Problem::invalid("Device-Id", "must be 8 to 128 visible ASCII characters").into());
        }
        Ok(Some(device))
    }

    /// Whether the account or the device is blocked: it takes no place and places no order.
    ///
    /// # Errors
    /// `blocked`; `invalid_request` when the device is not one.
    pub fn check_blocks(&self) -> Result<(), ApiError> {
        let blocks = &self.state.blocks;
        let device = self.device()?;
        if blocks.has_user(&self.caller()?.user) || device.is_some_and(|device| blocks.has_device(device)) {
            return Err(Code::Blocked.into());
        }
        Ok(())
    }

    /// The only value of a header, whose name is in lower case; `None` without it.
    ///
    /// # Errors
    /// `invalid_request` when it is there twice or is not text.
    pub fn header(&self, name: &'static str) -> Result<Option<&str>, ApiError> {
        let mut lines = self.request.headers().get_all(HeaderName::from_static(name));
        match (lines.next(), lines.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => match value.to_str() {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(Problem::invalid(name, "must be visible ASCII").into()),
            },
            (Some(_), Some(_)) => Err(Problem::invalid(name, "must be sent once").into()),
        }
    }
}

/// Lets a request in, or not: cheapest check first, nothing read but the head, and no network but for a token whose
/// key is new.
///
/// # Errors
/// What the client is told.
pub async fn admit(
    state: &State,
    endpoint: &Endpoint,
    request: &HttpRequest,
) -> Result<Option<Caller>, ApiError> {
    let headers = request.headers();
    let address = address(state, request);
    if endpoint.can_be_blocked() && state.blocks.has_address(address) {
        return Err(Code::Blocked.into());
    }
    body::check_head(headers, endpoint.expect)?;
    state.limits.check_ip(endpoint.class, address)?;
    // Who cannot be served is told so before a new token costs a signature, which is half of what such an answer costs.
    if endpoint.class == Class::Order && state.attempts.is_full() {
        return Err(Code::TooBusy.into());
    }
    if !endpoint.needs_token() {
        return Ok(None);
    }

    let token =
        bearer(headers).or_else(|| (endpoint.access == Access::Stream).then(|| in_query(request)).flatten());
    let token = token.ok_or(Code::Unauthenticated)?;
    let caller = state.tokens.check(&token).await.map_err(|_| Code::Unauthenticated)?;
    if endpoint.needs_admin() && caller.role != Role::Admin {
        return Err(Code::Forbidden.into());
    }
    state.limits.check_user(endpoint.class, &caller.user)?;
    Ok(Some(caller))
}

/// The client's address.
pub fn address(state: &State, request: &HttpRequest) -> IpAddr {
    let peer = request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
    state.client_ip(peer, request.headers())
}

/// The token of the only Authorization header.
fn bearer(headers: &HeaderMap) -> Option<std::borrow::Cow<'_, str>> {
    let mut lines = headers.get_all(actix_web::http::header::AUTHORIZATION);
    let (Some(line), None) = (lines.next(), lines.next()) else { return None };
    // Other than `to_str`, this does not look at each byte by itself: a token has hundreds.
    let (scheme, token) = str::from_utf8(line.as_bytes()).ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.into())
}

fn in_query(request: &HttpRequest) -> Option<std::borrow::Cow<'_, str>> {
    let mut tokens = url::form_urlencoded::parse(request.query_string().as_bytes())
        .filter(|(name, _)| name == "access_token")
        .map(|(_, token)| token);
    let (Some(token), None) = (tokens.next(), tokens.next()) else { return None };
    Some(token)
}
