//! Whether the standard schedules notice mistakes: each one is planted, and seeds are run until one finds a violation.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::ensure;
use futures_util::{StreamExt as _, stream};

use crate::campaign::{self, Options};
use crate::points;
use crate::report::{Caught, PlantedReport};
use crate::schedule::Schedule;

/// Seeds that a mistake has to be noticed by: these, as everybody runs them, and none made for it.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=100;

/// The invariant that a busy machine can break, too: alone it does not say that a mistake was noticed.
const NOT_AT_REST_IN_TIME: &str = "L1";

/// Plants mistakes, each on its own; `which` is a name, several with commas between, or `all`.
///
/// # Errors
/// There is no such mistake.
pub async fn run(which: &str, seeds_max: u64, options: &Options) -> anyhow::Result<PlantedReport> {
    let began = Instant::now();
    let names: BTreeSet<&str> = points::planted().into_iter().map(|(_, name)| name).collect();
    let asked: Vec<&str> = which.split(',').collect();
    for name in asked.iter().filter(|name| **name != "all") {
        ensure!(names.contains(name), "there is no mistake {name}; there are {names:?}");
    }
    let wanted: Vec<&str> =
        names.iter().copied().filter(|name| which == "all" || asked.contains(name)).collect();
    let mut report = PlantedReport { total: wanted.len(), ..PlantedReport::default() };
    let hunts = stream::iter(wanted).map(|name| async move { (name, hunt(name, seeds_max, options).await) });
    let mut hunts = std::pin::pin!(hunts.buffer_unordered(options.jobs));
    while let Some((name, caught)) = hunts.next().await {
        match caught {
            Some(caught) => {
                eprintln!("planted {name}: caught by seed {}: {}", caught.seed, caught.invariants.join(" "));
                report.caught.push(caught);
            }
            None => {
                eprintln!("planted {name}: NOT CAUGHT by seeds {} to {}", SEEDS.start(), seeds_max);
                report.missed.push(name.to_owned());
            }
        }
    }
    report.caught.sort_by(|one, other| one.mistake.cmp(&other.mistake));
    report.missed.sort();
    report.took_s = began.elapsed().as_secs_f64();
    Ok(report)
}

async fn hunt(name: &str, seeds_max: u64, options: &Options) -> Option<Caught> {
    for seed in SEEDS.take_while(|seed| *seed <= seeds_max) {
        let failpoints = format!("planted.{name}=return");
        let folder = format!("planted-{name}-{seed}");
        let ran = match campaign::one(&Schedule::draw(seed), &failpoints, folder, options).await {
            Ok(ran) => ran,
            Err(error) => {
                eprintln!("planted {name}: seed {seed} could not be played: {error:#}");
                continue;
            }
        };
        let violations = ran.violations();
        let conclusive = violations.iter().find(|verdict| verdict.invariant != NOT_AT_REST_IN_TIME);
        if let Some(first) = conclusive {
            return Some(Caught {
                mistake: name.to_owned(),
                seed,
                invariants: violations.iter().map(|verdict| verdict.invariant.to_owned()).collect(),
                shown: first.shown.first().cloned().unwrap_or_default(),
            });
        }
    }
    None
}
