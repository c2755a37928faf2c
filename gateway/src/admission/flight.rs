//! One call to stock-service: a batch goes out, and each buyer is answered as the line with the answer comes in.

use common::api::inventory::{ReserveBatch, ReserveLine, ReserveOutcome, ReserveRequest};
use common::batcher::Pending;
use common::http_client::CallError;
use common::ids::ItemId;
use common::problem::OUTCOME_HEADER;
use common::telemetry::trace::{self, Describe, SpanKind};
use reqwest::{Method, Response, StatusCode};
use tokio::time::Instant;

use super::Wish;
use super::shaper::Shaper;
use crate::downstream::{Downstream, Failed, Priority};

/// Longest line of an answer, in bytes; 256 answers need about 20 KiB.
const LINE_MAX_BYTES: usize = 256 * 1024;
/// Taken off a buyer's deadline, so that the answer has time to travel back.
const RETURN_MS: u64 = 20;

type Buyer = Pending<(), ReserveOutcome>;

/// Where batches leave from.
pub(super) struct Airport {
    pub(super) stock: Downstream,
    pub(super) shaper: Shaper,
}

impl Airport {
    /// Sends the batch, when there is a place for it and its turn has come, and answers its buyers. Who is still
    /// unanswered at the end has an unknown outcome.
    pub(super) async fn fly(&self, item: ItemId, batch: Vec<Pending<Wish, ReserveOutcome>>) {
        let work = trace::batch(batch.iter().map(|pending| pending.request.origin), || {
            Describe::new("reserve batch", SpanKind::Internal)
                .with("stampede.item.id", item.to_string())
                .with("stampede.batch.size", i64::try_from(batch.len()).unwrap_or(i64::MAX))
        });
        trace::within(work, self.cross(item, batch)).await;
    }

    async fn cross(&self, item: ItemId, batch: Vec<Pending<Wish, ReserveOutcome>>) {
        let Some(deadline) = batch.iter().map(|pending| pending.deadline).max() else { return };
        let leave_at = self.shaper.leave_at(batch.len(), Instant::now());
        if leave_at > Instant::now() {
            tokio::time::sleep_until(leave_at.min(deadline)).await;
        }
        let permit = match self.stock.turn(Priority::Order, deadline).await {
            Ok(permit) => permit,
            Err(failed) => return not_sent(batch, &failed),
        };

        // It may have been a while: nothing is begun for those who have gone, or whose time is over.
        let now = Instant::now();
        let (wanted, late): (Vec<_>, Vec<_>) = batch.into_iter().partition(|pending| pending.is_wanted(now));
        late.into_iter().for_each(|pending| pending.answer(ReserveOutcome::DeadlinePassed));
        let (requests, buyers): (Vec<_>, Vec<_>) =
            wanted.into_iter().map(|pending| ask(pending, now)).unzip();
        if requests.is_empty() {
            return;
        }
        let path = format!("/internal/v1/items/{item}/reservations");
        let call = self.stock.request(Method::POST, &path, deadline).json(&ReserveBatch { requests });
        match call.send_within(&permit).await {
            Ok(response) if response.status() == StatusCode::OK => land(response, item, buyers).await,
            Ok(response) => refused(&response, item, buyers),
            Err(failed @ Failed::Call(CallError::Unknown { .. })) => {
                let error = &failed as &dyn std::error::Error;
                tracing::warn!(%item, error, "reservations with an unknown outcome");
            }
            Err(failed) => {
                let error = &failed as &dyn std::error::Error;
                tracing::debug!(%item, error, "stock-service cannot be reached");
                answer_all(buyers, &ReserveOutcome::Unavailable);
            }
        }
    }
}

/// What stock-service is asked for a buyer.
fn ask(pending: Pending<Wish, ReserveOutcome>, now: Instant) -> (ReserveRequest, Option<Buyer>) {
    let (wish, buyer) = pending.split();
    let remaining = buyer.deadline.saturating_duration_since(now).as_millis();
    let deadline_ms = u64::try_from(remaining).unwrap_or(u64::MAX).saturating_sub(RETURN_MS);
    let Wish { order_id, user_id, quantity, admitted_ms, origin: _ } = wish;
    (ReserveRequest { order_id, user_id, quantity, deadline_ms, admitted_ms }, Some(buyer))
}

/// The batch stays on the ground: its buyers are told so at once.
fn not_sent(batch: Vec<Pending<Wish, ReserveOutcome>>, failed: &Failed) {
    let outcome = match failed {
        Failed::Busy(_) => ReserveOutcome::TooBusy,
        Failed::Open(_) | Failed::Call(_) => ReserveOutcome::Unavailable,
    };
    batch.into_iter().for_each(|pending| pending.answer(outcome.clone()));
}

/// Reads line by line.
async fn land(mut response: Response, item: ItemId, mut buyers: Vec<Option<Buyer>>) {
    let mut buffer = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => buffer.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(%item, error, "the answer of stock-service broke off");
                break;
            }
        }
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            answer_line(&line, item, &mut buyers);
        }
        if buffer.len() > LINE_MAX_BYTES {
            tracing::warn!(%item, "a line of stock-service's answer is too long");
            break;
        }
    }
    answer_line(&buffer, item, &mut buyers); // The last line may come without its end.
    let unanswered = buyers.iter().flatten().count();
    if unanswered > 0 {
        tracing::warn!(%item, unanswered, "stock-service left reservations unanswered");
    }
}

fn answer_line(line: &[u8], item: ItemId, buyers: &mut [Option<Buyer>]) {
    if line.iter().all(u8::is_ascii_whitespace) {
        return;
    }
    let line: ReserveLine = match serde_json::from_slice(line) {
        Ok(line) => line,
        Err(error) => {
            tracing::warn!(%item, %error, "a line of stock-service's answer cannot be read");
            return;
        }
    };
    for answer in line.answers {
        match buyers.get_mut(answer.index).and_then(Option::take) {
            Some(buyer) => buyer.answer(answer.outcome),
            None => tracing::warn!(%item, index = answer.index, "an answer for nobody"),
        }
    }
}

/// An answer that is not 200: nothing was done if it says so itself, or refuses the request as such.
fn refused(response: &Response, item: ItemId, buyers: Vec<Option<Buyer>>) {
    let status = response.status();
    let said_none = response.headers().get(OUTCOME_HEADER).is_some_and(|outcome| outcome == "none");
    tracing::warn!(%item, %status, said_none, "stock-service refused a batch");
    if said_none {
        answer_all(buyers, &ReserveOutcome::Unavailable);
    }
}

fn answer_all(buyers: Vec<Option<Buyer>>, outcome: &ReserveOutcome) {
    for buyer in buyers.into_iter().flatten() {
        buyer.answer(outcome.clone());
    }
}
