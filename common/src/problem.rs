//! Errors as RFC 9457 problem documents, with the stable codes of the public API.

use std::borrow::Cow;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The header that says whether the attempt had an effect; see [`Outcome`].
pub const OUTCOME_HEADER: &str = "x-outcome";
/// The same, made once.
const OUTCOME: HeaderName = HeaderName::from_static(OUTCOME_HEADER);
/// The media type of a problem document.
pub const CONTENT_TYPE_PROBLEM: &str = "application/problem+json";

/// What went wrong, for programs. Part of the public API: codes are added, never changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request is not what it should be; `field` names what to change.
    InvalidRequest,
    /// No token, or none that counts.
    Unauthenticated,
    /// The token's role does not allow it.
    Forbidden,
    /// The item has a waiting room, and this order brings no purchase token that counts.
    PlaceRequired,
    /// Solve the challenge in `challenge` and send the answer along.
    ChallengeRequired,
    /// The account, the device or the network is on the block list.
    Blocked,
    /// There is no such thing for this user.
    NotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// The body is too long.
    TooLarge,
    /// The body is not JSON.
    UnsupportedMediaType,
    /// The sale is not open yet.
    NotStarted,
    /// The sale is over.
    Ended,
    /// The sale is held.
    Paused,
    /// Not enough units left.
    SoldOut,
    /// There would be more than the limit: units, attempts of one item, or webhooks.
    LimitExceeded,
    /// The thing is not in a state that allows this.
    InvalidTransition,
    /// The same key with another body.
    IdempotencyMismatch,
    /// Too many requests by this user or address.
    RateLimited,
    /// Too many requests by everybody.
    TooBusy,
    /// Something needed cannot be reached, or is not ready.
    Unavailable,
    /// The request may have had an effect: ask again with the same key.
    OutcomeUnknown,
    /// A defect of the server.
    // The last one: see `COUNT`.
    Internal,
}

impl Code {
    /// How many there are.
    pub const COUNT: usize = Self::Internal as usize + 1;

    /// The HTTP status that goes with the code.
    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Forbidden | Self::PlaceRequired | Self::ChallengeRequired | Self::Blocked => {
                StatusCode::FORBIDDEN
            }
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotStarted
            | Self::Ended
            | Self::Paused
            | Self::SoldOut
            | Self::LimitExceeded
            | Self::InvalidTransition => StatusCode::CONFLICT,
            Self::IdempotencyMismatch => StatusCode::UNPROCESSABLE_ENTITY,
            Self::RateLimited | Self::TooBusy => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable | Self::OutcomeUnknown => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// One English sentence for people; the gateway has the other languages.
    pub fn detail(self) -> &'static str {
        match self {
            Self::InvalidRequest => "The request is not valid.",
            Self::Unauthenticated => "A valid access token is required.",
            Self::Forbidden => "This is not allowed for your role.",
            Self::PlaceRequired => {
                "Take a place in line first, and order with the purchase token it gives you."
            }
            Self::ChallengeRequired => "Solve the challenge and send the answer along.",
            Self::Blocked => "This account, device or network is blocked; ask support.",
            Self::NotFound => "There is no such resource.",
            Self::MethodNotAllowed => "This method is not supported here.",
            Self::TooLarge => "The request body is too large.",
            Self::UnsupportedMediaType => "The request body must be application/json.",
            Self::NotStarted => "The sale has not started yet.",
            Self::Ended => "The sale is over.",
            Self::Paused => "The sale is paused.",
            Self::SoldOut => "Sold out.",
            Self::LimitExceeded => "You already have, or have tried, as many as allowed.",
            Self::InvalidTransition => "Its present state does not allow this.",
            Self::IdempotencyMismatch => "This Idempotency-Key was used with another request.",
            Self::RateLimited => "Too many requests; slow down.",
            Self::TooBusy => "Too many people at once; try again in a moment.",
            Self::Unavailable => "Temporarily unavailable; try again in a moment.",
            Self::OutcomeUnknown => {
                "The outcome is not known yet; repeat the request with the same Idempotency-Key."
            }
            Self::Internal => "An internal error occurred.",
        }
    }

    fn retry_after_s_default(self) -> Option<u64> {
        matches!(self, Self::RateLimited | Self::TooBusy | Self::Unavailable | Self::OutcomeUnknown)
            .then_some(1)
    }

    fn outcome(self) -> Outcome {
        match self {
            Self::OutcomeUnknown | Self::Internal => Outcome::Unknown,
            Self::InvalidRequest
            | Self::Unauthenticated
            | Self::Forbidden
            | Self::PlaceRequired
            | Self::ChallengeRequired
            | Self::Blocked
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::TooLarge
            | Self::UnsupportedMediaType
            | Self::NotStarted
            | Self::Ended
            | Self::Paused
            | Self::SoldOut
            | Self::LimitExceeded
            | Self::InvalidTransition
            | Self::IdempotencyMismatch
            | Self::RateLimited
            | Self::TooBusy
            | Self::Unavailable => Outcome::None,
        }
    }
}

