//! A place in line: taking it, asking for it, watching it, and checking the draw.

mod view;
mod watch;

use actix_web::HttpResponse;
use actix_web::http::header::{ACCEPT, CACHE_CONTROL};
use chrono::{DateTime, Utc};
use common::api::inventory::CatalogueItem;
use common::ids::{ItemId, UserId};
use common::problem::{Code, Problem};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::endpoint::{Answer, Call};
use crate::error::ApiError;
use crate::line::draw::{ALGORITHM, ticket};
use crate::line::{LineError, Stand, TICKETS_MAX};
use crate::state::State;
use view::Place;

/// The header with the answer to a challenge.
pub(super) const CHALLENGE_ANSWER: &str = "challenge-answer";
/// A shared cache may take the load of a draw that everybody checks.
const DRAWN_CACHEABLE: &str = "public, max-age=60";
/// What a challenge is spent on here.
const PLACE: &str = "place";

/// Take a place in line, or see the one you have.
///
/// One place for each user and item. Before the opening people gather; at the opening their order is drawn, and checked
/// by `GET …/draw`. Later ones come after them, in the order of their coming. When it is your turn the answer has a
/// `purchase_token`: send it as header `Purchase-Token` with the order. It is good for one order, until `expires_at`.
/// Ask again after `poll_after_ms`, or watch. Where a challenge is on, the first answer is `403 challenge_required` with
/// it, and the next request brings its answer. Items without a waiting room answer `admitted` without a token.
#[utoipa::path(post, path = "/api/v1/items/{item_id}/place", tag = "orders",
    params(("item_id" = ItemId, Path),
        ("Challenge-Answer" = Option<String>, Header, description = "Where a challenge was set."),
        ("Device-Id" = Option<String>, Header,
            description = "What the app calls its device: 8 to 128 visible ASCII characters.")),
    responses((status = 200, description = "Where you stand.", body = Place)))]
pub async fn join(call: Call) -> Answer {
    call.check_blocks()?;
    let (item, user) = (ItemId(call.id("item_id")?), call.caller()?.user.clone());
    // Who is in line already is not asked again.
    let place = match place_of(&call.state, item, &user, false, call.deadline).await? {
        Some(place) if !place.can_join_anew() => Some(place),
        Some(_) | None => {
            challenge(&call, item, &user).await?;
            place_of(&call.state, item, &user, true, call.deadline).await?
        }
    };
    Ok(HttpResponse::Ok().json(place.ok_or(Code::NotFound)?))
}

/// See where you stand; with `Accept: text/event-stream`, every change as it happens.
///
/// Events are `event: place` with the same object. `404` for who has no place.
#[utoipa::path(get, path = "/api/v1/items/{item_id}/place", tag = "orders",
    params(("item_id" = ItemId, Path), ("access_token" = Option<String>, Query,
        description = "The token, for browsers' EventSource.")),
    responses((status = 200, description = "Where you stand.",
        content((Place = "application/json"), (String = "text/event-stream")))))]
pub async fn look(call: Call) -> Answer {
    call.check_blocks()?;
    let (item, user) = (ItemId(call.id("item_id")?), call.caller()?.user.clone());
    let place = place_of(&call.state, item, &user, false, call.deadline).await?.ok_or(Code::NotFound)?;
    let accept = call.request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
    if accept.is_some_and(|accept| accept.contains("text/event-stream")) {
        return watch::stream(&call, item, user, place);
    }
    Ok(HttpResponse::Ok().json(place))
}

/// Lets through who has solved what is asked before a place is taken.
async fn challenge(call: &Call, id: ItemId, user: &UserId) -> Result<(), ApiError> {
    let item = known(&call.state, id)?.ok_or(Code::NotFound)?;
    let answer = call.header(CHALLENGE_ANSWER)?;
    call.state.challenges.pass(item.challenge, (id, user), answer, PLACE).await
}

