//! The one way in which an order that exists changes.
//!
//! Payment, cancel and expiry race on the condition of one update: whoever comes second changes nothing and sees what
//! the first one made of the order. Locks are taken in one order everywhere: orders before items, items by id.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Utc};
use common::api::{OrderStatus, RefundState};
use common::failpoint;
use common::ids::OrderId;
use common::messages::order::{self, OrderV1, Units};
use diesel::sql_types::{Array, BigInt, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel::{ExpressionMethods as _, QueryDsl as _, QueryableByName};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use uuid::Uuid;

use crate::db::DbError;
use crate::db::schema::items;
use crate::db::statement::Kept;
use crate::machine::{self, OrderStep};
use crate::orders::{OrderRow, into_orders, text};
use crate::{outbox, planted};

/// Changes the orders and writes the log in one statement; only those that are where the step begins.
const STEP: &str = "
WITH changed AS (
    UPDATE orders
       SET status = $1, units = $2, refund = coalesce($3, refund), version = version + 1
     WHERE id = ANY($4) AND status = $5 AND units = $6
 RETURNING *
), logged AS (
    INSERT INTO order_transitions (order_id, version, from_status, to_status, units)
    SELECT id, version, $5, status, units FROM changed
)
SELECT *, now() AS now FROM changed";

/// Changes what the order shows of its refund, and nothing else of it.
const REFUND: &str = "
WITH changed AS (
    UPDATE orders SET refund = $1, version = version + 1
     WHERE id = $2 AND refund IS DISTINCT FROM $1
 RETURNING *
), logged AS (
    INSERT INTO order_transitions (order_id, version, from_status, to_status, units)
    SELECT id, version, status, status, units FROM changed
)
SELECT *, now() AS now FROM changed";

const GIVE_BACK: &str = "
UPDATE items SET taken = taken - back.units
  FROM unnest($1, $2) AS back (item_id, units)
 WHERE items.id = back.item_id";

#[derive(QueryableByName)]
struct Clock {
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
}

#[derive(QueryableByName)]
struct Changed {
    #[diesel(embed)]
    order: OrderRow,
    #[diesel(embed)]
    clock: Clock,
}

/// Takes those of `orders` to `to` that are in the state from which the table leads there, and returns them as they
/// are now. Those that are not returned were somewhere else and have not changed.
///
/// In the caller's transaction: the change, its log, the units that return to their items, the event. `refund`
/// says what the order shows of its refund from now on; `None` leaves it.
///
/// # Errors
/// The database's; [`DbError::Broken`] if the table has no such step or the books would not balance.
pub async fn transition(
    conn: &mut AsyncPgConnection,
    orders: &[OrderId],
    to: OrderStatus,
    refund: Option<RefundState>,
) -> Result<Vec<OrderV1>, DbError> {
    let step = machine::order_step(to).ok_or_else(|| DbError::Broken(format!("no step leads to {to:?}")))?;
    let Some(units_from) = step.units_from else {
        return Err(DbError::Broken(format!("{to:?} is where orders begin")));
    };
    let ids: Vec<Uuid> = orders.iter().map(|id| id.0).collect();
    let refund = refund.as_ref().map(text).transpose()?;
    let statement = diesel::sql_query(STEP)
        .bind::<Text, _>(text(&step.to)?)
        .bind::<Text, _>(text(&step.units_to)?)
        .bind::<Nullable<Text>, _>(refund)
        .bind::<Array<SqlUuid>, _>(ids)
        .bind::<Text, _>(text(&step.from)?)
        .bind::<Text, _>(text(&units_from)?);
    let rows: Vec<Changed> = Kept(statement).load(conn).await?;
    let Some(at) = rows.as_slice().first().map(|row| row.clock.now) else { return Ok(Vec::new()) };
    let changed = orders_of(rows)?;
    check(step, orders, &changed)?;
    let cancelled = to == OrderStatus::Cancelled;
    if let Some(kind) = step.event.filter(|_| !(cancelled && failpoint::planted(planted::CANCEL_UNTOLD))) {
        outbox::push_orders(conn, kind, at, &as_told(&changed)).await?;
    }
    // Last, because everybody who sells or returns this item waits for its row.
    let keeps = cancelled && failpoint::planted(planted::CANCEL_KEEPS_UNITS);
    if step.units_to == Units::Returned && !keeps {
        give_back(conn, &changed).await?;
    }
    metrics::counter!("order_transitions_total", "to" => text(&to)?)
        .increment(u64::try_from(changed.len()).unwrap_or(u64::MAX));
    Ok(changed)
}

/// Shows on an order what became of a payment that came too late; the order stays as it is. `None` when it showed
/// that already, or there is no such order. A finished refund is told by `order.refunded.v1`.
///
/// # Errors
/// The database's.
pub async fn show_refund(
    conn: &mut AsyncPgConnection,
    id: OrderId,
    refund: RefundState,
) -> Result<Option<OrderV1>, DbError> {
    let statement = diesel::sql_query(REFUND).bind::<Text, _>(text(&refund)?).bind::<SqlUuid, _>(id.0);
    let rows: Vec<Changed> = Kept(statement).load(conn).await?;
    let Some(at) = rows.as_slice().first().map(|row| row.clock.now) else { return Ok(None) };
    let changed = orders_of(rows)?;
    if refund == RefundState::Done {
        outbox::push_orders(conn, order::REFUNDED_V1, at, &changed).await?;
    }
    Ok(changed.into_iter().next())
}

/// The time of the transaction by the database's clock.
///
/// # Errors
/// The database's.
pub async fn now(conn: &mut AsyncPgConnection) -> Result<DateTime<Utc>, DbError> {
    let clock: Clock = Kept(diesel::sql_query("SELECT now() AS now")).get_result(conn).await?;
    Ok(clock.now)
}

fn orders_of(rows: Vec<Changed>) -> Result<Vec<OrderV1>, DbError> {
    into_orders(rows.into_iter().map(|row| row.order).collect())
}

/// The orders as they are; with a planted mistake, as if they were older.
fn as_told(changed: &[OrderV1]) -> Vec<OrderV1> {
    let mut told = changed.to_vec();
    if failpoint::planted(planted::EVENT_WITH_OLD_VERSION) {
        told.iter_mut().for_each(|order| order.order.version -= 1);
    }
    told
}

/// Nothing else may have changed than the step says.
fn check(step: &OrderStep, asked: &[OrderId], changed: &[OrderV1]) -> Result<(), DbError> {
    let asked: HashSet<&OrderId> = asked.iter().collect();
    let as_it_should = |order: &OrderV1| {
        order.order.status == step.to && order.units == step.units_to && asked.contains(&order.order.id)
    };
    if changed.len() > asked.len() || !changed.iter().all(as_it_should) {
        metrics::counter!("invariant_violations_total").increment(1);
        return Err(DbError::Broken(format!("the step to {:?} changed something else", step.to)));
    }
    Ok(())
}

/// Lowers `taken` of the items by the units of `orders`, which have just gone to `returned`.
async fn give_back(conn: &mut AsyncPgConnection, orders: &[OrderV1]) -> Result<(), DbError> {
    let mut units: BTreeMap<Uuid, i64> = BTreeMap::new();
    for order in orders {
        *units.entry(order.order.item_id.0).or_default() += i64::from(order.order.quantity.get());
    }
    let (ids, units): (Vec<Uuid>, Vec<i64>) = units.into_iter().unzip();
    if ids.len() > 1 {
        // An update locks in whatever order it finds the rows; two batches could wait for each other.
        let locked: Vec<Uuid> = items::table
            .filter(items::id.eq_any(&ids))
            .order(items::id)
            .select(items::id)
            .for_no_key_update()
            .load(conn)
            .await?;
        debug_assert_eq!(locked.len(), ids.len());
    }
    let expected = ids.len();
    let statement =
        diesel::sql_query(GIVE_BACK).bind::<Array<SqlUuid>, _>(ids).bind::<Array<BigInt>, _>(units);
    // The constraint on `taken` refuses to give back more than was taken.
    let updated = Kept(statement).execute(conn).await?;
    if updated != expected {
        metrics::counter!("invariant_violations_total").increment(1);
        return Err(DbError::Broken("units came back to an item that does not exist".to_owned()));
    }
    Ok(())
}
