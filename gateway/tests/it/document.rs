//! The OpenAPI document describes exactly what is served, and its page needs no internet.

use std::collections::BTreeSet;

use gateway::http::{ENDPOINTS, Served};
use gateway::openapi::document;
use serde_json::Value;

use crate::support::*;

fn described(served: Served) -> (Value, BTreeSet<String>) {
    let json = document(served, "").to_json().expect("JSON");
    let document: Value = serde_json::from_str(&json).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let calls = paths.iter().flat_map(|(path, item)| {
        item.as_object()
            .expect("operations")
            .keys()
            .map(move |method| format!("{} {path}", method.to_uppercase()))
    });
    let calls = calls.collect();
    (document, calls)
}

#[test]
fn what_is_described_is_what_is_routed() {
    for served in [Served { dev: true, wechat: true }, Served { dev: false, wechat: false }] {
        let routed: BTreeSet<String> =
            served.endpoints().map(|endpoint| format!("{} {}", endpoint.method, endpoint.path)).collect();
        assert_eq!(described(served).1, routed);
    }
    assert_eq!(Served { dev: true, wechat: true }.endpoints().count(), ENDPOINTS.len());
    assert!(Served { dev: false, wechat: false }.endpoints().count() < ENDPOINTS.len());
}

#[test]
fn routes_of_one_path_are_neighbours() {
    let mut paths: Vec<_> = ENDPOINTS.iter().map(|endpoint| endpoint.path).collect();
    paths.dedup();
    let all = paths.len();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(paths.len(), all, "or one of them would hide the others");
}

#[test]
fn every_operation_says_how_it_can_be_refused() {
    let (document, _) = described(Served { dev: true, wechat: true });
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for operation in item.as_object().expect("operations").values() {
            let responses = operation["responses"].as_object().expect("responses");
            assert!(responses.keys().any(|status| status.starts_with('2')), "{path}");
            for status in ["400", "429", "503"] {
                let response = &responses[status];
                let schema = &response["content"]["application/problem+json"]["schema"]["$ref"];
                assert_eq!(schema, "#/components/schemas/Problem", "{path} {status}");
                assert!(response["headers"].get("X-Outcome").is_some(), "{path} {status}");
            }
            assert!(responses["503"]["headers"].get("Retry-After").is_some(), "{path}");
            assert!(operation.get("security").is_none() || responses.contains_key("401"), "{path}");
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{path}");
            let parameters = path.matches('{').count();
            let described = operation["parameters"].as_array().map_or(0, |parameters| {
                parameters.iter().filter(|parameter| parameter["in"] == "path").count()
            });
            assert_eq!(described, parameters, "{path}");
            ids.insert(format!("{path} {}", operation["operationId"]));
        }
    }
    // Every reference leads somewhere.
    let text = document.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().expect("a name");
        assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
    }
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_comes_from_here_alone() {
    let gateway = open().await;
    let page = gateway.get("/docs").send().await.expect("answered");
    assert_eq!(page.status(), 200);
    assert!(page.headers()["content-security-policy"].to_str().expect("text").contains("default-src 'self'"));
    let page = page.text().await.expect("text");
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src=\"//"), "{page}");
    let parts = page.split(['"', '\'']).filter(|part| part.starts_with("./") || part.ends_with(".js"));
    let mut count = 0;
    for part in parts {
        let file =
            gateway.get(&format!("/docs/{}", part.trim_start_matches("./"))).send().await.expect("answered");
        assert_eq!(file.status(), 200, "{part}");
        count += 1;
    }
    assert!(count >= 4, "{page}");
    let start = gateway.get("/docs/swagger-initializer.js").send().await.expect("answered");
    assert!(start.text().await.expect("text").contains("/openapi.json"));
    for name in ["nothing.js", "../Cargo.toml", "%2e%2e/Cargo.toml"] {
        let missing = gateway.get(&format!("/docs/{name}")).send().await.expect("answered");
        assert_eq!(missing.status(), 404);
    }
}
