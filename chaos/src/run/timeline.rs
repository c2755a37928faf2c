//! Makes faults happen and go away at their times.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::{Instant, sleep, sleep_until};

use crate::fault::Fault;
use crate::schedule::Schedule;
use crate::world::World;

/// How often processes are looked at that may have crashed.
const SUPERVISION: Duration = Duration::from_millis(100);

/// How long healing is tried in all when everything else is over.
const HEALED_WITHIN: Duration = Duration::from_secs(20);
const HEAL_PAUSE: Duration = Duration::from_millis(200);

enum Event {
    Inject(usize),
    Heal(usize),
    Arm(usize),
}

/// Plays the schedule's faults and crash points, then heals everything and starts whatever does not run. What was armed
/// stays so: buyers pass some points only later. Returns how many faults there were: one that could not be made to happen,
/// because another one was in its way, is none.
///
/// # Errors
/// Something could not be healed: nothing can be said of the system.
pub async fn play(world: &mut World, schedule: &Schedule, began: Instant) -> anyhow::Result<usize> {
    let (mut injected, mut sick) = (0, Vec::new());
    for (at_ms, event) in events(schedule) {
        let at = began + Duration::from_millis(at_ms);
        while Instant::now() + SUPERVISION < at {
            sleep_until(Instant::now() + SUPERVISION).await;
            world.revive();
        }
        sleep_until(at).await;
        match event {
            Event::Inject(n) => match schedule.faults[n].fault.inject(world).await {
                Ok(()) => injected += 1,
                Err(error) => {
                    let kind = schedule.faults[n].fault.kind();
                    eprintln!("seed {}: no {kind}, something is in its way: {error:#}", schedule.seed);
                }
            },
            Event::Heal(n) => sick.push(&schedule.faults[n].fault),
            Event::Arm(n) => {
                let armed = &schedule.crash_points[n];
                let action = format!("{}*return({})", armed.times, armed.action.as_str());
                world.arm(armed.service, armed.point, &action).await;
            }
        }
        heal(world, &mut sick).await.ok();
        world.announce_redis();
        world.revive();
    }
    let deadline = Instant::now() + HEALED_WITHIN;
    while let Err(error) = heal(world, &mut sick).await {
        ensure!(Instant::now() < deadline, "a fault could not be healed: {error:#}");
        sleep(HEAL_PAUSE).await;
    }
    world.announce_redis();
    world.start_missing();
    Ok(injected)
}

/// Heals what can be healed now: a database that another fault has closed, say, cannot be. The rest stays.
async fn heal(world: &mut World, sick: &mut Vec<&Fault>) -> anyhow::Result<()> {
    let mut result = Ok(());
    for fault in std::mem::take(sick) {
        if let Err(error) = fault.heal(world).await {
            result = Err(error.context(fault.kind()));
            sick.push(fault);
        }
    }
    result
}

fn events(schedule: &Schedule) -> Vec<(u64, Event)> {
    let mut events = Vec::new();
    for (n, planned) in schedule.faults.iter().enumerate() {
        events.push((planned.at_ms, Event::Inject(n)));
        events.push((planned.at_ms + planned.for_ms, Event::Heal(n)));
    }
    for (n, armed) in schedule.crash_points.iter().enumerate() {
        events.push((armed.at_ms, Event::Arm(n)));
    }
    events.sort_by_key(|(at_ms, _)| *at_ms);
    events
}
