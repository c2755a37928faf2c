//! The circuit breaker of one service: closed, open, half-open.
//!
//! What is expected of it: whoever asks for something that cannot be had is told so at once, and a service that comes
//! back is not run over by everybody who waited. As in Envoy, failures in a row open it (a share of failures would take a
//! service away whose one replica is broken); pauses are random, so that replicas do not try together; one call tries;
//! after it the service is given more and more to do.

use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng as _;
use tokio::time::Instant;

use crate::settings::BreakerSettings;

/// The part of the usual load that a service gets when it is just back.
const SLOW_START_FROM: f64 = 0.1;
/// A trial that has not ended after so long is given up, and the next call tries.
const TRIAL_MAX: Duration = Duration::from_secs(3);

/// Where the breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Calls go through.
    Closed,
    /// One call tries whether they would.
    HalfOpen,
    /// No call goes through.
    Open,
}

/// The right to make one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// One among many.
    Usual,
    /// The one that tries; it has a number, so that one that was given up decides nothing.
    Trial(u64),
}

enum State {
    Closed { failures: u32, since: Option<Instant> },
    Open { until: Instant },
    HalfOpen { trial: u64, since: Instant },
}

struct Inner {
    state: State,
    trials: u64,
}

/// See the module.
pub struct Breaker {
    failures_max: u32,
    pause: Duration,
    slow_start: Duration,
    inner: Mutex<Inner>,
}

impl Breaker {
    /// Closed, and fully loaded.
    pub fn new(settings: &BreakerSettings) -> Self {
        Self {
            failures_max: settings.failures_max,
            pause: Duration::from_millis(settings.open_ms),
            slow_start: Duration::from_millis(settings.slow_start_ms),
            inner: Mutex::new(Inner { state: State::Closed { failures: 0, since: None }, trials: 0 }),
        }
    }

    /// Whether a call may be made; `None` while the service is left alone.
    pub fn pass(&self, now: Instant) -> Option<Pass> {
        let mut inner = self.inner.lock();
        match inner.state {
            State::Closed { .. } => return Some(Pass::Usual),
            State::Open { until } if now < until => return None,
            State::HalfOpen { since, .. } if now < since + TRIAL_MAX => return None,
            State::Open { .. } | State::HalfOpen { .. } => {}
        }
        inner.trials += 1;
        let trial = inner.trials;
        inner.state = State::HalfOpen { trial, since: now };
        Some(Pass::Trial(trial))
    }

    /// The part of the usual load that the service gets, 0.1 to 1.
    pub fn share(&self, now: Instant) -> f64 {
        match self.inner.lock().state {
            State::Closed { since: Some(since), .. } => {
                let part = now.saturating_duration_since(since).as_secs_f64()
                    / self.slow_start.as_secs_f64().max(f64::MIN_POSITIVE);
                (SLOW_START_FROM + (1.0 - SLOW_START_FROM) * part).min(1.0)
            }
            State::Closed { since: None, .. } | State::Open { .. } | State::HalfOpen { .. } => 1.0,
        }
    }

    /// A call was answered. Says where the breaker stands now, if that has changed.
    pub fn succeeded(&self, pass: Pass, now: Instant) -> Option<Standing> {
        let mut inner = self.inner.lock();
        match (&mut inner.state, pass) {
            (State::Closed { failures, .. }, _) => {
                *failures = 0;
                None
            }
            (State::HalfOpen { trial, .. }, Pass::Trial(number)) if *trial == number => {
                inner.state = State::Closed { failures: 0, since: Some(now) };
                Some(Standing::Closed)
            }
            (State::HalfOpen { .. } | State::Open { .. }, _) => None, // Of a call from before the opening.
        }
    }

    /// A call failed. Says where the breaker stands now, if that has changed.
    pub fn failed(&self, pass: Pass, now: Instant) -> Option<Standing> {
        let mut inner = self.inner.lock();
        match (&mut inner.state, pass) {
            (State::Closed { failures, .. }, _) => {
                *failures += 1;
                if *failures < self.failures_max {
                    return None;
                }
            }
            (State::HalfOpen { trial, .. }, Pass::Trial(number)) if *trial == number => {}
            (State::HalfOpen { .. } | State::Open { .. }, _) => return None,
        }
        // Half the pause, up to one and a half.
        let pause = self.pause.mul_f64(rand::rng().random_range(0.5..1.5));
        inner.state = State::Open { until: now + pause };
        Some(Standing::Open)
    }

