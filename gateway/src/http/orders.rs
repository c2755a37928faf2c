//! A user's own orders.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::header::{HeaderValue, LOCATION};
use chrono::{TimeDelta, Utc};
use common::api::{Order, OrderStatus, Page, PaymentStarted, StartPayment};
use common::ids::OrderId;
use common::problem::{Code, Problem};
use tokio::time::Instant;

use crate::answer::refusal;
use crate::endpoint::{Answer, Call};
use crate::error::ApiError;
use crate::forward::Service;
use crate::order_status::{OrderStatusOf, Status};

/// Longest long poll, in seconds.
const WAIT_MAX_S: u64 = 30;
/// Shortest wait that order-service is asked for, which counts in seconds.
const SECOND: Duration = Duration::from_secs(1);
/// Whoever names no version is taken to know what an order of this age is, and not what a younger one is.
const KNOWN_AFTER: TimeDelta = TimeDelta::seconds(2);
/// How long a young order is waited for all the same: so often, and no oftener, does a client come that asks at once
/// again.
const YOUNG_WAIT: Duration = Duration::from_millis(250);
/// How often an order is asked for that is not in the database yet; doubled up to the second value.
const QUEUED_POLL_MIN: Duration = Duration::from_millis(50);
const QUEUED_POLL_MAX: Duration = Duration::from_millis(500);

/// One order.
///
/// With `wait` the answer comes with the next change, or after so many seconds as it is. A change is a version above
/// `version`; without that, any change of an order that waits for payment, and `queued` ending. Final states are
/// answered at once, and so is, without `version`, an order of the last two seconds.
#[utoipa::path(get, path = "/api/v1/orders/{order_id}", tag = "orders",
    params(("order_id" = OrderId, Path),
        ("wait" = Option<u64>, Query, minimum = 1, maximum = 30, description = "Long poll, seconds."),
        ("version" = Option<i64>, Query, minimum = 0, description = "The version that the client has.")),
    responses((status = 200, description = "The order.", body = Order)))]
pub async fn single(call: Call) -> Answer {
    let id = OrderId(call.id("order_id")?);
    let wait_s: Option<u64> = call.parameter("wait")?;
    let version: Option<i64> = call.parameter("version")?;
    if wait_s.is_some_and(|wait_s| !(1..=WAIT_MAX_S).contains(&wait_s)) {
        return Err(Problem::invalid("wait", format!("must be between 1 and {WAIT_MAX_S}")).into());
    }
    if version.is_some_and(|version| version < 0) {
        return Err(Problem::invalid("version", "must not be negative").into());
    }

    let order = status(&call, id, call.deadline).await?;
    let Some(wait_s) = wait_s else { return Ok(shown(&order)) };
    let (version, wait) = known(&order, version, Duration::from_secs(wait_s));
    if order.version > version {
        return Ok(shown(&order));
    }
    let Some(_place) = call.state.places.long_poll() else { return Ok(shown(&order)) };
    let until = Instant::now() + wait;
    let closing = call.state.closing.clone();
    let newest = closing.run_until_cancelled(change(&call, id, version, until, order.clone())).await;
    Ok(shown(&newest.unwrap_or(order)))
}

/// The version that the client has, and how long it waits for the next one.
fn known(order: &Order, version: Option<i64>, wait: Duration) -> (i64, Duration) {
    #[expect(clippy::disallowed_methods, reason = "only says how long to wait")]
    let young = order.created_at + KNOWN_AFTER > Utc::now();
    match (version, order.status) {
        (Some(version), _) => (version, wait),
        (None, OrderStatus::PendingPayment | OrderStatus::RefundPending) => {
            (order.version, if young { YOUNG_WAIT } else { wait })
        }
        (
            None,
            OrderStatus::Queued
            | OrderStatus::Paid
            | OrderStatus::Cancelled
            | OrderStatus::Expired
            | OrderStatus::Rejected
            | OrderStatus::Refunded,
        ) => (0, wait),
    }
}

