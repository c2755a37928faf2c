//! `/internal/v1/items/{item_id}/books`.

use actix_web::web::{Data, Json, Path};
use common::api::inventory::Books;
use common::ids::ItemId;

use super::Api;
use crate::error::ApiError;
use crate::inventory::BOOKS_ATOMIC_MAX;
use crate::keys::ItemKeys;
use crate::stock::Shut;

/// `GET /internal/v1/items/{item_id}/books`: an item's books, counted afresh. They may be tens of megabytes.
///
/// # Errors
/// 404: there is no such item here. 503: the gate is closed, or Redis does not answer.
pub async fn show(api: Data<Api>, item_id: Path<ItemId>) -> Result<Json<Books>, ApiError> {
    let known = api.items.get(*item_id);
    let keys = known.as_ref().map_or_else(|| ItemKeys::of(*item_id), |item| item.keys.clone());
    let epoch_min = known.as_ref().map_or(0, |item| item.epoch());
    match api.inventory.books(*item_id, &keys, epoch_min, BOOKS_ATOMIC_MAX).await? {
        Ok(books) => Ok(Json(books)),
        Err(Shut::Unknown) if known.is_none() && api.items.is_complete() => Err(ApiError::NotFound),
        Err(Shut::Unknown | Shut::Closed | Shut::Broken) => {
            if let Some(item) = known {
                api.items.report_closed(&item);
            }
            Err(ApiError::Closed)
        }
    }
}
