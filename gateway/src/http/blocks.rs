//! The block list, which order-service keeps and every gateway enforces.

use common::api::Page;
use common::api::admin::{Block, NewBlock};

use crate::endpoint::{Answer, Call};
use crate::forward::Service;

/// Who and what is blocked, the newest first.
#[utoipa::path(get, path = "/api/v1/admin/blocks", tag = "admin",
    params(("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, description = "A page of the list.", body = Page<Block>)))]
pub async fn list(call: Call) -> Answer {
    call.forward(Service::Orders).await
}

/// Block an account, a device or a network.
///
/// In force at every gateway within a second or two. Who is on the list already gets the new reason and end.
#[utoipa::path(post, path = "/api/v1/admin/blocks", tag = "admin", request_body = NewBlock,
    responses((status = 201, description = "It is on the list.", body = Block)))]
pub async fn create(call: Call) -> Answer {
    let answer = call.forward(Service::Orders).await?;
    refresh(&call).await;
    Ok(answer)
}

/// Lift a block.
#[utoipa::path(delete, path = "/api/v1/admin/blocks/{block_id}", tag = "admin",
    params(("block_id" = Uuid, Path)), responses((status = 204, description = "It is lifted.")))]
pub async fn lift(call: Call) -> Answer {
    let answer = call.forward(Service::Orders).await?;
    refresh(&call).await;
    Ok(answer)
}

/// Whoever changed the list here sees it in force here.
async fn refresh(call: &Call) {
    if let Err(error) = call.state.block_list.refresh().await {
        tracing::warn!(error = format!("{error:#}"), "the block list will follow a change later");
    }
}
