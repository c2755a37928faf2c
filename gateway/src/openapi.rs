//! The OpenAPI document, generated from the handlers and completed from the table of routes, and the page that shows
//! it without the internet.

use std::sync::Arc;

use actix_web::web::Bytes;
use common::problem::{CONTENT_TYPE_PROBLEM, Problem};
use utoipa::openapi::path::{HttpMethod, Operation, PathItem};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Header, HeaderBuilder, ObjectBuilder, Ref, RefOr, Response, Type};
use utoipa::openapi::{ResponseBuilder, ServerBuilder};
use utoipa::{OpenApi, openapi};

use crate::body::Expect;
use crate::endpoint::Endpoint;
use crate::http::{self, Served};
use crate::limits::Class;

/// The name of the way to bring a token.
const BEARER: &str = "bearer";

#[derive(OpenApi)]
#[openapi(
    info(title = "Stampede", description = "Flash sales: thousands press \"buy\" in the same second, and each gets \
        a quick, true and final answer.\n\nTimes are RFC 3339 in UTC, money is in minor units, ids are UUIDs. Errors \
        are RFC 9457 problem documents with a stable `code`; `X-Outcome: none` says that the attempt had no effect, \
        `unknown` to repeat it with the same Idempotency-Key. `detail` follows Accept-Language (en, zh-CN)."),
    tags((name = "sales"), (name = "orders"), (name = "auth"), (name = "payments"), (name = "admin"),
        (name = "sandbox", description = "In the dev profile."), (name = "service")),
    components(schemas(Problem)),
    paths(
        http::docs::healthz, http::docs::openapi, http::docs::index, http::docs::file,
        http::auth::dev_token, http::auth::wechat, http::sales::list, http::sales::single,
        http::place_order::place, http::place::join, http::place::look, http::place::draw, http::orders::list, http::orders::single, http::orders::pay, http::orders::cancel,
        http::events::stream, http::payments::callback, http::payments::sandbox_page, http::payments::sandbox_pay,
        http::admin::list_sales, http::admin::create_sale, http::admin::get_sale, http::admin::change_sale,
        http::admin::publish, http::admin::pause, http::admin::resume, http::admin::end, http::admin::audit,
        http::audit_log::list, http::admin::list_orders, http::admin::refund, http::admin::restock,
        http::dead_letters::list, http::dead_letters::replay, http::dead_letters::discard,
        http::webhooks::list, http::webhooks::create, http::webhooks::delete, http::webhooks::deliveries,
        http::webhooks::redeliver, http::blocks::list, http::blocks::create, http::blocks::lift,
        http::users::erase,
    )
)]
struct Api;

/// The document of the routes that are served.
pub fn document(served: Served, public_url: &str) -> openapi::OpenApi {
    let mut document = Api::openapi();
    env!("CARGO_PKG_VERSION").clone_into(&mut document.info.version);
    if !public_url.is_empty() {
        document.servers = Some(vec![ServerBuilder::new().url(public_url).build()]);
    }
    let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document.components.get_or_insert_default().add_security_scheme(BEARER, scheme);
    let mut paths = std::mem::take(&mut document.paths.paths);
    for endpoint in served.endpoints() {
        let Some(operation) = paths.get_mut(endpoint.path).and_then(|item| take(item, endpoint)) else {
            continue;
        };
        let item = PathItem::new(method(endpoint), completed(operation, endpoint));
        document.paths.paths.entry(endpoint.path.to_owned()).or_default().merge_operations(item);
    }
    document
}

fn method(endpoint: &Endpoint) -> HttpMethod {
    match endpoint.method.as_str() {
        "POST" => HttpMethod::Post,
        "PATCH" => HttpMethod::Patch,
        "DELETE" => HttpMethod::Delete,
        _ => HttpMethod::Get,
    }
}

fn take(item: &mut PathItem, endpoint: &Endpoint) -> Option<Operation> {
    match endpoint.method.as_str() {
        "POST" => item.post.take(),
        "PATCH" => item.patch.take(),
        "DELETE" => item.delete.take(),
        _ => item.get.take(),
    }
}

