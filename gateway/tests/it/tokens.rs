//! Forged, broken and stale tokens: all refused alike, and nothing is said of why.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use serde_json::{Value, json};

use crate::support::*;

/// A token with exactly this header and these claims, signed with `secret`.
fn signed(header: &str, claims: &str, algorithm: hmac::Algorithm, secret: &[u8]) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = hmac::sign(&hmac::Key::new(algorithm, secret), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

fn hs256(claims: &str) -> String {
    signed(r#"{"alg":"HS256","typ":"JWT"}"#, claims, hmac::HMAC_SHA256, SECRET.as_bytes())
}

fn claims() -> Value {
    let now = now().timestamp();
    json!({ "sub": "u1", "role": "customer", "iat": now, "exp": now + 600, "iss": "stampede", "aud": "stampede-api" })
}

pub fn with(name: &str, value: Value) -> String {
    let mut claims = claims();
    claims[name] = value;
    hs256(&claims.to_string())
}

/// A token of ours for anybody, that ends `lifetime_s` from now.
pub fn signed_for(user: &str, role: &str, lifetime_s: i64) -> String {
    let mut claims = claims();
    claims["sub"] = json!(user);
    claims["role"] = json!(role);
    claims["exp"] = json!(now().timestamp() + lifetime_s);
    hs256(&claims.to_string())
}

fn without(name: &str) -> String {
    let mut claims = claims();
    claims.as_object_mut().expect("an object").remove(name);
    hs256(&claims.to_string())
}

fn wrong_claims() -> Vec<(&'static str, String)> {
    let now = now().timestamp();
    let mut tokens = vec![
        ("expired", with("exp", json!(now - 61))),
        ("exp a text", with("exp", json!((now + 600).to_string()))),
        ("exp negative", with("exp", json!(-1))),
        ("exp zero", with("exp", json!(0))),
        ("exp a fraction", with("exp", json!(now as f64 + 600.5))),
        ("exp a list", with("exp", json!([now + 600]))),
        ("exp an object", with("exp", json!({ "$gt": 0 }))),
        ("exp null", with("exp", Value::Null)),
        ("exp true", with("exp", json!(true))),
        ("exp enormous", hs256(&claims().to_string().replace(&(now + 600).to_string(), "1e300"))),
        ("iat in the future", with("iat", json!(now + 120))),
        ("iat a text", with("iat", json!(now.to_string()))),
        ("nbf in the future", with("nbf", json!(now + 120))),
        ("nbf a text", with("nbf", json!("now"))),
        ("foreign iss", with("iss", json!("elsewhere"))),
        ("iss a list", with("iss", json!(["stampede"]))),
        ("iss empty", with("iss", json!(""))),
        ("foreign aud", with("aud", json!("elsewhere"))),
        ("aud a list", with("aud", json!(["stampede-api"]))),
        ("aud a list with ours", with("aud", json!(["elsewhere", "stampede-api"]))),
        ("aud null", with("aud", Value::Null)),
        ("sub empty", with("sub", json!(""))),
        ("sub too long", with("sub", json!("u".repeat(65)))),
        ("sub a number", with("sub", json!(1))),
        ("sub with a line break", with("sub", json!("u1\r\nx: y"))),
        ("sub with NUL", with("sub", json!("u1\u{0}"))),
        ("sub with a slash", with("sub", json!("../u2"))),
        ("sub in other letters", with("sub", json!("ｕ１"))),
        ("unknown role", with("role", json!("root"))),
        ("role in capitals", with("role", json!("Admin"))),
        ("role a list", with("role", json!(["admin"]))),
        ("role null", with("role", Value::Null)),
        ("claims no object", hs256("[]")),
        ("claims a text", hs256("\"x\"")),
        ("claims empty", hs256("")),
        ("claims not JSON", hs256("{\"sub\":")),
        ("claims not UTF-8", {
            let message = format!(
                "{}.{}",
                URL_SAFE_NO_PAD.encode("{\"alg\":\"HS256\"}"),
                URL_SAFE_NO_PAD.encode([0xFF])
            );
            let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes()).as_ref()))
        }),
        ("sub twice", hs256(&claims().to_string().replacen('{', "{\"sub\":\"u2\",", 1))),
    ];
    let names = ["sub", "role", "exp", "iat", "iss", "aud"];
    tokens.extend(names.map(|name| ("a claim is missing", without(name))));
    tokens
}

