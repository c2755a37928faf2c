//! Each fault can be injected into a running system and healed, and orders are taken afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use chaos::fault::Fault;
use chaos::world::{Plan, World};
use chrono::Utc;
use e2e::client::{Client, one_dish};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use reqwest::StatusCode;
use testkit::eventually;

const HARMED_FOR: Duration = Duration::from_millis(300);
/// Generous: the machine may be busy with other tests.
const QUIET_WITHIN: Duration = Duration::from_secs(60);
/// Draws after which every kind has come up.
const DRAWS: usize = 5_000;

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_taken_after_each_fault_of_processes_and_the_network() {
    survive(|kind| ["kill", "freeze", "restart"].contains(&kind) || kind.starts_with("network")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_taken_after_each_fault_of_redis() {
    survive(|kind| kind.starts_with("redis")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_taken_after_each_fault_of_rabbitmq_and_postgres() {
    survive(|kind| kind.starts_with("broker") || kind.starts_with("database")).await;
}

async fn survive(chosen: impl Fn(&str) -> bool) {
    let mut rng = StdRng::seed_from_u64(7);
    let drawn = (0..DRAWS).map(|_| Fault::draw(&mut rng)).map(|fault| (fault.kind(), fault));
    let faults: BTreeMap<&str, Fault> = drawn.filter(|(kind, _)| chosen(kind)).collect();
    assert!(faults.len() >= 9, "{faults:?}");

    let mut world = World::start(&Plan { replicas: 1, ..Plan::default() }).await.unwrap();
    let client = Client::new(world.services.gateway_urls()).unwrap();
    let admin = client.token("admin", "admin").await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "a client picks its sale's opening by its own clock")]
    let dish = one_dish(Utc::now(), 1_000, 100, 3_600).unwrap();
    let sale = client.open_sale(&admin, &dish).await.unwrap();
    let item = sale.items[0].id;
    let mut buyers = BTreeMap::new();
    for kind in faults.keys() {
        buyers.insert(*kind, client.token(&format!("buyer-{kind}"), "customer").await.unwrap());
    }

    for (kind, fault) in &faults {
        eprintln!("{fault:?}"); // What a failure was about.
        let buyer = &buyers[kind];
        fault.inject(&mut world).await.unwrap_or_else(|error| panic!("{kind}: {error:#}"));
        // Somebody is there while it happens; whatever the answer.
        client.order(buyer, item, &format!("during-{kind}"), 1).await.ok();
        tokio::time::sleep(HARMED_FOR).await;
        fault.heal(&mut world).await.unwrap_or_else(|error| panic!("{kind}: {error:#}"));
        // What it was asked meanwhile becomes one order, and so does what it is asked now.
        for key in [format!("during-{kind}"), format!("after-{kind}")] {
            eventually(&format!("{key} is accepted"), async || {
                let answer = client.order(buyer, item, &key, 1).await.ok()?;
                (answer.status == StatusCode::ACCEPTED).then_some(())
            })
            .await;
        }
        client
            .wait_until_quiet(&admin, sale.id, QUIET_WITHIN)
            .await
            .unwrap_or_else(|e| panic!("{kind}: {e:#}"));
    }
    let books = client.audit(&admin, sale.id).await.unwrap();
    assert_eq!(books.items[0].pending_payment, 2 * i64::try_from(faults.len()).unwrap());
}
