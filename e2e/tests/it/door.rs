//! Who does not get in any more, whose data goes, and what logs never say: over the whole system.

use std::time::Duration;

use common::api::OrderStatus;
use common::api::admin::{Block, Erasure};
use common::problem::Code;
use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testkit::{Database, eventually};

use crate::support::World;

async fn block(world: &World, kind: &str, value: &str) -> Block {
    let body = json!({ "kind": kind, "value": value, "reason": "resells" });
    world.client.post("/api/v1/admin/blocks", &world.admin, &body).await.unwrap().json().unwrap()
}

/// Waits until both gateways, asked in turn, know of the block of this account or of this device. Asking for a place buys
/// nothing, and looks no order up.
async fn blocked_everywhere(world: &World, token: &str, item: common::ids::ItemId, device: Option<&str>) {
    let path = format!("/api/v1/items/{item}/place");
    eventually("two refusals in a row", async || {
        for _ in 0..2 {
            let mut place = world.client.request(Method::POST, &path).bearer_auth(token);
            if let Some(device) = device {
                place = place.header("Device-Id", device);
            }
            let answer = world.client.send(place).await.ok()?;
            if answer.code() != Some(Code::Blocked) {
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_account_gets_nothing_new_at_any_gateway_and_keeps_what_it_has() {
    let world = World::with_replicas(2).await;
    let sale = world.open_sale(1_000, 100, 600).await;
    let item = sale.items[0].id;
    let mei = world.customer("mei").await;
    let order = world.accepted(&mei, item, "first").await;
    world.reaches(&mei, order, OrderStatus::PendingPayment).await;

    let entry = block(&world, "user", "mei").await;
    assert_eq!((entry.value.as_str(), entry.created_by.as_str()), ("mei", "admin"));
    blocked_everywhere(&world, &mei, item, None).await;
    for key in ["new", "newer"] {
        let answer = world.client.order(&mei, item, key, 1).await.unwrap();
        assert_eq!((answer.status, answer.code()), (StatusCode::FORBIDDEN, Some(Code::Blocked)), "{key}");
    }
    for _ in 0..4 {
        assert_eq!(world.accepted(&mei, item, "first").await, order, "the same key learns of its order");
    }
    assert_eq!(world.client.order_state(&mei, order).await.unwrap().id, order);
    world.client.pay(&mei, order).await.unwrap();
    world.reaches(&mei, order, OrderStatus::Paid).await;
    world.accepted(&world.customer("li").await, item, "k").await;

    // A device is blocked whoever is at it.
    block(&world, "device", "device-4711").await;
    let zhang = world.customer("zhang").await;
    blocked_everywhere(&world, &zhang, item, Some("device-4711")).await;
    for key in ["on-it", "at-it-again"] {
        let order = world.client.request(Method::POST, &format!("/api/v1/items/{item}/orders"));
        let order =
            order.bearer_auth(&zhang).header("Idempotency-Key", key).header("Device-Id", "device-4711");
        let answer = world.client.send(order.json(&json!({ "quantity": 1 }))).await.unwrap();
        assert_eq!(answer.code(), Some(Code::Blocked), "{key}");
    }

    let lift = world.client.request(Method::DELETE, &format!("/api/v1/admin/blocks/{}", entry.id));
    assert_eq!(world.client.send(lift.bearer_auth(&world.admin)).await.unwrap().status, 204);
    eventually("mei may order again", async || {
        let answer = world.client.order(&mei, item, "again", 1).await.ok()?;
        (answer.status == StatusCode::ACCEPTED).then_some(())
    })
    .await;
    let log = world.client.get("/api/v1/admin/audit-log?limit=100", &world.admin).await.unwrap();
    let log: Value = log.json().unwrap();
    let deeds: Vec<_> =
        log["items"].as_array().unwrap().iter().filter(|e| e["subject"] == json!(entry.id)).collect();
    assert_eq!(
        (deeds[0]["action"].as_str(), deeds[1]["action"].as_str()),
        (Some("block.lift"), Some("block.create"))
    );
    assert_eq!(deeds[0]["before"]["value"], "mei");
}

/// Every text in every table that holds the word.
async fn mentions(database: &Database, word: &str) -> String {
    let mut connection = AsyncPgConnection::establish(&database.url()).await.unwrap();
    let find = format!(
        "DO $$ DECLARE t text; found text := ''; n bigint; BEGIN
           FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
             EXECUTE format('SELECT count(*) FROM %I AS r WHERE r::text LIKE %L', t, '%{word}%') INTO n;
             IF n > 0 THEN found := found || t || ' '; END IF;
           END LOOP;
           IF found <> '' THEN RAISE EXCEPTION 'in: %', found; END IF;
         END $$"
    );
    connection.batch_execute(&find).await.err().map(|error| error.to_string()).unwrap_or_default()
}

async fn execute(database: &Database, sql: &str) {
    let mut connection = AsyncPgConnection::establish(&database.url()).await.unwrap();
    connection.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_data_is_erased_as_soon_as_nothing_can_happen_to_it_and_the_ledger_stays() {
    let world = World::start().await;
    let sale = world.open_sale(100, 5, 600).await;
    let item = sale.items[0].id;
    let (erin, other) = (world.customer("erin-personal").await, world.customer("someone").await);
    let paid = world.accepted(&erin, item, "paid").await;
    world.reaches(&erin, paid, OrderStatus::PendingPayment).await;
    world.client.pay(&erin, paid).await.unwrap();
    world.reaches(&erin, paid, OrderStatus::Paid).await;
    let open = world.accepted(&erin, item, "open").await;
    world.reaches(&erin, open, OrderStatus::PendingPayment).await;
    let theirs = world.accepted(&other, item, "theirs").await;
    world.reaches(&other, theirs, OrderStatus::PendingPayment).await;
    world.quiet(sale.id).await;

    let erase = async || -> Erasure {
        let path = "/api/v1/admin/users/erin-personal/erase";
        let answer = world.client.send(world.client.request(Method::POST, path).bearer_auth(&world.admin));
        answer.await.unwrap().json().unwrap()
    };
    let early = erase().await;
    assert_eq!((early.complete, early.orders_erased, early.orders_kept), (false, 0, 2), "{early:?}");
    world.quiet(sale.id).await; // Nothing that is still needed was touched.

    // Two days later.
    let cancel = format!("/api/v1/orders/{open}/cancel");
    let cancelled = world.client.send(world.client.request(Method::POST, &cancel).bearer_auth(&erin));
    assert_eq!(cancelled.await.unwrap().status, StatusCode::OK);
    let ledger = "SELECT 1 / (count(*) = 3 AND sum(quantity * unit_price_cents) = 3 * 1990)::int FROM orders";
    execute(world.services.orders_database(), ledger).await;
    eventually("everything was told", async || {
        let told = "DO $$ BEGIN ASSERT NOT EXISTS (SELECT 1 FROM outbox WHERE published_at IS NULL); END $$";
        let mut connection =
            AsyncPgConnection::establish(&world.services.orders_database().url()).await.ok()?;
        connection.batch_execute(told).await.ok()
    })
    .await;
    world.queues_run_dry().await;
    let later =
        "UPDATE sales SET starts_at = starts_at - interval '3 days', ends_at = ends_at - interval '3 days';
         UPDATE order_transitions SET at = at - interval '2 days'; DELETE FROM outbox";
    execute(world.services.orders_database(), later).await;
    let later = "UPDATE events SET stored_at = stored_at - interval '2 days'";
    execute(world.services.notify_database(), later).await;

    let done = erase().await;
    assert_eq!((done.complete, done.orders_erased, done.orders_kept), (true, 2, 0), "{done:?}");
    assert!(done.events_erased >= 4, "{done:?}");
    assert_eq!(mentions(world.services.orders_database(), "erin-personal").await, "");
    assert_eq!(mentions(world.services.notify_database(), "erin-personal").await, "");
    assert_ne!(mentions(world.services.orders_database(), "someone").await, "", "others' data stay");
    execute(world.services.orders_database(), ledger).await;
    let again = erase().await;
    assert_eq!((again.complete, again.orders_erased, again.events_erased), (true, 0, 0));

    let listed: Value = world.client.get("/api/v1/orders", &erin).await.unwrap().json().unwrap();
    assert_eq!(listed["items"], json!([]));
    let log: Value =
        world.client.get("/api/v1/admin/audit-log?limit=100", &world.admin).await.unwrap().json().unwrap();
    let entries = log["items"].as_array().unwrap().iter();
    assert_eq!(
        entries.filter(|entry| entry["action"] == "user.erase" && entry["subject"] == json!(done.id)).count(),
        2
    );
    assert!(!log.to_string().contains("erin-personal"));
}

/// What must be in no log: as a client might send it, anywhere.
const SECRETS: [&str; 5] = [
    "canary-token-9f31c7",
    "canary-password-5b20aa",
    "8613800138000",
    "Canary Road 17, Chengdu",
    "canary-cookie-77d0",
];

/// As much as the services can say; what libraries say at this level is not ours.
const TALKATIVE: [(&str, &str); 4] = [
    ("GATEWAY__TELEMETRY__LOG", "info,gateway=debug,common=debug"),
    ("STOCK_SERVICE__TELEMETRY__LOG", "info,stock_service=debug,common=debug"),
    ("ORDER_SERVICE__TELEMETRY__LOG", "info,order_service=debug,common=debug"),
    ("NOTIFY_SERVICE__TELEMETRY__LOG", "info,notify_service=debug,common=debug"),
];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_client_sends_in_confidence_is_in_any_log() {
    let services = testkit::Services::start_with(1, &TALKATIVE).await;
    let client = e2e::client::Client::new(services.gateway_urls()).unwrap();
    let admin = client.token("admin", "admin").await.unwrap();
    let world = World { services, client, admin };
    let (services, client, admin) = (&world.services, &world.client, &world.admin);
    let mei = world.customer("mei").await;
    let sale = world.open_sale(10, 2, 600).await;

    let document: Value = client.get("/openapi.json", "none").await.unwrap().json().unwrap();
    let [token, password, phone, address, cookie] = SECRETS;
    let mut sent = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let named = path
                .replace("{item_id}", &sale.items[0].id.to_string())
                .replace("{sale_id}", &sale.id.to_string())
                .replace("{provider}", "sandbox");
            let named: Vec<&str> = named
                .split('/')
                .map(|part| if part.starts_with('{') { "canary-token-9f31c7" } else { part })
                .collect();
            let named = named.join("/");
            // With a good token and with none, in the places where people put such things by mistake.
            for bearer in [mei.as_str(), admin.as_str(), token] {
                let stream = named == "/api/v1/events";
                let request = client.request(method.clone(), &named).bearer_auth(bearer);
                let request = request
                    .query(&[
                        ("access_token", token),
                        ("phone", phone),
                        ("cursor", password),
                        ("limit", address),
                    ])
                    .header("Cookie", format!("session={cookie}"))
                    .header("X-Api-Key", password)
                    .header("Purchase-Token", token)
                    .header("Challenge-Answer", token)
                    .header("Sandbox-Signature", token)
                    .header("Idempotency-Key", format!("{token}-{sent}"))
                    .header("User-Agent", format!("app ({phone})"))
                    .header("Referer", format!("https://shop.example/?token={token}"))
                    .timeout(Duration::from_secs(if stream { 1 } else { 15 }))
                    .json(&json!({ "quantity": 1, "phone": phone, "address": address, "password": password,
                        "code": token, "secret": token, "user_id": token, "role": password }));
                _ = client.send(request).await;
                sent += 1;
            }
        }
    }
    assert!(sent >= 120, "{sent}");
    // The first sale is over by now: an admin may do everything.
    let item = world.open_sale(10, 2, 600).await.items[0].id;
    world.accepted(&mei, item, SECRETS[1]).await;
    let secrets = [
        services.internal_token(),
        services.jwt_secret(),
        services.sandbox_secret(),
        mei.as_str(),
        admin.as_str(),
    ];
    for name in services.names() {
        let log = services.log(&name);
        assert!(!log.is_empty(), "{name}");
        for secret in SECRETS.iter().copied().chain(secrets) {
            let line =
                log.lines().find(|line| line.contains(secret) || line.contains(&secret.replace(' ', "%20")));
            assert_eq!(line, None, "{name} logs {secret}");
        }
    }
}
