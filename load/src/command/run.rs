//! `load run`: a staircase of arrivals, one rate for some time, or so many connections.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use load::cores::{self, Division};
use load::engine::Pace;
use load::report::{self, say};
use load::requests::Mix;
use load::result::Report;
use load::run::{Course, Measured, measure};
use load::stage::{Stage, Target};

/// Arrivals a second at most: more than one machine can send.
const RATE_MAX: u32 = 200_000;
/// Seconds of a step at most: the payment window of a run is a day.
const HOLD_S_MAX: u64 = 3_600;
/// Connections of the closed loops that look for the peak.
const PEAK_CONNECTIONS: [usize; 3] = [64, 256, 1_024];
/// How long each of them lasts, unless `--hold-s` says otherwise.
const PEAK_HOLD: Duration = Duration::from_secs(10);

/// Which system, and how this tool works.
#[derive(clap::Args, Debug, Clone)]
pub struct Common {
    /// The env file of the running instance.
    #[arg(long, default_value = ".dev/env")]
    pub env_file: PathBuf,
    /// Where reports go.
    #[arg(long, default_value = ".dev/reports")]
    pub reports: PathBuf,
    /// Distinct buyers, each with a token of their own, who order in turn.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    pub buyers: u32,
    /// Requests in flight at most; arrivals beyond it are counted, reported and not sent.
    #[arg(long, default_value_t = 8_192, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    pub in_flight_max: u32,
    /// Threads that send.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub threads: u8,
    /// Holds the running system and this tool to these cores while it measures, such as 0,1.
    #[arg(long)]
    pub cores: Option<String>,
    /// Holds this tool to other cores than the system.
    #[arg(long, requires = "cores")]
    pub tool_cores: Option<String>,
    /// Holds the gateways to other cores than the rest of the system: what turns people away is then not taken from what
    /// serves them.
    #[arg(long, requires = "cores")]
    pub gateway_cores: Option<String>,
}

impl Common {
    /// Finds the system and holds it to its cores, as long as what is returned lives.
    ///
    /// # Errors
    /// It does not run, or there are no such cores.
    pub fn target(&self) -> anyhow::Result<(Target, Option<cores::Held>)> {
        let target = Target::find(&self.env_file)?;
        let Some(system) = &self.cores else { return Ok((target, None)) };
        let division = Division {
            system,
            gateways: self.gateway_cores.as_ref().unwrap_or(system),
            tool: self.tool_cores.as_ref().unwrap_or(system),
        };
        for cores in [division.system, division.gateways, division.tool] {
            ensure!(cores::count(cores).is_some(), "cores are a list such as 0,1 or 0-3, not {cores}");
        }
        let held = cores::hold(&target.parts, division)?;
        Ok((target, Some(held)))
    }

    /// Which cores each part is held to, for reports; those of the tool and the gateways only where they differ.
    pub fn division(&self) -> BTreeMap<&'static str, String> {
        let of = [("system", &self.cores), ("gateway", &self.gateway_cores), ("tool", &self.tool_cores)];
        of.into_iter().filter_map(|(part, cores)| Some((part, cores.clone()?))).collect()
    }

    /// A course of these steps.
    pub fn course(&self, steps: Vec<(Pace, Duration)>) -> Course {
        Course {
            steps,
            in_flight_max: self.in_flight_max as usize,
            threads: self.threads.into(),
            connections_ready: 0,
        }
    }
}

/// How to load.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Arrivals a second, step by step.
    #[arg(long, value_delimiter = ',', default_value = "1000,2000,5000,10000",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(RATE_MAX)))]
    steps: Vec<u32>,
    /// How long each step is held, in seconds [default: 30; with --find-peak 10].
    #[arg(long, alias = "seconds", value_parser = clap::value_parser!(u64).range(1..=HOLD_S_MAX))]
    hold_s: Option<u64>,
    /// Who comes.
    #[arg(long, value_enum, default_value_t = Mix::Buyers)]
    mix: Mix,
    /// A closed loop instead of steps: so many connections, each asking again when it was answered.
    #[arg(long, conflicts_with = "steps", value_parser = clap::value_parser!(u32).range(1..=15_000))]
    connections: Option<u32>,
    /// Closed loops with 64, 256 and 1,024 connections, to find what the system takes.
    #[arg(long, conflicts_with_all = ["steps", "connections"])]
    find_peak: bool,
    /// Fails when the best step accepts fewer orders a second.
    #[arg(long)]
    at_least: Option<f64>,
}

