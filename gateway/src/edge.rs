//! What every request is held to, and what every answer has: a head that means one thing only; a request id, security
//! headers, and CORS for allowed origins.

use actix_web::dev::RequestHead;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, Method, Version};
use actix_web::web::Data;
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse};
use common::problem::{Code, Problem};
use rand::Rng as _;
use uuid::Uuid;

use crate::answer::written;
use crate::state::State;

/// Names one request, in answers and logs.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id that is taken from a client, in bytes.
const REQUEST_ID_LENGTH_MAX: usize = 64;
/// What some take for the headers that say where a request ends.
const LIKE_TRANSFER_ENCODING: HeaderName = HeaderName::from_static("transfer_encoding");
const LIKE_CONTENT_LENGTH: HeaderName = HeaderName::from_static("content_length");
/// What scripts of other origins may send.
const ALLOWED_HEADERS: &str = "authorization, content-type, idempotency-key, purchase-token, challenge-answer, device-id, last-event-id, x-request-id";
/// What scripts of other origins may read.
const EXPOSED_HEADERS: &str = "location, retry-after, ratelimit, ratelimit-policy, x-stale, x-outcome, idempotency-key, x-request-id, content-language";
/// What scripts of other origins may call.
const ALLOWED_METHODS: &str = "GET, POST, PATCH, DELETE";
/// Longest head that is accepted, in bytes, without its first line.
const HEAD_MAX_BYTES: usize = 16 * 1024;
/// Longest path with its query, in bytes.
const TARGET_MAX_BYTES: usize = 8 * 1024;
/// How long a browser may remember the answer to a preflight, in seconds.
const PREFLIGHT_MAX_AGE_S: &str = "600";

/// Origins whose scripts may call the API.
pub struct Origins {
    listed: Vec<String>,
    localhost: bool,
}

impl Origins {
    /// From a text with commas between; `localhost` adds every port of localhost.
    pub fn new(text: &str, localhost: bool) -> Self {
        let listed = text.split(',').map(str::trim).filter(|origin| !origin.is_empty());
        Self { listed: listed.map(|origin| origin.trim_end_matches('/').to_owned()).collect(), localhost }
    }

    fn allow(&self, origin: &str) -> bool {
        self.listed.iter().any(|listed| listed == origin) || (self.localhost && is_localhost(origin))
    }
}

fn is_localhost(origin: &str) -> bool {
    let Ok(url) = url::Url::parse(origin) else { return false };
    matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
}

#[derive(Clone)]
struct RequestId(HeaderValue);

/// The id of this request, for logs.
pub fn request_id(request: &HttpRequest) -> String {
    let id = request.extensions().get::<RequestId>().and_then(|id| Some(id.0.to_str().ok()?.to_owned()));
    id.unwrap_or_default()
}

/// What a request brings that its answer has to have.
pub struct Edge {
    id: HeaderValue,
    origin: Option<HeaderValue>,
}

impl Edge {
    /// Of this request, whose id is known from now on.
    pub fn of(request: &HttpRequest) -> Self {
        let id = id_of(request.headers());
        request.extensions_mut().insert(RequestId(id.clone()));
        Self { id, origin: allowed_origin(request) }
    }

    /// The answer to what no route is asked: a head that can mean two things, and a browser that asks what it may do.
    pub fn answered(&self, request: &HttpRequest) -> Option<HttpResponse> {
        if let Err(problem) = check_head(request.head()) {
            let mut response = written(request, *problem);
            // Where this request ends is not certain, so nothing after it can be.
            response.head_mut().set_connection_type(ConnectionType::Close);
            return Some(response);
        }
        let preflight = request.method() == Method::OPTIONS
            && self.origin.is_some()
            && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        preflight.then(|| {
            HttpResponse::NoContent()
                .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS))
                .insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS))
                .insert_header((header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE_S))
                .finish()
        })
    }

    /// What every answer has.
    pub fn write(self, headers: &mut HeaderMap) {
        headers.insert(REQUEST_ID, self.id);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        if !headers.contains_key(header::CACHE_CONTROL) {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        if let Some(origin) = self.origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS));
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
    }
}

/// Whether the head means one thing only, to us and to any proxy before us, and is of a modest size.
fn check_head(head: &RequestHead) -> Result<(), Box<Problem>> {
    let headers = &head.headers;
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if size > HEAD_MAX_BYTES || target > TARGET_MAX_BYTES {
        return Err(Box::new(Problem::new(Code::TooLarge)));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING);
    if let Some(coding) = codings.next() {
        let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
        if !chunked || head.version != Version::HTTP_11 || headers.contains_key(header::CONTENT_LENGTH) {
            return Err(Box::new(Problem::invalid(
                "Transfer-Encoding",
                "must be chunked, alone, and in HTTP/1.1",
            )));
        }
    }
    // Some proxies read an underscore as a hyphen.
    if headers.contains_key(LIKE_TRANSFER_ENCODING) || headers.contains_key(LIKE_CONTENT_LENGTH) {
        return Err(Box::new(Problem::invalid(
            "headers",
            "must not look like Transfer-Encoding or Content-Length",
        )));
    }
    if head.version == Version::HTTP_11 && headers.get_all(header::HOST).count() != 1 {
        return Err(Box::new(Problem::invalid("Host", "must be sent once")));
    }
    Ok(())
}

/// The client's own request id if it is a modest one, else a new one.
fn id_of(headers: &HeaderMap) -> HeaderValue {
    let modest = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        !bytes.is_empty() && bytes.len() <= REQUEST_ID_LENGTH_MAX && bytes.iter().all(plain)
    };
    let given = headers.get(REQUEST_ID).filter(modest).cloned();
    given.unwrap_or_else(|| {
        // Not a secret: the thread's own generator does, without asking the kernel each time.
        let mut text = [0; uuid::fmt::Simple::LENGTH];
        let text = Uuid::from_u128(rand::rng().random()).simple().encode_lower(&mut text);
        HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("none"))
    })
}

fn allowed_origin(request: &HttpRequest) -> Option<HeaderValue> {
    let origin = request.headers().get(header::ORIGIN)?;
    let state = request.app_data::<Data<State>>()?;
    state.origins.allow(origin.to_str().ok()?).then(|| origin.clone())
}
