//! A private database: apart from others, can be made unreachable, and goes away.

use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use testkit::Database;

#[tokio::test(flavor = "multi_thread")]
async fn two_databases_know_nothing_of_each_other() {
    let (one, other) = (Database::create("orders").await, Database::create("orders").await);
    execute(&one, "CREATE TABLE dish (name text)").await.expect("the table is created");
    execute(&other, "CREATE TABLE dish (name text)").await.expect("the name is free in the other database");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_awkward_hint_is_tamed() {
    let database =
        Database::create("Orders; DROP TABLE \"x\" and much, much more text than fits into a name").await;
    execute(&database, "SELECT 1").await.expect("the database answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_database_refuses_until_it_is_unblocked() {
    let database = Database::create("orders").await;
    let mut open = AsyncPgConnection::establish(&database.url()).await.expect("the database answers");

    database.block().await;
    assert!(diesel::sql_query("SELECT 1").execute(&mut open).await.is_err(), "an open connection survived");
    assert!(execute(&database, "SELECT 1").await.is_err(), "a new connection was let in");

    database.unblock().await;
    execute(&database, "SELECT 1").await.expect("the database answers again");
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_connections_can_be_opened_again() {
    let database = Database::create("orders").await;
    let mut open = AsyncPgConnection::establish(&database.url()).await.expect("the database answers");

    database.close_all_connections().await;

    assert!(diesel::sql_query("SELECT 1").execute(&mut open).await.is_err());
    execute(&database, "SELECT 1").await.expect("the database answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_dropped_although_somebody_is_connected() {
    let database = Database::create("orders").await;
    let url = database.url();
    let _open = AsyncPgConnection::establish(&url).await.expect("the database answers");

    drop(database);

    assert!(AsyncPgConnection::establish(&url).await.is_err());
}

/// `Drop` must also work where nothing else can run meanwhile.
#[tokio::test(flavor = "current_thread")]
async fn a_database_is_dropped_on_a_single_threaded_runtime() {
    let database = Database::create("orders").await;
    let url = database.url();
    drop(database);
    assert!(AsyncPgConnection::establish(&url).await.is_err());
}

async fn execute(database: &Database, statement: &str) -> anyhow::Result<()> {
    let mut connection = AsyncPgConnection::establish(&database.url()).await?;
    diesel::sql_query(statement).execute(&mut connection).await?;
    Ok(())
}
