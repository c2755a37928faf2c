//! A RabbitMQ node and a Postgres server of a test's own: what survives their death, and what does not.

use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties};
use testkit::{Database, PostgresServer, RabbitNode};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_keeps_its_queues_when_it_is_killed_and_loses_them_when_it_is_wiped() {
    let mut node = RabbitNode::start().await;
    let vhost = node.vhost();
    declare(&vhost.url(), "orders").await;
    assert!(vhost.queue_depths().await.contains_key("orders"));

    node.stop();
    assert!(Connection::connect(&vhost.url(), ConnectionProperties::default()).await.is_err());
    node.resume().await;
    assert!(vhost.queue_depths().await.contains_key("orders"));

    node.stop_and_wipe();
    node.resume().await;
    assert!(vhost.queue_depths().await.is_empty());
    declare(&vhost.url(), "orders").await;
}

async fn declare(url: &str, queue: &str) {
    let connection =
        Connection::connect(url, ConnectionProperties::default()).await.expect("the broker answers");
    let channel = connection.create_channel().await.expect("a channel opens");
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), options, arguments).await.expect("the queue is declared");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_was_killed_comes_back_with_what_was_committed() {
    let mut postgres = PostgresServer::start().await;
    let database = Database::create_on(&postgres, "orders").await;
    execute(&database, "CREATE TABLE dish (name text)").await.expect("the server answers");

    postgres.stop();
    assert!(execute(&database, "SELECT 1").await.is_err());
    postgres.resume().await;

    execute(&database, "INSERT INTO dish VALUES ('mapo tofu')").await.expect("the table is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_database_takes_no_writes_until_it_is_not() {
    let database = Database::create("orders").await;
    database.set_read_only(true).await;
    assert!(execute(&database, "CREATE TABLE dish (name text)").await.is_err());
    execute(&database, "SELECT 1").await.expect("it can be read");

    database.set_read_only(false).await;
    execute(&database, "CREATE TABLE dish (name text)").await.expect("it can be written");
}

async fn execute(database: &Database, statement: &str) -> anyhow::Result<()> {
    let mut connection = AsyncPgConnection::establish(&database.url()).await?;
    diesel::sql_query(statement).execute(&mut connection).await?;
    Ok(())
}
