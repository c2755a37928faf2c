//! Orders of everybody, for admins: as JSON pages or as CSV, and refunds.

use actix_web::http::header::{Accept, CONTENT_DISPOSITION, Header as _, Quality};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Utc};
use common::api::admin::AdminOrder;
use common::api::{OrderStatus, Page};
use common::ids::{OrderId, UserId};
use futures_util::stream;
use serde::Deserialize;
use uuid::Uuid;

use super::admin::{Admin, done};
use super::cursor::{self, Cursor};
use super::{csv, csv::HEADER};
use crate::db::Db;
use crate::db::replica::Reports;
use crate::error::ApiError;
use crate::orders::admin_listing::{self, Filter};
use crate::payments::refunds;

/// Orders that are read at once for a CSV.
const CSV_PAGE: i64 = 500;

/// Which orders.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrdersQuery {
    sale_id: Option<String>,
    status: Option<String>,
    user_id: Option<String>,
    cursor: Option<String>,
    limit: Option<String>,
}

/// `GET /internal/v1/admin/orders`: the newest first; a page of JSON, or CSV if that is what the client accepts.
///
/// CSV comes without pages, as a stream of everything; with `limit` it is as long as a page.
pub async fn list(
    reports: web::Data<Reports>,
    _: Admin,
    query: web::Query<OrdersQuery>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let filter = filter(&query)?;
    let after = query.cursor.as_deref().map(Cursor::decode).transpose()?;
    let limit = cursor::limit(query.limit.as_deref())?;
    if wants_csv(&request) {
        let left = query.limit.as_ref().map(|_| limit);
        return Ok(as_csv(reports.get_ref().clone(), filter, after, left));
    }
    let (filter, after) = (&filter, after.map(pair));
    let read = async |conn: &mut _| admin_listing::page(conn, filter, after, limit + 1).await;
    let orders = reports.read(read).await?;
    let (items, next_cursor) = cursor::page(orders, limit, place);
    Ok(HttpResponse::Ok().json(Page { items, next_cursor }))
}

/// `POST /internal/v1/admin/orders/{order_id}/refund`: takes a paid order back.
pub async fn refund(
    db: web::Data<Db>,
    Admin(actor): Admin,
    id: web::Path<Uuid>,
) -> Result<HttpResponse, ApiError> {
    let change = refunds::request(&db, actor, OrderId(*id)).await.map_err(ApiError::Write)?;
    Ok(HttpResponse::Ok().json(done(change)?))
}

fn filter(query: &OrdersQuery) -> Result<Filter, ApiError> {
    let sale_id = query
        .sale_id
        .as_deref()
        .map(|text| Uuid::parse_str(text).map_err(|_| ApiError::invalid("sale_id", "must be a UUID")))
        .transpose()?;
    let status = query
        .status
        .as_deref()
        .map(|text| crate::orders::parse::<OrderStatus>("status", text))
        .transpose()
        .map_err(|_| ApiError::invalid("status", "must be a status of an order"))?;
    let user_id = query
        .user_id
        .as_deref()
        .map(|text| text.parse::<UserId>().map_err(|error| ApiError::invalid("user_id", error)))
        .transpose()?;
    Ok(Filter { sale_id, status, user_id })
}

/// The media type that Accept prefers among those that are served here; without one it is JSON.
fn wants_csv(request: &HttpRequest) -> bool {
    let Ok(mut accept) = Accept::parse(request) else { return false };
    accept.retain(|range| range.quality > Quality::ZERO);
    let preferred = accept.ranked().into_iter().find_map(|range| match range.essence_str() {
        "text/csv" => Some(true),
        "application/json" | "*/*" => Some(false),
        _ => None,
    });
    preferred.unwrap_or(false)
}

fn place(order: &AdminOrder) -> Cursor {
    Cursor { at: order.order.created_at, id: order.order.id.0 }
}

fn pair(cursor: Cursor) -> (DateTime<Utc>, Uuid) {
    (cursor.at, cursor.id)
}

/// How far a CSV has come.
enum Written {
    Nothing(Option<Cursor>),
    UpTo(Cursor),
    All,
}

/// Reads page by page as the client takes it, so that memory does not grow with the listing. An error in the middle
/// breaks the connection off: a client sees that the file is not whole.
fn as_csv(reports: Reports, filter: Filter, before: Option<Cursor>, left: Option<i64>) -> HttpResponse {
    let start = (Written::Nothing(before), left);
    let chunks = stream::try_unfold(start, move |(written, left)| {
        let (reports, filter) = (reports.clone(), filter.clone());
        async move {
            let (before, mut text) = match written {
                Written::Nothing(before) => (before, HEADER.to_owned()),
                Written::UpTo(place) => (Some(place), String::new()),
                Written::All => return Ok::<_, ApiError>(None),
            };
            let wanted = left.map_or(CSV_PAGE, |left| left.min(CSV_PAGE));
            let (filter, before) = (&filter, before.map(pair));
            let page = async |conn: &mut _| admin_listing::page(conn, filter, before, wanted).await;
            let orders = reports.read(page).await?;
            text.extend(orders.iter().map(csv::line));
            let read = i64::try_from(orders.len()).unwrap_or(i64::MAX);
            let left = left.map(|left| left - read);
            let written = match orders.last() {
                Some(last) if read == CSV_PAGE && left != Some(0) => Written::UpTo(place(last)),
                Some(_) | None => Written::All,
            };
            Ok(Some((Bytes::from(text), (written, left))))
        }
    });
    HttpResponse::Ok()
        .content_type("text/csv; charset=utf-8; header=present")
        .insert_header((CONTENT_DISPOSITION, "attachment; filename=\"orders.csv\""))
        .streaming(Box::pin(chunks))
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::ACCEPT;
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn csv_is_for_whom_prefers_it() {
        let cases = [
            ("", false),
            ("*/*", false),
            ("text/csv", true),
            ("Text/CSV; header=present", true),
            ("text/csv;q=0", false),
            ("text/csv;q=0, */*", false),
            ("application/json, text/csv;q=0.1", false),
            ("text/csv;q=0.1, application/json", false),
            ("application/json;q=0.1, text/csv;q=0.2", true),
            ("text/csv, application/json", true),
            ("application/json, text/csv", false),
            ("text/html, text/csv;q=0.5, */*;q=0.1", true),
            ("text/csv;q=x", false),
        ];
        for (accept, csv) in cases {
            let request = TestRequest::default().insert_header((ACCEPT, accept)).to_http_request();
            assert_eq!(wants_csv(&request), csv, "{accept}");
        }
    }
}
