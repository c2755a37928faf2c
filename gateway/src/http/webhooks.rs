//! Where notify-service tells other systems of order events.

use common::api::Page;
use common::api::admin::{NewWebhook, Webhook, WebhookDelivery};

use crate::endpoint::{Answer, Call};
use crate::forward::Service;

/// All webhooks, without their secrets.
#[utoipa::path(get, path = "/api/v1/admin/webhooks", tag = "admin",
    params(("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, description = "The webhooks.", body = Page<Webhook>)))]
pub async fn list(call: Call) -> Answer {
    call.forward(Service::Notify).await
}

/// Register a webhook. Its deliveries are signed as Standard Webhooks.
#[utoipa::path(post, path = "/api/v1/admin/webhooks", tag = "admin", request_body = NewWebhook,
    responses((status = 201, description = "The webhook, with its secret: it is not shown again.", body = Webhook)))]
pub async fn create(call: Call) -> Answer {
    call.forward(Service::Notify).await
}

/// Remove a webhook.
#[utoipa::path(delete, path = "/api/v1/admin/webhooks/{webhook_id}", tag = "admin",
    params(("webhook_id" = Uuid, Path)), responses((status = 204, description = "It is gone.")))]
pub async fn delete(call: Call) -> Answer {
    call.forward(Service::Notify).await
}

/// What was sent to a webhook, and what will be.
#[utoipa::path(get, path = "/api/v1/admin/webhooks/{webhook_id}/deliveries", tag = "admin",
    params(("webhook_id" = Uuid, Path), ("state" = Option<String>, Query),
        ("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, description = "A page of deliveries.", body = Page<WebhookDelivery>)))]
pub async fn deliveries(call: Call) -> Answer {
    call.forward(Service::Notify).await
}

/// Send an event again.
#[utoipa::path(post, path = "/api/v1/admin/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver", tag = "admin",
    params(("webhook_id" = Uuid, Path), ("delivery_id" = Uuid, Path)),
    responses((status = 202, description = "It will be sent.", body = WebhookDelivery)))]
pub async fn redeliver(call: Call) -> Answer {
    call.forward(Service::Notify).await
}
