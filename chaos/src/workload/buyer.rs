//! One buyer: makes wishes, asks until the answer is final, and does something with what was got.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use common::api::{Order, OrderStatus, PaymentStarted};
use common::ids::{ItemId, OrderId};
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::caller::{Caller, Seen};
use super::notices::Provider;
use crate::client_log::Outcome;
use crate::schedule::{Buyer, Then, Wish};

/// Between two attempts at the same thing.
const PAUSE: Duration = Duration::from_millis(150);
/// Attempts of a wish before a buyer gives it up.
const ATTEMPTS_MAX: u32 = 12;
/// Attempts at something else than a wish.
const TRIES_MAX: u32 = 6;
/// How long a buyer waits for something to become of an order.
const PATIENCE: Duration = Duration::from_secs(6);

/// What buyers share.
#[derive(Debug, Clone)]
pub struct Market {
    /// The shop's goods, in its order, with their prices.
    pub goods: Vec<(ItemId, i64)>,
    /// The payment provider.
    pub provider: Provider,
    /// Orders that somebody has paid, for an admin to take back.
    pub paid: Arc<Mutex<Vec<OrderId>>>,
    /// Somebody who looks at orders that are not theirs.
    pub stranger: Caller,
    /// How the persistent buyers stand, by user.
    pub persistent: Arc<Mutex<BTreeMap<String, Standing>>>,
    /// Becomes true when everybody is to go home.
    pub over: watch::Receiver<bool>,
}

/// How a persistent buyer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What they want.
    pub item: ItemId,
    /// They were granted an order, whatever became of it.
    pub served: bool,
    /// Something is under way that is not just asking again.
    pub busy: bool,
}

/// Lives through all the buyer's wishes.
pub async fn live(caller: Caller, buyer: Buyer, market: Market) {
    if buyer.persistent {
        return persist(&caller, &buyer, &market).await;
    }
    for wish in &buyer.wishes {
        sleep(Duration::from_millis(wish.after_ms)).await;
        let (item, price_cents) = market.goods[wish.item];
        if let Some(order) = get_order(&caller, wish, item).await {
            market.stranger.get(order).await;
            follow_up(&caller, wish, order, price_cents * i64::from(wish.quantity), &market).await;
            if wish.mismatches {
                caller.reserve(item, &wish.key, wish.quantity + 1).await;
            }
            if wish.asks_again {
                caller.reserve(item, &wish.key, wish.quantity).await;
                caller.get(order).await;
            }
        }
    }
}

/// Asks until an order is paid or everybody goes home; a new key for each order that was lost again.
async fn persist(caller: &Caller, buyer: &Buyer, market: &Market) {
    let Some(wish) = buyer.wishes.first() else { return };
    let (item, price_cents) = market.goods[wish.item];
    let stand = |served: bool, busy: bool| {
        market.persistent.lock().insert(buyer.user.clone(), Standing { item, served, busy });
    };
    stand(false, false);
    sleep(Duration::from_millis(wish.after_ms)).await;
    let mut orders = 0;
    while !*market.over.borrow() {
        let key = format!("{}-{orders}", wish.key);
        let seen = caller.reserve(item, &key, wish.quantity).await;
        if let Some(order) = accepted(&seen) {
            orders += 1;
            stand(true, true);
            follow_up(caller, wish, order, price_cents * i64::from(wish.quantity), market).await;
            let paid = caller.get(order).await.order().is_some_and(|order| order.status == OrderStatus::Paid);
            stand(true, false);
            if paid {
                return;
            }
        }
        sleep(PAUSE * 2).await;
    }
}

fn accepted(seen: &Seen) -> Option<OrderId> {
    let id = seen.body.get("order_id").and_then(|id| serde_json::from_value(id.clone()).ok());
    id.filter(|_| seen.kind == Outcome::Ok)
}

/// Asks for a wish until the answer is final; `None`: refused, or given up.
async fn get_order(caller: &Caller, wish: &Wish, item: ItemId) -> Option<OrderId> {
    let once = || caller.reserve(item, &wish.key, wish.quantity);
    let all = join_all((0..wish.at_once).map(|_| once())).await;
    if let Some(order) = all.iter().find_map(accepted) {
        return Some(order);
    }
    let mut last = all.into_iter().next()?;
    for _ in 1..ATTEMPTS_MAX {
        if !last.passing() || (last.kind == Outcome::Info && wish.abandons) {
            return None;
        }
        sleep(PAUSE).await;
        last = once().await;
        if let Some(order) = accepted(&last) {
            return Some(order);
        }
    }
    None
}

