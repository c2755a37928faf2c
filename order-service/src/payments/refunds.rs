//! Money that goes back: asked for by an admin or by a payment that came too late, sent by a worker until the
//! provider confirms.
//!
//! The refund's number is the payment's id, however often it is sent, so that a provider makes it once.

use std::time::Duration;

use common::api::admin::AdminOrder;
use common::api::{OrderStatus, Provider, RefundState};
use common::failpoint;
use common::ids::{OrderId, UserId};
use common::messages::order::OrderV1;
use diesel::dsl::now;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Double, Text, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::provider::Providers;
use crate::audit_log::Deed;
use crate::db::schema::{orders, payments};
use crate::db::statement::Kept;
use crate::db::{Db, DbError};
use crate::orders::{OrderRow, parse};
use crate::sales::admin::{Change, Refusal};
use crate::sandbox::ledger::{RefundRequest, Refunded};
use crate::settings::RefundSettings;
use crate::{crash_points, planted, transitions};

/// Refunds that one process sends at the same time.
const IN_FLIGHT_MAX: usize = 4;

/// Takes refunds that are due, for as long as an answer may take; nobody else takes them meanwhile.
const CLAIM: &str = "
UPDATE payments
   SET refund_attempts = refund_attempts + 1, next_refund_at = now() + make_interval(secs => $1)
 WHERE id IN (SELECT id FROM payments
               WHERE status = 'refund_pending' AND next_refund_at <= now()
               ORDER BY next_refund_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING id, order_id, provider, amount_cents, currency";

/// After a failure: twice the wait of the time before, within bounds, and some chance so that refunds that failed
/// together do not come back together.
const RETRY: &str = "
UPDATE payments
   SET next_refund_at = now() + make_interval(
           secs => least($2, $1 * power(2, least(refund_attempts, 30) - 1)) * (0.5 + random() / 2))
 WHERE id = $3 AND status = 'refund_pending'";

const PENDING: &str = "
SELECT count(*) AS refunds, coalesce(extract(epoch FROM now() - min(captured_at)), 0)::float8 AS oldest_s
  FROM payments WHERE status = 'refund_pending'";

#[derive(QueryableByName)]
struct Claimed {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    order_id: Uuid,
    #[diesel(sql_type = Text)]
    provider: String,
    #[diesel(sql_type = BigInt)]
    amount_cents: i64,
    #[diesel(sql_type = Text)]
    currency: String,
}

#[derive(QueryableByName)]
struct Pending {
    #[diesel(sql_type = BigInt)]
    refunds: i64,
    #[diesel(sql_type = Double)]
    oldest_s: f64,
}

/// An admin takes a paid order back: the order and its payment wait for the provider from now on.
///
/// # Errors
/// The database.
pub async fn request(db: &Db, actor: UserId, id: OrderId) -> Result<Change<AdminOrder>, DbError> {
    db.transaction(move |conn| {
        async move {
            let row: Option<OrderRow> = orders::table
                .find(id.0)
                .select(OrderRow::as_select())
                .for_no_key_update()
                .first(conn)
                .await
                .optional()?;
            let Some(before) = row.map(OrderRow::into_order).transpose()? else {
                return Ok(Change::NotFound);
            };
            if before.order.status != OrderStatus::Paid {
                let detail = "Only paid orders can be refunded.".to_owned();
                return Ok(Change::NotAllowed(Refusal { field: None, detail }));
            }
            failpoint::reach(crash_points::REFUND_INSERT_BEFORE).await?;
            let pending = Some(RefundState::Pending);
            let changed = transitions::transition(conn, &[id], OrderStatus::RefundPending, pending).await?;
            let kept = payments::table.filter(payments::order_id.eq(id.0).and(payments::status.eq("kept")));
            let sent_back = diesel::update(kept)
                .set((payments::status.eq("refund_pending"), payments::next_refund_at.eq(now)))
                .execute(conn)
                .await?;
            let (Some(after), 1) = (changed.into_iter().next(), sent_back) else {
                return Err(DbError::Broken(format!("order {id} is paid by {sent_back} payments")));
            };
            failpoint::reach(crash_points::REFUND_INSERT_AFTER).await?;
            let (before, after) = (for_admins(before), for_admins(after));
            Deed { actor: &actor, action: "order.refund", subject: id.0 }
                .record(conn, Some(&before), &after)
                .await?;
            Ok(Change::Done(after))
        }
        .boxed()
    })
    .await
}

fn for_admins(order: OrderV1) -> AdminOrder {
    AdminOrder { order: order.order, user_id: order.user_id }
}

/// Sends refunds until stopped. Any number of replicas may run it.
///
/// # Errors
/// Never: a database that is away is waited for.
pub async fn run(
    db: Db,
    providers: Providers,
    settings: RefundSettings,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_millis(settings.interval_ms));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(error) = round(&db, &providers, &settings).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "refunds have to wait for the database");
        }
    }
    Ok(())
}

