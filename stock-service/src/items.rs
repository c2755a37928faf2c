//! The items that this process knows, and whether their gates are open.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use common::api::filter::IdFilter;
use common::ids::{ItemId, OrderId};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::check::HEALS_MAX;
use crate::inventory::{Figures, Look};
use crate::keys::ItemKeys;

/// The items. Cheap to clone.
#[derive(Clone)]
pub struct Items {
    shared: Arc<Shared>,
}

struct Shared {
    known: RwLock<HashMap<ItemId, Arc<Item>>>,
    /// Items whose keys were removed: not to be loaded again, whoever still lists them.
    retired: Mutex<HashSet<ItemId>>,
    /// Whether order-service's list was read once: from then on an unknown item does not exist.
    complete: AtomicBool,
    closed: Notify,
    most: usize,
}

/// One item.
pub struct Item {
    /// Its id.
    pub id: ItemId,
    /// Its keys in Redis.
    pub keys: ItemKeys,
    open: AtomicBool,
    epoch: AtomicI64,
    alarms: AtomicI64,
    /// When its sale ends by order-service's list, in ms; the greatest number: not known.
    ends_ms: AtomicI64,
    last: Mutex<Last>,
    /// One at a time builds the filter.
    filter_turn: Arc<Semaphore>,
}

/// What was last read of an item.
#[derive(Default)]
struct Last {
    figures: Option<Figures>,
    filter: Option<KnownFilter>,
}

struct KnownFilter {
    epoch: i64,
    ids: usize,
    filter: IdFilter,
}

impl Item {
    /// Whether the gate was open when it was last looked at.
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// The newest epoch that is known; a gate with an older one counts as closed.
    pub fn epoch(&self) -> i64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// An epoch was heard of; it only ever rises.
    pub fn raise_epoch(&self, epoch: i64) {
        self.epoch.fetch_max(epoch, Ordering::AcqRel);
    }

    /// The gate is open, with this epoch.
    pub fn opened(&self, epoch: i64) {
        self.raise_epoch(epoch);
        self.open.store(true, Ordering::Release);
    }

    /// Whether its books were wrong so often that no load may open the gate, see [`crate::check`].
    pub fn is_kept_closed(&self) -> bool {
        self.alarms.load(Ordering::Relaxed) > HEALS_MAX
    }

    /// order-service says when its sale ends, in ms.
    pub fn ends(&self, ends_ms: i64) {
        self.ends_ms.store(ends_ms, Ordering::Relaxed);
    }

    /// Whether nobody can buy it any more, as far as is known: then there is no hurry to load it.
    pub fn is_over(&self, now_ms: i64) -> bool {
        let ended_here = |figures: &Figures| figures.state == "ended" || figures.ends_ms <= now_ms;
        self.ends_ms.load(Ordering::Relaxed) <= now_ms
            || self.last.lock().figures.as_ref().is_some_and(ended_here)
    }

    /// The last figures; of a closed item, those from before.
    pub fn figures(&self) -> Option<Figures> {
        self.last.lock().figures.clone()
    }

    /// Takes a look into account; says whether the gate is open.
    pub fn looked(&self, look: &Look) -> bool {
        let open = match &look.figures {
            Some(figures) if look.shut.is_none() => {
                let newest = figures.epoch >= self.epoch();
                self.raise_epoch(figures.epoch);
                newest
            }
            _ => false,
        };
        self.alarms.store(look.alarms, Ordering::Relaxed);
        if let Some(figures) = &look.figures {
            self.last.lock().figures = Some(figures.clone());
        }
        self.open.store(open, Ordering::Release);
        open
    }

    /// The filter of all its orders, if the one that is known has as many ids and is of this epoch. Ids are never
    /// removed within an epoch, so as many are the same ones.
    pub fn filter(&self, epoch: i64, ids: usize) -> Option<IdFilter> {
        let last = self.last.lock();
        last.filter
            .as_ref()
            .filter(|known| known.epoch == epoch && known.ids == ids)
            .map(|known| known.filter.clone())
    }

    /// The turn to build the filter aside, until it is dropped; `None`: somebody is at it.
    pub fn begin_filter(&self) -> Option<OwnedSemaphorePermit> {
        self.filter_turn.clone().try_acquire_owned().ok()
    }

    /// Keeps the filter of these ids, read in this epoch.
    pub fn keep_filter(&self, epoch: i64, ids: &[OrderId]) -> IdFilter {
        let filter = IdFilter::of(ids);
        self.last.lock().filter = Some(KnownFilter { epoch, ids: ids.len(), filter: filter.clone() });
        filter
    }
}

impl Items {
    /// None yet, and never more than `most`.
    pub fn new(most: usize) -> Self {
        let shared = Shared {
            known: RwLock::default(),
            retired: Mutex::default(),
            complete: AtomicBool::new(false),
            closed: Notify::new(),
            most,
        };
        Self { shared: Arc::new(shared) }
    }

    /// One item, if it is known.
    pub fn get(&self, id: ItemId) -> Option<Arc<Item>> {
        self.shared.known.read().get(&id).cloned()
    }

    /// All items, in no order.
    pub fn all(&self) -> Vec<Arc<Item>> {
        self.shared.known.read().values().cloned().collect()
    }

    /// The items that an order may belong to, by the tag in its id: nearly always one.
    pub fn of_order(&self, order: OrderId) -> Vec<Arc<Item>> {
        let known = self.shared.known.read();
        known.values().filter(|item| item.id.tag() == order.item_tag()).cloned().collect()
    }

    /// Makes an item known, closed until it is looked at; `None` if it was retired or there are too many.
    pub fn add(&self, id: ItemId) -> Option<Arc<Item>> {
        if let Some(item) = self.get(id) {
            return Some(item);
        }
        if self.shared.retired.lock().contains(&id) {
            return None;
        }
        let mut known = self.shared.known.write();
        if known.len() >= self.shared.most {
            tracing::error!(item.id = %id, most = self.shared.most, "catalogue.items_max reached, item ignored");
            return None;
        }
        let item = known.entry(id).or_insert_with(|| {
            Arc::new(Item {
                id,
                keys: ItemKeys::of(id),
                open: AtomicBool::new(false),
                epoch: AtomicI64::new(0),
                alarms: AtomicI64::new(0),
                ends_ms: AtomicI64::new(i64::MAX),
                last: Mutex::default(),
                filter_turn: Arc::new(Semaphore::new(1)),
            })
        });
        Some(item.clone())
    }

    /// The item's keys are gone for good.
    pub fn retire(&self, id: ItemId) {
        self.shared.retired.lock().insert(id);
        self.remove(id);
    }

    /// The item is not to be looked at any more.
    pub fn remove(&self, id: ItemId) {
        self.shared.known.write().remove(&id);
    }

    /// Forgets which retired items are not in `listed` any more: nobody asks to load them.
    pub fn forget_retired(&self, listed: &HashSet<ItemId>) {
        self.shared.retired.lock().retain(|id| listed.contains(id));
    }

    /// Every item that exists is known from now on.
    pub fn completed(&self) {
        self.shared.complete.store(true, Ordering::Release);
    }

    /// Whether an item that is not known does not exist.
    pub fn is_complete(&self) -> bool {
        self.shared.complete.load(Ordering::Acquire)
    }

    /// A gate was found closed: whoever loads items shall look at once.
    pub fn report_closed(&self, item: &Item) {
        item.open.store(false, Ordering::Release);
        self.shared.closed.notify_one();
    }

    /// Waits for [`Items::report_closed`]; cancel-safe.
    pub async fn closed(&self) {
        self.shared.closed.notified().await;
    }
}
