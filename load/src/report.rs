//! What a run leaves behind: lines in the terminal, `load.json`, `load.html`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use crate::chart::number;
use crate::cores;
use crate::page;
use crate::processes::{Parts, TOOL};
use crate::result::{Latency, Report, Second, StepResult};

/// One line for whoever watches.
pub fn say(line: &str) {
    // A closed pipe is no reason to stop a run.
    writeln!(std::io::stdout(), "{line}").ok();
}

/// The line of one second.
pub fn second(second: &Second, steps: usize) {
    let step = second.step.map_or_else(|| "settling".to_owned(), |step| format!("step {}/{steps}", step + 1));
    let offered = second.offered_per_s.map_or_else(|| "-".to_owned(), number);
    let ms = |latency: Option<Latency>| {
        latency
            .map_or_else(|| "-".to_owned(), |latency| format!("{:.1}/{:.1}", latency.p50_ms, latency.p99_ms))
    };
    let waiting: u64 = second.depths.get(crate::depths::UNSETTLED).copied().unwrap_or(0);
    let beyond =
        if second.beyond_bound > 0 { format!(", NOT SENT {}", second.beyond_bound) } else { String::new() };
    say(&format!(
        "{:>5.0} s  {step:<9} offered {offered:>7}  accepted {:>7}/s p50/p99 {:>12} ms  refused {:>7}/s {:>11} ms  \
         in flight {:>5}, under way {waiting}{beyond}",
        second.at_s,
        number(second.accepted_per_s),
        ms(second.accepted),
        number(second.refused_per_s),
        ms(second.refused),
        second.in_flight,
    ));
}

/// The table of the steps and the verdict.
pub fn summary(report: &Report) {
    say("");
    say(
        "  offered/s  accepted/s  refused/s   p50 ms   p99 ms p99.9 ms | refused p99 | not sent | failed | backlog | CPU us/order",
    );
    for step in &report.steps {
        say(&row(step));
    }
    for step in &report.steps {
        for (what, count) in &step.answers {
            say(&format!("    {:<28} {count}", format!("{} {what}", step_name(step))));
        }
    }
    let after = report.all_in_postgres_after_s.map_or_else(
        || "NOT all in Postgres".to_owned(),
        |after| format!("all in Postgres {after:.2} s after the last answer"),
    );
    say(&format!("  accepted {}, in Postgres {}; {after}", report.accepted_count, report.in_postgres_count));
    if let Some(best) = report.best() {
        say(&format!("  CPU of the best step, us an order: {}", costs(&best.cpu_us_per_order)));
    }
    say(if report.accepted_per_s.is_some() {
        "  audit clean"
    } else {
        "  AUDIT NOT CLEAN: this run has no result; ./dev audit shows the books"
    });
}

/// Costs by part, in one line.
pub fn costs(by_part: &BTreeMap<String, f64>) -> String {
    let parts: Vec<String> = by_part.iter().map(|(part, us)| format!("{part} {}", number(*us))).collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

fn step_name(step: &StepResult) -> String {
    match (step.offered_per_s, step.connections) {
        (Some(rate), _) => number(rate),
        (None, connections) => format!("{} con", connections.unwrap_or(0)),
    }
}

fn row(step: &StepResult) -> String {
    let ms = |latency: Option<Latency>, which: fn(Latency) -> f64| {
        latency.map_or_else(|| "-".to_owned(), |latency| format!("{:.1}", which(latency)))
    };
    format!(
        "  {:>9}  {:>10}  {:>9} {:>8} {:>8} {:>8} | {:>11} | {:>8} | {:>6} | {:>7} | {:>8}",
        step_name(step),
        number(step.accepted_per_s),
        number(step.refused_per_s),
        ms(step.accepted, |latency| latency.p50_ms),
        ms(step.accepted, |latency| latency.p99_ms),
        ms(step.accepted, |latency| latency.p999_ms),
        ms(step.refused, |latency| latency.p99_ms),
        step.beyond_bound,
        step.failed_count,
        if step.backlog_grew { "GREW" } else { "steady" },
        step.cpu_us_per_order_of_system().map_or_else(|| "-".to_owned(), number),
    )
}

/// Where and how a run was made.
pub fn circumstances(parts: &Parts) -> BTreeMap<String, String> {
    let model = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let held = |name: &str| parts.pid(name).and_then(cores::allowed).unwrap_or_default();
    let mut all = BTreeMap::from([
        ("processor".to_owned(), model.unwrap_or_default()),
        ("cores of this tool".to_owned(), held(TOOL)),
        ("command".to_owned(), std::env::args().skip(1).collect::<Vec<_>>().join(" ")),
        ("tool built with optimisation".to_owned(), (!cfg!(debug_assertions)).to_string()),
    ]);
    for name in parts.names().filter(|name| *name != TOOL) {
        let cores = held(name);
        let list = all.entry("cores of the system".to_owned()).or_default();
        if list.is_empty() {
            *list = cores;
        } else if *list != cores && !list.ends_with("(differ)") {
            list.push_str(" (differ)");
        }
    }
    if let Ok(load) = std::fs::read_to_string("/proc/loadavg") {
        let average = load.split(' ').next().unwrap_or_default().to_owned();
        all.insert("load average at the start".to_owned(), average);
    }
    all
}

/// Writes `<name>.json` and, of a load report, `<name>.html`.
///
/// # Errors
/// A file cannot be written.
pub fn write(folder: &Path, name: &str, report: &Report) -> anyhow::Result<()> {
    write_json(folder, name, report)?;
    let path = folder.join(format!("{name}.html"));
    std::fs::write(&path, page::html(report)).with_context(|| path.display().to_string())?;
    say(&format!("  report: {}", path.display()));
    Ok(())
}

/// Writes `<name>.json`.
///
/// # Errors
/// The file cannot be written.
pub fn write_json(folder: &Path, name: &str, content: &impl Serialize) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let path = folder.join(format!("{name}.json"));
    let mut json = serde_json::to_vec_pretty(content)?;
    json.push(b'\n');
    std::fs::write(&path, json).with_context(|| path.display().to_string())
}
