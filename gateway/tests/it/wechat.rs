//! Logging in with WeChat, before a WeChat that behaves and one that does not.

use common::api::inventory::ReserveOutcome;
use serde_json::{Value, json};

use crate::support::*;

const OPENID: &str = "oGZUI0egBJY1zhBYw2KhdUfwVJJE";

async fn with_wechat() -> (Gateway, Fake) {
    let wechat =
        Fake::start(|_| Reply::json(200, &json!({ "openid": OPENID, "session_key": "canary" }))).await;
    let url = format!("http://{}", wechat.address);
    let settings = [
        ("WECHAT__APP_ID", "wx1"),
        ("WECHAT__APP_SECRET", "app-secret"),
        ("WECHAT__BASE_URL", url.as_str()),
        ("WECHAT__TIMEOUT_MS", "700"),
    ];
    (start(&settings, stock(vec![], ReserveOutcome::Accepted)).await, wechat)
}

async fn login(gateway: &Gateway, code: &str) -> reqwest::Response {
    gateway.post("/api/v1/auth/wechat").json(&json!({ "code": code })).send().await.expect("answered")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openid_becomes_the_user() {
    let (gateway, wechat) = with_wechat().await;
    let answer: Value = login(&gateway, "the-code").await.json().await.expect("JSON");
    assert_eq!(answer.as_object().expect("an object").len(), 1, "nothing but the token");
    let token = answer["token"].as_str().expect("a token");
    gateway.get("/api/v1/orders").bearer_auth(token).send().await.expect("answered");
    assert_eq!(gateway.orders.calls("/v1/orders")[0].headers["x-user-id"], OPENID);
    assert_eq!(gateway.orders.calls("/v1/orders")[0].headers["x-user-role"], "customer");

    let asked = wechat.calls("/sns/jscode2session");
    assert_eq!(asked[0].query, "appid=wx1&secret=app-secret&js_code=the-code&grant_type=authorization_code");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_of_wechat_has_its_answer() {
    let (gateway, wechat) = with_wechat().await;
    let table = [
        (40029, 400, "invalid_request"),
        (40163, 400, "invalid_request"),
        (40226, 403, "forbidden"),
        (45011, 429, "rate_limited"),
        (-1, 503, "unavailable"),
        (40013, 503, "unavailable"),
        (99999, 503, "unavailable"),
    ];
    for (errcode, status, code) in table {
        wechat.answer(move |_| Reply::json(200, &json!({ "errcode": errcode, "errmsg": "secret words" })));
        let body = problem(login(&gateway, "x").await, status, code).await;
        assert!(!body.to_string().contains("secret words"));
        assert!(code != "invalid_request" || body["field"] == "code");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_of_wechat_is_unavailable_and_tells_nothing() {
    let (gateway, wechat) = with_wechat().await;
    let nonsense: [fn() -> Reply; 9] = [
        || Reply::new(200),
        || Reply::new(200).part(0, "<html>"),
        || Reply::json(200, &json!({})),
        || Reply::json(200, &json!({ "openid": "../admin" })),
        || Reply::json(200, &json!({ "openid": 7 })),
        || Reply::json(200, &json!({ "errcode": "0", "openid": OPENID })),
        || Reply::new(200).part(0, format!("{{\"openid\":\"{}\"}}", "x".repeat(100_000))),
        || Reply::new(302).header("location", "http://127.0.0.1:1/"),
        || Reply::new(200).endless(),
    ];
    for nonsense in nonsense {
        wechat.answer(move |_| nonsense());
        let body = problem(login(&gateway, "x").await, 503, "unavailable").await;
        assert!(!body.to_string().contains("app-secret"));
    }
    for code in ["", "a b", &"x".repeat(129), "\u{4f60}"] {
        assert_eq!(problem(login(&gateway, code).await, 400, "invalid_request").await["field"], "code");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_mini_program_there_is_no_such_login() {
    let gateway = open().await;
    problem(login(&gateway, "x").await, 404, "not_found").await;
}
