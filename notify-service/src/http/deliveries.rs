//! Deliveries of a webhook, for admins.

use actix_web::{HttpResponse, web};
use common::api::admin::DeliveryState;
use serde::Deserialize;
use uuid::Uuid;

use super::caller::Admin;
use super::webhooks::path_id;
use super::{Api, page};
use crate::db::deliveries::{self, Filter, Redelivery};
use crate::db::webhooks;
use crate::error::ApiError;

/// Read as text, so that a bad value is answered with its name.
#[derive(Debug, Deserialize)]
pub struct Query {
    state: Option<String>,
    cursor: Option<String>,
    limit: Option<String>,
}

/// `GET /internal/v1/admin/webhooks/{id}/deliveries?state=&cursor=&limit=`: newest first.
pub async fn list(
    api: web::Data<Api>,
    _admin: Admin,
    id: web::Path<String>,
    query: web::Query<Query>,
) -> Result<HttpResponse, ApiError> {
    let filter = filter(path_id(&id)?, &query)?;
    let mut connection = api.db.get().await?;
    if !webhooks::exists(&mut connection, filter.webhook_id).await? {
        return Err(ApiError::NotFound);
    }
    let limit = filter.limit;
    // One more than asked for tells whether there is another page.
    let found = deliveries::list(&mut connection, Filter { limit: limit + 1, ..filter }).await?;
    Ok(HttpResponse::Ok().json(page::page(found, limit, |delivery| delivery.id.to_string())))
}

/// `POST /internal/v1/admin/webhooks/{id}/deliveries/{delivery_id}/redeliver`: sends it again, with the same
/// `webhook-id`, and with the whole retry ladder before it.
pub async fn redeliver(
    api: web::Data<Api>,
    admin: Admin,
    ids: web::Path<(String, String)>,
) -> Result<HttpResponse, ApiError> {
    let asked = Redelivery { actor: &admin.0, webhook_id: path_id(&ids.0)?, id: path_id(&ids.1)? };
    let delivery = deliveries::redeliver(&mut *api.db.get().await?, asked).await?;
    let delivery = delivery.ok_or(ApiError::NotFound)?;
    tracing::info!(actor = %admin.0, delivery_id = %delivery.id, "delivery asked for again");
    api.due.notify_one();
    Ok(HttpResponse::Accepted().json(delivery))
}

fn filter(webhook_id: Uuid, query: &Query) -> Result<Filter, ApiError> {
    let state = match query.state.as_deref() {
        None | Some("") => None,
        Some("pending") => Some(DeliveryState::Pending),
        Some("delivered") => Some(DeliveryState::Delivered),
        Some("parked") => Some(DeliveryState::Parked),
        Some(_) => return Err(ApiError::invalid("state", "must be pending, delivered or parked")),
    };
    let before = page::cursor(query.cursor.as_deref())?;
    let limit = page::limit(query.limit.as_deref())?;
    Ok(Filter { webhook_id, state, before, limit })
}
