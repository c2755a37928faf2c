//! Money: payments of orders, the provider's notices about them, and refunds.
//!
//! Locks are taken in one order everywhere: the order first, then its payment.

pub mod asking;
pub mod notice;
pub mod provider;
pub mod refunds;
pub mod signature;

use std::time::Duration;

use common::api::Provider;
use common::failpoint;
use common::ids::{OrderId, UserId};
use diesel::dsl::now;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Double, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::FutureExt as _;
use uuid::Uuid;

use crate::crash_points;
use crate::db::schema::{items, orders, payments};
use crate::db::statement::Kept;
use crate::db::{Db, DbError};
use crate::orders::text;
use crate::sandbox::ledger::Bill;

const INSERT: &str = "
INSERT INTO payments (id, order_id, provider, amount_cents, currency, status, next_ask_at)
SELECT $1, id, $3, $4, currency, 'started', least(now() + make_interval(secs => $5), expires_at)
  FROM orders WHERE id = $2";

/// What became of the wish to pay.
#[derive(Debug, PartialEq, Eq)]
pub enum Started {
    /// This payment is under way, since now or before; the provider may not know it yet.
    Payment(Bill),
    /// The user has no such order.
    NotFound,
    /// The order does not wait for payment, or its time has run out.
    NotPayable,
}

/// An order, as far as paying it needs.
#[derive(Queryable)]
struct Payable {
    in_time: Option<bool>,
    status: String,
    item_id: Uuid,
    amount: Amount,
}

/// What is to be paid.
#[derive(Queryable)]
struct Amount {
    quantity: i32,
    unit_price_cents: i64,
    currency: String,
}

/// How to pay.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// By whom.
    pub provider: Provider,
    /// When to ask the provider how it went, if it does not say so by itself.
    pub ask_after: Duration,
}

/// Begins a payment of an order, or returns the one that is under way.
///
/// # Errors
/// The database.
pub async fn start(db: &Db, user: UserId, order: OrderId, wish: Wish) -> Result<Started, DbError> {
    let started = db.transaction(move |conn| {
        async move {
            let Some(payable) = lock_payable(conn, order.0, &user).await? else {
                return Ok(Started::NotFound);
            };
            if payable.status != "pending_payment" || payable.in_time != Some(true) {
                return Ok(Started::NotPayable);
            }
            let under_way: Option<Uuid> = payments::table
                .filter(payments::order_id.eq(order.0).and(payments::status.eq("started")))
                .select(payments::id)
                .first(conn)
                .await
                .optional()?;
            let payment = match under_way {
                Some(payment) => payment,
                None => insert(conn, order.0, wish, &payable).await?,
            };
            let bill = bill(conn, payment, order.0, payable).await?;
            failpoint::reach(crash_points::PAY_COMMIT_BEFORE).await?;
            Ok(Started::Payment(bill))
        }
        .boxed()
    });
    let started = started.await?;
    failpoint::reach(crash_points::PAY_COMMIT_AFTER).await?;
    Ok(started)
}

async fn lock_payable(
    conn: &mut AsyncPgConnection,
    order: Uuid,
    user: &UserId,
) -> Result<Option<Payable>, DbError> {
    let payable = orders::table
        .filter(orders::id.eq(order).and(orders::user_id.eq(user.as_str())))
        .select((
            orders::expires_at.gt(now),
            orders::status,
            orders::item_id,
            (orders::quantity, orders::unit_price_cents, orders::currency),
        ))
        .for_no_key_update()
        .first(conn)
        .await;
    Ok(payable.optional()?)
}

async fn insert(
    conn: &mut AsyncPgConnection,
    order: Uuid,
    wish: Wish,
    payable: &Payable,
) -> Result<Uuid, DbError> {
    let payment = Uuid::new_v4();
    let statement = diesel::sql_query(INSERT)
        .bind::<SqlUuid, _>(payment)
        .bind::<SqlUuid, _>(order)
        .bind::<Text, _>(text(&wish.provider)?)
        .bind::<BigInt, _>(payable.amount.total_cents(order)?)
        .bind::<Double, _>(wish.ask_after.as_secs_f64());
    Kept(statement).execute(conn).await?;
    Ok(payment)
}

/// What the provider has to know.
async fn bill(
    conn: &mut AsyncPgConnection,
    payment: Uuid,
    order: Uuid,
    payable: Payable,
) -> Result<Bill, DbError> {
    let amount_cents = payable.amount.total_cents(order)?;
    let Amount { quantity, currency, .. } = payable.amount;
    // Read without a lock: the item's row is where everybody's reservations meet.
    let item_name = items::table.find(payable.item_id).select(items::name).first::<String>(conn).await?;
    Ok(Bill { payment, order, amount_cents, currency, item_name, quantity })
}

impl Amount {
    fn total_cents(&self, order: Uuid) -> Result<i64, DbError> {
        let total = self.unit_price_cents.checked_mul(i64::from(self.quantity));
        total.ok_or_else(|| DbError::Broken(format!("price of order {order}")))
    }
}