/// Whether the attempt that this answers had an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It had none, for sure.
    None,
    /// It may have had one.
    Unknown,
}

impl Outcome {
    /// The value of [`OUTCOME_HEADER`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Unknown => "unknown",
        }
    }
}

/// Something that costs a machine work: find a `counter`, as decimal text, such that SHA-256 of
/// `<puzzle>.<counter>` begins with `difficulty_bits` zero bits, and send `Challenge-Answer: <puzzle>.<counter>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Challenge {
    /// Always `proof_of_work`; more kinds may be added.
    pub kind: String,
    /// Good for this user and this item, once, until it expires.
    pub puzzle: String,
    /// How many zero bits; each doubles the work.
    pub difficulty_bits: u32,
    /// Until when the answer counts.
    pub expires_at: DateTime<Utc>,
}

/// A problem document, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: the code says it all.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// The status in words.
    pub title: Cow<'static, str>,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong, for programs.
    pub code: Code,
    /// What went wrong, for people.
    pub detail: Cow<'static, str>,
    /// The field or header to change, such as `items[0].stock`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// With `not_started`: when the sale opens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<DateTime<Utc>>,
    /// With `challenge_required`: what to solve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge: Option<Box<Challenge>>,
    /// Seconds to wait before asking again; sent as the Retry-After header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
}

impl Problem {
    /// The plain problem of a code.
    pub fn new(code: Code) -> Self {
        let status = code.status();
        Self {
            kind: Cow::Borrowed("about:blank"),
            title: Cow::Borrowed(status.canonical_reason().unwrap_or_default()),
            status: status.as_u16(),
            code,
            detail: Cow::Borrowed(code.detail()),
            field: None,
            starts_at: None,
            challenge: None,
            retry_after_s: code.retry_after_s_default(),
        }
    }

    /// `invalid_request` about one field; `message` continues the field's name: "must be …".
    pub fn invalid(field: impl Into<String>, message: impl std::fmt::Display) -> Self {
        let field = field.into();
        let detail = format!("{field}: {message}").into();
        Self { detail, field: Some(field), ..Self::new(Code::InvalidRequest) }
    }

    /// `not_started`, with the moment of the opening.
    pub fn not_started(starts_at: DateTime<Utc>) -> Self {
        Self { starts_at: Some(starts_at), ..Self::new(Code::NotStarted) }
    }

    /// The same with another time to wait, in seconds.
    #[must_use]
    pub fn retry_after_s(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// Whether the attempt had an effect.
    pub fn outcome(&self) -> Outcome {
        self.code.outcome()
    }

    /// The response: status, headers, body.
    pub fn response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.code.status());
        response.insert_header((CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE_PROBLEM)));
        response.insert_header((OUTCOME, HeaderValue::from_static(self.outcome().as_str())));
        if let Some(seconds) = self.retry_after_s {
            response.insert_header((RETRY_AFTER, seconds));
        }
        response.json(self)
    }
}
