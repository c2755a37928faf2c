//! Where the present is: the last number of a user, asked for by every stream that begins.
//!
//! After a replica died its clients come to the others all at once; what waits is asked in one query.

use std::collections::HashMap;
use std::time::Duration;

use common::batcher::{BatchError, Batcher, BatcherSettings, Pending};
use common::ids::UserId;
use common::shutdown::Tasks;
use tokio::time::Instant;

use crate::db::{Db, DbError, events};

/// Users asked for by one query.
const BATCH_MAX: usize = 500;
/// Queries at a time.
const FLIGHTS_MAX: usize = 2;

/// Asks for last numbers. Cheap to clone.
#[derive(Clone)]
pub struct Heads(Batcher<UserId, i64>);

impl Heads {
    /// Asks `db`; at most `waiting_max` streams wait for their answer.
    pub fn start(db: Db, waiting_max: usize, tasks: &Tasks) -> Self {
        let settings = BatcherSettings {
            name: "sse-heads",
            queue_max: waiting_max,
            batch_max: BATCH_MAX,
            flights_max: FLIGHTS_MAX,
            min_interval: Duration::ZERO,
        };
        Self(Batcher::start(settings, tasks, move |waiting| answer(db.clone(), waiting)))
    }

    /// The last number that was given out to `user`, 0 if none was.
    ///
    /// # Errors
    /// There was no answer by `deadline`.
    pub async fn of(&self, user: UserId, deadline: Instant) -> Result<i64, BatchError> {
        self.0.submit(user, deadline).await
    }
}

/// Without an answer from the database nobody gets one.
async fn answer(db: Db, waiting: Vec<Pending<UserId, i64>>) {
    let users: Vec<UserId> = waiting.iter().map(|pending| pending.request.clone()).collect();
    match read(&db, &users).await {
        Ok(heads) => {
            for pending in waiting {
                let head = heads.get(pending.request.as_str()).copied().unwrap_or(0);
                pending.answer(head);
            }
        }
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "streams cannot begin");
        }
    }
}

async fn read(db: &Db, users: &[UserId]) -> Result<HashMap<String, i64>, DbError> {
    events::heads(&mut *db.get().await?, users).await
}
