//! Who may call what: every route of the document, for every role, and the ways around.

use serde_json::{Value, json};

use crate::support::*;

/// Every route of the document with ids in its path: method, path, whether it needs a token, whether an admin's.
pub async fn routes(gateway: &Gateway) -> Vec<(String, String, bool, bool)> {
    let document: Value =
        gateway.get("/openapi.json").send().await.expect("answered").json().await.expect("JSON");
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let concrete = path.split('/').map(|segment| match segment {
                "{provider}" => "sandbox",
                "{file}" => "index.html",
                parameter if parameter.starts_with('{') => "00000000-0000-4000-8000-000000000001",
                fixed => fixed,
            });
            let concrete = concrete.collect::<Vec<_>>().join("/");
            let needs_token = operation.get("security").is_some();
            routes.push((method.to_uppercase(), concrete, needs_token, path.starts_with("/api/v1/admin/")));
        }
    }
    routes
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_lets_in_exactly_whom_it_says() {
    let gateway = open().await;
    let (customer, admin) = (gateway.token("u1", "customer").await, gateway.token("boss", "admin").await);
    let routes = routes(&gateway).await;
    assert!(routes.len() >= 37, "{}", routes.len());
    assert!(routes.iter().filter(|(.., admin)| *admin).count() >= 20);
    for (method, path, needs_token, needs_admin) in routes {
        let answered = async |token: Option<&str>| {
            let method = method.parse().expect("a method");
            let request = gateway.client.request(method, format!("{}{path}", gateway.url)).body("{}");
            let request = request.header("content-type", "application/json");
            let request = token.into_iter().fold(request, |request, token| request.bearer_auth(token));
            request.send().await.expect("answered").status().as_u16()
        };
        let (nobody, buyer, boss) =
            (answered(None).await, answered(Some(&customer)).await, answered(Some(&admin)).await);
        assert_eq!(nobody == 401, needs_token, "{method} {path} without a token: {nobody}");
        assert_eq!(buyer == 403, needs_admin, "{method} {path} as a customer: {buyer}");
        assert!(buyer != 401 && boss != 401 && boss != 403, "{method} {path}: {buyer} {boss}");
        assert!(!needs_admin || needs_token);
        assert!(
            [nobody, buyer, boss].iter().all(|status| *status < 500 || *status == 503),
            "{method} {path}"
        );
    }
}

