//! `load overload`: ten times what the system takes, for a minute, between two normal loads, and a verdict on each
//! promise.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use load::chart::number;
use load::engine::Pace;
use load::report::{self, say};
use load::requests::Mix;
use load::result::Second;
use load::run::{Measured, measure};
use load::schedule::arrivals;
use load::stage::Stage;
use serde::Serialize;

use super::run::{Common, report_of};

/// Connections of the closed loop that finds what the system takes.
const PEAK_CONNECTIONS: usize = 256;
/// The share of what it takes that is offered before and after, as a normal load.
const NORMAL_SHARE: f64 = 0.5;
/// How long the normal load lasts, each time.
const NORMAL_HOLD: Duration = Duration::from_secs(15);
/// A second of the load afterwards that is slower than this, and than any second of the same load before, is not normal,
/// in milliseconds.
const NORMAL_P99_MS: f64 = 50.0;
/// The steps of the run.
const OVERLOAD: usize = 0;
const AFTER: usize = 1;
/// Least share of the arrivals that this tool must have sent: otherwise it was no such overload.
const SENT_MIN: f64 = 0.95;
/// Least goodput, as a share of the peak.
const GOODPUT_MIN: f64 = 0.9;
/// Slowest refusals, in milliseconds.
const REFUSED_P99_MS_MAX: f64 = 20.0;
/// Most memory of a gateway, in MiB.
const GATEWAY_MIB_MAX: f64 = 128.0;
/// Longest until all is normal again, in seconds.
const NORMAL_AFTER_S_MAX: f64 = 5.0;

/// How to overload.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    common: Common,
    /// How many times the peak is offered.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=100))]
    times: u32,
    /// Accepted orders a second at the peak; found by a closed loop if not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    peak: Option<u32>,
    /// How long the overload lasts, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(3..=3_600))]
    hold_s: u64,
    /// How long the peak is looked for, in seconds.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(3..=600))]
    peak_s: u64,
    /// Connections that are open from the beginning.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    connections: u32,
}

/// One promise.
#[derive(Debug, Serialize)]
struct Clause {
    what: &'static str,
    measured: String,
    kept: bool,
}

/// What is written.
#[derive(Debug, Serialize)]
struct Overload {
    /// Which cores each part was held to.
    cores: BTreeMap<&'static str, String>,
    /// Cores' worth of time that each part took during the overload.
    cores_used: BTreeMap<String, f64>,
    peak_per_s: f64,
    offered_per_s: f64,
    /// Of the arrivals on schedule, the share that this tool could send.
    sent_share: f64,
    goodput_per_s: f64,
    goodput_ratio: f64,
    refused_per_s: f64,
    refused_p99_ms: Option<f64>,
    accepted_p99_ms: Option<f64>,
    undocumented_or_unanswered: u64,
    answers: BTreeMap<String, u64>,
    gateway_rss_mib_max: f64,
    connections_max: usize,
    /// Up to which the p99 of a second counts as normal.
    normal_p99_ms: f64,
    normal_after_s: Option<f64>,
    audit_consistent: bool,
    clauses: Vec<Clause>,
    passed: bool,
}

