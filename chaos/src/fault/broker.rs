//! What happens to RabbitMQ.

use std::time::Duration;

use tokio::time::sleep;

use crate::world::World;

/// Every work queue of the system, the parked ones not.
pub(super) const WORK_QUEUES: &str = "^[a-z-]+-service\\.[a-z]+(\\.[0-9]+)?$";
/// Clients come back within it.
const BETWEEN_CLOSES: Duration = Duration::from_millis(150);

pub(super) async fn close_connections(world: &World, times: u32) {
    for _ in 0..times {
        world.services.vhost().close_all_connections().await;
        sleep(BETWEEN_CLOSES).await;
    }
}
