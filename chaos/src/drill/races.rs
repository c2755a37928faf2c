//! Payment, cancel and expiry of the same order at the same time: one winner each, and no money without goods.

use std::time::Duration;

use common::api::{OrderStatus, PaymentStarted};
use common::ids::OrderId;
use diesel::sql_query;
use diesel::sql_types::Uuid as SqlUuid;
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use e2e::client::Client;
use e2e::crowd::Buyer;
use futures_util::future::join_all;
use rand::Rng as _;
use reqwest::Method;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Outcome;
use super::books::{self, Promises};
use super::report::say;
use super::rush::Wave;
use super::stage::Stage;

/// Races that are run at the same time.
const AT_ONCE: u64 = 100;
const WAVE_AT_ONCE: usize = 32;
/// Each of the three begins by chance within this time.
const SPREAD_MS: u64 = 120;
/// Attempts at something that a busy system puts off.
const TRIES_MAX: u32 = 40;
const PAUSE: Duration = Duration::from_millis(150);
const REFUNDED_WITHIN: Duration = Duration::from_secs(120);
/// Expiry looks often, so that it has a chance; refunds do, so that the drill does not wait for them.
const SETTINGS: [(&str, &str); 3] = [
    ("ORDER_SERVICE__EXPIRY__INTERVAL_MS", "10"),
    ("ORDER_SERVICE__ASKING__INTERVAL_MS", "20"),
    ("ORDER_SERVICE__REFUNDS__INTERVAL_MS", "50"),
];

/// The order's time is over, and the provider of its payment is to be asked. Two statements: the first may have had to
/// wait for a payment to begin, which only the second one then sees.
const LAPSE: [&str; 2] = [
    "UPDATE orders SET expires_at = now() WHERE id = $1 AND status = 'pending_payment'",
    "UPDATE payments SET next_ask_at = now() WHERE order_id = $1 AND status = 'started'",
];
/// What must not be, each with what it means.
const NEVER: [(&str, &str); 6] = [
    (
        "orders without an end",
        "SELECT count(*) AS count FROM orders WHERE status NOT IN ('paid', 'cancelled', 'expired')",
    ),
    (
        "orders with two winners",
        "SELECT count(*) AS count FROM (SELECT order_id FROM order_transitions
          WHERE from_status = 'pending_payment' AND to_status <> from_status
          GROUP BY order_id HAVING count(*) <> 1) AS several",
    ),
    (
        "paid orders without exactly one kept payment",
        "SELECT count(*) AS count FROM orders o WHERE o.status = 'paid' AND 1 <>
          (SELECT count(*) FROM payments p WHERE p.order_id = o.id AND p.status = 'kept'
              AND p.amount_cents = o.unit_price_cents * o.quantity)",
    ),
    (
        "payments kept for orders that are not paid",
        "SELECT count(*) AS count FROM orders o JOIN payments p ON p.order_id = o.id
          WHERE o.status <> 'paid' AND p.status = 'kept'",
    ),
    (
        "captures of the provider that are neither kept nor given back",
        "SELECT count(*) AS count FROM sandbox_payments s JOIN orders o ON o.id = s.order_id
          WHERE s.captured_at IS NOT NULL AND s.refunded_at IS NULL AND o.status <> 'paid'",
    ),
    (
        "paid orders whose money went back",
        "SELECT count(*) AS count FROM sandbox_payments s JOIN orders o ON o.id = s.order_id
          JOIN payments p ON p.id = s.payment_id
          WHERE s.refunded_at IS NOT NULL AND o.status = 'paid' AND p.status = 'kept'",
    ),
];

pub(super) async fn run(count: u64) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("races", count);
    let stage = Stage::start(1, &SETTINGS).await?;
    let crowd = stage.buyers("buyer", count).await?;
    // Units come back and are sold again: every buyer gets one in the end, from a stock that is smaller than the crowd.
    let sale = stage.open_sale(count, 1).await?;
    let mut promises = Promises::default();
    let mut connection = books::connect(&stage).await?;
    for (round, buyers) in crowd.chunks(usize::try_from(AT_ONCE)?).enumerate() {
        let wave = Wave::start(&stage.client, buyers.to_vec(), sale.items[0].id, WAVE_AT_ONCE);
        let tally = wave.end().await?;
        let ours: Vec<(Buyer, OrderId)> =
            tally.accepted.iter().map(|(buyer, order)| (buyers[*buyer].clone(), *order)).collect();
        promises.add(tally);
        race(&stage, ours, &mut connection).await?;
        if round % 10 == 9 {
            say(&format!("  {} of {count} races", promises.accepted.len()));
        }
    }
    refunds_are_through(&mut connection).await?;
    books::settle(&stage, sale.id, &promises, &mut outcome).await?;
    for status in ["paid", "cancelled", "expired"] {
        let statement = format!("SELECT count(*) AS count FROM orders WHERE status = '{status}'");
        outcome.figure(&format!("won_{status}"), books::count(&mut connection, &statement).await?);
    }
    let refunded = "SELECT count(*) AS count FROM payments WHERE status = 'refunded'";
    outcome.figure("refunded", books::count(&mut connection, refunded).await?);
    for (what, statement) in NEVER {
        let found = books::count(&mut connection, statement).await?;
        outcome.require(found == 0, format_args!("{found} {what}"));
    }
    books::nothing_parked(&stage, &mut outcome).await?;
    Ok(outcome)
}

