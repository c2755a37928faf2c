//! Processes that die, and replicas that race.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use diesel::sql_query;
use diesel_async::RunQueryDsl as _;
use notify_service::settings::Numbers;
use testkit::eventually;

use crate::deliveries::wait_for_state;
use crate::receiver::{Answer, Receiver};
use crate::support::World;

/// The program itself, killed with this value.
pub struct Process(Child);

impl Process {
    pub fn start(world: &World) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_notify-service"))
            .env("NOTIFY_SERVICE__PROFILE", "dev")
            .env("NOTIFY_SERVICE__HTTP__HOST", "127.0.0.1")
            .env("NOTIFY_SERVICE__HTTP__PORT", "0")
            .env("NOTIFY_SERVICE__INTERNAL__TOKEN", "0123456789abcdef0123456789abcdef")
            .env("NOTIFY_SERVICE__DATABASE__URL", world.database.url())
            .env("NOTIFY_SERVICE__AMQP__URL", world.vhost.url())
            .env("NOTIFY_SERVICE__WEBHOOKS__ALLOW_PRIVATE", "true")
            .env("NOTIFY_SERVICE__WEBHOOKS__TIMEOUT_MS", "30000")
            .env("NOTIFY_SERVICE__WEBHOOKS__LEASE_MS", "61000")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Dead already, if the test has killed it.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_sending_and_recording_the_delivery_is_repeated_alike() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    let setup = world.replica().await;
    let (webhook, secret) = setup.register(&receiver.url("/hook"), &["order.*"]).await;
    setup.stop().await;

    receiver.answers("/hook", &[Answer::After(Duration::from_secs(20))]);
    let mut process = Process::start(&world);
    world.tell("ann").await;
    receiver.wait_for("/hook", 1).await;
    process.kill();

    let replica = world.replica().await;
    crate::support::a_while().await;
    assert_eq!(receiver.received("/hook").len(), 1, "its lease still holds");
    let lapse = sql_query("UPDATE deliveries SET leased_until = now() - interval '1 second'");
    lapse.execute(&mut world.connection().await).await.unwrap();

    let delivery = wait_for_state(&replica, &webhook, "delivered").await;
    assert_eq!(delivery["attempts"].as_i64(), Some(1), "only what was recorded counts");
    let received = receiver.wait_for("/hook", 2).await;
    assert_eq!((&received[0].id, &received[0].body), (&received[1].id, &received[1].body));
    received[1].assert_signed_with(&secret);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_storing_the_events_come_again_and_are_told_once() {
    let world = World::start().await;
    let mut process = Process::start(&world);
    for number in 0..200 {
        world.tell("ann").await;
        if number == 50 {
            process.kill();
            process = Process::start(&world);
        }
    }
    process.kill();
    let replica = world.replica().await;
    let mut stream = replica.stream("ann", Some("0")).await;
    let ids: Vec<i64> = stream.take(200).await.iter().map(|told| told.id).collect();
    assert_eq!(ids, (1..=200).collect::<Vec<_>>());
    assert!(stream.is_silent().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_lost_its_lease_does_not_write_over_the_next_ones_result() {
    let world = World::start().await;
    let receiver = Receiver::start().await;
    let mut settings = world.settings();
    settings.webhooks.timeout_ms = 2_000;
    settings.webhooks.retry_ms = Numbers(vec![86_400_000]);
    let replica = world.replica_with(settings).await;
    let (webhook, _) = replica.register(&receiver.url("/hook"), &["order.*"]).await;
    // The first attempt fails late; meanwhile its lease is taken away, and the next one fails in another way.
    receiver.answers("/hook", &[Answer::After(Duration::from_secs(60)), Answer::Status(500)]);
    world.tell("ann").await;
    receiver.wait_for("/hook", 1).await;
    let lapse = sql_query("UPDATE deliveries SET leased_until = now() - interval '1 second'");
    lapse.execute(&mut world.connection().await).await.unwrap();
    receiver.wait_for("/hook", 2).await;

    let recorded = eventually("the second attempt is recorded", async || {
        let delivery = replica.deliveries(&webhook, "").await.remove(0);
        (delivery["last_status"] == 500).then_some(delivery)
    })
    .await;
    assert_eq!(recorded["attempts"].as_i64(), Some(1));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(replica.deliveries(&webhook, "").await[0], recorded);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_together_migrate_once() {
    let world = World::start().await;
    let (_one, _two, _three) = tokio::join!(world.replica(), world.replica(), world.replica());
    eventually("the schema is there", async || Some(crate::retention::count(&world, "events").await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_written_to_yet_is_waited_for_at_start() {
    let world = World::start().await;
    world.database.set_read_only(true).await;
    let settings = world.settings();
    let migrating = tokio::spawn(async move { notify_service::db::migrate(&settings.database).await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!migrating.is_finished(), "it goes on trying");
    world.database.set_read_only(false).await;
    migrating.await.unwrap().unwrap();
}
