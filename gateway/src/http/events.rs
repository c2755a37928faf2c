//! The stream of a user's own order events, passed on from notify-service as it comes.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::web::Bytes;
use common::internal::{ROLE_HEADER, USER_HEADER};
use common::problem::{Code, Problem};
use futures_util::Stream;
use futures_util::stream::unfold;
use rand::Rng as _;
use reqwest::{Method, Response};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::endpoint::{Answer, Call};
use crate::error::ApiError;
use crate::forward::Service;
use crate::places::StreamPlace;

/// notify-service sends a comment every 15 seconds: after so long without a byte the stream is dead.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How often a comment is sent between events: a client that has gone is only noticed by writing to it.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Longest life of a stream; the client resumes it.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long clients are told to wait before they come back after a stop, in milliseconds: not all at once.
const RECONNECT_MS: std::ops::RangeInclusive<u64> = 1000..=5000;
/// Longest Last-Event-ID, in bytes; they are numbers.
const EVENT_ID_LENGTH_MAX: usize = 20;

/// Changes of one's own orders as they happen, as server-sent events.
///
/// `event: order`, `data:` the order, `id:` the user's own sequence number. After a break, Last-Event-ID resumes
/// without a gap. The stream ends with the token, or after a day.
#[utoipa::path(get, path = "/api/v1/events", tag = "orders",
    params(("Last-Event-ID" = Option<String>, Header, description = "Resume after this event."),
        ("last_event_id" = Option<String>, Query, description = "The same, for clients that cannot set headers."),
        ("access_token" = Option<String>, Query, description = "The token, for browsers' EventSource.")),
    responses((status = 200, description = "A stream without an end.", body = String,
        content_type = "text/event-stream")))]
pub async fn stream(call: Call) -> Answer {
    let caller = call.caller()?;
    let last_event_id = last_event_id(&call)?;
    // To be answered with 429: an EventSource does not come back by itself after a refusal, people do.
    let place = call.state.places.stream().ok_or_else(|| Problem::new(Code::TooBusy))?;

    let ends_at = Instant::now() + lifetime(caller.expires_at_s);
    let mut upstream = call
        .state
        .notify
        .request(Method::GET, "/internal/v1/events", ends_at)
        .waiting()
        .header(USER_HEADER, caller.user.as_str())
        .header(ROLE_HEADER, caller.role.as_str())
        .header("accept", "text/event-stream");
    if let Some(id) = last_event_id {
        upstream = upstream.header("last-event-id", id);
    }
    let response = match timeout_at(call.deadline, upstream.send()).await {
        Ok(sent) => sent.map_err(ApiError::Question)?,
        Err(_) => return Err(Code::Unavailable.into()),
    };
    if response.status() != reqwest::StatusCode::OK {
        return call.pass_back(Service::Notify, response).await;
    }
    let closing = call.state.closing.clone();
    let silent_at = Instant::now() + SILENCE_MAX;
    let relay = Relay { response, place, closing, ends_at, silent_at, between_events: true };
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream; charset=utf-8"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(relay.bytes()))
}

/// The header, or the parameter for those who cannot send it.
fn last_event_id(call: &Call) -> Result<Option<String>, ApiError> {
    let header = call.header("last-event-id")?.map(str::to_owned);
    let id = match header {
        Some(id) => Some(id),
        None => call.parameter("last_event_id")?,
    };
    let number =
        |id: &String| id.len() <= EVENT_ID_LENGTH_MAX && id.bytes().all(|byte| byte.is_ascii_digit());
    match id {
        Some(id) if !id.is_empty() && !number(&id) => {
            Err(Problem::invalid("Last-Event-ID", "must be a number that an event had").into())
        }
        id => Ok(id.filter(|id| !id.is_empty())),
    }
}

/// How long a token still counts, a day at most: it may end anywhere in time.
fn lifetime(expires_at_s: u64) -> Duration {
    Duration::from_secs(expires_at_s.saturating_sub(jsonwebtoken::get_current_timestamp())).min(LIFETIME_MAX)
}

/// One open stream.
struct Relay {
    response: Response,
    place: StreamPlace,
    closing: CancellationToken,
    ends_at: Instant,
    silent_at: Instant,
    /// Whether what was sent so far ends with a whole event.
    between_events: bool,
}

impl Relay {
    /// Until the service ends it or falls silent, the token ends, the process stops, or the client goes.
    fn bytes(self) -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
        unfold(Some(self), |relay| async { relay?.next().await })
    }

    async fn next(mut self) -> Option<(Result<Bytes, actix_web::Error>, Option<Self>)> {
        loop {
            let beat_at = Instant::now() + HEARTBEAT;
            let until = beat_at.min(self.ends_at).min(self.silent_at);
            let next = timeout_at(until, self.response.chunk());
            match self.closing.run_until_cancelled(next).await {
                Some(Ok(Ok(Some(bytes)))) => {
                    self.between_events = bytes.ends_with(b"\n\n");
                    self.silent_at = Instant::now() + SILENCE_MAX;
                    return Some((Ok(bytes), Some(self)));
                }
                // The service ended it, or broke off: the client comes back and resumes.
                Some(Ok(Ok(None) | Err(_))) => return None,
                Some(Err(_)) if until < beat_at => return None,
                Some(Err(_)) if self.between_events => {
                    return Some((Ok(Bytes::from_static(b":\n\n")), Some(self)));
                }
                Some(Err(_)) => {}
                None if self.between_events => {
                    let wait_ms = rand::rng().random_range(RECONNECT_MS);
                    drop(self.place);
                    return Some((Ok(Bytes::from(format!("retry: {wait_ms}\n\n"))), None));
                }
                None => return None,
            }
        }
    }
}
