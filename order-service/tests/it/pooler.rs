//! A pooler in session mode is as good as the database itself.

use std::collections::BTreeSet;

use testkit::{Pgbouncer, eventually};

use crate::support::{Wanted, World, reserved};

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_made_through_pgbouncer_in_session_mode() {
    let world = World::start("pooler").await;
    let pooler = Pgbouncer::start(&world.database).await;
    let through = [("DATABASE__URL", pooler.url())];
    // Two, so that statements of one could meet those of the other on the server's side.
    let instances = [world.instance_with(&through).await, world.instance_with(&through).await];
    let item = world.item(Wanted { total: 400, ..Wanted::default() }).await;
    for round in 0..10 {
        let events: Vec<_> = (0..20).map(|n| reserved(item, &format!("u{round}-{n}"), "key")).collect();
        world.reserve(item, &events).await;
    }
    world.number_becomes("SELECT count(*) FROM orders", 200).await;
    world.number_becomes("SELECT count(*) FROM outbox WHERE published_at IS NULL", 0).await;
    assert_eq!(world.number("SELECT taken FROM items").await, 200);
    assert_eq!(world.number("SELECT count(*) FROM dead_letters").await, 0);

    let user = "u0-0";
    let order = reserved(item, user, "key").data.order_id;
    let mut statuses = BTreeSet::new();
    for instance in &instances {
        let (status, _) = instance.get(&format!("/orders/{order}"), user).await;
        statuses.insert(status);
    }
    assert_eq!(statuses, BTreeSet::from([200]));
    // Every connection is the pooler's: it is what the server sees, with the bounds of our sessions.
    eventually("the pooler's connections are ended, and made again", async || {
        world.database.close_all_connections().await;
        let (status, _) = instances[0].get(&format!("/orders/{order}"), user).await;
        (status == 200).then_some(())
    })
    .await;
}
