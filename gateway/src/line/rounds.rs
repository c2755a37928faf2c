//! One call for many: whoever asks for a line at the same time, in order of arrival.

use std::collections::HashMap;
use std::sync::Arc;

use common::api::ItemState;
use common::api::inventory::CatalogueItem;
use common::batcher::Pending;
use common::ids::{ItemId, UserId};
use parking_lot::RwLock;
use rand::Rng as _;
use tokio::time::Instant;

use super::clock::LineClock;
use super::scripts::{Answered, Fresh, Keys, Opened, Round, Scripts, Standing, What};
use super::token::{Admission, PurchaseTokens};
use super::{Answer, Ask, LineError, Stand, draw};
use crate::catalogue::Catalogue;
use crate::limits::bucket::Buckets;
use crate::settings::LineSettings;
use crate::store::{Store, StoreError};

/// What all lines have in common.
pub(super) struct Shared {
    pub(super) store: Option<Store>,
    pub(super) scripts: Scripts,
    pub(super) settings: LineSettings,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) tokens: PurchaseTokens,
    pub(super) clock: LineClock,
    pub(super) opened: RwLock<HashMap<ItemId, Arc<Opened>>>,
    pub(super) unplaced: Buckets<UserId>,
}

impl Shared {
    pub(super) fn store(&self) -> Result<&Store, LineError> {
        self.store.as_ref().ok_or(LineError::NoStore)
    }

    /// One call for whoever waits.
    pub(super) async fn flush(&self, item: ItemId, batch: Vec<Pending<(Ask, String), Answer>>) {
        let (asks, callers): (Vec<_>, Vec<_>) = batch.into_iter().map(Pending::split).unzip();
        match self.round(item, &asks).await {
            Ok(stands) => {
                callers.into_iter().zip(stands).for_each(|(caller, stand)| caller.answer(Ok(stand)))
            }
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, %item, "a line was not asked");
                let error = Arc::new(error);
                callers.into_iter().for_each(|caller| caller.answer(Err(error.clone())));
            }
        }
    }

    async fn round(&self, id: ItemId, asks: &[(Ask, String)]) -> Result<Vec<Stand>, LineError> {
        let store = self.store()?;
        let snapshot = self.catalogue.snapshot();
        let Some(item) = snapshot.as_ref().and_then(|snapshot| snapshot.item(id)) else {
            return Ok(asks.iter().map(|_| Stand::NoPlace).collect());
        };
        let known = self.opened.read().get(&id).cloned();
        let mut opened = match known {
            Some(opened) => opened,
            None => self.open(store, item).await.map_err(LineError::Store)?,
        };
        let mut answered = self.call(store, item, &opened, asks).await?;
        if answered.is_none() {
            // The keys were lost. The line begins anew; who asks for a place that is gone is told so.
            opened = self.open(store, item).await.map_err(LineError::Store)?;
            answered = self.call(store, item, &opened, asks).await?;
        }
        let answered = answered.ok_or(LineError::Store(StoreError::Garbled("line: lost again")))?;
        if answered.undrawn {
            self.close_draw(store, id, &opened).await.map_err(LineError::Store)?;
        }
        Ok(answered.standings.iter().map(|standing| stand(*standing, &answered)).collect())
    }

    async fn call(
        &self,
        store: &Store,
        item: &CatalogueItem,
        opened: &Opened,
        asks: &[(Ask, String)],
    ) -> Result<Option<Answered>, LineError> {
        let seed = draw::unhex(&opened.seed).unwrap_or_default();
        let request = |(ask, ticket): &(Ask, String)| {
            let what = match ask {
                Ask::Look => What::Look,
                Ask::Join => What::Join { drawn_place: draw::place(&seed, ticket) },
                Ask::Used { admitted_ms } => What::Used { admitted_ms: *admitted_ms },
            };
            (what, ticket.clone())
        };
        let requests: Vec<_> = asks.iter().map(request).collect();
        let selling = item.open && item.state == ItemState::Active;
        let units = if selling { item.available } else { 0 };
        let round = Round { id: &opened.id, gone_ms: self.gone_ms(item), units, settings: &self.settings };
        let sent = Instant::now();
        let answered = self.scripts.places(store, &Keys::of(item.item_id), &round, &requests).await;
        let answered = answered.map_err(LineError::Store)?;
        if let Some(answered) = &answered {
            self.clock.heard(answered.now_ms, sent);
            metrics::gauge!("gateway_line_waiting", "item" => item.item_id.to_string())
                .set(answered.waiting as f64);
        }
        Ok(answered)
    }

    /// The line as it is now; a new one if there was none.
    pub(super) async fn open(&self, store: &Store, item: &CatalogueItem) -> Result<Arc<Opened>, StoreError> {
        let (seed, id): ([u8; 32], u128) = (rand::rng().random(), rand::rng().random());
        let fresh = Fresh {
            id: format!("{id:032x}"),
            seed: draw::hex(&seed),
            commitment: draw::commitment(&seed),
            starts_ms: item.starts_at.timestamp_millis(),
            gone_ms: self.gone_ms(item),
        };
        let sent = Instant::now();
        let opened = Arc::new(self.scripts.open(store, &Keys::of(item.item_id), fresh).await?);
        self.clock.heard(opened.now_ms, sent);
        self.opened.write().insert(item.item_id, opened.clone());
        Ok(opened)
    }

    /// Nobody joins the draw any more: its list is hashed, once, by whoever comes first.
    async fn close_draw(&self, store: &Store, item: ItemId, opened: &Opened) -> Result<(), StoreError> {
        let keys = Keys::of(item);
        let mut tickets = self.scripts.tickets(store, &keys, 0, usize::MAX).await?;
        let hash = draw::list_hash(&mut tickets);
        let closed = self.scripts.close(store, &keys, &opened.id, (hash.clone(), tickets.len())).await?;
        if closed {
            tracing::info!(%item, participants = tickets.len(), list_hash = hash, "the line is drawn");
        }
        Ok(())
    }

    fn gone_ms(&self, item: &CatalogueItem) -> i64 {
        let keep_ms = i64::try_from(self.settings.keep_ms).unwrap_or(i64::MAX / 4);
        item.ends_at.timestamp_millis().saturating_add(keep_ms)
    }
}

fn stand(standing: Standing, answered: &Answered) -> Stand {
    match standing {
        Standing::NoPlace | Standing::Noted => Stand::NoPlace,
        Standing::Undrawn => Stand::Undrawn { gathered: answered.gathered },
        Standing::Waits { position } => Stand::Waits { position, rate: answered.rate },
        Standing::Admitted { admitted_ms, expires_ms } => {
            Stand::Admitted(Admission { admitted_ms, expires_ms })
        }
        Standing::RanOut => Stand::RanOut,
        Standing::Full => Stand::Full,
    }
}
