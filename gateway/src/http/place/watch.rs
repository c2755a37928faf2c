//! A place in line as a stream: every change as it happens.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use actix_web::web::{Bytes, Data};
use common::ids::{ItemId, UserId};
use common::problem::{Code, Problem};
use futures_util::Stream;
use futures_util::stream::unfold;
use rand::Rng as _;
use tokio::time::Instant;

use super::view::{Place, PlaceReason, PlaceState};
use super::{known, place_of};
use crate::endpoint::{Answer, Call};
use crate::places::StreamPlace;
use crate::state::State;

/// How often the snapshot is looked at: so soon one hears that nothing is left, or that something is again. Nobody is
/// asked for that.
const SNAPSHOT_INTERVAL: Duration = Duration::from_millis(250);
/// Longest silence: a client that has gone is only noticed by writing to it.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Longest life of a stream; the client opens another one.
const LIFETIME_MAX: Duration = Duration::from_secs(3600);
/// Most time for one question to the line.
const ASK_WITHIN: Duration = Duration::from_secs(2);
/// How long clients are told to wait before they come back after a stop, in milliseconds: not all at once.
const RECONNECT_MS: std::ops::RangeInclusive<u64> = 1000..=5000;

/// Answers with a stream that begins with `place`.
pub(super) fn stream(call: &Call, item: ItemId, user: UserId, place: Place) -> Answer {
    // To be answered with 429: an EventSource does not come back by itself after a refusal, people do.
    let stream_place = call.state.places.stream().ok_or_else(|| Problem::new(Code::TooBusy))?;
    let now = Instant::now();
    let token_left = call.caller()?.expires_at_s.saturating_sub(jsonwebtoken::get_current_timestamp());
    let watch = Watch {
        state: call.state.clone(),
        _place: stream_place,
        item,
        user,
        told: None,
        ask_at: now + place.poll_after(),
        beat_at: now + HEARTBEAT,
        ends_at: now + Duration::from_secs(token_left).min(LIFETIME_MAX),
        news: Some(place),
    };
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream; charset=utf-8"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(watch.bytes()))
}

/// One open stream.
struct Watch {
    state: Data<State>,
    _place: StreamPlace,
    item: ItemId,
    user: UserId,
    /// What the client knows.
    told: Option<Place>,
    news: Option<Place>,
    ask_at: Instant,
    beat_at: Instant,
    ends_at: Instant,
}

impl Watch {
    /// Until the place is gone, the token ends, the process stops, or the client goes.
    fn bytes(self) -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
        unfold(Some(self), |watch| async { watch?.next().await })
    }

    async fn next(mut self) -> Option<(Result<Bytes, actix_web::Error>, Option<Self>)> {
        loop {
            if let Some(news) = self.news.take()
                && !self.told.as_ref().is_some_and(|told| told.says_the_same(&news))
            {
                let json = serde_json::to_string(&news).ok()?;
                self.told = Some(news);
                self.beat_at = Instant::now() + HEARTBEAT;
                return Some((Ok(Bytes::from(format!("event: place\ndata: {json}\n\n"))), Some(self)));
            }
            if Instant::now() >= self.beat_at {
                self.beat_at = Instant::now() + HEARTBEAT;
                return Some((Ok(Bytes::from_static(b":\n\n")), Some(self)));
            }
            // An end is told once; who wants to go on takes a new place.
            let over = self.told.as_ref().is_some_and(Place::is_final);
            if over || Instant::now() >= self.ends_at {
                return None;
            }
            let pause = tokio::time::sleep(SNAPSHOT_INTERVAL);
            if self.state.closing.run_until_cancelled(pause).await.is_none() {
                let wait_ms = rand::rng().random_range(RECONNECT_MS);
                return Some((Ok(Bytes::from(format!("retry: {wait_ms}\n\n"))), None));
            }
            self.look().await?;
        }
    }

    /// Looks at the snapshot, and asks the line when it is time to; `None`: the place is gone.
    async fn look(&mut self) -> Option<()> {
        let closed = match known(&self.state, self.item) {
            Ok(Some(item)) => Place::closed(&item, self.told.as_ref().map_or("", |told| &told.ticket)),
            Ok(None) | Err(_) => None,
        };
        if closed.is_some() {
            self.news = closed;
            return Some(());
        }
        let was_closed = self.told.as_ref().is_some_and(|told| told.state == PlaceState::Closed);
        if Instant::now() < self.ask_at && !was_closed {
            return Some(());
        }
        let deadline = Instant::now() + ASK_WITHIN;
        match place_of(&self.state, self.item, &self.user, false, deadline).await {
            Ok(Some(place)) => {
                self.ask_at = Instant::now() + place.poll_after();
                self.news = Some(place);
            }
            Ok(None) => return None,
            // What was told stands until the line can be asked again.
            Err(_) => self.ask_at = Instant::now() + ASK_WITHIN,
        }
        Some(())
    }
}

impl Place {
    /// Whether nothing can come after it.
    fn is_final(&self) -> bool {
        matches!(self.reason, Some(PlaceReason::Ended | PlaceReason::Expired))
    }

    /// Whether there is nothing new in `other` but when to ask again.
    fn says_the_same(&self, other: &Self) -> bool {
        Self { poll_after_ms: other.poll_after_ms, ..self.clone() } == *other
    }
}
