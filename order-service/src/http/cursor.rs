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
        let at = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
        // Nothing is older than this service, and Postgres refuses some times that fit into the text.
        (at >= DateTime::UNIX_EPOCH).then_some(Self { at, id: id.parse().ok()? })
    }
}

/// How many entries a page has.
///
/// # Errors
/// 400: not 1 to 100.
pub fn limit(asked: Option<&str>) -> Result<i64, ApiError> {
    let Some(text) = asked else { return Ok(LIMIT_DEFAULT) };
    let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| ApiError::invalid("limit", format!("must be between 1 and {LIMIT_MAX}")))
}

/// Cuts `entries`, of which one more than `limit` was asked for, to a page, and says where the next one begins.
pub fn page<T>(mut entries: Vec<T>, limit: i64, cursor: impl Fn(&T) -> Cursor) -> (Vec<T>, Option<String>) {
    let limit = usize::try_from(limit).unwrap_or_default();
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next = if more { entries.last().map(|last| cursor(last).encode()) } else { None };
    (entries, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_its_place() {
        let at = DateTime::from_timestamp_micros(1_900_000_000_123_456).expect("a moment");
        let place = Cursor { at, id: Uuid::max() };
        assert_eq!(Cursor::parse(&place.encode()), Some(place));
        let ancient = Cursor { at: DateTime::<Utc>::MIN_UTC, ..place }.encode();
        for text in ["", "x", "../", "MQ", "\u{0}", "LjE", &ancient] {
            assert_eq!(Cursor::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_entry_too_many_only_tells_that_there_is_more() {
        let cursor = |_: &i32| Cursor { at: DateTime::UNIX_EPOCH, id: Uuid::nil() };
        assert_eq!(page(vec![1, 2], 2, cursor), (vec![1, 2], None));
        let (entries, next) = page(vec![1, 2, 3], 2, cursor);
        assert_eq!((entries, next.is_some()), (vec![1, 2], true));
    }

    #[test]
    fn limits_are_bounded() {
        assert_eq!(limit(None).ok(), Some(LIMIT_DEFAULT));
        assert_eq!(limit(Some("100")).ok(), Some(100));
        for text in ["0", "-1", "101", "1.5", "x", ""] {
            assert!(limit(Some(text)).is_err(), "{text}");
        }
    }
}
