//! The sandbox provider's own books, in the table `sandbox_payments`.

use chrono::{DateTime, Utc};
use diesel::dsl::now;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::FutureExt as _;
use uuid::Uuid;

use super::Outcome;
use super::notifier::FIRST_REPEAT;
use super::page::Checkout;
use crate::db::schema::sandbox_payments as ledger;
use crate::db::{Db, DbError};
use crate::orders::{parse, text};
use crate::payments::notice::Notice;
use crate::transitions;

/// What the merchant wants to have paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bill {
    /// The merchant's number for the payment.
    pub payment: Uuid,
    /// The merchant's number for the order.
    pub order: Uuid,
    /// What is to be paid, in minor units.
    pub amount_cents: i64,
    /// Currency of the amount.
    pub currency: String,
    /// What the page says that is bought.
    pub item_name: String,
    /// How many units of it.
    pub quantity: i32,
}

/// A notice that is to be sent.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The payment that it is about.
    pub payment: Uuid,
    /// The body: the same bytes at every repetition.
    pub body: String,
    /// Attempts made before.
    pub attempts: i32,
    /// Postgres' clock.
    pub now: DateTime<Utc>,
}

/// What became of a buyer's decision.
#[derive(Debug)]
pub enum Decision {
    /// It stands; this notice is to be sent.
    Made(Outgoing),
    /// It stood before, and the merchant knows.
    Known,
    /// The buyer decided otherwise before, or the payment is closed.
    Closed,
    /// There is no such payment.
    NotFound,
}

/// What the merchant asks to have given back.
#[derive(Debug, Clone)]
pub struct RefundRequest {
    /// The merchant's number for the refund: the same number is the same refund.
    pub refund_no: Uuid,
    /// Of which payment.
    pub payment: Uuid,
    /// How much, in minor units: all of it.
    pub amount_cents: i64,
    /// Currency of the amount.
    pub currency: String,
}

/// The provider's answer to a [`RefundRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refunded {
    /// Given back.
    Now,
    /// Given back before, by this very number.
    Before,
    /// Not given back.
    Refused(&'static str),
}

/// Opens a payment; the same one again changes nothing.
///
/// # Errors
/// The database.
pub async fn register(db: &Db, bill: Bill) -> Result<(), DbError> {
    bill.insert(&mut *db.get().await?).await
}

impl Bill {
    /// Opens a payment, unless it is known.
    pub(super) async fn insert(self, conn: &mut AsyncPgConnection) -> Result<(), DbError> {
        diesel::insert_into(ledger::table)
            .values((
                ledger::payment_id.eq(self.payment),
                ledger::order_id.eq(self.order),
                ledger::amount_cents.eq(self.amount_cents),
                ledger::currency.eq(self.currency),
                ledger::item_name.eq(self.item_name),
                ledger::quantity.eq(self.quantity),
            ))
            .on_conflict_do_nothing()
            .execute(conn)
            .await?;
        Ok(())
    }
}

/// What the checkout page shows of a payment.
///
/// # Errors
/// The database.
pub async fn checkout(conn: &mut AsyncPgConnection, payment: Uuid) -> Result<Option<Checkout>, DbError> {
    type Row = (Uuid, String, i32, i64, String, Option<String>);
    let row: Option<Row> = ledger::table
        .find(payment)
        .select((
            ledger::payment_id,
            ledger::item_name,
            ledger::quantity,
            ledger::amount_cents,
            ledger::currency,
            ledger::outcome,
        ))
        .first(conn)
        .await
        .optional()?;
    let Some((payment_id, item_name, quantity, amount_cents, currency, outcome)) = row else {
        return Ok(None);
    };
    let outcome = outcome.as_deref().map(|text| parse("sandbox_payments.outcome", text)).transpose()?;
    Ok(Some(Checkout { payment_id, item_name, quantity, amount_cents, currency, outcome }))
}

