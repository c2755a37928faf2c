//! The stream of a user's events.

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::{HttpRequest, HttpResponse, web};
use common::failpoint;
use common::internal::{Deadline, OnBehalfOf};
use serde::Deserialize;

use super::Api;
use crate::error::ApiError;
use crate::planted::GAP_AT_RESUME;
use crate::sse::stream;

/// What a browser sends when it comes back.
const LAST_EVENT_ID: &str = "Last-Event-ID";
/// The same for the first connection, where a browser cannot set headers.
const LAST_EVENT_ID_QUERY: &str = "last_event_id";

/// Where a client wants to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resume {
    /// With what comes from now on.
    Now,
    /// After this number; whether it was ever given out is seen in the database.
    After(i64),
}

#[derive(Debug, Deserialize)]
pub struct Query {
    last_event_id: Option<String>,
}

/// `GET /internal/v1/events`: server-sent events of the caller's orders.
///
/// With `Last-Event-ID` (or `?last_event_id=`, which counts only without the header: a browser that reconnects sends
/// both, and the header is the newer one) everything after that number that is still kept; without it the stream
/// begins at the present. A number that was never given out to this user means that one of us has forgotten
/// something: everything that is kept is told, and versions of orders tell what is new.
pub async fn stream(
    api: web::Data<Api>,
    caller: OnBehalfOf,
    deadline: Deadline,
    request: HttpRequest,
    query: web::Query<Query>,
) -> Result<HttpResponse, ApiError> {
    let resume = resume(&request, query.last_event_id.as_deref())?;
    let place = api.hub.admit(caller.user_id).ok_or(ApiError::TooManyStreams)?;
    let head = api.heads.of(place.user().clone(), deadline.0).await?;
    let position = match resume {
        Resume::Now => head,
        Resume::After(seq) if seq < head && failpoint::planted(GAP_AT_RESUME) => seq + 1,
        Resume::After(seq) if seq <= head => seq,
        Resume::After(_) => 0,
    };
    let body = stream::body(place, position, &api.sse, api.end_of_streams.clone());
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((CACHE_CONTROL, "no-cache, no-transform"))
        // Proxies of the nginx family hold back what they buffer.
        .insert_header(("x-accel-buffering", "no"))
        .streaming(body))
}

fn resume(request: &HttpRequest, query: Option<&str>) -> Result<Resume, ApiError> {
    let (name, text) = match (request.headers().get(LAST_EVENT_ID), query) {
        (Some(value), _) => (LAST_EVENT_ID, value.to_str().map_err(|_| not_a_number(LAST_EVENT_ID))?),
        (None, Some(text)) => (LAST_EVENT_ID_QUERY, text),
        (None, None) => return Ok(Resume::Now),
    };
    match parse(text.trim()) {
        Some(resume) => Ok(resume),
        None => Err(not_a_number(name)),
    }
}

fn parse(text: &str) -> Option<Resume> {
    if text.is_empty() {
        return Some(Resume::Now);
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // More digits than a number of ours can have: never given out.
    Some(Resume::After(text.parse().unwrap_or(i64::MAX)))
}

fn not_a_number(name: &str) -> ApiError {
    ApiError::invalid(name, "must be the id of an event: a whole number, 0 or more")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_whole_numbers() {
        assert_eq!(parse(""), Some(Resume::Now));
        assert_eq!(parse("0"), Some(Resume::After(0)));
        assert_eq!(parse("17"), Some(Resume::After(17)));
        assert_eq!(parse("99999999999999999999999"), Some(Resume::After(i64::MAX)));
        for text in ["-1", "+1", "1.5", "abc", "0x10", "1 2", "١"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
