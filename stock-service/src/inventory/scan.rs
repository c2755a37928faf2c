//! Reading a key of any size page by page. Every page is a command of its own, so that Redis serves others in between.

use redis::Value;
use tokio::time::Instant;

use super::reply::Reply;
use super::{Inventory, Lane, StoreError};
use crate::rest::rested;

/// Entries that one page of a whole scan asks for: a fraction of a millisecond of Redis' time.
const PAGE_ENTRIES: usize = 500;

/// The kind of key that is scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scan {
    /// Pairs are field and value.
    Hash,
    /// Pairs are member and score.
    SortedSet,
}

/// How the pages of a scan follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// At once: somebody waits for the result.
    Brisk,
    /// With a rest after each ([`crate::rest`]) for some time: nobody does, and others buy meanwhile.
    Rested {
        /// From then on at once.
        until: Instant,
    },
}

impl Scan {
    fn command(self) -> &'static str {
        match self {
            Self::Hash => "HSCAN",
            Self::SortedSet => "ZSCAN",
        }
    }
}

impl Inventory {
    /// About `most` pairs from `cursor` on, and the cursor to go on with: 0 at the end. In no order.
    pub(super) async fn page(
        &self,
        scan: Scan,
        key: &str,
        cursor: u64,
        most: usize,
    ) -> Result<(u64, Reply), StoreError> {
        let mut command = redis::cmd(scan.command());
        command.arg(key).arg(cursor).arg("COUNT").arg(most);
        let value: Value = self.shared.connection.call(Lane::Bulk, key, &command).await?;
        let mut reply = Reply::of(value, scan.command())?;
        let cursor = reply.parsed(|text| text.parse())?;
        Ok((cursor, reply.array()?))
    }

    /// Every pair of a key, each taken by `take`, which must take both elements. What is there from the beginning to
    /// the end is among them, what comes or goes meanwhile may be; any may come twice. All this only as long as the
    /// key is not replaced by another: the caller has to find out.
    pub(super) async fn scan(
        &self,
        scan: Scan,
        pace: Pace,
        key: &str,
        mut take: impl FnMut(&mut Reply) -> Result<(), StoreError> + Send,
    ) -> Result<(), StoreError> {
        let mut cursor = 0;
        loop {
            let page = async {
                let (next, mut pairs) = self.page(scan, key, cursor, PAGE_ENTRIES).await?;
                while !pairs.is_empty() {
                    take(&mut pairs)?;
                }
                Ok::<u64, StoreError>(next)
            };
            let next = match pace {
                Pace::Rested { until } if Instant::now() < until => rested(page).await?,
                Pace::Brisk | Pace::Rested { .. } => page.await?,
            };
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }
}
