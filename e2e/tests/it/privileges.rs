//! With the credentials of each service, what it must not do: all of it is refused by the stores themselves.

use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _};
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use testkit::Services;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::World;

/// The order-service's database is told by its tables.
const ORDERS_FORBIDDEN: [&str; 16] = [
    "DROP TABLE orders",
    "DROP TABLE audit_log",
    "TRUNCATE orders",
    "ALTER TABLE orders ADD COLUMN x int",
    "ALTER TABLE orders DISABLE TRIGGER ALL",
    "ALTER TABLE items DROP CONSTRAINT items_taken_check",
    "CREATE TABLE mine (x int)",
    "CREATE INDEX mine ON orders (id)",
    "CREATE VIEW mine AS SELECT 1",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE SCHEMA mine",
    "CREATE TEMPORARY TABLE mine (x int)",
    "CREATE ROLE mine",
    "CREATE EXTENSION dblink",
    "COPY orders TO PROGRAM 'true'",
    "SELECT pg_read_file('/etc/passwd')",
];
const NOTIFY_FORBIDDEN: [&str; 8] = [
    "DROP SCHEMA public CASCADE",
    "CREATE TABLE mine (x int)",
    "CREATE TEMPORARY TABLE mine (x int)",
    "CREATE DATABASE mine",
    "CREATE ROLE mine",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "COPY (SELECT 1) TO '/tmp/x'",
    "SELECT pg_read_server_files()",
];
/// For each user of Redis.
const REDIS_FORBIDDEN: [&str; 34] = [
    "FLUSHALL",
    "FLUSHDB",
    "KEYS *",
    "SCAN 0",
    "RANDOMKEY",
    "DBSIZE",
    "CONFIG GET requirepass",
    "CONFIG SET appendonly no",
    "CONFIG REWRITE",
    "DEBUG SLEEP 0",
    "SHUTDOWN NOSAVE",
    "SAVE",
    "BGSAVE",
    "BGREWRITEAOF",
    "REPLICAOF NO ONE",
    "MONITOR",
    "CLIENT LIST",
    "CLIENT KILL ID 1",
    "CLIENT PAUSE 1",
    "ACL LIST",
    "ACL WHOAMI",
    "ACL SETUSER x on nopass ~* +@all",
    "SCRIPT FLUSH",
    "SCRIPT KILL",
    "FUNCTION LIST",
    "EVAL \"return 1\" 0",
    "MODULE LIST",
    "SLOWLOG GET",
    "LATENCY RESET",
    "SWAPDB 0 1",
    "PUBLISH x y",
    "SUBSCRIBE x",
    "GET elsewhere",
    "SET elsewhere 1",
];

