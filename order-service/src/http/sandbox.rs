//! The sandbox provider's checkout, where buyers decide how their payment goes.

use actix_web::http::header::{
    ACCEPT_LANGUAGE, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::body::{self, Raw};
use crate::db::Db;
use crate::error::ApiError;
use crate::sandbox::Outcome;
use crate::sandbox::ledger::{self, Decision};
use crate::sandbox::notifier::Notifier;
use crate::sandbox::page::{self, Language};

/// The sandbox provider, where it is on.
#[derive(Clone)]
pub struct Sandbox(pub Option<Notifier>);

/// The language that the page's own links ask for.
#[derive(Debug, Deserialize)]
struct Lang {
    lang: Option<String>,
}

/// What the buyer decides.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Choice {
    outcome: Outcome,
}

/// What became of it.
#[derive(Debug, Serialize)]
struct Chosen {
    payment_id: Uuid,
    outcome: Outcome,
    /// Whether the merchant has taken the notice.
    delivered: bool,
    /// The merchant's answer to this attempt; `null`: none was needed, or none came.
    callback_status: Option<u16>,
}

/// `GET /internal/v1/sandbox/payments/{payment_id}`: the checkout page.
pub async fn show(
    db: web::Data<Db>,
    sandbox: web::Data<Sandbox>,
    payment: web::Path<Uuid>,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    if sandbox.0.is_none() {
        return Err(ApiError::not_found());
    }
    render(&db, *payment, &request).await
}

/// `POST` of the same path: decides, and has the merchant told. The first decision stands.
///
/// The answer comes after the first attempt to tell; further ones are made without anybody waiting.
pub async fn choose(
    db: web::Data<Db>,
    sandbox: web::Data<Sandbox>,
    payment: web::Path<Uuid>,
    request: HttpRequest,
    Raw(body): Raw,
) -> Result<HttpResponse, ApiError> {
    let Some(notifier) = &sandbox.0 else { return Err(ApiError::not_found()) };
    let is_form = content_type(&request).starts_with("application/x-www-form-urlencoded");
    let outcome = if is_form { from_form(&body)? } else { body::parse::<Choice>(&body)?.outcome };
    let (delivered, callback_status) =
        match ledger::decide(&db, *payment, outcome).await.map_err(ApiError::Write)? {
            Decision::NotFound => return Err(ApiError::not_found()),
            Decision::Closed => return Err(ApiError::invalid_transition()),
            Decision::Known => (true, None),
            Decision::Made(outgoing) => {
                let status = notifier.send(outgoing).await.map_err(ApiError::Write)?;
                (status.is_some_and(|status| (200..300).contains(&status)), status)
            }
        };
    if is_form {
        return render(&db, *payment, &request).await;
    }
    Ok(HttpResponse::Ok().json(Chosen { payment_id: *payment, outcome, delivered, callback_status }))
}

async fn render(db: &Db, payment: Uuid, request: &HttpRequest) -> Result<HttpResponse, ApiError> {
    let checkout = ledger::checkout(&mut *db.get().await?, payment).await?.ok_or_else(ApiError::not_found)?;
    let asked = web::Query::<Lang>::from_query(request.query_string()).ok().and_then(|query| query.0.lang);
    let accepted = request.headers().get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
    let language = Language::of(asked.as_deref().or(accepted).unwrap_or_default());
    let nonce = Uuid::new_v4().simple().to_string();
    let policy = format!("{}; frame-ancestors 'none'", page::policy(&nonce));
    Ok(HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((CONTENT_SECURITY_POLICY, policy))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .body(page::render(&checkout, language, &nonce)))
}

fn content_type(request: &HttpRequest) -> &str {
    request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The form has one field with two values, so there is nothing to decode.
fn from_form(body: &[u8]) -> Result<Outcome, ApiError> {
    match body {
        b"outcome=success" => Ok(Outcome::Success),
        b"outcome=failure" => Ok(Outcome::Failure),
        _ => Err(ApiError::invalid("outcome", "must be success or failure")),
    }
}
