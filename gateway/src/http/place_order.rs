//! Placing an order: the path that everything else makes way for. Cheapest check first; a refusal that the snapshot
//! allows costs no network call.

use actix_web::HttpResponse;
use actix_web::http::header::{HeaderName, HeaderValue, LOCATION};
use chrono::Utc;
use common::api::inventory::ReserveOutcome;
use common::api::{Accepted, OrderStatus, PlaceOrder};
use common::batcher::BatchError;
use common::failpoint;
use common::ids::{IdempotencyKey, ItemId, OrderId, Quantity, UserId};
use common::problem::{Code, Problem};
use common::telemetry::trace::{self, Origin};
use tokio::time::Instant;
use uuid::Uuid;

use super::place::CHALLENGE_ANSWER;
use crate::admission::Wish;
use crate::answer::refusal;
use crate::attempts::{Attempt, Standing};
use crate::catalogue::Verdict;
use crate::endpoint::{Answer, Call, address};
use crate::error::ApiError;
use crate::limits::Quota;
use crate::listing::Known;
use crate::order_status::OrderStatusOf;
use crate::retries::Before;
use crate::{crash_points, planted};

/// The header as the API spells it, for problems.
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// The same as HTTP libraries spell it.
const IDEMPOTENCY_KEY_HEADER: &str = "idempotency-key";

/// Order units of an item.
///
/// The same user, item and Idempotency-Key are the same order, however often this is sent. Without the header a key is
/// made and returned in the answer's header of the same name: repeat it after a lost answer or `outcome_unknown`.
#[utoipa::path(post, path = "/api/v1/items/{item_id}/orders", tag = "orders", request_body = PlaceOrder,
    params(("item_id" = ItemId, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 128 visible ASCII characters."),
        ("Purchase-Token" = Option<String>, Header, description = "Of your place in line, where there is one."),
        ("Challenge-Answer" = Option<String>, Header, description = "Where a challenge was set."),
        ("Device-Id" = Option<String>, Header,
            description = "What the app calls its device: 8 to 128 visible ASCII characters.")),
    responses((status = 202, description = "Accepted: the order will be made.", body = Accepted,
        headers(("Location" = String, description = "Where the order is."),
            ("Idempotency-Key" = String, description = "The key of this order.")))))]
pub async fn place(call: Call) -> Answer {
    let item = ItemId(call.id("item_id")?);
    let user = call.caller()?.user.clone();
    let key = key_of(&call)?;
    let order_id = OrderId::derive(&user, item, &key);
    trace::note("stampede.order.id", || order_id.to_string());

    let mut quota = None;
    let decided = decide(&call, item, user, order_id, &mut quota).await;
    let decided = crashing(crash_points::REPLY_BEFORE, Code::OutcomeUnknown).await.and(decided);
    let (mut response, locate) = match decided {
        Ok(()) => (HttpResponse::Accepted().json(Accepted { order_id, status: OrderStatus::Queued }), true),
        Err(error) => (refusal(&call.request, &error), error.code() == Code::OutcomeUnknown),
    };
    if response.status().is_success() {
        call.state.accepted.increment(1);
    }
    let headers = response.headers_mut();
    if let Some(quota) = quota {
        quota.write(headers);
    }
    if locate && let Ok(location) = HeaderValue::try_from(format!("/api/v1/orders/{order_id}")) {
        headers.insert(LOCATION, location);
    }
    if let Ok(key) = HeaderValue::from_str(key.as_str()) {
        headers.insert(HeaderName::from_static(IDEMPOTENCY_KEY_HEADER), key);
    }
    Ok(response)
}

/// The client's key, or a new one.
fn key_of(call: &Call) -> Result<IdempotencyKey, ApiError> {
    let given = call
        .header(IDEMPOTENCY_KEY_HEADER)
        .map_err(|_| invalid_key("must be sent once, in visible ASCII"))?;
    let given = given.filter(|_| !failpoint::planted(planted::KEY_IGNORED));
    let key = given.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
    IdempotencyKey::try_from(key).map_err(|error| invalid_key(&error.to_string()))
}

fn invalid_key(message: &str) -> ApiError {
    Problem::invalid(IDEMPOTENCY_KEY, message).into()
}

