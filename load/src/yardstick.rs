//! What the benchmark compares with: a bare handler, and the classic design in one process.

use std::path::Path;

use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::web::{self, Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use redis::aio::ConnectionManager;
use serde::Deserialize;
use uuid::Uuid;

use crate::report::say;

/// Most headers of the answer that is copied.
const HEADERS_MAX: usize = 48;
/// Units that the classic design has on sale.
const UNITS: i64 = 1_000_000_000;
/// One unit for whoever has none by this key, while there are any.
const BUY: &str = "
if redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 1 then return 1 end
if tonumber(redis.call('GET', KEYS[1])) < tonumber(ARGV[2]) then return -2 end
redis.call('DECRBY', KEYS[1], ARGV[2])
redis.call('SADD', KEYS[2], ARGV[1])
return 0";

/// An answer that is given to every request.
#[derive(Debug, Clone)]
struct Copied {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Copied {
    /// From an answer as it came over the wire. What the server writes by itself is left to it.
    fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = head.parse(bytes)? else {
            anyhow::bail!("the answer to copy is not whole");
        };
        let status = StatusCode::from_u16(head.code.context("the answer to copy has no status")?)?;
        let by_server = ["content-length", "date", "connection"];
        let kept = head.headers.iter().filter(|header| !by_server.contains(&&*header.name.to_lowercase()));
        let headers = kept
            .map(|header| Ok((HeaderName::try_from(header.name)?, HeaderValue::from_bytes(header.value)?)))
            .collect::<anyhow::Result<_>>()?;
        Ok(Self { status, headers, body: Bytes::copy_from_slice(&bytes[length..]) })
    }
}

/// Serves a handler that reads the request and gives the answer in the file, and does nothing else. Prints its port.
///
/// # Errors
/// It cannot serve.
pub async fn bare(answer: &Path) -> anyhow::Result<()> {
    let answer = Copied::parse(&std::fs::read(answer)?)?;
    let server = HttpServer::new(move || {
        App::new()
            .app_data(Data::new(answer.clone()))
            .route("/api/v1/items/{item_id}/orders", web::post().to(copied))
    });
    let server = server.bind(("127.0.0.1", 0))?;
    say(&server.addrs()[0].port().to_string());
    Ok(server.run().await?)
}

/// The body is taken, so that it is read.
async fn copied(answer: Data<Copied>, _body: Bytes) -> HttpResponse {
    let mut response = HttpResponse::build(answer.status);
    for header in &answer.headers {
        response.append_header(header.clone());
    }
    response.body(answer.body.clone())
}

/// The classic design: a script call for each request, and the answer; nothing is durable. Prints its port.
///
/// # Errors
/// It cannot serve.
pub async fn classic(redis_url: &str) -> anyhow::Result<()> {
    let mut redis = ConnectionManager::new(redis::Client::open(redis_url)?).await?;
    let () = redis::cmd("SET").arg("stock").arg(UNITS).query_async(&mut redis).await?;
    let server = HttpServer::new(move || {
        App::new()
            .app_data(Data::new(redis.clone()))
            .app_data(Data::new(redis::Script::new(BUY)))
            .route("/api/v1/items/{item_id}/orders", web::post().to(buy))
    });
    let server = server.bind(("127.0.0.1", 0))?;
    say(&server.addrs()[0].port().to_string());
    Ok(server.run().await?)
}

#[derive(Deserialize)]
struct Wish {
    quantity: u32,
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

async fn buy(
    request: HttpRequest,
    wish: web::Json<Wish>,
    redis: Data<ConnectionManager>,
    script: Data<redis::Script>,
) -> HttpResponse {
    let Some(user) = user(&request) else { return HttpResponse::Unauthorized().finish() };
    let key = request.headers().get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or_default();
    let mut call = script.prepare_invoke();
    call.key("stock").key("buyers").arg(format!("{user}:{key}")).arg(wish.quantity);
    let mut redis = ConnectionManager::clone(&redis);
    match call.invoke_async::<i64>(&mut redis).await {
        Ok(0 | 1) => HttpResponse::Accepted()
            .json(serde_json::json!({ "order_id": Uuid::new_v4(), "status": "queued" })),
        Ok(_) => HttpResponse::Conflict().finish(),
        Err(_) => HttpResponse::ServiceUnavailable().finish(),
    }
}

/// Whose token it is; its signature is not even checked.
fn user(request: &HttpRequest) -> Option<String> {
    let token = request.headers().get("authorization")?.to_str().ok()?;
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    Some(serde_json::from_slice::<Claims>(&claims).ok()?.sub)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_answer_keeps_all_but_what_the_server_writes() {
        let bytes = b"HTTP/1.1 409 Conflict\r\ncontent-length: 2\r\nX-Outcome: none\r\ndate: now\r\n\r\n{}";
        let copied = Copied::parse(bytes).unwrap();
        assert_eq!((copied.status.as_u16(), &*copied.body), (409, &b"{}"[..]));
        let names: Vec<&str> = copied.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["x-outcome"]);
    }
}
