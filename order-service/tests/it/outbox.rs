//! What was committed is told, whatever happens to the broker.

use common::api::OrderStatus;
use common::messages::order::{CANCELLED_V1, CREATED_V1};
use testkit::eventually;

use crate::support::{Wanted, World, reserved};

const GENERATION: &str = "SELECT generation FROM broker_generation WHERE generation IS NOT NULL";

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_told_after_the_broker_was_away() {
    let world = World::start("broker_away").await;
    let item = world.item(Wanted::default()).await;
    let heard = world.listen();
    let instance = world.instance().await;
    let events: Vec<_> = (0..20).map(|n| reserved(item, &format!("u{n}"), "key")).collect();
    world.reserve(item, &events).await;
    world.number_becomes("SELECT count(*) FROM orders", 20).await;

    world.vhost.block().await;
    for (n, event) in events.iter().enumerate() {
        let path = format!("/orders/{}/cancel", event.data.order_id);
        assert_eq!(instance.post(&path, &format!("u{n}")).await.0, 200, "cancelling works without a broker");
    }
    world.vhost.unblock().await;

    let told = || heard.all().into_iter().filter(|(kind, ..)| *kind == CANCELLED_V1).count();
    eventually("every cancellation is told", async || (told() >= 20).then_some(())).await;
    world.number_becomes("SELECT count(*) FROM outbox WHERE published_at IS NULL", 0).await;
    for event in &events {
        assert!(heard.about(event.data.order_id).contains(&CANCELLED_V1));
    }
}

/// The broker comes back empty: everything of the last day is told again, by the same event ids.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_lost_its_data_is_told_again() {
    let world = World::start("broker_wiped").await;
    let item = world.item(Wanted::default()).await;
    let instance = world.instance().await;
    let event = reserved(item, "ann", "key");
    let order = event.data.order_id;
    world.reserve(item, std::slice::from_ref(&event)).await;
    instance.order_becomes(order, "ann", OrderStatus::PendingPayment).await;
    assert_eq!(instance.post(&format!("/orders/{order}/cancel"), "ann").await.0, 200);
    world.number_becomes("SELECT count(*) FROM outbox WHERE published_at IS NULL", 0).await;
    let generation = eventually("the broker is marked", async || {
        let generation = world.words(GENERATION).await.pop()?;
        let marker = format!("order-service.generation.{generation}");
        world.vhost.queue_depths().await.contains_key(&marker).then_some(generation)
    })
    .await;

    world.vhost.wipe().await;
    let heard = world.listen();

    eventually("it is told again", async || (heard.about(order).len() >= 2).then_some(())).await;
    let mut kinds = heard.about(order);
    kinds.sort_unstable();
    assert_eq!(kinds, [CANCELLED_V1, CREATED_V1]);
    world.number_becomes("SELECT count(*) FROM outbox WHERE published_at IS NULL", 0).await;
    eventually("it is another generation", async || {
        (world.words(GENERATION).await != [generation.clone()]).then_some(())
    })
    .await;
}

/// The first instance died, and the broker lost everything, before the broker had its first mark.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_lost_its_data_before_its_first_mark_is_told_again() {
    let world = World::start("broker_never_marked").await;
    world
        .execute(
            "INSERT INTO outbox (message_id, exchange, routing_key, kind, body, published_at)
             VALUES (gen_random_uuid(), 'order', 'order.paid.v1', 'order.paid.v1', '{}', now())",
        )
        .await;
    let _instance = world.instance().await;
    eventually("the broker is marked", async || world.words(GENERATION).await.pop()).await;
    // By its own time: what was told again was confirmed after the mark.
    world.number_becomes("SELECT count(*) FROM outbox WHERE published_at > created_at", 1).await;
}

/// Marking what was confirmed waits for whoever holds the lock 42: an instance that stands still between the two.
const SLOW_MARKS: &str = "
CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN new; END $$;
CREATE TRIGGER slow_marks BEFORE UPDATE ON outbox FOR EACH ROW
  WHEN (old.published_at IS NULL AND new.published_at IS NOT NULL) EXECUTE FUNCTION wait_here();";
const MARKS_WAIT: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";

/// The confirm is of a broker that is gone by the time at which it is written down.
#[tokio::test(flavor = "multi_thread")]
async fn a_confirm_of_a_broker_that_lost_its_data_does_not_count() {
    let world = World::start("broker_old_confirm").await;
    let item = world.item(Wanted::default()).await;
    let slow = [("DATABASE__STATEMENT_TIMEOUT_MS", "60000"), ("DATABASE__LOCK_TIMEOUT_MS", "60000")];
    let instance = world.instance_with(&slow).await;
    let event = reserved(item, "ann", "key");
    let order = event.data.order_id;
    world.reserve(item, std::slice::from_ref(&event)).await;
    instance.order_becomes(order, "ann", OrderStatus::PendingPayment).await;
    world.number_becomes("SELECT count(*) FROM outbox WHERE published_at IS NULL", 0).await;
    eventually("the broker is marked", async || world.words(GENERATION).await.pop()).await;
    for statement in SLOW_MARKS.split_inclusive("$$;") {
        world.execute(statement).await;
    }
    let mut lock = world.connection().await;
    let held = diesel::sql_query("SELECT pg_advisory_lock(42)");
    diesel_async::RunQueryDsl::execute(held, &mut lock).await.unwrap();

    assert_eq!(instance.post(&format!("/orders/{order}/cancel"), "ann").await.0, 200);
    eventually("it is confirmed, and not marked", async || {
        (world.number(MARKS_WAIT).await > 0).then_some(())
    })
    .await;
    world.vhost.wipe().await;
    let heard = world.listen();
    // Time for the keeper to find the new broker. Without it this test shows less, and does not fail.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    drop(lock);

    eventually("the cancellation is told again", async || {
        heard.about(order).contains(&CANCELLED_V1).then_some(())
    })
    .await;
    world.number_becomes("SELECT count(*) FROM outbox WHERE published_at IS NULL", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn published_messages_are_deleted_when_they_are_old() {
    let world = World::start("outbox_old").await;
    world
        .execute(
            "INSERT INTO outbox (message_id, exchange, routing_key, kind, body, created_at, published_at)
             SELECT gen_random_uuid(), 'order', 'order.paid.v1', 'order.paid.v1', '', now() - age, now() - age
               FROM unnest(ARRAY[interval '25 hours', interval '30 hours', interval '1 hour']) AS age",
        )
        .await;
    let _instance = world.instance().await;
    world.number_becomes("SELECT count(*) FROM outbox", 1).await;
}
