//! What stock-service is told: the right to load an item, its definition, and its orders.

use std::time::Duration;

use chrono::{DateTime, Utc};
use common::api::inventory::{
    AdminHold, EpochGranted, ItemDefinition, ItemStock, LiveItem, LiveItems, StockOrder,
};
use common::failpoint;
use common::ids::{ItemId, OrderId, SaleId};
use common::messages::order::OrderV1;
use diesel::OptionalExtension as _;
use diesel::QueryableByName;
use diesel::sql_types::{Array, BigInt, Bool, Int4, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::db::statement::Kept;
use crate::db::{Db, DbError};
use crate::orders::{OrderRow, into_orders, parse};
use crate::planted::FENCE_NOT_AWAITED;

/// Most order ids of one lookup.
pub const LOOKUP_MAX: usize = 256;
/// Longest wait for a fence.
pub const FENCE_WAIT_MAX: Duration = Duration::from_secs(10);
/// How soon to look again whether the fence has come through, and how rarely at last. Many items may wait at once, behind
/// the same queue, and whoever looks takes a connection from those who work it off.
const FENCE_POLL_FIRST: Duration = Duration::from_millis(15);
const FENCE_POLL_LONGEST: Duration = Duration::from_millis(120);

const GRANT_EPOCH: &str = "
UPDATE items SET epoch = greatest(epoch, $3) + 1, epoch_token = $2 FROM sales s
 WHERE items.id = $1 AND s.id = items.sale_id AND s.published_at IS NOT NULL
RETURNING items.epoch AS epoch";

/// An item is settled when its sale is over and none of its orders waits for payment.
const DEFINITION: &str = "
SELECT i.id, i.sale_id, i.version, s.starts_at, s.ends_at, s.paused_at IS NOT NULL AS paused,
       s.ended_at IS NOT NULL AS ended, i.total, i.per_user_limit, i.price_cents, i.currency,
       i.epoch, i.epoch_token, i.fenced_epoch,
       coalesce(s.ended_at, s.ends_at) <= now()
           AND NOT EXISTS (SELECT 1 FROM orders o WHERE o.item_id = i.id AND o.status = 'pending_payment')
           AS settled,
       s.waiting_room, s.challenge
  FROM items i JOIN sales s ON s.id = i.sale_id
 WHERE i.id = $1 AND s.published_at IS NOT NULL";

/// Items stay listed for two days after their sale, which is longer than any of its orders can wait for payment; and
/// longer where orders are overdue because nobody was there to end them. Until then the inventory may hold their keys.
const LIVE: &str = "
SELECT i.id, i.version, i.epoch, coalesce(s.ended_at, s.ends_at) AS ends_at FROM items i JOIN sales s ON s.id = i.sale_id
 WHERE s.published_at IS NOT NULL
   AND (coalesce(s.ended_at, s.ends_at) > now() - interval '2 days'
        OR i.id IN (SELECT o.item_id FROM orders o
                     WHERE o.status = 'pending_payment' AND o.expires_at < now() - interval '1 hour'))
 ORDER BY i.id";

const FENCED: &str = "SELECT epoch, epoch_token, fenced_epoch FROM items WHERE id = $1";
const ORDERS_OF_ITEM: &str = "SELECT * FROM orders WHERE item_id = $1";
/// Pages follow the index by item and user. An order that has just changed is left out: its news may be on their way.
/// One look into the index per order: as an anti-join it would be planned as a read of all transitions. In a sale most orders
/// are new, which is seen without that look; in a `CASE`, as a condition of its own might be planned as a read of all old orders.
const QUIET_ORDERS: &str = "
SELECT * FROM orders o
 WHERE item_id = $1 AND (user_id, id) > ($2, $3)
   AND CASE WHEN o.created_at > now() - interval '10 seconds' THEN false
            ELSE coalesce((SELECT max(t.at) FROM order_transitions t WHERE t.order_id = o.id)
                          <= now() - interval '10 seconds', true) END
 ORDER BY user_id, id LIMIT $4";
const LOOKUP: &str = "SELECT * FROM orders WHERE id = ANY($1) AND item_id = $2";

#[derive(QueryableByName)]
struct Granted {
    #[diesel(sql_type = BigInt)]
    epoch: i64,
}

#[derive(QueryableByName)]
struct Fence {
    #[diesel(sql_type = BigInt)]
    epoch: i64,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    epoch_token: Option<Uuid>,
    #[diesel(sql_type = BigInt)]
    fenced_epoch: i64,
}

#[derive(QueryableByName)]
struct LiveRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = BigInt)]
    version: i64,
    #[diesel(sql_type = BigInt)]
    epoch: i64,
    #[diesel(sql_type = Timestamptz)]
    ends_at: DateTime<Utc>,
}

