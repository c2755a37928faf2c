//! `load bench`: a bare handler, the classic design, our refusal and our accepted order, in alternating rounds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use load::chart::number;
use load::children::Server;
use load::depths::{Depths, UNSETTLED};
use load::engine::{Engine, Pace, Plan, Step};
use load::processes::{self, Parts, TOOL};
use load::record::Recorder;
use load::report::{self, say};
use load::requests::{Mix, Requests};
use load::spread::Spread;
use load::stage::{Stage, Target};
use load::wire::{Connection, Outcome};
use serde::Serialize;

/// Distinct tokens of those who come too late.
const LATE_BUYERS: usize = 10_000;
/// Buyers for each second of each turn. Each may try twenty times, so there are enough for 20,000 orders a second.
const BUYERS_PER_SECOND: usize = 1_000;
/// How long the orders of a round may take to be settled.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// How long the audit may take to be clean.
const QUIET_WITHIN: Duration = Duration::from_secs(60);
/// Longest that a request to copy the answer of may take.
const COPY_WITHIN: Duration = Duration::from_secs(5);

/// How to compare.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The env file of the running instance.
    #[arg(long, default_value = ".dev/env")]
    env_file: PathBuf,
    /// Where the report goes.
    #[arg(long, default_value = ".dev/reports")]
    reports: PathBuf,
    /// Rounds, in each of which all four take their turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long a turn takes, in seconds.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
    round_s: u64,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Threads that send.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    threads: u8,
}

/// Who is measured.
struct Contender {
    name: &'static str,
    address: SocketAddr,
    mix: Mix,
    parts: Parts,
    /// Whether what it accepts has to be settled before the next turn.
    settles: bool,
}

/// What one turn came to.
struct Turn {
    per_s: f64,
    cpu_us: BTreeMap<String, f64>,
    p99_ms: f64,
}

/// What the benchmark writes.
#[derive(Debug, Serialize)]
struct Bench {
    bare: Option<Spread>,
    classic: Option<Spread>,
    refused: Option<Spread>,
    accepted: Option<Spread>,
    ratio_refused_bare: Option<f64>,
    ratio_refused_bare_spread: Option<Spread>,
    ratio_accepted_classic: Option<f64>,
    ratio_accepted_classic_spread: Option<Spread>,
    cpu_ratio_refused_bare: Option<f64>,
    cpu_us_per_answer: BTreeMap<&'static str, BTreeMap<String, f64>>,
    p99_ms: BTreeMap<&'static str, f64>,
    audit_consistent: bool,
    rounds: u32,
    round_s: u64,
    connections: u32,
    circumstances: BTreeMap<String, String>,
}

