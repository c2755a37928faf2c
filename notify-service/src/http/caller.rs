//! Admins, as the gateway names them.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{Error, FromRequest, HttpRequest};
use common::ids::UserId;
use common::internal::{OnBehalfOf, Role};

use crate::error::ApiError;

/// The admin that the call is made for. The gateway has checked the role; it is checked again.
#[derive(Debug, Clone)]
pub struct Admin(pub UserId);

impl FromRequest for Admin {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let caller = OnBehalfOf::from_request(request, payload).into_inner();
        ready(caller.and_then(|caller| match caller.role {
            Role::Admin => Ok(Self(caller.user_id)),
            Role::Customer => Err(ApiError::Forbidden.into()),
        }))
    }
}
