//! What admins do to sales. Each deed is one transaction: the change, its line in the audit log, and the word to the
//! inventory, which asks for the absolute state of every item it hears about.
//!
//! Drafts are not told of: nobody but admins sees them before `publish`.

use chrono::{DateTime, Utc};
use common::api::admin::{NewItem, NewSale, SaleChanges};
use common::api::{Sale, SaleItem, SaleState};
use common::failpoint::reach;
use common::ids::{ItemId, SaleId, UserId};
use common::messages::sale::ChangedV1;
use diesel::dsl::now;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::FutureExt as _;
use uuid::Uuid;

use super::validate::{self, InvalidField, STOCK_MAX};
use super::{ItemRow, SaleRecord, listing};
use crate::audit_log::Deed;
use crate::crash_points::LOWER_COMMIT_BEFORE;
use crate::db::schema::{items, sales};
use crate::db::{Db, DbError};
use crate::outbox;
use crate::{machine, transitions};

/// What became of an admin's wish.
#[derive(Debug)]
pub enum Change<T> {
    /// Done; this is how it is now.
    Done(T),
    /// There is no such sale or item.
    NotFound,
    /// Its present state does not allow it; nothing was changed.
    NotAllowed(Refusal),
    /// The result would not be valid; nothing was changed.
    Invalid(InvalidField),
    /// The inventory was loaded anew meanwhile and has forgotten what it was asked for; nothing was changed.
    Overtaken,
}

/// Why a present state does not allow something; fit for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The field that stands in the way, if one does.
    pub field: Option<&'static str>,
    /// One sentence.
    pub detail: String,
}

impl Refusal {
    /// Fewer units are on offer than are to go.
    pub fn not_on_offer(available: i64) -> Self {
        let detail = format!("units: {available} units are on offer; no more can go.");
        Self { field: Some("units"), detail }
    }

    fn new(detail: impl Into<String>) -> Self {
        Self { field: None, detail: detail.into() }
    }
}

/// What an admin may do to a sale as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaleAction {
    /// Makes a draft public; its window decides when it opens.
    Publish,
    /// Takes no orders until resumed.
    Pause,
    /// Takes orders again.
    Resume,
    /// Ends it before its time, for good.
    End,
}

impl SaleAction {
    /// Its name in the audit log.
    fn name(self) -> &'static str {
        match self {
            Self::Publish => "sale.publish",
            Self::Pause => "sale.pause",
            Self::Resume => "sale.resume",
            Self::End => "sale.end",
        }
    }

    /// The state that it leads to.
    fn leads_to(self) -> SaleState {
        match self {
            Self::Publish => SaleState::Scheduled,
            Self::Pause => SaleState::Paused,
            Self::Resume => SaleState::Active,
            Self::End => SaleState::Ended,
        }
    }
}

/// Makes a draft.
///
/// # Errors
/// The database.
pub async fn create(db: &Db, actor: UserId, wish: NewSale) -> Result<Sale, DbError> {
    db.transaction(move |conn| {
        async move {
            let id = Uuid::new_v4();
            diesel::insert_into(sales::table)
                .values((
                    sales::id.eq(id),
                    sales::title.eq(wish.title),
                    sales::starts_at.eq(wish.starts_at),
                    sales::ends_at.eq(wish.ends_at),
                    sales::payment_window_seconds.eq(window_seconds(wish.payment_window_seconds)),
                    sales::waiting_room.eq(wish.waiting_room),
                    sales::challenge.eq(wish.challenge),
                ))
                .execute(conn)
                .await?;
            insert_items(conn, id, &wish.items).await?;
            let after = reread(conn, id).await?;
            Deed { actor: &actor, action: "sale.create", subject: id }.record(conn, None, &after).await?;
            Ok(after)
        }
        .boxed()
    })
    .await
}

/// Changes a draft; of what is published only what a buyer passes before an order.
///
/// # Errors
/// The database.
pub async fn change(db: &Db, actor: UserId, id: Uuid, wish: SaleChanges) -> Result<Change<Sale>, DbError> {
    db.transaction(move |conn| {
        async move {
            let Some(record) = listing::lock(conn, id).await? else { return Ok(Change::NotFound) };
            let published = record.state() != SaleState::Draft;
            if published && (record.state() == SaleState::Ended || !is_about_the_door(&wish)) {
                return Ok(Change::NotAllowed(Refusal::new("Only drafts can be changed.")));
            }
            let before = record.to_api()?;
            let starts_at = wish.starts_at.unwrap_or(before.starts_at);
            let ends_at = wish.ends_at.unwrap_or(before.ends_at);
            if let Err(invalid) = validate::window(starts_at, ends_at) {
                return Ok(Change::Invalid(invalid));
            }
            let seconds = wish.payment_window_seconds.unwrap_or(before.payment_window_seconds);
            diesel::update(sales::table.find(id))
                .set((
                    sales::title.eq(wish.title.as_ref().unwrap_or(&before.title)),
                    sales::starts_at.eq(starts_at),
                    sales::ends_at.eq(ends_at),
                    sales::payment_window_seconds.eq(window_seconds(seconds)),
                    sales::waiting_room.eq(wish.waiting_room.unwrap_or(before.waiting_room)),
                    sales::challenge.eq(wish.challenge.unwrap_or(before.challenge)),
                ))
                .execute(conn)
                .await?;
            if published {
                let changed = next_versions(conn, id).await?;
                announce(conn, changed).await?;
            }
            if let Some(new_items) = &wish.items {
                diesel::delete(items::table.filter(items::sale_id.eq(id))).execute(conn).await?;
                insert_items(conn, id, new_items).await?;
            }
            let after = reread(conn, id).await?;
            Deed { actor: &actor, action: "sale.change", subject: id }
                .record(conn, Some(&before), &after)
                .await?;
            Ok(Change::Done(after))
        }
        .boxed()
    })
    .await
}

