//! Pages of listings. A cursor is the id of the last entry of the page before, as text.

use std::str::FromStr;

use common::api::Page;

use crate::error::ApiError;

/// Entries of a page when the caller does not say.
const LIMIT_DEFAULT: i64 = 20;
/// Most entries of a page.
const LIMIT_MAX: i64 = 100;

/// The id after which the page begins; `None`: it is the first page.
///
/// # Errors
/// 400: not a cursor of such a listing.
pub fn cursor<T: FromStr>(asked: Option<&str>) -> Result<Option<T>, ApiError> {
    let Some(text) = asked.filter(|text| !text.is_empty()) else { return Ok(None) };
    let id =
        text.parse().map_err(|_| ApiError::invalid("cursor", "must be a next_cursor of this listing"))?;
    Ok(Some(id))
}

/// How many entries a page has.
///
/// # Errors
/// 400: not 1 to 100.
pub fn limit(asked: Option<&str>) -> Result<i64, ApiError> {
    let Some(text) = asked.filter(|text| !text.is_empty()) else { return Ok(LIMIT_DEFAULT) };
    let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| ApiError::invalid("limit", format!("must be 1 to {LIMIT_MAX}")))
}

/// Cuts `items`, of which one more than `limit` was asked for, to a page, and says where the next one begins.
pub fn page<T>(mut items: Vec<T>, limit: i64, id: impl Fn(&T) -> String) -> Page<T> {
    let limit = usize::try_from(limit).unwrap_or_default();
    let more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = if more { items.last().map(id) } else { None };
    Page { items, next_cursor }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_too_many_only_tells_that_there_is_more() {
        let whole = page(vec![9, 8], 2, i32::to_string);
        assert_eq!((whole.items, whole.next_cursor), (vec![9, 8], None));
        let cut = page(vec![9, 8, 7], 2, i32::to_string);
        assert_eq!((cut.items, cut.next_cursor.as_deref()), (vec![9, 8], Some("8")));
    }

    #[test]
    fn limits_are_bounded() {
        assert_eq!(limit(None).ok(), Some(LIMIT_DEFAULT));
        assert_eq!(limit(Some("100")).ok(), Some(LIMIT_MAX));
        for text in ["0", "-1", "101", "1.5", "x", "99999999999999999999"] {
            assert!(limit(Some(text)).is_err(), "{text}");
        }
    }
}