impl Arguments {
    fn steps(&self) -> Vec<(Pace, Duration)> {
        let hold = self.hold_s.map(Duration::from_secs);
        if self.find_peak {
            let closed = |connections| (Pace::Closed { connections }, hold.unwrap_or(PEAK_HOLD));
            return PEAK_CONNECTIONS.map(closed).to_vec();
        }
        let hold = hold.unwrap_or(Duration::from_secs(30));
        if let Some(connections) = self.connections {
            return vec![(Pace::Closed { connections: connections as usize }, hold)];
        }
        self.steps.iter().map(|rate| (Pace::Open { per_second: f64::from(*rate) }, hold)).collect()
    }
}

/// Runs, reports, and fails when the audit is not clean.
pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (target, _held) = arguments.common.target()?;
    let circumstances = report::circumstances(&target.parts);
    let steps = arguments.steps();
    let count = steps.len();
    let length: Duration = steps.iter().map(|(_, hold)| *hold).sum();
    say(&format!("opening a sale for {} buyers …", arguments.common.buyers));
    let stage = Stage::set(&target, arguments.mix, arguments.common.buyers as usize).await?;
    say(&format!("{count} steps, {} s in all", length.as_secs()));
    let course = arguments.common.course(steps);
    let measured = measure(&target, stage, &course, |second| report::second(second, count)).await?;
    let report = report_of(measured, arguments.mix, circumstances);
    report::summary(&report);
    report::write(&arguments.common.reports, "load", &report)?;
    let enough = match (report.accepted_per_s, arguments.at_least) {
        (Some(accepted), Some(least)) => accepted >= least,
        (accepted, _) => accepted.is_some(),
    };
    Ok(if enough { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The report of a run.
pub fn report_of(measured: Measured, mix: Mix, circumstances: BTreeMap<String, String>) -> Report {
    let audit_consistent = measured.audit.as_ref().is_some_and(|audit| audit.consistent);
    let mut report = Report {
        accepted_per_s: None,
        refused_per_s: None,
        p50_ms: None,
        p99_ms: None,
        p999_ms: None,
        audit_consistent,
        all_in_postgres_after_s: measured.all_in_postgres_after.map(|after| after.as_secs_f64()),
        cpu_us_per_order: None,
        backlog_grew: None,
        accepted_count: measured.accepted_count,
        in_postgres_count: measured.in_postgres_count,
        mix,
        circumstances,
        steps: measured.steps,
        seconds: measured.seconds,
    };
    report.conclude();
    report
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &str) -> Result<Arguments, String> {
        let words = std::iter::once("load").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn the_staircase_is_the_default_and_one_rate_can_be_held() {
        let rates = |line: &str| -> Vec<(Pace, Duration)> { parse(line).unwrap().steps() };
        let open = |per_second, seconds| (Pace::Open { per_second }, Duration::from_secs(seconds));
        assert_eq!(rates(""), [1_000.0, 2_000.0, 5_000.0, 10_000.0].map(|rate| open(rate, 30)));
        assert_eq!(rates("--steps 8000 --hold-s 60"), [open(8_000.0, 60)]);
        assert_eq!(rates("--steps 10,20 --hold-s 1"), [open(10.0, 1), open(20.0, 1)]);
        assert_eq!(rates("--find-peak").len(), 3);
        let closed = (Pace::Closed { connections: 256 }, Duration::from_secs(30));
        assert_eq!(rates("--connections 256"), [closed]);
    }

    #[test]
    fn arguments_that_make_no_sense_are_refused_by_name() {
        let cases = [
            ("--steps 0", "--steps"),
            ("--steps fast", "--steps"),
            ("--steps 1000000", "--steps"),
            ("--hold-s 0", "--hold-s"),
            ("--mix robbers", "--mix"),
            ("--buyers 0", "--buyers"),
            ("--in-flight-max 0", "--in-flight-max"),
            ("--threads 0", "--threads"),
            ("--tool-cores 1", "--cores"),
            ("--gateway-cores 1", "--cores"),
            ("--connections 5 --steps 7", "--connections"),
            ("--find-peak --connections 5", "--find-peak"),
        ];
        for (line, name) in cases {
            let error = parse(line).err().unwrap_or_else(|| panic!("{line} is taken"));
            assert!(error.contains(name), "{line}: {error}");
        }
    }

    #[tokio::test]
    async fn without_a_system_the_message_says_how_to_start_one() {
        let error = run(parse("--env-file /nowhere/env").unwrap()).await.unwrap_err();
        assert!(format!("{error:#}").contains("./dev up"), "{error:#}");
    }
}
