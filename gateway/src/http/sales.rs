//! What is on sale, for everybody.

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, ContentType, HeaderName};
use common::api::Sale;
use common::ids::SaleId;
use common::problem::Code;
use tokio::time::Instant;

use crate::endpoint::{Answer, Call};
use crate::listing::{Page, Sales};

/// A shared cache may take the load of a page that everybody looks at.
const CACHEABLE: &str = "public, max-age=1";

/// Says what may be out of date, because the service that knows it cannot be asked: `stock`, as the field `stale` of a
/// sale says too, `sales`, or both.
const STALE: HeaderName = HeaderName::from_static("x-stale");

/// All published sales, newest start first.
#[utoipa::path(get, path = "/api/v1/sales", tag = "sales",
    responses((status = 200, description = "The sales.", body = Sales,
        headers(("X-Stale" = Option<String>, description = "`stock`, `sales`: the last that was known, since a service is away.")))))]
pub async fn list(call: Call) -> Answer {
    let body = call.state.listing.all(&call.state.catalogue).ok_or(Code::Unavailable)?;
    Ok(cacheable(body))
}

/// One published sale.
#[utoipa::path(get, path = "/api/v1/sales/{sale_id}", tag = "sales", params(("sale_id" = SaleId, Path)),
    responses((status = 200, description = "The sale.", body = Sale,
        headers(("X-Stale" = Option<String>, description = "`stock`, `sales`: the last that was known, since a service is away.")))))]
pub async fn single(call: Call) -> Answer {
    let sale = SaleId(call.id("sale_id")?);
    let (listing, catalogue) = (&call.state.listing, &call.state.catalogue);
    if let Some(body) = listing.single(sale, catalogue).ok_or(Code::Unavailable)? {
        return Ok(cacheable(body));
    }
    // Published a moment ago, or so long ago that the listing has dropped it, or there is no such sale.
    if !call.state.known_ids.may_contain(sale.0, Instant::now()) {
        return Err(Code::NotFound.into());
    }
    let found = call.state.sale_cache.get(sale, call.deadline).await?.ok_or(Code::NotFound)?;
    Ok(cacheable(listing.render(Sale::clone(&found), catalogue)))
}

fn cacheable(page: Page) -> HttpResponse {
    let mut response = HttpResponse::Ok();
    response.insert_header((CACHE_CONTROL, CACHEABLE)).content_type(ContentType::json());
    let old = match (page.old_stock, page.old_sales) {
        (false, false) => None,
        (true, false) => Some("stock"),
        (false, true) => Some("sales"),
        (true, true) => Some("stock, sales"),
    };
    if let Some(old) = old {
        response.insert_header((STALE, old));
    }
    response.body(page.body)
}
