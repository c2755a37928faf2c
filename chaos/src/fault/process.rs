//! Signals to services.

use crate::world::World;

pub(super) fn freeze(world: &World, process: &str) {
    if world.services.pid(process).is_some() {
        world.services.freeze(process);
    }
}

pub(super) fn unfreeze(world: &World, process: &str) {
    if world.services.pid(process).is_some() {
        world.services.unfreeze(process);
    }
}

/// Starts a process that does not run, unless another fault's healing has done so.
pub(super) fn start_if_dead(world: &mut World, process: &str) {
    if world.services.pid(process).is_none() {
        world.services.start_again(process);
    }
}

/// SIGTERM, the drain, and a start. A process that was dead already is started.
pub(super) async fn restart(world: &mut World, process: &str) -> anyhow::Result<()> {
    if world.services.pid(process).is_some() {
        // One that stands still hears SIGTERM only when it goes on.
        world.services.unfreeze(process);
        world.services.try_stop(process).await?;
    }
    world.services.start_again(process);
    Ok(())
}