fn wrong_headers() -> Vec<(&'static str, String)> {
    let claims = claims().to_string();
    let header = |header: &str| signed(header, &claims, hmac::HMAC_SHA256, SECRET.as_bytes());
    let unsigned =
        |header: &str| format!("{}.{}.", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(&claims));
    let mut tokens = vec![
        ("alg none", unsigned(r#"{"alg":"none"}"#)),
        ("alg None", unsigned(r#"{"alg":"None"}"#)),
        ("alg empty", unsigned(r#"{"alg":""}"#)),
        ("alg missing", unsigned(r#"{"typ":"JWT"}"#)),
        ("alg none, signed", header(r#"{"alg":"none"}"#)),
        ("alg null", header(r#"{"alg":null}"#)),
        ("alg a list", header(r#"{"alg":["HS256"]}"#)),
        ("alg in small letters", header(r#"{"alg":"hs256"}"#)),
        ("no signature", unsigned(r#"{"alg":"HS256"}"#)),
        ("HS512 for real", signed(r#"{"alg":"HS512"}"#, &claims, hmac::HMAC_SHA512, SECRET.as_bytes())),
        ("HS384 for real", signed(r#"{"alg":"HS384"}"#, &claims, hmac::HMAC_SHA384, SECRET.as_bytes())),
        ("another key", signed(r#"{"alg":"HS256"}"#, &claims, hmac::HMAC_SHA256, b"another")),
        ("the empty key", signed(r#"{"alg":"HS256"}"#, &claims, hmac::HMAC_SHA256, b"")),
        (
            "the key of the services",
            signed(r#"{"alg":"HS256"}"#, &claims, hmac::HMAC_SHA256, INTERNAL.as_bytes()),
        ),
        ("header not JSON", header("HS256")),
        ("header empty", header("")),
    ];
    for algorithm in ["RS256", "RS512", "PS256", "ES256", "ES384", "EdDSA", "HS384", "HS512", "HS256 ", "X"] {
        tokens.push(("another alg", header(&format!("{{\"alg\":\"{algorithm}\"}}"))));
    }
    // A key in the header must not be taken for ours.
    let key = STANDARD.encode("another");
    for hint in [
        format!("\"jwk\":{{\"kty\":\"oct\",\"k\":\"{key}\"}}"),
        "\"jku\":\"http://127.0.0.1:1/keys\"".to_owned(),
        "\"kid\":\"../../../../dev/null\"".to_owned(),
        "\"kid\":\"' UNION SELECT 'another\"".to_owned(),
    ] {
        let header = format!("{{\"alg\":\"HS256\",{hint}}}");
        tokens.push(("a key in the header", signed(&header, &claims, hmac::HMAC_SHA256, b"another")));
    }
    tokens
}

fn wrong_shapes() -> Vec<(&'static str, String)> {
    let good = hs256(&claims().to_string());
    let parts: Vec<&str> = good.split('.').collect();
    vec![
        ("empty", String::new()),
        ("a word", "token".to_owned()),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("four parts", format!("{good}.x")),
        ("only dots", "..".to_owned()),
        ("signature cut", good[..good.len() - 2].to_owned()),
        ("signature padded", format!("{good}=")),
        ("a space before", format!(" {good}")),
        ("a space after", format!("{good} x")),
        ("a space inside", good.replacen('.', ". ", 1)),
        ("quotes", format!("\"{good}\"")),
        ("twice", format!("{good},{good}")),
        ("a token in a token", hs256(&json!({ "token": good }).to_string())),
        (
            "claims of another",
            format!(
                "{}.{}.{}",
                parts[0],
                URL_SAFE_NO_PAD.encode(claims().to_string().replace("u1", "u2")),
                parts[2]
            ),
        ),
        ("huge", format!("{}.{}.{}", parts[0], "A".repeat(4000), parts[2])),
        ("huge and ours", with("padding", json!("x".repeat(3000)))),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_counted_ends_in_its_time() {
    let gateway = open().await;
    // Ends within some seconds, the leeway of a minute included.
    let token = with("exp", json!(now().timestamp() - 52));
    let status = async || {
        let request = gateway.get("/api/v1/orders").bearer_auth(&token);
        request.send().await.expect("answered").status().as_u16()
    };
    assert_eq!(status().await, 404, "let through");
    testkit::eventually("it has ended", async || (status().await == 401).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_but_a_whole_and_valid_one_counts_and_all_others_look_alike() {
    let gateway = open().await;
    let orders = async |authorization: &str| {
        let request = gateway.get("/api/v1/orders");
        let request =
            if authorization.is_empty() { request } else { request.header("authorization", authorization) };
        request.send().await.expect("answered")
    };
    let good = hs256(&claims().to_string());
    assert_eq!(orders(&format!("Bearer {good}")).await.status(), 404, "let through");
    assert_eq!(orders(&format!("bearer {good}")).await.status(), 404, "let through");
    let just_expired = with("exp", json!(now().timestamp() - 30));
    assert_eq!(orders(&format!("Bearer {just_expired}")).await.status(), 404, "within the leeway");
    let for_ever = with("exp", json!(u64::MAX));
    let stream = gateway.get("/api/v1/events").bearer_auth(&for_ever).send().await.expect("answered");
    assert_eq!(stream.status(), 404, "let through, and no clock overflows");
    let asked = gateway.orders.asked();

    let none = orders("").await;
    assert_eq!(none.headers()["www-authenticate"], "Bearer");
    let refusal = problem(none, 401, "unauthenticated").await;
    let mut count = 0;
    for (case, token) in [wrong_claims(), wrong_headers(), wrong_shapes()].concat() {
        let response = orders(&format!("Bearer {token}")).await;
        assert_eq!(response.status(), 401, "{case}: {token}");
        assert_eq!(problem(response, 401, "unauthenticated").await, refusal, "{case}");
        count += 1;
    }
    for authorization in
        [good.clone(), format!("Basic {good}"), format!("Token {good}"), format!("Bearer{good}")]
    {
        assert_eq!(problem(orders(&authorization).await, 401, "unauthenticated").await, refusal);
    }
    let twice = gateway.get("/api/v1/orders").bearer_auth(&good).bearer_auth(&good).send().await;
    problem(twice.expect("answered"), 401, "unauthenticated").await;
    let in_query = gateway.get(&format!("/api/v1/orders?access_token={good}")).send().await;
    problem(in_query.expect("answered"), 401, "unauthenticated").await;
    assert!(count >= 80, "{count}");
    assert_eq!(gateway.orders.asked(), asked, "none of them was passed on");
}

#[tokio::test(flavor = "multi_thread")]
async fn outside_the_dev_profile_admins_tokens_are_short() {
    let gateway = start(
        &[
            ("PROFILE", "production"),
            ("INTERNAL__TOKEN", "kq8Zr2vX0pLw7TnYd4Hs9BfGc1MjUe6A"),
            ("AUTH__JWT_SECRET", "Wb3uQz8LxE5rNf0KtVy7PmCd2JhSa9Gi"),
        ],
        stock(vec![], common::api::inventory::ReserveOutcome::Accepted),
    )
    .await;
    let now = now().timestamp();
    let admin = |lifetime_s: i64| {
        let mut claims = claims();
        claims["role"] = json!("admin");
        claims["exp"] = json!(now + lifetime_s);
        let secret = b"Wb3uQz8LxE5rNf0KtVy7PmCd2JhSa9Gi";
        signed(r#"{"alg":"HS256"}"#, &claims.to_string(), hmac::HMAC_SHA256, secret)
    };
    let status = async |token: String| {
        gateway
            .get("/api/v1/admin/sales")
            .bearer_auth(token)
            .send()
            .await
            .expect("answered")
            .status()
            .as_u16()
    };
    assert_eq!(status(admin(900)).await, 404, "let through");
    assert_eq!(status(admin(1000)).await, 401);
    let dev_token = gateway.post("/api/v1/auth/dev-token").json(&json!({ "user_id": "u1", "role": "admin" }));
    problem(dev_token.send().await.expect("answered"), 404, "not_found").await;
    let sandbox = gateway.get(&format!("/sandbox/payments/{SALE}")).send().await;
    problem(sandbox.expect("answered"), 404, "not_found").await;
}
