//! Two things at the same moment: the same key at two gateways, restock and sell-out, end of sale and order, two loaders.

use std::collections::BTreeSet;
use std::time::Duration;

use common::api::{Accepted, SaleItem};
use common::ids::{IdempotencyKey, OrderId, UserId};
use common::problem::Code;
use e2e::client::{Answer, Client};
use e2e::crowd::Buyer;
use futures_util::future::join_all;
use rand::Rng as _;
use reqwest::StatusCode;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::books::{self, Promises};
use super::report::say;
use super::rush::{Probe, Wave, probe};
use super::stage::Stage;
use super::{Outcome, Recovery};
use crate::fault::Fault;

/// Requests with the same key at each gateway, all at the same time.
const SAME_AT_ONCE: usize = 3;
/// Keys that are tried at the same time.
const KEYS_AT_ONCE: usize = 8;
/// Most attempts of one request until its answer is final.
const TRIES_MAX: u32 = 60;
const PAUSE: Duration = Duration::from_millis(200);
/// Units and buyers of each round.
const UNITS: u64 = 200;
const AT_ONCE: usize = 32;
const RESTOCKS: u32 = 20;
/// Units that were withdrawn and are not claimed come back sooner than they usually do, so that the drill is short.
const UNCLAIMED_SOON: [(&str, &str); 2] =
    [("STOCK_SERVICE__RECONCILE__WITHDRAWN_MS", "3000"), ("STOCK_SERVICE__RECONCILE__INTERVAL_MS", "1000")];
const AT_REST_WITHIN: Duration = Duration::from_secs(60);
/// Units that come back are offered after the sold-out lease: 1 s.
const LEASE: Duration = Duration::from_millis(1_500);
/// Retries after the end of a sale.
const ASKED_AGAIN: usize = 20;
/// How long a lost Redis has been loading when its loader is stopped, at most.
const LOADING_MS: u64 = 1_300;

/// Asks with one key until the answer is final.
pub(super) async fn insist(
    client: &Client,
    buyer: &Buyer,
    item: &SaleItem,
    key: &str,
) -> anyhow::Result<Answer> {
    let mut last = None;
    for _ in 0..TRIES_MAX {
        let answer = client.order(&buyer.token, item.id, key, 1).await;
        match answer {
            Ok(answer) if !is_passing(&answer) => return Ok(answer),
            passing => last = Some(passing),
        }
        sleep(PAUSE).await;
    }
    anyhow::bail!("no final answer for {key} of {}: {last:?}", buyer.user)
}

fn is_passing(answer: &Answer) -> bool {
    matches!(answer.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
}

/// The order of an accepted answer.
pub(super) fn accepted(answer: &Answer) -> Option<OrderId> {
    (answer.status == StatusCode::ACCEPTED)
        .then(|| answer.json::<Accepted>().ok())
        .flatten()
        .map(|body| body.order_id)
}

/// The order id that this user, item and key must give.
pub(super) fn expected(buyer: &Buyer, item: &SaleItem, key: &str) -> anyhow::Result<OrderId> {
    let invalid = |invalid: common::ids::Invalid| anyhow::anyhow!(invalid.0);
    let user = UserId::try_from(buyer.user.clone()).map_err(invalid)?;
    Ok(OrderId::derive(&user, item.id, &IdempotencyKey::try_from(key.to_owned()).map_err(invalid)?))
}

/// The same key, several times at each of two gateways at once, while the item sells out: one answer for all.
pub(super) async fn same_key(count: u64) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("same-key-two-gateways", count);
    let stage = Stage::start(2, &[]).await?;
    let crowd = stage.buyers("buyer", count).await?;
    let stock = (count * 3 / 4).max(1);
    let sale = stage.open_sale(stock, 1).await?;
    let (item, mut promises) = (&sale.items[0], Promises::default());
    for some in crowd.chunks(KEYS_AT_ONCE) {
        let asked = join_all(some.iter().map(|buyer| {
            let asked = (0..SAME_AT_ONCE * 2).map(|_| insist(&stage.client, buyer, item, "same"));
            async move { (buyer, join_all(asked).await) }
        }));
        for (buyer, answers) in asked.await {
            let answers = answers.into_iter().collect::<anyhow::Result<Vec<Answer>>>()?;
            let orders: BTreeSet<OrderId> = answers.iter().filter_map(accepted).collect();
            let granted = answers.iter().filter(|answer| accepted(answer).is_some()).count();
            outcome.require(
                granted == 0 || granted == answers.len(),
                format_args!("{}: {granted} of {} equal requests were accepted", buyer.user, answers.len()),
            );
            outcome.require(
                orders.iter().all(|order| Some(*order) == expected(buyer, item, "same").ok()),
                format_args!("{}: one key, orders {orders:?}", buyer.user),
            );
            promises.accepted.extend(orders);
        }
    }
    let sold = u64::try_from(promises.accepted.len())?;
    outcome.require(sold == stock, format_args!("{sold} of {stock} units were sold"));
    outcome.figure("requests", count * u64::try_from(SAME_AT_ONCE * 2)?);
    books::settle(&stage, sale.id, &promises, &mut outcome).await?;
    books::nothing_parked(&stage, &mut outcome).await?;
    Ok(outcome)
}

