//! Reads that may be a little behind, from a replica: what admins list and export. How far behind is bound: the replica must
//! have replayed what the primary had written that long ago. Whatever speaks against the replica, the primary is asked.
//!
//! What buyers see is never read here: somebody who saw an order paid must not see it unpaid a moment later.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use diesel::QueryableByName;
use diesel::sql_types::{Bool, Text};
use diesel_async::pooled_connection::deadpool::Object;
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::statement::Kept;
use super::{Db, DbError};
use crate::settings::DatabaseSettings;

/// How often the primary is asked how far it has written.
const MARK_INTERVAL: Duration = Duration::from_millis(250);
/// Most marks that are kept: more than there are within the longest bound that can be set.
const MARKS_MAX: usize = 300;
/// How long a replica that failed is left alone.
const REST: Duration = Duration::from_secs(5);

/// How far the write-ahead log goes, as Postgres writes it. Not by a clock: the two servers have one each.
const WRITTEN: &str = "SELECT pg_current_wal_lsn()::text AS position";
/// One that was promoted is no replica any more: it has a history of its own.
const REPLAYED: &str = "
SELECT pg_is_in_recovery() AND coalesce(pg_last_wal_replay_lsn() >= ($1::text)::pg_lsn, false) AS fresh";

#[derive(QueryableByName)]
struct Written {
    #[diesel(sql_type = Text)]
    position: String,
}

#[derive(QueryableByName)]
struct Replayed {
    #[diesel(sql_type = Bool)]
    fresh: bool,
}

/// Where reports are read. Cheap to clone.
#[derive(Clone)]
pub struct Reports {
    primary: Db,
    replica: Option<Arc<Replica>>,
}

struct Replica {
    db: Db,
    /// How far behind it may be.
    lag_max: Duration,
    /// How far the primary had written, and when it was asked; the oldest first.
    marks: Mutex<VecDeque<(Instant, String)>>,
    rests_until: Mutex<Option<Instant>>,
}

impl Reports {
    /// With the replica of the settings, if they name one.
    ///
    /// # Errors
    /// The settings make no pool.
    pub fn connect(settings: &DatabaseSettings, primary: Db) -> anyhow::Result<Self> {
        let replica = match Db::replica(settings)? {
            Some(db) => {
                let lag_max = Duration::from_millis(settings.replica_lag_max_ms);
                let (marks, rests_until) = (Mutex::default(), Mutex::default());
                Some(Arc::new(Replica { db, lag_max, marks, rests_until }))
            }
            None => None,
        };
        Ok(Self { primary, replica })
    }

    /// Runs `query` at the replica, or at the primary if the replica is too far behind, cannot be asked, or fails.
    ///
    /// # Errors
    /// The primary's, or those of `query` there.
    pub async fn read<T>(
        &self,
        query: impl AsyncFn(&mut AsyncPgConnection) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        if let Some(replica) = &self.replica
            && let Some(mut conn) = replica.fresh().await
        {
            match query(&mut conn).await {
                Ok(answer) => {
                    metrics::counter!("reports_read_total", "from" => "replica").increment(1);
                    return Ok(answer);
                }
                Err(error) => replica.rest(&error),
            }
        }
        metrics::counter!("reports_read_total", "from" => "primary").increment(1);
        query(&mut *self.primary.get().await?).await
    }

    /// Keeps an eye on how far the primary has written, until `stop`.
    ///
    /// # Errors
    /// None: without a mark the replica is not read.
    pub async fn mark(self, stop: CancellationToken) -> anyhow::Result<()> {
        let Some(replica) = self.replica else {
            stop.cancelled().await;
            return Ok(());
        };
        let mut ticks = tokio::time::interval(MARK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            if let Err(error) = replica.mark(&self.primary).await {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "the primary is not asked how far it is"
                );
            }
        }
        Ok(())
    }
}

impl Replica {
    /// A connection to the replica, if it is not too far behind.
    async fn fresh(&self) -> Option<Object<AsyncPgConnection>> {
        let now = Instant::now();
        if self.rests_until.lock().is_some_and(|until| now < until) {
            return None;
        }
        let position = self.must_have_replayed(now)?;
        let asked = async {
            let mut conn = self.db.get().await?;
            let question = Kept(diesel::sql_query(REPLAYED).bind::<Text, _>(position));
            let replayed: Replayed = question.get_result(&mut conn).await?;
            Ok::<_, DbError>(replayed.fresh.then_some(conn))
        };
        asked.await.unwrap_or_else(|error| {
            self.rest(&error);
            None
        })
    }

    /// How far the primary had written `lag_max` ago, or as soon after that as it was asked; `None` when it was not.
    fn must_have_replayed(&self, now: Instant) -> Option<String> {
        let marks = self.marks.lock();
        let recent = marks.iter().find(|(asked, _)| now.duration_since(*asked) <= self.lag_max);
        recent.map(|(_, position)| position.clone())
    }

    async fn mark(&self, primary: &Db) -> Result<(), DbError> {
        let asked = Instant::now();
        let mut conn = primary.get().await?;
        let written: Written = Kept(diesel::sql_query(WRITTEN)).get_result(&mut conn).await?;
        let mut marks = self.marks.lock();
        if marks.len() == MARKS_MAX {
            marks.pop_front();
        }
        marks.push_back((asked, written.position));
        // What is older is of no use.
        while marks.front().is_some_and(|(asked, _)| asked.elapsed() > self.lag_max) {
            marks.pop_front();
        }
        Ok(())
    }

    fn rest(&self, error: &DbError) {
        *self.rests_until.lock() = Some(Instant::now() + REST);
        tracing::warn!(error = error as &dyn std::error::Error, "the replica fails: the primary is read");
    }
}
