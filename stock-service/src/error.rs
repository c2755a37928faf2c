//! Errors of the HTTP API. A cause is logged here, once, and never sent.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, ResponseError};
use common::problem::{Code, Problem};

use crate::inventory::StoreError;

/// Everything that this API answers besides success.
#[derive(Debug)]
pub enum ApiError {
    /// A path or a body is not what it should be.
    Invalid {
        /// The part to change.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Too many requests in one batch, or too long a body.
    TooLarge,
    /// No such item or order.
    NotFound,
    /// The item's gate is closed.
    Closed,
    /// Redis did not answer a question; nothing was changed by asking.
    Store(StoreError),
}

impl ApiError {
    fn problem(&self) -> Problem {
        match self {
            Self::Invalid { field, reason } => Problem::invalid(field, reason),
            Self::TooLarge => Problem::new(Code::TooLarge),
            Self::NotFound => Problem::new(Code::NotFound),
            Self::Closed | Self::Store(_) => Problem::new(Code::Unavailable),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem().detail)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.problem().code.status()
    }

    fn error_response(&self) -> HttpResponse {
        if let Self::Store(cause) = self {
            tracing::warn!(error = cause as &dyn std::error::Error, "a question to Redis failed");
        }
        self.problem().response()
    }
}
