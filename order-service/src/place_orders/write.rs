//! Writes what was decided: one statement per table.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Duration, Utc};
use common::api::{Order, OrderStatus, Reason};
use common::failpoint;
use common::ids::OrderId;
use common::messages::order::{OrderV1, Units};
use common::messages::stock::ReservedV1;
use diesel::sql_types::{Array, BigInt, Int4, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use uuid::Uuid;

use super::StockEvent;
use super::decide::{Books, Decision};
use crate::db::DbError;
use crate::db::statement::Kept;
use crate::machine::present_event;
use crate::orders::text;
use crate::outbox;
use crate::planted::TAKEN_COUNTED_TWICE;

/// The version of an order that has just been made.
const FIRST_VERSION: i64 = 1;

/// No `ON CONFLICT`: it would look each id up once more and write a second record of the log for each row. An order that
/// exists fails the statement instead, and the batch is done again with a look at what is known.
const INSERT: &str = "
WITH made AS (
    INSERT INTO orders (id, item_id, sale_id, user_id, quantity, unit_price_cents, currency, status, units, reason,
                        epoch, reserved_at, expires_at, version, created_at)
    SELECT n.*, 1, now()
      FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) AS n
 RETURNING id, version, status, units
)
INSERT INTO order_transitions (order_id, version, from_status, to_status, units)
SELECT id, version, NULL, status, units FROM made";

const TAKE: &str = "
UPDATE items SET taken = t.taken FROM unnest($1, $2) AS t (item_id, taken) WHERE items.id = t.item_id";

/// For [`TAKEN_COUNTED_TWICE`].
const COUNT_AGAIN: &str = "UPDATE items SET taken = taken + $2 WHERE id = $1 AND taken + $2 <= total";

/// Counts only for the newest right to load the item.
const FENCE: &str = "
UPDATE items SET fenced_epoch = f.epoch FROM unnest($1, $2, $3) AS f (item_id, epoch, token)
 WHERE items.id = f.item_id AND items.epoch = f.epoch AND items.epoch_token = f.token
   AND items.fenced_epoch < f.epoch";

/// Stores new orders with their log, raises `taken`, and puts into the outbox what there is to tell.
pub(super) async fn decisions(
    conn: &mut AsyncPgConnection,
    books: &Books,
    events: &[StockEvent],
    decisions: &[Decision],
) -> Result<(), DbError> {
    let mut new = Vec::with_capacity(events.len());
    let mut reserved_at = Vec::with_capacity(events.len());
    let mut known = BTreeSet::new();
    for (event, decision) in events.iter().zip(decisions) {
        let StockEvent::Reserved(reserved) = event else { continue };
        let reason = match decision {
            Decision::Place => None,
            Decision::Reject(reason) => Some(*reason),
            Decision::Known => {
                known.insert(reserved.order_id);
                continue;
            }
            Decision::Repeated | Decision::Fence | Decision::Park(_) => continue,
        };
        new.push(order(books, reserved, reason)?);
        reserved_at.push(reserved.reserved_at);
    }
    if !new.is_empty() {
        insert(conn, &new, reserved_at).await?;
        take(conn, books, &new).await?;
    }
    if failpoint::planted(TAKEN_COUNTED_TWICE) {
        count_again(conn, books, &known).await?;
    }
    tell(conn, books, new, known).await
}