/// Overloads, judges, and fails when a promise is broken.
pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (target, _held) = arguments.common.target()?;
    let buyers = arguments.common.buyers as usize;
    let peak = match arguments.peak {
        Some(peak) => f64::from(peak),
        None => {
            say("looking for the peak …");
            let stage = Stage::set(&target, Mix::Buyers, buyers).await?;
            let step =
                (Pace::Closed { connections: PEAK_CONNECTIONS }, Duration::from_secs(arguments.peak_s));
            let course = arguments.common.course(vec![step]);
            let measured = measure(&target, stage, &course, |second| report::second(second, 1)).await?;
            measured.steps[0].accepted_per_s
        }
    };
    anyhow::ensure!(peak >= 1.0, "nothing is accepted: ./dev status shows what is wrong");
    let offered = (peak * f64::from(arguments.times)).round();
    say(&format!("peak {}/s; offering {}/s for {} s", number(peak), number(offered), arguments.hold_s));
    let normal = (Pace::Open { per_second: (peak * NORMAL_SHARE).max(1.0) }, NORMAL_HOLD);
    // A run of its own, because connections that send nothing for long are closed.
    let stage = Stage::set(&target, Mix::Buyers, buyers).await?;
    let course = arguments.common.course(vec![normal]);
    let before = measure(&target, stage, &course, |second| report::second(second, 1)).await?;
    let stage = Stage::set(&target, Mix::Buyers, buyers).await?;
    let overload = (Pace::Open { per_second: offered }, Duration::from_secs(arguments.hold_s));
    let mut course = arguments.common.course(vec![overload, normal]);
    course.connections_ready = arguments.connections as usize;
    course.in_flight_max = course.in_flight_max.max(course.connections_ready);
    let circumstances = report::circumstances(&target.parts);
    let measured = measure(&target, stage, &course, |second| report::second(second, 2)).await?;
    let overload = judge((&before, &measured), (peak, offered), arguments.common.division())?;
    let report = report_of(measured, Mix::Buyers, circumstances);
    report::summary(&report);
    report::write(&arguments.common.reports, "overload-load", &report)?;
    print(&overload);
    report::write_json(&arguments.common.reports, "overload", &overload)?;
    Ok(if overload.passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn judge(
    (before, measured): (&Measured, &Measured),
    (peak, offered): (f64, f64),
    cores: BTreeMap<&'static str, String>,
) -> anyhow::Result<Overload> {
    let step = measured.steps.get(OVERLOAD).context("no overload")?;
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let sent_share = step.sent as f64 / arrivals(offered, Duration::from_secs_f64(step.hold_s)).max(1) as f64;
    let gateways = measured.steps.iter().flat_map(|step| &step.memory_mib_max);
    let gateway_rss_mib_max = gateways
        .filter(|(part, _)| part.starts_with("gateway"))
        .fold(0.0, |most, (_, mib)| f64::max(most, *mib));
    let undocumented_or_unanswered = measured.steps.iter().map(|step| step.failed_count).sum();
    let refused_p99_ms = step.refused.map(|latency| latency.p99_ms);
    let goodput_ratio = step.accepted_per_s / peak;
    let normal_ms = normal_p99_ms(&before.seconds);
    let normal_after_s = normal_after(normal_ms, &measured.seconds, step.hold_s);
    let clean = measured.is_clean();
    let within = |value: Option<f64>, most: f64| value.is_some_and(|value| value <= most);
    let shown = |value: Option<f64>| value.map_or_else(|| "never".to_owned(), number);
    let connections_max = measured.seconds.iter().map(|second| second.connections).max().unwrap_or(0);
    let clauses = vec![
        Clause {
            what: "offered load really sent: at least 95 %",
            measured: format!("{:.0} %", sent_share * 100.0),
            kept: sent_share >= SENT_MIN,
        },
        Clause {
            what: "only 2xx, documented 4xx, 503 with Retry-After",
            measured: format!("{undocumented_or_unanswered} others"),
            kept: undocumented_or_unanswered == 0,
        },
        Clause {
            what: "goodput at least 90 % of the peak",
            measured: format!("{:.0} %", goodput_ratio * 100.0),
            kept: goodput_ratio >= GOODPUT_MIN,
        },
        Clause {
            what: "p99 of refusals at most 20 ms",
            measured: format!("{} ms", shown(refused_p99_ms)),
            kept: within(refused_p99_ms, REFUSED_P99_MS_MAX),
        },
        Clause {
            what: "memory of a gateway at most 128 MiB",
            measured: format!("{} MiB at up to {connections_max} connections", number(gateway_rss_mib_max)),
            kept: gateway_rss_mib_max <= GATEWAY_MIB_MAX,
        },
        Clause {
            what: "normal again within 5 s",
            measured: format!("{} s, p99 up to {} ms as before", shown(normal_after_s), number(normal_ms)),
            kept: within(normal_after_s, NORMAL_AFTER_S_MAX),
        },
        Clause { what: "audit clean", measured: clean.to_string(), kept: clean },
    ];
    Ok(Overload {
        cores,
        cores_used: cores_used(&measured.seconds),
        peak_per_s: peak,
        offered_per_s: offered,
        sent_share,
        goodput_per_s: step.accepted_per_s,
        goodput_ratio,
        refused_per_s: step.refused_per_s,
        refused_p99_ms,
        accepted_p99_ms: step.accepted.map(|latency| latency.p99_ms),
        undocumented_or_unanswered,
        answers: step.answers.clone(),
        gateway_rss_mib_max,
        connections_max,
        normal_p99_ms: normal_ms,
        normal_after_s,
        audit_consistent: clean,
        passed: clauses.iter().all(|clause| clause.kept),
        clauses,
    })
}

/// Averages of the seconds of the overload.
fn cores_used(seconds: &[Second]) -> BTreeMap<String, f64> {
    let overloaded: Vec<&Second> = seconds.iter().filter(|second| second.step == Some(OVERLOAD)).collect();
    #[expect(clippy::cast_precision_loss, reason = "few seconds")]
    let count = overloaded.len().max(1) as f64;
    let mut used: BTreeMap<String, f64> = BTreeMap::new();
    for (part, cores) in overloaded.iter().flat_map(|second| &second.cores) {
        *used.entry(part.clone()).or_default() += cores / count;
    }
    used
}

/// What is normal under the same load without an overload: the p99 of the slowest second but one, since one second may have
/// anything in it.
fn normal_p99_ms(before: &[Second]) -> f64 {
    let held = before.iter().filter(|second| second.step == Some(0));
    let mut seconds_ms: Vec<f64> = held.filter_map(|second| Some(second.accepted?.p99_ms)).collect();
    seconds_ms.sort_by(f64::total_cmp);
    seconds_ms.pop();
    seconds_ms.pop().unwrap_or(0.0).max(NORMAL_P99_MS)
}

/// Seconds from the end of the overload until everything is accepted and as quick as normal, and stays so; `None`: it
/// never was.
fn normal_after(normal_ms: f64, seconds: &[Second], overload_s: f64) -> Option<f64> {
    let normal = |second: &&Second| {
        let quick = second.accepted.is_some_and(|latency| latency.p99_ms <= normal_ms);
        quick && second.refused_per_s == 0.0 && second.beyond_bound == 0
    };
    let after: Vec<&Second> = seconds.iter().filter(|second| second.step == Some(AFTER)).collect();
    let last_bad = after.iter().rposition(|second| !normal(second));
    match last_bad {
        None if after.is_empty() => None,
        None => Some(0.0),
        Some(last) if last + 1 == after.len() => None,
        Some(last) => Some(after[last].at_s - overload_s),
    }
}

fn print(overload: &Overload) {
    say("");
    say(&format!(
        "  offered {}/s, of which {:.0} % could be sent; accepted {}/s, refused {}/s",
        number(overload.offered_per_s),
        overload.sent_share * 100.0,
        number(overload.goodput_per_s),
        number(overload.refused_per_s)
    ));
    let shown = |text: String, (part, cores): (&String, &f64)| format!("{text} {part} {cores:.2}");
    let used = overload.cores_used.iter().fold(String::new(), shown);
    say(&format!("  held to the cores {:?}; cores' worth of time used:{used}", overload.cores));
    for Clause { what, measured, kept } in &overload.clauses {
        say(&format!("  {what:<48} {measured:<40} {}", if *kept { "kept" } else { "NOT KEPT" }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(at_s: f64, step: usize, refused_per_s: f64, p99_ms: f64) -> Second {
        let latency = load::result::Latency { p50_ms: 1.0, p99_ms, p999_ms: p99_ms, max_ms: p99_ms };
        Second { at_s, step: Some(step), refused_per_s, accepted: Some(latency), ..Second::default() }
    }

    #[test]
    fn normal_is_when_it_stays_as_it_was_before() {
        let at = |before_ms: f64, bad: &[usize]| {
            let mut seconds = vec![second(60.0, OVERLOAD, 90_000.0, 300.0)];
            for n in 1..=5_u32 {
                let p99_ms = if bad.contains(&(n as usize)) { 70.0 } else { 9.0 };
                seconds.push(second(60.0 + f64::from(n), AFTER, 0.0, p99_ms));
            }
            let before = [before_ms, before_ms, 900.0].map(|p99_ms| second(1.0, 0, 0.0, p99_ms));
            normal_after(normal_p99_ms(&before), &seconds, 60.0)
        };
        assert_eq!(at(9.0, &[]), Some(0.0));
        assert_eq!(at(9.0, &[1]), Some(1.0));
        assert_eq!(at(9.0, &[1, 3]), Some(3.0));
        assert_eq!(at(9.0, &[5]), None);
        assert_eq!(at(70.0, &[1, 3, 5]), Some(0.0));
        assert_eq!(normal_after(50.0, &[second(60.0, OVERLOAD, 90_000.0, 300.0)], 60.0), None);
    }
}
