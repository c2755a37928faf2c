//! What a provider tells about a payment, and what follows from it, once.

use chrono::{DateTime, Utc};
use common::api::{OrderStatus, Provider, RefundState};
use common::failpoint;
use common::ids::OrderId;
use diesel::dsl::now;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::signature::SIGNATURE_AGE_S_MAX;
use crate::db::schema::{orders, payment_notices, payments};
use crate::db::{Db, DbError};
use crate::orders::text;
use crate::sales::validate::InvalidField;
use crate::{crash_points, planted, transitions};

/// Most characters of a notice's id.
const EVENT_ID_LENGTH_MAX: usize = 128;

/// The body of a notice. Fields that a provider adds are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The notice's own id; the same on every repetition. 1 to 128 visible ASCII characters.
    pub event_id: String,
    /// Which payment.
    pub payment_id: Uuid,
    /// The order that it is for.
    pub order_id: Uuid,
    /// What was paid, in minor units.
    pub amount_cents: i64,
    /// Currency of the amount.
    pub currency: String,
    /// How it went.
    pub outcome: Outcome,
    /// When the provider decided.
    pub paid_at: DateTime<Utc>,
}

/// How a payment went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The money was captured.
    Success,
    /// It was not.
    Failure,
}

impl Notice {
    /// Checks what its types do not.
    ///
    /// # Errors
    /// Names the field.
    pub fn validate(&self) -> Result<(), InvalidField> {
        let fits = (1..=EVENT_ID_LENGTH_MAX).contains(&self.event_id.len());
        if fits && self.event_id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(());
        }
        let message = format!("must be 1 to {EVENT_ID_LENGTH_MAX} visible ASCII characters");
        Err(InvalidField::new("event_id", message))
    }
}

/// What became of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The order is paid by this payment now.
    Kept,
    /// The money came too late, or twice: it goes back.
    Refund,
    /// The payment failed; the buyer may begin another one.
    Failed,
    /// Nothing new: this was known.
    Known,
    /// The signature is too old, or from the future; nothing was changed.
    Stale,
    /// There is no such payment of this provider.
    UnknownPayment,
    /// This field is not that of the payment; nothing was changed.
    Mismatch(&'static str),
}

impl Verdict {
    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Refund => "refund",
            Self::Failed => "failed",
            Self::Known => "known",
            Self::Stale => "stale",
            Self::UnknownPayment => "unknown_payment",
            Self::Mismatch(_) => "mismatch",
        }
    }
}

/// A notice whose signature is genuine.
#[derive(Debug, Clone)]
pub struct Signed {
    /// Whose notice it is.
    pub provider: Provider,
    /// When it was signed, in unix seconds; how long ago that is says Postgres' clock.
    pub signed_at_s: i64,
    /// The notice.
    pub notice: Notice,
}

/// Does what a genuine notice says, in one transaction: the notice, the payment, the order, and who must be told.
///
/// The same notice again, or another one of the same capture, changes nothing.
///
/// # Errors
/// The database; then the provider repeats the notice.
pub async fn accept(db: &Db, signed: Signed) -> Result<Verdict, DbError> {
    let applied = db.transaction(move |conn| async move { apply_fresh(conn, &signed).await }.boxed()).await?;
    failpoint::reach(crash_points::PAYMENT_COMMIT_AFTER).await?;
    Ok(applied)
}

/// Does what the provider said when it was asked, as [`accept`] does what it says by itself.
///
/// # Errors
/// The database; then it has to be asked again.
pub async fn learn(db: &Db, provider: Provider, notice: Notice) -> Result<Verdict, DbError> {
    db.transaction(move |conn| async move { apply(conn, provider, &notice).await }.boxed()).await
}

async fn apply_fresh(conn: &mut AsyncPgConnection, signed: &Signed) -> Result<Verdict, DbError> {
    let clock_s = transitions::now(conn).await?.timestamp();
    if clock_s.abs_diff(signed.signed_at_s) > SIGNATURE_AGE_S_MAX.unsigned_abs() {
        return Ok(Verdict::Stale);
    }
    apply(conn, signed.provider, &signed.notice).await
}

