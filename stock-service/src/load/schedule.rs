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
    /// The items of `running`.
    items: HashMap<Id, Arc<Item>>,
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
        if !self.loader.inventory.is_up() || !self.loader.announcer.is_ready() {
            return;
        }
        let now = Instant::now();
        let items = self.loader.items.all();
        self.waits.retain(|id, _| self.loader.items.get(*id).is_some());
        let mut closed: Vec<_> = items.into_iter().filter(|item| !item.is_open()).collect();
        // A load mostly waits, and only so many wait at a time. Nobody buys what has ended: it comes last.
        closed.sort_by_key(|item| item.figures().is_some_and(|figures| figures.state == "ended"));
        for item in closed {
            if self.running.len() >= self.settings.parallel_max {
                return;
            }
            let waits = self.waits.get(&item.id).is_some_and(|wait| now < wait.until);
            if waits || self.items.values().any(|running| running.id == item.id) {
                continue;
            }
            let (loader, loaded) = (self.loader.clone(), item.clone());
            let task = self.running.spawn(async move { loader.load(&loaded).await });
            self.items.insert(task.id(), item);
        }
    }

    fn ended(&mut self, ended: Result<(Id, Result<Loaded, LoadError>), JoinError>) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some(item) = self.items.remove(&id) else { return };
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
