//! What the API answers besides success. The cause is logged here, once, and never sent.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};
use common::batcher::BatchError;
use common::problem::{Code, Problem};

use crate::db::DbError;

/// Everything that a handler can fail with.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The request is not what it should be.
    #[error("{field} {reason}")]
    Invalid {
        /// The field or header to change.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The body is longer than it may be.
    #[error("the body is too long")]
    TooLarge,
    /// The user is no admin.
    #[error("not an admin")]
    Forbidden,
    /// There is no such thing.
    #[error("not found")]
    NotFound,
    /// As many webhooks as there may be.
    #[error("there are {most} webhooks already")]
    TooManyWebhooks {
        /// How many there may be.
        most: u32,
    },
    /// As many streams as there may be.
    #[error("too many streams")]
    TooManyStreams,
    /// The database did not say in time where a stream begins.
    #[error("no answer in time")]
    Unanswered(#[from] BatchError),
    /// The database does not do what it should.
    #[error("the database is not available")]
    Database(#[from] DbError),
}

impl ApiError {
    /// A field and what is wrong with it: "must be …".
    pub fn invalid(field: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Invalid { field: field.into(), reason: reason.to_string() }
    }

    fn problem(&self) -> Problem {
        match self {
            Self::Invalid { field, reason } => Problem::invalid(field.clone(), reason),
            Self::TooLarge => Problem::new(Code::TooLarge),
            Self::Forbidden => Problem::new(Code::Forbidden),
            Self::NotFound => Problem::new(Code::NotFound),
            Self::TooManyWebhooks { most } => {
                let detail = format!("There are {most} webhooks already; delete one first.").into();
                Problem { detail, ..Problem::new(Code::LimitExceeded) }
            }
            Self::TooManyStreams => Problem::new(Code::TooBusy),
            Self::Unanswered(_) | Self::Database(_) => Problem::new(Code::Unavailable),
        }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.problem().code.status()
    }

    fn error_response(&self) -> HttpResponse {
        if let Self::Database(error) = self {
            tracing::error!(error = error as &dyn std::error::Error, "request failed");
        }
        self.problem().response()
    }
}
