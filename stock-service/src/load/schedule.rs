//! Which item is loaded when.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::ids::ItemId;
use common::shutdown::Tasks;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{LoadError, Loaded, Loader};
use crate::items::Item;
use crate::settings::LoadSettings;

/// The first pause after a failure; it doubles.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// How long to leave an item alone that another replica is loading.
const ELSEWHERE_PAUSE: Duration = Duration::from_millis(200);
/// Of the loads at a time one in so many may be of an item whose sale is over. A load mostly waits, and only so many wait
/// at a time: those that nobody waits for leave places free for those that somebody may buy, whenever these close.
const OVER_SHARE: usize = 4;
/// How often to look whether an operator has let an item go on.
const KEPT_CLOSED_PAUSE: Duration = Duration::from_secs(2);

/// Loads items whose gates are closed, as one of `tasks`.
pub fn start(loader: Loader, settings: LoadSettings, tasks: &Tasks) {
    let schedule =
        Schedule { loader, settings, running: JoinSet::new(), items: HashMap::new(), waits: HashMap::new() };
    tasks.spawn("loader", schedule.run(tasks.stop_token()));
}

struct Schedule {
    loader: Loader,
    settings: LoadSettings,
    running: JoinSet<Result<Loaded, LoadError>>,
    /// The items of `running`, and whether their sales were over.
    items: HashMap<Id, (Arc<Item>, bool)>,
    waits: HashMap<ItemId, Wait>,
}

/// When to try again.
struct Wait {
    until: Instant,
    longest: Duration,
}

impl Schedule {
    async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let interval = Duration::from_millis(self.settings.interval_ms);
        loop {
            self.begin_due();
            tokio::select! {
                Some(ended) = self.running.join_next_with_id() => self.ended(ended),
                () = self.loader.items.closed() => {}
                () = sleep(interval) => {}
                () = stop.cancelled() => break,
            }
        }
        // A load that is cut off is begun anew by whoever comes next; the gate stays closed until then.
        self.running.shutdown().await;
        Ok(())
    }

    fn begin_due(&mut self) {
        if !self.loader.announcer.is_ready() {
            return;
        }
        let now = Instant::now();
        let inventory = &self.loader.inventory;
        let items = self.loader.items.all();
        self.waits.retain(|id, _| self.loader.items.get(*id).is_some());
        let is_due = |item: &Arc<Item>| {
            let waits = self.waits.get(&item.id).is_some_and(|wait| now < wait.until);
            !item.is_open()
                && inventory.has(&item.keys)
                && !waits
                && self.items.values().all(|(running, _)| running.id != item.id)
        };
        let due = items
            .into_iter()
            .filter(is_due)
            .map(|item| (item.is_over(inventory.redis_ms(&item.keys, now)), item))
            .collect();
        let running = self.items.values().map(|(_, over)| *over);
        for (over, item) in in_turn(due, running, self.settings.parallel_max) {
            let (loader, loaded) = (self.loader.clone(), item.clone());
            let task = self.running.spawn(async move { loader.load(&loaded).await });
            self.items.insert(task.id(), (item, over));
        }
    }

    fn ended(&mut self, ended: Result<(Id, Result<Loaded, LoadError>), JoinError>) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some((item, _)) = self.items.remove(&id) else { return };
        let outcome = match ended {
            Ok((_, Ok(loaded))) => {
                self.succeeded(&item, loaded);
                label(loaded)
            }
            Ok((_, Err(error))) => {
                let cause = &error as &dyn std::error::Error;
                tracing::warn!(error = cause, item.id = %item.id, "an item was not loaded, will be tried again");
                self.pause(item.id);
                "failed"
            }
            Err(error) => {
                tracing::error!(%error, item.id = %item.id, "a load panicked");
                self.pause(item.id);
                "failed"
            }
        };
        metrics::counter!("stock_loads_total", "outcome" => outcome).increment(1);
    }

    fn succeeded(&mut self, item: &Item, loaded: Loaded) {
        self.waits.remove(&item.id);
        match loaded {
            Loaded::Opened | Loaded::AlreadyOpen => {}
            Loaded::Elsewhere => self.leave_alone(item.id, ELSEWHERE_PAUSE),
            Loaded::KeptClosed => self.leave_alone(item.id, KEPT_CLOSED_PAUSE),
            Loaded::Gone => self.loader.items.remove(item.id),
            Loaded::Over => self.loader.items.retire(item.id),
        }
    }

    fn leave_alone(&mut self, item: ItemId, pause: Duration) {
        self.waits.insert(item, Wait { until: Instant::now() + pause, longest: RETRY_FIRST });
    }

    /// Growing pauses with jitter, so that replicas and items do not come back in step.
    fn pause(&mut self, item: ItemId) {
        let longest_max = Duration::from_millis(self.settings.retry_max_ms);
        let wait = self.waits.entry(item).or_insert(Wait { until: Instant::now(), longest: RETRY_FIRST });
        wait.until = Instant::now() + wait.longest.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        wait.longest = (wait.longest * 2).min(longest_max);
    }
}

