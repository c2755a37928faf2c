//! Parked messages, for admins.

use actix_web::{HttpResponse, web};
use common::amqp::{PublishError, Publisher};
use common::api::Page;
use common::api::admin::DeadLetter;
use common::internal::OnBehalfOf;
use diesel::{BoolExpressionMethods as _, ExpressionMethods as _, QueryDsl as _, SelectableHelper as _};
use diesel_async::RunQueryDsl as _;
use serde::Deserialize;
use uuid::Uuid;

use super::cursor::{self, Cursor};
use crate::db::schema::dead_letters;
use crate::db::{Db, DbError};
use crate::dead_letters::{self as letters, DeadLetterRow, Replayed};
use crate::error::ApiError;

/// Longest name of a queue, in bytes: AMQP's short strings.
const QUEUE_LENGTH_MAX: usize = 255;

/// The query of [`list`].
#[derive(Debug, Deserialize)]
pub struct ListQuery {
    queue: Option<String>,
    cursor: Option<String>,
    limit: Option<String>,
}

/// `GET /internal/v1/admin/dead-letters`, newest first.
pub async fn list(
    db: web::Data<Db>,
    _caller: OnBehalfOf,
    query: web::Query<ListQuery>,
) -> Result<HttpResponse, ApiError> {
    let query = query.into_inner();
    let limit = cursor::limit(query.limit.as_deref())?;
    let after = query.cursor.as_deref().map(Cursor::decode).transpose()?;
    let queue = query.queue.map(queue_name).transpose()?;
    let rows = page_of(&db, queue, after, limit + 1).await?;
    let (rows, next_cursor) = cursor::page(rows, limit, |row| Cursor { at: row.first_seen_at, id: row.id });
    let items = rows.into_iter().map(DeadLetterRow::into_dead_letter).collect();
    Ok(HttpResponse::Ok().json(Page::<DeadLetter> { items, next_cursor }))
}

/// `POST /internal/v1/admin/dead-letters/{id}/replay`
pub async fn replay(
    (db, publisher): (web::Data<Db>, web::Data<Publisher>),
    caller: OnBehalfOf,
    id: web::Path<Uuid>,
) -> Result<HttpResponse, ApiError> {
    match letters::replay(&db, &publisher, *id, caller.user_id).await.map_err(ApiError::Write)? {
        Replayed::Sent => Ok(HttpResponse::NoContent().finish()),
        Replayed::NotFound => Err(ApiError::not_found()),
        Replayed::NotSent(PublishError::Unknown) => Err(ApiError::outcome_unknown()),
        Replayed::NotSent(PublishError::NotReady | PublishError::Unroutable | PublishError::Refused) => {
            Err(ApiError::unavailable())
        }
    }
}

/// `DELETE /internal/v1/admin/dead-letters/{id}`
pub async fn delete(
    db: web::Data<Db>,
    caller: OnBehalfOf,
    id: web::Path<Uuid>,
) -> Result<HttpResponse, ApiError> {
    if letters::delete(&db, *id, caller.user_id).await.map_err(ApiError::Write)? {
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(ApiError::not_found())
    }
}

fn queue_name(text: String) -> Result<String, ApiError> {
    if text.is_empty() || text.len() > QUEUE_LENGTH_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let rule = format!("must be 1 to {QUEUE_LENGTH_MAX} visible ASCII characters");
        return Err(ApiError::invalid("queue", rule));
    }
    Ok(text)
}

async fn page_of(
    db: &Db,
    queue: Option<String>,
    after: Option<Cursor>,
    limit: i64,
) -> Result<Vec<DeadLetterRow>, DbError> {
    let mut rows = dead_letters::table
        .order((dead_letters::first_seen_at.desc(), dead_letters::id.desc()))
        .limit(limit)
        .select(DeadLetterRow::as_select())
        .into_boxed();
    if let Some(queue) = queue {
        rows = rows.filter(dead_letters::queue.eq(queue));
    }
    if let Some(Cursor { at, id }) = after {
        let same_time = dead_letters::first_seen_at.eq(at).and(dead_letters::id.lt(id));
        rows = rows.filter(dead_letters::first_seen_at.lt(at).or(same_time));
    }
    let mut conn = db.get().await?;
    Ok(rows.load(&mut conn).await?)
}
