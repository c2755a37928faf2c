//! Erasing a user's personal data.

use actix_web::{HttpResponse, web};
use common::api::erasure::Erase;
use common::ids::UserId;

use super::admin::Admin;
use super::body::Json;
use crate::db::Db;
use crate::erasure;
use crate::error::ApiError;

/// How long messages may be told again, in hours.
#[derive(Debug, Clone, Copy)]
pub struct KeepHours(pub i32);

/// `POST /internal/v1/admin/users/{user_id}/erase`
pub async fn erase(
    (db, keep): (web::Data<Db>, web::Data<KeepHours>),
    Admin(actor): Admin,
    user: web::Path<String>,
    Json(wish): Json<Erase>,
) -> Result<HttpResponse, ApiError> {
    let user: UserId = user.parse().map_err(|_| ApiError::not_found())?;
    let of = (wish.erasure_id, user);
    let erased = erasure::erase(&db, actor, of, keep.0).await.map_err(ApiError::Write)?;
    Ok(HttpResponse::Ok().json(erased))
}
