//! Users who follow their event streams all the time: SIGTERM ends the streams, and whoever comes back misses nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use e2e::crowd::Buyer;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::client_log::{ClientLog, StreamEvent};
use crate::drill::Outcome;
use crate::drill::stage::Stage;
use crate::stores::Ledger;
use crate::workload::caller::Caller;
use crate::workload::stream;

/// How long whoever was cut off may take to hear the rest.
const HEARD_WITHIN: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Users with a stream each.
pub(super) struct Streams {
    log: ClientLog,
    users: Vec<String>,
    over: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Streams {
    pub(super) async fn start(stage: &Stage, users: &[Buyer]) -> anyhow::Result<Self> {
        let log = ClientLog::begin();
        let anybody = Caller::new(stage.world.services.gateway_urls(), log.clone())?;
        let (over, is_over) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for (n, user) in users.iter().enumerate() {
            let caller = anybody.login(n, &user.user, "customer").await?;
            tasks.spawn(stream::follow(caller, is_over.clone()));
        }
        Ok(Self { log, users: users.iter().map(|user| user.user.clone()).collect(), over, tasks })
    }

    /// In a system at rest: everybody has heard everything, in order and without a gap.
    pub(super) async fn end(mut self, stage: &Stage, outcome: &mut Outcome) -> anyhow::Result<()> {
        let names: Vec<String> = self.users.iter().map(|user| format!("'{user}'")).collect();
        let stored = format!("SELECT count(*) AS count FROM events WHERE user_id IN ({})", names.join(","));
        let mut notify = Ledger::new(stage.world.services.notify_database().url());
        let stored = u64::try_from(notify.count(&stored).await?)?;
        let deadline = Instant::now() + HEARD_WITHIN;
        while heard(&self.log.history().events) < stored && Instant::now() < deadline {
            sleep(POLL_INTERVAL).await;
        }
        self.over.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        let events = self.log.history().events;
        let heard = heard(&events);
        outcome.figure("streams", u64::try_from(self.users.len())?);
        outcome.figure("events_heard", heard);
        outcome.require(heard == stored, format_args!("{heard} of {stored} events were heard"));
        let gaps = gaps(&events);
        outcome.require(gaps == 0, format_args!("{gaps} gaps in event streams"));
        Ok(())
    }
}

fn heard(events: &[StreamEvent]) -> u64 {
    let heard: BTreeSet<(&str, i64)> = events.iter().map(|event| (event.user.as_str(), event.seq)).collect();
    heard.len() as u64
}

/// How often a connection went on elsewhere than right after what it had asked for, or heard.
fn gaps(events: &[StreamEvent]) -> usize {
    let mut last: BTreeMap<(&str, u32), i64> = BTreeMap::new();
    let mut jumps = 0;
    for event in events {
        let position = last.entry((&event.user, event.connection)).or_insert(event.after);
        jumps += usize::from(event.seq != *position + 1);
        *position = event.seq;
    }
    jumps
}
