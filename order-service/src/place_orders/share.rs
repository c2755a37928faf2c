//! Which partitions are this replica's share.
//!
//! The broker feeds one consumer of a partition at a time, and keeps the others in line: whoever started first would have
//! all partitions. So replicas sign on in the database, each partition has one of them that it falls to, and a replica
//! that is fed from somebody else's goes to the end of the line. That only ever moves work: who is fed is the broker's
//! to say, so that a wrong or missing list costs balance and nothing else.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use diesel::QueryableByName;
use diesel::sql_types::{Array, Uuid as SqlUuid};
use diesel_async::RunQueryDsl as _;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::db::statement::Kept;
use crate::db::{Db, DbError};

/// How often a replica signs on; who has not for some times counts as gone, see [`SIGN_ON`].
const INTERVAL: Duration = Duration::from_secs(1);
/// Least time between two goes to the end of one line: the owner may be signed on and not in line.
const LINE_UP_INTERVAL: Duration = Duration::from_secs(5);
/// Most time to sign off.
const SIGN_OFF_TIMEOUT: Duration = Duration::from_secs(1);

/// Signs on, forgets who is long gone, and lists who is there.
const SIGN_ON: &str = "
WITH gone AS (DELETE FROM replicas WHERE seen_at < now() - interval '1 hour'),
     here AS (INSERT INTO replicas (id) VALUES ($1) ON CONFLICT (id) DO UPDATE SET seen_at = now() RETURNING id)
SELECT coalesce(array_agg(id ORDER BY id), '{}') AS ids
  FROM (SELECT id FROM replicas WHERE seen_at > now() - interval '5 seconds' UNION SELECT id FROM here) AS there";
const SIGN_OFF: &str = "DELETE FROM replicas WHERE id = $1";

#[derive(QueryableByName)]
struct There {
    #[diesel(sql_type = Array<SqlUuid>)]
    ids: Vec<Uuid>,
}

/// The share of this replica. Cheap to clone.
#[derive(Clone)]
pub struct Share {
    own: Uuid,
    /// Who is there, in order; empty until the database has said so.
    there: Arc<ArcSwap<Vec<Uuid>>>,
}

/// The place of this replica in the line of one partition.
pub struct Place {
    share: Share,
    partition: u32,
    line_up: Arc<Notify>,
    lined_up_at: Mutex<Option<Instant>>,
}

impl Share {
    /// Of a replica that nobody knows yet: everything.
    pub fn new() -> Self {
        Self { own: Uuid::new_v4(), there: Arc::default() }
    }

    /// The place in the line of `partition`; `line_up` is told when to go to its end.
    pub fn place(&self, partition: u32, line_up: Arc<Notify>) -> Place {
        Place { share: self.clone(), partition, line_up, lined_up_at: Mutex::default() }
    }

    fn has(&self, partition: u32) -> bool {
        falls_to(partition, &self.there.load_full()).is_none_or(|owner| owner == self.own)
    }

    /// Signs on again and again until `stop`, then off.
    ///
    /// # Errors
    /// Never: without the database all stays as it is.
    pub async fn keep(self, db: Db, stop: CancellationToken) -> anyhow::Result<()> {
        let signing = async {
            loop {
                match self.sign_on(&db).await {
                    Ok(there) => self.there.store(Arc::new(there)),
                    Err(error) => {
                        let cause = &error as &dyn std::error::Error;
                        tracing::debug!(error = cause, "not signed on, the shares stay as they are");
                    }
                }
                sleep(INTERVAL).await;
            }
        };
        stop.run_until_cancelled(signing).await;
        // Otherwise the others find out by themselves.
        timeout(SIGN_OFF_TIMEOUT, self.sign_off(&db)).await.ok();
        Ok(())
    }

    async fn sign_on(&self, db: &Db) -> Result<Vec<Uuid>, DbError> {
        let mut conn = db.get().await?;
        let there: There =
            Kept(diesel::sql_query(SIGN_ON).bind::<SqlUuid, _>(self.own)).get_result(&mut conn).await?;
        Ok(there.ids)
    }

    async fn sign_off(&self, db: &Db) -> Result<(), DbError> {
        let mut conn = db.get().await?;
        Kept(diesel::sql_query(SIGN_OFF).bind::<SqlUuid, _>(self.own)).execute(&mut conn).await?;
        Ok(())
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// This replica was fed from the partition.
    pub fn fed(&self) {
        if self.share.has(self.partition) {
            return;
        }
        let mut lined_up_at = self.lined_up_at.lock();
        if lined_up_at.is_some_and(|at| at.elapsed() < LINE_UP_INTERVAL) {
            return;
        }
        *lined_up_at = Some(Instant::now());
        tracing::info!(partition = self.partition, "left to the replica that it falls to");
        self.line_up.notify_one();
    }
}

/// The replica that a partition falls to: as many to each, give or take one.
fn falls_to(partition: u32, there: &[Uuid]) -> Option<Uuid> {
    let index = usize::try_from(partition).ok()?.checked_rem(there.len())?;
    there.get(index).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use common::topology::PARTITIONS;

    use super::*;

    #[test]
    fn partitions_fall_to_all_replicas_alike() {
        for replicas in 1..=PARTITIONS {
            let there: Vec<_> = (0..replicas).map(|_| Uuid::new_v4()).collect();
            let mut shares = BTreeMap::<Uuid, u32>::new();
            for partition in 0..PARTITIONS {
                *shares.entry(falls_to(partition, &there).unwrap()).or_default() += 1;
            }
            assert_eq!(shares.len(), there.len());
            assert!(shares.values().max().unwrap() - shares.values().min().unwrap() <= 1, "{shares:?}");
        }
        assert_eq!(falls_to(3, &[]), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn only_somebody_elses_partition_is_left_and_not_all_the_time() {
        let (share, line_up) = (Share::new(), Arc::<Notify>::default());
        let place = share.place(0, line_up.clone());
        place.fed();
        assert!(
            timeout(Duration::from_millis(20), line_up.notified()).await.is_err(),
            "nobody else is known"
        );
        share.there.store(Arc::new(vec![Uuid::new_v4(), share.own]));
        place.fed();
        line_up.notified().await;
        place.fed();
        assert!(
            timeout(Duration::from_millis(20), line_up.notified()).await.is_err(),
            "it has just been left"
        );
        share.place(1, line_up.clone()).fed();
        assert!(timeout(Duration::from_millis(20), line_up.notified()).await.is_err(), "its own");
    }
}
