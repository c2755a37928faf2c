//! Waiting for something to become true, without a fixed sleep.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// How long [`eventually`] waits: generous, because test machines stall; a passing test never waits that long.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Calls `probe` until it answers `Some`, and returns what is inside.
///
/// # Panics
/// After 30 seconds, naming `what`.
///
/// ```no_run
/// # async fn order_status() -> Option<String> { None }
/// # async fn example() {
/// let status = testkit::eventually("the order is paid", async || order_status().await.filter(|s| s == "paid")).await;
/// # }
/// ```
pub async fn eventually<T>(what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
    within(PATIENCE, what, probe).await
}

async fn within<T>(patience: Duration, what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match timeout_at(deadline, probe()).await {
            Ok(Some(found)) => return found,
            Ok(None) if Instant::now() < deadline => sleep(POLL_INTERVAL).await,
            Ok(None) | Err(_) => panic!("did not happen within {} s: {what}", patience.as_secs_f32()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn returns_what_the_probe_found() {
        let mut calls = 0;
        let found = eventually("three calls", async || {
            calls += 1;
            (calls == 3).then_some("found")
        })
        .await;
        assert_eq!((found, calls), ("found", 3));
    }

    #[tokio::test]
    #[should_panic(expected = "did not happen within 0.1 s: the moon falls down")]
    async fn gives_up_and_says_on_what() {
        within(Duration::from_millis(100), "the moon falls down", async || None::<()>).await;
    }

    #[tokio::test]
    #[should_panic(expected = "did not happen within 0.1 s: an answer")]
    async fn a_probe_that_hangs_is_given_up_too() {
        within(Duration::from_millis(100), "an answer", async || std::future::pending::<Option<()>>().await)
            .await;
    }
}
