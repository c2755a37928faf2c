//! All paths on one screen.

mod audit_log;
mod body;
mod caller;
mod deliveries;
mod erasure;
mod events;
mod page;
mod webhooks;

use std::sync::Arc;

use actix_web::error::QueryPayloadError;
use actix_web::web::{self, PayloadConfig, QueryConfig, ServiceConfig};
use actix_web::{Error, HttpRequest, HttpResponse};
use common::problem::{Code, Problem};
use common::settings::InternalSettings;
use common::{health, internal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::db::Db;
use crate::error::ApiError;
use crate::settings::{SseSettings, WebhookSettings};
use crate::sse::heads::Heads;
use crate::sse::hub::Hub;
use crate::webhook::resolver::Resolver;
use crate::webhook::target::Rules;

/// Most bytes of a request body, as on the gateway.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// What the handlers need.
#[derive(Clone)]
pub struct Api {
    /// The `notify` database.
    pub db: Db,
    /// The connected streams.
    pub hub: Hub,
    /// Where streams begin.
    pub heads: Heads,
    /// Streams end when it is cancelled.
    pub end_of_streams: CancellationToken,
    /// Settings of streams.
    pub sse: SseSettings,
    /// Settings of webhooks.
    pub webhooks: WebhookSettings,
    /// Rung when there are new deliveries.
    pub due: Arc<Notify>,
}

impl Api {
    fn rules(&self) -> Rules {
        Rules::new(self.webhooks.allow_private, self.webhooks.ports.0.clone())
    }

    fn resolver(&self) -> Resolver {
        Resolver(self.rules())
    }
}

/// Every route of the service.
pub fn routes(cfg: &mut ServiceConfig, api: web::Data<Api>, internal_settings: &InternalSettings) {
    health::routes(cfg);
    let query = QueryConfig::default().error_handler(bad_query);
    cfg.app_data(api).app_data(PayloadConfig::new(BODY_BYTES_MAX)).app_data(query).service(
        web::scope("/internal/v1")
            .wrap(internal::guard(internal_settings))
            .route("/events", web::get().to(events::stream))
            .service(
                web::resource("/admin/audit-log")
                    .route(web::get().to(audit_log::list))
                    .default_service(web::to(method_not_allowed)),
            )
            .service(
                web::resource("/admin/users/{user_id}/erase")
                    .route(web::post().to(erasure::erase))
                    .default_service(web::to(method_not_allowed)),
            )
            .service(
                web::resource("/admin/webhooks")
                    .route(web::post().to(webhooks::create))
                    .route(web::get().to(webhooks::list))
                    .default_service(web::to(method_not_allowed)),
            )
            .service(
                web::resource("/admin/webhooks/{id}")
                    .route(web::delete().to(webhooks::delete))
                    .default_service(web::to(method_not_allowed)),
            )
            .service(
                web::resource("/admin/webhooks/{id}/deliveries")
                    .route(web::get().to(deliveries::list))
                    .default_service(web::to(method_not_allowed)),
            )
            .service(
                web::resource("/admin/webhooks/{id}/deliveries/{delivery_id}/redeliver")
                    .route(web::post().to(deliveries::redeliver))
                    .default_service(web::to(method_not_allowed)),
            )
            .default_service(web::to(not_found)),
    );
    cfg.default_service(web::to(not_found));
}

/// Such as a parameter that is there twice.
fn bad_query(_: QueryPayloadError, _: &HttpRequest) -> Error {
    ApiError::invalid("query", "must hold each parameter only once").into()
}

async fn not_found() -> HttpResponse {
    Problem::new(Code::NotFound).response()
}

async fn method_not_allowed() -> HttpResponse {
    Problem::new(Code::MethodNotAllowed).response()
}
