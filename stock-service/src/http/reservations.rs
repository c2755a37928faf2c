//! `/internal/v1/items/{item_id}/reservations` and `/internal/v1/reservations/{order_id}`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::web::{Data, Json, Path};
use bytes::Bytes;
use common::api::inventory::{
    RESERVE_BATCH_MAX, Reservation, ReserveAnswer, ReserveBatch, ReserveLine, ReserveOutcome, ReserveRequest,
};
use common::ids::{ItemId, OrderId};
use common::telemetry::trace::Origin;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::Api;
use crate::error::ApiError;
use crate::inventory::Found;
use crate::items::Item;
use crate::reserve::Request;

/// Longest that one answer is waited for, whatever the caller says.
const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// `POST /internal/v1/items/{item_id}/reservations`: decides a batch; answers as they come.
///
/// # Errors
/// 400 and 413 for the batch as a whole. Every other outcome is a line's.
pub async fn create(
    api: Data<Api>,
    item_id: Path<ItemId>,
    batch: Json<ReserveBatch>,
) -> Result<HttpResponse, ApiError> {
    let requests = batch.into_inner().requests;
    if requests.len() > RESERVE_BATCH_MAX {
        return Err(ApiError::TooLarge);
    }
    if let Some(index) = requests.iter().position(|request| request.order_id.item_tag() != item_id.tag()) {
        let field = format!("requests[{index}].order_id");
        return Err(ApiError::Invalid { field, reason: "is of another item".to_owned() });
    }
    let mut response = HttpResponse::Ok();
    response.content_type("application/x-ndjson");
    match api.item(*item_id).await {
        Ok(item) => Ok(response.streaming(decide(&api, &item, requests))),
        Err(outcome) => {
            let answers = (0..requests.len()).map(|index| ReserveAnswer { index, outcome: outcome.clone() });
            Ok(response.body(line(answers.collect())))
        }
    }
}

/// Whatever is answered at the same time travels in one line.
fn decide(
    api: &Api,
    item: &Arc<Item>,
    requests: Vec<ReserveRequest>,
) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> + use<> {
    let (now, origin, desk) = (Instant::now(), Origin::current(), api.reservations.desk(item));
    let answers: FuturesUnordered<_> = requests
        .into_iter()
        .enumerate()
        .map(|(index, request)| {
            let desk = desk.clone();
            let deadline = now + Duration::from_millis(request.deadline_ms).min(DEADLINE_MAX);
            let ReserveRequest { order_id, user_id, quantity, admitted_ms, .. } = request;
            async move {
                let request = Request { order_id, user_id, quantity, admitted_ms, origin };
                let outcome = desk.reserve(request, deadline).await;
                ReserveAnswer { index, outcome }
            }
        })
        .collect();
    answers.ready_chunks(RESERVE_BATCH_MAX).map(|answers| Ok(line(answers)))
}

fn line(answers: Vec<ReserveAnswer>) -> Bytes {
    // Nothing in these types can fail to become JSON; an empty line means that no outcome is known.
    let mut json = serde_json::to_vec(&ReserveLine { answers }).unwrap_or_default();
    json.push(b'\n');
    json.into()
}

/// `GET /internal/v1/reservations/{order_id}`: the hold of one order.
///
/// # Errors
/// 404: the open gate has none. 503: the gate is closed, or Redis does not answer.
pub async fn show(api: Data<Api>, order_id: Path<OrderId>) -> Result<Json<Reservation>, ApiError> {
    if api.items.of_order(*order_id).is_empty() {
        // Another replica may have loaded it a moment ago.
        api.catalogue.current().await;
    }
    let items = api.items.of_order(*order_id);
    let mut closed = items.is_empty() && !api.items.is_complete();
    for item in items {
        match api.inventory.find(&item, *order_id).await? {
            Found::Hold(reservation) => return Ok(Json(*reservation)),
            Found::Nothing => {}
            Found::Shut(_) => {
                api.items.report_closed(&item);
                closed = true;
            }
        }
    }
    Err(if closed { ApiError::Closed } else { ApiError::NotFound })
}

impl Api {
    /// A known item, or what to answer without one.
    pub(super) async fn item(&self, id: ItemId) -> Result<Arc<Item>, ReserveOutcome> {
        if let Some(item) = self.items.get(id) {
            return Ok(item);
        }
        // Another replica may have loaded it a moment ago.
        self.catalogue.current().await;
        match self.items.get(id) {
            Some(item) => Ok(item),
            None if self.items.is_complete() => Err(ReserveOutcome::UnknownItem),
            None => Err(ReserveOutcome::Unavailable),
        }
    }
}
