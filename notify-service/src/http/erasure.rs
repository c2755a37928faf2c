//! Erasing a user's personal data, for admins.

use actix_web::{Error, HttpResponse, web};
use common::api::erasure::Erase;
use common::ids::UserId;

use super::caller::Admin;
use super::{Api, body};
use crate::db::erasure;
use crate::error::ApiError;

/// `POST /internal/v1/admin/users/{user_id}/erase`
pub async fn erase(
    api: web::Data<Api>,
    admin: Admin,
    user: web::Path<String>,
    sent: Result<web::Bytes, Error>,
) -> Result<HttpResponse, ApiError> {
    let user: UserId = user.parse().map_err(|_| ApiError::NotFound)?;
    let Erase { erasure_id } = body::parse(&sent.map_err(|error| body::unreadable(&error))?)?;
    let erased = erasure::erase(&mut *api.db.get().await?, &admin.0, (erasure_id, &user)).await?;
    Ok(HttpResponse::Ok().json(erased))
}
