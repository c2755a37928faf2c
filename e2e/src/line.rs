//! A sale with a waiting room, played by a crowd of people and bots over HTTP, and what must be true of it afterwards.

pub mod arrivals;

mod account;
mod check;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use common::ids::{ItemId, SaleId};
use reqwest::Method;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{Client, one_dish};
use crate::crowd::{self, Buyer};
use account::{Account, Course};
pub use check::Findings;

/// Requests of people, and of bots, at the same time: each kind has its own, so that bots do not slow people down here.
const PEOPLE_AT_ONCE: usize = 384;
const BOTS_AT_ONCE: usize = 384;
/// Units that one account may have: more than one, so that a bot has a reason to come back.
const PER_USER_LIMIT: u32 = 2;
/// From publishing the sale until the first one comes.
const PREPARATION: Duration = Duration::from_secs(2);

/// How a line is to be played.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Accounts with a person behind them.
    pub people: usize,
    /// Accounts with a program behind them.
    pub bots: usize,
    /// Units on sale.
    pub units: i64,
    /// From the first arrival to the opening.
    pub gathering: Duration,
    /// From the opening until everybody must have heard the end.
    pub patience: Duration,
}

/// What the client of an account is told of its place.
#[derive(Debug, Clone, Deserialize)]
struct Place {
    state: String,
    reason: Option<String>,
    position: Option<u64>,
    ticket: String,
    purchase_token: Option<String>,
    poll_after_ms: u64,
}

/// What is published of the draw.
#[derive(Debug, Clone, Deserialize)]
struct Draw {
    commitment: String,
    list_hash: Option<String>,
    seed: Option<String>,
    tickets: Vec<String>,
    next_from: Option<usize>,
}

/// Everything about one game that its accounts share.
struct Game {
    client: Client,
    item: ItemId,
    people: Semaphore,
    bots: Semaphore,
    ends_at: Instant,
}

/// Plays a sale and looks at what happened. `announce` is told of each part as it begins.
///
/// # Errors
/// The system does not do what is asked of it, or answers what the API does not document.
pub async fn play(
    client: &Client,
    admin: &str,
    plan: &Plan,
    announce: impl Fn(&str),
) -> anyhow::Result<Findings> {
    announce("asking for tokens");
    let world = uuid::Uuid::new_v4().simple().to_string();
    let people = crowd::gather(client, &format!("person-{}", &world[..8]), plan.people).await?;
    let bots = crowd::gather(client, &format!("bot-{}", &world[..8]), plan.bots).await?;
    let watcher = crowd::gather(client, &format!("watcher-{}", &world[..8]), 1).await?.remove(0);

    #[expect(clippy::disallowed_methods, reason = "a client picks its sale's opening by its own clock")]
    let opens_at = Utc::now() + TimeDelta::from_std(PREPARATION + plan.gathering)?;
    let (sale, item) = open(client, admin, plan, opens_at).await?;
    let commitment = draw_page(client, item, 0).await?.commitment;

    announce("people and bots gather");
    let begins = Instant::now();
    let ends_at = begins + PREPARATION + plan.gathering + plan.patience;
    let game = Arc::new(Game {
        client: client.clone(),
        item,
        people: Semaphore::new(PEOPLE_AT_ONCE),
        bots: Semaphore::new(BOTS_AT_ONCE),
        ends_at,
    });
    let arrivals = arrivals::crowd(plan.people, plan.bots, plan.gathering);
    let mut playing = JoinSet::new();
    for (buyer, arrival) in people.into_iter().chain(bots).zip(arrivals) {
        let (game, buyer): (_, Buyer) = (game.clone(), buyer);
        playing.spawn(async move { Account::new(game, buyer, arrival).play(begins).await });
    }
    let watching = tokio::spawn(account::watch(game.clone(), watcher, begins + plan.gathering));
    let mut courses: Vec<Course> = Vec::with_capacity(plan.people + plan.bots);
    while let Some(played) = playing.join_next().await {
        courses.push(played.context("an account's task ended")??);
    }
    let heard_end_at = watching.await.context("the watcher's task ended")??;

    announce("checking the draw and the order");
    let draw = whole_draw(client, item).await?;
    let audit = client.wait_until_quiet(admin, sale, Duration::from_secs(60)).await?;
    let (taken, consistent) = (audit.items[0].held + audit.items[0].sold, audit.consistent);
    check::findings(&check::Played { courses, commitment, draw, heard_end_at, opens_at, taken, consistent })
}

async fn open(
    client: &Client,
    admin: &str,
    plan: &Plan,
    opens_at: DateTime<Utc>,
) -> anyhow::Result<(SaleId, ItemId)> {
    let mut dish = one_dish(opens_at, plan.units, PER_USER_LIMIT, 3_600)?;
    dish.waiting_room = true;
    let sale = client.open_sale(admin, &dish).await?;
    client.wait_until_listed(sale.id, Duration::from_secs(30)).await?;
    Ok((sale.id, sale.items[0].id))
}

async fn draw_page(client: &Client, item: ItemId, from: usize) -> anyhow::Result<Draw> {
    let path = format!("/api/v1/items/{item}/draw?from={from}");
    client.send(client.request(Method::GET, &path)).await?.json().context("the draw")
}

async fn whole_draw(client: &Client, item: ItemId) -> anyhow::Result<Draw> {
    let mut draw = draw_page(client, item, 0).await?;
    while let Some(from) = draw.next_from {
        let page = draw_page(client, item, from).await?;
        draw.tickets.extend(page.tickets);
        draw.next_from = page.next_from;
    }
    Ok(draw)
}
