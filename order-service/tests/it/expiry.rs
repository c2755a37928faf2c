//! Unpaid orders end once, whoever else wants them at the same moment.

use std::time::Duration;

use common::api::OrderStatus;
use common::ids::OrderId;
use common::messages::order::{CANCELLED_V1, EXPIRED_V1, PAID_V1};
use diesel_async::SimpleAsyncConnection as _;
use order_service::transitions::transition;
use testkit::eventually;

use crate::support::{Instance, Wanted, World, reserved};

const TRANSITIONS_TWICE: &str = "SELECT count(*) FROM (SELECT order_id FROM order_transitions
    WHERE units = 'returned' GROUP BY order_id HAVING count(*) > 1) AS twice";

async fn pay(instance: &Instance, order: OrderId) -> bool {
    let paid = instance.db.transaction(move |conn| {
        Box::pin(async move { transition(conn, &[order], OrderStatus::Paid, None).await })
    });
    !paid.await.expect("the database works").is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn unpaid_orders_expire_once_and_paid_ones_do_not() {
    let world = World::start("expiry").await;
    let item = world.item(Wanted { total: 60, ..Wanted::default() }).await;
    let heard = world.listen();
    let overrides = [("EXPIRY__INTERVAL_MS", "10"), ("EXPIRY__BATCH_MAX", "7")];
    let first = world.instance_with(&overrides).await;
    let _second = world.instance_with(&overrides).await;

    let events: Vec<_> = (0..60).map(|n| reserved(item, &format!("u{n}"), "key")).collect();
    world.reserve(item, &events).await;
    let paid = events[0].data.order_id;
    first.order_becomes(paid, "u0", OrderStatus::PendingPayment).await;
    assert!(pay(&first, paid).await);
    world.number_becomes("SELECT count(*) FROM orders", 60).await;
    world.execute("UPDATE orders SET expires_at = now() - interval '1 second'").await;

    world.number_becomes("SELECT count(*) FROM orders WHERE status = 'expired'", 59).await;
    assert_eq!(world.number("SELECT taken FROM items").await, 1);
    assert_eq!(world.number(TRANSITIONS_TWICE).await, 0);
    eventually("all is told", async || (heard.news().len() == 120).then_some(())).await;
    assert_eq!(heard.news().iter().filter(|kind| **kind == EXPIRED_V1).count(), 59);
    assert!(heard.about(paid).contains(&PAID_V1));
    let order = first.order_becomes(paid, "u0", OrderStatus::Paid).await;
    assert_eq!(order.version, 2);
}

/// Each order is wanted by its owner, by a payment and by two expiries in the same moment: one gets it.
#[tokio::test(flavor = "multi_thread")]
async fn cancel_pay_and_expire_race_and_one_wins() {
    const ORDERS: usize = 60;
    let world = World::start("race").await;
    let item = world.item(Wanted { total: 100, window_s: 1, ..Wanted::default() }).await;
    let heard = world.listen();
    let overrides = [("EXPIRY__INTERVAL_MS", "5"), ("EXPIRY__BATCH_MAX", "3")];
    let first = world.instance_with(&overrides).await;
    let _second = world.instance_with(&overrides).await;

    let events: Vec<_> = (0..ORDERS).map(|n| reserved(item, &format!("u{n}"), "key")).collect();
    world.reserve(item, &events).await;
    world.number_becomes("SELECT count(*) FROM orders", 60).await;
    // Until shortly before their time is over, by the clock that counts.
    let due = "SELECT (bool_or(expires_at <= now() + interval '30 ms'))::int FROM orders";
    world.number_becomes(due, 1).await;

    let racing = events.iter().enumerate().map(|(n, event)| {
        let (order, user, first) = (event.data.order_id, format!("u{n}"), &first);
        async move {
            let path = format!("/orders/{order}/cancel");
            let (cancelled, paid) = tokio::join!(first.post(&path, &user), pay(first, order));
            (cancelled.0, paid)
        }
    });
    let outcomes = futures_util::future::join_all(racing).await;

    world.number_becomes("SELECT count(*) FROM orders WHERE status = 'pending_payment'", 0).await;
    let count =
        async |status| world.number(&format!("SELECT count(*) FROM orders WHERE status = '{status}'")).await;
    let (cancelled, paid, expired) = (count("cancelled").await, count("paid").await, count("expired").await);
    assert_eq!(cancelled + paid + expired, 60);
    let of = |wanted: fn(&(u16, bool)) -> bool| {
        i64::try_from(outcomes.iter().filter(|one| wanted(one)).count()).unwrap()
    };
    assert_eq!(of(|(status, _)| *status == 200), cancelled);
    assert_eq!(of(|(_, paid)| *paid), paid);
    assert!(outcomes.iter().all(|(status, _)| [200, 409].contains(status)), "{outcomes:?}");
    assert_eq!(world.number("SELECT taken FROM items").await, paid);
    assert_eq!(world.number(TRANSITIONS_TWICE).await, 0);
    assert_eq!(world.number("SELECT count(*) FROM orders WHERE version <> 2").await, 0);

    eventually("each end is told once", async || (heard.news().len() == 2 * ORDERS).then_some(())).await;
    let ends = heard.news().into_iter().filter(|kind| [CANCELLED_V1, EXPIRED_V1, PAID_V1].contains(kind));
    assert_eq!(ends.count(), ORDERS);
}

const MOST_AT_ONCE: &str = "SELECT max(together) FROM (SELECT count(*) AS together FROM order_transitions
    WHERE to_status = 'expired' GROUP BY at) AS t";

