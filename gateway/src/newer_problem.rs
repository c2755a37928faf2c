//! A problem of a service that is newer than this gateway: its code is not known here, and passed on as it is.
//!
//! Services are deployed in any order. What a client may rely on, the status and whether the attempt had an effect, is
//! said beside the code.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, RETRY_AFTER};
use common::problem::{CONTENT_TYPE_PROBLEM, OUTCOME_HEADER, Outcome};
use serde::{Deserialize, Serialize};

/// Longest code that is passed on, in bytes.
const CODE_LENGTH_MAX: usize = 64;
/// Longest text that is passed on, in bytes.
const TEXT_LENGTH_MAX: usize = 1024;
/// Longest wait that is passed on, in seconds.
const WAIT_MAX_S: u64 = 3600;

/// The members of a problem that mean something whatever its code is.
#[derive(Serialize, Deserialize)]
pub struct NewerProblem {
    #[serde(rename = "type", default = "blank")]
    kind: String,
    title: String,
    status: u16,
    code: String,
    detail: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after_s: Option<u64>,
}

fn blank() -> String {
    "about:blank".to_owned()
}

impl NewerProblem {
    /// From the body of an answer with this status; `None` when it is no problem of that status.
    pub fn parse(body: &[u8], status: StatusCode) -> Option<Self> {
        let problem: Self = serde_json::from_slice(body).ok()?;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let code = &problem.code;
        let named = !code.is_empty() && code.len() <= CODE_LENGTH_MAX && code.bytes().all(plain);
        let field = problem.field.as_deref().unwrap_or_default();
        let texts = [&problem.kind, &problem.title, &problem.detail, field];
        let short = texts.iter().all(|text| text.len() <= TEXT_LENGTH_MAX);
        (named && short && problem.status == status.as_u16()).then_some(problem)
    }

    /// The answer, with what the service said of the attempt's effect.
    pub fn response(&self, outcome: Outcome) -> HttpResponse {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let mut response = HttpResponse::build(status);
        response.insert_header((CONTENT_TYPE, CONTENT_TYPE_PROBLEM));
        response.insert_header((OUTCOME_HEADER, outcome.as_str()));
        // 429 and 503 always say when to come back.
        let retry = status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE;
        if let Some(seconds) = self.retry_after_s.or(retry.then_some(1)) {
            response.insert_header((RETRY_AFTER, seconds.min(WAIT_MAX_S)));
        }
        response.json(self)
    }
}