/// Does with an order what the wish says.
async fn follow_up(caller: &Caller, wish: &Wish, order: OrderId, amount_cents: i64, market: &Market) {
    let Some(state) = wait_for(caller, order, |order| order.status != OrderStatus::Queued).await else {
        return;
    };
    if state.status != OrderStatus::PendingPayment {
        return;
    }
    if wish.then == Then::Cancel {
        insist(|| caller.cancel(order)).await;
        return;
    }
    if wish.then == Then::Nothing {
        if lapses_soon(&state) {
            wait_for(caller, order, |order| order.status != OrderStatus::PendingPayment).await;
        }
        return;
    }
    let Some(payment) = start_payment(caller, order).await else { return };
    for forgery in &wish.forgeries {
        let (body, signature) = market.provider.forge(*forgery, payment, order, amount_cents);
        caller.notify(order, body, signature, Some(*forgery)).await;
    }
    match wish.then {
        Then::Nothing | Then::Cancel => {}
        Then::Pay => pay(caller, wish, order, payment, market).await,
        Then::PayAndCancel => {
            tokio::join!(pay(caller, wish, order, payment, market), insist(|| caller.cancel(order)));
        }
        Then::PayLate | Then::PayAtTheLastMoment if !lapses_soon(&state) => {}
        Then::PayLate => {
            wait_for(caller, order, |order| order.status != OrderStatus::PendingPayment).await;
            pay(caller, wish, order, payment, market).await;
        }
        Then::PayAtTheLastMoment => {
            if let Some(expires_at) = state.expires_at {
                sleep(until(expires_at)).await;
            }
            pay(caller, wish, order, payment, market).await;
        }
        Then::FailThenPay => {
            insist(|| caller.check_out(order, payment, "failure")).await;
            if let Some(second) = start_payment(caller, order).await.filter(|second| *second != payment) {
                pay(caller, wish, order, second, market).await;
            }
        }
    }
}

/// Whether it is worth waiting for an order to lapse.
fn lapses_soon(order: &Order) -> bool {
    order.expires_at.is_some_and(|expires_at| until(expires_at) < PATIENCE)
}

#[expect(clippy::disallowed_methods, reason = "a buyer watches the clock on the wall")]
fn until(moment: chrono::DateTime<chrono::Utc>) -> Duration {
    (moment - chrono::Utc::now()).to_std().unwrap_or_default()
}

/// Reads the order until it is as wanted; the last state seen, if any.
async fn wait_for(caller: &Caller, order: OrderId, wanted: impl Fn(&Order) -> bool) -> Option<Order> {
    let deadline = Instant::now() + PATIENCE;
    let mut last = None;
    while Instant::now() < deadline {
        if let Some(order) = caller.get(order).await.order() {
            let done = wanted(&order);
            last = Some(order);
            if done {
                break;
            }
        }
        sleep(PAUSE).await;
    }
    last
}

/// Repeats something until it is neither unknown nor put off.
async fn insist<F: Future<Output = Seen>>(what: impl Fn() -> F) -> Option<Seen> {
    let mut last = None;
    for _ in 0..TRIES_MAX {
        let seen = what().await;
        let passing = seen.passing();
        last = Some(seen);
        if !passing {
            break;
        }
        sleep(PAUSE).await;
    }
    last
}

async fn start_payment(caller: &Caller, order: OrderId) -> Option<Uuid> {
    let seen = insist(|| caller.pay(order)).await?;
    serde_json::from_value::<PaymentStarted>(seen.body).ok().map(|started| started.payment_id.0)
}

/// Pays at the provider, which tells of it; and tells of it again, several times at once.
async fn pay(caller: &Caller, wish: &Wish, order: OrderId, payment: Uuid, market: &Market) {
    insist(|| caller.check_out(order, payment, "success")).await;
    let Ok(Some(body)) = timeout(PATIENCE, market.provider.notice(payment)).await else { return };
    let deliver = || caller.notify(order, body.clone(), market.provider.sign(&body), None);
    let seen = join_all((0..wish.notices).map(|_| deliver())).await;
    if seen.iter().all(Seen::passing) {
        insist(deliver).await;
    }
    market.paid.lock().push(order);
}