/// Sixty unpaid orders that were due so many seconds ago, and as many whose time has not come.
async fn orders_late_by(world: &World, late_s: u32) {
    let item = world.item(Wanted { total: 200, ..Wanted::default() }).await;
    world
        .execute(&format!(
            "BEGIN;
             UPDATE items SET taken = 120;
             INSERT INTO orders (id, item_id, sale_id, user_id, quantity, unit_price_cents, currency, status, units,
                                 version, epoch, reserved_at, created_at, expires_at)
             SELECT gen_random_uuid(), '{item}', '{sale}', 'u' || n, 1, 1990, 'CNY', 'pending_payment', 'held', 1, 1,
                    now(), now(),
                    now() + CASE WHEN n <= 60 THEN interval '-{late_s} s' ELSE interval '1 h' END
               FROM generate_series(1, 120) AS n;
             COMMIT",
            item = item.id,
            sale = item.sale,
        ))
        .await;
}

const BRAKE: [(&str, &str); 4] = [
    ("EXPIRY__INTERVAL_MS", "20"),
    ("EXPIRY__BRAKE_MINIMUM", "10"),
    ("EXPIRY__BRAKE_BATCH_MAX", "3"),
    ("EXPIRY__BRAKE_LATE_MS", "600000"),
];

const BRAKED_FOR_A_MINUTE: &str = "UPDATE expiry_brake SET braked_until = now() + interval '1 minute'";

/// With a share that half of all orders do not reach.
async fn instance_of_share(world: &World, percent: &str) -> Instance {
    world.instance_with(&[&BRAKE[..], &[("EXPIRY__BRAKE_SHARE_PERCENT", percent)]].concat()).await
}

/// After an outage, or a jump of the database's clock.
#[tokio::test(flavor = "multi_thread")]
async fn far_too_many_late_orders_expire_slowly_and_all_of_them() {
    let world = World::start("brake").await;
    orders_late_by(&world, 3_600).await;
    let _first = world.instance_with(&BRAKE).await;
    let _second = world.instance_with(&BRAKE).await;
    world.number_becomes("SELECT count(*) FROM orders WHERE status = 'expired'", 60).await;
    let most = world.number(MOST_AT_ONCE).await;
    assert!(most <= 10, "only the last few end at full speed, {most} did");
    assert_eq!(world.number("SELECT taken FROM items").await, 60);
    assert_eq!(world.number("SELECT count(*) FROM orders WHERE status = 'pending_payment'").await, 60);
    // For those that come later.
    assert_eq!(world.number("SELECT count(*) FROM expiry_brake WHERE braked_until > now()").await, 1);
}

/// The first one has ended so many that the rest is a small share.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_starts_while_others_brake_goes_on_as_slowly() {
    let world = World::start("brakes_too").await;
    orders_late_by(&world, 3_600).await;
    world.execute(BRAKED_FOR_A_MINUTE).await;
    let _instance = instance_of_share(&world, "60").await;
    world.number_becomes("SELECT count(*) FROM orders WHERE status = 'expired'", 60).await;
    let most = world.number(MOST_AT_ONCE).await;
    assert!(most <= 10, "only the last few end at full speed, {most} did");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_brake_that_was_put_on_by_a_clock_far_ahead_counts_for_nothing() {
    let world = World::start("set_back").await;
    orders_late_by(&world, 3_600).await;
    world.execute("UPDATE expiry_brake SET braked_until = now() + interval '1 hour'").await;
    let _instance = instance_of_share(&world, "60").await;
    world.number_becomes("SELECT count(*) FROM orders WHERE status = 'expired'", 60).await;
    assert_eq!(world.number(MOST_AT_ONCE).await, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_of_100_turns_the_brake_off_also_while_others_brake() {
    let world = World::start("share_100").await;
    orders_late_by(&world, 3_600).await;
    world.execute(BRAKED_FOR_A_MINUTE).await;
    let _instance = instance_of_share(&world, "100").await;
    world.number_becomes("SELECT count(*) FROM orders WHERE status = 'expired'", 60).await;
    assert_eq!(world.number(MOST_AT_ONCE).await, 60);
}

/// Else whoever has the turn would find the oldest ones locked.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_waits_for_its_turn_to_end_late_orders_locks_none() {
    const DUE_WAITS: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
        AND datname = current_database() AND query LIKE '%FOR NO KEY UPDATE OF orders SKIP LOCKED'";
    let world = World::start("turn").await;
    orders_late_by(&world, 3_600).await;
    let _instance = world.instance_with(&BRAKE).await;
    world.number_becomes("SELECT (count(*) > 0)::int FROM orders WHERE status = 'expired'", 1).await;

    // Another one has the turn; and who asks for orders is seen by it, since it has to wait.
    let mut other = world.connection().await;
    other
        .batch_execute("BEGIN; SELECT pg_advisory_xact_lock(x'6272616b6564'::bigint)")
        .await
        .expect("the turn");
    other.batch_execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.expect("a lock");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(world.number(DUE_WAITS).await, 0);
    other.batch_execute("COMMIT").await.expect("the end of the turn");
    world.number_becomes("SELECT count(*) FROM orders WHERE status = 'expired'", 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_end_together_in_time_are_not_held_up() {
    let world = World::start("together").await;
    orders_late_by(&world, 60).await;
    let _instance = world.instance_with(&BRAKE).await;
    world.number_becomes("SELECT count(*) FROM orders WHERE status = 'expired'", 60).await;
    assert_eq!(world.number(MOST_AT_ONCE).await, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_share_of_late_orders_is_not_held_up() {
    let world = World::start("share").await;
    orders_late_by(&world, 3_600).await;
    let _instance = instance_of_share(&world, "60").await;
    world.number_becomes("SELECT count(*) FROM orders WHERE status = 'expired'", 60).await;
    assert_eq!(world.number(MOST_AT_ONCE).await, 60);
}