#[derive(QueryableByName)]
struct DefinitionRow {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    sale_id: Uuid,
    #[diesel(sql_type = BigInt)]
    version: i64,
    #[diesel(sql_type = Timestamptz)]
    starts_at: DateTime<Utc>,
    #[diesel(sql_type = Timestamptz)]
    ends_at: DateTime<Utc>,
    #[diesel(sql_type = Bool)]
    paused: bool,
    #[diesel(sql_type = Bool)]
    ended: bool,
    #[diesel(sql_type = BigInt)]
    total: i64,
    #[diesel(sql_type = Int4)]
    per_user_limit: i32,
    #[diesel(sql_type = BigInt)]
    price_cents: i64,
    #[diesel(sql_type = Text)]
    currency: String,
    #[diesel(sql_type = BigInt)]
    epoch: i64,
    #[diesel(sql_type = Nullable<SqlUuid>)]
    epoch_token: Option<Uuid>,
    #[diesel(sql_type = Bool)]
    settled: bool,
    #[diesel(sql_type = Bool)]
    waiting_room: bool,
    #[diesel(sql_type = Bool)]
    challenge: bool,
}

/// One right to load one item.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// The item.
    pub item: ItemId,
    /// The epoch that was granted.
    pub epoch: i64,
    /// The token that was granted with it.
    pub token: Uuid,
}

/// The answer to a [`Claim`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StockAnswer {
    /// The fence has come through; this is everything.
    Stock(Box<ItemStock>),
    /// The fence has not come through in time.
    NotFenced,
    /// A newer right was handed out: this one is worth nothing.
    Superseded,
    /// There is no such item for sale.
    NotFound,
}

/// Hands out the next epoch of an item, above `above`: the inventory may know a higher one than a database that was restored
/// from a backup. `None` when there is no such item for sale.
///
/// # Errors
/// The database's.
pub async fn grant_epoch(db: &Db, item: ItemId, above: i64) -> Result<Option<EpochGranted>, DbError> {
    let token = Uuid::new_v4();
    let granted = db.quiet_transaction(move |conn| {
        Box::pin(async move {
            let statement =
                diesel::sql_query(GRANT_EPOCH).bind::<SqlUuid, _>(item.0).bind::<SqlUuid, _>(token);
            let statement = statement.bind::<BigInt, _>(above);
            Ok(Kept(statement).get_result::<Granted>(conn).await.optional()?)
        })
    });
    Ok(granted.await?.map(|granted| EpochGranted { epoch: granted.epoch, token }))
}

/// The absolute state of an item; `None` when there is no such item for sale.
///
/// # Errors
/// The database's.
pub async fn definition(db: &Db, item: ItemId) -> Result<Option<ItemDefinition>, DbError> {
    let mut conn = db.get().await?;
    load_definition(&mut conn, item).await?.map(definition_of).transpose()
}

/// Every item that belongs into the inventory.
///
/// # Errors
/// The database's.
pub async fn live_items(db: &Db) -> Result<LiveItems, DbError> {
    let mut conn = db.get().await?;
    let rows: Vec<LiveRow> = Kept(diesel::sql_query(LIVE)).load(&mut conn).await?;
    let live = |row: LiveRow| LiveItem {
        item_id: ItemId(row.id),
        version: row.version,
        epoch: row.epoch,
        ends_at: Some(row.ends_at),
    };
    Ok(LiveItems { items: rows.into_iter().map(live).collect() })
}

/// Those of `orders` that exist and are of this item.
///
/// # Errors
/// The database's.
pub async fn lookup(db: &Db, item: ItemId, orders: &[OrderId]) -> Result<Vec<StockOrder>, DbError> {
    let ids: Vec<Uuid> = orders.iter().map(|id| id.0).collect();
    let mut conn = db.get().await?;
    let statement = diesel::sql_query(LOOKUP).bind::<Array<SqlUuid>, _>(ids).bind::<SqlUuid, _>(item.0);
    let rows: Vec<OrderRow> = Kept(statement).load(&mut conn).await?;
    Ok(into_orders(rows)?.into_iter().map(stock_order).collect())
}

