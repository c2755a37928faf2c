//! What somebody in line is told: honest figures, and when to ask again.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use common::api::ItemState;
use common::api::inventory::CatalogueItem;
use rand::Rng as _;
use serde::Serialize;
use utoipa::ToSchema;

/// Shortest and longest pause between two questions of one who waits, in milliseconds. The longest is well below
/// `line.presence_ms`.
const POLL_MIN_MS: u64 = 500;
const POLL_MAX_MS: u64 = 10_000;
/// Pause for those who need not hurry: nothing is left, or it is their turn.
const POLL_AT_REST_MS: u64 = 1_000;
/// Over so long are the first questions after the opening spread, in milliseconds.
const OPENING_SPREAD_MS: u64 = 1_500;

/// Whether you may buy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlaceState {
    /// Not yet.
    Waiting,
    /// Now.
    Admitted,
    /// Not any more, or not for now: see `reason`.
    Closed,
}

/// Why you wait, or why it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlaceReason {
    /// Waiting: places are drawn at the opening.
    Gathering,
    /// Waiting: others are before you.
    InLine,
    /// Waiting: the sale is held.
    Paused,
    /// Closed: nothing is left. Places are kept; the line goes on when units come back.
    SoldOut,
    /// Closed: the sale is over.
    Ended,
    /// Closed: you did not order in time. Take a new place.
    Expired,
}

/// A place in line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Place {
    /// Whether you may buy.
    pub state: PlaceState,
    /// Why you wait, or why it is closed; `null` when you may buy.
    pub reason: Option<PlaceReason>,
    /// 1: next. `null` before the draw, and when you do not wait.
    pub position: Option<u64>,
    /// Seconds until it is your turn, at the pace of the last seconds; `null` when nobody can know: before the draw, or
    /// when fewer units are left than people are before you.
    pub estimate_s: Option<u64>,
    /// How many have gathered for the draw; `null` after it.
    pub gathered: Option<u64>,
    /// When places are drawn and the sale opens; `null` after it.
    pub draws_at: Option<DateTime<Utc>>,
    /// Your name in the draw.
    pub ticket: String,
    /// What to send with the order as header `Purchase-Token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purchase_token: Option<String>,
    /// Until when the token is good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// When to ask again, in milliseconds.
    pub poll_after_ms: u64,
}

impl Place {
    fn plain(state: PlaceState, reason: Option<PlaceReason>, ticket: String) -> Self {
        Self {
            state,
            reason,
            position: None,
            estimate_s: None,
            gathered: None,
            draws_at: None,
            ticket,
            purchase_token: None,
            expires_at: None,
            poll_after_ms: POLL_AT_REST_MS,
        }
    }

    /// There is no waiting room.
    pub(super) fn open(ticket: String) -> Self {
        Self::plain(PlaceState::Admitted, None, ticket)
    }

    /// Nothing is left, as the snapshot says; `None`: there may be.
    pub(super) fn closed(item: &CatalogueItem, ticket: &str) -> Option<Self> {
        let reason = match item.state {
            ItemState::SoldOut => PlaceReason::SoldOut,
            ItemState::Ended => PlaceReason::Ended,
            ItemState::Draft | ItemState::Scheduled | ItemState::Active | ItemState::Paused => return None,
        };
        Some(Self::plain(PlaceState::Closed, Some(reason), ticket.to_owned()))
    }

    /// Has gathered for the draw.
    pub(super) fn undrawn(item: &CatalogueItem, ticket: String, gathered: u64) -> Self {
        #[expect(clippy::disallowed_methods, reason = "says when to ask again; the line's clock decides")]
        let left = item.starts_at - Utc::now();
        let place = Self::plain(PlaceState::Waiting, Some(PlaceReason::Gathering), ticket);
        let poll_after_ms = gathering_poll_ms(left, rand::rng().random_range(0..=OPENING_SPREAD_MS));
        Self { gathered: Some(gathered), draws_at: Some(item.starts_at), poll_after_ms, ..place }
    }