/// The buyer decides; the first decision stands.
///
/// # Errors
/// The database.
pub async fn decide(db: &Db, payment: Uuid, outcome: Outcome) -> Result<Decision, DbError> {
    db.transaction(move |conn| async move { decide_in(conn, payment, outcome).await }.boxed()).await
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = ledger)]
struct Entry {
    order_id: Uuid,
    amount_cents: i64,
    currency: String,
    outcome: Option<String>,
    closed_at: Option<DateTime<Utc>>,
    refund_no: Option<Uuid>,
    notice: Option<String>,
    attempts: i32,
    delivered_at: Option<DateTime<Utc>>,
}

async fn decide_in(
    conn: &mut AsyncPgConnection,
    payment: Uuid,
    outcome: Outcome,
) -> Result<Decision, DbError> {
    let entry: Option<Entry> =
        ledger::table.find(payment).select(Entry::as_select()).for_update().first(conn).await.optional()?;
    let Some(entry) = entry else { return Ok(Decision::NotFound) };
    let at = transitions::now(conn).await?;
    let wanted = text(&outcome)?;
    match entry.outcome {
        None if entry.refund_no.is_none() && entry.closed_at.is_none() => {}
        Some(before) if before == wanted => {
            let undelivered = entry.notice.filter(|_| entry.delivered_at.is_none());
            let outgoing = |body| Outgoing { payment, body, attempts: entry.attempts, now: at };
            return Ok(undelivered.map_or(Decision::Known, |body| Decision::Made(outgoing(body))));
        }
        None | Some(_) => return Ok(Decision::Closed),
    }
    let notice = Notice {
        event_id: Uuid::new_v4().to_string(),
        payment_id: payment,
        order_id: entry.order_id,
        amount_cents: entry.amount_cents,
        currency: entry.currency,
        outcome,
        paid_at: at,
    };
    let body = serde_json::to_string(&notice).map_err(|error| DbError::Broken(error.to_string()))?;
    diesel::update(ledger::table.find(payment))
        .set((
            ledger::outcome.eq(wanted),
            ledger::captured_at.eq((outcome == Outcome::Success).then_some(at)),
            ledger::notice.eq(&body),
            // The one who decided sends it at once; the notifier repeats it if that comes to nothing.
            ledger::next_attempt_at.eq(at + FIRST_REPEAT),
        ))
        .execute(conn)
        .await?;
    Ok(Decision::Made(Outgoing { payment, body, attempts: 0, now: at }))
}

/// Gives money back, once per number.
///
/// A payment that this ledger has no capture of is refunded too: whoever holds the secret may have sent the notice
/// in the provider's place. It shows in the ledger.
///
/// # Errors
/// The database.
pub async fn refund(db: &Db, request: RefundRequest) -> Result<Refunded, DbError> {
    db.transaction(move |conn| async move { refund_in(conn, &request).await }.boxed()).await
}

async fn refund_in(conn: &mut AsyncPgConnection, request: &RefundRequest) -> Result<Refunded, DbError> {
    let entry: Option<Entry> = ledger::table
        .find(request.payment)
        .select(Entry::as_select())
        .for_update()
        .first(conn)
        .await
        .optional()?;
    let Some(entry) = entry else { return Ok(Refunded::Refused("there is no such payment")) };
    if entry.refund_no == Some(request.refund_no) {
        return Ok(Refunded::Before);
    }
    if entry.refund_no.is_some() {
        return Ok(Refunded::Refused("the payment has another refund"));
    }
    if (entry.amount_cents, &entry.currency) != (request.amount_cents, &request.currency) {
        return Ok(Refunded::Refused("the amount is not that of the payment"));
    }
    diesel::update(ledger::table.find(request.payment))
        .set((ledger::refund_no.eq(request.refund_no), ledger::refunded_at.eq(now)))
        .execute(conn)
        .await?;
    Ok(Refunded::Now)
}
