//! One schedule from its seed to its verdicts.

use std::collections::BTreeSet;

use chaos::checker::CHECKS;
use chaos::run;
use chaos::schedule::Schedule;

/// Without crash points: the binaries of the tests have none.
#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_is_played_and_nothing_is_found() {
    let mut schedule = Schedule::draw(3);
    schedule.crash_points.clear();
    let folder = std::env::temp_dir().join(format!("chaos-schedule-{}", uuid::Uuid::new_v4()));

    let ran = run::run(&schedule, "", &folder).await.unwrap();

    let violations = ran.violations();
    assert!(violations.is_empty(), "{violations:#?}; files: {}", folder.display());
    let judged: BTreeSet<&str> = ran.verdicts.iter().map(|verdict| verdict.invariant).collect();
    assert_eq!(judged.len(), CHECKS.len(), "one verdict per invariant");
    assert!(
        ran.operations > 100 && ran.accepted > 0,
        "{} operations, {} accepted",
        ran.operations,
        ran.accepted
    );
    for file in ["schedule.json", "client-log.jsonl", "orders.jsonl", "verdicts.json", "logs/gateway.log"] {
        assert!(folder.join(file).exists(), "{file} is kept for whoever replays it");
    }
    std::fs::remove_dir_all(folder).unwrap();
}
