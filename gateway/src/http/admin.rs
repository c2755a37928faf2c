//! Running sales. order-service does the work.

use std::time::Duration;

use common::api::admin::{AdminOrder, Audit, NewSale, Restock, SaleChanges};
use common::api::{Order, Page, Sale, SaleItem};
use common::ids::{ItemId, OrderId, SaleId};
use tokio::time::Instant;

use crate::endpoint::{Answer, Call};
use crate::forward::Service;

/// How long a published sale is waited for until the inventory offers it. Most often a fifth of a second.
const OFFERED_WITHIN: Duration = Duration::from_secs(3);
/// Pause between two looks at the snapshot.
const OFFERED_POLL: Duration = Duration::from_millis(20);
/// What the other gateways may need longer: about one pause between two of their questions.
const OTHERS_FOLLOW_WITHIN: Duration = Duration::from_millis(250);

/// All sales, drafts too.
#[utoipa::path(get, path = "/api/v1/admin/sales", tag = "admin",
    params(("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, description = "The sales.", body = Page<Sale>)))]
pub async fn list_sales(call: Call) -> Answer {
    call.forward(Service::Orders).await
}

/// Prepare a sale.
#[utoipa::path(post, path = "/api/v1/admin/sales", tag = "admin", request_body = NewSale,
    responses((status = 201, description = "The draft.", body = Sale)))]
pub async fn create_sale(call: Call) -> Answer {
    call.forward(Service::Orders).await
}

/// One sale, also a draft.
#[utoipa::path(get, path = "/api/v1/admin/sales/{sale_id}", tag = "admin", params(("sale_id" = SaleId, Path)),
    responses((status = 200, description = "The sale.", body = Sale)))]
pub async fn get_sale(call: Call) -> Answer {
    call.forward(Service::Orders).await
}

/// Change a draft.
#[utoipa::path(patch, path = "/api/v1/admin/sales/{sale_id}", tag = "admin", request_body = SaleChanges,
    params(("sale_id" = SaleId, Path)),
    responses((status = 200, description = "The changed sale.", body = Sale)))]
pub async fn change_sale(call: Call) -> Answer {
    changed(&call).await
}

/// Make a draft public. It opens by itself; when this is answered, an open one can be ordered.
#[utoipa::path(post, path = "/api/v1/admin/sales/{sale_id}/publish", tag = "admin",
    params(("sale_id" = SaleId, Path)),
    responses((status = 200, description = "The sale.", body = Sale)))]
pub async fn publish(call: Call) -> Answer {
    let response = changed(&call).await?;
    if response.status().is_success() {
        wait_until_offered(&call, SaleId(call.id("sale_id")?)).await;
    }
    Ok(response)
}

/// Hold a sale.
#[utoipa::path(post, path = "/api/v1/admin/sales/{sale_id}/pause", tag = "admin",
    params(("sale_id" = SaleId, Path)),
    responses((status = 200, description = "The sale.", body = Sale)))]
pub async fn pause(call: Call) -> Answer {
    changed(&call).await
}

/// Go on with a held sale.
#[utoipa::path(post, path = "/api/v1/admin/sales/{sale_id}/resume", tag = "admin",
    params(("sale_id" = SaleId, Path)),
    responses((status = 200, description = "The sale.", body = Sale)))]
pub async fn resume(call: Call) -> Answer {
    changed(&call).await
}

/// End a sale before its time.
#[utoipa::path(post, path = "/api/v1/admin/sales/{sale_id}/end", tag = "admin",
    params(("sale_id" = SaleId, Path)),
    responses((status = 200, description = "The sale.", body = Sale)))]
pub async fn end(call: Call) -> Answer {
    changed(&call).await
}

/// The books of a sale, counted afresh from both stores.
#[utoipa::path(get, path = "/api/v1/admin/sales/{sale_id}/audit", tag = "admin",
    params(("sale_id" = SaleId, Path)),
    responses((status = 200, description = "The books.", body = Audit)))]
pub async fn audit(call: Call) -> Answer {
    call.forward(Service::Orders).await
}

/// Orders of all users, as JSON or, with `Accept: text/csv`, as CSV.
///
/// A CSV takes ten minutes at most, and breaks off when no part of it comes for 30 seconds.
#[utoipa::path(get, path = "/api/v1/admin/orders", tag = "admin",
    params(("sale_id" = Option<SaleId>, Query), ("status" = Option<String>, Query),
        ("user_id" = Option<String>, Query), ("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, description = "A page of orders.",
        content((Page<AdminOrder> = "application/json"), (String = "text/csv")))))]
pub async fn list_orders(call: Call) -> Answer {
    call.export(Service::Orders).await
}

/// Take a paid order back: the money returns, and so do the units.
#[utoipa::path(post, path = "/api/v1/admin/orders/{order_id}/refund", tag = "admin",
    params(("order_id" = OrderId, Path)),
    responses((status = 200, description = "The order.", body = Order)))]
pub async fn refund(call: Call) -> Answer {
    call.forward(Service::Orders).await
}

/// Add units to an item, or take some away that nobody has.
#[utoipa::path(post, path = "/api/v1/admin/items/{item_id}/restock", tag = "admin", request_body = Restock,
    params(("item_id" = ItemId, Path)),
    responses((status = 200, description = "The item.", body = SaleItem)))]
pub async fn restock(call: Call) -> Answer {
    changed(&call).await
}

/// As [`Call::forward`], for what changes the public listing: whoever changed it here sees it here.
async fn changed(call: &Call) -> Answer {
    let response = call.forward(Service::Orders).await?;
    if response.status().is_success()
        && let Err(error) = call.state.sales.refresh().await
    {
        tracing::warn!(error = format!("{error:#}"), "the listing will follow a change later");
    }
    Ok(response)
}

/// Gives the inventory its moment to load a sale that was just published, so that nobody who hears of it and orders at
/// once is told to come back. If it takes longer the sale is published all the same, and orders get their 503.
async fn wait_until_offered(call: &Call, sale: SaleId) {
    let items = call.state.listing.items_of(sale);
    let offered = || {
        let snapshot = call.state.catalogue.snapshot();
        snapshot.is_some_and(|snapshot| {
            items.iter().all(|item| snapshot.item(*item).is_some_and(|known| known.open))
        })
    };
    let give_up = call.deadline.min(Instant::now() + OFFERED_WITHIN);
    while !offered() {
        if Instant::now() >= give_up {
            tracing::warn!(sale.id = %sale, "published, but the inventory does not offer it yet");
            return;
        }
        tokio::time::sleep(OFFERED_POLL).await;
    }
    tokio::time::sleep(OTHERS_FOLLOW_WITHIN).await;
}
