//! The HTTP API, for our own services only.

mod books;
mod catalogue;
mod reservations;
mod withdraw;

use actix_web::web::{self, JsonConfig, PathConfig, ServiceConfig};
use common::internal;
use common::settings::InternalSettings;

use crate::catalogue::CatalogueReader;
use crate::error::ApiError;
use crate::inventory::Inventory;
use crate::items::Items;
use crate::reserve::Reservations;

/// Longest body, in bytes: a full batch has less than half of it.
const BODY_BYTES_MAX: usize = 128 * 1024;

/// What the handlers need. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    /// The inventory.
    pub inventory: Inventory,
    /// The items.
    pub items: Items,
    /// The queues.
    pub reservations: Reservations,
    /// The catalogue.
    pub catalogue: CatalogueReader,
    /// How long units that come back stay off offer, in ms.
    pub lease_ms: u64,
}

/// Every path.
pub fn routes(cfg: &mut ServiceConfig, api: &Api, internal_settings: &InternalSettings) {
    common::health::routes(cfg);
    cfg.service(
        web::scope("/internal/v1")
            .wrap(internal::guard(internal_settings))
            .app_data(web::Data::new(api.clone()))
            .app_data(
                JsonConfig::default()
                    .limit(BODY_BYTES_MAX)
                    .error_handler(|error, _| body_error(&error).into()),
            )
            .app_data(PathConfig::default().error_handler(|error, _| path_error(&error).into()))
            .route("/items/{item_id}/reservations", web::post().to(reservations::create))
            .route("/items/{item_id}/books", web::get().to(books::show))
            .route("/items/{item_id}/withdraw", web::post().to(withdraw::withdraw))
            .route("/items/{item_id}/withdraw/return", web::post().to(withdraw::give_back))
            .route("/reservations/{order_id}", web::get().to(reservations::show))
            .route("/catalogue", web::get().to(catalogue::show)),
    );
}

fn body_error(error: &actix_web::error::JsonPayloadError) -> ApiError {
    use actix_web::error::JsonPayloadError::{Overflow, OverflowKnownLength};
    if matches!(error, Overflow { .. } | OverflowKnownLength { .. }) {
        return ApiError::TooLarge;
    }
    ApiError::Invalid { field: "body".to_owned(), reason: error.to_string() }
}

fn path_error(error: &actix_web::error::PathError) -> ApiError {
    ApiError::Invalid { field: "path".to_owned(), reason: error.to_string() }
}
