//! The waiting room: a place in line instead of a refusal, for items whose sale has one.
//!
//! What people expect: to be told at once where they stand and how long it may take, that nobody gets in front of them,
//! and that being there early and once is as good as hammering; to be let go at once when nothing is left.
//! What the best do: Queue-it and Ticketmaster gather people before the opening and shuffle them, then first come first
//! served, at a pace that what is behind can take; Cloudflare's Waiting Room keeps no server state per visitor but a
//! signed cookie, and drops who does not come back. None of them lets anybody check the draw, and none looks at the
//! stock that is left; this one does both: see [`draw`], and `units` in `line/places.lua`.
//!
//! The line lives in Redis under `line:{item}…`, five keys in one slot that expire after the sale, written by three
//! scripts, so any gateway answers for all of them. Whoever asks moves the line: there is no process that has to be
//! alive for it. Requests of one item travel together, in order of arrival.
//!
//! When the keys are lost, people join again, and a new seed is drawn; no order is lost, because the line knows of none.
//! Purchase tokens stay good: they are checked by their signature ([`token`]) and used up in reserve.lua. When Redis is
//! away nobody joins or moves (503), and who has a token buys.

mod clock;
pub mod draw;
mod rounds;
mod scripts;
pub mod token;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use common::api::inventory::CatalogueItem;
use common::batcher::{BatchError, Batcher, BatcherSettings};
use common::ids::{ItemId, UserId};
use common::problem::{Code, Problem};
use common::shutdown::Tasks;
use parking_lot::RwLock;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::catalogue::Catalogue;
use crate::error::ApiError;
use crate::limits::bucket::Buckets;
use crate::settings::Settings;
use crate::store::{Store, StoreError};
use clock::LineClock;
use rounds::Shared;
use scripts::{Keys, Scripts};
use token::{Admission, PurchaseTokens};

/// Most requests of one item that wait; one more is answered `too_busy` at once.
const QUEUE_MAX: usize = 4096;
/// Most requests in one call of the script.
const BATCH_MAX: usize = 64;
/// Most tickets of the draw in one answer.
pub const TICKETS_MAX: usize = 2_000;
/// How long it may take to tell the line that an admission was used; if it does not hear, the admission runs out.
const USED_WITHIN: Duration = Duration::from_secs(2);
/// How often full buckets are forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(5);

/// Where somebody stands in a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stand {
    /// Nowhere: has not joined, or has bought since.
    NoPlace,
    /// Is in, but places are not drawn yet.
    Undrawn {
        /// How many have gathered for the draw.
        gathered: u64,
    },
    /// Waits.
    Waits {
        /// 1: next.
        position: u64,
        /// People let in per second of late; `None`: not known yet.
        rate: Option<f64>,
    },
    /// May buy.
    Admitted(Admission),
    /// Was admitted and did not buy in time.
    RanOut,
    /// The line takes no more people.
    Full,
}

/// A line, as everybody may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrawState {
    /// When the line was opened.
    pub opened_at: DateTime<Utc>,
    /// When it is closed for the draw: the opening of the sale.
    pub draws_at: DateTime<Utc>,
    /// Hash of the seed.
    pub commitment: String,
    /// After the draw: the seed, the hash of the list, and how many took part.
    pub drawn: Option<Drawn>,
}

/// What is known after a draw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn {
    /// The seed, in hexadecimal.
    pub seed: String,
    /// Hash of the sorted tickets.
    pub list_hash: String,
    /// How many took part.
    pub participants: u64,
}

/// Why there is no answer. Nothing that was not there before stands in the line, or it does and the next question shows.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// No Redis is set up, or it does not answer.
    #[error("the line cannot be asked")]
    Store(#[source] StoreError),
    /// The gateway has no Redis.
    #[error("a waiting room needs redis.url")]
    NoStore,
    /// Too much is waiting already.
    #[error("too many ask for this line")]
    TooBusy,
    /// No answer before the deadline.
    #[error("no answer in time")]
    Late,
}

type Answer = Result<Stand, Arc<LineError>>;
type Queue = Batcher<(Ask, String), Answer>;

#[derive(Debug, Clone, Copy)]
enum Ask {
    Look,
    Join,
    Used { admitted_ms: i64 },
}

/// The lines of all items. Cheap to clone.
#[derive(Clone)]
pub struct Lines {
    shared: Arc<Shared>,
    queues: Arc<RwLock<HashMap<ItemId, Queue>>>,
    tasks: Tasks,
}

impl Lines {
    /// Nothing is asked yet.
    pub fn new(settings: &Settings, store: Option<Store>, catalogue: Arc<Catalogue>, tasks: &Tasks) -> Self {
        let line = settings.line.clone();
        let (secret, previous) = settings.door_secrets();
        let tokens = PurchaseTokens::new(secret, previous);
        let unplaced = Buckets::new(line.unplaced);
        let shared = Shared {
            store,
            scripts: Scripts::new(),
            settings: line,
            catalogue,
            tokens,
            clock: LineClock::new(),
            opened: RwLock::default(),
            unplaced,
        };
        Self { shared: Arc::new(shared), queues: Arc::default(), tasks: tasks.clone() }
    }

