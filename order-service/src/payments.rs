//! Money: payments of orders, the provider's notices about them, and refunds.
//!
//! Locks are taken in one order everywhere: the order first, then its payment.

pub mod notice;
pub mod refunds;
pub mod signature;

use common::api::Provider;
use common::failpoint;
use common::ids::{OrderId, PaymentId, UserId};
use diesel::dsl::now;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::FutureExt as _;
use uuid::Uuid;

use crate::crash_points;
use crate::db::schema::{items, orders, payments};
use crate::db::{Db, DbError};
use crate::orders::text;
use crate::sandbox::ledger;

/// What became of the wish to pay.
#[derive(Debug, PartialEq, Eq)]
pub enum Started {
    /// This payment is under way, since now or before.
    Payment(PaymentId),
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

/// Begins a payment of an order, or returns the one that is under way.
///
/// # Errors
/// The database.
pub async fn start(db: &Db, user: UserId, order: OrderId, provider: Provider) -> Result<Started, DbError> {
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
                None => insert(conn, order.0, provider, payable).await?,
            };
            failpoint::reach(crash_points::PAY_COMMIT_BEFORE).await?;
            Ok(Started::Payment(PaymentId(payment)))
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
    provider: Provider,
    payable: Payable,
) -> Result<Uuid, DbError> {
    let Amount { quantity, unit_price_cents, currency } = payable.amount;
    let amount_cents = unit_price_cents
        .checked_mul(i64::from(quantity))
        .ok_or_else(|| DbError::Broken(format!("price of order {order}")))?;
    let payment = Uuid::new_v4();
    diesel::insert_into(payments::table)
        .values((
            payments::id.eq(payment),
            payments::order_id.eq(order),
            payments::provider.eq(text(&provider)?),
            payments::amount_cents.eq(amount_cents),
            payments::currency.eq(&currency),
            payments::status.eq("started"),
        ))
        .execute(conn)
        .await?;
    match provider {
        // A provider elsewhere would be called here, before the buyer is sent to it.
        Provider::Sandbox => {
            // Read without a lock: the item's row is where everybody's reservations meet.
            let item_name =
                items::table.find(payable.item_id).select(items::name).first::<String>(conn).await?;
            let bill = ledger::Bill { payment, order, amount_cents, currency, item_name, quantity };
            ledger::register(conn, bill).await?;
        }
    }
    Ok(payment)
}
