//! What describes the API, and whether the process is alive.

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, ContentType};
use common::problem::Code;

use crate::endpoint::{Answer, Call};

/// The page runs the scripts of this server, and no others.
const POLICY: &str =
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'";
/// The files change with the version of the gateway.
const CACHEABLE: &str = "public, max-age=3600";

/// Whether the process is alive.
#[utoipa::path(get, path = "/healthz", tag = "service", responses((status = 200, description = "It is.")))]
pub async fn healthz(_: Call) -> Answer {
    Ok(HttpResponse::Ok().json(serde_json::json!({ "status": "ok" })))
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "service",
    responses((status = 200, description = "OpenAPI 3.1.", body = serde_json::Value)))]
pub async fn openapi(call: Call) -> Answer {
    let document = call.state.documents.openapi.clone();
    Ok(HttpResponse::Ok().content_type(ContentType::json()).body(document))
}

/// This document as a page.
#[utoipa::path(get, path = "/docs", tag = "service",
    responses((status = 200, description = "A page.", body = String, content_type = "text/html")))]
pub async fn index(call: Call) -> Answer {
    page(&call, "")
}

/// The parts of the page.
#[utoipa::path(get, path = "/docs/{file}", tag = "service", params(("file" = String, Path)),
    responses((status = 200, description = "A script, a style or a picture.")))]
pub async fn file(call: Call) -> Answer {
    page(&call, call.path_parameter("file"))
}

fn page(call: &Call, name: &str) -> Answer {
    let (media, body) = call.state.documents.page(name).ok_or(Code::NotFound)?;
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((CACHE_CONTROL, CACHEABLE))
        .content_type(media)
        .body(body))
}
