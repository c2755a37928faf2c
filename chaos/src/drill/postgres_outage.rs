//! Postgres is killed in the middle of a sale and stays away; reserving goes on, and the backlog drains when it is back.

use std::time::Duration;

use common::api::OrderStatus;
use e2e::crowd::Buyer;
use testkit::{Database, PostgresServer, Redis, Stores, Vhost};
use tokio::time::{Instant, sleep};

use super::Outcome;
use super::books::{self, Promises};
use super::report::{milliseconds, say};
use super::rush::Wave;
use super::stage::Stage;

/// Orders of this many buyers are there before Postgres goes.
const BEFORE: u64 = 200;
const AT_ONCE: usize = 64;
/// How long Postgres is away at least, with the full backlog.
const AWAY: Duration = Duration::from_secs(60);
const FULL_BACKLOG: u64 = 10_000;
/// Least time away, for smaller backlogs: longer than every connect, statement and pool time-out.
const AWAY_LEAST: Duration = Duration::from_secs(12);
/// Of the orders that wait, this many are looked at.
const LOOKED_AT: usize = 20;
/// The whole backlog is in Postgres again.
const DRAINED_WITHIN: Duration = Duration::from_secs(15);
const DRAIN_GIVEN_UP: Duration = Duration::from_secs(120);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

pub(super) async fn run(count: u64) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("postgres-outage", count);
    let mut postgres = PostgresServer::start().await;
    let (orders, notify) =
        (Database::create_on(&postgres, "orders").await, Database::create_on(&postgres, "notify").await);
    let stores = Stores { redis: Redis::start().await, vhost: Vhost::create().await, orders, notify };
    let stage = Stage::start_on(stores, 1, &[]).await?;
    let before = stage.buyers("early", BEFORE).await?;
    let during = stage.buyers("buyer", count).await?;
    let sale = stage.open_sale(BEFORE + count + 100, 1).await?;
    let (item, mut promises) = (sale.items[0].id, Promises::default());
    let early = Wave::start(&stage.client, before.to_vec(), item, AT_ONCE);
    early.under_way(BEFORE / 2).await;

    postgres.stop();
    let stopped = Instant::now();
    say("  Postgres is killed");
    promises.add(early.end().await?);
    let wave = Wave::start(&stage.client, during.to_vec(), item, AT_ONCE);
    let tally = wave.end().await?;
    say(&format!(
        "  {} of {count} orders accepted in {} s",
        tally.accepted.len(),
        stopped.elapsed().as_secs()
    ));
    outcome.require(
        tally.accepted.len() == usize::try_from(count)?,
        format_args!(
            "without Postgres {} of {count} orders were accepted: {:?}",
            tally.accepted.len(),
            tally.refused
        ),
    );
    let queued: Vec<_> =
        tally.accepted.iter().take(LOOKED_AT).map(|(buyer, order)| (&during[*buyer], *order)).collect();
    for (buyer, order) in queued {
        look(&stage, buyer, order, &mut outcome).await;
    }
    promises.add(tally);
    let away = if count >= FULL_BACKLOG { AWAY } else { AWAY_LEAST };
    sleep(away.saturating_sub(stopped.elapsed())).await;
    outcome.figure("away_ms", milliseconds(stopped.elapsed()));

    postgres.resume().await;
    let drained = drain(&stage, promises.accepted.len(), &mut outcome).await?;
    outcome.figure("backlog", count);
    outcome.bound("backlog gone", drained, DRAINED_WITHIN);
    let quiet = books::settle(&stage, sale.id, &promises, &mut outcome).await?;
    outcome.figure("quiet_ms_after_backlog", milliseconds(quiet));
    books::nothing_parked(&stage, &mut outcome).await?;
    // The server outlives the services, and they the drill.
    drop(stage);
    drop(postgres);
    Ok(outcome)
}

/// The status of an order that is not in Postgres yet.
async fn look(stage: &Stage, buyer: &Buyer, order: common::ids::OrderId, outcome: &mut Outcome) {
    match stage.client.order_state(&buyer.token, order).await {
        Ok(state) => outcome.require(
            state.status == OrderStatus::Queued,
            format_args!("order {order} is {:?} without Postgres", state.status),
        ),
        Err(error) => {
            outcome.violations.push(format!("order {order} is not shown without Postgres: {error:#}"))
        }
    }
}

/// Waits until every accepted order is in Postgres, and says how long it took.
async fn drain(stage: &Stage, accepted: usize, outcome: &mut Outcome) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let mut connection = books::connect(stage).await?;
    loop {
        let stored = books::count(&mut connection, "SELECT count(*) AS count FROM orders").await?;
        if stored >= u64::try_from(accepted)? || begin.elapsed() > DRAIN_GIVEN_UP {
            outcome.figure("orders_stored", stored);
            return Ok(begin.elapsed());
        }
        sleep(POLL_INTERVAL).await;
    }
}
