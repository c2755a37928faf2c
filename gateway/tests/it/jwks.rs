//! Tokens of an identity provider: its keys, their rotation, and what is made to look like them.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::api::inventory::ReserveOutcome;
use ring::rand::SystemRandom;
use ring::signature::{
    Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
};
use ring::{hmac, rsa};
use serde_json::{Value, json};

use crate::support::*;

const ISSUER: &str = "https://login.example";

fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn ed25519() -> Ed25519KeyPair {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("generated");
    Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("a key")
}

/// ring cannot make RSA keys: this one was made for these tests, and is used nowhere else.
fn rsa_key() -> RsaKeyPair {
    let text: String = include_str!("keys/rsa-2048.pkcs8.base64").split_whitespace().collect();
    RsaKeyPair::from_pkcs8(&STANDARD.decode(text).expect("base64")).expect("a key")
}

fn ed_jwk(kid: &str, key: &Ed25519KeyPair) -> Value {
    json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": kid,
        "x": base64url(key.public_key().as_ref()) })
}

fn rsa_jwk(kid: &str, key: &RsaKeyPair) -> Value {
    let public: rsa::PublicKeyComponents<Vec<u8>> = key.public().into();
    json!({ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": base64url(&public.n), "e": base64url(&public.e) })
}

fn claims() -> Value {
    let now = now().timestamp();
    json!({ "sub": "u1", "role": "customer", "iat": now, "exp": now + 600, "iss": ISSUER, "aud": "stampede-api" })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn message(header: &Value, claims: &Value) -> String {
    format!("{}.{}", base64url(header.to_string().as_bytes()), base64url(claims.to_string().as_bytes()))
}

fn ed_token(key: &Ed25519KeyPair, header: &Value, claims: &Value) -> String {
    let message = message(header, claims);
    format!("{message}.{}", base64url(key.sign(message.as_bytes()).as_ref()))
}

fn rsa_token(key: &RsaKeyPair, padding: &'static dyn RsaEncoding, header: &Value, claims: &Value) -> String {
    let message = message(header, claims);
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(padding, &SystemRandom::new(), message.as_bytes(), &mut signature).expect("signed");
    format!("{message}.{}", base64url(&signature))
}

fn hs_token(secret: &[u8], header: &Value) -> String {
    let message = message(header, &claims());
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", base64url(signature.as_ref()))
}

/// A provider that publishes these keys, and a gateway that believes it.
async fn trusting(keys: Value, settings: &[(&str, &str)]) -> (Gateway, Fake) {
    let provider = Fake::start(move |_| Reply::json(200, &json!({ "keys": keys }))).await;
    let url = format!("http://{}/jwks.json", provider.address);
    let ours = [("AUTH__JWKS", url.as_str()), ("AUTH__JWKS_ISSUER", ISSUER)];
    let settings: Vec<_> = ours.iter().chain(settings).copied().collect();
    (start(&settings, stock(vec![], ReserveOutcome::Accepted)).await, provider)
}

/// 404 where the token counts: there are no such orders.
async fn status(gateway: &Gateway, token: &str) -> u16 {
    gateway.get("/api/v1/orders").bearer_auth(token).send().await.expect("answered").status().as_u16()
}

/// What a stranger can make of two published keys, `e` (Ed25519) and `r` (RSA).
fn forged(ed: &Ed25519KeyPair, rsa: &RsaKeyPair) -> Vec<(String, String)> {
    let forgeries = [
        public_keys_as_secrets,
        other_algorithms,
        names_of_keys,
        keys_brought_along,
        signatures,
        claims_that_do_not_count,
    ];
    forgeries.iter().flat_map(|forge| forge(ed, rsa)).collect()
}

fn public_keys_as_secrets(ed: &Ed25519KeyPair, rsa: &RsaKeyPair) -> Vec<(String, String)> {
    let public: rsa::PublicKeyComponents<Vec<u8>> = rsa.public().into();
    let mut tokens = Vec::new();
    let mut add = |case: &str, token: String| tokens.push((case.to_owned(), token));

    let published = json!({ "keys": [ed_jwk("e", ed), rsa_jwk("r", rsa)] }).to_string();
    let der = rsa.public().as_ref().to_vec();
    let pem = |newline: &str| {
        format!(
            "-----BEGIN RSA PUBLIC KEY-----{newline}{}{newline}-----END RSA PUBLIC KEY-----{newline}",
            STANDARD.encode(&der)
        )
    };
    for secret in [
        ed.public_key().as_ref().to_vec(),
        base64url(ed.public_key().as_ref()).into_bytes(),
        public.n.clone(),
        base64url(&public.n).into_bytes(),
        [public.n.clone(), public.e.clone()].concat(),
        der.clone(),
        pem("\n").into_bytes(),
        pem("\r\n").into_bytes(),
        pem("").into_bytes(),
        published.into_bytes(),
        ed_jwk("e", ed).to_string().into_bytes(),
        Vec::new(),
        vec![0; 32],
    ] {
        for header in [json!({ "alg": "HS256", "kid": "r" }), json!({ "alg": "HS256" })] {
            add("a public key as a secret", hs_token(&secret, &header));
        }
    }
    tokens
}

fn other_algorithms(ed: &Ed25519KeyPair, rsa: &RsaKeyPair) -> Vec<(String, String)> {
    let mut tokens = Vec::new();
    let mut add = |case: &str, token: String| tokens.push((case.to_owned(), token));
    for (alg, kid) in
        [("RS256", "e"), ("HS256", "e"), ("ES256", "e"), ("none", "e"), ("Ed25519", "e"), ("eddsa", "e")]
    {
        add("alg", ed_token(ed, &json!({ "alg": alg, "kid": kid }), &claims()));
    }
    for alg in ["EdDSA", "HS256", "PS256", "RS384", "RS512", "RSA1_5", "none", "ES256"] {
        add("alg", rsa_token(rsa, &RSA_PKCS1_SHA256, &json!({ "alg": alg, "kid": "r" }), &claims()));
    }
    add(
        "RS512 for real",
        rsa_token(rsa, &RSA_PKCS1_SHA512, &json!({ "alg": "RS512", "kid": "r" }), &claims()),
    );
    add("PS256 for real", rsa_token(rsa, &RSA_PSS_SHA256, &json!({ "alg": "PS256", "kid": "r" }), &claims()));
    add("PSS as RS256", rsa_token(rsa, &RSA_PSS_SHA256, &json!({ "alg": "RS256", "kid": "r" }), &claims()));
    add(
        "SHA-512 as RS256",
        rsa_token(rsa, &RSA_PKCS1_SHA512, &json!({ "alg": "RS256", "kid": "r" }), &claims()),
    );
    tokens
}

fn names_of_keys(ed: &Ed25519KeyPair, _: &RsaKeyPair) -> Vec<(String, String)> {
    let mut tokens = Vec::new();
    let mut add = |case: &str, token: String| tokens.push((case.to_owned(), token));
    let long = "e".repeat(1000);
    for kid in [
        "r",
        "E",
        "e ",
        "",
        "../../../dev/null",
        "/etc/passwd",
        "' OR 1=1 --",
        "e' UNION SELECT 'k",
        "e\u{0}",
        "http://127.0.0.1:1/",
        "*",
        "${e}",
        "e/../e",
        &long,
    ] {
        add("kid", ed_token(ed, &json!({ "alg": "EdDSA", "kid": kid }), &claims()));
    }
    for kid in [Value::Null, json!(["e"]), json!({ "e": 1 }), json!(0), json!(true)] {
        add("kid of another type", ed_token(ed, &json!({ "alg": "EdDSA", "kid": kid }), &claims()));
    }
    add("no kid", ed_token(ed, &json!({ "alg": "EdDSA" }), &claims()));
    tokens
}

fn keys_brought_along(ed: &Ed25519KeyPair, _: &RsaKeyPair) -> Vec<(String, String)> {
    let stranger = ed25519();
    let mut tokens = Vec::new();
    let mut add = |case: &str, token: String| tokens.push((case.to_owned(), token));
    let own = ed_jwk("e", &stranger);
    for (name, value) in [
        ("jwk", own.clone()),
        ("jku", json!("http://127.0.0.1:1/jwks.json")),
        ("x5u", json!("http://127.0.0.1:1/chain.pem")),
        ("x5c", json!([STANDARD.encode(stranger.public_key().as_ref())])),
    ] {
        for kid in ["e", "stranger"] {
            let mut header = json!({ "alg": "EdDSA", "kid": kid });
            header[name] = value.clone();
            add(name, ed_token(&stranger, &header, &claims()));
        }
    }
    add("a stranger's key", ed_token(&stranger, &json!({ "alg": "EdDSA", "kid": "e" }), &claims()));
    add("crit", ed_token(ed, &json!({ "alg": "EdDSA", "kid": "e", "crit": ["exp"] }), &claims()));
    tokens
}

fn signatures(ed: &Ed25519KeyPair, rsa: &RsaKeyPair) -> Vec<(String, String)> {
    let mut tokens = Vec::new();
    let mut add = |case: &str, token: String| tokens.push((case.to_owned(), token));
    let good = ed_token(ed, &json!({ "alg": "EdDSA", "kid": "e" }), &claims());
    let (signed, signature) = good.rsplit_once('.').expect("three parts");
    let bytes = URL_SAFE_NO_PAD.decode(signature).expect("base64");
    for bytes in [
        vec![0; 64],
        bytes[..63].to_vec(),
        [bytes.clone(), vec![0]].concat(),
        Vec::new(),
        bytes.iter().map(|byte| byte ^ 1).collect(),
    ] {
        add("signature", format!("{signed}.{}", base64url(&bytes)));
    }
    let good = rsa_token(rsa, &RSA_PKCS1_SHA256, &json!({ "alg": "RS256", "kid": "r" }), &claims());
    let (signed, signature) = good.rsplit_once('.').expect("three parts");
    let bytes = URL_SAFE_NO_PAD.decode(signature).expect("base64");
    for bytes in
        [vec![0; 256], vec![1; 256], bytes[1..].to_vec(), [vec![0], bytes.clone()].concat(), Vec::new()]
    {
        add("signature", format!("{signed}.{}", base64url(&bytes)));
    }
    tokens
}

fn claims_that_do_not_count(ed: &Ed25519KeyPair, _: &RsaKeyPair) -> Vec<(String, String)> {
    let now = now().timestamp();
    let mut tokens = Vec::new();
    let mut add = |case: &str, token: String| tokens.push((case.to_owned(), token));
    for (name, value) in [
        ("exp", json!(now - 61)),
        ("exp", json!("9999999999")),
        ("exp", json!(-1)),
        ("exp", json!([now + 60])),
        ("exp", Value::Null),
        ("nbf", json!(now + 120)),
        ("iat", json!(now + 120)),
        ("iss", json!("stampede")),
        ("iss", json!("https://login.example/")),
        ("iss", json!([ISSUER])),
        ("aud", json!("stampede")),
        ("aud", json!(["stampede-api"])),
        ("sub", json!("u1\n")),
        ("role", json!("root")),
        ("role", json!(["admin"])),
    ] {
        add(name, ed_token(ed, &json!({ "alg": "EdDSA", "kid": "e" }), &with(name, value)));
    }
    tokens
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_provider_signed_with_the_key_that_it_names_counts() {
    let (ed, rsa) = (ed25519(), rsa_key());
    let keys = json!([ed_jwk("e", &ed), rsa_jwk("r", &rsa), { "kty": "EC", "kid": "c", "crv": "P-256" }]);
    let (gateway, _) = trusting(keys, &[("AUTH__JWKS_RETRY_MS", "60000")]).await;
    let by_ed = ed_token(&ed, &json!({ "alg": "EdDSA", "kid": "e" }), &claims());
    let by_rsa = rsa_token(&rsa, &RSA_PKCS1_SHA256, &json!({ "alg": "RS256", "kid": "r" }), &claims());
    assert_eq!((status(&gateway, &by_ed).await, status(&gateway, &by_rsa).await), (404, 404), "let through");
    assert_eq!(status(&gateway, &gateway.token("u1", "customer").await).await, 404, "ours go on to count");
    let admin = ed_token(&ed, &json!({ "alg": "EdDSA", "kid": "e" }), &with("role", json!("admin")));
    let listed = gateway.get("/api/v1/admin/sales").bearer_auth(admin).send().await.expect("answered");
    assert_eq!(listed.status(), 404, "let through");
    let customer = gateway.get("/api/v1/admin/sales").bearer_auth(&by_ed).send().await.expect("answered");
    problem(customer, 403, "forbidden").await;

    let asked = gateway.orders.asked();
    let nobody = gateway.get("/api/v1/orders").send().await.expect("answered");
    let refusal = problem(nobody, 401, "unauthenticated").await;
    let forged = forged(&ed, &rsa);
    assert!(forged.len() >= 90, "{}", forged.len());
    for (case, token) in forged {
        let response = gateway.get("/api/v1/orders").bearer_auth(&token).send().await.expect("answered");
        assert_eq!(response.status(), 401, "{case}: {token}");
        assert_eq!(problem(response, 401, "unauthenticated").await, refusal, "{case}");
    }
    assert_eq!(gateway.orders.asked(), asked, "none of them was passed on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_counts_at_once_and_a_withdrawn_one_no_longer() {
    let (old, new) = (ed25519(), ed25519());
    let settings = [("AUTH__JWKS_REFRESH_MS", "300"), ("AUTH__JWKS_RETRY_MS", "1")];
    let (gateway, provider) = trusting(json!([ed_jwk("old", &old)]), &settings).await;
    let by_old = ed_token(&old, &json!({ "alg": "EdDSA", "kid": "old" }), &claims());
    let by_new = ed_token(&new, &json!({ "alg": "EdDSA", "kid": "new" }), &claims());
    assert_eq!((status(&gateway, &by_old).await, status(&gateway, &by_new).await), (404, 401));

    let both = json!({ "keys": [ed_jwk("old", &old), ed_jwk("new", &new)] });
    provider.answer(move |_| Reply::json(200, &both));
    assert_eq!((status(&gateway, &by_new).await, status(&gateway, &by_old).await), (404, 404));

    let only_new = json!({ "keys": [ed_jwk("new", &new)] });
    provider.answer(move |_| Reply::json(200, &only_new));
    testkit::eventually("the withdrawn key is refused", async || {
        (status(&gateway, &by_old).await == 401).then_some(())
    })
    .await;
    assert_eq!(status(&gateway, &by_new).await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_fails_takes_nobody_out() {
    let key = ed25519();
    let settings = [("AUTH__JWKS_REFRESH_MS", "1"), ("AUTH__JWKS_RETRY_MS", "1")];
    let (gateway, provider) = trusting(json!([ed_jwk("k", &key)]), &settings).await;
    let token = ed_token(&key, &json!({ "alg": "EdDSA", "kid": "k" }), &claims());
    let private = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "k", "x": "AA", "d": "AA" }] });
    let failures: Vec<Box<dyn Fn() -> Reply + Send + Sync>> = vec![
        Box::new(|| Reply::new(500)),
        Box::new(|| Reply::new(200).part(0, "<html>")),
        Box::new(|| Reply::json(200, &json!({ "keys": [] }))),
        Box::new(move || Reply::json(200, &private)),
        Box::new(|| Reply::new(200).part(0, " ".repeat(200_000))),
        Box::new(|| Reply::new(302).header("location", "http://127.0.0.1:1/")),
    ];
    for failure in failures {
        provider.answer(move |_| failure());
        let asked = provider.calls("/jwks").len();
        testkit::eventually("it was asked again", async || {
            (provider.calls("/jwks").len() >= asked + 2).then_some(())
        })
        .await;
        assert_eq!(status(&gateway, &token).await, 404, "let through");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invented_names_of_keys_cost_the_provider_nothing() {
    let key = ed25519();
    let (gateway, provider) =
        trusting(json!([ed_jwk("k", &key)]), &[("AUTH__JWKS_RETRY_MS", "600000")]).await;
    for number in 0..200 {
        let token = ed_token(&key, &json!({ "alg": "EdDSA", "kid": format!("k{number}") }), &claims());
        assert_eq!(status(&gateway, &token).await, 401);
    }
    assert_eq!(provider.calls("/jwks").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_can_come_from_a_file_and_the_gateway_is_ready_with_them() {
    let key = ed25519();
    let path = std::env::temp_dir().join(format!("stampede-jwks-{}.json", uuid::Uuid::new_v4()));
    std::fs::write(&path, json!({ "keys": [ed_jwk("k", &key)] }).to_string()).expect("written");
    let file = path.to_str().expect("text");
    let settings = [("AUTH__JWKS", file), ("AUTH__JWKS_ISSUER", ISSUER), ("AUTH__JWKS_RETRY_MS", "1")];
    let gateway = start(&settings, stock(vec![], ReserveOutcome::Accepted)).await;
    let token = |kid: &str| ed_token(&key, &json!({ "alg": "EdDSA", "kid": kid }), &claims());
    assert_eq!((status(&gateway, &token("k")).await, status(&gateway, &token("l")).await), (404, 401));
    std::fs::write(&path, json!({ "keys": [ed_jwk("l", &key)] }).to_string()).expect("written");
    assert_eq!((status(&gateway, &token("l")).await, status(&gateway, &token("k")).await), (404, 401));
    std::fs::remove_file(path).expect("removed");
}
