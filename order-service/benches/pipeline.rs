//! How many orders a second the order pipeline makes, from a full queue to committed rows, on a Postgres and a queue
//! that flush to the disk. Nothing else runs; the events are published from the outbox meanwhile, and nobody hears them.

#[path = "../tests/it/support.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "it is of the tests, which use the rest of it")]
mod support;

use std::time::{Duration, Instant};

use common::messages::Event;
use common::messages::stock::ReservedV1;
use support::{Item, Wanted, World, reserved};
use testkit::{Database, PostgresServer};

const ROUNDS: usize = 3;
const ORDERS: usize = 60_000;
/// Orders in a message, as under load.
const PER_MESSAGE: usize = 64;
const POLL: Duration = Duration::from_millis(20);

/// CPU time of this process, which is order-service and next to nothing else.
fn used() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = stat.rsplit(')').next().expect("the process' name");
    let ticks =
        after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<f64>().expect("ticks"));
    ticks.sum::<f64>() / 100.0
}

async fn fill(world: &World, item: Item) {
    let mut orders: Vec<Event<ReservedV1>> = Vec::with_capacity(PER_MESSAGE);
    for number in 0..ORDERS {
        orders.push(reserved(item, &format!("u{number}"), "key"));
        if orders.len() == PER_MESSAGE || number + 1 == ORDERS {
            world.reserve(item, &orders).await;
            orders.clear();
        }
    }
}

async fn round(server: &PostgresServer) {
    let world = World::on(Database::create_on(server, "pipeline").await).await;
    let total = i64::try_from(ORDERS).expect("fits");
    let item = world.item(Wanted { total, ..Wanted::default() }).await;
    fill(&world, item).await;
    let (began, cpu) = (Instant::now(), used());
    let instance = world.instance().await;
    // One row that grows, not a count of all of them.
    while world.number("SELECT taken FROM items").await < total {
        tokio::time::sleep(POLL).await;
    }
    let took = began.elapsed().as_secs_f64();
    let orders = f64::from(u32::try_from(ORDERS).expect("fits"));
    let (per_second, cpu_us) = (orders / took, (used() - cpu) * 1e6 / orders);
    eprintln!(
        "{ORDERS} orders in {took:.2} s: {per_second:.0} orders/s, order-service {cpu_us:.1} us of CPU an order"
    );
    instance.stop().await;
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let server = PostgresServer::start().await;
        for _ in 0..ROUNDS {
            round(&server).await;
        }
    });
}
