//! One schedule, from an empty world to the verdicts.

mod quiet;
mod setup;
mod timeline;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use common::ids::{ItemId, OrderId};
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use self::setup::Scene;
use crate::checker::{self, Verdict};
use crate::client_log::{self, ClientLog, Op, Outcome};
use crate::evidence::{Evidence, Facts, Sample};
use crate::fault::Store;
use crate::schedule::Schedule;
use crate::stores::{self, Ledger, Shelf};
use crate::workload::poison::Injected;
use crate::workload::{admin, buyer, poison, stream};
use crate::world::World;
use crate::{sampler, settings};

/// Longest that buyers have for their wishes after the last fault was healed.
const BUYERS_WITHIN: Duration = Duration::from_secs(15);
/// Longest that persistent buyers and listeners need to go home.
const HOME_WITHIN: Duration = Duration::from_secs(12);
/// Orders that are read once more in a system at rest.
const READ_AT_REST_MAX: usize = 48;

/// Longest that gateways need to be there again.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// How often one is read that cannot be had at the moment, and how long to wait in between.
const READS_MAX: usize = 8;
const READ_PAUSE: Duration = Duration::from_millis(300);

/// How stock-service logs that its books contradict themselves.
const BOOKS_WRONG: [&str; 2] = ["books are wrong: gate closed", "contradicts the books: gate closed"];

/// What one schedule showed.
#[derive(Debug)]
pub struct Ran {
    /// One for each invariant.
    pub verdicts: Vec<Verdict>,
    /// Operations of clients.
    pub operations: usize,
    /// Orders that were accepted.
    pub accepted: usize,
    /// Faults that happened.
    pub injected: usize,
    /// Crash points that were passed while armed, as `point=action`.
    pub reached: BTreeSet<String>,
    /// How long everything took.
    pub took: Duration,
}

impl Ran {
    /// The invariants that did not hold.
    pub fn violations(&self) -> Vec<&Verdict> {
        self.verdicts.iter().filter(|verdict| !verdict.holds()).collect()
    }
}

/// Everything that goes on beside the faults.
struct Actors {
    buyers: JoinSet<()>,
    persistent: JoinSet<()>,
    listeners: JoinSet<()>,
    admin: JoinHandle<()>,
    poison: JoinHandle<(Vec<Injected>, Vec<String>)>,
    sampler: JoinHandle<Vec<Sample>>,
}

/// Runs a schedule; `failpoints` are in every process' environment. The files of the run go to `folder`.
///
/// # Errors
/// The world could not be set up, or its books not be read: nothing is said about the system.
pub async fn run(schedule: &Schedule, failpoints: &str, folder: &Path) -> anyhow::Result<Ran> {
    let began = Instant::now();
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("schedule.json"), serde_json::to_vec_pretty(schedule)?)?;
    let mut world = World::start(&settings::plan(schedule, failpoints)).await?;
    let log = ClientLog::begin();
    let scene = Scene::set(&world, schedule, &log).await?;
    let (over, is_over) = watch::channel(false);
    let market = scene.market(&world, is_over);
    let mut actors = start(&world, schedule, &scene, &market).await?;

    let injected = timeline::play(&mut world, schedule, Instant::now()).await?;
    let patience = Instant::now() + BUYERS_WITHIN;
    while !actors.buyers.is_empty() && Instant::now() < patience {
        timeout(Duration::from_millis(100), actors.buyers.join_next()).await.ok();
        world.revive();
    }
    actors.buyers.shutdown().await;
    timeout(BUYERS_WITHIN, &mut actors.admin).await.ok();
    world.disarm().await;
    let (poison, poison_unsure) = actors.poison.await?;
    let not_quiet = quiet::wait(&mut world, schedule, &scene, &market).await;
    forget(&mut world).await;
    read_at_rest(&scene, &log).await;
    over.send_replace(true);
    timeout(HOME_WITHIN, async { while actors.persistent.join_next().await.is_some() {} }).await.ok();
    timeout(HOME_WITHIN, async { while actors.listeners.join_next().await.is_some() {} }).await.ok();

    let facts = Facts {
        items: scene.items.clone(),
        window_s: schedule.shop.window_s,
        lease_ms: settings::LEASE_MS,
        unserved: unserved(&market),
        poison,
        poison_unsure,
        broker_lost: schedule.faults.iter().any(|planned| planned.fault.loses() == Some(Store::Broker)),
        not_quiet,
        deaths: world.deaths().to_vec(),
        log_findings: findings(&world),
        books_wrong: books_wrong(&world),
        listeners: scene.listeners(schedule),
        received: scene.receiver.received(),
    };
    let samples = actors.sampler.await?;
    let evidence = collect(&world, facts, samples, &log).await?;
    let verdicts = checker::check(&evidence);
    let reached = reached(&world);
    save(&world, &evidence, &verdicts, folder)?;
    let accepted = evidence.history.reserves().filter(|op| op.kind == Outcome::Ok);
    let accepted: BTreeSet<_> = accepted.filter_map(|op| op.answered).collect();
    Ok(Ran {
        verdicts,
        operations: evidence.history.ops.len(),
        accepted: accepted.len(),
        injected,
        reached,
        took: began.elapsed(),
    })
}

