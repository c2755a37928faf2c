//! Asks providers how payments stand, since a notice may be lost: now and then while an order can be paid, and before it
//! expires. A payment of an order that has ended, or whose time is over, is closed: only when the provider says that
//! nothing was and will be captured does the order expire. A provider that does not answer is asked again, and the
//! order waits.

use std::time::Duration;

use common::api::Provider;
use common::failpoint;
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Bool, Double, Integer, Text, Uuid as SqlUuid};
use diesel_async::RunQueryDsl as _;
use futures_util::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::notice::{self, Outcome, Verdict};
use super::provider::Providers;
use crate::crash_points;
use crate::db::statement::Kept;
use crate::db::{Db, DbError};
use crate::orders::parse;
use crate::sandbox::ledger::Bill;
use crate::sandbox::standing::Standing;
use crate::settings::AskingSettings;

/// Questions that one process asks at the same time.
const IN_FLIGHT_MAX: usize = 8;
/// While an order can be paid, each wait is so many times the one before it.
const GROWTH: f64 = 3.0;
/// Most steps by which a wait grows.
const STEPS_MAX: i32 = 16;

/// Takes payments that are due, for as long as an answer may take; nobody else takes them meanwhile.
const CLAIM: &str = "
UPDATE payments AS p SET asked = p.asked + 1, next_ask_at = now() + make_interval(secs => $1)
  FROM orders AS o
 WHERE o.id = p.order_id
   AND p.id IN (SELECT id FROM payments WHERE status = 'started' AND next_ask_at <= now()
                 ORDER BY next_ask_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING p.id, p.order_id, p.provider, p.amount_cents, p.currency, o.quantity, p.asked,
          o.status = 'pending_payment' AND o.expires_at > now() AS payable";

/// With some chance, so that what failed together does not come back together. Whoever was asked while the order could be
/// paid ($3) is asked again when it would expire, at the latest: at once, if that moment has passed during the question.
const LATER: &str = "
UPDATE payments AS p
   SET next_ask_at = CASE WHEN $3 THEN least(o.expires_at, now() + w.wait) ELSE now() + w.wait END
  FROM orders AS o, (SELECT make_interval(secs => $2 * (0.5 + random() / 2)) AS wait) AS w
 WHERE p.id = $1 AND p.status = 'started' AND o.id = p.order_id";

/// A payment that is closed has failed: a capture that is told all the same is still dealt with.
const CLOSED: &str = "UPDATE payments SET status = 'failed' WHERE id = $1 AND status = 'started'";

const WAITING: &str = "
SELECT count(*) AS payments, coalesce(extract(epoch FROM now() - min(o.expires_at)), 0)::float8 AS oldest_s
  FROM payments AS p JOIN orders AS o ON o.id = p.order_id
 WHERE p.status = 'started' AND o.expires_at <= now()";

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
    #[diesel(sql_type = Integer)]
    quantity: i32,
    #[diesel(sql_type = Integer)]
    asked: i32,
    #[diesel(sql_type = Bool)]
    payable: bool,
}

#[derive(QueryableByName)]
struct Waiting {
    #[diesel(sql_type = BigInt)]
    payments: i64,
    #[diesel(sql_type = Double)]
    oldest_s: f64,
}

/// Asks until stopped. Any number of replicas may run it.
///
/// # Errors
/// Never: a database that is away is waited for.
pub async fn run(
    db: Db,
    providers: Providers,
    settings: AskingSettings,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_millis(settings.interval_ms));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(error) = round(&db, &providers, &settings).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "payments have to wait for the database");
        }
    }
    Ok(())
}

/// Asks about what is due, at most one batch: that bounds the rate after an outage of the provider.
async fn round(db: &Db, providers: &Providers, settings: &AskingSettings) -> Result<(), DbError> {
    let lease = 2.0 * settings.provider_timeout().as_secs_f64();
    let claim = diesel::sql_query(CLAIM).bind::<Double, _>(lease).bind::<BigInt, _>(settings.batch_max);
    let claimed: Vec<Claimed> = Kept(claim).load(&mut db.get().await?).await?;
    stream::iter(claimed)
        .for_each_concurrent(IN_FLIGHT_MAX, |payment| async move {
            let id = payment.id;
            if let Err(error) = settle(db, providers, settings, payment).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(payment.id = %id, error, "the payment will be asked for again");
            }
        })
        .await;
    let waiting: Waiting = Kept(diesel::sql_query(WAITING)).get_result(&mut db.get().await?).await?;
    metrics::gauge!("payments_unsettled").set(f64::from(i32::try_from(waiting.payments).unwrap_or(i32::MAX)));
    metrics::gauge!("payments_unsettled_oldest_seconds").set(waiting.oldest_s);
    Ok(())
}

async fn settle(
    db: &Db,
    providers: &Providers,
    settings: &AskingSettings,
    payment: Claimed,
) -> Result<(), DbError> {
    let (id, payable) = (payment.id, payment.payable);
    let steps = payment.asked.clamp(1, STEPS_MAX) - 1;
    let provider: Provider = parse("payments.provider", &payment.provider)?;
    let answer = if payable {
        providers.query(provider, id).await
    } else {
        providers.close(provider, bill(payment)).await
    };
    let standing = match answer {
        Ok(standing) => standing,
        Err(error) => {
            count("failed");
            tracing::warn!(payment.id = %id, error = &error as &dyn std::error::Error, "the provider was asked in vain");
            let wait = settings.retry_min().as_secs_f64() * 2_f64.powi(steps);
            return later(db, id, payable, wait.min(settings.retry_max().as_secs_f64())).await;
        }
    };
    match standing {
        // A bill that has not arrived yet: the buyer asks again.
        Standing::Open | Standing::Unknown => {
            count("open");
            let wait = settings.first_wait().as_secs_f64() * GROWTH.powi(steps);
            later(db, id, payable, wait.min(settings.last_wait().as_secs_f64())).await
        }
        Standing::Closed => {
            count("closed");
            failpoint::reach(crash_points::ASKING_MARK_BEFORE).await?;
            let statement = diesel::sql_query(CLOSED).bind::<SqlUuid, _>(id);
            Kept(statement).execute(&mut db.get().await?).await?;
            Ok(())
        }
        Standing::Decided(notice) => {
            count(if notice.outcome == Outcome::Success { "captured" } else { "not_captured" });
            failpoint::reach(crash_points::ASKING_MARK_BEFORE).await?;
            let verdict = notice::learn(db, provider, notice).await?;
            if let Verdict::Mismatch(field) = verdict {
                tracing::error!(payment.id = %id, field, "what the provider says does not fit the payment");
                return later(db, id, payable, settings.retry_max().as_secs_f64()).await;
            }
            tracing::info!(payment.id = %id, verdict = verdict.name(), "learnt from the provider");
            Ok(())
        }
    }
}

fn bill(payment: Claimed) -> Bill {
    let Claimed { id, order_id: order, amount_cents, currency, quantity, .. } = payment;
    Bill { payment: id, order, amount_cents, currency, item_name: String::new(), quantity }
}

async fn later(db: &Db, payment: Uuid, payable: bool, wait_s: f64) -> Result<(), DbError> {
    let statement = diesel::sql_query(LATER)
        .bind::<SqlUuid, _>(payment)
        .bind::<Double, _>(wait_s)
        .bind::<Bool, _>(payable);
    Kept(statement).execute(&mut db.get().await?).await?;
    Ok(())
}

fn count(result: &'static str) {
    metrics::counter!("payments_asked_total", "result" => result).increment(1);
}
