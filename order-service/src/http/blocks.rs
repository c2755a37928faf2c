//! The block list: for admins, and for gateways.

use actix_web::http::header::{ETAG, IF_NONE_MATCH};
use actix_web::{HttpRequest, HttpResponse, web};
use common::api::Page;
use common::api::admin::{Block, NewBlock};
use common::api::blocks::BLOCKS_MAX;
use common::problem::{Code, Problem};
use uuid::Uuid;

use super::admin::Admin;
use super::admin_sales::PageQuery;
use super::body::Json;
use super::cursor::{self, Cursor};
use crate::blocks::{self, Put};
use crate::db::Db;
use crate::error::ApiError;

/// `POST /internal/v1/admin/blocks`
pub async fn create(
    db: web::Data<Db>,
    Admin(actor): Admin,
    Json(wish): Json<NewBlock>,
) -> Result<HttpResponse, ApiError> {
    match blocks::put(&db, actor, blocks::validate(wish)?).await.map_err(ApiError::Write)? {
        Put::Done(block) => Ok(HttpResponse::Created().json(block)),
        Put::Over => Err(ApiError::invalid("expires_at", "must be in the future")),
        Put::Full => {
            let detail =
                format!("There are {BLOCKS_MAX} blocks already; lift one first, or block a network.").into();
            Err(Problem { detail, ..Problem::new(Code::LimitExceeded) }.into())
        }
    }
}

/// `GET /internal/v1/admin/blocks`: those in force, the newest first.
pub async fn list(
    db: web::Data<Db>,
    _: Admin,
    query: web::Query<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let limit = cursor::limit(query.limit())?;
    let after = query.cursor().map(Cursor::decode).transpose()?.map(|Cursor { at, id }| (at, id));
    let found = blocks::page(&mut *db.get().await?, after, limit + 1).await?;
    let (items, next_cursor) =
        cursor::page(found, limit, |block| Cursor { at: block.created_at, id: block.id });
    Ok(HttpResponse::Ok().json(Page::<Block> { items, next_cursor }))
}

/// `DELETE /internal/v1/admin/blocks/{id}`
pub async fn lift(
    db: web::Data<Db>,
    Admin(actor): Admin,
    id: web::Path<Uuid>,
) -> Result<HttpResponse, ApiError> {
    if blocks::lift(&db, actor, *id).await.map_err(ApiError::Write)? {
        return Ok(HttpResponse::NoContent().finish());
    }
    Err(ApiError::not_found())
}

/// `GET /internal/v1/blocks`: the whole list, for gateways; 304 while it is the same.
pub async fn in_force(db: web::Data<Db>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let mut conn = db.get().await?;
    // Read before the list: a change in between is read again, not missed.
    let tag = format!("\"{}\"", blocks::version(&mut conn).await?);
    let known = request.headers().get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    if known {
        return Ok(HttpResponse::NotModified().insert_header((ETAG, tag)).finish());
    }
    let list = blocks::in_force(&mut conn).await?;
    Ok(HttpResponse::Ok().insert_header((ETAG, tag)).json(list))
}
