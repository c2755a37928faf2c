//! Migrations apart from serving, as a release makes them in a cluster.

use std::time::Duration;

use order_service::{Settings, db};
use testkit::Database;

/// Longer than an instance takes to find out that it has to wait.
const A_WHILE: Duration = Duration::from_millis(1_500);

fn settings(database: &Database, migrate_at_start: &str) -> Settings {
    let (url, owner) = (database.role_url(), database.url());
    let environment = [
        ("PROFILE", "dev"),
        ("INTERNAL__TOKEN", "a token of a test"),
        ("DATABASE__URL", &url),
        // Only the job has the owner's credentials.
        ("DATABASE__MIGRATION_URL", if migrate_at_start == "true" { &owner } else { "" }),
        ("DATABASE__MIGRATE_AT_START", migrate_at_start),
        ("DATABASE__CONNECT_TIMEOUT_MS", "20000"),
        ("AMQP__URL", "amqp://nobody:nothing@127.0.0.1:1/%2f"),
        ("PAYMENTS__SANDBOX_SECRET", "a secret of a test"),
    ];
    Settings::load_from(&environment).expect("valid settings")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_may_not_migrate_waits_for_who_does() {
    testkit::init();
    let database = Database::create_with_role("releasing").await;
    let instance = settings(&database, "false");
    let waiting = tokio::spawn(async move { db::prepare(&instance.database).await });
    tokio::time::sleep(A_WHILE).await;
    assert!(!waiting.is_finished(), "it went on without its tables");

    order_service::once::run("migrate", &settings(&database, "true")).await.expect("migrated");

    waiting.await.unwrap().expect("it goes on");
    // And the next one does not wait, nor does a job that comes again do anything.
    db::prepare(&settings(&database, "false").database).await.expect("at once");
    db::prepare(&settings(&database, "true").database).await.expect("nothing to do");
}