    /// Where `user` stands; with `join` after joining, unless in already.
    ///
    /// # Errors
    /// See [`LineError`].
    pub async fn ask(&self, item: ItemId, user: &UserId, join: bool, deadline: Instant) -> Answer {
        let ask = if join { Ask::Join } else { Ask::Look };
        let asked = self.queue(item).submit((ask, draw::ticket(item, user)), deadline).await;
        asked.unwrap_or_else(|error| Err(Arc::new(error.into())))
    }

    /// An order was accepted with this admission: the place is free for the next. Not waited for.
    pub fn used(&self, item: ItemId, user: &UserId, admitted_ms: i64) {
        let (queue, ticket) = (self.queue(item), draw::ticket(item, user));
        self.tasks.spawn_finite("line-used", async move {
            let deadline = Instant::now() + USED_WITHIN;
            if let Err(error) = queue.submit((Ask::Used { admitted_ms }, ticket), deadline).await {
                tracing::debug!(%error, "the line was not told of an order; the admission will run out");
            }
            Ok(())
        });
    }

    /// The purchase token of an admission.
    pub fn token(&self, admission: Admission, user: &UserId, item: ItemId) -> String {
        self.shared.tokens.write(admission, user, item)
    }

    /// When the bearer of `token` was admitted; `None`: it does not count, or not any more.
    pub fn admitted_ms(&self, token: Option<&str>, user: &UserId, item: ItemId) -> Option<i64> {
        let admission = self.shared.tokens.read(token?, user, item)?;
        (self.shared.clock.now_ms() < admission.expires_ms).then_some(admission.admitted_ms)
    }

    /// Whether `user` may ask once more without an admission. A retry of an accepted order may come without one, so it
    /// is asked for, but not as often as a program likes.
    ///
    /// # Errors
    /// `rate_limited`, with the time until it may.
    pub fn check_unplaced(&self, user: &UserId) -> Result<(), ApiError> {
        match self.shared.unplaced.take_watched(user) {
            Ok(_) => Ok(()),
            Err(wait) => Err(Problem::new(Code::RateLimited).retry_after_s(wait.as_secs() + 1).into()),
        }
    }

    /// Forgets full buckets from time to time, until `stop`.
    ///
    /// # Errors
    /// Never.
    pub async fn forget(self, stop: CancellationToken) -> anyhow::Result<()> {
        while stop.run_until_cancelled(tokio::time::sleep(FORGET_INTERVAL)).await.is_some() {
            self.shared.unplaced.forget_full();
        }
        Ok(())
    }

    /// What is published of the line's draw; opens the line if nobody has.
    ///
    /// # Errors
    /// See [`LineError`].
    pub async fn draw(&self, item: &CatalogueItem) -> Result<DrawState, LineError> {
        let store = self.shared.store()?;
        // Not from memory: another gateway may have closed the draw.
        let opened = self.shared.open(store, item).await.map_err(LineError::Store)?;
        let moment = |ms| DateTime::from_timestamp_millis(ms).unwrap_or_default();
        let drawn = (!opened.list_hash.is_empty()).then(|| Drawn {
            seed: opened.seed.clone(),
            list_hash: opened.list_hash.clone(),
            participants: u64::try_from(opened.drawn).unwrap_or(0),
        });
        Ok(DrawState {
            opened_at: moment(opened.opened_ms),
            draws_at: moment(opened.starts_ms),
            commitment: opened.commitment.clone(),
            drawn,
        })
    }

    /// The tickets of a draw that is done, in the order that was drawn, [`TICKETS_MAX`] from place `from` on.
    ///
    /// # Errors
    /// See [`LineError`].
    pub async fn tickets(&self, item: ItemId, from: usize) -> Result<Vec<String>, LineError> {
        let (store, keys) = (self.shared.store()?, Keys::of(item));
        self.shared.scripts.tickets(store, &keys, from, TICKETS_MAX).await.map_err(LineError::Store)
    }

    fn queue(&self, item: ItemId) -> Queue {
        if let Some(queue) = self.queues.read().get(&item) {
            return queue.clone();
        }
        let mut queues = self.queues.write();
        // Lines of items that are gone go, too.
        let known = self.shared.catalogue.snapshot();
        let is_known = |id: &ItemId| known.as_ref().is_none_or(|known| known.item(*id).is_some());
        queues.retain(|id, _| is_known(id));
        self.shared.opened.write().retain(|id, _| is_known(id));
        queues.entry(item).or_insert_with(|| self.start(item)).clone()
    }

    fn start(&self, item: ItemId) -> Queue {
        let settings = BatcherSettings {
            name: "line",
            queue_max: QUEUE_MAX,
            batch_max: BATCH_MAX,
            flights_max: 1, // Who comes first is first.
            min_interval: Duration::ZERO,
        };
        let shared = self.shared.clone();
        Batcher::start(settings, &self.tasks, move |batch| {
            let shared = shared.clone();
            async move { shared.flush(item, batch).await }
        })
    }
}

impl From<BatchError> for LineError {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::Overloaded => Self::TooBusy,
            BatchError::Expired | BatchError::Lost | BatchError::Stopped => Self::Late,
        }
    }
}