/// Publishes, pauses, resumes or ends a sale.
///
/// # Errors
/// The database.
pub async fn act(db: &Db, actor: UserId, id: Uuid, action: SaleAction) -> Result<Change<Sale>, DbError> {
    db.transaction(move |conn| {
        async move {
            let Some(record) = listing::lock(conn, id).await? else { return Ok(Change::NotFound) };
            if let Some(refusal) = refusal(&record, action) {
                return Ok(Change::NotAllowed(refusal));
            }
            let before = record.to_api()?;
            let sale = diesel::update(sales::table.find(id));
            match action {
                SaleAction::Publish => sale.set(sales::published_at.eq(now)).execute(conn).await?,
                SaleAction::Pause => sale.set(sales::paused_at.eq(now)).execute(conn).await?,
                SaleAction::Resume => {
                    sale.set(sales::paused_at.eq(None::<DateTime<Utc>>)).execute(conn).await?
                }
                SaleAction::End => sale.set(sales::ended_at.eq(now)).execute(conn).await?,
            };
            let changed = next_versions(conn, id).await?;
            announce(conn, changed).await?;
            let after = reread(conn, id).await?;
            Deed { actor: &actor, action: action.name(), subject: id }
                .record(conn, Some(&before), &after)
                .await?;
            Ok(Change::Done(after))
        }
        .boxed()
    })
    .await
}

/// Whether `units` fewer can be wished for as far as this database knows, and whether the inventory is to be asked first:
/// it sells what is published and not over.
///
/// # Errors
/// The database.
pub async fn look_before_lowering(db: &Db, id: Uuid, units: i64) -> Result<Change<bool>, DbError> {
    let conn = &mut *db.get().await?;
    let item = items::table.find(id).select(ItemRow::as_select()).first(conn).await.optional()?;
    let Some(item) = item else { return Ok(Change::NotFound) };
    let Some(sale) = listing::find(conn, item.sale_id).await? else { return Ok(Change::NotFound) };
    Ok(match restocked(&item, sale.state(), units) {
        Ok(_) => Change::Done(sale.state() != SaleState::Draft),
        Err(refused) => refused,
    })
}

/// Adds units to an item, or takes away such as nobody has taken.
///
/// Units of an item that the inventory sells are taken away only after it has withdrawn them: it may have granted units
/// that are not counted here yet. `epoch` is what it said it withdrew them in; 0 for an item that it was never loaded
/// with. With a newer epoch the withdrawal is forgotten, and nothing is changed.
///
/// # Errors
/// The database.
pub async fn restock(
    db: &Db,
    actor: UserId,
    id: Uuid,
    units: i64,
    epoch: Option<i64>,
) -> Result<Change<SaleItem>, DbError> {
    db.transaction(move |conn| {
        async move {
            let Some((item, sale)) = lock_item(conn, id).await? else { return Ok(Change::NotFound) };
            let state = sale.state();
            let total = match restocked(&item, state, units) {
                Ok(total) => total,
                Err(refused) => return Ok(refused),
            };
            if epoch.is_some_and(|epoch| epoch != item.epoch) {
                return Ok(Change::Overtaken);
            }
            let changed = diesel::update(items::table.find(id))
                .set((items::total.eq(total), items::version.eq(items::version + 1)))
                .returning((items::id, items::sale_id, items::version))
                .get_results(conn)
                .await?;
            if state != SaleState::Draft {
                announce(conn, changed).await?;
            }
            let before = item.to_api(state)?;
            let after = ItemRow { total, ..item }.to_api(state)?;
            Deed { actor: &actor, action: "item.restock", subject: id }
                .record(conn, Some(&before), &after)
                .await?;
            if units < 0 {
                reach(LOWER_COMMIT_BEFORE).await?;
            }
            Ok(Change::Done(after))
        }
        .boxed()
    })
    .await
}

