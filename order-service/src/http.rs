//! The HTTP API: every path on one screen. Contracts are in docs/API.md and `common::api`.

pub mod caller;

use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use common::problem::{Code, Problem};
use common::{health, internal};
use secrecy::SecretString;

use crate::db::Db;
use crate::error::ApiError;

/// What handlers work with, each part as an app data of its own.
#[derive(Clone)]
pub struct State {
    /// The database.
    pub db: Db,
    /// The shared secret of `/internal/v1`.
    pub internal_token: SecretString,
}

/// Longest JSON body, in bytes.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Registers everything.
pub fn routes(cfg: &mut ServiceConfig, state: &State) {
    cfg.app_data(web::Data::new(state.db.clone()))
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
                .wrap(internal::guard(&state.internal_token))
                .configure(for_stock_service)
                .configure(for_buyers)
                .configure(for_admins)
                .default_service(web::route().to(no_such_route)),
        )
        .default_service(web::route().to(no_such_route));
}

fn for_stock_service(_cfg: &mut ServiceConfig) {}

fn for_buyers(_cfg: &mut ServiceConfig) {}

fn for_admins(_cfg: &mut ServiceConfig) {}

async fn no_such_route(_request: HttpRequest) -> HttpResponse {
    Problem::new(Code::NotFound).response()
}