/// Lets the three loose on each order. Every other order has a payment under way before; those that have not are paid as
/// fast as a buyer can.
async fn race(
    stage: &Stage,
    orders: Vec<(Buyer, OrderId)>,
    connection: &mut AsyncPgConnection,
) -> anyhow::Result<()> {
    let client = &stage.client;
    let prepared = join_all(orders.iter().enumerate().map(async |(n, (buyer, order))| {
        wait_until_payable(client, buyer, *order).await?;
        anyhow::Ok(if n % 2 == 0 { start_payment(client, buyer, *order).await } else { None })
    }));
    let prepared = prepared.await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let racers = orders.iter().zip(prepared).map(async |((buyer, order), payment)| {
        tokio::join!(pay(client, buyer, *order, payment), cancel(client, buyer, *order));
    });
    let begin = Instant::now();
    let lapse = async {
        for (_, order) in &orders {
            // A head start: expiry has further to go than a request.
            tokio::time::sleep_until(begin + some_time() / 2).await;
            for statement in LAPSE {
                sql_query(statement).bind::<SqlUuid, _>(order.0).execute(connection).await?;
            }
        }
        anyhow::Ok(())
    };
    let (_, lapsed) = tokio::join!(join_all(racers), lapse);
    lapsed
}

async fn pay(client: &Client, buyer: &Buyer, order: OrderId, prepared: Option<PaymentStarted>) {
    sleep(some_time()).await;
    let payment = match prepared {
        Some(payment) => payment,
        // Refused when another one was faster.
        None => match start_payment(client, buyer, order).await {
            Some(payment) => payment,
            None => return,
        },
    };
    let path = format!("/sandbox/payments/{}", payment.payment_id);
    for _ in 0..TRIES_MAX {
        let press = client.request(Method::POST, &path).json(&json!({ "outcome": "success" }));
        match client.send(press).await {
            // Taken, or the provider has closed the payment.
            Ok(answer) if !answer.status.is_server_error() => return,
            Ok(_) | Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Once: refused when another one was faster.
async fn cancel(client: &Client, buyer: &Buyer, order: OrderId) {
    sleep(some_time()).await;
    client.post(&format!("/api/v1/orders/{order}/cancel"), &buyer.token, &json!({})).await.ok();
}

async fn start_payment(client: &Client, buyer: &Buyer, order: OrderId) -> Option<PaymentStarted> {
    let path = format!("/api/v1/orders/{order}/pay");
    client.post(&path, &buyer.token, &json!({ "provider": "sandbox" })).await.ok()?.json().ok()
}

/// While it is queued, an order can be neither paid nor cancelled.
async fn wait_until_payable(client: &Client, buyer: &Buyer, order: OrderId) -> anyhow::Result<()> {
    for _ in 0..TRIES_MAX {
        let state = client.order_state(&buyer.token, order).await;
        if state.is_ok_and(|state| state.status == OrderStatus::PendingPayment) {
            return Ok(());
        }
        sleep(PAUSE).await;
    }
    anyhow::bail!("order {order} does not become payable")
}

async fn refunds_are_through(connection: &mut AsyncPgConnection) -> anyhow::Result<()> {
    let begin = Instant::now();
    let unsettled = "SELECT count(*) AS count FROM payments WHERE status = 'refund_pending'
        UNION ALL SELECT count(*) FROM sandbox_payments WHERE notice IS NOT NULL AND delivered_at IS NULL";
    let unsettled = format!("SELECT sum(count)::int8 AS count FROM ({unsettled}) AS under_way");
    while books::count(connection, &unsettled).await? > 0 && begin.elapsed() < REFUNDED_WITHIN {
        sleep(PAUSE).await;
    }
    Ok(())
}

fn some_time() -> Duration {
    Duration::from_millis(rand::rng().random_range(0..SPREAD_MS))
}
