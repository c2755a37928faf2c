//! One account of the crowd, from its arrival to the end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chrono::Utc;
use futures_util::StreamExt as _;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::arrivals::{Arrival, BOT_RATE};
use super::{Game, Place};
use crate::client::Answer;
use crate::crowd::Buyer;

/// Longest pause after "too busy" and "temporarily unavailable".
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often a bot tries a purchase token again, with another key each time.
const TOKEN_RETRIES: usize = 3;

/// What happened to an account. Moments are Unix time in ms by this machine's clock, as are those of the line on it.
#[derive(Debug, Clone, Default)]
pub(super) struct Course {
    pub(super) is_bot: bool,
    pub(super) user: String,
    pub(super) ticket: String,
    /// When its first request to join was sent, and when it was answered.
    pub(super) join_sent_ms: i64,
    pub(super) joined_ms: i64,
    /// When it was first let in, as its purchase token says.
    pub(super) admitted_ms: Option<i64>,
    /// When the last question was sent that was answered "you wait", before it was let in.
    pub(super) waited_ms: i64,
    /// When its orders were accepted.
    pub(super) bought_ms: Vec<i64>,
    /// When the last question was sent that was answered with anything but "closed".
    pub(super) last_open_ms: i64,
    pub(super) heard_end: bool,
}

/// One account at play.
pub(super) struct Account {
    game: Arc<Game>,
    buyer: Buyer,
    arrival: Arrival,
    course: Course,
}

pub(super) fn now_ms() -> i64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "the observer's clock, compared with the line's on one machine"
    )]
    let now = Utc::now();
    now.timestamp_millis()
}

impl Account {
    pub(super) fn new(game: Arc<Game>, buyer: Buyer, arrival: Arrival) -> Self {
        let course = Course { is_bot: arrival.is_bot, user: buyer.user.clone(), ..Course::default() };
        Self { game, buyer, arrival, course }
    }

    /// Comes, lines up, buys, and goes when it is told that nothing is left.
    pub(super) async fn play(mut self, begins: Instant) -> anyhow::Result<Course> {
        sleep_until(begins + self.arrival.after).await;
        self.course.join_sent_ms = now_ms();
        let mut place = self.join().await?;
        self.course.joined_ms = now_ms();
        self.course.ticket.clone_from(&place.ticket);
        while Instant::now() < self.game.ends_at {
            match (place.state.as_str(), place.reason.as_deref()) {
                ("closed", Some("expired")) if self.arrival.is_bot => place = self.join().await?,
                ("closed", Some("expired")) => break,
                ("closed", _) => {
                    self.course.heard_end = true;
                    break;
                }
                ("admitted", _) => match self.buy(&place).await? {
                    Some(next) => place = next,
                    None => break,
                },
                _ => place = self.wait(&place).await?,
            }
        }
        Ok(self.course)
    }

    /// Asks again, when told to; a bot much sooner, and tries its luck.
    async fn wait(&mut self, place: &Place) -> anyhow::Result<Place> {
        let pause = Duration::from_millis(place.poll_after_ms);
        if self.arrival.is_bot {
            sleep(pause / BOT_RATE).await;
            let luck = self.order("luck", None).await?;
            ensure!(luck.status != StatusCode::ACCEPTED, "{} bought without a place", self.course.user);
        } else {
            sleep(pause).await;
        }
        self.look().await
    }

    /// Buys with the token; the place afterwards, `None` for who goes away.
    async fn buy(&mut self, place: &Place) -> anyhow::Result<Option<Place>> {
        let token = place.purchase_token.as_deref().context("admitted without a token")?;
        let admitted_ms: i64 = token.split('.').next().context("a token")?.parse()?;
        self.course.admitted_ms.get_or_insert(admitted_ms);
        if !self.arrival.buys {
            return Ok(None);
        }
        sleep(self.arrival.think).await;
        let key = format!("buy-{admitted_ms}");
        let answer = self.order(&key, Some(token)).await?;
        let bought = answer.status == StatusCode::ACCEPTED;
        if bought {
            self.course.bought_ms.push(now_ms());
        }
        if !self.arrival.is_bot && bought {
            return Ok(None);
        }
        if bought {
            for n in 0..TOKEN_RETRIES {
                let again = self.order(&format!("{key}-{n}"), Some(token)).await?;
                ensure!(again.status != StatusCode::ACCEPTED, "{} used a token twice", self.course.user);
            }
            return self.join().await.map(Some);
        }
        self.look().await.map(Some)
    }

