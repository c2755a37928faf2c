//! Drills: one kind of trouble, very often, against a system under load, with figures.
//!
//! Where a campaign asks whether any mixture of faults breaks a promise, a drill asks how often one of them was survived and
//! how fast. Each starts a system of its own, lets buyers in, does its worst, waits for quiet, counts the books afresh from the
//! stores, and appends one line of JSON to a report.

mod books;
mod broker_trouble;
mod contention;
mod kill_all;
mod load;
mod poison;
mod postgres_outage;
mod rabbitmq_cluster;
mod rabbitmq_wipes;
mod races;
mod redis_cluster;
mod redis_losses;
mod redis_sentinel;
mod report;
mod retries;
mod rolling_restarts;
mod rush;
mod secret_rotation;
mod stage;
mod three_replicas;
mod upgrades;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use clap::ValueEnum;

pub use self::report::{Bound, Outcome, Recovery};

/// What to drill, on the command line.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)] // Its name is another one's already.
pub struct Arguments {
    /// Run this drill instead of schedules (several: commas between; `all`: each of them, one after the other).
    #[arg(long, value_name = "NAMES|all", value_delimiter = ',')]
    drill: Vec<String>,
    /// How often the drill does its worst; each has a default.
    #[arg(long, requires = "drill")]
    count: Option<u64>,
    /// Where drills leave a line each.
    #[arg(long, default_value = ".dev/reports/drills.json")]
    drill_report: PathBuf,
    #[command(flatten)]
    releases: upgrades::Releases,
}

impl Arguments {
    /// This drill, so often, with a report at `drill_report`.
    pub fn of(drill: Drill, count: u64, drill_report: PathBuf) -> Self {
        let drill = vec![drill.name().to_owned()];
        Self { drill, count: Some(count), drill_report, releases: upgrades::Releases::default() }
    }

    /// Runs the drills that are asked for. True: no promise was broken; `None`: none is asked for.
    ///
    /// # Errors
    /// There is no such drill, or the report cannot be written.
    pub async fn run(&self, git_hash: &str) -> anyhow::Result<Option<bool>> {
        let drills = self.wanted()?;
        if drills.is_empty() {
            return Ok(None);
        }
        testkit::init();
        let mut ended = Vec::new();
        for drill in &drills {
            let began = Instant::now();
            let result =
                match drill.run_between(self.count, git_hash, &self.drill_report, &self.releases).await {
                    Ok(true) => "passed",
                    Ok(false) => "FAILED",
                    Err(error) => {
                        report::say(&format!("{} could not be done: {error:#}", drill.name()));
                        "COULD NOT BE DONE"
                    }
                };
            ended.push((drill.name(), result, began.elapsed().as_secs()));
        }
        if ended.len() > 1 {
            report::say("");
            for (name, result, took_s) in &ended {
                report::say(&format!("  {name:<24} {result}, {took_s} s"));
            }
        }
        Ok(Some(ended.iter().all(|(_, result, _)| *result == "passed")))
    }

    fn wanted(&self) -> anyhow::Result<Vec<Drill>> {
        if self.drill.iter().any(|name| name == "all") {
            // Not the one that needs the binaries of another release.
            let all = Drill::value_variants().iter().filter(|drill| **drill != Drill::Upgrades);
            return Ok(all.copied().collect());
        }
        let named = |name: &String| Drill::from_str(name, false).map_err(|error| anyhow::anyhow!(error));
        self.drill.iter().map(named).collect()
    }
}

/// A drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Drill {
    /// Redis loses data in five ways while a sale sells out; then again with many holders.
    RedisLosses,
    /// A broker of its own loses everything in mid-sale.
    RabbitmqWipes,
    /// A broker of its own closes connections without end.
    BrokerCloses,
    /// A broker of its own raises its memory alarm in mid-sale.
    BrokerAlarms,
    /// Postgres is killed and stays away in mid-sale.
    PostgresOutage,
    /// Every process and every store is killed at once.
    KillAll,
    /// Payment, cancel and expiry of the same order at the same time.
    Races,
    /// Messages that can never be handled, among good ones.
    Poison,
    /// Every replica of every service is restarted in turn under load.
    RollingRestarts,
    /// The same key at two gateways at the same time.
    SameKeyTwoGateways,
    /// Units are added and taken away while an item sells out.
    RestockAndSellOut,
    /// A sale ends while orders arrive.
    EndOfSaleAndOrder,
    /// One loader of a lost Redis stands still, another one takes over, the first one goes on.
    TwoRebuilders,
    /// An answer is lost, the world changes, and the same key is asked again.
    Retries,
    /// The last release is replaced by this one under load, service by service, in every order.
    Upgrades,
    /// A slot of a Redis Cluster is moved, and its primary killed.
    RedisCluster,
    /// One node after the other of a RabbitMQ cluster is killed.
    RabbitmqCluster,
    /// Three replicas of each service, and one of each is killed in turn.
    ThreeReplicas,
    /// The primary of a Redis with sentinels is killed, or cut off.
    RedisSentinel,
    /// Every secret is changed under load, as docs/SECRETS.md says.
    SecretRotation,
}

