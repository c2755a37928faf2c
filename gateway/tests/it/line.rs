//! The waiting room: nobody overtakes, the draw can be checked, and admission follows what is left.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use common::api::inventory::{CatalogueItem, ReserveAnswer, ReserveBatch, ReserveLine, ReserveOutcome};
use common::api::{ItemState, SaleState};
use common::ids::UserId;
use futures_util::StreamExt as _;
use gateway::line::draw;
use reqwest::Response;
use serde_json::{Value, json};
use testkit::{Redis, eventually};

use crate::support::*;

/// An item with a waiting room.
fn with_line(state: ItemState, available: i64, starts_at: DateTime<Utc>) -> CatalogueItem {
    CatalogueItem { waiting_room: true, available, starts_at, total: 100, ..catalogue_item(state) }
}

fn open_since_a_minute(available: i64) -> CatalogueItem {
    with_line(ItemState::Active, available, now() - TimeDelta::seconds(60))
}

/// A stock-service that grants whoever was admitted, and nobody else.
fn strict(item: CatalogueItem) -> impl Fn(&Recorded) -> Reply + Send + Sync {
    move |call| {
        if !call.path.ends_with("/reservations") {
            return Reply::json(200, &catalogue(vec![item.clone()]));
        }
        let batch: ReserveBatch = serde_json::from_slice(&call.body).expect("a batch");
        let outcome = |admitted_ms: Option<i64>| {
            admitted_ms.map_or(ReserveOutcome::PlaceRequired, |_| ReserveOutcome::Accepted)
        };
        let answers = batch.requests.iter().enumerate();
        let answers = answers
            .map(|(index, request)| ReserveAnswer { index, outcome: outcome(request.admitted_ms) })
            .collect();
        lines(vec![(0, ReserveLine { answers })])
    }
}

/// Two gateways before the same services and one Redis.
struct Door {
    redis: Redis,
    gateways: Vec<Gateway>,
}

impl Door {
    async fn open(item: CatalogueItem, settings: &[(&str, &str)]) -> Self {
        let redis = Redis::start().await;
        let stock = Fake::start(strict(item)).await;
        let orders = Fake::start(orders(vec![sale(SaleState::Active)])).await;
        let mut door = Self { redis, gateways: Vec::new() };
        for _ in 0..2 {
            door.add(settings, &stock, &orders).await;
        }
        door
    }

    async fn add(&mut self, settings: &[(&str, &str)], stock: &Fake, orders: &Fake) {
        let url = self.redis.url();
        // Nobody is let in because somebody else, or this machine, is slow.
        let hold = ("LINE__HOLD_MS", "600000");
        let settings: Vec<_> = [("REDIS__URL", url.as_str()), ("REDIS__TIMEOUT_MS", "5000"), hold]
            .iter()
            .chain(settings)
            .copied()
            .collect();
        let gateway = behind(&settings, stock.clone(), orders.clone()).await;
        eventually("the gateway has the catalogue", async || {
            (gateway
                .get(&place_path())
                .bearer_auth(gateway.token("probe", "customer").await)
                .send()
                .await
                .ok()?)
            .status()
            .is_client_error()
            .then_some(())
        })
        .await;
        self.gateways.push(gateway);
    }

    /// A gateway, another one each time.
    fn any(&self, n: usize) -> &Gateway {
        &self.gateways[n % self.gateways.len()]
    }

    /// From now on the inventory says this, and every gateway knows.
    async fn now_is(&self, item: CatalogueItem) {
        self.gateways[0].stock.answer(strict(item));
        for gateway in &self.gateways {
            gateway.polled().await;
        }
    }

    async fn join(&self, n: usize, user: &str) -> Value {
        let gateway = self.any(n);
        ok(gateway.post(&place_path()).bearer_auth(gateway.token(user, "customer").await).send().await).await
    }

    async fn look(&self, n: usize, user: &str) -> Value {
        ok(self.ask(n, user).await).await
    }

    async fn ask(&self, n: usize, user: &str) -> reqwest::Result<Response> {
        let gateway = self.any(n);
        gateway.get(&place_path()).bearer_auth(gateway.token(user, "customer").await).send().await
    }

    async fn order(&self, n: usize, user: &str, key: &str, token: Option<&str>) -> Response {
        let gateway = self.any(n);
        let mut request = gateway.order_request(&gateway.token(user, "customer").await, key);
        if let Some(token) = token {
            request = request.header("Purchase-Token", token);
        }
        request.send().await.expect("answered")
    }

