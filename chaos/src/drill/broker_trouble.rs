//! A broker of the drill's own closes connections without end, and raises its memory alarm, in the middle of a sale.

use std::time::Duration;

use anyhow::bail;
use common::ids::ItemId;
use common::problem::OUTCOME_HEADER;
use e2e::crowd::Buyer;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use reqwest::StatusCode;
use serde_json::json;
use testkit::{Database, RabbitNode, Redis, Stores};
use tokio::time::{Instant, sleep, timeout};

use super::books::{self, Promises};
use super::report::{milliseconds, say};
use super::rush::{Probe, Wave, probe};
use super::stage::Stage;
use super::{Outcome, Recovery};

/// Buyers of each wave.
const WAVE: u64 = 150;
const BEFORE: u64 = 40;
const AT_ONCE: usize = 16;
/// Between two times that every connection is closed: services have just come back.
const BETWEEN_CLOSES: Duration = Duration::from_millis(250);
/// Open files of all services that may be more in the end: connections of pools and of clients, opened when needed.
const FILES_MORE_MAX: u64 = 200;
/// How long the alarm lasts.
const ALARM: Duration = Duration::from_secs(2);
/// How long buyers may hang before they are refused up front.
const REFUSED_WITHIN: Duration = Duration::from_secs(1);
/// Reserve path open again after the alarm.
const OPEN_WITHIN: Duration = Duration::from_secs(1);
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);
/// For each alarm: one who cancels, and those who find out whether they are refused.
const PROBES: u64 = 41;

async fn start() -> anyhow::Result<(RabbitNode, Stage)> {
    let node = RabbitNode::start().await;
    let (redis, orders, notify) =
        tokio::join!(Redis::start(), Database::create("orders"), Database::create("notify"));
    let stores = Stores { redis, vhost: node.vhost(), orders, notify };
    let stage = Stage::start_on(stores, 1, &[]).await?;
    Ok((node, stage))
}

/// What services have open.
struct Open {
    /// Connections to the broker.
    connections: u64,
    /// Files and sockets.
    files: u64,
}

impl Open {
    fn now(stage: &Stage, node: &RabbitNode) -> Self {
        let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        let to_broker = format!(":{:04X}", node.amqp_port());
        let established = |line: &&str| {
            let mut fields = line.split_whitespace().skip(2);
            let (remote, state) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
            remote.ends_with(&to_broker) && state == "01"
        };
        let services = &stage.world.services;
        let pids = services.names().into_iter().filter_map(|name| services.pid(&name));
        let files = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count) as u64;
        Self { connections: sockets.lines().filter(established).count() as u64, files: pids.map(files).sum() }
    }
}

/// `count` connections are lost in all.
pub(super) async fn closes(count: u64) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("broker-closes", count);
    let (node, stage) = start().await?;
    let vhost = node.vhost();
    let (before, open_before) = (vhost.connections_closed().await, Open::now(&stage, &node));
    let waves = (count / 100).clamp(1, 10);
    let crowd = stage.buyers("buyer", WAVE * waves).await?;
    let sale = stage.open_sale(WAVE * waves, 1).await?;
    let (item, mut promises, mut rounds) = (sale.items[0].id, Promises::default(), 0);
    let mut lost = 0;
    for (n, buyers) in (1..).zip(crowd.chunks(usize::try_from(WAVE)?)) {
        let wave = Wave::start(&stage.client, buyers.to_vec(), item, AT_ONCE);
        while lost < count * n / waves {
            for _ in 0..4 {
                vhost.close_all_connections().await;
                sleep(BETWEEN_CLOSES).await;
                rounds += 1;
            }
            lost = vhost.connections_closed().await - before;
        }
        promises.add(wave.end().await?);
        say(&format!("  {lost}/{count} connections lost, {} orders accepted", promises.accepted.len()));
    }
    books::settle(&stage, sale.id, &promises, &mut outcome).await?;
    books::nothing_parked(&stage, &mut outcome).await?;
    let open_after = Open::now(&stage, &node);
    outcome.figure("connections_lost", lost);
    outcome.figure("times_all_were_closed", rounds);
    outcome.figure("connections_before", open_before.connections);
    outcome.figure("connections_after", open_after.connections);
    outcome.figure("files_before", open_before.files);
    outcome.figure("files_after", open_after.files);
    let leaks = open_after.connections > open_before.connections
        || open_after.files > open_before.files + FILES_MORE_MAX;
    outcome.require(!leaks, "connections or open files of services became more");
    Ok(outcome)
}

