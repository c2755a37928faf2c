//! Administration of sales and items.

use actix_web::{HttpResponse, web};
use common::api::admin::{NewSale, Restock, SaleChanges};
use common::api::{Page, Sale};
use common::internal::Deadline;
use serde::Deserialize;
use uuid::Uuid;

use super::admin::{Admin, done};
use super::audit::Inventory;
use super::body::Json;
use super::cursor::{self, Cursor};
use super::withdraw;
use crate::audit_log;
use crate::db::replica::Reports;
use crate::db::{Db, DbError};
use crate::error::ApiError;
use crate::sales::admin::{self, SaleAction};
use crate::sales::{SaleRecord, listing, validate};

/// What a listing without filters takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    cursor: Option<String>,
    limit: Option<String>,
}

impl PageQuery {
    /// Where the page begins.
    pub fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// How many entries it has.
    pub fn limit(&self) -> Option<&str> {
        self.limit.as_deref()
    }
}

/// `POST /internal/v1/admin/sales`: makes a draft.
pub async fn create(
    db: web::Data<Db>,
    Admin(actor): Admin,
    Json(wish): Json<NewSale>,
) -> Result<HttpResponse, ApiError> {
    let sale = admin::create(&db, actor, validate::new_sale(wish)?).await.map_err(ApiError::Write)?;
    Ok(HttpResponse::Created().json(sale))
}

/// `PATCH /internal/v1/admin/sales/{sale_id}`: changes a draft.
pub async fn change(
    db: web::Data<Db>,
    Admin(actor): Admin,
    id: web::Path<Uuid>,
    Json(wish): Json<SaleChanges>,
) -> Result<HttpResponse, ApiError> {
    let changes = validate::changes(wish)?;
    let change = admin::change(&db, actor, *id, changes).await.map_err(ApiError::Write)?;
    Ok(HttpResponse::Ok().json(done(change)?))
}

/// `GET /internal/v1/admin/sales`: all, drafts too, the newest made first.
pub async fn list(
    db: web::Data<Db>,
    _: Admin,
    query: web::Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let limit = cursor::limit(query.limit.as_deref())?;
    let after = query.cursor.as_deref().map(Cursor::decode).transpose()?;
    let after = after.map(|Cursor { at, id }| (at, id));
    let records = listing::page(&mut *db.get().await?, after, limit + 1).await?;
    let (records, next_cursor) = cursor::page(records, limit, |record| {
        let (at, id) = record.place();
        Cursor { at, id }
    });
    let items = records.iter().map(SaleRecord::to_api).collect::<Result<Vec<Sale>, DbError>>()?;
    Ok(HttpResponse::Ok().json(Page { items, next_cursor }))
}

/// `GET /internal/v1/admin/sales/{sale_id}`.
pub async fn one(db: web::Data<Db>, _: Admin, id: web::Path<Uuid>) -> Result<HttpResponse, ApiError> {
    let record = listing::find(&mut *db.get().await?, *id).await?.ok_or_else(ApiError::not_found)?;
    Ok(HttpResponse::Ok().json(record.to_api()?))
}

/// `POST /internal/v1/admin/sales/{sale_id}/publish`.
pub async fn publish(db: web::Data<Db>, admin: Admin, id: web::Path<Uuid>) -> Result<HttpResponse, ApiError> {
    act(&db, admin, *id, SaleAction::Publish).await
}

/// `POST /internal/v1/admin/sales/{sale_id}/pause`.
pub async fn pause(db: web::Data<Db>, admin: Admin, id: web::Path<Uuid>) -> Result<HttpResponse, ApiError> {
    act(&db, admin, *id, SaleAction::Pause).await
}

/// `POST /internal/v1/admin/sales/{sale_id}/resume`.
pub async fn resume(db: web::Data<Db>, admin: Admin, id: web::Path<Uuid>) -> Result<HttpResponse, ApiError> {
    act(&db, admin, *id, SaleAction::Resume).await
}

/// `POST /internal/v1/admin/sales/{sale_id}/end`.
pub async fn end(db: web::Data<Db>, admin: Admin, id: web::Path<Uuid>) -> Result<HttpResponse, ApiError> {
    act(&db, admin, *id, SaleAction::End).await
}

/// `POST /internal/v1/admin/items/{item_id}/restock`.
pub async fn restock(
    db: web::Data<Db>,
    inventory: web::Data<Inventory>,
    (Admin(actor), Deadline(deadline)): (Admin, Deadline),
    id: web::Path<Uuid>,
    Json(wish): Json<Restock>,
) -> Result<HttpResponse, ApiError> {
    validate::restock(&wish)?;
    let item = if wish.units < 0 {
        withdraw::lower(&db, &inventory, actor, (*id, wish.units), deadline).await?
    } else {
        done(admin::restock(&db, actor, *id, wish.units, None).await.map_err(ApiError::Write)?)?
    };
    Ok(HttpResponse::Ok().json(item))
}

/// `GET /internal/v1/admin/audit-log`: what admins did, the newest first.
pub async fn audit_log(
    reports: web::Data<Reports>,
    _: Admin,
    query: web::Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let limit = cursor::limit(query.limit.as_deref())?;
    let after = query.cursor.as_deref().map(Cursor::decode).transpose()?.map(number).transpose()?;
    let read = async |conn: &mut _| audit_log::page(conn, after, limit + 1).await;
    let entries = reports.read(read).await?;
    let (items, next_cursor) =
        cursor::page(entries, limit, |entry| Cursor { at: entry.at, id: numbered(entry.id) });
    Ok(HttpResponse::Ok().json(Page { items, next_cursor }))
}

async fn act(db: &Db, Admin(actor): Admin, id: Uuid, action: SaleAction) -> Result<HttpResponse, ApiError> {
    let change = admin::act(db, actor, id, action).await.map_err(ApiError::Write)?;
    Ok(HttpResponse::Ok().json(done(change)?))
}

/// The audit log is in the order of its numbers; a cursor carries the number in the place of an id.
fn numbered(number: i64) -> Uuid {
    Uuid::from_u128(u128::from(number.unsigned_abs()))
}

fn number(cursor: Cursor) -> Result<i64, ApiError> {
    let refused = |_| ApiError::invalid("cursor", "must be a next_cursor of this listing");
    i64::try_from(cursor.id.as_u128()).map_err(refused)
}