/// One's own orders, newest first.
#[utoipa::path(get, path = "/api/v1/orders", tag = "orders",
    params(("cursor" = Option<String>, Query, description = "`next_cursor` of the page before."),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 100, description = "20 if not given.")),
    responses((status = 200, description = "A page of orders.", body = Page<Order>)))]
pub async fn list(call: Call) -> Answer {
    call.forward(Service::Orders).await
}

/// Start a payment.
#[utoipa::path(post, path = "/api/v1/orders/{order_id}/pay", tag = "orders", request_body = StartPayment,
    params(("order_id" = OrderId, Path)),
    responses((status = 201, description = "Where the buyer pays.", body = PaymentStarted)))]
pub async fn pay(call: Call) -> Answer {
    call.json::<StartPayment>()?;
    command(&call).await
}

/// Cancel an order that is not paid.
#[utoipa::path(post, path = "/api/v1/orders/{order_id}/cancel", tag = "orders",
    params(("order_id" = OrderId, Path)),
    responses((status = 200, description = "The cancelled order.", body = Order)))]
pub async fn cancel(call: Call) -> Answer {
    command(&call).await
}

/// A command to order-service about an order, which may still be on its way there.
async fn command(call: &Call) -> Answer {
    let id = OrderId(call.id("order_id")?);
    let response = match call.send(Service::Orders).await {
        Ok(response) => response,
        Err(error) => return Ok(located(call, id, &error)),
    };
    if response.status().as_u16() != 404 {
        return match call.pass_back(Service::Orders, response).await {
            Err(error) => Ok(located(call, id, &error)),
            passed => passed,
        };
    }
    let (caller, priority) = (call.caller()?, call.priority());
    let of = OrderStatusOf { orders: &call.state.orders, stock: &call.state.stock, caller, priority };
    match of.hold(id, call.deadline).await? {
        // Also when its order has reached the database since: to be asked again at once.
        Some(hold) if hold.user_id == caller.user => Err(Code::Unavailable.into()),
        Some(_) | None => Err(Code::NotFound.into()),
    }
}

/// A refusal that says where to look when its outcome is not known.
fn located(call: &Call, id: OrderId, error: &ApiError) -> HttpResponse {
    let mut response = refusal(&call.request, error);
    let location = HeaderValue::from_str(&format!("/api/v1/orders/{id}"));
    if let (Code::OutcomeUnknown, Ok(location)) = (error.code(), location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

async fn status(call: &Call, id: OrderId, deadline: Instant) -> Result<Order, ApiError> {
    let (caller, priority) = (call.caller()?, call.priority());
    let of = OrderStatusOf { orders: &call.state.orders, stock: &call.state.stock, caller, priority };
    match of.now(id, deadline).await? {
        Status::Known(order) => Ok(*order),
        Status::Unknown => Err(Code::NotFound.into()),
    }
}

/// Waits until the order is newer than `version`, or `until`; a service that is away for a moment ends nothing.
async fn change(call: &Call, id: OrderId, version: i64, until: Instant, mut order: Order) -> Order {
    let (Ok(caller), priority) = (call.caller(), call.priority()) else { return order };
    let of = OrderStatusOf { orders: &call.state.orders, stock: &call.state.stock, caller, priority };
    let mut pause = QUEUED_POLL_MIN;
    while order.version <= version {
        let remaining = until.saturating_duration_since(Instant::now());
        if remaining.is_zero() {
            return order;
        }
        if order.version > 0 && remaining >= SECOND {
            let newer = of.newer(id, version, remaining.as_secs(), until + call.state.timeout).await;
            if let Ok(Some(newer)) = newer {
                order = newer;
                continue;
            }
        }
        // Queued, or the last moments, or order-service is away: ask again, less and less often.
        tokio::time::sleep(pause.min(remaining)).await;
        pause = (pause * 2).min(QUEUED_POLL_MAX);
        if let Ok(now) = status(call, id, Instant::now() + call.state.timeout).await {
            order = now;
        }
    }
    order
}

fn shown(order: &Order) -> HttpResponse {
    HttpResponse::Ok().json(order)
}
