//! `/internal/v1/catalogue`.

use actix_web::http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};

use super::Api;

/// `GET /internal/v1/catalogue`: every item, or 304 if nothing has changed since `If-None-Match`.
pub async fn show(api: Data<Api>, request: HttpRequest) -> HttpResponse {
    let snapshot = api.catalogue.current().await;
    let known =
        request.headers().get(IF_NONE_MATCH).is_some_and(|tag| tag.as_bytes() == snapshot.etag.as_bytes());
    let mut response = if known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response.insert_header((ETAG, snapshot.etag.as_str())).insert_header((CACHE_CONTROL, "no-cache"));
    if known {
        return response.finish();
    }
    response.content_type("application/json").body(snapshot.body.clone())
}
