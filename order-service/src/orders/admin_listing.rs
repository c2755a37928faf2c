//! Orders of everybody, the newest first.

use chrono::{DateTime, Utc};
use common::api::OrderStatus;
use common::api::admin::AdminOrder;
use common::ids::UserId;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::{OrderRow, into_orders, text};
use crate::db::DbError;
use crate::db::schema::orders;

/// Which orders: those that fit everything that is said.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this sale.
    pub sale_id: Option<Uuid>,
    /// In this state.
    pub status: Option<OrderStatus>,
    /// Of this user.
    pub user_id: Option<UserId>,
}

/// Up to `limit` orders, those after the place `before`.
///
/// # Errors
/// The database.
pub async fn page(
    conn: &mut AsyncPgConnection,
    filter: &Filter,
    before: Option<(DateTime<Utc>, Uuid)>,
    limit: i64,
) -> Result<Vec<AdminOrder>, DbError> {
    let mut query = orders::table
        .order((orders::created_at.desc(), orders::id.desc()))
        .limit(limit)
        .select(OrderRow::as_select())
        .into_boxed();
    if let Some(sale) = filter.sale_id {
        query = query.filter(orders::sale_id.eq(sale));
    }
    if let Some(status) = &filter.status {
        query = query.filter(orders::status.eq(text(status)?));
    }
    if let Some(user) = &filter.user_id {
        query = query.filter(orders::user_id.eq(user.as_str()));
    }
    if let Some((at, id)) = before {
        // The first condition alone is what the index can use.
        query =
            query.filter(orders::created_at.le(at)).filter(orders::created_at.lt(at).or(orders::id.lt(id)));
    }
    let rows: Vec<OrderRow> = query.load(conn).await?;
    let for_admins = into_orders(rows)?.into_iter();
    Ok(for_admins.map(|order| AdminOrder { order: order.order, user_id: order.user_id }).collect())
}
