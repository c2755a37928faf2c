//! A service that is newer than the gateway.

use common::problem::Code;
use serde_json::{Value, json};

use crate::support::*;

fn problem_with(code: &str, status: u16) -> Value {
    json!({ "type": "about:blank", "title": "T", "status": status, "code": code, "detail": "d", "field": "f", "new_member": 1 })
}

fn reply(status: u16, outcome: &'static str, body: Value) -> Reply {
    let reply = Reply::json(status, &body).header("content-type", "application/problem+json");
    reply.header("x-outcome", outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_that_is_new_is_passed_on_with_its_status() {
    let gateway = open().await;
    let admin = gateway.token("boss", "admin").await;
    let publish = async || {
        let path = format!("/api/v1/admin/sales/{SALE}/publish");
        gateway.post(&path).bearer_auth(&admin).send().await.expect("answered")
    };
    for (status, outcome) in [(409, "none"), (422, "none"), (403, "unknown"), (429, "none"), (503, "unknown")]
    {
        gateway.orders.answer(move |_| reply(status, outcome, problem_with("two_person_rule", status)));
        let response = publish().await;
        let headers = response.headers().clone();
        assert_eq!(
            (response.status().as_u16(), &headers["x-outcome"]),
            (status, &outcome.parse().expect("text"))
        );
        assert_eq!(headers["content-type"], "application/problem+json");
        assert_eq!(headers.contains_key("retry-after"), [429, 503].contains(&status));
        assert!(headers.contains_key("x-request-id") && headers.contains_key("x-content-type-options"));
        let body: Value = response.json().await.expect("JSON");
        assert_eq!((&body["code"], &body["field"]), (&json!("two_person_rule"), &json!("f")));
        assert!(body.get("new_member").is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_looks_like_a_new_code_is_a_bad_answer() {
    let gateway = open().await;
    let admin = gateway.token("boss", "admin").await;
    for body in [
        problem_with("", 409),
        problem_with("A B", 409),
        problem_with("<script>", 409),
        problem_with(&"x".repeat(65), 409),
        problem_with("other_status", 200),
        json!({ "code": "no_more" }),
        json!("text"),
        json!({ "type": "about:blank", "title": "T", "status": 409, "code": "big", "detail": "d".repeat(2000) }),
    ] {
        gateway.orders.answer(move |_| reply(409, "none", body.clone()));
        let path = format!("/api/v1/admin/sales/{SALE}/publish");
        let response = gateway.post(&path).bearer_auth(&admin).send().await.expect("answered");
        problem(response, 503, "outcome_unknown").await;
    }
    gateway.orders.answer(|_| Reply::problem(Code::SoldOut));
    let path = format!("/api/v1/admin/sales/{SALE}/publish");
    let response = gateway.post(&path).bearer_auth(&admin).send().await.expect("answered");
    problem(response, 409, "sold_out").await;
}