/// An admin adds and takes away units while buyers take them; in the end everything is sold, and no more.
pub(super) async fn restock(count: u64) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("restock-and-sell-out", count);
    let stage = Stage::start(1, &UNCLAIMED_SOON).await?;
    let (first, second) = (stage.buyers("first", UNITS * 2).await?, stage.buyers("second", UNITS * 4).await?);
    for round in 0..count {
        let sale = stage.open_sale(UNITS, 1).await?;
        let (item, mut promises) = (&sale.items[0], Promises::default());
        let wave = Wave::start(&stage.client, first.to_vec(), item.id, AT_ONCE);
        let (mut total, mut refused) = (i64::try_from(UNITS)?, 0);
        for _ in 0..RESTOCKS {
            let units: i64 = rand::rng().random_range(-15..=25);
            let path = format!("/api/v1/admin/items/{}/restock", item.id);
            let answer = stage.client.post(&path, &stage.admin, &json!({ "units": units })).await?;
            // Refused where more is taken already.
            if answer.status.is_success() {
                total += units
            } else {
                refused += 1
            }
            sleep(Duration::from_millis(rand::rng().random_range(0..60))).await;
        }
        promises.add(wave.end().await?);
        // What was raised and lowered faster than the news of it travels is back on offer when nobody has claimed it.
        stage.client.wait_until_quiet(&stage.admin, sale.id, AT_REST_WITHIN).await?;
        sleep(LEASE).await;
        promises.add(Wave::start(&stage.client, second.to_vec(), item.id, AT_ONCE).end().await?);
        let sold = i64::try_from(promises.accepted.len())?;
        outcome.require(sold == total, format_args!("sale {}: {sold} sold of {total} units", sale.id));
        books::settle(&stage, sale.id, &promises, &mut outcome).await?;
        stage.tell_sale(sale.id, "end").await?;
        say(&format!(
            "  {}/{count}: {UNITS} units became {total} ({refused} changes refused), {sold} sold",
            round + 1
        ));
    }
    books::nothing_parked(&stage, &mut outcome).await?;
    Ok(outcome)
}

/// A sale ends while orders arrive: whoever was accepted has an order, nobody else has, and a retry is told the same.
pub(super) async fn end_of_sale(count: u64) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("end-of-sale-and-order", count);
    let stage = Stage::start(2, &[]).await?;
    let crowd = stage.buyers("buyer", UNITS).await?;
    for round in 0..count {
        let sale = stage.open_sale(UNITS, 1).await?;
        let (item, mut promises) = (&sale.items[0], Promises::default());
        let wave = Wave::start(&stage.client, crowd.to_vec(), item.id, AT_ONCE);
        wave.under_way(rand::rng().random_range(0..UNITS * 3 / 4)).await;
        stage.tell_sale(sale.id, "end").await?;
        let tally = wave.end().await?;
        let winners: Vec<(usize, OrderId)> = tally.accepted.clone();
        promises.add(tally);
        let key = format!("rush-{}", item.id);
        for (buyer, order) in winners.iter().take(ASKED_AGAIN) {
            let again = insist(&stage.client, &crowd[*buyer], item, &key).await?;
            outcome.require(
                accepted(&again) == Some(*order),
                format_args!("order {order} asked again: {}", again.status),
            );
        }
        let stranger = insist(&stage.client, &crowd[0], item, "after-the-end").await?;
        // Whichever came first.
        let sold_out = winners.len() == usize::try_from(UNITS)? && stranger.code() == Some(Code::SoldOut);
        outcome.require(
            sold_out || stranger.code() == Some(Code::Ended),
            format_args!("a new order after the end: {} {:?}", stranger.status, stranger.code()),
        );
        books::settle(&stage, sale.id, &promises, &mut outcome).await?;
        say(&format!("  {}/{count}: {} orders before the end", round + 1, winners.len()));
    }
    books::nothing_parked(&stage, &mut outcome).await?;
    Ok(outcome)
}

/// Redis is emptied; whoever loads it is stopped on the way, the other replica takes over, and the first one wakes up.
pub(super) async fn two_rebuilders(count: u64) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("two-rebuilders", count);
    let mut stage = Stage::start(2, &[]).await?;
    let wave_size = 60;
    let crowd = stage.buyers("buyer", wave_size * count).await?;
    let probes = stage.buyers("probe", count).await?;
    let sale = stage.open_sale((wave_size + 1) * count, 1).await?;
    let (item, mut promises) = (sale.items[0].id, Promises::default());
    let mut recoveries = Vec::new();
    let rounds = crowd.chunks(usize::try_from(wave_size)?).zip(probes.iter());
    for (round, (buyers, prober)) in rounds.enumerate() {
        let wave = Wave::start(&stage.client, buyers.to_vec(), item, AT_ONCE);
        wave.under_way(wave_size / 3).await;
        Fault::EmptyRedis.inject(&mut stage.world).await?;
        let lost = Instant::now();
        sleep(Duration::from_millis(rand::rng().random_range(0..LOADING_MS))).await;
        let stopped = Fault::Freeze { process: ["stock-service", "stock-service-2"][round % 2].to_owned() };
        stopped.inject(&mut stage.world).await?;
        let found = probe(&stage.client, prober, item, lost).await;
        stopped.heal(&mut stage.world).await?;
        if let Probe::Open(time, order) = found? {
            promises.accepted.insert(order);
            recoveries.push(time);
        }
        promises.add(wave.end().await?);
        say(&format!("  {}/{count}: open after {:?}", round + 1, recoveries.last()));
    }
    outcome.recovery_ms = Recovery::of(&recoveries);
    books::settle(&stage, sale.id, &promises, &mut outcome).await?;
    books::nothing_parked(&stage, &mut outcome).await?;
    Ok(outcome)
}
