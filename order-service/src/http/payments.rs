//! Paying orders, and what providers tell about payments.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use common::api::{PaymentStarted, Provider, StartPayment};
use common::failpoint;
use common::ids::{OrderId, PaymentId};
use common::internal::OnBehalfOf;
use common::problem::{Code, Problem};
use secrecy::SecretString;
use url::Url;
use uuid::Uuid;

use super::body::{self, Json, Raw};
use crate::crash_points;
use crate::db::Db;
use crate::error::ApiError;
use crate::payments::notice::{self, Notice, Signed, Verdict};
use crate::payments::provider::{ProviderError, Providers};
use crate::payments::signature::{SIGNATURE_HEADER, verify};
use crate::payments::{self, Started, Wish};

/// The providers that are on, and where buyers find them.
#[derive(Clone)]
pub struct Checkout {
    /// Base URL of the gateway.
    pub public_url: Url,
    /// What the sandbox provider signs with; `None`: it is off.
    pub sandbox_secret: Option<SecretString>,
    /// How to reach them.
    pub providers: Providers,
    /// When to ask a provider how a payment went.
    pub ask_after: Duration,
}

/// `POST /internal/v1/orders/{order_id}/pay`.
pub async fn pay(
    db: web::Data<Db>,
    checkout: web::Data<Checkout>,
    caller: OnBehalfOf,
    order: web::Path<Uuid>,
    Json(wish): Json<StartPayment>,
) -> Result<HttpResponse, ApiError> {
    let provider = wish.provider;
    let on = match provider {
        Provider::Sandbox => checkout.sandbox_secret.is_some(),
    };
    if !on {
        return Err(ApiError::invalid("provider", "is not available here"));
    }
    let wish = Wish { provider, ask_after: checkout.ask_after };
    let started = payments::start(&db, caller.user_id, OrderId(*order), wish);
    match started.await.map_err(ApiError::Write)? {
        Started::Payment(bill) => {
            let payment_id = PaymentId(bill.payment);
            // Asking again is the same payment: until the provider knows it, nothing has happened.
            checkout.providers.register(provider, bill).await.map_err(provider_failed)?;
            let base = checkout.public_url.as_str().trim_end_matches('/');
            let checkout_url = format!("{base}/sandbox/payments/{payment_id}");
            Ok(HttpResponse::Created().json(PaymentStarted { payment_id, provider, checkout_url }))
        }
        Started::NotFound => Err(ApiError::not_found()),
        Started::NotPayable => Err(ApiError::invalid_transition()),
    }
}

/// `POST /internal/v1/payments/{provider}/callback`: 204 once what the notice says is committed.
///
/// The signature is checked before anything is read out of the body.
pub async fn callback(
    db: web::Data<Db>,
    checkout: web::Data<Checkout>,
    provider: web::Path<String>,
    request: HttpRequest,
    Raw(body): Raw,
) -> Result<HttpResponse, ApiError> {
    let (provider, secret) = match (provider.as_str(), &checkout.sandbox_secret) {
        ("sandbox", Some(secret)) => (Provider::Sandbox, secret),
        _ => return Err(ApiError::not_found()),
    };
    reach(crash_points::PAYMENT_VERIFY_BEFORE).await?;
    let Some(signed_at_s) = signature(&request).and_then(|header| verify(secret, header, &body)) else {
        return refuse("forged", Problem::new(Code::Unauthenticated));
    };
    let notice = match body::parse::<Notice>(&body).and_then(|notice| notice.validate().map(|()| notice)) {
        Ok(notice) => notice,
        Err(invalid) => return refuse("malformed", Problem::invalid(invalid.field, invalid.message)),
    };
    reach(crash_points::PAYMENT_VERIFY_AFTER).await?;
    let (payment, order) = (notice.payment_id, notice.order_id);
    let verdict =
        notice::accept(&db, Signed { provider, signed_at_s, notice }).await.map_err(ApiError::Write)?;
    reach(crash_points::PAYMENT_REPLY_BEFORE).await?;
    match verdict {
        Verdict::Kept | Verdict::Refund | Verdict::Failed | Verdict::Known => {
            metrics::counter!("payment_notices_total", "verdict" => verdict.name()).increment(1);
            tracing::info!(payment.id = %payment, order.id = %order, verdict = verdict.name(), "payment notice");
            Ok(HttpResponse::NoContent().finish())
        }
        Verdict::Stale => refuse(verdict.name(), Problem::new(Code::Unauthenticated)),
        Verdict::UnknownPayment => refuse(verdict.name(), Problem::new(Code::NotFound)),
        Verdict::Mismatch(field) => {
            tracing::warn!(payment.id = %payment, order.id = %order, field, "a genuine notice does not fit its payment");
            refuse(verdict.name(), Problem::invalid(field, "is not that of the payment"))
        }
    }
}

fn provider_failed(error: ProviderError) -> ApiError {
    ApiError::Unavailable { what: "the payment provider failed", cause: error.into() }
}

/// Passes a crash point.
async fn reach(point: &'static str) -> Result<(), ApiError> {
    failpoint::reach(point).await.map_err(|injected| ApiError::Write(injected.into()))
}

/// The signature's header, if there is exactly one.
fn signature(request: &HttpRequest) -> Option<&str> {
    let mut headers = request.headers().get_all(SIGNATURE_HEADER.to_ascii_lowercase());
    let only = headers.next()?.to_str().ok();
    if headers.next().is_some() { None } else { only }
}

fn refuse(verdict: &'static str, problem: Problem) -> Result<HttpResponse, ApiError> {
    metrics::counter!("payment_notices_total", "verdict" => verdict).increment(1);
    tracing::warn!(verdict, "payment notice refused");
    Err(problem.into())
}
