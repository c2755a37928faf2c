//! What payment providers call, and the pages of the built-in one.

use common::ids::PaymentId;

use crate::endpoint::{Answer, Call};
use crate::forward::Service;

/// A payment provider reports what became of a payment.
///
/// The body is passed on byte for byte: its signature is over exactly these.
#[utoipa::path(post, path = "/api/v1/payments/{provider}/callback", tag = "payments",
    params(("provider" = String, Path, description = "`sandbox`"),
        ("Sandbox-Signature" = String, Header, description = "`t=<unix>,v1=<hex HMAC-SHA256 of \"t.body\">`")),
    request_body(content = String, content_type = "application/json"),
    responses((status = 204, description = "Noted.")))]
pub async fn callback(call: Call) -> Answer {
    call.forward(Service::Orders).await
}

/// The checkout page of the sandbox provider, in the dev profile.
#[utoipa::path(get, path = "/sandbox/payments/{payment_id}", tag = "sandbox",
    params(("payment_id" = PaymentId, Path)),
    responses((status = 200, description = "A page.", body = String, content_type = "text/html")))]
pub async fn sandbox_page(call: Call) -> Answer {
    call.forward(Service::Orders).await
}

/// Pay, or fail to, with the sandbox provider, in the dev profile.
#[utoipa::path(post, path = "/sandbox/payments/{payment_id}", tag = "sandbox",
    params(("payment_id" = PaymentId, Path)),
    request_body(content = String, content_type = "application/json",
        description = "`{\"outcome\": \"success\"}` or `{\"outcome\": \"failure\"}`, or the same as a form."),
    responses((status = 200, description = "The provider has sent its callback.",
        content((serde_json::Value = "application/json"), (String = "text/html")))))]
pub async fn sandbox_pay(call: Call) -> Answer {
    call.forward(Service::Orders).await
}