/// The total that a restock leads to, or why it is not possible.
fn restocked<T>(item: &ItemRow, state: SaleState, units: i64) -> Result<i64, Change<T>> {
    let total = item.total.saturating_add(units);
    if state == SaleState::Ended {
        return Err(Change::NotAllowed(Refusal::new("The sale is over.")));
    }
    if total < item.taken {
        let detail = format!(
            "units: {} units are taken; no more than {} can go.",
            item.taken,
            item.total - item.taken
        );
        return Err(Change::NotAllowed(Refusal { field: Some("units"), detail }));
    }
    if total > STOCK_MAX {
        let message = format!("must leave the total at {STOCK_MAX} or below; it is {}", item.total);
        return Err(Change::Invalid(InvalidField::new("units", message)));
    }
    Ok(total)
}

/// Why `action` is not possible now; `None` when it is.
fn refusal(record: &SaleRecord, action: SaleAction) -> Option<Refusal> {
    let (from, to) = (record.state(), action.leads_to());
    // This step is in the table too, but only time takes it.
    let by_time = (from, to) == (SaleState::Scheduled, SaleState::Active);
    if by_time || !machine::sale_allows(from, to) {
        return Some(Refusal::new(format!("A sale that is {} cannot do this.", state_name(from))));
    }
    if action == SaleAction::Publish && record.now >= record.sale.ends_at {
        let detail = "ends_at: has passed; a sale that is over cannot be published.".to_owned();
        return Some(Refusal { field: Some("ends_at"), detail });
    }
    None
}

fn state_name(state: SaleState) -> &'static str {
    match state {
        SaleState::Draft => "a draft",
        SaleState::Scheduled => "scheduled",
        SaleState::Active => "active",
        SaleState::Paused => "paused",
        SaleState::Ended => "over",
    }
}

/// An item, locked, with its sale.
async fn lock_item(conn: &mut AsyncPgConnection, id: Uuid) -> Result<Option<(ItemRow, SaleRecord)>, DbError> {
    let item = items::table
        .find(id)
        .select(ItemRow::as_select())
        .for_no_key_update()
        .first(conn)
        .await
        .optional()?;
    let Some(item) = item else { return Ok(None) };
    let sale = listing::find(conn, item.sale_id).await?;
    Ok(sale.map(|sale| (item, sale)))
}

/// Whether a published sale can be changed like this: nothing that buyers were promised changes.
fn is_about_the_door(wish: &SaleChanges) -> bool {
    let SaleChanges { title, starts_at, ends_at, payment_window_seconds, waiting_room, challenge, items } =
        wish;
    let rest = title.is_none() && starts_at.is_none() && ends_at.is_none();
    rest && payment_window_seconds.is_none()
        && items.is_none()
        && (waiting_room.is_some() || challenge.is_some())
}

/// One more change of every item of a sale: the item, its sale and its new version.
async fn next_versions(conn: &mut AsyncPgConnection, sale: Uuid) -> Result<Vec<(Uuid, Uuid, i64)>, DbError> {
    let items = diesel::update(items::table.filter(items::sale_id.eq(sale)));
    let counted = items.set(items::version.eq(items::version + 1));
    Ok(counted.returning((items::id, items::sale_id, items::version)).get_results(conn).await?)
}

/// Tells the inventory that items have changed: their id, sale and new version.
async fn announce(conn: &mut AsyncPgConnection, changed: Vec<(Uuid, Uuid, i64)>) -> Result<(), DbError> {
    let at = transitions::now(conn).await?;
    let changed = changed
        .into_iter()
        .map(|(item, sale, version)| ChangedV1 { item_id: ItemId(item), sale_id: SaleId(sale), version })
        .collect();
    outbox::push_changed_items(conn, at, changed).await
}

async fn insert_items(conn: &mut AsyncPgConnection, sale: Uuid, new: &[NewItem]) -> Result<(), DbError> {
    let rows: Vec<_> = (0_i32..)
        .zip(new)
        .map(|(position, item)| {
            (
                items::id.eq(Uuid::new_v4()),
                items::sale_id.eq(sale),
                items::position.eq(position),
                items::sku.eq(&item.sku),
                items::name.eq(&item.name),
                items::image_url.eq(&item.image_url),
                items::price_cents.eq(item.price_cents),
                items::currency.eq(item.currency.as_str()),
                items::total.eq(item.stock),
                items::per_user_limit.eq(i32::try_from(item.per_user_limit).unwrap_or(i32::MAX)),
            )
        })
        .collect();
    diesel::insert_into(items::table).values(rows).execute(conn).await?;
    Ok(())
}

async fn reread(conn: &mut AsyncPgConnection, id: Uuid) -> Result<Sale, DbError> {
    let record = listing::find(conn, id).await?;
    record.ok_or_else(|| DbError::Broken(format!("sale {id} is gone")))?.to_api()
}

/// Validated before; a value that does not fit would meet the table's CHECK.
fn window_seconds(seconds: u32) -> i32 {
    i32::try_from(seconds).unwrap_or(i32::MAX)
}
