//! Messages that can never be handled, of every kind and to every queue, among good ones.

use std::collections::BTreeMap;
use std::time::Duration;

use common::messages::ENVELOPE_EVENTS_MAX;
use common::topology::{Exchange, Queue};
use diesel::sql_types::Binary;
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use futures_util::future::try_join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::Outcome;
use super::books::{self, Promises};
use super::report::{milliseconds, say};
use super::rush::Wave;
use super::stage::Stage;

/// Good orders among so many bad messages: one for each of these.
const BAD_PER_GOOD: u64 = 5;
const AT_ONCE: usize = 16;
/// Messages on their way to the broker at the same time.
const PUBLISHED_AT_ONCE: usize = 200;
/// A body that is much longer than any of ours.
const LONG_BYTES: usize = 200_000;
/// Only so many are long, or the drill measures memory.
const ONE_LONG_IN: u64 = 100;
const PARKED_WITHIN: Duration = Duration::from_secs(180);
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Delivery mode of AMQP: survives a restart of the broker.
const PERSISTENT: u8 = 2;

#[derive(QueryableByName)]
struct Body {
    #[diesel(sql_type = Binary)]
    body: Vec<u8>,
}

pub(super) async fn run(count: u64) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("poison", count);
    let stage = Stage::start(1, &[]).await?;
    let good = (count / BAD_PER_GOOD).max(50);
    let crowd = stage.buyers("buyer", good).await?;
    let sale = stage.open_sale(good, 1).await?;
    let mut promises = Promises::default();

    let wave = Wave::start(&stage.client, crowd.to_vec(), sale.items[0].id, AT_ONCE);
    let begin = Instant::now();
    publish(&stage, count).await?;
    say(&format!("  {count} bad messages sent, {} good orders meanwhile", wave.accepted()));
    promises.add(wave.end().await?);
    let sold = u64::try_from(promises.accepted.len())?;
    outcome.require(sold == good, format_args!("{sold} of {good} good orders were accepted"));

    let mut connection = books::connect(&stage).await?;
    let all = "SELECT count(*) AS count FROM dead_letters";
    while books::count(&mut connection, all).await? < count && begin.elapsed() < PARKED_WITHIN {
        sleep(POLL_INTERVAL).await;
    }
    outcome.figure("parked_after_ms", milliseconds(begin.elapsed()));
    books::settle(&stage, sale.id, &promises, &mut outcome).await?;
    compare(&mut connection, count, &mut outcome).await?;
    empty(&stage, &mut outcome).await;
    Ok(outcome)
}

/// Each marker is parked exactly once, and nothing else is.
async fn compare(
    connection: &mut AsyncPgConnection,
    count: u64,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let rows: Vec<Body> = sql_query("SELECT body FROM dead_letters").load(connection).await?;
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    let mut good = 0_u64;
    for row in &rows {
        match marker(&row.body) {
            Some(n) => *seen.entry(n).or_default() += 1,
            None => good += 1,
        }
    }
    let missing = (0..count).filter(|n| !seen.contains_key(n)).count();
    let twice = seen.values().filter(|times| **times > 1).count();
    outcome.figure("parked", u64::try_from(rows.len())?);
    outcome.require(missing == 0, format_args!("{missing} bad messages are not parked"));
    outcome.require(twice == 0, format_args!("{twice} bad messages are parked more than once"));
    outcome.require(good == 0, format_args!("{good} good messages are parked"));
    Ok(())
}

/// No queue keeps anything, and every queue is still read.
async fn empty(stage: &Stage, outcome: &mut Outcome) {
    let begin = Instant::now();
    loop {
        let depths = stage.world.services.vhost().queue_depths().await;
        let full: Vec<_> = depths.into_iter().filter(|(_, depth)| *depth > 0).collect();
        if full.is_empty() || begin.elapsed() > PARKED_WITHIN {
            return outcome.require(full.is_empty(), format_args!("queues do not run dry: {full:?}"));
        }
    }
}

/// Sends the messages numbered `0..count`, in turn of every kind to every queue, past the services.
async fn publish(stage: &Stage, count: u64) -> anyhow::Result<()> {
    let url = stage.world.services.vhost().url();
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let queues = Queue::all();
    let numbers: Vec<u64> = (0..count).collect();
    for some in numbers.chunks(PUBLISHED_AT_ONCE) {
        try_join_all(some.iter().map(|n| send(&channel, &queues, *n))).await?;
    }
    connection.close(200, "done".into()).await?;
    Ok(())
}

async fn send(channel: &Channel, queues: &[Queue], n: u64) -> anyhow::Result<()> {
    let place = usize::try_from(n)?;
    let queue = &queues[place % queues.len()];
    // Another kind each time that all queues have had one.
    let body = bad(queue, place / queues.len(), n);
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    let publish = channel.basic_publish(
        "".into(),
        queue.name.as_str().into(),
        BasicPublishOptions::default(),
        &body,
        properties,
    );
    publish.await?.await?;
    Ok(())
}

/// A body that no consumer of `queue` can ever handle, with the marker of `n` in it.
fn bad(queue: &Queue, kind: usize, n: u64) -> Vec<u8> {
    let marker = format!("<poison-{n}>");
    let event = json!({ "event_id": Uuid::new_v4(), "marker": marker });
    let body = match kind % 8 {
        0 => return [marker.as_bytes(), b" is not text: \xff\xfe\x00"].concat(),
        1 if n.is_multiple_of(ONE_LONG_IN) => return [marker.as_bytes(), &vec![b'x'; LONG_BYTES]].concat(),
        1 => json!({ "marker": marker }),
        2 => envelope("order.teleported.v1", vec![event]),
        3 => envelope(&known_kind(queue).replace(".v1", ".v9"), vec![event]),
        4 => envelope(&format!("{}{marker}", known_kind(queue)), vec![event]),
        5 => envelope(
            known_kind(queue),
            vec![json!({ "event_id": Uuid::new_v4(), "marker": marker, "quantity": -1 })],
        ),
        6 => envelope(known_kind(queue), vec![event; ENVELOPE_EVENTS_MAX + 1]),
        _ => return format!("{{\"id\": \"{marker}\", \"events\": [").into_bytes(),
    };
    serde_json::to_vec(&body).unwrap_or_default()
}

fn known_kind(queue: &Queue) -> &'static str {
    match queue.exchange {
        Exchange::Stock => "stock.reserved.v1",
        Exchange::Sale => "sale.changed.v1",
        Exchange::Order => "order.created.v1",
    }
}

fn envelope(kind: &str, events: Vec<Value>) -> Value {
    json!({
        "id": Uuid::new_v4(),
        "type": kind,
        "occurred_at": "2026-01-01T00:00:00Z",
        "producer": "nobody",
        "events": events,
    })
}

/// The number in the first marker of a body.
fn marker(body: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(body);
    let (_, rest) = text.split_once("<poison-")?;
    rest.split_once('>')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bad_message_can_be_told_from_every_other() {
        for queue in Queue::all() {
            for n in 0..16 {
                let kind = usize::try_from(n).unwrap();
                assert_eq!(marker(&bad(&queue, kind, n)), Some(n), "{} {n}", queue.name);
            }
        }
        assert_eq!(marker(b"{\"id\": 1}"), None);
    }
}
