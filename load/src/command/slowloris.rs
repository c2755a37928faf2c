//! `load slowloris`: what slow connections take away from a normal client.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use load::chart::number;
use load::engine::Pace;
use load::report::{self, say};
use load::requests::Mix;
use load::result::Second;
use load::run::measure;
use load::spread::Spread;
use load::stage::{Stage, Target};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::run::Common;

/// Connections of the normal client.
const NORMAL_CONNECTIONS: usize = 64;
/// Between two lines of a slow head.
const DRIP_INTERVAL: Duration = Duration::from_secs(1);
/// Before a slow client that was thrown out comes again.
const RETURN_AFTER: Duration = Duration::from_millis(100);
/// Seconds at the beginning of a turn that do not count: the slow ones come and go.
const CHANGE_S: usize = 2;
/// Least goodput with slow connections, as a share of that without.
const GOODPUT_MIN: f64 = 0.9;

/// How slow.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Slow connections.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    slow: u32,
    /// Rounds, each without and with them.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long a turn lasts, in seconds.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(4..=600))]
    round_s: u64,
}

#[derive(Debug, Serialize)]
struct Slowloris {
    slow_connections: u32,
    goodput_without_per_s: Option<Spread>,
    goodput_with_per_s: Option<Spread>,
    ratio: Option<f64>,
    ratio_spread: Option<Spread>,
    slow_open_max: usize,
    thrown_out: usize,
    audit_consistent: bool,
    passed: bool,
}

#[derive(Debug, Default)]
struct Count {
    open: AtomicUsize,
    open_max: AtomicUsize,
    thrown_out: AtomicUsize,
}

/// Compares, and fails below 90 %.
pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (target, _held) = arguments.common.target()?;
    let stage = Stage::set(&target, Mix::Buyers, arguments.common.buyers as usize).await?;
    let turn = (Pace::Closed { connections: NORMAL_CONNECTIONS }, Duration::from_secs(arguments.round_s));
    let turns = 2 * arguments.rounds as usize;
    let course = arguments.common.course(vec![turn; turns]);
    let (switch, count) = (watch::Sender::new(false), Arc::new(Count::default()));
    let _slow = slow_ones(&target, arguments.slow, &switch, &count);
    let round_s = arguments.round_s;
    let measured = measure(&target, stage, &course, |second| {
        report::second(second, turns);
        // The turns with slow connections are the odd ones; the next one begins now if this was a turn's last second.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of a run")]
        let next = second.at_s.round() as u64 / round_s;
        switch.send_replace(!next.is_multiple_of(2) && next < turns as u64);
    })
    .await?;
    let slowloris = conclude(&arguments, &measured.seconds, &count, measured.is_clean());
    let shown = |spread: Option<Spread>| {
        spread.map_or_else(
            || "-".to_owned(),
            |spread| format!("{} ({} to {})", number(spread.median), number(spread.min), number(spread.max)),
        )
    };
    say(&format!("  accepted a second without slow connections: {}", shown(slowloris.goodput_without_per_s)));
    say(&format!("  with {}: {}", arguments.slow, shown(slowloris.goodput_with_per_s)));
    say(&format!(
        "  ratio {}; {} slow connections open at most, {} thrown out; {}",
        slowloris.ratio.map_or_else(|| "-".to_owned(), number),
        slowloris.slow_open_max,
        slowloris.thrown_out,
        if slowloris.passed { "kept" } else { "NOT KEPT (at least 0.9, audit clean)" }
    ));
    report::write_json(&arguments.common.reports, "slowloris", &slowloris)?;
    Ok(if slowloris.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn conclude(arguments: &Arguments, seconds: &[Second], count: &Count, clean: bool) -> Slowloris {
    let goodput = |turn: usize| {
        let of: Vec<f64> = seconds
            .iter()
            .filter(|second| second.step == Some(turn))
            .skip(CHANGE_S)
            .map(|second| second.accepted_per_s)
            .collect();
        #[expect(clippy::cast_precision_loss, reason = "few seconds")]
        let count = of.len().max(1) as f64;
        of.iter().sum::<f64>() / count
    };
    let rounds = arguments.rounds as usize;
    let without: Vec<f64> = (0..rounds).map(|round| goodput(2 * round)).collect();
    let with: Vec<f64> = (0..rounds).map(|round| goodput(2 * round + 1)).collect();
    let ratios: Vec<f64> = with.iter().zip(&without).map(|(with, without)| with / without.max(1.0)).collect();
    let ratio_spread = Spread::of(&ratios);
    let ratio = ratio_spread.map(|spread| spread.median);
    Slowloris {
        slow_connections: arguments.slow,
        goodput_without_per_s: Spread::of(&without),
        goodput_with_per_s: Spread::of(&with),
        ratio,
        ratio_spread,
        slow_open_max: count.open_max.load(Ordering::Relaxed),
        thrown_out: count.thrown_out.load(Ordering::Relaxed),
        audit_consistent: clean,
        passed: clean && ratio.is_some_and(|ratio| ratio >= GOODPUT_MIN),
    }
}

/// The slow clients; each is there while the switch is on.
fn slow_ones(target: &Target, slow: u32, switch: &watch::Sender<bool>, count: &Arc<Count>) -> JoinSet<()> {
    let mut slow_ones = JoinSet::new();
    for n in 0..slow as usize {
        let gateway = target.gateways[n % target.gateways.len()];
        let (mut on, count) = (switch.subscribe(), count.clone());
        slow_ones.spawn(async move {
            loop {
                if on.wait_for(|on| *on).await.is_err() {
                    return;
                }
                let thrown_out = {
                    let mut off = on.clone();
                    tokio::select! {
                        _ = off.wait_for(|on| !*on) => false,
                        () = drip(gateway, &count) => true,
                    }
                };
                if thrown_out {
                    count.thrown_out.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(RETURN_AFTER).await;
                }
            }
        });
    }
    slow_ones
}

/// Sends a head that never ends, a line a second, until the server has had enough.
async fn drip(gateway: std::net::SocketAddr, count: &Count) {
    let Ok(mut stream) = TcpStream::connect(gateway).await else { return };
    let _open = Open::new(count);
    let begin = b"POST /api/v1/items/00000000-0000-0000-0000-000000000000/orders HTTP/1.1\r\nhost: slow\r\n";
    if stream.write_all(begin).await.is_err() {
        return;
    }
    let mut answer = [0; 64];
    loop {
        tokio::select! {
            () = tokio::time::sleep(DRIP_INTERVAL) => {
                if stream.write_all(b"x-slow: 1\r\n").await.is_err() {
                    return;
                }
            }
            // Whatever it says, it has stopped waiting.
            _ = stream.read(&mut answer) => return,
        }
    }
}

/// Counts a connection as long as it is open.
struct Open<'a>(&'a Count);

impl<'a> Open<'a> {
    fn new(count: &'a Count) -> Self {
        let open = count.open.fetch_add(1, Ordering::Relaxed) + 1;
        count.open_max.fetch_max(open, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