/// A page of the draw.
#[derive(Debug, Serialize, ToSchema)]
pub struct Draw {
    /// When the line was opened and the commitment made.
    opened_at: DateTime<Utc>,
    /// When the line is closed for the draw.
    draws_at: DateTime<Utc>,
    /// Hash of the seed, published when the line opened.
    commitment: String,
    /// Hash of the sorted list of tickets; `null` before the draw.
    list_hash: Option<String>,
    /// The seed; `null` before the draw.
    seed: Option<String>,
    /// How many took part; `null` before the draw.
    participants: Option<u64>,
    /// How all of this hangs together.
    algorithm: String,
    /// Tickets in the order that was drawn, from place `from` on.
    tickets: Vec<String>,
    /// Pass it as `from` to get the next page; `null` on the last one.
    next_from: Option<usize>,
}

/// Check the draw of an item's line.
#[utoipa::path(get, path = "/api/v1/items/{item_id}/draw", tag = "sales",
    params(("item_id" = ItemId, Path), ("from" = Option<u32>, Query,
        description = "The first place of the page, counted from 0.")),
    responses((status = 200, description = "What is published so far.", body = Draw)))]
pub async fn draw(call: Call) -> Answer {
    let id = ItemId(call.id("item_id")?);
    let from = call.parameter::<u32>("from")?.unwrap_or(0);
    let from = usize::try_from(from).map_err(|_| Problem::invalid("from", "is too large"))?;
    let item = known(&call.state, id)?.filter(|item| item.waiting_room).ok_or(Code::NotFound)?;
    let state = call.state.lines.draw(&item).await.map_err(|error| refused(&error))?;
    let tickets = match &state.drawn {
        Some(_) => call.state.lines.tickets(id, from).await.map_err(|error| refused(&error))?,
        None => Vec::new(),
    };
    let next_from = (tickets.len() == TICKETS_MAX).then(|| from + tickets.len());
    let (seed, list_hash, participants) = match state.drawn {
        Some(drawn) => (Some(drawn.seed), Some(drawn.list_hash), Some(drawn.participants)),
        None => (None, None, None),
    };
    let mut answer = HttpResponse::Ok();
    if seed.is_some() {
        // It does not change any more.
        answer.insert_header((CACHE_CONTROL, DRAWN_CACHEABLE));
    }
    Ok(answer.json(Draw {
        opened_at: state.opened_at,
        draws_at: state.draws_at,
        commitment: state.commitment,
        list_hash,
        seed,
        participants,
        algorithm: ALGORITHM.to_owned(),
        tickets,
        next_from,
    }))
}

/// Where somebody stands; `None`: nowhere.
async fn place_of(
    state: &State,
    id: ItemId,
    user: &UserId,
    join: bool,
    deadline: Instant,
) -> Result<Option<Place>, ApiError> {
    let item = known(state, id)?.ok_or(Code::NotFound)?;
    let ticket = ticket(id, user);
    if !item.waiting_room {
        return Ok(Some(Place::open(ticket)));
    }
    // Nothing is left, so nobody is asked: whoever is in line keeps the place, and there may be many.
    if let Some(place) = Place::closed(&item, &ticket) {
        return Ok(Some(place));
    }
    let stand = state.lines.ask(id, user, join, deadline).await.map_err(|error| refused(&error))?;
    Ok(match stand {
        Stand::NoPlace => None,
        Stand::Full => return Err(Code::TooBusy.into()),
        Stand::Undrawn { gathered } => Some(Place::undrawn(&item, ticket, gathered)),
        Stand::Waits { position, rate } => Some(Place::waits(&item, ticket, position, rate)),
        Stand::Admitted(admission) => {
            let token = state.lines.token(admission, user, id);
            Some(Place::admitted(ticket, token, admission.expires_ms))
        }
        Stand::RanOut => Some(Place::ran_out(ticket)),
    })
}

/// The item, as the snapshot has it.
fn known(state: &State, id: ItemId) -> Result<Option<CatalogueItem>, ApiError> {
    let snapshot = state.catalogue.snapshot().ok_or(Code::Unavailable)?;
    Ok(snapshot.item(id).cloned())
}

fn refused(error: &LineError) -> ApiError {
    match error {
        LineError::TooBusy => Code::TooBusy.into(),
        LineError::Store(_) | LineError::NoStore | LineError::Late => Code::Unavailable.into(),
    }
}
