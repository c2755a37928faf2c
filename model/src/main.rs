//! Explores the cases and prints what was found: `./dev model`.

use std::io::{Write, stdout};
use std::time::Instant;

use clap::Parser;
use model::cases::{self, Named};
use model::explorer::{Outcome, Report};
use model::guard::{Guard, Rules};
use model::world::PROPERTIES;

/// States after which an exploration is given up: some gigabytes of memory.
const STATES_MAX: usize = 30_000_000;

/// Explores every state of small cases of the protocol: reserve, publish, settle, rebuild.
#[derive(Debug, Parser)]
struct Arguments {
    /// Explore the large cases, which take minutes and gigabytes.
    #[arg(long)]
    large: bool,
    /// Take one guard away and show the shortest way to what it keeps from happening.
    #[arg(long, value_enum)]
    without: Option<Guard>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let cases = if arguments.large { cases::large() } else { cases::small() };
    let mut out = stdout().lock();
    match arguments.without {
        None => explore_all(&mut out, &cases),
        Some(guard) => explore_without(&mut out, &cases, guard),
    }
}

fn explore_all(out: &mut impl Write, cases: &[Named]) -> anyhow::Result<()> {
    let (mut states, mut moves, mut depth, mut broken) = (0, 0, 0, 0);
    writeln!(out, "{:>10} {:>12} {:>6} {:>7}  case", "states", "moves", "depth", "seconds")?;
    for named in cases {
        let began = Instant::now();
        let report = cases::run(&named.case, STATES_MAX)?;
        let seconds = began.elapsed().as_secs_f64();
        let Report { states: seen, moves: made, depth: deep, .. } = report;
        writeln!(out, "{seen:>10} {made:>12} {deep:>6} {seconds:>7.1}  {}", named.name)?;
        broken += u32::from(!show(out, &report.outcome)?);
        (states, moves, depth) = (states + seen, moves + made, depth.max(deep));
    }
    writeln!(out, "{states:>10} {moves:>12} {depth:>6}          all {} cases\n", cases.len())?;
    for property in PROPERTIES {
        writeln!(out, "  {property}")?;
    }
    anyhow::ensure!(broken == 0, "{broken} cases do not hold");
    writeln!(out, "\nAll of these hold in every state.")?;
    Ok(())
}

fn explore_without(out: &mut impl Write, cases: &[Named], guard: Guard) -> anyhow::Result<()> {
    for named in cases {
        let mut case = named.case.clone();
        case.rules = Rules::without(guard);
        let report = cases::run(&case, STATES_MAX)?;
        if matches!(report.outcome, Outcome::Broken { .. }) {
            writeln!(out, "Without {guard:?}, where {}:", named.name)?;
            show(out, &report.outcome)?;
            return Ok(());
        }
    }
    anyhow::bail!("{guard:?} is not missed in any of these cases")
}

/// Whether everything holds; else the way to where it does not.
fn show(out: &mut impl Write, outcome: &Outcome) -> anyhow::Result<bool> {
    match outcome {
        Outcome::Holds => return Ok(true),
        Outcome::TooMany => writeln!(out, "           given up: more than {STATES_MAX} states")?,
        Outcome::Broken { property, trace } => {
            for (number, step) in (1..).zip(trace) {
                writeln!(out, "           {number:>2}. {step}")?;
            }
            writeln!(out, "           {property}")?;
        }
    }
    Ok(false)
}