async fn start(
    world: &World,
    schedule: &Schedule,
    scene: &Scene,
    market: &buyer::Market,
) -> anyhow::Result<Actors> {
    let began = Instant::now();
    let (mut buyers, mut persistent, mut listeners) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    for (buyer, caller) in schedule.buyers.iter().zip(&scene.callers) {
        if buyer.listens {
            listeners.spawn(stream::follow(caller.clone(), market.over.clone()));
        }
        let group = if buyer.persistent { &mut persistent } else { &mut buyers };
        group.spawn(buyer::live(caller.clone(), buyer.clone(), market.clone()));
    }
    let steps = schedule.admin.clone();
    let admin = tokio::spawn(admin::run(scene.admin.clone(), scene.sale, steps, market.clone(), began));
    let broker = world.services.vhost().url();
    let item = scene.items.first().context("a sale has items")?.id;
    let poison = tokio::spawn(poison::run(broker, item, schedule.poison.clone(), began));
    let ledger = Ledger::new(world.services.orders_database().url());
    let items = scene.items.iter().map(|item| item.id).collect();
    let shelf = Shelf::new(world.redis_url());
    let log = scene.admin.log().clone();
    let sampler = tokio::spawn(sampler::run(ledger, shelf, items, log, market.over.clone()));
    Ok(Actors { buyers, persistent, listeners, admin, poison, sampler })
}

/// Gateways remember whom they have answered; what they say must not rest on that. They are killed and started again.
async fn forget(world: &mut World) {
    for name in world.services.names().iter().filter(|name| name.starts_with("gateway")) {
        world.services.kill(name);
        world.services.start_again(name);
    }
    let deadline = Instant::now() + READY_WITHIN;
    while !world.not_ready().await.is_empty() && Instant::now() < deadline {
        sleep(READ_PAUSE / 3).await;
    }
}

/// Reads orders in a system at rest, by their owners and by a stranger, and asks for them again: the same key has its
/// order for ever.
async fn read_at_rest(scene: &Scene, log: &ClientLog) {
    let history = log.history();
    let accepted: BTreeMap<OrderId, &Op> = history
        .reserves()
        .filter(|op| op.kind == Outcome::Ok)
        .filter_map(|op| Some((op.answered?, op)))
        .collect();
    let reads = accepted.iter().take(READ_AT_REST_MAX).map(|(order, op)| async {
        let owner = &scene.callers[op.process];
        for _ in 0..READS_MAX {
            if !owner.get_with(*order, Some("at rest")).await.passing() {
                break;
            }
            sleep(READ_PAUSE).await;
        }
        scene.stranger.get(*order).await;
        if let (Some(item), Some(key)) = (op.item, &op.key) {
            for _ in 0..READS_MAX {
                if !owner.reserve(item, key, op.qty).await.passing() {
                    break;
                }
                sleep(READ_PAUSE).await;
            }
        }
    });
    join_all(reads).await;
}

