//! Makes faults happen and go away at their times.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::schedule::Schedule;
use crate::world::World;

/// How often processes are looked at that may have crashed.
const SUPERVISION: Duration = Duration::from_millis(100);

enum Event {
    Inject(usize),
    Heal(usize),
    Arm(usize),
}

/// Plays the schedule's faults and crash points, then heals everything and starts whatever does not run. What was armed
/// stays so: buyers pass some points only later.
///
/// A fault that could not be injected is one less; one that could not be healed shows in the system's not coming to
/// rest. Both are printed.
pub async fn play(world: &mut World, schedule: &Schedule, began: Instant) {
    for (at_ms, event) in events(schedule) {
        let at = began + Duration::from_millis(at_ms);
        while Instant::now() + SUPERVISION < at {
            sleep_until(Instant::now() + SUPERVISION).await;
            world.revive();
        }
        sleep_until(at).await;
        let done = match event {
            Event::Inject(n) => schedule.faults[n].fault.inject(world).await,
            Event::Heal(n) => schedule.faults[n].fault.heal(world).await,
            Event::Arm(n) => {
                let armed = &schedule.crash_points[n];
                let action = format!("{}*return({})", armed.times, armed.action.as_str());
                world.arm(armed.service, armed.point, &action).await;
                Ok(())
            }
        };
        if let Err(error) = done {
            eprintln!("seed {}: a fault could not be injected or healed: {error:#}", schedule.seed);
        }
        world.announce_redis();
        world.revive();
    }
    world.start_missing();
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