/// Everybody there is: a name, the user, the token, and whether it is nobody's, a customer's, or an admin's.
async fn everybody(gateway: &Gateway) -> Vec<(&'static str, &'static str, Option<String>, usize)> {
    let expired = crate::tokens::signed_for("late", "customer", -120);
    let expired_admin = crate::tokens::signed_for("late-boss", "admin", -120);
    vec![
        ("nobody", "", None, 0),
        ("an expired customer", "late", Some(expired), 0),
        ("an expired admin", "late-boss", Some(expired_admin), 0),
        ("a forged admin", "false-boss", Some(format!("{}x", gateway.token("false-boss", "admin").await)), 0),
        ("a customer", "u1", Some(gateway.token("u1", "customer").await), 1),
        ("another customer", "u2", Some(gateway.token("u2", "customer").await), 1),
        ("an admin", "boss", Some(gateway.token("boss", "admin").await), 2),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_and_method_and_role_is_answered_as_the_document_says() {
    let gateway = open().await;
    let everybody = everybody(&gateway).await;
    let routes = routes(&gateway).await;
    let mut paths: Vec<&String> = routes.iter().map(|(_, path, ..)| path).collect();
    paths.sort();
    paths.dedup();
    let services = [&gateway.stock, &gateway.orders, &gateway.notify];
    let asked_for = |user: &str| services.iter().map(|service| service.asked_for(user)).sum::<usize>();
    let (mut tried, mut unexpected) = (0, Vec::new());
    for path in paths {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"] {
            let stream = path == "/api/v1/events" || path.ends_with("/place");
            let documented = if method == "HEAD" && !stream { "GET" } else { method };
            let route = routes.iter().find(|(known, at, ..)| known == documented && at == path);
            for (who, user, token, rank) in &everybody {
                let url = format!("{}{path}", gateway.url);
                let request = gateway.client.request(method.parse().expect("a method"), url);
                let request = request.header("content-type", "application/json").body("{}");
                let request = token.iter().fold(request, |request, token| request.bearer_auth(token));
                let before = asked_for(user);
                let status = request.send().await.expect("answered").status().as_u16();
                let reached = asked_for(user) > before;
                let refusal = match route {
                    None => Some(405),
                    Some((.., true, _)) if *rank == 0 => Some(401),
                    Some((.., true)) if *rank == 1 => Some(403),
                    Some(_) => None,
                };
                let as_expected = match refusal {
                    Some(refusal) => status == refusal && !reached,
                    None => ![401, 403, 405].contains(&status) && (status < 500 || status == 503),
                };
                // A callback's signature is order-service's to judge.
                if !as_expected {
                    unexpected.push(format!("{method} {path} as {who}: {status}, expected {refusal:?}"));
                }
                tried += 1;
            }
        }
    }
    assert!(tried > 1500, "{tried}");
    assert!(unexpected.is_empty(), "{unexpected:#?}");
}

#[test]
fn nothing_below_admin_is_for_anybody_else_whatever_its_line_says() {
    use gateway::endpoint::Access;
    for endpoint in gateway::http::ENDPOINTS {
        let below = endpoint.path.starts_with("/api/v1/admin");
        assert_eq!(endpoint.access == Access::Admin, below, "{}", endpoint.path);
        assert_eq!(endpoint.needs_admin(), below, "{}", endpoint.path);
    }
    let careless = gateway::endpoint::Endpoint {
        method: actix_web::http::Method::GET,
        path: "/api/v1/admin/forgotten",
        access: Access::Anyone,
        class: gateway::limits::Class::Read,
        expect: gateway::body::Expect::Nothing,
        when: gateway::endpoint::When::Always,
        handle: |_| Box::pin(async { Err(common::problem::Code::NotFound.into()) }),
    };
    assert!(careless.needs_admin() && careless.needs_token());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_call_reaches_no_service() {
    let gateway = open().await;
    let customer = gateway.token("u1", "customer").await;
    let before = (gateway.stock.asked(), gateway.orders.asked(), gateway.notify.asked());
    for (method, path, _, _) in routes(&gateway).await.into_iter().filter(|(.., admin)| *admin) {
        for token in [None, Some(&customer)] {
            let method = method.parse().expect("a method");
            let mut request = gateway.client.request(method, format!("{}{path}", gateway.url)).body("{}");
            request = request.header("content-type", "application/json").header("x-user-role", "admin");
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            assert!([401, 403].contains(&request.send().await.expect("answered").status().as_u16()));
        }
    }
    assert_eq!((gateway.stock.asked(), gateway.orders.asked(), gateway.notify.asked()), before);
}

/// Ways to spell what is not for everybody, and what is for nobody.
const BY_WAYS: [&str; 58] = [
    "/api/v1/admin",
    "/api/v1/admin/",
    "/api/v1/./admin/sales",
    "/api/v1/orders/../admin/sales",
    "/api/v1/orders/%2e%2e/admin/sales",
    "/api/v1/orders/%2e%2e%2f%2e%2e%2fadmin/sales",
    "/api/v1/%61dmin/sales%2f",
    "/api/v1/admin%2fsales",
    "/api/v1/admin%00/sales",
    "/api/v1/admin%09/sales",
    "/api/v1/admin/sales%20",
    "/api/v1/admin/sales%00",
    "/api/v1/admin/sales;jsessionid=1",
    "/api/v1/admin/sales.json",
    "/api/v1/admin/sales/%2e",
    "/api/v1/admin/sales/..",
    "/api/v1/;/admin/sales",
    "/api/v1/%ef%bc%8e%ef%bc%8e/admin/sales",
    "/api/v1/ADMIN/sales",
    "/api/v1\\admin\\sales",
    "/%2fapi/v1/admin/sales",
    "/api%2fv1%2fadmin%2fsales",
    "/api/v1/admin/sales/%252e%252e",
    "/api//v1/admin/sales",
    "///api/v1/admin/sales",
    "/./api/v1/admin/sales",
    "/INTERNAL/v1/sales",
    "/internal%2fv1/sales",
    "//internal/v1/sales",
    "/docs/../internal/v1/sales",
    "/docs/..%2f..%2finternal/v1/sales",
    "/docs/%2e%2e/%2e%2e/etc/passwd",
    "/sandbox/../internal/v1/sales",
    "/sandbox/payments/..%2f..%2fadmin%2fsales",
    "/api/v1/payments/../admin/callback",
    "/internal/v1/sales",
    "/internal/v1/orders/00000000-0000-4000-8000-000000000001",
    "/internal/v1/admin/sales",
    "/api/v1/../../internal/v1/sales",
    "/api/v1/..%2f..%2finternal/v1/sales",
    "/api/v1/%2e%2e/%2e%2e/internal/v1/sales",
    "//api/v1/admin/sales",
    "/api/v1//admin/sales",
    "/api/v1/admin/sales/",
    "/api/v1/admin;x=y/sales",
    "/api/v1/orders/..;/admin/sales",
    "/API/V1/ADMIN/SALES",
    "/api/v1/Admin/sales",
    "/api/v1/orders/%2e%2e%2fadmin%2fsales",
    "/api/v1/orders/..%5cadmin%5csales",
    "/api/v1/orders/%00",
    "/api/v1/orders/00000000-0000-4000-8000-000000000001%2fpay",
    "/api/v1/orders/00000000-0000-4000-8000-000000000001%20",
    "/api/v1/orders/{00000000-0000-4000-8000-000000000001}",
    "/api/v1/orders/00000000000040008000000000000001",
    "/api/v1/orders/' OR 1=1--",
    "/metrics",
    "/readyz",
];

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_way_around() {
    let gateway = open().await;
    let customer = gateway.token("u1", "customer").await;
    let before = (gateway.stock.asked(), gateway.orders.asked(), gateway.notify.asked());
    for path in BY_WAYS {
        // As raw bytes: a client library would tidy the path up.
        let head = format!(
            "GET {} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {customer}\r\nx-internal-token: {INTERNAL}\r\n\
             x-user-role: admin\r\nx-user-id: boss\r\nx-original-url: /api/v1/admin/sales\r\n\
             x-http-method-override: DELETE\r\nconnection: close\r\n\r\n",
            path.replace(' ', "%20")
        );
        let answer = crate::bad_input::raw(&gateway, head.as_bytes()).await;
        // A part of a route that is only spelt oddly is refused for the role.
        let refused = ["HTTP/1.1 404", "HTTP/1.1 403"].iter().any(|start| answer.starts_with(start));
        assert!(refused, "{path}: {answer}");
    }
    assert_eq!((gateway.stock.asked(), gateway.orders.asked(), gateway.notify.asked()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_clients_identity_headers_gets_through() {
    let gateway = open().await;
    let customer = gateway.token("u1", "customer").await;
    let request = gateway.get("/api/v1/orders").bearer_auth(&customer);
    let forged = [
        ("x-user-id", "u2"),
        ("x-user-role", "admin"),
        ("x-internal-token", "guess"),
        ("x-deadline-ms", "999999"),
        ("x-forwarded-for", "10.0.0.1"),
        ("cookie", "a=b"),
    ];
    let request = forged.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.send().await.expect("answered");
    let calls = gateway.orders.calls("/internal/v1/orders");
    let headers = &calls.last().expect("passed on").headers;
    assert_eq!((headers["x-user-id"].as_str(), headers["x-user-role"].as_str()), ("u1", "customer"));
    assert_eq!(headers["x-internal-token"], INTERNAL);
    assert!(headers["x-deadline-ms"].parse::<u64>().expect("a number") <= 3000);
    for name in ["authorization", "cookie", "x-forwarded-for"] {
        assert!(!headers.contains_key(name), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_of_other_origins_need_to_be_allowed() {
    let gateway = start(
        &[("CORS__ALLOWED_ORIGINS", "https://shop.example")],
        stock(vec![], common::api::inventory::ReserveOutcome::Accepted),
    )
    .await;
    for (origin, allowed) in [
        ("https://shop.example", true),
        ("http://localhost:5173", true),
        ("https://shop.example.evil.test", false),
        ("http://localhost.evil.test", false),
        ("null", false),
    ] {
        let preflight = gateway
            .client
            .request("OPTIONS".parse().expect("method"), format!("{}/api/v1/orders", gateway.url));
        let preflight = preflight.header("origin", origin).header("access-control-request-method", "GET");
        let answer = preflight.send().await.expect("answered");
        assert_eq!(answer.status() == 204, allowed, "{origin}");
        let plain = gateway.get("/api/v1/sales").header("origin", origin).send().await.expect("answered");
        let header =
            plain.headers().get("access-control-allow-origin").map(|origin| origin.to_str().expect("text"));
        assert_eq!(header, allowed.then_some(origin));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_development_token_is_what_it_was_asked_to_be() {
    let gateway = open().await;
    for (body, field) in [
        (json!({ "role": "admin" }), "user_id"),
        (json!({ "user_id": "a b", "role": "admin" }), "user_id"),
        (json!({ "user_id": "a", "role": "root" }), "role"),
        (json!({ "user_id": "a", "role": "admin", "exp": 1 }), "exp"),
    ] {
        let response = gateway.post("/api/v1/auth/dev-token").json(&body).send().await.expect("answered");
        assert_eq!(problem(response, 400, "invalid_request").await["field"], field);
    }
}
