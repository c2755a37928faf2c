//! Who a call is made for, as the gateway says it.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};
use common::ids::UserId;
use common::internal::{ROLE_HEADER, USER_HEADER};

use crate::error::ApiError;

/// The user that the call is made for.
#[derive(Debug, Clone)]
pub struct Caller(pub UserId);

/// The admin that the call is made for. The gateway has checked the role; it is checked again.
#[derive(Debug, Clone)]
pub struct Admin(pub UserId);

impl FromRequest for Caller {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(user(request).map(Self))
    }
}

impl FromRequest for Admin {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let is_admin = header(request, ROLE_HEADER) == Some("admin");
        ready(user(request).and_then(|user| if is_admin { Ok(Self(user)) } else { Err(ApiError::Forbidden) }))
    }
}

fn user(request: &HttpRequest) -> Result<UserId, ApiError> {
    let text = header(request, USER_HEADER).ok_or(ApiError::Unauthenticated)?;
    UserId::try_from(text.to_owned()).map_err(|invalid| ApiError::invalid(USER_HEADER, invalid))
}

/// A header's text; `None` when it is missing or not ASCII.
pub fn header<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}