/// Whether the order is accepted; `quota` is what it leaves of the user's limit, if it counts.
async fn decide(
    call: &Call,
    item: ItemId,
    user: UserId,
    order_id: OrderId,
    quota: &mut Option<Quota>,
) -> Result<(), ApiError> {
    let PlaceOrder { quantity } = call.json()?;
    let state = &call.state;
    #[expect(
        clippy::disallowed_methods,
        reason = "only says when to leave the decision to the clock of Redis"
    )]
    let clock = Utc::now();
    let unlisted = match state.catalogue.judge(item, order_id, Instant::now(), clock) {
        Verdict::Refuse(problem) => return Err(ApiError::Refused(problem)),
        Verdict::Ask => None,
        // No order can be of an item that there never was.
        Verdict::Unlisted if !state.known_ids.may_contain(item.0, Instant::now()) => {
            return Err(Code::NotFound.into());
        }
        Verdict::Unlisted => Some(state.listing.known(item)),
    };
    let attempt = match state.attempts.standing(order_id, quantity, call.deadline).await {
        Standing::Accepted => return Ok(()),
        Standing::Mismatch => return Err(Code::IdempotencyMismatch.into()),
        Standing::Full => return Err(Code::TooBusy.into()),
        Standing::Try(attempt) => attempt,
    };
    let admitted_ms = match let_in(call, item, (&user, order_id), quota).await {
        Ok(admitted_ms) => admitted_ms,
        // What is rare and asks other services is apart, so that it takes no room in every order.
        Err(refusal) => {
            return Box::pin(retried(call, &user, (order_id, quantity), attempt, refusal)).await;
        }
    };
    // Only items of published sales get a queue; for others the one question is whether the order exists.
    match unlisted {
        Some(Known::No) if state.catalogue.snapshot().is_some() => {
            return Box::pin(retired(call, &user, order_id, Code::NotFound)).await;
        }
        Some(Known::No | Known::NotLoaded) => return Err(Code::Unavailable.into()),
        Some(Known::OnSale | Known::Ended) | None => {}
    }

    let origin = Origin::current();
    let wish = Wish { order_id, user_id: user.clone(), quantity, admitted_ms, origin };
    crashing(crash_points::FORWARD_BEFORE, Code::Unavailable).await?;
    let answer = state.admission.place(item, wish, call.deadline).await;
    crashing(crash_points::FORWARD_AFTER, Code::OutcomeUnknown).await?;
    match answer {
        Ok(ReserveOutcome::Accepted) => {
            attempt.accepted();
            if let Some(admitted_ms) = admitted_ms {
                state.lines.used(item, &user, admitted_ms);
            }
            Ok(())
        }
        Ok(ReserveOutcome::UnknownItem) => {
            // Whether the sale is over is for order-service to say: this machine's clock may be ahead.
            let ended = state.listing.known(item) == Known::Ended;
            let otherwise = if ended { Code::Ended } else { Code::Unavailable };
            Box::pin(retired(call, &user, order_id, otherwise)).await
        }
        Ok(outcome) => Err(refused(outcome)),
        Err(error) => Err(unanswered(error)),
    }
}

/// Whether this buyer may order at all, now: the block list, the waiting room or the challenge, the limits. When the
/// waiting room let the buyer in, if it did.
async fn let_in(
    call: &Call,
    item: ItemId,
    (user, order_id): (&UserId, OrderId),
    quota: &mut Option<Quota>,
) -> Result<Option<i64>, ApiError> {
    let state = &call.state;
    call.check_blocks()?;
    let admitted_ms = admission(call, item, user, order_id).await?;
    crashing(crash_points::LIMIT_BEFORE, Code::Unavailable).await?;
    *quota = Some(state.limits.take_for_order(user, address(state, &call.request)).await?);
    state.velocity.check(user, call.device()?, order_id).await?;
    crashing(crash_points::LIMIT_AFTER, Code::Unavailable).await?;
    Ok(admitted_ms)
}

