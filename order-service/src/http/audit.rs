//! The audit of a sale: both stores' books, counted afresh.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use anyhow::{Context as _, bail};
use common::api::admin::Audit;
use common::api::inventory::Books;
use common::api::{OrderStatus, SaleState};
use common::http_client::Upstream;
use common::ids::ItemId;
use common::internal::Deadline;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;
use uuid::Uuid;

use super::admin::Admin;
use crate::audit::{self, AuditedItem};
use crate::db::Db;
use crate::error::ApiError;
use crate::sales::{SaleRecord, listing};

/// Items whose books are asked for at the same time.
const ASKED_AT_ONCE: usize = 8;

/// Whom the audit asks.
#[derive(Clone)]
pub struct Inventory {
    /// stock-service.
    pub stock: Upstream,
    /// Most time for one answer.
    pub timeout: Duration,
}

/// `GET /internal/v1/admin/sales/{sale_id}/audit`.
///
/// The two stores are read one after the other, so while orders come in the books may differ by what happened in
/// between; when it is quiet they may not.
pub async fn show(
    db: web::Data<Db>,
    inventory: web::Data<Inventory>,
    _: Admin,
    sale: web::Path<Uuid>,
    Deadline(deadline): Deadline,
) -> Result<HttpResponse, ApiError> {
    let record = listing::find(&mut *db.get().await?, *sale).await?.ok_or_else(ApiError::not_found)?;
    Ok(HttpResponse::Ok().json(of_sale(&db, &inventory, &record, deadline).await?))
}

/// Both stores' books of one sale.
///
/// # Errors
/// The database, or the inventory's books cannot be had by the deadline.
pub async fn of_sale(
    db: &Db,
    inventory: &Inventory,
    record: &SaleRecord,
    deadline: Instant,
) -> Result<Audit, ApiError> {
    let state = record.state();
    let ids = record.item_ids();
    let books: Vec<Option<Books>> = if state == SaleState::Draft {
        ids.iter().map(|_| None).collect()
    } else {
        let asked = ids.iter().map(|id| books(inventory, *id, deadline));
        stream::iter(asked).buffered(ASKED_AT_ONCE).try_collect().await.map_err(unavailable)?
    };
    let items = audit::items(&mut *db.get().await?, &ids).await?;
    let mut audit = Audit { consistent: true, items: Vec::with_capacity(items.len()) };
    for (item, books) in items.iter().zip(&books) {
        if books.is_none() && !may_be_absent(state, item) {
            return Err(unavailable(anyhow::anyhow!("the inventory does not know item {}", item.item_id)));
        }
        let compared = audit::compare(item, books.as_ref());
        audit.consistent &= compared.consistent;
        audit.items.push(compared.audit);
    }
    Ok(audit)
}

/// An inventory need not know drafts, nor items that are over with none of their orders open.
fn may_be_absent(state: SaleState, item: &AuditedItem) -> bool {
    match state {
        SaleState::Draft => true,
        SaleState::Ended => item.orders.iter().all(|order| order.status != OrderStatus::PendingPayment),
        SaleState::Scheduled | SaleState::Active | SaleState::Paused => false,
    }
}

/// One item's books; `None` when the inventory does not know the item.
async fn books(inventory: &Inventory, item: Uuid, deadline: Instant) -> anyhow::Result<Option<Books>> {
    let deadline = deadline.min(Instant::now() + inventory.timeout);
    let path = format!("/internal/v1/items/{}/books", ItemId(item));
    let answer = inventory.stock.request(reqwest::Method::GET, &path, deadline).send().await?;
    match answer.status().as_u16() {
        200 => Ok(Some(answer.json().await.context("books")?)),
        404 => Ok(None),
        status => bail!("stock-service answered {status}"),
    }
}

fn unavailable(cause: anyhow::Error) -> ApiError {
    ApiError::Unavailable { what: "the inventory's books cannot be had", cause }
}
