//! What is old goes; what still matters stays.

use diesel::sql_query;
use diesel_async::RunQueryDsl as _;
use testkit::eventually;

use crate::receiver::{Answer, Receiver};
use crate::support::World;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_and_done_is_deleted_and_the_rest_stays() {
    let world = World::start().await;
    let mut settings = world.settings();
    settings.retention.interval_s = 1;
    settings.retention.batch_max = 2;
    let replica = world.replica_with(settings).await;
    let receiver = Receiver::start().await;
    let (good, _) = replica.register(&receiver.url("/good"), &["order.created.v1"]).await;
    let (bad, _) = replica.register(&receiver.url("/bad"), &["order.created.v1"]).await;
    receiver.always("/bad", Answer::Status(500));
    let mut stream = replica.stream("ann", None).await;
    for _ in 0..7 {
        world.tell("ann").await;
    }
    stream.take(7).await;
    eventually("all are delivered or parked", async || {
        let delivered = replica.deliveries(&good, "?state=delivered").await.len();
        let parked = replica.deliveries(&bad, "?state=parked").await.len();
        ((delivered, parked) == (7, 7)).then_some(())
    })
    .await;

    // Eight days pass for all but the newest event.
    let mut connection = world.connection().await;
    for statement in [
        "UPDATE events SET stored_at = stored_at - interval '8 days' WHERE seq < 7",
        "UPDATE deliveries SET finished_at = finished_at - interval '8 days'",
    ] {
        sql_query(statement).execute(&mut connection).await.unwrap();
    }
    eventually("the old is gone", async || {
        let left = (count(&world, "events").await, count(&world, "deliveries").await);
        (left == (1, 7)).then_some(())
    })
    .await;
    // Parked deliveries stay until somebody decides, with what they would send.
    assert_eq!(replica.deliveries(&bad, "?state=parked").await.len(), 7);
    assert_eq!(count(&world, "webhook_messages").await, 7);
    // Unless nobody decides for a very long time.
    let statement =
        "UPDATE deliveries SET finished_at = finished_at - interval '90 days' WHERE state = 'parked'";
    sql_query(statement).execute(&mut connection).await.unwrap();
    eventually("the forgotten is gone", async || (count(&world, "deliveries").await == 0).then_some(()))
        .await;
    // Numbers go on where they were, and a client from before hears what is left.
    let mut late = replica.stream("ann", Some("2")).await;
    assert_eq!(late.next().await.unwrap().id, 7);
    world.tell("ann").await;
    assert_eq!(late.next().await.unwrap().id, 8);
}

pub async fn count(world: &World, table: &str) -> i64 {
    #[derive(diesel::QueryableByName)]
    struct Row {
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        count: i64,
    }
    let query = sql_query(format!("SELECT count(*) AS count FROM {table}"));
    let row: Row = query.get_result(&mut world.connection().await).await.unwrap();
    row.count
}