/// Sends what is due, at most one batch.
async fn round(db: &Db, providers: &Providers, settings: &RefundSettings) -> Result<(), DbError> {
    let claimed = claim(db, settings).await?;
    stream::iter(claimed)
        .for_each_concurrent(IN_FLIGHT_MAX, |refund| async move {
            if let Err(error) = attempt(db, providers, settings, &refund).await {
                metrics::counter!("refund_attempts_total", "result" => "error").increment(1);
                tracing::warn!(
                    payment.id = %refund.id, error = &error as &dyn std::error::Error, "refund will be tried again"
                );
            }
        })
        .await;
    let mut conn = db.get().await?;
    let pending: Pending = Kept(diesel::sql_query(PENDING)).get_result(&mut conn).await?;
    metrics::gauge!("refunds_pending_oldest_seconds").set(pending.oldest_s);
    metrics::gauge!("refunds_pending").set(f64::from(i32::try_from(pending.refunds).unwrap_or(i32::MAX)));
    Ok(())
}

async fn claim(db: &Db, settings: &RefundSettings) -> Result<Vec<Claimed>, DbError> {
    let mut conn = db.get().await?;
    let statement = diesel::sql_query(CLAIM)
        .bind::<Double, _>(2.0 * settings.provider_timeout().as_secs_f64())
        .bind::<BigInt, _>(settings.batch_max);
    Ok(Kept(statement).load(&mut conn).await?)
}

/// One attempt at one refund: the provider first, then the books.
async fn attempt(
    db: &Db,
    providers: &Providers,
    settings: &RefundSettings,
    refund: &Claimed,
) -> Result<(), DbError> {
    let provider: Provider = parse("payments.provider", &refund.provider)?;
    let per_try = failpoint::planted(planted::REFUND_NUMBER_PER_TRY);
    let request = RefundRequest {
        refund_no: if per_try { Uuid::new_v4() } else { refund.id },
        payment: refund.id,
        amount_cents: refund.amount_cents,
        currency: refund.currency.clone(),
    };
    match providers.refund(provider, request).await {
        Ok(Refunded::Now | Refunded::Before) => settle(db, refund.id, refund.order_id).await,
        Ok(Refunded::Refused(why)) => failed(db, settings, refund.id, why).await,
        Err(error) => {
            tracing::warn!(payment.id = %refund.id, error = &error as &dyn std::error::Error, "the provider was asked in vain");
            failed(db, settings, refund.id, "the provider did not say that it was made").await
        }
    }
}

/// Plans the next attempt. Never gives up: the money is not ours.
async fn failed(db: &Db, settings: &RefundSettings, payment: Uuid, why: &str) -> Result<(), DbError> {
    metrics::counter!("refund_attempts_total", "result" => "failed").increment(1);
    tracing::warn!(payment.id = %payment, why, "refund not made; it will be tried again");
    let mut conn = db.get().await?;
    let statement = diesel::sql_query(RETRY)
        .bind::<Double, _>(settings.retry_min().as_secs_f64())
        .bind::<Double, _>(settings.retry_max().as_secs_f64())
        .bind::<SqlUuid, _>(payment);
    Kept(statement).execute(&mut conn).await?;
    Ok(())
}

/// The provider has confirmed: the payment is refunded, and the order shows it when none of its refunds is left.
async fn settle(db: &Db, payment: Uuid, order: Uuid) -> Result<(), DbError> {
    failpoint::reach(crash_points::REFUND_MARK_BEFORE).await?;
    db.transaction(move |conn| settle_in(conn, payment, order).boxed()).await?;
    failpoint::reach(crash_points::REFUND_MARK_AFTER).await?;
    metrics::counter!("refund_attempts_total", "result" => "refunded").increment(1);
    Ok(())
}

async fn settle_in(conn: &mut AsyncPgConnection, payment: Uuid, order: Uuid) -> Result<(), DbError> {
    let status: String =
        orders::table.find(order).select(orders::status).for_no_key_update().first(conn).await?;
    let pending = payments::table.filter(payments::status.eq("refund_pending"));
    let refunded = diesel::update(pending.filter(payments::id.eq(payment)))
        .set((
            payments::status.eq("refunded"),
            payments::refunded_at.eq(now),
            payments::next_refund_at.eq(None::<chrono::DateTime<chrono::Utc>>),
        ))
        .execute(conn)
        .await?;
    let left: i64 = pending.filter(payments::order_id.eq(order)).count().get_result(conn).await?;
    if refunded == 0 || left > 0 {
        return Ok(());
    }
    let id = OrderId(order);
    match parse("orders.status", &status)? {
        OrderStatus::RefundPending => {
            transitions::transition(conn, &[id], OrderStatus::Refunded, Some(RefundState::Done)).await?;
        }
        OrderStatus::Queued
        | OrderStatus::PendingPayment
        | OrderStatus::Paid
        | OrderStatus::Cancelled
        | OrderStatus::Expired
        | OrderStatus::Rejected
        | OrderStatus::Refunded => {
            transitions::show_refund(conn, id, RefundState::Done).await?;
        }
    }
    Ok(())
}
