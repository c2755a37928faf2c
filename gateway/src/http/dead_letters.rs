//! Messages that could not be handled, which order-service collects.

use common::api::Page;
use common::api::admin::DeadLetter;

use crate::endpoint::{Answer, Call};
use crate::forward::Service;

/// Parked messages.
#[utoipa::path(get, path = "/api/v1/admin/dead-letters", tag = "admin",
    params(("queue" = Option<String>, Query), ("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, description = "A page of messages.", body = Page<DeadLetter>)))]
pub async fn list(call: Call) -> Answer {
    call.forward(Service::Orders).await
}

/// Send a parked message again to the queue that it came from.
#[utoipa::path(post, path = "/api/v1/admin/dead-letters/{letter_id}/replay", tag = "admin",
    params(("letter_id" = Uuid, Path)), responses((status = 204, description = "It is on its way.")))]
pub async fn replay(call: Call) -> Answer {
    call.forward(Service::Orders).await
}

/// Give a parked message up.
#[utoipa::path(delete, path = "/api/v1/admin/dead-letters/{letter_id}", tag = "admin",
    params(("letter_id" = Uuid, Path)), responses((status = 204, description = "It is gone.")))]
pub async fn discard(call: Call) -> Answer {
    call.forward(Service::Orders).await
}
