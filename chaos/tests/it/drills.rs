//! Drills that are short enough to be run each time, because nothing else shows what they show.

use chaos::drill::{Arguments, Drill};

/// Publishers are blocked, consumers are not: reservations are refused before Redis is touched, and go on afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn buyers_are_refused_up_front_while_the_broker_is_in_alarm() {
    testkit::init();
    let report = std::env::temp_dir().join(format!("chaos-drill-{}.json", uuid::Uuid::new_v4()));
    let passed = Arguments::of(Drill::BrokerAlarms, 1, report.clone()).run("").await.unwrap();
    assert_eq!(passed, Some(true), "see its output");
    std::fs::remove_file(report).unwrap();
}