/// A page of the item's orders that have not changed for ten seconds, in the order of user and id, from behind
/// (`user`, `order`) on; at most [`LOOKUP_MAX`], fewer only at the end.
///
/// # Errors
/// The database's.
pub async fn quiet_orders(
    db: &Db,
    item: ItemId,
    (user, order): (&str, Uuid),
) -> Result<Vec<StockOrder>, DbError> {
    let mut conn = db.get().await?;
    let statement = diesel::sql_query(QUIET_ORDERS)
        .bind::<SqlUuid, _>(item.0)
        .bind::<Text, _>(user)
        .bind::<SqlUuid, _>(order)
        .bind::<BigInt, _>(LOOKUP_MAX as i64);
    let rows: Vec<OrderRow> = Kept(statement).load(&mut conn).await?;
    Ok(into_orders(rows)?.into_iter().map(stock_order).collect())
}

/// Waits until the fence of `claim` has come through, `deadline` at most, then reads the item and all its orders as
/// of one moment. No connection is held while waiting.
///
/// # Errors
/// The database's.
pub async fn stock(db: &Db, claim: Claim, deadline: Instant) -> Result<StockAnswer, DbError> {
    let mut pause = FENCE_POLL_FIRST;
    loop {
        match fence(db, claim).await? {
            None => return Ok(StockAnswer::NotFound),
            Some(fence) if !is_newest(&claim, fence.epoch, fence.epoch_token) => {
                return Ok(StockAnswer::Superseded);
            }
            Some(fence) if fence.fenced_epoch >= claim.epoch => break,
            Some(_) if failpoint::planted(FENCE_NOT_AWAITED) => break,
            Some(_) if Instant::now() >= deadline => return Ok(StockAnswer::NotFenced),
            Some(_) => {
                sleep(pause).await;
                pause = pause.mul_f32(1.5).min(FENCE_POLL_LONGEST);
            }
        }
    }
    let mut conn = db.get().await?;
    conn.build_transaction()
        .repeatable_read()
        .read_only()
        .run(async |conn| read_stock(conn, claim).await)
        .await
}

async fn fence(db: &Db, claim: Claim) -> Result<Option<Fence>, DbError> {
    let mut conn = db.get().await?;
    let statement = Kept(diesel::sql_query(FENCED).bind::<SqlUuid, _>(claim.item.0));
    Ok(statement.get_result(&mut conn).await.optional()?)
}

/// In one snapshot, and only if the claim is still the newest in it.
async fn read_stock(conn: &mut AsyncPgConnection, claim: Claim) -> Result<StockAnswer, DbError> {
    let Some(row) = load_definition(conn, claim.item).await? else { return Ok(StockAnswer::NotFound) };
    if !is_newest(&claim, row.epoch, row.epoch_token) {
        return Ok(StockAnswer::Superseded);
    }
    let rows: Vec<OrderRow> =
        Kept(diesel::sql_query(ORDERS_OF_ITEM).bind::<SqlUuid, _>(claim.item.0)).load(conn).await?;
    let orders = into_orders(rows)?.into_iter().map(stock_order).collect();
    Ok(StockAnswer::Stock(Box::new(ItemStock { item: definition_of(row)?, orders })))
}

fn is_newest(claim: &Claim, epoch: i64, token: Option<Uuid>) -> bool {
    (claim.epoch, Some(claim.token)) == (epoch, token)
}

async fn load_definition(
    conn: &mut AsyncPgConnection,
    item: ItemId,
) -> Result<Option<DefinitionRow>, DbError> {
    let statement = Kept(diesel::sql_query(DEFINITION).bind::<SqlUuid, _>(item.0));
    Ok(statement.get_result(conn).await.optional()?)
}

fn definition_of(row: DefinitionRow) -> Result<ItemDefinition, DbError> {
    let hold = match (row.ended, row.paused) {
        (true, _) => AdminHold::Ended,
        (false, true) => AdminHold::Paused,
        (false, false) => AdminHold::None,
    };
    let per_user_limit = u32::try_from(row.per_user_limit);
    Ok(ItemDefinition {
        item_id: ItemId(row.id),
        sale_id: SaleId(row.sale_id),
        version: row.version,
        starts_at: row.starts_at,
        ends_at: row.ends_at,
        hold,
        total: row.total,
        per_user_limit: per_user_limit
            .map_err(|_| DbError::Broken(format!("per_user_limit of {}", row.id)))?,
        unit_price_cents: row.price_cents,
        currency: parse("items.currency", &row.currency)?,
        settled: row.settled,
        waiting_room: row.waiting_room,
        challenge: row.challenge,
        epoch: Some(row.epoch),
    })
}

fn stock_order(order: OrderV1) -> StockOrder {
    StockOrder {
        order_id: order.order.id,
        user_id: order.user_id,
        quantity: order.order.quantity,
        units: order.units,
        version: order.order.version,
        status: order.order.status,
        reason: order.order.reason,
        created_at: order.order.created_at,
    }
}