    /// A call has ended without saying anything of the service: if it was the trial, the next call is.
    pub fn abandoned(&self, pass: Pass, now: Instant) {
        let mut inner = self.inner.lock();
        if let (State::HalfOpen { trial, .. }, Pass::Trial(number)) = (&inner.state, pass)
            && *trial == number
        {
            inner.state = State::Open { until: now };
        }
    }

    /// Where it stands.
    pub fn standing(&self) -> Standing {
        match self.inner.lock().state {
            State::Closed { .. } => Standing::Closed,
            State::HalfOpen { .. } => Standing::HalfOpen,
            State::Open { .. } => Standing::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker() -> Breaker {
        Breaker::new(&BreakerSettings { failures_max: 3, open_ms: 1000, slow_start_ms: 5000 })
    }

    fn opened(now: Instant) -> Breaker {
        let breaker = breaker();
        for n in 1..=3 {
            let pass = breaker.pass(now).expect("closed");
            assert_eq!(breaker.failed(pass, now), (n == 3).then_some(Standing::Open));
        }
        breaker
    }

    #[test]
    fn only_failures_in_a_row_open_it() {
        let (breaker, now) = (breaker(), Instant::now());
        for _ in 0..10 {
            assert_eq!(breaker.failed(Pass::Usual, now), None);
            assert_eq!(breaker.failed(Pass::Usual, now), None);
            assert_eq!(breaker.succeeded(Pass::Usual, now), None);
        }
        assert_eq!(breaker.standing(), Standing::Closed);
    }

    #[test]
    fn an_open_one_lets_nobody_through_and_then_one() {
        let now = Instant::now();
        let breaker = opened(now);
        assert_eq!(breaker.pass(now + SECOND / 2 - SECOND / 100), None, "the shortest pause");
        let later = now + SECOND * 3 / 2;
        let trial = breaker.pass(later).expect("the longest pause is over");
        assert!(matches!(trial, Pass::Trial(_)));
        assert!((0..100).all(|_| breaker.pass(later).is_none()), "one at a time");
        // What was begun before the opening says nothing of now.
        assert_eq!(breaker.succeeded(Pass::Usual, later), None);
        assert_eq!(breaker.standing(), Standing::HalfOpen);
        assert_eq!(breaker.failed(trial, later), Some(Standing::Open));
        assert_eq!(breaker.pass(later), None);
    }

    #[test]
    fn a_service_that_is_back_gets_more_and_more() {
        let now = Instant::now();
        let breaker = opened(now);
        let back = now + SECOND * 2;
        let trial = breaker.pass(back).expect("a trial");
        assert_eq!(breaker.succeeded(trial, back), Some(Standing::Closed));
        let share = |after_s: f64| breaker.share(back + Duration::from_secs_f64(after_s));
        assert!((share(0.0) - 0.1).abs() < 1e-9 && (share(2.5) - 0.55).abs() < 1e-9, "{}", share(2.5));
        assert!((share(5.0) - 1.0).abs() < 1e-9 && (share(500.0) - 1.0).abs() < 1e-9);
        assert_eq!(breaker.pass(back), Some(Pass::Usual));
    }

    #[test]
    fn a_trial_that_never_ends_holds_up_nobody_for_ever() {
        let now = Instant::now();
        let breaker = opened(now);
        let first = breaker.pass(now + SECOND * 2).expect("a trial");
        breaker.abandoned(first, now + SECOND * 2);
        let second = breaker.pass(now + SECOND * 2).expect("the next one at once");
        let third = breaker.pass(now + SECOND * 2 + TRIAL_MAX).expect("and one more after a hang");
        assert_eq!(breaker.succeeded(second, now), None, "given up");
        assert_eq!(breaker.succeeded(third, now), Some(Standing::Closed));
    }

    #[test]
    fn pauses_differ() {
        let now = Instant::now();
        let still_open = (0..200).filter(|_| opened(now).pass(now + SECOND).is_none()).count();
        assert!((20..180).contains(&still_open), "{still_open} of 200");
    }
}
