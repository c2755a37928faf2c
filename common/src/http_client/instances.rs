//! The instances of a service: whose turn it is, and which of them are left alone for a moment.
//!
//! A replica that died may stay in the list for long, behind a balancer that takes its connections and resets them. Each
//! call that it gets has an unknown outcome, and whoever asks again may meet it again. So an instance whose connection
//! failed rests, for longer each time, and then a question tries it before anything that has an effect. One that takes
//! too long does not rest: it is busy, and the others would be next.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use url::Url;

use crate::settings::UrlList;

/// How long an instance rests after its first failure; twice as long after each further one.
const REST: Duration = Duration::from_millis(500);
/// The longest rest: so long a replica that is back may wait for work.
const REST_MAX: Duration = Duration::from_secs(4);
/// How long after its rest an instance is left to questions; commands try it then.
const QUESTIONS_FIRST: Duration = Duration::from_secs(1);

/// All of them.
pub(super) struct Instances {
    all: Vec<Instance>,
    next: AtomicUsize,
}

struct Instance {
    url: Url,
    health: Mutex<Health>,
}

#[derive(Default)]
struct Health {
    /// Rests since it answered last.
    rests: u32,
    rests_until: Option<Instant>,
}

impl Health {
    fn rest(&mut self, now: Instant) {
        let rest = REST.saturating_mul(2_u32.saturating_pow(self.rests)).min(REST_MAX);
        self.rests = self.rests.saturating_add(1);
        self.rests_until = Some(now + rest);
    }
}

/// The right to call one of them.
pub(super) struct Turn<'a> {
    instance: &'a Instance,
    number: usize,
    /// It rested: this call tries it, and others wait for what comes of it.
    trial: bool,
}

impl Instances {
    pub(super) fn new(urls: &UrlList) -> Self {
        let instance = |url: &Url| Instance { url: url.clone(), health: Mutex::default() };
        Self { all: urls.as_slice().iter().map(instance).collect(), next: AtomicUsize::new(0) }
    }

    /// Who is called next by a call that `tried` some already; `None` when it has tried all of them. One that rests is
    /// called when there is no other.
    pub(super) fn turn(&self, question: bool, tried: &[usize], now: Instant) -> Option<Turn<'_>> {
        // Who is passed over gives its turn away, so that what it would have got is shared evenly.
        for _ in 0..self.all.len() {
            let number = self.next.fetch_add(1, Ordering::Relaxed) % self.all.len();
            let instance = &self.all[number];
            if !tried.contains(&number)
                && let Some(trial) = instance.takes_calls(question, now)
            {
                return Some(Turn { instance, number, trial });
            }
        }
        let first = self.next.load(Ordering::Relaxed);
        let mut all = (0..self.all.len()).map(|n| first.wrapping_add(n) % self.all.len());
        let number = all.find(|number| !tried.contains(number))?;
        Some(Turn { instance: &self.all[number], number, trial: false })
    }
}

impl Instance {
    /// Whether it is worth a call now, and whether that is the one that tries it after a rest.
    fn takes_calls(&self, question: bool, now: Instant) -> Option<bool> {
        let mut health = self.health.lock();
        let Some(rests_until) = health.rests_until else { return Some(false) };
        let patience = if question { Duration::ZERO } else { QUESTIONS_FIRST };
        if now < rests_until + patience {
            return None;
        }
        health.rest(now);
        Some(true)
    }
}

impl Turn<'_> {
    pub(super) fn url(&self) -> &Url {
        &self.instance.url
    }

    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// It answered, whatever it said.
    pub(super) fn answered(self) {
        *self.instance.health.lock() = Health::default();
    }

    /// Its connection could not be made, or broke.
    pub(super) fn failed(self, now: Instant) {
        let mut health = self.instance.health.lock();
        // What fails during a rest is of the same trouble; a trial took its rest when it began.
        if health.rests_until.is_none() && !self.trial {
            health.rest(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: bool = true;
    const COMMAND: bool = false;
    const A_MOMENT: Duration = Duration::from_millis(1);

    fn three() -> Instances {
        let urls = "http://a:1,http://b:1,http://c:1".to_owned();
        Instances::new(&UrlList::try_from(urls).unwrap())
    }

    fn called(instances: &Instances, question: bool, now: Instant, calls: usize) -> [usize; 3] {
        let mut called = [0; 3];
        for _ in 0..calls {
            called[instances.turn(question, &[], now).unwrap().number()] += 1;
        }
        called
    }

    #[test]
    fn what_rests_is_passed_over_and_the_others_share_evenly() {
        let (instances, now) = (three(), Instant::now());
        assert_eq!(called(&instances, COMMAND, now, 30), [10, 10, 10]);
        instances.turn(COMMAND, &[1, 2], now).unwrap().failed(now);
        assert_eq!(called(&instances, COMMAND, now, 30), [0, 15, 15]);
    }

    #[test]
    fn a_question_tries_it_first_and_only_one() {
        let (instances, now) = (three(), Instant::now());
        instances.turn(COMMAND, &[1, 2], now).unwrap().failed(now);
        let later = now + REST + A_MOMENT;
        assert_eq!(called(&instances, COMMAND, later, 30)[0], 0, "not for what has an effect");
        assert_eq!(called(&instances, QUESTION, later, 30)[0], 1, "the others wait for what comes of it");
        assert_eq!(called(&instances, QUESTION, later + REST, 30)[0], 0, "longer than the first time");
        assert_eq!(called(&instances, QUESTION, later + REST * 2, 30)[0], 1);
    }

    #[test]
    fn where_nobody_asks_questions_a_command_tries() {
        let (instances, now) = (three(), Instant::now());
        instances.turn(COMMAND, &[1, 2], now).unwrap().failed(now);
        assert_eq!(called(&instances, COMMAND, now + REST + QUESTIONS_FIRST, 30)[0], 1);
    }

    #[test]
    fn one_that_answers_again_has_its_share_at_once() {
        let (instances, now) = (three(), Instant::now());
        instances.turn(COMMAND, &[1, 2], now).unwrap().failed(now);
        let later = now + REST + A_MOMENT;
        let trial = (0..3).filter_map(|_| instances.turn(QUESTION, &[], later)).find(|turn| turn.trial);
        trial.expect("a trial").answered();
        assert_eq!(called(&instances, COMMAND, later, 30), [10, 10, 10]);
    }

    #[test]
    fn no_rest_is_longer_than_the_longest_and_many_failures_at_once_are_one() {
        let (instances, mut now) = (three(), Instant::now());
        let many: Vec<_> = (0..30).filter_map(|_| instances.turn(COMMAND, &[1, 2], now)).collect();
        many.into_iter().for_each(|turn| turn.failed(now));
        assert_eq!(called(&instances, QUESTION, now + REST, 3)[0], 1, "as after one");
        for _ in 0..40 {
            now += REST_MAX + A_MOMENT;
            assert_eq!(called(&instances, QUESTION, now, 30)[0], 1);
        }
    }

    #[test]
    fn when_all_rest_each_is_tried_once_by_a_call() {
        let (instances, now) = (three(), Instant::now());
        for others in [[1, 2], [0, 2], [0, 1]] {
            instances.turn(COMMAND, &others, now).unwrap().failed(now);
        }
        let mut tried = Vec::new();
        while let Some(turn) = instances.turn(COMMAND, &tried, now) {
            tried.push(turn.number());
        }
        tried.sort_unstable();
        assert_eq!(tried, [0, 1, 2]);
    }
}
