//! Sends the sandbox provider's notices, and sends them again until they are taken.

use std::time::Duration;

use chrono::TimeDelta;
use diesel::prelude::QueryableByName;
use diesel::sql_types::{BigInt, Bool, Double, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl as _;
use futures_util::{StreamExt as _, stream};
use reqwest::Client;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use super::ledger::Outgoing;
use crate::db::statement::Kept;
use crate::db::{Db, DbError};
use crate::payments::signature::{SIGNATURE_HEADER, sign};

/// Waits before the repetitions, in seconds; the last one is kept up.
const LADDER_S: [f64; 9] = [1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];
/// Attempts after which a notice is given up: about two days.
const ATTEMPTS_MAX: i32 = 56;
/// When the notifier sends a notice that was to be sent at once. Longer than an attempt may take.
pub const FIRST_REPEAT: TimeDelta = TimeDelta::seconds(10);
/// How often to look for notices that are due.
const INTERVAL: Duration = Duration::from_millis(500);
/// Notices that are taken at once, and sent at the same time.
const BATCH_MAX: i64 = 32;
const IN_FLIGHT_MAX: usize = 8;

const CLAIM: &str = "
UPDATE sandbox_payments SET next_attempt_at = now() + make_interval(secs => $1)
 WHERE payment_id IN (SELECT payment_id FROM sandbox_payments
                       WHERE delivered_at IS NULL AND next_attempt_at <= now()
                       ORDER BY next_attempt_at LIMIT $2 FOR UPDATE SKIP LOCKED)
   AND notice IS NOT NULL
RETURNING payment_id, notice, attempts, now() AS now";

const RECORD: &str = "
UPDATE sandbox_payments
   SET attempts = attempts + 1, last_status = $2,
       delivered_at = CASE WHEN $3 THEN now() ELSE delivered_at END,
       next_attempt_at = CASE WHEN $3 OR delivered_at IS NOT NULL OR attempts + 1 >= $4 THEN NULL
                              ELSE now() + make_interval(secs => $5) END
 WHERE payment_id = $1";

#[derive(QueryableByName)]
struct Due {
    #[diesel(sql_type = SqlUuid)]
    payment_id: Uuid,
    #[diesel(sql_type = Text)]
    notice: String,
    #[diesel(sql_type = Integer)]
    attempts: i32,
    #[diesel(sql_type = Timestamptz)]
    now: chrono::DateTime<chrono::Utc>,
}

/// Sends notices to the merchant.
#[derive(Clone)]
pub struct Notifier {
    /// Where the ledger is.
    pub db: Db,
    /// Has time-outs below [`FIRST_REPEAT`].
    pub client: Client,
    /// What notices are signed with.
    pub secret: SecretString,
    /// Where they go.
    pub url: Url,
    /// Whether they are sent at all.
    pub speaks: bool,
}

impl Notifier {
    /// One attempt, noted in the ledger: the merchant's status, `None` when there was no answer.
    ///
    /// # Errors
    /// The database; the notice may have arrived.
    pub async fn send(&self, outgoing: Outgoing) -> Result<Option<u16>, DbError> {
        let status = self.post(&outgoing).await;
        let delivered = status.is_some_and(|status| (200..300).contains(&status));
        let result = if delivered { "delivered" } else { "failed" };
        metrics::counter!("sandbox_notices_total", "result" => result).increment(1);
        let rung = usize::try_from(outgoing.attempts).unwrap_or(0).min(LADDER_S.len() - 1);
        let statement = diesel::sql_query(RECORD)
            .bind::<SqlUuid, _>(outgoing.payment)
            .bind::<Nullable<Integer>, _>(status.map(i32::from))
            .bind::<Bool, _>(delivered)
            .bind::<Integer, _>(ATTEMPTS_MAX)
            .bind::<Double, _>(LADDER_S[rung]);
        Kept(statement).execute(&mut self.db.get().await?).await?;
        Ok(status)
    }

    /// Repeats notices until stopped. Any number of replicas may run it.
    ///
    /// # Errors
    /// Never: a database that is away is waited for.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            if let Err(error) = self.round().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "notices have to wait for the database"
                );
            }
        }
        Ok(())
    }

    async fn round(&self) -> Result<(), DbError> {
        let statement = diesel::sql_query(CLAIM)
            .bind::<Double, _>(FIRST_REPEAT.as_seconds_f64())
            .bind::<BigInt, _>(BATCH_MAX);
        let due: Vec<Due> = Kept(statement).load(&mut self.db.get().await?).await?;
        stream::iter(due)
            .for_each_concurrent(IN_FLIGHT_MAX, |due| async move {
                let Due { payment_id: payment, notice: body, attempts, now } = due;
                if let Err(error) = self.send(Outgoing { payment, body, attempts, now }).await {
                    tracing::warn!(
                        payment.id = %payment, error = &error as &dyn std::error::Error, "attempt not noted"
                    );
                }
            })
            .await;
        Ok(())
    }

    async fn post(&self, outgoing: &Outgoing) -> Option<u16> {
        if !self.speaks {
            return None;
        }
        let signature = sign(&self.secret, outgoing.now.timestamp(), outgoing.body.as_bytes())?;
        let request = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header(SIGNATURE_HEADER, signature)
            .body(outgoing.body.clone());
        match request.send().await {
            Ok(answer) => Some(answer.status().as_u16()),
            Err(error) => {
                let error = error.without_url();
                tracing::info!(payment.id = %outgoing.payment, %error, "the merchant did not answer");
                None
            }
        }
    }
}
