//! What the clients saw: one line of JSON for each operation.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use common::api::OrderStatus;
use common::ids::{ItemId, OrderId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Function {
    /// An order is placed, or the same one again.
    Reserve,
    /// The order is read.
    Get,
    /// The order is cancelled.
    Cancel,
    /// A payment is started.
    Pay,
    /// The buyer decides at the provider's page.
    Checkout,
    /// A notice of the provider is delivered; see [`Op::forgery`].
    Callback,
    /// A stream of events is opened.
    Sse,
    /// An admin does something.
    Admin,
}

/// What an answer says about the attempt's effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done.
    Ok,
    /// This attempt had no effect, for sure.
    Fail,
    /// It may have had one.
    Info,
}

/// What is wrong with a notice that nobody may believe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forgery {
    /// Signed with another key.
    WrongKey,
    /// One byte was changed after signing.
    AlteredBody,
    /// Signed an hour ago.
    OldTimestamp,
    /// Genuine, but of another amount.
    WrongAmount,
    /// Genuine, but of another order.
    WrongOrder,
}

/// One operation of one client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Op {
    /// Its number, in the order in which operations ended.
    pub op: u64,
    /// Which client.
    #[serde(rename = "proc")]
    pub process: usize,
    /// What was asked.
    pub f: Function,
    /// On whose behalf.
    pub user: String,
    /// Of which item.
    pub item: Option<ItemId>,
    /// How many units.
    pub qty: u32,
    /// The Idempotency-Key.
    pub key: Option<String>,
    /// When it was sent, in nanoseconds since the log began.
    pub t0: u64,
    /// When the answer had come, or was given up.
    pub t1: u64,
    /// The status; `None`: no answer came.
    pub http: Option<u16>,
    /// The problem's code.
    pub code: Option<String>,
    /// Headers that matter: retry-after, x-outcome, content-type.
    pub hdr: BTreeMap<String, String>,
    /// The order: of reservations, the one that the key stands for, whatever the answer.
    pub rid: Option<OrderId>,
    /// The order that the answer names.
    pub answered: Option<OrderId>,
    /// The order's state in the answer.
    pub state: Option<OrderStatus>,
    /// The order's version in the answer.
    pub version: Option<i64>,
    /// What is wrong with the notice; `None`: it is genuine.
    pub forgery: Option<Forgery>,
    /// The answer's meaning.
    #[serde(rename = "type")]
    pub kind: Outcome,
    /// What was done, in words, where `f` does not say it.
    pub note: Option<String>,
}

/// One event on a user's stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StreamEvent {
    /// Whose stream.
    pub user: String,
    /// Which connection of this user, from 0.
    pub connection: u32,
    /// After which number the connection asked to go on.
    pub after: i64,
    /// When it came, in nanoseconds since the log began.
    pub at: u64,
    /// The event's number.
    pub seq: i64,
    /// The order.
    pub rid: OrderId,
    /// Its state.
    pub state: OrderStatus,
    /// Its version.
    pub version: i64,
}

/// Everything the clients saw.
#[derive(Debug, Clone)]
pub struct History {
    /// The wall clock when the log began.
    pub began: DateTime<Utc>,
    /// In the order in which they ended.
    pub ops: Vec<Op>,
    /// In the order in which they came, for each user.
    pub events: Vec<StreamEvent>,
}

impl History {
    /// The wall clock at a moment of the log.
    pub fn wall(&self, at_ns: u64) -> DateTime<Utc> {
        self.began + chrono::Duration::nanoseconds(i64::try_from(at_ns).unwrap_or(i64::MAX))
    }

    /// Reservations, in the order in which they ended.
    pub fn reserves(&self) -> impl Iterator<Item = &Op> {
        self.ops.iter().filter(|op| op.f == Function::Reserve)
    }
}

/// The log while it is being written.
#[derive(Debug, Clone)]
pub struct ClientLog {
    began: Instant,
    began_wall: DateTime<Utc>,
    written: Arc<Mutex<(Vec<Op>, Vec<StreamEvent>)>>,
}

impl ClientLog {
    /// An empty log that begins now.
    pub fn begin() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "compared with the stores' clocks, which are this machine's"
        )]
        let began_wall = Utc::now();
        Self { began: Instant::now(), began_wall, written: Arc::default() }
    }

    /// Nanoseconds since the log began.
    pub fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Adds an operation that has just ended.
    pub fn write(&self, mut op: Op) {
        let mut written = self.written.lock();
        op.op = u64::try_from(written.0.len()).unwrap_or(u64::MAX);
        written.0.push(op);
    }

    /// Begins an operation, which is added when what is returned goes away: also if whoever waits for it is stopped,
    /// because what was sent may have an effect all the same.
    pub fn begin_op(&self, op: Op) -> PendingOp {
        PendingOp { op, log: self.clone() }
    }

    /// Adds an event that has just come.
    pub fn write_event(&self, event: StreamEvent) {
        self.written.lock().1.push(event);
    }

    /// What has been written so far.
    pub fn history(&self) -> History {
        let (ops, events) = self.written.lock().clone();
        History { began: self.began_wall, ops, events }
    }
}

/// An operation that is not over.
#[derive(Debug)]
pub struct PendingOp {
    /// What is known of it so far.
    pub op: Op,
    log: ClientLog,
}

impl Drop for PendingOp {
    fn drop(&mut self) {
        self.op.t1 = self.log.now();
        self.log.write(self.op.clone());
    }
}

/// Writes values as lines of JSON.
///
/// # Errors
/// The file cannot be written.
pub fn write_lines<T: Serialize>(path: &Path, values: &[T]) -> anyhow::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for value in values {
        serde_json::to_writer(&mut file, value)?;
        file.write_all(b"\n")?;
    }
    file.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_operation_whose_client_is_stopped_is_written_down_all_the_same() {
        let log = ClientLog::begin();
        let op = Op {
            op: 0,
            process: 0,
            f: Function::Reserve,
            user: "ann".to_owned(),
            item: None,
            qty: 1,
            key: None,
            t0: 0,
            t1: 0,
            http: None,
            code: None,
            hdr: BTreeMap::new(),
            rid: None,
            answered: None,
            state: None,
            version: None,
            forgery: None,
            kind: Outcome::Info,
            note: None,
        };
        let pending = log.begin_op(op);
        let client = tokio::spawn(async move {
            let _pending = pending;
            std::future::pending::<()>().await;
        });
        client.abort();
        client.await.unwrap_err();
        assert_eq!(log.history().ops.len(), 1);
    }
}
