//! Administration of sales: what is refused names its field, what is done is done whole, and everybody hears of it.

use common::api::{ItemState, SaleState};
use reqwest::Method;
use serde_json::{Value, json};
use testkit::eventually;

use crate::desk::{Desk, item_of, sale};
use crate::support::{World, answer};

/// The sale with something spoilt in it: a field by its JSON pointer, or a new one in its object.
fn spoilt(pointer: &str, value: Value) -> Value {
    let mut sale = sale(10);
    let (object, field) = pointer.rsplit_once('/').unwrap();
    sale.pointer_mut(object).unwrap()[field] = value;
    sale
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_field_is_named_and_nothing_is_written() {
    let desk = Desk::open("bad_fields").await;
    let long = |length: usize| json!("x".repeat(length));
    let cases = [
        ("/title", json!(""), "title"),
        ("/title", json!(" \u{3000} "), "title"),
        ("/title", json!("a\u{0}b"), "title"),
        ("/title", json!("a\u{1b}[31m"), "title"),
        ("/title", long(201), "title"),
        ("/title", json!(null), "title"),
        ("/title", json!(["x"]), "title"),
        ("/starts_at", json!("yesterday"), "starts_at"),
        ("/starts_at", json!("1970-01-01T00:00:00Z"), "starts_at"),
        ("/ends_at", json!("2020-01-01T10:00:00Z"), "ends_at"),
        ("/ends_at", json!("2019-01-01T10:00:00+14:00"), "ends_at"),
        ("/payment_window_seconds", json!(0), "payment_window_seconds"),
        ("/payment_window_seconds", json!(86_401), "payment_window_seconds"),
        ("/payment_window_seconds", json!(-1), "payment_window_seconds"),
        ("/items", json!([]), "items"),
        ("/items", json!({}), "items"),
        ("/items/0/sku", json!(""), "items[0].sku"),
        ("/items/0/sku", long(65), "items[0].sku"),
        ("/items/0/name", json!("a\r\nb"), "items[0].name"),
        ("/items/0/image_url", json!("ftp://a/b"), "items[0].image_url"),
        ("/items/0/image_url", json!("http://"), "items[0].image_url"),
        ("/items/0/price_cents", json!(-1), "items[0].price_cents"),
        ("/items/0/price_cents", json!(10_000_000_001_i64), "items[0].price_cents"),
        ("/items/0/currency", json!("cny"), "items[0].currency"),
        ("/items/0/currency", json!("CNY "), "items[0].currency"),
        ("/items/0/stock", json!(-1), "items[0].stock"),
        ("/items/0/stock", json!(10_000_001), "items[0].stock"),
        ("/items/0/stock", json!("1"), "items[0].stock"),
        ("/items/0/stock", json!(1.5), "items[0].stock"),
        ("/items/0/per_user_limit", json!(0), "items[0].per_user_limit"),
        ("/items/0/per_user_limit", json!(101), "items[0].per_user_limit"),
        ("/items/0/taken", json!(1), "items[0].taken"),
        ("/state", json!("active"), "state"),
    ];
    for (pointer, value, field) in cases {
        let (status, problem) =
            desk.admin(Method::POST, "/admin/sales", spoilt(pointer, value.clone())).await;
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_request")), "{pointer} = {value}");
        assert_eq!(problem["field"], field, "{pointer} = {value}: {problem}");
    }
    for body in ["", "{", "[]", "\u{feff}{}", "NaN", "{\"title\":1e999}"] {
        let call = desk.instance.call(Method::POST, "/admin/sales", "root").header("x-user-role", "admin");
        let (status, _) = answer(call.header("content-type", "application/json").body(body)).await;
        assert_eq!(status, 400, "{body}");
    }
    let call = desk.instance.call(Method::POST, "/admin/sales", "root").header("x-user-role", "admin");
    assert_eq!(answer(call.header("content-type", "text/plain").body("{}")).await.0, 415);
    let call = desk.instance.call(Method::POST, "/admin/sales", "root").header("x-user-role", "admin");
    let too_long = call.header("content-type", "application/json").body(" ".repeat(100_000));
    assert_eq!(answer(too_long).await.0, 413);

    let written =
        "(SELECT count(*) FROM sales) + (SELECT count(*) FROM items) + (SELECT count(*) FROM audit_log)";
    assert_eq!(desk.world.number(written).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_admins_administer() {
    let desk = Desk::open("no_admin").await;
    let as_customer =
        desk.instance.call(Method::POST, "/admin/sales", "ann").header("x-user-role", "customer");
    assert_eq!(answer(as_customer.json(&sale(1))).await.0, 403);
    assert_eq!(answer(desk.instance.call(Method::GET, "/admin/orders", "ann")).await.0, 403);
    let nobody = desk.world.client.get(desk.instance.url("/admin/audit-log"));
    assert_eq!(answer(nobody).await.0, 401);
    assert_eq!(desk.world.number("SELECT count(*) FROM sales").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_lives_and_every_step_is_in_the_audit_log() {
    let desk = Desk::open("life").await;
    let draft = desk.admin_does("/admin/sales", sale(10)).await;
    let id = draft["id"].as_str().unwrap().to_owned();
    let path = |action: &str| format!("/admin/sales/{id}/{action}");
    assert_eq!(draft["state"], "draft");
    assert_eq!(draft["items"][0]["state"], "draft");

    // Nobody else sees a draft, and the inventory is not told.
    assert_eq!(desk.instance.get(&format!("/sales/{id}"), "ann").await.0, 404);
    assert_eq!(desk.instance.get("/sales", "ann").await.1["items"], json!([]));
    for action in ["pause", "resume", "end"] {
        assert_eq!(desk.admin(Method::POST, &path(action), json!({})).await.0, 409, "{action} of a draft");
    }
    let changes = json!({"title": "晚餐", "items": [sale(7)["items"][0], sale(8)["items"][0]]});
    let (status, changed) = desk.admin(Method::PATCH, &format!("/admin/sales/{id}"), changes).await;
    assert_eq!(
        (status, &changed["title"], changed["items"].as_array().unwrap().len()),
        (200, &json!("晚餐"), 2)
    );
    let bad = json!({"ends_at": "2019-12-31T00:00:00Z"});
    let (status, problem) = desk.admin(Method::PATCH, &format!("/admin/sales/{id}"), bad).await;
    assert_eq!((status, &problem["field"]), (400, &json!("ends_at")));
    assert_eq!(desk.world.number("SELECT count(*) FROM outbox").await, 0);

    assert_eq!(desk.admin_does(&path("publish"), json!({})).await["state"], "active");
    assert_eq!(desk.admin_does(&path("pause"), json!({})).await["state"], "paused");
    assert_eq!(desk.admin_does(&path("resume"), json!({})).await["state"], "active");
    let (status, _) = desk.admin(Method::PATCH, &format!("/admin/sales/{id}"), json!({"title": "x"})).await;
    assert_eq!(status, 409, "what is published stays");
    assert_eq!(desk.admin_does(&path("end"), json!({})).await["items"][1]["state"], "ended");
    for action in ["publish", "pause", "resume", "end"] {
        let (status, problem) = desk.admin(Method::POST, &path(action), json!({})).await;
        assert_eq!(
            (status, &problem["code"]),
            (409, &json!("invalid_transition")),
            "{action} of an ended sale"
        );
    }
    assert_eq!(desk.admin(Method::POST, "/admin/sales/x/publish", json!({})).await.0, 400);

    // Four steps, each told once for both items, with rising versions.
    let versions = "SELECT e->>'version' FROM outbox, jsonb_array_elements(
                        convert_from(body, 'UTF8')::jsonb->'events') e
                     WHERE kind = 'sale.changed.v1' ORDER BY outbox.id, 1";
    assert_eq!(desk.world.words(versions).await, ["2", "2", "3", "3", "4", "4", "5", "5"]);
    desk.world.number_becomes("SELECT count(*) FROM outbox WHERE published_at IS NULL", 0).await;

    let (status, log) = desk.admin_get("/admin/audit-log?limit=4").await;
    assert_eq!(status, 200);
    let cursor = log["next_cursor"].as_str().unwrap();
    let (_, rest) = desk.admin_get(&format!("/admin/audit-log?limit=4&cursor={cursor}")).await;
    let entries: Vec<&Value> =
        [&log, &rest].iter().flat_map(|page| page["items"].as_array().unwrap()).collect();
    let actions: Vec<&str> = entries.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    let expected = ["sale.end", "sale.resume", "sale.pause", "sale.publish", "sale.change", "sale.create"];
    assert_eq!(actions, expected);
    assert_eq!(rest["next_cursor"], json!(null));
    assert!(entries.iter().all(|entry| entry["actor"] == "root" && entry["subject"] == id));
    assert_eq!(
        (&entries[2]["before"]["state"], &entries[2]["after"]["state"]),
        (&json!("active"), &json!("paused"))
    );
    assert_eq!(
        (&entries[4]["before"]["title"], &entries[4]["after"]["title"]),
        (&json!("午餐秒杀"), &json!("晚餐"))
    );
    assert_eq!(entries[5]["before"], json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_window_is_postgres_clock_and_what_is_over_stays_over() {
    let desk = Desk::open("window").await;
    let mut past = sale(1);
    past["ends_at"] = json!("2020-01-02T00:00:00Z");
    let id = desk.admin_does("/admin/sales", past).await["id"].as_str().unwrap().to_owned();
    let (status, problem) = desk.admin(Method::POST, &format!("/admin/sales/{id}/publish"), json!({})).await;
    assert_eq!((status, &problem["field"]), (409, &json!("ends_at")));

    let mut future = sale(1);
    future["starts_at"] = json!("2990-01-01T00:00:00Z");
    let id = desk.admin_does("/admin/sales", future).await["id"].as_str().unwrap().to_owned();
    assert_eq!(desk.admin_does(&format!("/admin/sales/{id}/publish"), json!({})).await["state"], "scheduled");
    for action in ["pause", "resume", "publish"] {
        let (status, _) = desk.admin(Method::POST, &format!("/admin/sales/{id}/{action}"), json!({})).await;
        assert_eq!(status, 409, "{action} of a scheduled sale");
    }
    desk.world.execute(&format!("UPDATE sales SET starts_at = now() WHERE id = '{id}'")).await;
    assert_eq!(desk.instance.get(&format!("/sales/{id}"), "ann").await.1["state"], "active");
    desk.admin_does(&format!("/admin/sales/{id}/pause"), json!({})).await;
    desk.world.execute(&format!("UPDATE sales SET ends_at = clock_timestamp() WHERE id = '{id}'")).await;
    assert_eq!(desk.instance.get(&format!("/sales/{id}"), "ann").await.1["state"], "ended");
    assert_eq!(desk.admin(Method::POST, &format!("/admin/sales/{id}/resume"), json!({})).await.0, 409);
}

/// However many newer sales are over or to come.
#[tokio::test(flavor = "multi_thread")]
async fn only_sales_that_are_over_drop_out_of_the_listing() {
    let desk = Desk::open("listing").await;
    let active = desk.open_sale(1).await.id.to_string();
    let many =
        "INSERT INTO sales (id, title, published_at, ended_at, starts_at, ends_at, payment_window_seconds)
                SELECT gen_random_uuid(), kind || n, now(), CASE kind WHEN 'ended' THEN now() END,
                    now() + make_interval(mins => CASE kind WHEN 'scheduled' THEN n ELSE n - 300 END),
                    now() + make_interval(mins => CASE kind WHEN 'past' THEN 0 ELSE 999 END), 60
                FROM generate_series(1, 150) n, unnest(ARRAY['ended', 'past', 'scheduled']) kind";
    desk.world.execute(many).await;

    let (status, listing) = desk.instance.get("/sales", "ann").await;
    assert_eq!(status, 200);
    let sales = listing["items"].as_array().unwrap();
    let of = |state: &str| sales.iter().filter(|sale| sale["state"] == state).collect::<Vec<_>>();
    assert_eq!((of("scheduled").len(), of("ended").len(), sales.len()), (150, 200, 351));
    assert_eq!(of("active")[0]["id"], active);
    assert_eq!(of("ended")[199]["title"].as_str().unwrap().trim_start_matches(char::is_alphabetic), "51");
}

/// The word to the inventory cannot be written: then nothing else is either.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_never_half_written() {
    let desk = Desk::open("half").await;
    let id = desk.admin_does("/admin/sales", sale(5)).await["id"].as_str().unwrap().to_owned();
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                  $$ BEGIN RAISE EXCEPTION 'no'; END $$;";
    desk.world.execute(refuse).await;
    for table in ["outbox", "audit_log"] {
        desk.world
            .execute(&format!(
                "CREATE TRIGGER refuse BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()"
            ))
            .await;
        let (status, _) = desk.admin(Method::POST, &format!("/admin/sales/{id}/publish"), json!({})).await;
        assert!(status >= 500, "{status}");
        let (status, _) = desk.admin(Method::POST, "/admin/sales", sale(5)).await;
        assert!(table == "outbox" || status >= 500, "{status}");
        desk.world.execute(&format!("DROP TRIGGER refuse ON {table}")).await;
    }
    assert_eq!(desk.world.number("SELECT count(*) FROM sales WHERE published_at IS NOT NULL").await, 0);
    assert_eq!(desk.world.number("SELECT count(*) FROM audit_log WHERE action = 'sale.publish'").await, 0);
    assert_eq!(desk.world.number("SELECT count(*) FROM outbox").await, 0);
    assert_eq!(desk.world.number("SELECT max(version) FROM items").await, 1);
    assert_eq!(
        desk.world.number("SELECT count(*) FROM sales").await,
        desk.world.number("SELECT count(*) FROM audit_log").await,
        "each sale has its line"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restock_stops_at_what_is_taken() {
    let desk = Desk::open("restock").await;
    let sale = desk.open_sale(3).await;
    let item = item_of(&sale);
    let path = format!("/admin/items/{item}/restock");
    desk.order(&sale, "ann", 2).await;
    desk.order(&sale, "bob", 1).await;
    let shown = desk.instance.get(&format!("/sales/{}", sale.id), "ann").await.1;
    assert_eq!((&shown["items"][0]["state"], &shown["state"]), (&json!("sold_out"), &json!("active")));

    for units in [-1, -3, -10_000_000] {
        let (status, problem) = desk.admin(Method::POST, &path, json!({"units": units})).await;
        assert_eq!((status, &problem["field"]), (409, &json!("units")), "{units}: {problem}");
    }
    for units in [json!(0), json!(10_000_001), json!(9_999_999), json!("1"), json!(1.5), json!(null)] {
        let (status, problem) = desk.admin(Method::POST, &path, json!({"units": units})).await;
        assert_eq!((status, &problem["field"]), (400, &json!("units")), "{units}: {problem}");
    }
    assert_eq!(desk.world.number("SELECT total FROM items").await, 3);
    assert_eq!(desk.world.number("SELECT version FROM items").await, 2, "only publishing has changed it");

    let more = desk.admin_does(&path, json!({"units": 5})).await;
    assert_eq!(
        (&more["total"], &more["available"], &more["state"]),
        (&json!(8), &json!(5), &json!("active"))
    );
    assert_eq!(desk.admin_does(&path, json!({"units": -5})).await["available"], 0);
    assert_eq!(desk.world.number("SELECT version FROM items").await, 4);
    let (_, log) = desk.admin_get("/admin/audit-log?limit=1").await;
    let entry = &log["items"][0];
    assert_eq!((&entry["action"], &entry["subject"]), (&json!("item.restock"), &json!(item.to_string())));
    assert_eq!((&entry["before"]["total"], &entry["after"]["total"]), (&json!(8), &json!(3)));

    desk.admin_does(&format!("/admin/sales/{}/end", sale.id), json!({})).await;
    assert_eq!(desk.admin(Method::POST, &path, json!({"units": 1})).await.0, 409);
    let unknown = format!("/admin/items/{}/restock", sale.id);
    assert_eq!(desk.admin(Method::POST, &unknown, json!({"units": 1})).await.0, 404);
}

/// Two replicas take units away while buyers come: the total never falls below what is taken, and each success counts.
#[tokio::test(flavor = "multi_thread")]
async fn restocks_at_the_same_time_add_up() {
    let desk = Desk::open("restocks").await;
    let sale = desk.open_sale(20).await;
    desk.order(&sale, "ann", 2).await;
    let path = format!("/admin/items/{}/restock", item_of(&sale));
    let calls = (0..30).map(|_| desk.admin(Method::POST, &path, json!({"units": -1})));
    let answers = futures_util::future::join_all(calls).await;
    let done = answers.iter().filter(|(status, _)| *status == 200).count();
    let refused = answers.iter().filter(|(status, _)| *status == 409).count();
    assert_eq!((done, refused), (18, 12));
    assert_eq!(desk.world.number("SELECT total - taken FROM items").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_have_pages_tags_and_no_drafts() {
    let desk = Desk::open("listing").await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(desk.admin_does("/admin/sales", sale(1)).await["id"].clone());
    }
    ids.reverse();
    let (_, first) = desk.admin_get("/admin/sales?limit=3").await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let (_, second) = desk.admin_get(&format!("/admin/sales?limit=3&cursor={cursor}")).await;
    let listed: Vec<Value> = [&first, &second]
        .iter()
        .flat_map(|page| page["items"].as_array().unwrap().iter().map(|sale| sale["id"].clone()))
        .collect();
    assert_eq!((listed, &second["next_cursor"]), (ids, &json!(null)));
    for (query, field) in [("limit=0", "limit"), ("limit=x", "limit"), ("cursor=x", "cursor")] {
        let (status, problem) = desk.admin_get(&format!("/admin/sales?{query}")).await;
        assert_eq!((status, &problem["field"]), (400, &json!(field)), "{query}");
    }

    let open = desk.open_sale(2).await;
    let call = || desk.instance.call(Method::GET, "/sales", "ann");
    let response = call().send().await.unwrap();
    let tag = response.headers()["etag"].to_str().unwrap().to_owned();
    let listed: Value = response.json().await.unwrap();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(listed["items"][0]["state"], serde_json::to_value(SaleState::Active).unwrap());
    let again = call().header("if-none-match", &tag).send().await.unwrap();
    assert_eq!(again.status().as_u16(), 304, "time alone changes nothing");
    desk.order(&open, "ann", 2).await;
    let changed = call().header("if-none-match", &tag).send().await.unwrap();
    let changed: Value = changed.json().await.unwrap();
    assert_eq!(changed["items"][0]["items"][0]["state"], serde_json::to_value(ItemState::SoldOut).unwrap());
    eventually("the tag is new", async || {
        let answer = call().header("if-none-match", &tag).send().await.unwrap();
        (answer.status().as_u16() == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_published_sale_only_what_a_buyer_passes_first_can_be_changed() {
    let desk = Desk::open("front_door").await;
    let published = desk.open_sale(10).await;
    assert!(!published.waiting_room && !published.challenge, "off unless said");
    let item = published.items[0].id;
    let path = format!("/admin/sales/{}", published.id);
    let version = format!("SELECT version FROM items WHERE id = '{item}'");
    let before = desk.world.number(&version).await;

    let (status, changed) = desk.admin(Method::PATCH, &path, json!({"waiting_room": true})).await;
    assert_eq!((status, &changed["waiting_room"], &changed["challenge"]), (200, &json!(true), &json!(false)));
    assert_eq!(desk.world.number(&version).await, before + 1, "the inventory is told");
    let (_, definition) = answer(desk.instance.call(Method::GET, &format!("/items/{item}"), "root")).await;
    assert_eq!((&definition["waiting_room"], &definition["challenge"]), (&json!(true), &json!(false)));

    for wish in [json!({"title": "x"}), json!({"waiting_room": false, "title": "x"}), json!({})] {
        let (status, problem) = desk.admin(Method::PATCH, &path, wish.clone()).await;
        assert_eq!((status, &problem["code"]), (409, &json!("invalid_transition")), "{wish}");
    }
    desk.admin_does(&format!("{path}/end"), json!({})).await;
    assert_eq!(desk.admin(Method::PATCH, &path, json!({"waiting_room": false})).await.0, 409, "it is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_id_that_was_ever_published_is_listed_once_over_all_pages() {
    let world = World::start("known_ids").await;
    // More than a page of items, some of a draft, whose ids nobody may know.
    world
        .execute(
            "INSERT INTO sales (id, title, published_at, starts_at, ends_at, payment_window_seconds)
             SELECT ('00000000-0000-4000-8000-1' || lpad(to_hex(n), 11, '0'))::uuid, 'Lunch',
                    CASE WHEN n % 5 > 0 THEN now() END, now(), now() + interval '1 hour', 600
               FROM generate_series(1, 20) AS n;
             INSERT INTO items (id, sale_id, position, sku, name, image_url, price_cents, currency, total,
                                per_user_limit)
             SELECT (md5('a' || n)::uuid::text)::uuid, ('00000000-0000-4000-8000-1' || lpad(to_hex(1 + n % 20), 11, '0'))::uuid,
                    n, 'sku', 'Noodles', '', 1, 'CNY', 1, 1
               FROM generate_series(1, 14000) AS n ON CONFLICT DO NOTHING",
        )
        .await;
    let instance = world.instance().await;
    let (mut listed, mut after, mut pages) = (Vec::new(), uuid::Uuid::nil().to_string(), 0);
    loop {
        let (status, page) = instance.get(&format!("/known-ids?after={after}"), "nobody").await;
        assert_eq!(status, 200, "{page}");
        pages += 1;
        listed.extend(page["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        after = next.to_owned();
    }
    assert!(pages >= 2, "{pages}");
    let expected = world
        .words(
            "SELECT id FROM (SELECT id FROM sales WHERE published_at IS NOT NULL UNION ALL
               SELECT i.id FROM items i JOIN sales s ON s.id = i.sale_id WHERE s.published_at IS NOT NULL) AS all_ids
              ORDER BY id",
        )
        .await;
    assert!(expected.len() > 10_000);
    assert!(listed == expected, "{} listed, {} expected", listed.len(), expected.len());
}