    /// Asks until it is `user`'s turn; the purchase token.
    async fn admitted(&self, user: &str) -> String {
        eventually(&format!("{user} is let in"), async || {
            let place = self.look(0, user).await;
            place["purchase_token"].as_str().map(str::to_owned)
        })
        .await
    }
}

fn place_path() -> String {
    format!("/api/v1/items/{ITEM}/place")
}

async fn ok(response: reqwest::Result<Response>) -> Value {
    let response = response.expect("answered");
    let status = response.status();
    let text = response.text().await.expect("a body");
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).expect("JSON")
}

fn ticket(user: &str) -> String {
    draw::ticket(ITEM, &UserId::try_from(user.to_owned()).expect("valid"))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_place_no_order_and_a_place_is_good_for_one() {
    let door = Door::open(open_since_a_minute(5), &[]).await;
    problem(door.order(0, "mei", "k", None).await, 403, "place_required").await;
    problem(door.ask(0, "mei").await.expect("answered"), 404, "not_found").await;

    door.join(0, "mei").await;
    let token = door.admitted("mei").await;
    for (user, token) in [("mei", format!("{token}0")), ("mei", "1.9.00".to_owned()), ("li", token.clone())] {
        problem(door.order(1, user, "k", Some(&token)).await, 403, "place_required").await;
    }
    let ordered = door.order(1, "mei", "k", Some(&token)).await;
    assert_eq!(ordered.status(), 202);
    let sent = door.gateways[0].stock.calls("/reservations");
    let bodies: Vec<ReserveBatch> =
        sent.iter().map(|call| serde_json::from_slice(&call.body).expect("a batch")).collect();
    let admissions: Vec<_> = bodies.iter().map(|batch| batch.requests[0].admitted_ms.is_some()).collect();
    assert_eq!(admissions, [false, false, false, false, true]);
    eventually("the place is given back", async || {
        (door.ask(0, "mei").await.ok()?.status() == 404).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_without_a_place_are_asked_for_now_and_then_only() {
    let settings = [("LINE__UNPLACED__PER_SECOND", "1"), ("LINE__UNPLACED__BURST", "3")];
    let door = Door::open(open_since_a_minute(5), &settings).await;
    let mut codes = Vec::new();
    for n in 0..20 {
        let answer: Value = door.order(0, "bot", &format!("k{n}"), None).await.json().await.expect("JSON");
        codes.push(answer["code"].as_str().expect("a code").to_owned());
    }
    let asked = door.gateways[0].stock.calls("/reservations").len();
    assert!(codes.contains(&"place_required".to_owned()) && codes.contains(&"rate_limited".to_owned()));
    assert_eq!(asked, codes.iter().filter(|code| *code == "place_required").count(), "{codes:?}");
    assert!(asked < 20, "{codes:?}");
    problem(door.order(0, "human", "k", None).await, 403, "place_required").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_draw_can_be_checked_and_its_order_is_the_order_of_admission() {
    const PEOPLE: usize = 24;
    let opens_at = now() + TimeDelta::seconds(10);
    // One unit at a time, so that the order of admission shows.
    let door = Door::open(
        with_line(ItemState::Scheduled, 100, opens_at),
        &[("LINE__OVERSUBSCRIBE_PERCENT", "1"), ("LINE__TOKEN_TTL_MS", "600000")],
    )
    .await;
    let users: Vec<String> = (0..PEOPLE).map(|n| format!("u{n}")).collect();
    for (n, user) in users.iter().enumerate() {
        let place = door.join(n, user).await;
        assert_eq!((&place["state"], &place["reason"]), (&json!("waiting"), &json!("gathering")));
        assert_eq!((&place["position"], &place["purchase_token"]), (&Value::Null, &Value::Null));
        assert_eq!(place["ticket"], ticket(user));
        assert_eq!(door.join(n + 1, user).await["gathered"], n + 1, "a second join is the same place");
    }
    let before = ok(door.any(0).get(&format!("/api/v1/items/{ITEM}/draw")).send().await).await;
    assert_eq!((&before["seed"], &before["tickets"]), (&Value::Null, &json!([])), "the seed is secret");

    door.now_is(with_line(ItemState::Active, 100, opens_at)).await;
    let published = eventually("the line is drawn", async || {
        door.look(0, "u0").await;
        let draw = ok(door.any(1).get(&format!("/api/v1/items/{ITEM}/draw")).send().await).await;
        draw["seed"].is_string().then_some(draw)
    })
    .await;
    let seed = draw::unhex(published["seed"].as_str().expect("a seed")).expect("hexadecimal");
    assert_eq!(published["commitment"], before["commitment"], "the one that was published first");
    assert_eq!(published["commitment"], draw::commitment(&seed));
    let mut expected: Vec<String> = users.iter().map(|user| ticket(user)).collect();
    assert_eq!(published["list_hash"], draw::list_hash(&mut expected));
    expected.sort_by_key(|ticket| (draw::place(&seed, ticket), ticket.clone()));
    assert_eq!(published["tickets"], json!(expected));

    let late = door.join(0, "late").await;
    assert_eq!(late["position"], PEOPLE, "behind all but the one who is in");
    let user_of = |ticket: &String| users.iter().find(|user| self::ticket(user) == *ticket).expect("theirs");
    for (nth, ticket) in expected.iter().enumerate().take(8) {
        let user = user_of(ticket);
        let token = door.admitted(user).await;
        assert_eq!(door.look(nth, user_of(&expected[nth + 1])).await["position"], 1);
        assert_eq!(door.order(nth, user, "k", Some(&token)).await.status(), 202);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn admission_follows_what_is_left_and_unused_ones_go_to_the_next() {
    let settings = [
        ("LINE__OVERSUBSCRIBE_PERCENT", "150"),
        ("LINE__TOKEN_TTL_MS", "8000"),
        ("LINE__ADMIT_PER_SECOND", "1000"),
    ];
    let door = Door::open(open_since_a_minute(2), &settings).await;
    for n in 0..9 {
        door.join(n, &format!("u{n}")).await;
    }
    let mut tokens = Vec::new();
    for n in 0..3 {
        tokens.push(door.admitted(&format!("u{n}")).await);
    }
    let places: Vec<Value> = [door.look(0, "u3").await, door.look(1, "u8").await].into();
    assert_eq!(
        (&places[0]["position"], &places[1]["position"]),
        (&json!(1), &json!(6)),
        "three for two units"
    );
    assert_eq!(places[1]["estimate_s"], Value::Null, "nobody can know");

    for n in 3..6 {
        door.admitted(&format!("u{n}")).await;
    }
    let first = door.look(0, "u0").await;
    assert_eq!((&first["state"], &first["reason"]), (&json!("closed"), &json!("expired")));
    problem(door.order(0, "u0", "k", Some(&tokens[0])).await, 403, "place_required").await;
    let again = door.join(0, "u0").await;
    assert_eq!(again["reason"], "in_line", "at the end: {again}");
    assert!(again["position"].as_u64() > Some(1), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hesitates_lets_the_next_one_in_and_can_still_order() {
    let door = Door::open(open_since_a_minute(1), &[("LINE__HOLD_MS", "1500")]).await;
    door.join(0, "hesitant").await;
    let token = door.admitted("hesitant").await;
    assert_eq!(door.join(1, "next").await["position"], 1, "there is a unit for one");
    door.admitted("next").await;
    assert_eq!(door.look(0, "hesitant").await["purchase_token"], token, "still good");
    assert_eq!(door.order(0, "hesitant", "k", Some(&token)).await.status(), 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_is_closed_when_nothing_is_left_and_goes_on_when_units_come_back() {
    let door = Door::open(open_since_a_minute(1), &[("LINE__OVERSUBSCRIBE_PERCENT", "100")]).await;
    door.join(0, "first").await;
    door.admitted("first").await;
    assert_eq!(door.join(0, "second").await["position"], 1);

    door.now_is(with_line(ItemState::SoldOut, 0, now() - TimeDelta::seconds(60))).await;
    for user in ["first", "second", "stranger"] {
        let place = door.look(1, user).await;
        assert_eq!((&place["state"], &place["reason"]), (&json!("closed"), &json!("sold_out")), "{user}");
    }
    door.now_is(open_since_a_minute(3)).await;
    door.admitted("second").await;
    problem(door.ask(0, "stranger").await.expect("answered"), 404, "not_found").await;

    door.now_is(with_line(ItemState::Ended, 3, now() - TimeDelta::seconds(60))).await;
    assert_eq!(door.join(0, "second").await["reason"], "ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_survives_gateways_and_lost_keys_cost_the_place_but_no_admission() {
    let one_at_a_time = [("LINE__OVERSUBSCRIBE_PERCENT", "1")];
    let mut door = Door::open(open_since_a_minute(5), &one_at_a_time).await;
    for (n, user) in ["a", "b", "c"].iter().enumerate() {
        door.join(n, user).await;
    }
    let token = door.admitted("a").await;
    let (stock, orders) = (door.gateways[0].stock.clone(), door.gateways[0].orders.clone());
    for gateway in door.gateways.drain(..) {
        gateway.stop.cancel();
        gateway.ended.await.expect("ended").expect("in order");
    }
    door.add(&one_at_a_time, &stock, &orders).await;
    assert_eq!(door.look(0, "c").await["position"], 2);
    assert_eq!(door.look(0, "a").await["purchase_token"], token);

    door.redis.flush_all().await;
    for user in ["a", "b", "c"] {
        problem(door.ask(0, user).await.expect("answered"), 404, "not_found").await;
    }
    assert_eq!(door.order(0, "a", "k", Some(&token)).await.status(), 202);
    door.join(0, "b").await;
    door.admitted("b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_nobody_moves_and_who_has_a_token_buys() {
    let mut door = Door::open(open_since_a_minute(5), &[]).await;
    door.join(0, "a").await;
    let token = door.admitted("a").await;
    door.redis.stop();
    problem(door.ask(0, "a").await.expect("answered"), 503, "unavailable").await;
    assert_eq!(door.order(0, "a", "k", Some(&token)).await.status(), 202);
    door.redis.resume().await;
    eventually("the line goes on", async || {
        let response = door.ask(0, "a").await.ok()?;
        (response.status() != 503).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_ask_is_passed_over_and_keeps_the_place() {
    let settings = [("LINE__PRESENCE_MS", "3000"), ("LINE__OVERSUBSCRIBE_PERCENT", "1")];
    let door = Door::open(with_line(ItemState::Paused, 5, now() - TimeDelta::seconds(60)), &settings).await;
    door.join(0, "asleep").await;
    assert_eq!(door.join(0, "awake").await["position"], 2);
    let since = std::time::Instant::now();
    while since.elapsed() < Duration::from_millis(4000) {
        assert_eq!(door.look(0, "awake").await["reason"], "paused");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    door.now_is(open_since_a_minute(5)).await;
    let token = door.admitted("awake").await;
    door.join(0, "third").await;
    assert_eq!(door.look(0, "asleep").await["position"], 1, "awake now, and before who came later");
    assert_eq!(door.order(0, "awake", "k", Some(&token)).await.status(), 202);
    door.admitted("asleep").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_watches_is_told_of_every_change() {
    let door = Arc::new(Door::open(open_since_a_minute(1), &[("LINE__OVERSUBSCRIBE_PERCENT", "100")]).await);
    door.join(0, "first").await;
    let token = door.admitted("first").await;
    door.join(0, "watcher").await;
    let gateway = door.any(1);
    let watching = gateway.get(&place_path()).bearer_auth(gateway.token("watcher", "customer").await);
    let response = watching.header("accept", "text/event-stream").send().await.expect("answered");
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    let mut stream = response.bytes_stream();
    let mut told = String::new();
    let mut hear = async |what: &str| {
        let heard = tokio::time::timeout(Duration::from_secs(30), async {
            while !told.contains(what) {
                let chunk = stream.next().await.expect("more").expect("a chunk");
                told.push_str(&String::from_utf8_lossy(&chunk));
            }
        });
        heard.await.unwrap_or_else(|_| panic!("never heard {what}: {told}"));
        told.clear();
    };
    hear("\"position\":1").await;
    door.now_is(with_line(ItemState::SoldOut, 0, now() - TimeDelta::seconds(60))).await;
    hear("\"reason\":\"sold_out\"").await;
    door.now_is(open_since_a_minute(1)).await;
    hear("\"position\":1").await;
    assert_eq!(door.order(0, "first", "k", Some(&token)).await.status(), 202);
    hear("\"purchase_token\":").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_waiting_room_everybody_is_let_in_and_without_redis_nobody_lines_up() {
    let gateway = open().await;
    let token = gateway.token("mei", "customer").await;
    let place = ok(gateway.post(&place_path()).bearer_auth(&token).send().await).await;
    assert_eq!((&place["state"], place.get("purchase_token")), (&json!("admitted"), None));
    let path = format!("/api/v1/items/{ITEM}/draw");
    problem(gateway.get(&path).send().await.expect("answered"), 404, "not_found").await;
    let unknown = gateway.post("/api/v1/items/00000000-0000-0000-0000-000000000099/place");
    problem(unknown.bearer_auth(&token).send().await.expect("answered"), 404, "not_found").await;

    gateway.stock.answer(strict(open_since_a_minute(1)));
    gateway.polled().await;
    let refused = gateway.post(&place_path()).bearer_auth(&token).send().await.expect("answered");
    problem(refused, 503, "unavailable").await;
}