/// What Redis answers to each command, as `service`.
async fn redis(services: &Services, service: &str, command: &str) -> String {
    let url: url::Url = services.redis().url_of(service).parse().unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", services.redis().port())).await.unwrap();
    let login = format!("AUTH {service} {}\r\n{command}\r\nQUIT\r\n", url.password().unwrap());
    stream.write_all(login.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.strip_prefix("+OK\r\n").unwrap_or_else(|| panic!("{service} cannot log in: {answer}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_service_can_do_in_redis_what_it_never_needs() {
    let world = World::start().await;
    let mut tried = 0;
    for (service, others) in [
        ("stock-service", ["GET limit:{order}u:1", "ZRANGE line:{x}waiting 0 -1", "DEL limit:{order}u:1"]),
        ("gateway", ["HGETALL item:{x}", "HSET item:{x} available 1000", "UNLINK holds:{x}"]),
    ] {
        for command in REDIS_FORBIDDEN.into_iter().chain(others) {
            let answer = redis(&world.services, service, command).await;
            // Redis refuses some of them to everybody, by its own configuration.
            let refused = answer.starts_with("-NOPERM") || answer.contains("command not allowed");
            assert!(refused, "{service}: {command}: {answer}");
            tried += 1;
        }
    }
    // A script may not do either what its caller may not.
    let loaded =
        redis(&world.services, "gateway", "SCRIPT LOAD \"return redis.call('HGETALL', 'item:{x}')\"").await;
    let sha = loaded.lines().nth(1).unwrap();
    let run = redis(&world.services, "gateway", &format!("EVALSHA {sha} 0")).await;
    assert!(run.starts_with('-') && run.contains("can't access"), "{run}");
    assert!(tried >= 60, "{tried}");
    assert!(
        redis(&world.services, "stock-service", "HGETALL item:{x}").await.starts_with('*'),
        "its own it can"
    );
    for key in ["limit:{order}:user:u", "line:{x}", "cache:{sale:x}"] {
        let answer = redis(&world.services, "gateway", &format!("SET {key} 1 PX 1000")).await;
        assert!(answer.starts_with("+OK"), "{key}: {answer}");
    }
}

async fn allowed(url: &str, statement: &str) -> Result<(), String> {
    let mut connection = AsyncPgConnection::establish(url).await.map_err(|error| error.to_string())?;
    connection.batch_execute(statement).await.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_service_can_do_in_postgres_what_it_never_needs() {
    let world = World::start().await;
    let (orders, notify) = (world.services.orders_database(), world.services.notify_database());
    allowed(&orders.role_url(), "SELECT count(*) FROM orders").await.expect("its own rows it can read");
    for (url, statements) in
        [(orders.role_url(), &ORDERS_FORBIDDEN[..]), (notify.role_url(), &NOTIFY_FORBIDDEN)]
    {
        for statement in statements {
            let refused = allowed(&url, statement).await.expect_err(statement);
            let why =
                ["permission denied", "must be owner", "must be superuser", "does not exist", "no privilege"];
            assert!(why.iter().any(|why| refused.contains(why)), "{statement}: {refused}");
        }
    }
    // Neither may enter the other's database: the same user and password there.
    for (mine, other) in [(orders, notify), (notify, orders)] {
        let mut url: url::Url = mine.role_url().parse().unwrap();
        url.set_path(other.url().parse::<url::Url>().unwrap().path());
        let refused = allowed(url.as_str(), "SELECT 1").await.expect_err("another database");
        assert!(refused.contains("permission denied for database"), "{refused}");
    }
}

async fn channel(url: &str) -> Channel {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    connection.create_channel().await.unwrap()
}

/// What each user of RabbitMQ must not do, with the names of others, and whether it was refused.
async fn forbidden(url: &str, queue: &str, exchange: &str) -> Vec<(&'static str, bool)> {
    let (table, topic, declare) =
        (FieldTable::default, ExchangeKind::Topic, ExchangeDeclareOptions::default());
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mut channels = Vec::new();
    for _ in 0..8 {
        channels.push(channel(url).await); // A refusal closes the channel: each gets its own.
    }
    let [purge, delete, get, mine, theirs, gone, bind, publish] = &channels[..] else {
        panic!("eight channels")
    };
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    publish.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let published = match publish.basic_publish(exchange.into(), "x".into(), options, b"{}", properties).await
    {
        Ok(confirm) => confirm.await.is_ok(),
        Err(_) => false,
    };
    let bound =
        bind.queue_bind(queue.into(), "order".into(), "#".into(), QueueBindOptions::default(), table());
    let removed = gone.exchange_delete("amq.topic".into(), ExchangeDeleteOptions::default());
    vec![
        ("purge", purge.queue_purge(queue.into(), QueuePurgeOptions::default()).await.is_err()),
        ("delete", delete.queue_delete(queue.into(), QueueDeleteOptions::default()).await.is_err()),
        ("get", get.basic_get(queue.into(), BasicGetOptions::default()).await.is_err()),
        ("declare", mine.queue_declare("mine".into(), durable, table()).await.is_err()),
        ("exchange", theirs.exchange_declare("mine".into(), topic, declare, table()).await.is_err()),
        ("delete exchange", removed.await.is_err()),
        ("bind", bound.await.is_err()),
        ("publish", !published),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_service_can_do_in_rabbitmq_what_it_never_needs() {
    let world = World::start().await;
    for (service, queue, exchange) in [
        ("stock-service", "notify-service.orders", "order"),
        ("notify-service", "order-service.reservations.0", "order"),
        ("notify-service", "stock-service.orders", "stock"),
    ] {
        let refused = forbidden(&world.services.vhost().url_of(service), queue, exchange).await;
        for (what, refused) in refused {
            assert!(refused, "{service} may {what} {queue} or {exchange}");
        }
    }
}