impl Drill {
    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::RedisLosses => "redis-losses",
            Self::RabbitmqWipes => "rabbitmq-wipes",
            Self::BrokerCloses => "broker-closes",
            Self::BrokerAlarms => "broker-alarms",
            Self::PostgresOutage => "postgres-outage",
            Self::KillAll => "kill-all",
            Self::Races => "races",
            Self::Poison => "poison",
            Self::RollingRestarts => "rolling-restarts",
            Self::SameKeyTwoGateways => "same-key-two-gateways",
            Self::RestockAndSellOut => "restock-and-sell-out",
            Self::EndOfSaleAndOrder => "end-of-sale-and-order",
            Self::TwoRebuilders => "two-rebuilders",
            Self::Retries => "retries",
            Self::Upgrades => "upgrades",
            Self::RedisCluster => "redis-cluster",
            Self::RabbitmqCluster => "rabbitmq-cluster",
            Self::ThreeReplicas => "three-replicas",
            Self::RedisSentinel => "redis-sentinel",
            Self::SecretRotation => "secret-rotation",
        }
    }

    /// How often it does its worst, unless told otherwise: what a release shows.
    pub fn default_count(self) -> u64 {
        match self {
            Self::RedisLosses => 200,
            Self::RabbitmqWipes | Self::RollingRestarts => 20,
            Self::PostgresOutage | Self::Races | Self::Poison => 10_000,
            Self::KillAll => 3,
            Self::SameKeyTwoGateways | Self::BrokerCloses => 1_000,
            Self::BrokerAlarms => 5,
            Self::RestockAndSellOut | Self::EndOfSaleAndOrder => 10,
            Self::TwoRebuilders => 20,
            Self::Retries => 50,
            Self::Upgrades => 24,
            Self::RedisCluster | Self::RabbitmqCluster | Self::ThreeReplicas => 3,
            Self::RedisSentinel => 4,
            Self::SecretRotation => 1,
        }
    }

    /// Does it, prints how it went, and appends the outcome to the file `report`. True: no promise was broken.
    ///
    /// # Errors
    /// It could not be done to its end, or the report cannot be written.
    pub async fn run(self, count: Option<u64>, git_hash: &str, report: &Path) -> anyhow::Result<bool> {
        self.run_between(count, git_hash, report, &upgrades::Releases::default()).await
    }

    async fn run_between(
        self,
        count: Option<u64>,
        git_hash: &str,
        report: &Path,
        releases: &upgrades::Releases,
    ) -> anyhow::Result<bool> {
        let count = count.unwrap_or_else(|| self.default_count());
        report::say(&format!("drill {}, {count} times", self.name()));
        let began = Instant::now();
        let outcome = match self {
            Self::RedisLosses => redis_losses::run(count).await,
            Self::RabbitmqWipes => rabbitmq_wipes::run(count).await,
            Self::BrokerCloses => broker_trouble::closes(count).await,
            Self::BrokerAlarms => broker_trouble::alarms(count).await,
            Self::PostgresOutage => postgres_outage::run(count).await,
            Self::KillAll => kill_all::run(count).await,
            Self::Races => races::run(count).await,
            Self::Poison => poison::run(count).await,
            Self::RollingRestarts => rolling_restarts::run(count).await,
            Self::SameKeyTwoGateways => contention::same_key(count).await,
            Self::RestockAndSellOut => contention::restock(count).await,
            Self::EndOfSaleAndOrder => contention::end_of_sale(count).await,
            Self::TwoRebuilders => contention::two_rebuilders(count).await,
            Self::Retries => retries::run(count).await,
            Self::Upgrades => upgrades::run(count, releases).await,
            Self::RedisCluster => redis_cluster::run(count).await,
            Self::RabbitmqCluster => rabbitmq_cluster::run(count).await,
            Self::ThreeReplicas => three_replicas::run(count).await,
            Self::RedisSentinel => redis_sentinel::run(count).await,
            Self::SecretRotation => secret_rotation::run(count).await,
        };
        let mut outcome = outcome.with_context(|| format!("drill {}", self.name()))?;
        outcome.git_hash = git_hash.to_owned();
        outcome.took_s = began.elapsed().as_secs();
        outcome.print();
        outcome.append_to(report)?;
        Ok(outcome.passed())
    }
}
