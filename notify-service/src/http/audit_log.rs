//! The audit log of this service; the gateway merges it with those of others.

use actix_web::{HttpResponse, web};
use serde::Deserialize;

use super::caller::Admin;
use super::{Api, page};
use crate::db::audit_log;
use crate::error::ApiError;

/// Read as text, so that a bad value is answered with its name.
#[derive(Debug, Deserialize)]
pub struct Query {
    cursor: Option<String>,
    limit: Option<String>,
}

/// `GET /internal/v1/admin/audit-log?cursor=&limit=`: what admins did, the newest first.
pub async fn list(
    api: web::Data<Api>,
    _admin: Admin,
    query: web::Query<Query>,
) -> Result<HttpResponse, ApiError> {
    let limit = page::limit(query.limit.as_deref())?;
    let before = page::cursor(query.cursor.as_deref())?;
    // One more than asked for tells whether there is another page.
    let entries = audit_log::page(&mut *api.db.get().await?, before, limit + 1).await?;
    Ok(HttpResponse::Ok().json(page::page(entries, limit, |entry| entry.id.to_string())))
}
