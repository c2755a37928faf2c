//! Where the next page of a listing begins: after an entry, named by its time and id.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::ApiError;

/// Entries of a page when the caller does not say.
const LIMIT_DEFAULT: i64 = 20;
/// Most entries of a page.
const LIMIT_MAX: i64 = 100;

/// The last entry of the page before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Its time; as exact as the database's, in microseconds.
    pub at: DateTime<Utc>,
    /// Its id.
    pub id: Uuid,
}

impl Cursor {
    /// As text that means nothing to a client.
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}.{}", self.at.timestamp_micros(), self.id.simple()))
    }

    /// From such a text.
    ///
    /// # Errors
    /// 400: it is not one of ours.
    pub fn decode(text: &str) -> Result<Self, ApiError> {
        Self::parse(text).ok_or_else(|| ApiError::invalid("cursor", "must be a next_cursor of this listing"))
    }

    fn parse(text: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (micros, id) = text.split_once('.')?;
        Some(Self { at: DateTime::from_timestamp_micros(micros.parse().ok()?)?, id: id.parse().ok()? })
    }
}

/// How many entries a page has.
///
/// # Errors
/// 400: not 1 to 100.
pub fn limit(asked: Option<i64>) -> Result<i64, ApiError> {
    match asked.unwrap_or(LIMIT_DEFAULT) {
        limit if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        _ => Err(ApiError::invalid("limit", format!("must be between 1 and {LIMIT_MAX}"))),
    }
}

/// Cuts `entries`, of which one more than `limit` was asked for, to a page, and says where the next one begins.
pub fn page<T>(mut entries: Vec<T>, limit: i64, cursor: impl Fn(&T) -> Cursor) -> (Vec<T>, Option<String>) {
    let limit = usize::try_from(limit).unwrap_or_default();
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next = if more { entries.last().map(|last| cursor(last).encode()) } else { None };
    (entries, next)
}
