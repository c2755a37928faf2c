//! Who may administer, and what an admin's wish came to.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{Error, FromRequest, HttpRequest};
use common::ids::UserId;
use common::internal::{OnBehalfOf, Role};
use common::problem::{Code, Problem};

use crate::error::ApiError;
use crate::sales::admin::Change;

/// The admin that the call is made for; others get 403. The gateway has checked the role before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin(pub UserId);

impl FromRequest for Admin {
    type Error = Error;
    type Future = Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let admin =
            OnBehalfOf::from_request(request, payload).into_inner().and_then(|user| match user.role {
                Role::Admin => Ok(Self(user.user_id)),
                Role::Customer => Err(ApiError::from(Problem::new(Code::Forbidden)).into()),
            });
        ready(admin)
    }
}

/// The result of a change, or why there is none.
///
/// # Errors
/// What did not become of it.
pub fn done<T>(change: Change<T>) -> Result<T, ApiError> {
    match change {
        Change::Done(result) => Ok(result),
        Change::NotFound => Err(ApiError::not_found()),
        Change::NotAllowed(refusal) => {
            let field = refusal.field.map(str::to_owned);
            let detail = refusal.detail.into();
            let problem = Problem { detail, field, ..Problem::new(Code::InvalidTransition) };
            Err(problem.into())
        }
        Change::Invalid(invalid) => Err(invalid.into()),
        Change::Overtaken => Err(ApiError::unavailable()),
    }
}
