//! How many calls one service gets at a time: as many as it answers without getting slower.
//!
//! People expect the orders that were let in to be quick, also when ten times as many arrive. Netflix'
//! concurrency-limits is the best known answer (its gradient limit): the limit follows the ratio of what an answer takes
//! at best to what it takes now, and leaves room for a short queue, the square root of itself. A call that got no answer
//! takes a tenth off the limit (AIMD). Who does not fit is told so at once; nothing waits here but batches of orders,
//! whose queues are bounded.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::settings::ConcurrencySettings;

/// How much longer than at best an answer may take before the limit shrinks.
const TOLERANCE: f64 = 2.0;
/// Weight of one answer in what answers take now.
const NOW_WEIGHT: f64 = 0.1;
/// By so much a second the best is forgotten: a service may get slower for good, which an hour's overload is not.
const FORGETTING_PER_S: f64 = 0.005;
/// Weight of one answer in the limit.
const SMOOTHING: f64 = 0.2;
/// What one answer can shrink the limit to, before smoothing.
const GRADIENT_MIN: f64 = 0.5;
/// What is left of the limit after a call without an answer.
const BACKOFF: f64 = 0.9;
/// A waiting batch looks again after so long: the limit may have grown meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

struct State {
    limit: f64,
    in_flight: usize,
    /// What answers take now.
    now_ms: f64,
    /// What they take at best, as of `best_at`.
    best_ms: f64,
    best_at: Instant,
}

impl State {
    fn learn(&mut self, took_ms: f64, now: Instant) {
        let first = self.now_ms == 0.0;
        self.now_ms += (took_ms - self.now_ms) * if first { 1.0 } else { NOW_WEIGHT };
        let forgotten = now.saturating_duration_since(self.best_at).as_secs_f64() * FORGETTING_PER_S;
        let best_ms = self.best_ms * (1.0 + forgotten);
        self.best_ms = if first { took_ms } else { best_ms.min(self.now_ms) };
        self.best_at = now;
    }
}

/// See the module.
pub struct Concurrency {
    min: f64,
    max: f64,
    quick_ms: f64,
    state: Mutex<State>,
    freed: Notify,
}

impl Concurrency {
    /// Begins in the middle: with `settings.initial`.
    pub fn new(settings: &ConcurrencySettings) -> Self {
        Self {
            min: f64::from(settings.min),
            max: f64::from(settings.max),
            quick_ms: f64::from(settings.quick_ms),
            state: Mutex::new(State {
                limit: f64::from(settings.initial),
                in_flight: 0,
                now_ms: 0.0,
                best_ms: 0.0,
                best_at: Instant::now(),
            }),
            freed: Notify::new(),
        }
    }

    /// A place for one call, if less than `share` of the limit is taken. One call at a time always has a place.
    pub fn try_enter(&self, share: f64) -> bool {
        let mut state = self.state.lock();
        let places = (state.limit * share).max(1.0);
        let free = (state.in_flight as f64) < places;
        state.in_flight += usize::from(free);
        free
    }

    /// Waits for a place until `deadline`.
    pub async fn enter(&self, share: impl Fn() -> f64, deadline: Instant) -> bool {
        loop {
            let freed = self.freed.notified();
            if self.try_enter(share()) {
                return true;
            }
            let now = Instant::now();
            if now >= deadline {
                return false;
            }
            _ = timeout_at(deadline.min(now + LOOK_AGAIN), freed).await;
        }
    }

    /// The call was answered after `took`.
    pub fn answered(&self, took: Duration) {
        let took_ms = (took.as_secs_f64() * 1000.0).max(0.001);
        let mut state = self.state.lock();
        let used = state.in_flight as f64;
        state.learn(took_ms, Instant::now());
        // What nobody uses says nothing of what would be too much.
        if used >= state.limit / 2.0 {
            let expected_ms = (state.best_ms * TOLERANCE).max(self.quick_ms);
            let gradient = (expected_ms / state.now_ms).clamp(GRADIENT_MIN, 1.0);
            let target = state.limit * gradient + state.limit.sqrt();
            state.limit = (state.limit * (1.0 - SMOOTHING) + target * SMOOTHING).clamp(self.min, self.max);
        }
        self.leave(state);
    }

    /// The call was not answered.
    pub fn unanswered(&self) {
        let mut state = self.state.lock();
        state.limit = (state.limit * BACKOFF).max(self.min);
        self.leave(state);
    }

    /// The call has ended without saying anything of the service.
    pub fn abandoned(&self) {
        self.leave(self.state.lock());
    }

    /// The limit and what is taken of it.
    pub fn figures(&self) -> (f64, usize) {
        let state = self.state.lock();
        (state.limit, state.in_flight)
    }

    fn leave(&self, mut state: parking_lot::MutexGuard<'_, State>) {
        state.in_flight = state.in_flight.saturating_sub(1);
        drop(state);
        self.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn concurrency() -> Concurrency {
        Concurrency::new(&ConcurrencySettings { min: 4, initial: 20, max: 200, quick_ms: 1 })
    }

    /// Keeps the service as busy as the limit allows while each answer takes `took`.
    fn run(concurrency: &Concurrency, rounds: usize, took: impl Fn(usize) -> Duration) -> f64 {
        for _ in 0..rounds {
            let mut entered = 0;
            while concurrency.try_enter(1.0) {
                entered += 1;
            }
            (0..entered).for_each(|_| concurrency.answered(took(entered)));
        }
        concurrency.figures().0
    }

    #[test]
    fn grows_while_answers_stay_quick_up_to_its_bound() {
        assert!((run(&concurrency(), 200, |_| MS * 10) - 200.0).abs() < 1.0);
    }

    #[test]
    fn follows_what_the_service_can_do() {
        // Ten at a time take 10 ms; more queue up.
        let concurrency = concurrency();
        run(&concurrency, 50, |_| MS * 10);
        let queueing = |entered: usize| MS * u32::try_from(entered.max(10)).unwrap();
        let limit = run(&concurrency, 200, queueing);
        assert!((4.0..60.0).contains(&limit), "{limit}");
    }

    #[test]
    fn calls_without_an_answer_shrink_it_down_to_its_bound() {
        let concurrency = concurrency();
        for _ in 0..100 {
            assert!(concurrency.try_enter(1.0));
            concurrency.unanswered();
        }
        assert!((concurrency.figures().0 - 4.0).abs() < 1e-9);
    }

    #[test]
    fn idle_times_do_not_raise_it() {
        let concurrency = concurrency();
        for _ in 0..1000 {
            assert!(concurrency.try_enter(1.0));
            concurrency.answered(MS);
        }
        assert!((concurrency.figures().0 - 20.0).abs() < 1e-9);
    }

    #[test]
    fn the_more_important_still_find_a_place() {
        let concurrency = concurrency();
        while concurrency.try_enter(0.7) {}
        assert_eq!(concurrency.figures().1, 14);
        assert!(concurrency.try_enter(0.8) && concurrency.try_enter(1.0));
        while concurrency.try_enter(1.0) {}
        assert_eq!(concurrency.figures().1, 20);
        assert!(!concurrency.try_enter(1.0));
    }

    #[tokio::test]
    async fn a_batch_waits_for_a_place_and_no_longer_than_its_deadline() {
        let concurrency = concurrency();
        while concurrency.try_enter(1.0) {}
        assert!(!concurrency.enter(|| 1.0, Instant::now() + MS * 20).await);
        let waiting = concurrency.enter(|| 1.0, Instant::now() + MS * 20_000);
        let (entered, ()) = tokio::join!(waiting, async { concurrency.abandoned() });
        assert!(entered);
    }
}
