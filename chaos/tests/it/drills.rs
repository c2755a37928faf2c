//! Drills that are short enough to be run each time, because nothing else shows what they show.

use chaos::drill::Drill;

/// Publishers are blocked, consumers are not: reservations are refused before Redis is touched, and go on afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn buyers_are_refused_up_front_while_the_broker_is_in_alarm() {
    testkit::init();
    let report = std::env::temp_dir().join(format!("chaos-drill-{}.json", uuid::Uuid::new_v4()));
    assert!(Drill::BrokerAlarms.run(Some(1), "", &report).await.unwrap(), "see its output");
    std::fs::remove_file(report).unwrap();
}