    /// Waits at `position`.
    pub(super) fn waits(item: &CatalogueItem, ticket: String, position: u64, rate: Option<f64>) -> Self {
        let paused = item.state == ItemState::Paused;
        let reason = if paused { PlaceReason::Paused } else { PlaceReason::InLine };
        let estimate_s = if paused { None } else { estimate_s(position, rate, item.available) };
        Self {
            position: Some(position),
            estimate_s,
            poll_after_ms: waiting_poll_ms(estimate_s),
            ..Self::plain(PlaceState::Waiting, Some(reason), ticket)
        }
    }

    /// May buy.
    pub(super) fn admitted(ticket: String, token: String, expires_ms: i64) -> Self {
        Self {
            purchase_token: Some(token),
            expires_at: DateTime::from_timestamp_millis(expires_ms),
            ..Self::plain(PlaceState::Admitted, None, ticket)
        }
    }

    /// Was admitted and did not order in time.
    pub(super) fn ran_out(ticket: String) -> Self {
        Self::plain(PlaceState::Closed, Some(PlaceReason::Expired), ticket)
    }

    /// Whether it is lost, and another one can be taken.
    pub(super) fn can_join_anew(&self) -> bool {
        self.reason == Some(PlaceReason::Expired)
    }

    /// How long until the next question.
    pub(super) fn poll_after(&self) -> Duration {
        Duration::from_millis(self.poll_after_ms)
    }
}

/// Seconds until it is the turn of `position`; `None`: it may never be, or the pace is not known.
fn estimate_s(position: u64, rate: Option<f64>, units: i64) -> Option<u64> {
    let in_reach = i64::try_from(position).is_ok_and(|position| position <= units);
    let seconds = (position as f64 / rate?).ceil();
    in_reach.then(|| Duration::try_from_secs_f64(seconds).map_or(u64::MAX, |left| left.as_secs()))
}

/// Half of what is left until the opening; at its end a moment after it, each at another one.
fn gathering_poll_ms(left: TimeDelta, spread_ms: u64) -> u64 {
    let left_ms = u64::try_from(left.num_milliseconds()).unwrap_or(0);
    if left_ms == 0 {
        POLL_MIN_MS
    } else if left_ms <= POLL_MAX_MS {
        left_ms + spread_ms
    } else {
        (left_ms / 2).clamp(POLL_MIN_MS, POLL_MAX_MS)
    }
}

/// A quarter of the time that it may take; who cannot know asks now and then.
fn waiting_poll_ms(estimate_s: Option<u64>) -> u64 {
    match estimate_s {
        Some(seconds) => (seconds.saturating_mul(250)).clamp(POLL_MIN_MS, POLL_MAX_MS),
        None => 4 * POLL_MIN_MS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_is_given_only_where_there_is_one() {
        assert_eq!(estimate_s(10, Some(2.0), 10), Some(5));
        assert_eq!(estimate_s(1, Some(500.0), 10), Some(1));
        assert_eq!(estimate_s(11, Some(2.0), 10), None, "fewer units than people");
        assert_eq!(estimate_s(10, None, 10), None, "the pace is not known");
    }

    #[test]
    fn who_gathers_asks_a_moment_after_the_opening_and_not_all_at_once() {
        let left = TimeDelta::milliseconds;
        assert_eq!(gathering_poll_ms(left(60_000), 0), 10_000);
        assert_eq!(gathering_poll_ms(left(15_000), 0), 7_500);
        assert_eq!(gathering_poll_ms(left(9_000), 0), 9_000);
        assert_eq!(gathering_poll_ms(left(9_000), 1_500), 10_500);
        assert_eq!(gathering_poll_ms(left(-5), 1_500), POLL_MIN_MS);
    }

    #[test]
    fn the_nearer_the_more_often() {
        assert_eq!(waiting_poll_ms(Some(1)), 500);
        assert_eq!(waiting_poll_ms(Some(20)), 5_000);
        assert_eq!(waiting_poll_ms(Some(u64::MAX)), 10_000);
        assert_eq!(waiting_poll_ms(None), 2_000);
    }
}