    async fn join(&mut self) -> anyhow::Result<Place> {
        self.place(Method::POST).await
    }

    async fn look(&mut self) -> anyhow::Result<Place> {
        self.place(Method::GET).await
    }

    /// Its place; who has none takes one.
    async fn place(&mut self, mut method: Method) -> anyhow::Result<Place> {
        let path = format!("/api/v1/items/{}/place", self.game.item);
        loop {
            let sent_ms = now_ms();
            let request = self.game.client.request(method.clone(), &path).bearer_auth(&self.buyer.token);
            let answer = self.send(request).await?;
            match answer.status {
                StatusCode::OK => {
                    let place: Place = answer.json()?;
                    if place.state != "closed" {
                        self.course.last_open_ms = sent_ms;
                    }
                    if place.position.is_some() && self.course.admitted_ms.is_none() {
                        self.course.waited_ms = sent_ms;
                    }
                    return Ok(place);
                }
                StatusCode::NOT_FOUND if method == Method::GET => method = Method::POST,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                    pause(&answer).await;
                    ensure!(Instant::now() < self.game.ends_at, "no place in time");
                }
                status => bail!("a place was answered {status}: {}", String::from_utf8_lossy(&answer.body)),
            }
        }
    }

    /// A final answer to an order. A bot's try without a token is not repeated.
    async fn order(&self, key: &str, token: Option<&str>) -> anyhow::Result<Answer> {
        let path = format!("/api/v1/items/{}/orders", self.game.item);
        loop {
            let mut request = self.game.client.request(Method::POST, &path).bearer_auth(&self.buyer.token);
            request = request.header("Idempotency-Key", key).json(&json!({ "quantity": 1 }));
            if let Some(token) = token {
                request = request.header("Purchase-Token", token);
            }
            let answer = self.send(request).await?;
            match answer.status {
                StatusCode::ACCEPTED | StatusCode::FORBIDDEN | StatusCode::CONFLICT => return Ok(answer),
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                    if token.is_none() || Instant::now() >= self.game.ends_at {
                        return Ok(answer);
                    }
                    pause(&answer).await;
                }
                status => bail!("an order was answered {status}: {}", String::from_utf8_lossy(&answer.body)),
            }
        }
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Answer> {
        let at_once = if self.arrival.is_bot { &self.game.bots } else { &self.game.people };
        let _one = at_once.acquire().await?;
        self.game.client.send(request).await
    }
}

async fn pause(answer: &Answer) {
    let seconds = answer.header("retry-after").and_then(|text| text.parse().ok()).unwrap_or(1);
    sleep(Duration::from_secs(seconds).min(PAUSE_MAX)).await;
}

/// Watches a place by its stream from `from` on; when it heard that nothing is left, in Unix ms.
pub(super) async fn watch(game: Arc<Game>, buyer: Buyer, from: Instant) -> anyhow::Result<i64> {
    sleep_until(from).await;
    let path = format!("/api/v1/items/{}/place", game.item);
    let join = game.client.request(Method::POST, &path).bearer_auth(&buyer.token);
    ensure!(game.client.send(join).await?.status.is_success(), "the watcher cannot join");
    let stream = game.client.request(Method::GET, &path).bearer_auth(&buyer.token);
    let stream = stream.timeout(Duration::from_secs(3600)).header("accept", "text/event-stream");
    let mut chunks = stream.send().await?.error_for_status()?.bytes_stream();
    let mut told = String::new();
    loop {
        let chunk = timeout_at(game.ends_at, chunks.next()).await.context("the watcher heard no end")?;
        told.push_str(&String::from_utf8_lossy(&chunk.context("the stream ended")??));
        if told.contains("\"state\":\"closed\"") {
            return Ok(now_ms());
        }
    }
}