/// Which of the items that are due begin now, given whether each one's sale is over, the same of those that are `running`,
/// and how many loads there may be at a time. Those that somebody can buy come first.
fn in_turn<T>(
    mut due: Vec<(bool, T)>,
    running: impl Iterator<Item = bool>,
    parallel_max: usize,
) -> Vec<(bool, T)> {
    let (over, live): (Vec<bool>, Vec<bool>) = running.partition(|over| *over);
    let mut free = parallel_max.saturating_sub(over.len() + live.len());
    let mut free_if_over = (parallel_max / OVER_SHARE).max(1).saturating_sub(over.len());
    due.sort_by_key(|(over, _)| *over);
    due.retain(|(over, _)| {
        let begins = free > 0 && (!over || free_if_over > 0);
        if begins {
            free -= 1;
            free_if_over -= usize::from(*over);
        }
        begins
    });
    due
}

fn label(loaded: Loaded) -> &'static str {
    match loaded {
        Loaded::Opened => "opened",
        Loaded::AlreadyOpen => "already_open",
        Loaded::Elsewhere => "elsewhere",
        Loaded::Gone => "gone",
        Loaded::Over => "over",
        Loaded::KeptClosed => "kept_closed",
    }
}

#[cfg(test)]
mod tests {
    use super::in_turn;

    fn names(due: &[(bool, &'static str)], running: &[bool], parallel_max: usize) -> Vec<&'static str> {
        in_turn(due.to_vec(), running.iter().copied(), parallel_max)
            .into_iter()
            .map(|(_, name)| name)
            .collect()
    }

    #[test]
    fn what_can_be_bought_is_loaded_before_what_is_over() {
        let due = [(true, "old 1"), (false, "new 1"), (true, "old 2"), (false, "new 2")];
        assert_eq!(names(&due, &[], 3), ["new 1", "new 2", "old 1"]);
        assert_eq!(names(&due, &[], 8), ["new 1", "new 2", "old 1", "old 2"]);
    }

    #[test]
    fn loads_of_what_is_over_never_take_all_places() {
        let old = [(true, "a"), (true, "b"), (true, "c")];
        assert_eq!(names(&old, &[], 8), ["a", "b"]);
        assert_eq!(names(&old, &[true], 8), ["a"]);
        assert_eq!(names(&old, &[true, true], 8), [""; 0]);
        assert_eq!(names(&[(false, "new")], &[true, true], 8), ["new"]);
        assert_eq!(names(&old, &[], 1), ["a"], "one at a time is still loaded");
    }

    #[test]
    fn there_are_no_more_loads_at_a_time_than_is_said() {
        let due = [(false, "a"), (false, "b")];
        assert_eq!(names(&due, &[false, false, true], 4), ["a"]);
        assert_eq!(names(&due, &[false; 4], 4), [""; 0]);
    }
}
