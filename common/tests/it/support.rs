//! What the tests share.

use std::time::Duration;

use tokio::time::Instant;

/// Long enough for something to have happened on a calm machine; only used where being late cannot fail a test.
pub const SOON: Duration = Duration::from_millis(30);

/// A deadline that does not come.
pub fn far() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Waits until `holds`.
pub async fn eventually_true(what: &str, mut holds: impl FnMut() -> bool) {
    testkit::eventually(what, async || holds().then_some(())).await;
}
