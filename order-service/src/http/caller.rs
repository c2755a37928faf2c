//! Whom a request is made for: headers that only the gateway sets, behind the internal token.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};
use common::ids::UserId;
use common::internal::USER_HEADER;
use common::problem::{Code, Problem};

use crate::error::ApiError;

/// The user that the gateway has identified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller(pub UserId);

impl FromRequest for Caller {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let user = request.headers().get(USER_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
        ready(user.map(Self).ok_or_else(|| Problem::new(Code::Unauthenticated).into()))
    }
}