/// The memory alarm is raised `count` times.
pub(super) async fn alarms(count: u64) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("broker-alarms", count);
    let (node, stage) = start().await?;
    let crowd = stage.buyers("buyer", WAVE * count).await?;
    let probes = stage.buyers("probe", PROBES * count).await?;
    let sale = stage.open_sale((WAVE + PROBES) * count, 1).await?;
    let (item, mut promises) = (sale.items[0].id, Promises::default());
    let (mut refusals, mut recoveries) = (Vec::new(), Vec::new());
    for (buyers, probes) in crowd.chunks(usize::try_from(WAVE)?).zip(probes.chunks(usize::try_from(PROBES)?))
    {
        let [cancels, probers @ ..] = probes else { break };
        let Probe::Open(_, order) = probe(&stage.client, cancels, item, Instant::now()).await? else { break };
        promises.accepted.insert(order);
        let wave = Wave::start(&stage.client, buyers.to_vec(), item, AT_ONCE);
        wave.under_way(BEFORE).await;
        node.alarm(true).await;
        let raised = Instant::now();
        let asked = refused_up_front(&stage, probers, item).await?;
        let refused = raised.elapsed();
        // What needs no broker goes on: the event waits in the outbox.
        let path = format!("/api/v1/orders/{order}/cancel");
        let cancelled = stage.client.post(&path, &cancels.token, &json!({})).await?;
        outcome.require(
            cancelled.status == StatusCode::OK || cancelled.status == StatusCode::SERVICE_UNAVAILABLE,
            format_args!("cancelling was answered {}", cancelled.status),
        );
        sleep(ALARM).await;
        let during = wave.accepted();
        node.alarm(false).await;
        let ended = Instant::now();
        // Everybody who was left without a final answer asks again; the first of them finds out when it is open.
        for (n, prober) in asked.iter().enumerate() {
            let Probe::Open(time, order) = probe(&stage.client, prober, item, ended).await? else { continue };
            promises.accepted.insert(order);
            if n == 0 {
                recoveries.push(time);
            }
        }
        promises.add(wave.end().await?);
        refusals.push(refused);
        say(&format!(
            "  {}/{count} alarms: refused after {} ms, {during} accepted by then, open after {:?} ms",
            refusals.len(),
            milliseconds(refused),
            recoveries.last().map(|time| milliseconds(*time)),
        ));
    }
    books::settle(&stage, sale.id, &promises, &mut outcome).await?;
    books::nothing_parked(&stage, &mut outcome).await?;
    outcome.recovery_ms = Recovery::of(&recoveries);
    if let (Some(refused), Some(open)) = (refusals.iter().max(), recoveries.iter().max()) {
        outcome.bound("refused up front in an alarm", *refused, REFUSED_WITHIN);
        outcome.bound("open again after an alarm", *open, OPEN_WITHIN);
    }
    Ok(outcome)
}

/// Buyers ask, one every [`PAUSE`], until one is told that nothing was done, instead of being left to wait. Returns those
/// who have asked, who may have been granted something.
async fn refused_up_front<'a>(
    stage: &Stage,
    probers: &'a [Buyer],
    item: ItemId,
) -> anyhow::Result<&'a [Buyer]> {
    let mut asking = FuturesUnordered::new();
    for (n, prober) in probers.iter().enumerate() {
        asking.push(timeout(ASK_TIMEOUT, stage.client.order(&prober.token, item, "probe", 1)));
        let next = sleep(PAUSE);
        tokio::pin!(next);
        loop {
            tokio::select! {
                () = &mut next => break,
                Some(asked) = asking.next() => {
                    if let Ok(Ok(answer)) = asked
                        && answer.status == StatusCode::SERVICE_UNAVAILABLE
                        && answer.header(OUTCOME_HEADER) == Some("none")
                    {
                        return Ok(&probers[..=n]);
                    }
                }
            }
        }
    }
    bail!("{} buyers asked in an alarm, and none was refused up front", probers.len())
}
