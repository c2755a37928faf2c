//! What admins do to a user's data.

use actix_web::HttpResponse;
use common::api::admin::Erasure;
use common::api::erasure::{Erase, EventsErased, OrdersErased};
use common::ids::UserId;
use common::internal::{ROLE_HEADER, USER_HEADER};
use common::problem::Code;
use reqwest::Method;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::endpoint::{Answer, Call};
use crate::error::ApiError;
use crate::forward::Service;

/// Erase a user's personal data and keep the ledger.
///
/// Orders that nothing can happen to any more become nobody's; amounts, times and states stay. Notices of the user's
/// stream are deleted, and the audit log forgets whom its entries were about. What is still needed is counted as `…_kept`:
/// ask again later. Asking twice changes nothing. Tokens of the user are your login's to withdraw.
#[utoipa::path(post, path = "/api/v1/admin/users/{user_id}/erase", tag = "admin",
    params(("user_id" = UserId, Path)),
    responses((status = 200, description = "What was erased, and what is left.", body = Erasure)))]
pub async fn erase(call: Call) -> Answer {
    let user: UserId = call.path_parameter("user_id").parse().map_err(|_| ApiError::from(Code::NotFound))?;
    let erase = Erase { erasure_id: Uuid::new_v4() };
    let orders: OrdersErased = ask(&call, Service::Orders, &user, &erase).await?;
    let events: EventsErased = ask(&call, Service::Notify, &user, &erase).await?;
    let kept = [
        orders.orders_kept,
        orders.dead_letters_kept,
        orders.blocks_kept,
        events.events_kept,
        events.webhook_messages_kept,
    ];
    Ok(HttpResponse::Ok().json(Erasure {
        id: erase.erasure_id,
        complete: kept.iter().all(|kept| *kept == 0),
        orders_erased: orders.orders_erased,
        orders_kept: orders.orders_kept,
        audit_entries_erased: orders.audit_entries_erased,
        dead_letters_kept: orders.dead_letters_kept,
        blocks_kept: orders.blocks_kept,
        events_erased: events.events_erased,
        events_kept: events.events_kept,
        webhook_messages_kept: events.webhook_messages_kept,
    }))
}

async fn ask<T: DeserializeOwned>(
    call: &Call,
    service: Service,
    user: &UserId,
    erase: &Erase,
) -> Result<T, ApiError> {
    let caller = call.caller()?;
    let response = call
        .upstream(service)
        .request(Method::POST, &format!("/internal/v1/admin/users/{user}/erase"), call.deadline)
        .header(USER_HEADER, caller.user.as_str())
        .header(ROLE_HEADER, caller.role.as_str())
        .priority(call.priority())
        .json(erase)
        .send()
        .await
        .map_err(ApiError::Command)?;
    let bad = |reason| ApiError::BadCommandAnswer { service: service.name(), reason };
    match response.status().as_u16() {
        200 => response.json().await.map_err(|error| bad(error.without_url().to_string())),
        503 => Err(Code::OutcomeUnknown.into()),
        status => Err(bad(format!("status {status}"))),
    }
}
