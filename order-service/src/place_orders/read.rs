//! What a batch is decided on: items under lock, known orders, what buyers have.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use common::ids::{ItemId, SaleId, UserId};
use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Int4, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use uuid::Uuid;

use super::decide::{Books, Item};
use super::{Look, StockEvent};
use crate::db::DbError;
use crate::db::statement::Kept;
use crate::orders::{OrderRow, into_orders, parse};

/// Locked by id, as everywhere, so that nobody waits in a circle. Items of drafts are not for sale.
const LOCK_ITEMS: &str = "
SELECT i.id, i.sale_id, i.price_cents, i.currency, i.total, i.taken, i.per_user_limit, i.epoch,
       s.payment_window_seconds, now() AS now
  FROM items i JOIN sales s ON s.id = i.sale_id
 WHERE i.id = ANY($1) AND s.published_at IS NOT NULL
 ORDER BY i.id
   FOR NO KEY UPDATE OF i";

const KNOWN_ORDERS: &str = "SELECT * FROM orders WHERE id = ANY($1)";

/// One look into the index per buyer. A join could be planned as a read of the whole table while it is new.
const USAGE: &str = "
SELECT b.item_id, b.user_id,
       (SELECT coalesce(sum(o.quantity), 0) FROM orders o
         WHERE o.item_id = b.item_id AND o.user_id = b.user_id AND o.units <> 'returned') AS units
  FROM unnest($1, $2) AS b (item_id, user_id)";

#[derive(QueryableByName)]
struct ItemRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    sale_id: Uuid,
    #[diesel(sql_type = BigInt)]
    price_cents: i64,
    #[diesel(sql_type = Text)]
    currency: String,
    #[diesel(sql_type = BigInt)]
    total: i64,
    #[diesel(sql_type = BigInt)]
    taken: i64,
    #[diesel(sql_type = Int4)]
    per_user_limit: i32,
    #[diesel(sql_type = BigInt)]
    epoch: i64,
    #[diesel(sql_type = Int4)]
    payment_window_seconds: i32,
    #[diesel(sql_type = Timestamptz)]
    now: DateTime<Utc>,
}

#[derive(QueryableByName)]
struct UsageRow {
    #[diesel(sql_type = SqlUuid)]
    item_id: Uuid,
    #[diesel(sql_type = Text)]
    user_id: String,
    #[diesel(sql_type = BigInt)]
    units: i64,
}

/// Everything that the decisions about `events` need; the items stay locked until the transaction ends.
pub(super) async fn books(
    conn: &mut AsyncPgConnection,
    events: &[StockEvent],
    look: Look,
) -> Result<Books, DbError> {
    let mut books = Books::default();
    lock_items(conn, events, &mut books).await?;
    if books.items.is_empty() {
        return Ok(books);
    }
    if look == Look::Up {
        let orders: Vec<Uuid> = reserved(events).map(|reserved| reserved.order_id.0).collect();
        let known: Vec<OrderRow> =
            Kept(diesel::sql_query(KNOWN_ORDERS).bind::<Array<SqlUuid>, _>(orders)).load(conn).await?;
        books.known = into_orders(known)?.into_iter().map(|order| (order.order.id, order)).collect();
    }
    books.usage = usage(conn, events, &books).await?;
    Ok(books)
}

async fn lock_items(
    conn: &mut AsyncPgConnection,
    events: &[StockEvent],
    books: &mut Books,
) -> Result<(), DbError> {
    let ids: BTreeSet<Uuid> = events.iter().map(|event| item_of(event).0).collect();
    let ids: Vec<Uuid> = ids.into_iter().collect();
    let statement = Kept(diesel::sql_query(LOCK_ITEMS).bind::<Array<SqlUuid>, _>(ids));
    for row in statement.load::<ItemRow>(conn).await? {
        books.now = row.now;
        let item = Item {
            sale_id: SaleId(row.sale_id),
            price_cents: row.price_cents,
            currency: parse("items.currency", &row.currency)?,
            total: row.total,
            taken: row.taken,
            per_user_limit: i64::from(row.per_user_limit),
            payment_window_seconds: i64::from(row.payment_window_seconds),
            epoch: row.epoch,
        };
        books.items.insert(ItemId(row.id), item);
    }
    Ok(())
}

/// Units that the buyers of new orders have already.
async fn usage(
    conn: &mut AsyncPgConnection,
    events: &[StockEvent],
    books: &Books,
) -> Result<HashMap<(ItemId, UserId), i64>, DbError> {
    let buyers: BTreeSet<(Uuid, &str)> = reserved(events)
        .filter(|reserved| !books.known.contains_key(&reserved.order_id))
        .map(|reserved| (reserved.item_id.0, reserved.user_id.as_str()))
        .collect();
    if buyers.is_empty() {
        return Ok(HashMap::new());
    }
    let (items, users): (Vec<Uuid>, Vec<&str>) = buyers.into_iter().unzip();
    let statement = diesel::sql_query(USAGE).bind::<Array<SqlUuid>, _>(items).bind::<Array<Text>, _>(users);
    let rows: Vec<UsageRow> = Kept(statement).load(conn).await?;
    rows.into_iter()
        .map(|row| Ok(((ItemId(row.item_id), parse("orders.user_id", &row.user_id)?), row.units)))
        .collect()
}

fn reserved(events: &[StockEvent]) -> impl Iterator<Item = &common::messages::stock::ReservedV1> {
    events.iter().filter_map(|event| match event {
        StockEvent::Reserved(reserved) => Some(reserved),
        StockEvent::Fence(_) => None,
    })
}

fn item_of(event: &StockEvent) -> ItemId {
    match event {
        StockEvent::Reserved(reserved) => reserved.item_id,
        StockEvent::Fence(fence) => fence.item_id,
    }
}
