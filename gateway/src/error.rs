//! Why a request is not answered with what it asked for.
//!
//! Inner modules return what happened; [`ApiError::code`] and [`ApiError::problem`] decide what a client is told. The cause is logged
//! once, in [`crate::answer`], and never sent.

use common::http_client::CallError;
use common::problem::{Code, Problem};

use crate::downstream::Failed;
use crate::limits::Quota;

/// What a handler can end with besides an answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// An expected refusal, nothing to log.
    #[error("refused: {:?}", .0.code)]
    Refused(Box<Problem>),
    /// A limit is used up, nothing to log.
    #[error("a limit is used up")]
    Limited(Box<Quota>),
    /// A service was asked to do something, and it did not answer. It is known whether it was reached.
    #[error("a command was not answered")]
    Command(#[source] Failed),
    /// A service was asked for something, and it did not answer. Nothing was changed.
    #[error("a question was not answered")]
    Question(#[source] Failed),
    /// A service was asked to do something and answered what it must not, or stopped in the middle of its answer.
    #[error("{service} gave a bad answer to a command: {reason}")]
    BadCommandAnswer {
        /// The service.
        service: &'static str,
        /// What is wrong with the answer.
        reason: String,
    },
    /// A service was asked for something and answered what it must not.
    #[error("{service} gave a bad answer to a question: {reason}")]
    BadAnswer {
        /// The service.
        service: &'static str,
        /// What is wrong with the answer.
        reason: String,
    },
    /// A defect of this service.
    #[error("defect: {0}")]
    Defect(&'static str),
}

impl ApiError {
    /// What the client is told, for programs.
    pub fn code(&self) -> Code {
        match self {
            Self::Refused(problem) => problem.code,
            Self::Limited(_) => Code::RateLimited,
            Self::Command(Failed::Busy(_)) | Self::Question(Failed::Busy(_)) => Code::TooBusy,
            Self::Command(Failed::Open(_) | Failed::Call(CallError::NotSent { .. }))
            | Self::Question(_)
            | Self::BadAnswer { .. } => Code::Unavailable,
            Self::Command(Failed::Call(CallError::Unknown { .. })) | Self::BadCommandAnswer { .. } => {
                Code::OutcomeUnknown
            }
            Self::Defect(_) => Code::Internal,
        }
    }

    /// What the client is told.
    pub fn problem(&self) -> Problem {
        match self {
            Self::Refused(problem) => Problem::clone(problem),
            Self::Limited(quota) => quota.problem(),
            Self::Command(_)
            | Self::Question(_)
            | Self::BadCommandAnswer { .. }
            | Self::BadAnswer { .. }
            | Self::Defect(_) => Problem::new(self.code()),
        }
    }

    /// Whether somebody who runs the system should know the cause.
    pub fn is_fault(&self) -> bool {
        match self {
            // That a service is overloaded or left alone is shown by metrics, not by a line for each call.
            Self::Refused(_)
            | Self::Limited(_)
            | Self::Command(Failed::Open(_) | Failed::Busy(_))
            | Self::Question(Failed::Open(_) | Failed::Busy(_)) => false,
            Self::Command(_)
            | Self::Question(_)
            | Self::BadCommandAnswer { .. }
            | Self::BadAnswer { .. }
            | Self::Defect(_) => true,
        }
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self::Refused(Box::new(problem))
    }
}

impl From<Code> for ApiError {
    fn from(code: Code) -> Self {
        Problem::new(code).into()
    }
}
