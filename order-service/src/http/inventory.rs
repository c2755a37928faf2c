//! For stock-service: epochs, definitions, stock.

use actix_web::{HttpResponse, web};
use common::api::inventory::StockOrder;
use common::ids::{ItemId, OrderId};
use common::internal::Deadline;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use crate::db::Db;
use crate::error::ApiError;
use crate::inventory::{self, Claim, FENCE_WAIT_MAX, LOOKUP_MAX, StockAnswer};

/// No inventory knows a higher one: epochs are counted one by one, and Redis' scripts count in doubles.
const EPOCH_MAX: i64 = 1 << 52;

/// The query of [`grant_epoch`].
#[derive(Debug, Deserialize)]
pub struct Above {
    /// The highest epoch that the inventory knows of.
    #[serde(default)]
    above: i64,
}

/// The query of [`stock`].
#[derive(Debug, Deserialize)]
pub struct StockQuery {
    epoch: i64,
    token: Uuid,
}

/// The query of [`quiet_orders`]: where the page before ended.
#[derive(Debug, Deserialize)]
pub struct After {
    #[serde(default)]
    after_user: String,
    #[serde(default)]
    after_order: Uuid,
}

/// The body of [`lookup`].
#[derive(Debug, Deserialize)]
pub struct Lookup {
    order_ids: Vec<OrderId>,
}

/// The answer of [`lookup`] and [`quiet_orders`].
#[derive(Debug, Serialize)]
struct Found {
    orders: Vec<StockOrder>,
}

/// `POST /internal/v1/items/{item_id}/epochs?above=`
pub async fn grant_epoch(
    db: web::Data<Db>,
    item: web::Path<ItemId>,
    query: web::Query<Above>,
) -> Result<HttpResponse, ApiError> {
    if !(0..=EPOCH_MAX).contains(&query.above) {
        return Err(ApiError::invalid("above", format!("must be from 0 to {EPOCH_MAX}")));
    }
    let granted = inventory::grant_epoch(&db, *item, query.above).await.map_err(ApiError::Write)?;
    granted.map(|granted| HttpResponse::Ok().json(granted)).ok_or_else(ApiError::not_found)
}

/// `GET /internal/v1/items`
pub async fn items(db: web::Data<Db>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(inventory::live_items(&db).await?))
}

/// `GET /internal/v1/items/{item_id}`
pub async fn item(db: web::Data<Db>, item: web::Path<ItemId>) -> Result<HttpResponse, ApiError> {
    let definition = inventory::definition(&db, *item).await?;
    definition.map(|item| HttpResponse::Ok().json(item)).ok_or_else(ApiError::not_found)
}

/// `GET /internal/v1/items/{item_id}/stock?epoch=&token=`
pub async fn stock(
    db: web::Data<Db>,
    item: web::Path<ItemId>,
    query: web::Query<StockQuery>,
    deadline: Deadline,
) -> Result<HttpResponse, ApiError> {
    let claim = Claim { item: *item, epoch: query.epoch, token: query.token };
    let deadline = deadline.0.min(Instant::now() + FENCE_WAIT_MAX);
    match inventory::stock(&db, claim, deadline).await? {
        StockAnswer::Stock(stock) => Ok(HttpResponse::Ok().json(stock)),
        StockAnswer::Superseded => Err(ApiError::invalid_transition()),
        StockAnswer::NotFound => Err(ApiError::not_found()),
        StockAnswer::NotFenced => Err(ApiError::unavailable()),
    }
}

/// `POST /internal/v1/items/{item_id}/orders/lookup`
pub async fn lookup(
    db: web::Data<Db>,
    item: web::Path<ItemId>,
    body: web::Json<Lookup>,
) -> Result<HttpResponse, ApiError> {
    if body.order_ids.len() > LOOKUP_MAX {
        return Err(ApiError::invalid("order_ids", format!("must be at most {LOOKUP_MAX}")));
    }
    let orders = inventory::lookup(&db, *item, &body.order_ids).await?;
    Ok(HttpResponse::Ok().json(Found { orders }))
}

/// `GET /internal/v1/items/{item_id}/orders?after_user=&after_order=`: the item's orders that have not changed for ten
/// seconds, a page at a time.
pub async fn quiet_orders(
    db: web::Data<Db>,
    item: web::Path<ItemId>,
    after: web::Query<After>,
) -> Result<HttpResponse, ApiError> {
    let orders = inventory::quiet_orders(&db, *item, (&after.after_user, after.after_order)).await?;
    Ok(HttpResponse::Ok().json(Found { orders }))
}
