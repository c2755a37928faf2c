//! What is waiting, counted now and then for `/metrics`.

use std::time::Duration;

use common::amqp::Publisher;
use common::topology::{PARTITIONS, Queue};
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Double};
use diesel_async::RunQueryDsl as _;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::db::statement::Kept;
use crate::db::{Db, DbError};

/// How often to count.
const INTERVAL: Duration = Duration::from_secs(5);
/// Most time for the broker's answers.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);

const WAITING: &str = "
SELECT count(*) AS outbox_rows,
       coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS outbox_seconds,
       (SELECT count(*) FROM dead_letters) AS dead_letters
  FROM outbox WHERE published_at IS NULL";

#[derive(QueryableByName)]
struct Waiting {
    #[diesel(sql_type = BigInt)]
    outbox_rows: i64,
    #[diesel(sql_type = Double)]
    outbox_seconds: f64,
    #[diesel(sql_type = BigInt)]
    dead_letters: i64,
}

/// Counts until stopped.
///
/// # Errors
/// None: what cannot be asked keeps its last value.
pub async fn run(
    pools: [(&'static str, Db); 2],
    publisher: Publisher,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let [(_, db), _] = &pools;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(error) = count_rows(db).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "nothing counted");
        }
        count_reservations(&publisher).await;
        pools.iter().for_each(|(name, db)| db.count_connections(name));
    }
    Ok(())
}

async fn count_rows(db: &Db) -> Result<(), DbError> {
    let mut conn = db.get().await?;
    let waiting: Waiting = Kept(diesel::sql_query(WAITING)).get_result(&mut conn).await?;
    metrics::gauge!("outbox_depth").set(gauge(waiting.outbox_rows));
    metrics::gauge!("outbox_oldest_seconds").set(waiting.outbox_seconds);
    metrics::gauge!("dead_letters").set(gauge(waiting.dead_letters));
    Ok(())
}

/// Messages that no consumer has in hand yet.
async fn count_reservations(publisher: &Publisher) {
    let deadline = Instant::now() + ASK_TIMEOUT;
    for partition in 0..PARTITIONS {
        let queue = Queue::reservations(partition).name;
        if let Ok(Some(waiting)) = publisher.queue_length(&queue, deadline).await {
            metrics::gauge!("reservations_waiting", "partition" => partition.to_string()).set(waiting);
        }
    }
}

fn gauge(count: i64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