/// Persistent buyers who never got anything, by item.
fn unserved(market: &buyer::Market) -> BTreeMap<ItemId, usize> {
    let mut unserved = BTreeMap::new();
    for standing in market.persistent.lock().values().filter(|standing| !standing.served) {
        *unserved.entry(standing.item).or_default() += 1;
    }
    unserved
}

async fn collect(
    world: &World,
    facts: Facts,
    samples: Vec<Sample>,
    log: &ClientLog,
) -> anyhow::Result<Evidence> {
    let mut orders = Ledger::new(world.services.orders_database().url());
    let mut notify = Ledger::new(world.services.notify_database().url());
    let mut shelf = Shelf::new(world.redis_url());
    let items = facts.items.iter().map(|item| item.id).collect();
    let mut books = stores::books(&mut orders, &mut notify, &mut shelf, &items).await?;
    books.queues = world.services.vhost().queue_depths().await;
    Ok(Evidence { facts, history: log.history(), samples, books })
}

/// Lines of logs that must not be there.
fn findings(world: &World) -> Vec<String> {
    let services = &world.services;
    let secrets = [services.internal_token(), services.jwt_secret(), services.sandbox_secret()];
    let mut found = Vec::new();
    for name in services.names() {
        for line in services.log(&name).lines() {
            if line.contains("panicked at") {
                found.push(format!("{name}: {line}"));
            }
            if secrets.iter().any(|secret| line.contains(secret)) {
                found.push(format!("{name} logs a secret"));
            }
        }
    }
    found
}

/// What the always-on checks of stock-service found. They run in production too, where `stock_books_wrong_total` counts
/// it; a log outlives its process.
fn books_wrong(world: &World) -> Vec<String> {
    let mut found = Vec::new();
    for name in world.services.names().iter().filter(|name| name.starts_with("stock-service")) {
        let log = world.services.log(name);
        let wrong = log.lines().filter(|line| BOOKS_WRONG.iter().any(|what| line.contains(what)));
        found.extend(wrong.map(|line| format!("{name}: {line}")));
    }
    found
}

/// What the processes say that was injected.
fn reached(world: &World) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    for name in world.services.names() {
        for line in world.services.log(&name).lines().filter(|line| line.contains("injected")) {
            let field = |field: &str| {
                let rest = line.split_once(&format!("{field}="))?.1;
                Some(rest.split_whitespace().next()?.trim_matches('"').to_owned())
            };
            if let (Some(point), Some(action)) = (field("failpoint"), field("action")) {
                reached.insert(format!("{point}={action}"));
            }
        }
    }
    reached
}

fn save(world: &World, evidence: &Evidence, verdicts: &[Verdict], folder: &Path) -> anyhow::Result<()> {
    client_log::write_lines(&folder.join("client-log.jsonl"), &evidence.history.ops)?;
    client_log::write_lines(&folder.join("stream-events.jsonl"), &evidence.history.events)?;
    client_log::write_lines(&folder.join("orders.jsonl"), &evidence.books.orders)?;
    client_log::write_lines(&folder.join("transitions.jsonl"), &evidence.books.transitions)?;
    std::fs::write(folder.join("facts.json"), serde_json::to_vec_pretty(&evidence.facts)?)?;
    std::fs::write(folder.join("verdicts.json"), serde_json::to_vec_pretty(verdicts)?)?;
    let logs = folder.join("logs");
    std::fs::create_dir_all(&logs)?;
    for name in world.services.names() {
        std::fs::write(logs.join(format!("{name}.log")), world.services.log(&name))?;
    }
    Ok(())
}
