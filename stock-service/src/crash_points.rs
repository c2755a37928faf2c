//! The places at which a build for fault campaigns can be made to crash, to stand still or to fail: one before and one
//! after each step that leaves this process. See [`common::failpoint`]; without its feature this list costs nothing.
//!
//! What an armed `error` does is what a real failure of the step would do: before it, nothing was done; after it, nobody
//! knows.

use common::failpoint::{Injected, reach};

/// A step, with the names of its two points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Nothing has left the process yet.
    pub before: &'static str,
    /// It is done, and nothing follows from it yet.
    pub after: &'static str,
}

impl Step {
    /// Passes the point before the step.
    ///
    /// # Errors
    /// As if the step had not been begun.
    pub async fn begins(self) -> Result<(), Injected> {
        reach(self.before).await
    }

    /// Passes the point after the step.
    ///
    /// # Errors
    /// As if nobody knew whether the step was done.
    pub async fn ended(self) -> Result<(), Injected> {
        reach(self.after).await
    }
}

/// A sign of life from Redis, which also makes the connection anew.
pub const CONNECT: Step = Step { before: "stock.connect.before", after: "stock.connect.after" };
/// The script that decides about a batch of buyers.
pub const SCRIPT: Step = Step { before: "stock.script.before", after: "stock.script.after" };
/// Handing the grants of a batch to the broker; after it, the confirm is still to come.
pub const PUBLISH: Step = Step { before: "stock.publish.before", after: "stock.publish.after" };
/// The broker's confirm: before it is taken note of, and after.
pub const CONFIRM: Step = Step { before: "stock.confirm.before", after: "stock.confirm.after" };
/// Answering the buyers of a batch.
pub const REPLY: Step = Step { before: "stock.reply.before", after: "stock.reply.after" };
/// The script by which the books follow orders, and ids leave `unsettled`.
pub const SETTLE: Step = Step { before: "stock.settle.before", after: "stock.settle.after" };
/// The script by which units go off offer before a total is lowered.
pub const WITHDRAW: Step = Step { before: "stock.withdraw.before", after: "stock.withdraw.after" };

/// The relay reads what is unsettled for long.
pub const RELAY_SELECT: Step = Step { before: "relay.select.before", after: "relay.select.after" };
/// The relay hands it to the broker once more.
pub const RELAY_PUBLISH: Step = Step { before: "relay.publish.before", after: "relay.publish.after" };
/// The broker's confirm for the relay.
pub const RELAY_CONFIRM: Step = Step { before: "relay.confirm.before", after: "relay.confirm.after" };
/// The relay notes that it has published, and when to do so again.
pub const RELAY_MARK: Step = Step { before: "relay.mark.before", after: "relay.mark.after" };

/// A loader asks for an epoch.
pub const REBUILD_CLAIM: Step = Step { before: "rebuild.claim.before", after: "rebuild.claim.after" };
/// It announces what survived in `unsettled`.
pub const REBUILD_REPUBLISH: Step =
    Step { before: "rebuild.republish.before", after: "rebuild.republish.after" };
/// It sends the fence.
pub const REBUILD_FENCE: Step = Step { before: "rebuild.fence.before", after: "rebuild.fence.after" };
/// It reads the source of truth.
pub const REBUILD_READ: Step = Step { before: "rebuild.read.before", after: "rebuild.read.after" };
/// It stages a chunk of orders.
pub const REBUILD_STAGE: Step = Step { before: "rebuild.stage.before", after: "rebuild.stage.after" };
/// One script puts the staged keys in place and opens the gate in Redis.
pub const REBUILD_RENAME: Step = Step { before: "rebuild.rename.before", after: "rebuild.rename.after" };
/// This process takes note of the open gate, and sells.
pub const REBUILD_GATE: Step = Step { before: "rebuild.gate.before", after: "rebuild.gate.after" };

/// Every point.
pub const ALL: [&str; 36] = [
    CONNECT.before,
    CONNECT.after,
    SCRIPT.before,
    SCRIPT.after,
    PUBLISH.before,
    PUBLISH.after,
    CONFIRM.before,
    CONFIRM.after,
    REPLY.before,
    REPLY.after,
    SETTLE.before,
    SETTLE.after,
    WITHDRAW.before,
    WITHDRAW.after,
    RELAY_SELECT.before,
    RELAY_SELECT.after,
    RELAY_PUBLISH.before,
    RELAY_PUBLISH.after,
    RELAY_CONFIRM.before,
    RELAY_CONFIRM.after,
    RELAY_MARK.before,
    RELAY_MARK.after,
    REBUILD_CLAIM.before,
    REBUILD_CLAIM.after,
    REBUILD_REPUBLISH.before,
    REBUILD_REPUBLISH.after,
    REBUILD_FENCE.before,
    REBUILD_FENCE.after,
    REBUILD_READ.before,
    REBUILD_READ.after,
    REBUILD_STAGE.before,
    REBUILD_STAGE.after,
    REBUILD_RENAME.before,
    REBUILD_RENAME.after,
    REBUILD_GATE.before,
    REBUILD_GATE.after,
];
