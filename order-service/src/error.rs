//! What the HTTP handlers answer besides success.
//!
//! Handlers return [`ApiError`]; everything below them returns [`DbError`] or values. The client reads the problem
//! document of a stable code; the cause is logged here, once, and never leaves the process.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};
use common::failpoint;
use common::problem::{Code, Problem};

use crate::db::DbError;
use crate::planted::WRITE_SAID_NONE;
use crate::sales::validate::InvalidField;

/// Everything but success of a request.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// An expected answer.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// The database failed, with nothing done.
    #[error("the database failed")]
    Db(#[from] DbError),
    /// The database failed in a transaction that writes, and perhaps after its commit.
    #[error("the database failed in a write")]
    Write(#[source] DbError),
    /// Something else that is needed cannot be reached.
    #[error("{what}")]
    Unavailable {
        /// What cannot be reached.
        what: &'static str,
        /// Why.
        #[source]
        cause: anyhow::Error,
    },
}

impl ApiError {
    /// `not_found`.
    pub fn not_found() -> Self {
        Problem::new(Code::NotFound).into()
    }

    /// `invalid_transition`.
    pub fn invalid_transition() -> Self {
        Problem::new(Code::InvalidTransition).into()
    }

    /// `unavailable`, where that is an expected answer.
    pub fn unavailable() -> Self {
        Problem::new(Code::Unavailable).into()
    }

    /// `outcome_unknown`.
    pub fn outcome_unknown() -> Self {
        Problem::new(Code::OutcomeUnknown).into()
    }

    /// `invalid_request` about one field.
    pub fn invalid(field: impl Into<String>, message: impl std::fmt::Display) -> Self {
        Problem::invalid(field, message).into()
    }

    fn problem(&self) -> Problem {
        match self {
            Self::Problem(problem) => (**problem).clone(),
            Self::Db(error) if error.is_permanent() => Problem::new(Code::Internal),
            Self::Write(error) if error.is_permanent() => Problem::new(Code::Internal),
            Self::Write(error) if error.may_have_had_effect() && !failpoint::planted(WRITE_SAID_NONE) => {
                Problem::new(Code::OutcomeUnknown)
            }
            Self::Db(_) | Self::Write(_) | Self::Unavailable { .. } => Problem::new(Code::Unavailable),
        }
    }
}

impl From<InvalidField> for ApiError {
    fn from(invalid: InvalidField) -> Self {
        Self::invalid(invalid.field, invalid.message)
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.problem().code.status()
    }

    fn error_response(&self) -> HttpResponse {
        match self {
            Self::Problem(_) => {}
            Self::Db(_) | Self::Write(_) | Self::Unavailable { .. } => {
                tracing::error!(error = self as &dyn std::error::Error, "request failed");
            }
        }
        self.problem().response()
    }
}
