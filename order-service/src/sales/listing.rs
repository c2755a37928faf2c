//! Reading sales.

use chrono::{DateTime, Utc};
use diesel::dsl::now;
use diesel::prelude::*;
use diesel::sql_types::Timestamptz;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::{ItemRow, SaleRecord, SaleRow};
use crate::db::DbError;
use crate::db::schema::{items, sales};

/// Most sales that are over in the public listing; it has no pages.
pub const ENDED_MAX: i64 = 200;

/// The published sales, newest start first: all that are not over, and of the others the newest [`ENDED_MAX`].
///
/// # Errors
/// The database.
pub async fn published(conn: &mut AsyncPgConnection) -> Result<Vec<SaleRecord>, DbError> {
    // One statement, so that a sale that ends just now is in exactly one of the two.
    let over = diesel::alias!(sales as over);
    let newest_over = over
        .filter(over.field(sales::published_at).is_not_null())
        .filter(over.field(sales::ended_at).is_not_null().or(over.field(sales::ends_at).le(now)))
        .order((over.field(sales::starts_at).desc(), over.field(sales::id).desc()))
        .limit(ENDED_MAX)
        .select(over.field(sales::id));
    let not_over = sales::ended_at.is_null().and(sales::ends_at.gt(now));
    let rows = sales::table
        .filter(sales::published_at.is_not_null())
        .filter(not_over.or(sales::id.eq_any(newest_over)))
        .order((sales::starts_at.desc(), sales::id.desc()))
        .select((SaleRow::as_select(), now.into_sql::<Timestamptz>()))
        .load(conn)
        .await?;
    with_items(conn, rows).await
}

/// Up to `limit` sales of any state, the newest made first, those made before `before`.
///
/// # Errors
/// The database.
pub async fn page(
    conn: &mut AsyncPgConnection,
    before: Option<(DateTime<Utc>, Uuid)>,
    limit: i64,
) -> Result<Vec<SaleRecord>, DbError> {
    let mut query = sales::table
        .order((sales::created_at.desc(), sales::id.desc()))
        .limit(limit)
        .select((SaleRow::as_select(), now.into_sql::<Timestamptz>()))
        .into_boxed();
    if let Some((at, id)) = before {
        query = query.filter(sales::created_at.lt(at).or(sales::created_at.eq(at).and(sales::id.lt(id))));
    }
    let rows = query.load(conn).await?;
    with_items(conn, rows).await
}

/// Ids of published sales and of their items, up to `limit`, from the one after `after` on: all there ever were.
///
/// # Errors
/// The database.
pub async fn known_ids(conn: &mut AsyncPgConnection, after: Uuid, limit: i64) -> Result<Vec<Uuid>, DbError> {
    let of_sales = sales::table
        .filter(sales::published_at.is_not_null().and(sales::id.gt(after)))
        .order(sales::id)
        .limit(limit)
        .select(sales::id)
        .load::<Uuid>(conn)
        .await?;
    let of_items = items::table
        .inner_join(sales::table)
        .filter(sales::published_at.is_not_null().and(items::id.gt(after)))
        .order(items::id)
        .limit(limit)
        .select(items::id)
        .load::<Uuid>(conn)
        .await?;
    let mut ids = [of_sales, of_items].concat();
    ids.sort_unstable();
    ids.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(ids)
}

/// One sale of any state.
///
/// # Errors
/// The database.
pub async fn find(conn: &mut AsyncPgConnection, id: Uuid) -> Result<Option<SaleRecord>, DbError> {
    let row = sales::table
        .find(id)
        .select((SaleRow::as_select(), now.into_sql::<Timestamptz>()))
        .first(conn)
        .await
        .optional()?;
    Ok(with_items(conn, row.into_iter().collect()).await?.pop())
}

/// One sale of any state, it and then its items locked for the rest of the transaction.
///
/// Items are locked by rising id, as everybody does who locks several.
///
/// # Errors
/// The database.
pub async fn lock(conn: &mut AsyncPgConnection, id: Uuid) -> Result<Option<SaleRecord>, DbError> {
    let row: Option<(SaleRow, DateTime<Utc>)> = sales::table
        .find(id)
        .select((SaleRow::as_select(), now.into_sql::<Timestamptz>()))
        .for_no_key_update()
        .first(conn)
        .await
        .optional()?;
    items::table
        .filter(items::sale_id.eq(id))
        .order(items::id)
        .select(items::id)
        .for_no_key_update()
        .load::<Uuid>(conn)
        .await?;
    Ok(with_items(conn, row.into_iter().collect()).await?.pop())
}

async fn with_items(
    conn: &mut AsyncPgConnection,
    rows: Vec<(SaleRow, DateTime<Utc>)>,
) -> Result<Vec<SaleRecord>, DbError> {
    let ids: Vec<Uuid> = rows.iter().map(|(sale, _)| sale.id).collect();
    let mut all: Vec<ItemRow> = items::table
        .filter(items::sale_id.eq_any(ids))
        .order((items::sale_id, items::position))
        .select(ItemRow::as_select())
        .load(conn)
        .await?;
    let records = rows.into_iter().map(|(sale, at)| {
        let items = all.extract_if(.., |item| item.sale_id == sale.id).collect();
        SaleRecord { sale, items, now: at }
    });
    Ok(records.collect())
}