/// Notes the fences of the batch: everything before them is in this transaction or an earlier one.
pub(super) async fn fences(conn: &mut AsyncPgConnection, events: &[StockEvent]) -> Result<(), DbError> {
    let (mut items, mut epochs, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
    for event in events {
        if let StockEvent::Fence(fence) = event {
            items.push(fence.item_id.0);
            epochs.push(fence.epoch);
            tokens.push(fence.token);
        }
    }
    if items.is_empty() {
        return Ok(());
    }
    let statement = diesel::sql_query(FENCE)
        .bind::<Array<SqlUuid>, _>(items)
        .bind::<Array<BigInt>, _>(epochs)
        .bind::<Array<SqlUuid>, _>(tokens);
    Kept(statement).execute(conn).await?;
    Ok(())
}

/// The order that a reservation becomes.
fn order(books: &Books, reserved: &ReservedV1, reason: Option<Reason>) -> Result<OrderV1, DbError> {
    let broken = |what: &str| DbError::Broken(format!("{what} of {}", reserved.order_id));
    let item = books.items.get(&reserved.item_id).ok_or_else(|| broken("item"))?;
    let total_cents = reserved.unit_price_cents.checked_mul(i64::from(reserved.quantity.get()));
    let (status, units, expires_at) = match reason {
        None => {
            let window = Duration::seconds(item.payment_window_seconds);
            (OrderStatus::PendingPayment, Units::Held, Some(books.now + window))
        }
        Some(_) => (OrderStatus::Rejected, Units::Returned, None),
    };
    Ok(OrderV1 {
        order: Order {
            id: reserved.order_id,
            item_id: reserved.item_id,
            sale_id: reserved.sale_id,
            quantity: reserved.quantity,
            unit_price_cents: reserved.unit_price_cents,
            total_cents: total_cents.ok_or_else(|| broken("price"))?,
            currency: reserved.currency.clone(),
            status,
            reason,
            refund: None,
            version: FIRST_VERSION,
            created_at: books.now,
            expires_at,
        },
        user_id: reserved.user_id.clone(),
        units,
        epoch: reserved.epoch,
    })
}

async fn insert(
    conn: &mut AsyncPgConnection,
    new: &[OrderV1],
    reserved_at: Vec<DateTime<Utc>>,
) -> Result<(), DbError> {
    let reasons = new.iter().map(|new| new.order.reason.as_ref().map(text).transpose());
    let statement = diesel::sql_query(INSERT)
        .bind::<Array<SqlUuid>, _>(column(new, |new| new.order.id.0))
        .bind::<Array<SqlUuid>, _>(column(new, |new| new.order.item_id.0))
        .bind::<Array<SqlUuid>, _>(column(new, |new| new.order.sale_id.0))
        .bind::<Array<Text>, _>(column(new, |new| new.user_id.as_str().to_owned()))
        .bind::<Array<Int4>, _>(column(new, |new| {
            i32::try_from(new.order.quantity.get()).unwrap_or(i32::MAX)
        }))
        .bind::<Array<BigInt>, _>(column(new, |new| new.order.unit_price_cents))
        .bind::<Array<Text>, _>(column(new, |new| new.order.currency.as_str().to_owned()))
        .bind::<Array<Text>, _>(texts(new, |new| text(&new.order.status))?)
        .bind::<Array<Text>, _>(texts(new, |new| text(&new.units))?)
        .bind::<Array<Nullable<Text>>, _>(reasons.collect::<Result<Vec<_>, _>>()?)
        .bind::<Array<BigInt>, _>(column(new, |new| new.epoch))
        .bind::<Array<Timestamptz>, _>(reserved_at)
        .bind::<Array<Nullable<Timestamptz>>, _>(column(new, |new| new.order.expires_at));
    Kept(statement).execute(conn).await?;
    Ok(())
}

/// Writes `taken` of the items of which something was taken.
async fn take(conn: &mut AsyncPgConnection, books: &Books, new: &[OrderV1]) -> Result<(), DbError> {
    let held = new.iter().filter(|new| new.units == Units::Held);
    let taken: BTreeMap<Uuid, i64> = held
        .filter_map(|new| books.items.get(&new.order.item_id).map(|item| (new.order.item_id.0, item.taken)))
        .collect();
    if taken.is_empty() {
        return Ok(());
    }
    let (items, taken): (Vec<Uuid>, Vec<i64>) = taken.into_iter().unzip();
    let statement = diesel::sql_query(TAKE).bind::<Array<SqlUuid>, _>(items).bind::<Array<BigInt>, _>(taken);
    // The constraint on `taken` is the backstop against any mistake in the decisions.
    Kept(statement).execute(conn).await?;
    Ok(())
}

/// A planted mistake: raises `taken` for orders that are counted already.
async fn count_again(
    conn: &mut AsyncPgConnection,
    books: &Books,
    known: &BTreeSet<OrderId>,
) -> Result<(), DbError> {
    for order in known.iter().filter_map(|id| books.known.get(id)) {
        let statement = diesel::sql_query(COUNT_AGAIN)
            .bind::<SqlUuid, _>(order.order.item_id.0)
            .bind::<BigInt, _>(i64::from(order.order.quantity.get()));
        Kept(statement).execute(conn).await?;
    }
    Ok(())
}

/// New orders, and the present state of known ones, so that the inventory settles them.
async fn tell(
    conn: &mut AsyncPgConnection,
    books: &Books,
    new: Vec<OrderV1>,
    known: BTreeSet<OrderId>,
) -> Result<(), DbError> {
    let known = known.into_iter().filter_map(|id| books.known.get(&id).cloned());
    let mut by_kind: BTreeMap<&str, Vec<OrderV1>> = BTreeMap::new();
    for order in new.into_iter().chain(known) {
        if let Some(kind) = present_event(order.order.status) {
            by_kind.entry(kind).or_default().push(order);
        }
    }
    for (kind, orders) in by_kind {
        outbox::push_orders(conn, kind, books.now, &orders).await?;
    }
    Ok(())
}

fn column<T>(new: &[OrderV1], value: impl Fn(&OrderV1) -> T) -> Vec<T> {
    new.iter().map(value).collect()
}

fn texts(
    new: &[OrderV1],
    value: impl Fn(&OrderV1) -> Result<String, DbError>,
) -> Result<Vec<String>, DbError> {
    new.iter().map(value).collect()
}
