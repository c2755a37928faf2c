//! The Lua scripts, as they are sent.

use common::failpoint;
use redis::Cmd;

use crate::planted;

/// The version of the scripts' arguments; the first argument of each.
pub const SCHEMA: &str = "1";

const GATE: &str = include_str!("../../lua/include/gate.lua");
const HOLD: &str = include_str!("../../lua/include/hold.lua");

/// One script.
#[derive(Debug)]
pub(super) struct Script {
    /// Its file name without the ending, for logs and metrics.
    pub(super) name: &'static str,
    text: Text,
    /// With a planted mistake each; none without the feature `failpoints`.
    mistaken: Vec<(&'static str, Text)>,
}

/// The text of a script.
#[derive(Debug)]
pub(super) struct Text {
    /// What is sent to Redis.
    pub(super) source: String,
    /// What it is called by.
    sha: String,
}

impl Script {
    fn new(name: &'static str, source: &str) -> Self {
        let source = source.replace("--@include gate", GATE).replace("--@include hold", HOLD);
        let mistaken = if cfg!(feature = "failpoints") { mistaken(&source) } else { Vec::new() };
        Self { name, text: Text::of(source), mistaken }
    }

    /// What it says: what it should, unless a mistake is planted.
    pub(super) fn text(&self) -> &Text {
        let planted = self.mistaken.iter().find(|(mistake, _)| failpoint::planted(mistake));
        planted.map_or(&self.text, |(_, text)| text)
    }
}

fn mistaken(source: &str) -> Vec<(&'static str, Text)> {
    let found = planted::IN_SCRIPTS.iter().filter(|mistake| source.contains(mistake.right));
    found.map(|mistake| (mistake.name, Text::of(source.replace(mistake.right, mistake.wrong)))).collect()
}

impl Text {
    fn of(source: String) -> Self {
        let sha = redis::Script::new(&source).get_hash().to_owned();
        Self { source, sha }
    }

    /// The call, still without arguments.
    pub(super) fn call(&self, keys: &[&str]) -> Cmd {
        let mut call = redis::cmd("EVALSHA");
        call.arg(&self.sha).arg(keys.len()).arg(keys).arg(SCHEMA);
        call
    }
}

/// Every script.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) reserve: Script,
    pub(super) apply_order: Script,
    pub(super) load_begin: Script,
    pub(super) load_stage: Script,
    pub(super) load_merge: Script,
    pub(super) load_commit: Script,
    pub(super) update: Script,
    pub(super) retire: Script,
    pub(super) look: Script,
    pub(super) pending: Script,
    pub(super) late: Script,
    pub(super) books: Script,
    pub(super) find: Script,
    pub(super) close: Script,
    pub(super) keep_closed: Script,
    pub(super) withdraw: Script,
    pub(super) reclaim: Script,
    pub(super) lock_take: Script,
    pub(super) lock_release: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            reserve: Script::new("reserve", include_str!("../../lua/reserve.lua")),
            apply_order: Script::new("apply_order", include_str!("../../lua/apply_order.lua")),
            load_begin: Script::new("load_begin", include_str!("../../lua/load_begin.lua")),
            load_stage: Script::new("load_stage", include_str!("../../lua/load_stage.lua")),
            load_merge: Script::new("load_merge", include_str!("../../lua/load_merge.lua")),
            load_commit: Script::new("load_commit", include_str!("../../lua/load_commit.lua")),
            update: Script::new("update", include_str!("../../lua/update.lua")),
            retire: Script::new("retire", include_str!("../../lua/retire.lua")),
            look: Script::new("look", include_str!("../../lua/look.lua")),
            pending: Script::new("pending", include_str!("../../lua/pending.lua")),
            late: Script::new("late", include_str!("../../lua/late.lua")),
            books: Script::new("books", include_str!("../../lua/books.lua")),
            find: Script::new("find", include_str!("../../lua/find.lua")),
            close: Script::new("close", include_str!("../../lua/close.lua")),
            keep_closed: Script::new("keep_closed", include_str!("../../lua/keep_closed.lua")),
            withdraw: Script::new("withdraw", include_str!("../../lua/withdraw.lua")),
            reclaim: Script::new("reclaim", include_str!("../../lua/reclaim.lua")),
            lock_take: Script::new("lock_take", include_str!("../../lua/lock_take.lua")),
            lock_release: Script::new("lock_release", include_str!("../../lua/lock_release.lua")),
        }
    }

    pub(super) fn all(&self) -> [&Script; 19] {
        [
            &self.reserve,
            &self.apply_order,
            &self.load_begin,
            &self.load_stage,
            &self.load_merge,
            &self.load_commit,
            &self.update,
            &self.retire,
            &self.look,
            &self.pending,
            &self.late,
            &self.books,
            &self.find,
            &self.close,
            &self.keep_closed,
            &self.withdraw,
            &self.reclaim,
            &self.lock_take,
            &self.lock_release,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_that_can_be_planted_in_a_script_changes_one() {
        let scripts = Scripts::new();
        for mistake in planted::IN_SCRIPTS {
            let changed =
                scripts.all().into_iter().filter(|script| script.text.source.contains(mistake.right));
            assert!(changed.count() > 0, "{} is in no script", mistake.name);
            assert!(planted::ALL.contains(&mistake.name), "{} is not listed", mistake.name);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_script_with_a_planted_mistake_is_still_a_script() {
        let redis = testkit::Redis::start().await;
        let client = redis::Client::open(redis.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        for script in Scripts::new().all() {
            for (mistake, text) in mistaken(&script.text.source) {
                let loaded =
                    redis::cmd("SCRIPT").arg("LOAD").arg(&text.source).exec_async(&mut connection).await;
                assert!(loaded.is_ok(), "{mistake} in {}: {loaded:?}", script.name);
            }
        }
    }
}
