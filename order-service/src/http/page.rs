//! Pages of listings: `limit`, and cursors that clients pass back as they got them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use common::api::Page;
use uuid::Uuid;

use crate::error::ApiError;

/// Most entries of a page.
pub const LIMIT_MAX: i64 = 100;
/// Entries of a page when the client does not say.
const LIMIT_DEFAULT: i64 = 20;

/// The place after one entry of a listing that runs from the newest to the oldest.
pub type Place = (DateTime<Utc>, Uuid);

/// The page's size that was asked for, `1..=LIMIT_MAX`.
///
/// # Errors
/// It is something else; names `limit`.
pub fn limit(text: Option<&str>) -> Result<i64, ApiError> {
    let Some(text) = text else { return Ok(LIMIT_DEFAULT) };
    let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| ApiError::invalid("limit", format!("must be between 1 and {LIMIT_MAX}")))
}

/// The place that a cursor stands for.
///
/// # Errors
/// It is none of ours; names `cursor`.
pub fn place(cursor: Option<&str>) -> Result<Option<Place>, ApiError> {
    let decode = |cursor: &str| -> Option<Place> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let (micros, id) = text.split_once('.')?;
        Some((DateTime::from_timestamp_micros(micros.parse().ok()?)?, id.parse().ok()?))
    };
    cursor.map(|cursor| decode(cursor).ok_or_else(bad_cursor)).transpose()
}

/// The number that a cursor stands for, of a listing by number.
///
/// # Errors
/// It is none of ours; names `cursor`.
pub fn number(cursor: Option<&str>) -> Result<Option<i64>, ApiError> {
    cursor.map(|cursor| cursor.parse().map_err(|_| bad_cursor())).transpose()
}

/// The cursor for a place.
pub fn cursor(place: Place) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}.{}", place.0.timestamp_micros(), place.1))
}

/// The page made of one entry more than asked for, if there are as many: the last one tells that there is more.
pub fn page<T>(mut entries: Vec<T>, limit: i64, cursor_after: impl Fn(&T) -> String) -> Page<T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next_cursor = if more { entries.last().map(cursor_after) } else { None };
    Page { items: entries, next_cursor }
}

fn bad_cursor() -> ApiError {
    ApiError::invalid("cursor", "must be a next_cursor of this listing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_its_place() {
        let place = (DateTime::from_timestamp_micros(1_900_000_000_123_456).expect("a moment"), Uuid::max());
        assert_eq!(super::place(Some(&cursor(place))).ok().flatten(), Some(place));
        for text in ["", "x", "../", "MQ", "\u{0}", "LjE"] {
            assert!(super::place(Some(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn the_entry_too_many_only_tells_that_there_is_more() {
        let page_of = |count: i32| page((0..count).collect(), 2, ToString::to_string);
        assert_eq!((page_of(2).items.len(), page_of(2).next_cursor), (2, None));
        assert_eq!((page_of(3).items.len(), page_of(3).next_cursor), (2, Some("1".to_owned())));
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
