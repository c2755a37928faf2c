//! What happens to Postgres.

use std::future::pending;

use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _};
use testkit::Database;

use super::Owner;
use crate::world::World;

pub(super) fn of(world: &World, owner: Owner) -> &Database {
    match owner {
        Owner::Orders => world.services.orders_database(),
        Owner::Notify => world.services.notify_database(),
    }
}

/// Takes a lock that stops every reader and writer of the table that everything passes.
pub(super) async fn lock(world: &mut World, owner: Owner) -> anyhow::Result<()> {
    let table = match owner {
        Owner::Orders => "orders",
        Owner::Notify => "events",
    };
    let mut connection = AsyncPgConnection::establish(&of(world, owner).url()).await?;
    // Waiting for the lock would hold up the schedule: somebody who is in a transaction keeps it then.
    let statements = format!("SET lock_timeout = '2s'; BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
    if connection.batch_execute(&statements).await.is_ok() {
        let holder = tokio::spawn(async move {
            let _held = connection;
            pending::<()>().await;
        });
        world.marks.locks.push((owner, holder));
    }
    Ok(())
}

pub(super) fn unlock(world: &mut World, owner: Owner) {
    let locks = &mut world.marks.locks;
    if let Some(position) = locks.iter().position(|(locked, _)| *locked == owner) {
        locks.swap_remove(position).1.abort();
    }
}
