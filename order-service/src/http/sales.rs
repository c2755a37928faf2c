//! Published sales, for the gateway's listing.

use actix_web::http::header::{ETAG, IF_NONE_MATCH};
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::DateTime;
use common::api::{Sale, SaleState};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::db::{Db, DbError};
use crate::error::ApiError;
use crate::sales::SaleRecord;
use crate::sales::listing;

/// The listing; it has no pages.
#[derive(Serialize)]
struct Listing {
    items: Vec<Sale>,
}

/// Ids in one page of [`known_ids`].
const KNOWN_IDS_PAGE: i64 = 10_000;

/// The id after which the page begins.
#[derive(Deserialize)]
pub struct KnownIdsQuery {
    after: Uuid,
}

/// A page of ids, and after which one the next begins.
#[derive(Serialize)]
struct KnownIds {
    ids: Vec<Uuid>,
    next: Option<Uuid>,
}

/// `GET /internal/v1/sales`: 304 while nothing but the time has changed.
pub async fn list(db: web::Data<Db>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let records = listing::published(&mut *db.get().await?).await?;
    let items = records.iter().map(SaleRecord::to_api).collect::<Result<Vec<_>, DbError>>()?;
    let tag = tag(&items)?;
    if known(&request, &tag) {
        return Ok(HttpResponse::NotModified().insert_header((ETAG, tag)).finish());
    }
    Ok(HttpResponse::Ok().insert_header((ETAG, tag)).json(Listing { items }))
}

/// `GET /internal/v1/sales/{sale_id}`: drafts do not exist here.
pub async fn one(db: web::Data<Db>, id: web::Path<Uuid>) -> Result<HttpResponse, ApiError> {
    let record = listing::find(&mut *db.get().await?, *id).await?.ok_or_else(ApiError::not_found)?;
    if record.state() == SaleState::Draft {
        return Err(ApiError::not_found());
    }
    Ok(HttpResponse::Ok().json(record.to_api()?))
}

/// `GET /internal/v1/known-ids?after=`: every published sale and item there ever was, by pages in the order of ids.
pub async fn known_ids(
    db: web::Data<Db>,
    query: web::Query<KnownIdsQuery>,
) -> Result<HttpResponse, ApiError> {
    let ids = listing::known_ids(&mut *db.get().await?, query.after, KNOWN_IDS_PAGE).await?;
    let whole = i64::try_from(ids.len()).is_ok_and(|length| length < KNOWN_IDS_PAGE);
    let next = if whole { None } else { ids.last().copied() };
    Ok(HttpResponse::Ok().json(KnownIds { ids, next }))
}

/// A weak tag over everything but the clock.
fn tag(items: &[Sale]) -> Result<String, DbError> {
    let timeless: Vec<Sale> =
        items.iter().cloned().map(|sale| Sale { server_time: DateTime::UNIX_EPOCH, ..sale }).collect();
    let json = serde_json::to_vec(&timeless).map_err(|error| DbError::Broken(error.to_string()))?;
    Ok(format!("W/\"{}\"", hex::encode(&Sha256::digest(&json)[..16])))
}

/// Whether the client has what `tag` stands for.
fn known(request: &HttpRequest, tag: &str) -> bool {
    let opaque = tag.trim_start_matches("W/");
    request
        .headers()
        .get_all(IF_NONE_MATCH)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(
            |known| matches!(known.trim().trim_start_matches("W/"), known if known == opaque || known == "*"),
        )
}