/// The operation with what follows from its line in the table: who may call it, and how it can be refused.
fn completed(mut operation: Operation, endpoint: &Endpoint) -> Operation {
    let has_token = endpoint.needs_token();
    operation.security = has_token.then(|| vec![SecurityRequirement::new(BEARER, Vec::<String>::new())]);
    let command = endpoint.method != actix_web::http::Method::GET;
    let order = endpoint.class == Class::Order;
    let named = endpoint.path.contains('{');
    let sandbox = endpoint.path.starts_with("/sandbox/");
    let place = endpoint.path.ends_with("/place");
    let blockable = endpoint.can_be_blocked() && endpoint.class != Class::Auth;
    let refusals: [(bool, u16, &str); 15] = [
        (true, 400, "`invalid_request`: `field` names what to change."),
        (has_token, 401, "`unauthenticated`: no token, or none that counts."),
        (endpoint.class == Class::Callback, 401, "`unauthenticated`: not signed by the provider."),
        (endpoint.needs_admin(), 403, "`forbidden`"),
        (endpoint.class == Class::Auth, 403, "`forbidden`, `blocked`"),
        (blockable, 403, "`blocked`: the network."),
        (
            order,
            403,
            "`place_required`: take a place in line. `challenge_required`: solve `challenge`. `blocked`",
        ),
        (place && command, 403, "`challenge_required`: solve `challenge`. `blocked`"),
        (named, 404, "`not_found`"),
        (order, 409, "`not_started` (with `starts_at`), `ended`, `paused`, `sold_out`, `limit_exceeded`"),
        (command && (has_token || sandbox) && !order, 409, "`invalid_transition`"),
        (true, 413, "`too_large`: more than 16 KiB."),
        (endpoint.expect == Expect::Json, 415, "`unsupported_media_type`"),
        (order, 422, "`idempotency_mismatch`: the same key with another body."),
        (true, 429, "`rate_limited`, `too_busy`"),
    ];
    for (_, status, description) in refusals.into_iter().filter(|(applies, ..)| *applies) {
        refusal(&mut operation, status, description);
    }
    for status in ["202", "429"].into_iter().filter(|status| *status == "429" || order) {
        if let Some(RefOr::T(response)) = operation.responses.responses.get_mut(status) {
            let left =
                text("`\"user-order\";r=99;t=1`: tokens left, seconds until the bucket is full or has one.");
            response.headers.insert("RateLimit".to_owned(), left.into());
            let policy = text("`\"user-order\";q=100;w=5`: most tokens, seconds in which they come.");
            response.headers.insert("RateLimit-Policy".to_owned(), policy.into());
        }
    }
    let unavailable = if command { "`unavailable`, `outcome_unknown`" } else { "`unavailable`" };
    refusal(&mut operation, 503, unavailable);
    for response in operation.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            let id = text("Names this request, in logs too.");
            response.headers.insert("X-Request-Id".to_owned(), id.into());
        }
    }
    operation
}

fn refusal(operation: &mut Operation, status: u16, description: &str) {
    let retry = matches!(status, 429 | 503);
    let schema = Ref::from_schema_name("Problem");
    let mut response: Response = ResponseBuilder::new()
        .description(description)
        .content(CONTENT_TYPE_PROBLEM, ContentBuilder::new().schema(Some(schema)).build())
        .header("X-Outcome", text("`none`: no effect, for sure. `unknown`: repeat with the same key."))
        .build();
    if retry {
        let seconds = HeaderBuilder::new().schema(Some(ObjectBuilder::new().schema_type(Type::Integer)));
        let seconds = seconds.description(Some("Seconds to wait.")).build();
        response.headers.insert("Retry-After".to_owned(), seconds.into());
    }
    if status == 503 && operation.request_body.is_some() {
        let location = text("With `outcome_unknown`, where the order will be if there is one.");
        response.headers.insert("Location".to_owned(), location.into());
    }
    operation.responses.responses.insert(status.to_string(), RefOr::T(response));
}

fn text(description: &str) -> Header {
    let text = ObjectBuilder::new().schema_type(Type::String);
    HeaderBuilder::new().schema(Some(text)).description(Some(description)).build()
}

/// The document, and the page that shows it.
pub struct Documents {
    /// The document as JSON.
    pub openapi: Bytes,
    page: Arc<utoipa_swagger_ui::Config<'static>>,
}

impl Documents {
    /// Of the routes that are served.
    ///
    /// # Errors
    /// The document cannot be written, which would be a defect.
    pub fn new(served: Served, public_url: &str) -> anyhow::Result<Self> {
        let openapi = document(served, public_url).to_json()?.into();
        Ok(Self { openapi, page: Arc::new(utoipa_swagger_ui::Config::from("/openapi.json")) })
    }

    /// A file of the page with its media type; the page itself has no name. `None`: no such file.
    pub fn page(&self, name: &str) -> Option<(String, Bytes)> {
        let file = utoipa_swagger_ui::serve(name, self.page.clone()).ok()??;
        let bytes = file.bytes.into_owned();
        if !name.is_empty() && name != "index.html" {
            return Some((file.content_type, bytes.into()));
        }
        // The page is at /docs, its files are below.
        let page = String::from_utf8(bytes).ok()?.replacen("<head>", "<head>\n    <base href=\"/docs/\">", 1);
        Some((file.content_type, page.into()))
    }
}