/// Compares, prints the table, and fails when the audit is not clean.
pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let target = Target::find(&arguments.env_file)?;
    let seconds = usize::try_from(u64::from(arguments.rounds) * arguments.round_s)?;
    let stage = Stage::set(&target, Mix::SoldOut, LATE_BUYERS.max(seconds * BUYERS_PER_SECOND)).await?;
    let folder = std::env::temp_dir().join(format!("stampede-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let answer_file = folder.join("refusal");
    let copied = tokio::time::timeout(COPY_WITHIN, a_refusal(&stage.requests, target.gateways[0])).await;
    std::fs::write(&answer_file, copied.context("no refusal to copy in time")??)?;

    let bare = Server::of_this_program(&["serve-bare", "--answer", &answer_file.to_string_lossy()])?;
    let redis = Server::redis(&folder)?;
    let redis_url = format!("redis://{}/", redis.address);
    let classic = Server::of_this_program(&["serve-classic", "--redis-url", &redis_url])?;
    let contenders = contenders(&target, &bare, (&classic, &redis));

    let mut depths = Depths::connect(&target.environment, stage.requests.item).await?;
    let mut turns: BTreeMap<&'static str, Vec<Turn>> = BTreeMap::new();
    for round in 1..=arguments.rounds {
        for contender in &contenders {
            let requests = stage.requests.with(
                contender.mix,
                format!("{round}-{}", contender.name),
                contender.address.to_string(),
            );
            let requests = match contender.mix {
                Mix::SoldOut => requests.of_the_first(LATE_BUYERS),
                Mix::Buyers | Mix::Browsers | Mix::Bots | Mix::All => requests,
            };
            let turn = take_turn(&arguments, contender, requests, &mut depths).await?;
            say(&format!(
                "round {round}/{}  {:<9} {:>8}/s  p99 {:>7} ms  CPU us: {}",
                arguments.rounds,
                contender.name,
                number(turn.per_s),
                number(turn.p99_ms),
                report::costs(&turn.cpu_us)
            ));
            turns.entry(contender.name).or_default().push(turn);
        }
    }
    let audit = target.client.wait_until_quiet(&stage.admin, stage.sale.id, QUIET_WITHIN).await;
    let bench = conclude(&arguments, &turns, audit.is_ok(), report::circumstances(&target.parts));
    std::fs::remove_dir_all(&folder).ok();
    print(&bench, &turns);
    report::write_json(&arguments.reports, "bench", &bench)?;
    say(&format!("  report: {}", arguments.reports.join("bench.json").display()));
    if let Err(error) = audit {
        say(&format!("  AUDIT NOT CLEAN, this run has no result: {error}"));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn contenders(target: &Target, bare: &Server, (classic, redis): (&Server, &Server)) -> [Contender; 4] {
    let tool = Parts::of(&[(TOOL, std::process::id())]);
    let with = |servers: &[(&str, u32)]| {
        let mut parts = tool.clone();
        servers.iter().for_each(|(name, pid)| parts.add(name, *pid));
        parts
    };
    let gateway = target.gateways[0];
    let of = |name, address, mix, parts, settles| Contender { name, address, mix, parts, settles };
    [
        of("bare", bare.address, Mix::SoldOut, with(&[("bare handler", bare.pid())]), false),
        of(
            "classic",
            classic.address,
            Mix::Buyers,
            with(&[("classic", classic.pid()), ("classic's redis", redis.pid())]),
            false,
        ),
        of("refused", gateway, Mix::SoldOut, target.parts.clone(), false),
        of("accepted", gateway, Mix::Buyers, target.parts.clone(), true),
    ]
}

/// The bytes of a refusal because of sell-out.
async fn a_refusal(requests: &Requests, gateway: SocketAddr) -> anyhow::Result<Vec<u8>> {
    let mut request = Vec::new();
    requests.next(&mut request);
    let mut connection = Connection::open(gateway).await?;
    let answer = connection.exchange(&request).await.ok().context("no answer to copy")?;
    ensure!(matches!(answer.outcome, Outcome::Refused(_)), "not a refusal: {:?}", answer.outcome);
    Ok(connection.last_answer().to_vec())
}

async fn take_turn(
    arguments: &Arguments,
    contender: &Contender,
    requests: Requests,
    depths: &mut Depths,
) -> anyhow::Result<Turn> {
    let connections = arguments.connections as usize;
    let plan = Arc::new(Plan {
        gateways: vec![contender.address],
        requests,
        in_flight_max: connections,
        threads: arguments.threads.into(),
        connections_ready: 0,
    });
    let (begin, hold) = (Instant::now(), Duration::from_secs(arguments.round_s));
    let recorder = Arc::new(Recorder::new(begin + hold)?);
    let step = Step { pace: Pace::Closed { connections }, begin, hold, recorder: recorder.clone() };
    let before = contender.parts.usage()?;
    let engine = Engine::start(&plan, &[step])?;
    tokio::task::spawn_blocking(move || engine.join()).await??;
    while contender.settles && depths.read().await?.get(UNSETTLED) != Some(&0) {
        ensure!(begin.elapsed() < hold + SETTLED_WITHIN, "the orders of a round do not settle");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let used = processes::cpu_between(&before, &contender.parts.usage()?);
    let totals = recorder.totals()?;
    let all = &totals.all;
    let (count, in_time, latencies) = match contender.mix {
        Mix::Buyers => (all.accepted(), totals.accepted_in_time, &all.accepted_us),
        Mix::Browsers | Mix::Bots | Mix::SoldOut | Mix::All => {
            (all.refused(), totals.refused_in_time, &all.refused_us)
        }
    };
    // Of our own order path some are refused when it is busy; they are not counted.
    ensure!(
        all.failed() == 0 && (contender.settles || count == all.answered()),
        "{} answered something else: {:?}",
        contender.name,
        all.outcomes
    );
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let (per_s, count) = (in_time as f64 / hold.as_secs_f64(), count.max(1) as f64);
    let cpu_us = used.into_iter().map(|(part, time)| (part, time.as_secs_f64() * 1e6 / count)).collect();
    Ok(Turn { per_s, cpu_us, p99_ms: load::record::quantile_ms(latencies, 0.99) })
}

fn conclude(
    arguments: &Arguments,
    turns: &BTreeMap<&'static str, Vec<Turn>>,
    audit_consistent: bool,
    circumstances: BTreeMap<String, String>,
) -> Bench {
    let per_s = |name: &str| -> Vec<f64> {
        turns.get(name).map(|turns| turns.iter().map(|turn| turn.per_s).collect()).unwrap_or_default()
    };
    // Of the same round, so that a slow minute of the machine is in both.
    let ratio = |one: &str, other: &str| -> Vec<f64> {
        per_s(one).iter().zip(per_s(other)).map(|(one, other)| one / other).collect()
    };
    let (refused_bare, accepted_classic) = (ratio("refused", "bare"), ratio("accepted", "classic"));
    let cpu = |name: &str| -> Vec<f64> {
        turns.get(name).map(|turns| turns.iter().map(Turn::server_us).collect()).unwrap_or_default()
    };
    let cpu_ratio: Vec<f64> =
        cpu("refused").iter().zip(cpu("bare")).map(|(one, other)| one / other).collect();
    let median = |figures: &[f64]| Spread::of(figures).map(|spread| spread.median);
    let p99 = |turns: &Vec<Turn>| {
        median(&turns.iter().map(|turn| turn.p99_ms).collect::<Vec<_>>()).unwrap_or_default()
    };
    Bench {
        bare: Spread::of(&per_s("bare")),
        classic: Spread::of(&per_s("classic")),
        refused: Spread::of(&per_s("refused")),
        accepted: Spread::of(&per_s("accepted")),
        ratio_refused_bare: median(&refused_bare),
        ratio_refused_bare_spread: Spread::of(&refused_bare),
        ratio_accepted_classic: median(&accepted_classic),
        ratio_accepted_classic_spread: Spread::of(&accepted_classic),
        cpu_ratio_refused_bare: median(&cpu_ratio),
        cpu_us_per_answer: turns.iter().map(|(name, turns)| (*name, cpu_by_part(turns))).collect(),
        p99_ms: turns.iter().map(|(name, turns)| (*name, p99(turns))).collect(),
        audit_consistent,
        rounds: arguments.rounds,
        round_s: arguments.round_s,
        connections: arguments.connections,
        circumstances,
    }
}

impl Turn {
    /// CPU microseconds for each answer, of all parts but this tool.
    fn server_us(&self) -> f64 {
        self.cpu_us.iter().filter(|(part, _)| *part != TOOL).map(|(_, us)| us).sum()
    }
}

/// The median of each part over the rounds.
fn cpu_by_part(turns: &[Turn]) -> BTreeMap<String, f64> {
    let mut parts = BTreeMap::<String, Vec<f64>>::new();
    for (part, us) in turns.iter().flat_map(|turn| &turn.cpu_us) {
        parts.entry(part.clone()).or_default().push(*us);
    }
    let median = |figures: &[f64]| Spread::of(figures).map_or(0.0, |spread| spread.median);
    parts.into_iter().map(|(part, us)| (part, median(&us))).collect()
}

fn print(bench: &Bench, turns: &BTreeMap<&'static str, Vec<Turn>>) {
    say("");
    say("               per second: median     min     max    p99 ms   CPU us an answer: servers, tool");
    let rows = [
        ("bare", "a: bare handler", bench.bare),
        ("classic", "b: classic design", bench.classic),
        ("refused", "c: our refusal", bench.refused),
        ("accepted", "d: our order", bench.accepted),
    ];
    for (name, title, spread) in rows {
        let (Some(spread), Some(turns)) = (spread, turns.get(name)) else { continue };
        let cpu = cpu_by_part(turns);
        let tool = cpu.get(TOOL).copied().unwrap_or(0.0);
        let servers: f64 = cpu.values().sum::<f64>() - tool;
        say(&format!(
            "  {title:<19} {:>12} {:>7} {:>7} {:>9}   {:>10} {:>10}",
            number(spread.median),
            number(spread.min),
            number(spread.max),
            number(bench.p99_ms.get(name).copied().unwrap_or(0.0)),
            number(servers),
            number(tool),
        ));
    }
    for (name, by_part) in &bench.cpu_us_per_answer {
        say(&format!("  CPU us, {name}: {}", report::costs(by_part)));
    }
    let ratio = |what: &str, spread: Option<Spread>| {
        if let Some(Spread { median, min, max }) = spread {
            say(&format!("  {what:<44} {median:.2} ({min:.2} to {max:.2})"));
        }
    };
    ratio("refused / bare, per second", bench.ratio_refused_bare_spread);
    ratio("accepted / classic, per second", bench.ratio_accepted_classic_spread);
    if let Some(cpu) = bench.cpu_ratio_refused_bare {
        say(&format!("  {:<44} {cpu:.2}", "refused / bare, server CPU an answer"));
    }
}