async fn apply(
    conn: &mut AsyncPgConnection,
    provider: Provider,
    notice: &Notice,
) -> Result<Verdict, DbError> {
    let provider = text(&provider)?;
    let payment: Option<(Uuid, i64, String)> = payments::table
        .filter(payments::id.eq(notice.payment_id).and(payments::provider.eq(&provider)))
        .select((payments::order_id, payments::amount_cents, payments::currency))
        .first(conn)
        .await
        .optional()?;
    let Some((order_id, amount_cents, currency)) = payment else { return Ok(Verdict::UnknownPayment) };
    let fields = [
        ("order_id", order_id == notice.order_id),
        (
            "amount_cents",
            amount_cents == notice.amount_cents || failpoint::planted(planted::AMOUNT_NOT_CHECKED),
        ),
        ("currency", currency == notice.currency),
    ];
    if let Some((field, _)) = fields.into_iter().find(|(_, equal)| !equal) {
        return Ok(Verdict::Mismatch(field));
    }
    let status = lock(conn, notice).await?;
    let again = failpoint::planted(planted::NOTICE_COUNTED_AGAIN);
    match first_time(conn, &provider, notice).await? {
        Seen::Before if again => {}
        Seen::Never => {}
        Seen::Before => return Ok(Verdict::Known),
        Seen::OfAnotherPayment => return Ok(Verdict::Mismatch("event_id")),
    }
    match (notice.outcome, status.as_str()) {
        // A provider that said "failed" and then captured nevertheless has the money all the same.
        (Outcome::Success, "started" | "failed") => capture(conn, notice).await,
        (Outcome::Success, "kept") if again => capture(conn, notice).await,
        (Outcome::Failure, "started") => {
            set_status(conn, notice.payment_id, "failed").await?;
            Ok(Verdict::Failed)
        }
        (Outcome::Success | Outcome::Failure, _) => Ok(Verdict::Known),
    }
}

/// Locks the order and then the payment; returns the payment's status.
async fn lock(conn: &mut AsyncPgConnection, notice: &Notice) -> Result<String, DbError> {
    orders::table.find(notice.order_id).select(orders::id).for_no_key_update().first::<Uuid>(conn).await?;
    let status = payments::table
        .find(notice.payment_id)
        .select(payments::status)
        .for_no_key_update()
        .first(conn)
        .await?;
    Ok(status)
}

enum Seen {
    Never,
    Before,
    OfAnotherPayment,
}

async fn first_time(conn: &mut AsyncPgConnection, provider: &str, notice: &Notice) -> Result<Seen, DbError> {
    let inserted = diesel::insert_into(payment_notices::table)
        .values((
            payment_notices::provider.eq(provider),
            payment_notices::event_id.eq(&notice.event_id),
            payment_notices::payment_id.eq(notice.payment_id),
        ))
        .on_conflict_do_nothing()
        .execute(conn)
        .await?;
    if inserted == 1 {
        return Ok(Seen::Never);
    }
    let payment: Uuid = payment_notices::table
        .find((provider, &notice.event_id))
        .select(payment_notices::payment_id)
        .first(conn)
        .await?;
    Ok(if payment == notice.payment_id { Seen::Before } else { Seen::OfAnotherPayment })
}

/// The money is there: keep it if the order still waits for it, else send it back.
async fn capture(conn: &mut AsyncPgConnection, notice: &Notice) -> Result<Verdict, DbError> {
    let order = OrderId(notice.order_id);
    let paid = transitions::transition(conn, &[order], OrderStatus::Paid, None).await?;
    let payment = diesel::update(payments::table.find(notice.payment_id));
    let captured = if paid.is_empty() && !failpoint::planted(planted::LATE_CAPTURE_KEPT) {
        failpoint::reach(crash_points::REFUND_INSERT_BEFORE).await?;
        payment
            .set((
                payments::status.eq("refund_pending"),
                payments::captured_at.eq(now),
                payments::next_refund_at.eq(now),
            ))
            .execute(conn)
            .await?;
        transitions::show_refund(conn, order, RefundState::Pending).await?;
        failpoint::reach(crash_points::REFUND_INSERT_AFTER).await?;
        Verdict::Refund
    } else {
        payment.set((payments::status.eq("kept"), payments::captured_at.eq(now))).execute(conn).await?;
        Verdict::Kept
    };
    failpoint::reach(crash_points::PAYMENT_COMMIT_BEFORE).await?;
    Ok(captured)
}

async fn set_status(conn: &mut AsyncPgConnection, payment: Uuid, status: &str) -> Result<(), DbError> {
    diesel::update(payments::table.find(payment)).set(payments::status.eq(status)).execute(conn).await?;
    Ok(())
}
