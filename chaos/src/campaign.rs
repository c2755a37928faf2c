//! Many schedules, several at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};

use crate::checker::Verdict;
use crate::points::{self, Action};
use crate::report::{CampaignReport, CrashPointReport, Finding};
use crate::run::{self, Ran};
use crate::schedule::{Armed, Schedule};

/// Longest that a schedule may take in all; then something of the campaign itself hangs.
const SCHEDULE_WITHIN: Duration = Duration::from_secs(180);

/// Where and how schedules are run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the files of schedules go.
    pub folder: PathBuf,
    /// Schedules at a time.
    pub jobs: usize,
    /// Keep the files of schedules that found nothing, too.
    pub keep: bool,
}

/// Runs the schedules of `count` seeds from `first` on and says how each went.
pub async fn run(first: u64, count: u64, options: &Options) -> CampaignReport {
    let began = Instant::now();
    let mut report = CampaignReport { seeds: [first, first + count - 1], ..CampaignReport::default() };
    let runs = stream::iter(first..first + count).map(|seed| async move {
        let schedule = Schedule::draw(seed);
        let result = one(&schedule, "", seed.to_string(), options).await;
        (schedule, result)
    });
    let mut runs = std::pin::pin!(runs.buffer_unordered(options.jobs));
    while let Some((schedule, result)) = runs.next().await {
        report.schedules += 1;
        let progress = format!("[{}/{count}]", report.schedules);
        add(&mut report, &schedule, result, &progress);
    }
    report.findings.sort_by_key(|finding| finding.seed);
    report.took_s = began.elapsed().as_secs_f64();
    report
}

/// Runs one schedule apart from everything else, so that a panic of the test kit is only its own end.
///
/// # Errors
/// The schedule could not be played to its end: nothing is said about the system.
pub async fn one(
    schedule: &Schedule,
    failpoints: &str,
    name: String,
    options: &Options,
) -> anyhow::Result<Ran> {
    let folder = options.folder.join(name);
    let (schedule, failpoints, files) = (schedule.clone(), failpoints.to_owned(), folder.clone());
    let task = tokio::spawn(async move {
        let run = run::run(&schedule, &failpoints, &files);
        tokio::time::timeout(SCHEDULE_WITHIN, run).await?
    });
    let result = task.await.map_err(|error| anyhow::anyhow!("{error}")).and_then(|result| result);
    if !options.keep && result.as_ref().is_ok_and(|ran| ran.violations().is_empty()) {
        remove(&folder);
    }
    result
}

fn remove(folder: &Path) {
    // What stays costs disk space, nothing else.
    std::fs::remove_dir_all(folder).ok();
}

fn add(report: &mut CampaignReport, schedule: &Schedule, result: anyhow::Result<Ran>, progress: &str) {
    let seed = schedule.seed;
    let mut faults: Vec<String> =
        schedule.faults.iter().map(|planned| planned.fault.kind().to_owned()).collect();
    faults.extend(
        schedule.crash_points.iter().map(|armed| format!("{}:{}", armed.point, armed.action.as_str())),
    );
    for planned in &schedule.faults {
        *report.fault_counts.entry(planned.fault.kind().to_owned()).or_default() += 1;
    }
    match result {
        Ok(ran) => {
            report.operations += ran.operations;
            report.accepted += ran.accepted;
            report.faults += ran.injected + ran.reached.len();
            *report.fault_counts.entry("crash_point".to_owned()).or_default() += ran.reached.len();
            let violations = ran.violations();
            let word = if violations.is_empty() { "ok  " } else { "FAIL" };
            eprintln!(
                "{progress} seed {seed} {word} {:>4} operations, {:>3} accepted, {:>5.1} s: {}",
                ran.operations,
                ran.accepted,
                ran.took.as_secs_f64(),
                faults.join(" ")
            );
            for verdict in violations {
                tell(verdict);
                report.findings.push(Finding::new(seed, verdict));
            }
            if !ran.violations().is_empty() {
                eprintln!(
                    "        replay: ./dev chaos --seed {seed} --schedules 1   files: .dev/chaos/{seed}/"
                );
            }
        }
        Err(error) => {
            eprintln!("{progress} seed {seed} could not be played: {error:#}");
            report.unusable.push(format!("seed {seed}: {error:#}"));
        }
    }
}

fn tell(verdict: &Verdict) {
    eprintln!("        {} {}: {} contradictions", verdict.invariant, verdict.says, verdict.contradictions);
    for shown in &verdict.shown {
        eprintln!("           {shown}");
    }
}

/// Every crash point of every service with every action, each in a schedule of its own.
pub async fn crash_points(only: Option<&str>, options: &Options) -> CrashPointReport {
    let began = Instant::now();
    let wanted = |point: &str| only.is_none_or(|only| point.starts_with(only));
    let listed: Vec<_> = points::all().into_iter().filter(|(_, point)| wanted(point)).collect();
    let all: Vec<_> =
        (0..).zip(listed.iter().flat_map(|place| Action::ALL.map(|action| (*place, action)))).collect();
    let count = all.len();
    let mut report = CrashPointReport { listed: count, ..CrashPointReport::default() };
    let runs = stream::iter(all).map(|(n, ((service, point), action))| async move {
        let armed = Armed { at_ms: 0, service, point, action, times: 1 };
        let schedule = Schedule::for_crash_point(10_000 + n, armed);
        let name = format!("{point}={}", action.as_str());
        let result = one(&schedule, "", name.clone(), options).await;
        (name, result)
    });
    let mut done = 0;
    let mut runs = std::pin::pin!(runs.buffer_unordered(options.jobs));
    while let Some((name, result)) = runs.next().await {
        done += 1;
        match result {
            Ok(ran) => {
                let reached = ran.reached.contains(&name);
                let violations = ran.violations();
                let word = match (violations.is_empty(), reached) {
                    (true, true) => "ok  ",
                    (true, false) => "NOT REACHED",
                    (false, _) => "FAIL",
                };
                eprintln!("[{done}/{count}] {word} {name} ({:.1} s)", ran.took.as_secs_f64());
                violations.iter().for_each(|verdict| tell(verdict));
                let found = violations.iter().map(|verdict| (name.clone(), verdict.invariant.to_owned()));
                report.violations.extend(found);
                if reached {
                    report.ran.push(name);
                } else {
                    report.not_reached.push(name);
                }
            }
            Err(error) => {
                eprintln!("[{done}/{count}] {name} could not be played: {error:#}");
                report.not_reached.push(name);
            }
        }
    }
    report.ran.sort();
    report.not_reached.sort();
    report.took_s = began.elapsed().as_secs_f64();
    report
}

/// How often each kind of fault occurs, the most frequent first.
pub fn by_frequency(counts: &BTreeMap<String, usize>) -> Vec<(&str, usize)> {
    let mut counts: Vec<_> = counts.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
    counts.sort_by_key(|(kind, count)| (std::cmp::Reverse(*count), *kind));
    counts
}
