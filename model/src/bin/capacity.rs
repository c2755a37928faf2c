//! `./dev capacity`: what the capacity model reproduces, and what follows for larger loads.

use std::io::Write as _;

use model::capacity::{Figures, Load, Machine, Plan, simulate};

/// Orders and refusals a second that are asked about.
const LOADS: [(f64, f64); 4] = [(1e4, 0.0), (1e5, 0.0), (1e6, 0.0), (1e4, 1e7)];
/// Seconds of the simulation.
const SECONDS: f64 = 10.0;

fn main() -> anyhow::Result<()> {
    let figures = Figures::embedded()?;
    let mut out = std::io::stdout();
    for case in &figures.measured {
        let machine = Machine {
            cores: case.cores,
            connections: case.connections,
            cost_factor: case.cost_factor,
            seconds: SECONDS,
        };
        let found = simulate(&figures, machine);
        writeln!(out, "{}", case.name)?;
        writeln!(out, "  measured {:.0}/s, simulated {:.0}/s", case.orders_per_s, found.orders_per_s)?;
        writeln!(
            out,
            "  simulated p50 {:.1} ms, p99 {:.1} ms, backlog {}",
            found.p50_ms, found.p99_ms, found.backlog
        )?;
    }
    let dearest = figures.measured.iter().map(|case| case.cost_factor).fold(1.0, f64::max);
    writeln!(
        out,
        "\norders/s | refused/s | gateway cores | stock cores | Redis shards | RabbitMQ cores | order cores | partitions | Postgres cores"
    )?;
    for (orders_per_s, refusals_per_s) in LOADS {
        let plan = Plan::of(&figures, Load { orders_per_s, refusals_per_s }, dearest);
        writeln!(out, "{orders_per_s} | {refusals_per_s} | {plan}")?;
    }
    Ok(())
}
