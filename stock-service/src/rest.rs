//! Work that nobody waits for, beside people who do.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How many times as long as a page took one rests after it, so that whoever buys meanwhile waits behind one page and not
/// behind all of them.
const REST: u32 = 4;
/// The longest rest: what was slow because something else was in the way need not be slow for ever.
const REST_MAX: Duration = Duration::from_secs(1);

/// Does one page of work, and rests.
pub(crate) async fn rested<T>(work: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let result = work.await;
    sleep(rest_after(began.elapsed())).await;
    result
}

fn rest_after(work: Duration) -> Duration {
    work.saturating_mul(REST).min(REST_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_is_four_times_as_long_as_the_work_and_has_an_end() {
        for (work_ms, rest_ms) in [(0, 0), (10, 40), (250, 1_000), (60_000, 1_000)] {
            assert_eq!(rest_after(Duration::from_millis(work_ms)), Duration::from_millis(rest_ms));
        }
    }

    #[tokio::test]
    async fn who_has_done_a_page_rests_before_the_next_one() {
        let began = Instant::now();
        rested(sleep(Duration::from_millis(10))).await;
        assert!(began.elapsed() >= Duration::from_millis(50));
    }
}