/// A retry is told of its order before anything is asked of it; whatever else was to be refused is.
async fn retried(
    call: &Call,
    user: &UserId,
    order: (OrderId, Quantity),
    attempt: Attempt<'_>,
    refusal: ApiError,
) -> Result<(), ApiError> {
    let asks_for_more = match &refusal {
        ApiError::Refused(problem) => matches!(problem.code, Code::ChallengeRequired | Code::Blocked),
        ApiError::Limited(_)
        | ApiError::Command(_)
        | ApiError::Question(_)
        | ApiError::BadCommandAnswer { .. }
        | ApiError::BadAnswer { .. }
        | ApiError::Defect(_) => false,
    };
    // A key that was made here names nothing yet.
    if !asks_for_more || call.header(IDEMPOTENCY_KEY_HEADER)?.is_none() {
        return Err(refusal);
    }
    let state = &call.state;
    match state.retries.accepted_before(&state.stock, user, order, call.deadline).await? {
        Before::Accepted => {}
        Before::Never => return Err(refusal),
        // Whoever is new gets the puzzle all the same, and can bring the answer along.
        Before::Unsaid(problem) => {
            return Err(Problem { challenge: refusal.problem().challenge, ..problem }.into());
        }
    }
    attempt.accepted();
    Ok(())
}

/// When the waiting room let the buyer in; `None`: it did not, or there is none.
///
/// An order without an admission is passed on all the same, now and then: it may repeat one that was accepted, and
/// reserve.lua grants it nothing new.
async fn admission(
    call: &Call,
    item: ItemId,
    user: &UserId,
    order_id: OrderId,
) -> Result<Option<i64>, ApiError> {
    let snapshot = call.state.catalogue.snapshot();
    let has_line = snapshot.as_ref().and_then(|known| known.item(item)).is_some_and(|item| item.waiting_room);
    if !has_line {
        let asks = snapshot.as_ref().and_then(|known| known.item(item)).is_some_and(|item| item.challenge);
        let answer = call.header(CHALLENGE_ANSWER)?;
        // Spent on this order, so that its repetition passes.
        call.state.challenges.pass(asks, (item, user), answer, &order_id.to_string()).await?;
        return Ok(None);
    }
    let admitted_ms = call.state.lines.admitted_ms(call.header("purchase-token")?, user, item);
    if admitted_ms.is_none() {
        call.state.lines.check_unplaced(user)?;
    }
    Ok(admitted_ms)
}

/// The inventory does not have the item (any more): an order that was accepted before is still accepted.
async fn retired(call: &Call, user: &UserId, order_id: OrderId, otherwise: Code) -> Result<(), ApiError> {
    if OrderStatusOf::is_stored(&call.state.orders, user, order_id, call.deadline).await? {
        return Ok(());
    }
    Err(otherwise.into())
}

fn refused(outcome: ReserveOutcome) -> ApiError {
    match outcome {
        ReserveOutcome::SoldOut => Code::SoldOut.into(),
        ReserveOutcome::LimitExceeded => Code::LimitExceeded.into(),
        ReserveOutcome::NotStarted { starts_at } => Problem::not_started(starts_at).into(),
        ReserveOutcome::Ended => Code::Ended.into(),
        ReserveOutcome::Paused => Code::Paused.into(),
        ReserveOutcome::PlaceRequired => Code::PlaceRequired.into(),
        ReserveOutcome::IdempotencyMismatch => Code::IdempotencyMismatch.into(),
        ReserveOutcome::TooBusy => Code::TooBusy.into(),
        ReserveOutcome::DeadlinePassed | ReserveOutcome::Unavailable => Code::Unavailable.into(),
        ReserveOutcome::Unknown => unknown(),
        ReserveOutcome::Accepted | ReserveOutcome::UnknownItem => ApiError::Defect("not a refusal"),
    }
}

fn unanswered(error: BatchError) -> ApiError {
    match error {
        BatchError::Overloaded => Code::TooBusy.into(),
        BatchError::Expired | BatchError::Stopped => Code::Unavailable.into(),
        BatchError::Lost => unknown(),
    }
}

fn unknown() -> ApiError {
    let wrong = failpoint::planted(planted::UNKNOWN_SAID_NONE);
    if wrong { Code::Unavailable.into() } else { Code::OutcomeUnknown.into() }
}

/// Passes a crash point; an error there is answered with `code`.
async fn crashing(point: &'static str, code: Code) -> Result<(), ApiError> {
    failpoint::reach(point).await.map_err(|_| code.into())
}
