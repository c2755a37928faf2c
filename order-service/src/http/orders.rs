//! Orders, for their owners: somebody else's order does not exist.

use std::time::Duration;

use actix_web::{HttpResponse, web};
use common::api::{Order, OrderStatus, Page};
use common::failpoint;
use common::ids::{OrderId, UserId};
use common::internal::OnBehalfOf;
use common::messages::order::OrderV1;
use diesel::SelectableHelper as _;
use diesel::{BoolExpressionMethods as _, ExpressionMethods as _, OptionalExtension as _, QueryDsl as _};
use diesel_async::RunQueryDsl as _;
use serde::Deserialize;
use tokio::time::Instant;

use super::cursor::{self, Cursor};
use crate::db::schema::orders;
use crate::db::{Db, DbError};
use crate::error::ApiError;
use crate::orders::{OrderRow, into_orders};
use crate::transitions::transition;
use crate::watch::Watch;
use crate::{crash_points, planted};

/// Longest that a caller may wait for a change, in seconds.
const WAIT_MAX_S: u64 = 30;

/// The query of [`get`].
#[derive(Debug, Deserialize)]
pub struct GetQuery {
    /// Seconds to wait for a change.
    wait: Option<u64>,
    /// The version that the caller has; without it the present one, and only while the order waits for payment.
    version: Option<i64>,
}

/// The query of [`list`].
#[derive(Debug, Deserialize)]
pub struct ListQuery {
    cursor: Option<String>,
    limit: Option<String>,
}

/// `GET /internal/v1/orders/{id}`
pub async fn get(
    (db, watch): (web::Data<Db>, web::Data<Watch>),
    caller: OnBehalfOf,
    id: web::Path<OrderId>,
    query: web::Query<GetQuery>,
) -> Result<HttpResponse, ApiError> {
    let order = find(&db, &caller.user_id, *id).await?.ok_or_else(ApiError::not_found)?;
    let wait_s = query.wait.unwrap_or(0).min(WAIT_MAX_S);
    let known = match query.version {
        Some(version) => version,
        None if order.status == OrderStatus::PendingPayment => order.version,
        // Nothing more happens to it by itself.
        None => 0,
    };
    if wait_s == 0 || order.version > known {
        return Ok(HttpResponse::Ok().json(order));
    }
    watch.changed(*id, order.version, Instant::now() + Duration::from_secs(wait_s)).await;
    let order = find(&db, &caller.user_id, *id).await?.ok_or_else(ApiError::not_found)?;
    Ok(HttpResponse::Ok().json(order))
}

/// `GET /internal/v1/orders`, newest first.
pub async fn list(
    db: web::Data<Db>,
    caller: OnBehalfOf,
    query: web::Query<ListQuery>,
) -> Result<HttpResponse, ApiError> {
    let limit = cursor::limit(query.limit.as_deref())?;
    let after = query.cursor.as_deref().map(Cursor::decode).transpose()?;
    let rows = page_of(&db, &caller.user_id, after, limit + 1).await?;
    let (rows, next_cursor) = cursor::page(rows, limit, |row| Cursor { at: row.created_at, id: row.id });
    let items = into_orders(rows)?.into_iter().map(|order| order.order).collect();
    Ok(HttpResponse::Ok().json(Page::<Order> { items, next_cursor }))
}

/// `POST /internal/v1/orders/{id}/cancel`
pub async fn cancel(
    db: web::Data<Db>,
    caller: OnBehalfOf,
    id: web::Path<OrderId>,
) -> Result<HttpResponse, ApiError> {
    let id = *id;
    if find(&db, &caller.user_id, id).await?.is_none() {
        return Err(ApiError::not_found());
    }
    let cancelled = db.transaction(move |conn| {
        Box::pin(async move {
            let cancelled = transition(conn, &[id], OrderStatus::Cancelled, None).await?;
            failpoint::reach(crash_points::CANCEL_COMMIT_BEFORE).await?;
            Ok(cancelled)
        })
    });
    // Whoever comes second changes nothing.
    let cancelled: Option<OrderV1> = cancelled.await.map_err(ApiError::Write)?.into_iter().next();
    let lost = |injected: failpoint::Injected| ApiError::Write(injected.into());
    failpoint::reach(crash_points::CANCEL_COMMIT_AFTER).await.map_err(lost)?;
    cancelled.map(|order| HttpResponse::Ok().json(order.order)).ok_or_else(ApiError::invalid_transition)
}

/// The order of this user with this id.
///
/// # Errors
/// The database's.
pub async fn find(db: &Db, user: &UserId, id: OrderId) -> Result<Option<Order>, DbError> {
    let mut conn = db.get().await?;
    let mut order = orders::table.find(id.0).select(OrderRow::as_select()).into_boxed();
    if !failpoint::planted(planted::FOREIGN_ORDER_SHOWN) {
        order = order.filter(orders::user_id.eq(user.as_str()));
    }
    let row: Option<OrderRow> = order.first(&mut conn).await.optional()?;
    Ok(row.map(OrderRow::into_order).transpose()?.map(|order| order.order))
}

async fn page_of(
    db: &Db,
    user: &UserId,
    after: Option<Cursor>,
    limit: i64,
) -> Result<Vec<OrderRow>, DbError> {
    let mut rows = orders::table
        .filter(orders::user_id.eq(user.as_str()))
        .order((orders::created_at.desc(), orders::id.desc()))
        .limit(limit)
        .select(OrderRow::as_select())
        .into_boxed();
    if let Some(Cursor { at, id }) = after {
        let same_time = orders::created_at.eq(at).and(orders::id.lt(id));
        rows = rows.filter(orders::created_at.le(at)).filter(orders::created_at.lt(at).or(same_time));
    }
    let mut conn = db.get().await?;
    Ok(rows.load(&mut conn).await?)
}
