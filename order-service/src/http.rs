//! The HTTP API: every path on one screen. The contracts are in `common::api`.

pub mod admin;
pub mod admin_orders;
pub mod admin_sales;
pub mod audit;
pub mod blocks;
pub mod body;
mod csv;
pub mod cursor;
pub mod dead_letters;
pub mod erasure;
pub mod inventory;
pub mod orders;
pub mod payments;
pub mod sales;
pub mod sandbox;
pub mod withdraw;

use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use common::amqp::Publisher;
use common::problem::{Code, Problem};
use common::settings::InternalSettings;
use common::{health, internal};

use crate::db::Db;
use crate::db::replica::Reports;
use crate::error::ApiError;
use crate::watch::Watch;

/// What handlers work with, each part as an app data of its own.
#[derive(Clone)]
pub struct State {
    /// The database.
    pub db: Db,
    /// What may be read from a replica.
    pub reports: Reports,
    /// Waiting for orders to change.
    pub watch: Watch,
    /// Sends dead letters again.
    pub publisher: Publisher,
    /// What callers of `/internal/v1` prove themselves with.
    pub internal: InternalSettings,
    /// The payment providers.
    pub checkout: payments::Checkout,
    /// The sandbox provider.
    pub sandbox: sandbox::Sandbox,
    /// stock-service's books.
    pub books: audit::Inventory,
    /// How long published messages may be told again.
    pub keep_hours: i32,
}

/// Longest JSON body, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Registers everything.
pub fn routes(cfg: &mut ServiceConfig, state: &State) {
    cfg.app_data(web::Data::new(state.db.clone()))
        .app_data(web::Data::new(state.reports.clone()))
        .app_data(web::Data::new(state.watch.clone()))
        .app_data(web::Data::new(state.publisher.clone()))
        .app_data(web::Data::new(state.checkout.clone()))
        .app_data(web::Data::new(state.sandbox.clone()))
        .app_data(web::Data::new(state.books.clone()))
        .app_data(
            web::PathConfig::default().error_handler(|error, _| ApiError::invalid("path", error).into()),
        )
        .app_data(
            web::QueryConfig::default().error_handler(|error, _| ApiError::invalid("query", error).into()),
        )
        .app_data(
            web::JsonConfig::default()
                .limit(BODY_BYTES_MAX)
                .error_handler(|error, _| ApiError::invalid("body", error).into()),
        )
        .app_data(web::PayloadConfig::new(BODY_BYTES_MAX))
        .configure(health::routes)
        .service(
            web::scope("/internal/v1")
                .wrap(internal::guard(&state.internal))
                .configure(for_stock_service)
                .configure(for_buyers)
                .app_data(web::Data::new(erasure::KeepHours(state.keep_hours)))
                .configure(for_admins)
                .default_service(web::route().to(no_such_route)),
        )
        .default_service(web::route().to(no_such_route));
}

fn for_stock_service(cfg: &mut ServiceConfig) {
    cfg.route("/items", web::get().to(inventory::items))
        .route("/items/{item_id}", web::get().to(inventory::item))
        .route("/items/{item_id}/epochs", web::post().to(inventory::grant_epoch))
        .route("/items/{item_id}/stock", web::get().to(inventory::stock))
        .route("/items/{item_id}/orders", web::get().to(inventory::quiet_orders))
        .route("/items/{item_id}/orders/lookup", web::post().to(inventory::lookup));
}

fn for_buyers(cfg: &mut ServiceConfig) {
    cfg.route("/orders", web::get().to(orders::list))
        .route("/orders/{id}", web::get().to(orders::get))
        .route("/orders/{id}/cancel", web::post().to(orders::cancel))
        .route("/sales", web::get().to(sales::list))
        .route("/sales/{sale_id}", web::get().to(sales::one))
        .route("/known-ids", web::get().to(sales::known_ids))
        .route("/blocks", web::get().to(blocks::in_force))
        .route("/orders/{order_id}/pay", web::post().to(payments::pay))
        .route("/payments/{provider}/callback", web::post().to(payments::callback))
        .service(
            web::resource("/sandbox/payments/{payment_id}")
                .route(web::get().to(sandbox::show))
                .route(web::post().to(sandbox::choose)),
        );
}

fn for_admins(cfg: &mut ServiceConfig) {
    cfg.service(
        web::resource("/admin/sales")
            .route(web::post().to(admin_sales::create))
            .route(web::get().to(admin_sales::list)),
    )
    .service(
        web::resource("/admin/sales/{sale_id}")
            .route(web::get().to(admin_sales::one))
            .route(web::patch().to(admin_sales::change)),
    )
    .route("/admin/sales/{sale_id}/publish", web::post().to(admin_sales::publish))
    .route("/admin/sales/{sale_id}/pause", web::post().to(admin_sales::pause))
    .route("/admin/sales/{sale_id}/resume", web::post().to(admin_sales::resume))
    .route("/admin/sales/{sale_id}/end", web::post().to(admin_sales::end))
    .route("/admin/sales/{sale_id}/audit", web::get().to(audit::show))
    .route("/admin/items/{item_id}/restock", web::post().to(admin_sales::restock))
    .route("/admin/orders", web::get().to(admin_orders::list))
    .route("/admin/orders/{order_id}/refund", web::post().to(admin_orders::refund))
    .service(
        web::resource("/admin/blocks")
            .route(web::post().to(blocks::create))
            .route(web::get().to(blocks::list)),
    )
    .route("/admin/blocks/{id}", web::delete().to(blocks::lift))
    .route("/admin/users/{user_id}/erase", web::post().to(erasure::erase))
    .route("/admin/audit-log", web::get().to(admin_sales::audit_log))
    .route("/admin/dead-letters", web::get().to(dead_letters::list))
    .route("/admin/dead-letters/{id}/replay", web::post().to(dead_letters::replay))
    .route("/admin/dead-letters/{id}", web::delete().to(dead_letters::delete));
}

async fn no_such_route(_request: HttpRequest) -> HttpResponse {
    Problem::new(Code::NotFound).response()
}
