//! The books of a sale, counted afresh from the stores when everything has come to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::ids::{ItemId, OrderId, SaleId};
use diesel::sql_types::{BigInt, Integer, Text, Uuid as SqlUuid};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use e2e::crowd::Tally;
use tokio::time::Instant;
use uuid::Uuid;

use super::Outcome;
use super::stage::Stage;

/// How long a drill waits for quiet before it calls that a violation. The promised bounds are measured apart.
const QUIET_WITHIN: Duration = Duration::from_secs(90);

#[derive(QueryableByName)]
struct OrderRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    item_id: Uuid,
    #[diesel(sql_type = Text)]
    status: String,
    #[diesel(sql_type = Text)]
    units: String,
    #[diesel(sql_type = Integer)]
    quantity: i32,
}

#[derive(QueryableByName)]
struct ItemRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = BigInt)]
    total: i64,
    #[diesel(sql_type = BigInt)]
    taken: i64,
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// What buyers were promised in one sale.
#[derive(Debug, Default)]
pub(super) struct Promises {
    /// Every order that was answered 202.
    pub(super) accepted: BTreeSet<OrderId>,
    /// Answers that the API does not document.
    pub(super) strange: Vec<String>,
}

impl Promises {
    pub(super) fn add(&mut self, tally: Tally) {
        self.accepted.extend(tally.accepted.iter().map(|(_, order)| *order));
        self.strange.extend(tally.strange);
    }
}

/// Connects to the database of order-service, past every proxy.
pub(super) async fn connect(stage: &Stage) -> anyhow::Result<AsyncPgConnection> {
    Ok(AsyncPgConnection::establish(&stage.world.services.orders_database().url()).await?)
}

/// Rows that a statement counts.
pub(super) async fn count(connection: &mut AsyncPgConnection, statement: &str) -> anyhow::Result<u64> {
    let row: Count = sql_query(statement).get_result(connection).await?;
    Ok(u64::try_from(row.count)?)
}

/// Waits for quiet, then holds the books of a sale against what was promised. Says how long quiet took.
pub(super) async fn settle(
    stage: &Stage,
    sale: SaleId,
    promises: &Promises,
    outcome: &mut Outcome,
) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    if let Err(error) = stage.client.wait_until_quiet(&stage.admin, sale, QUIET_WITHIN).await {
        outcome.violations.push(format!("sale {sale}: {error:#}"));
    }
    let quiet = begin.elapsed();
    let mut connection = connect(stage).await?;
    let orders: Vec<OrderRow> =
        sql_query("SELECT id, item_id, status, units, quantity FROM orders WHERE sale_id = $1")
            .bind::<SqlUuid, _>(sale.0)
            .load(&mut connection)
            .await?;
    let items: Vec<ItemRow> = sql_query("SELECT id, total, taken FROM items WHERE sale_id = $1")
        .bind::<SqlUuid, _>(sale.0)
        .load(&mut connection)
        .await?;

    let known: BTreeMap<OrderId, &str> =
        orders.iter().map(|order| (OrderId(order.id), order.status.as_str())).collect();
    for order in &promises.accepted {
        match known.get(order) {
            None => outcome.lost += 1,
            Some(&"rejected") => outcome.broken += 1,
            Some(_) => {}
        }
    }
    // Everybody asked until the answer was final: who was refused has no order.
    let phantoms = known.keys().filter(|order| !promises.accepted.contains(order)).count();
    outcome.require(phantoms == 0, format_args!("sale {sale}: {phantoms} orders that nobody was promised"));
    outcome.accepted += u64::try_from(promises.accepted.len())?;
    for item in items {
        let of_item = orders.iter().filter(|order| order.item_id == item.id && order.units != "returned");
        let taken: i64 = of_item.map(|order| i64::from(order.quantity)).sum();
        outcome.oversold += u64::try_from((taken - item.total).max(0))?;
        let name = ItemId(item.id);
        outcome.require(
            taken == item.taken,
            format_args!("item {name}: {taken} units in orders, {} in the item's row", item.taken),
        );
    }
    outcome.violations.extend(promises.strange.iter().map(|what| format!("sale {sale}: {what}")));
    Ok(quiet)
}

/// Nothing of good orders may have been parked.
pub(super) async fn nothing_parked(stage: &Stage, outcome: &mut Outcome) -> anyhow::Result<()> {
    let parked = count(&mut connect(stage).await?, "SELECT count(*) AS count FROM dead_letters").await?;
    outcome.require(parked == 0, format_args!("{parked} messages were parked"));
    Ok(())
}
