//! From a request to its answer: the gate, the handler, and the one place where refusals are written.

use actix_web::body::{BodySize, BoxBody, MessageBody as _};
use actix_web::http::Method;
use actix_web::http::header::{ALLOW, CONTENT_LANGUAGE, HeaderValue, WWW_AUTHENTICATE};
use actix_web::web::{Data, Payload};
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse};
use common::problem::{Code, Problem};
use common::serve::RouteName;
use rand::Rng as _;
use tokio::time::Instant;

use crate::body::{self, Read};
use crate::edge::{Edge, request_id};
use crate::endpoint::{Call, Endpoint, admit};
use crate::error::ApiError;
use crate::language::{Language, localise};
use crate::limits::Class;
use crate::routes::{Found, Routes};
use crate::state::State;

/// Most seconds that are added to Retry-After, so that those who were refused together do not return together.
const RETRY_JITTER_MAX_S: u64 = 2;

/// Answers one request, whatever it is for.
pub async fn serve(routes: &Routes, request: HttpRequest, payload: Payload) -> HttpResponse {
    let edge = Edge::of(&request);
    let mut response = match edge.answered(&request) {
        Some(response) => response,
        None => match routes.find(request.method(), request.uri().path()) {
            Found::Route(endpoint) => {
                request.extensions_mut().insert(RouteName(endpoint.path));
                answer(endpoint, request, payload).await
            }
            Found::WrongMethod(allowed) => unknown_method(allowed, request, payload).await,
            Found::Nothing => drained(&request, payload, Code::NotFound).await,
        },
    };
    edge.write(response.headers_mut());
    response
}

/// Answers one request of `endpoint`.
async fn answer(endpoint: &'static Endpoint, request: HttpRequest, payload: Payload) -> HttpResponse {
    let Some(state) = request.app_data::<Data<State>>().cloned() else {
        return refusal(&request, &ApiError::Defect("no state in the app data"));
    };
    let timeout = if endpoint.class == Class::Admin { state.admin_timeout } else { state.timeout };
    let deadline = Instant::now() + timeout;

    let admitted = admit(&state, endpoint, &request).await;
    let (body, reusable) = match body::read(payload, state.body_timeout).await {
        Read::Whole(body) => (Ok(body), true),
        Read::TooLarge { drained } => (Err(Problem::new(Code::TooLarge)), drained),
        Read::Broken => (Err(Problem::invalid("body", "must be sent whole and in time")), false),
    };
    let result = match (admitted, body) {
        (Err(error), _) => Err(error),
        (Ok(_), Err(problem)) => Err(problem.into()),
        (Ok(caller), Ok(body)) => {
            let call = Call { endpoint, request: request.clone(), body, caller, deadline, state };
            (endpoint.handle)(call).await
        }
    };
    let mut response = result.unwrap_or_else(|error| refusal(&request, &error));
    if !reusable {
        response.head_mut().set_connection_type(actix_web::http::ConnectionType::Close);
    }
    if request.method() == Method::HEAD && matches!(response.body().size(), BodySize::Stream) {
        // It would be read to its end, only to be thrown away.
        return response.set_body(BoxBody::new(()));
    }
    response
}

/// The path has routes, for other methods: `allowed`.
async fn unknown_method(allowed: &str, request: HttpRequest, payload: Payload) -> HttpResponse {
    let mut response = drained(&request, payload, Code::MethodNotAllowed).await;
    if let Ok(allowed) = HeaderValue::from_str(allowed) {
        response.headers_mut().insert(ALLOW, allowed);
    }
    response
}

async fn drained(request: &HttpRequest, payload: Payload, code: Code) -> HttpResponse {
    let timeout =
        request.app_data::<Data<State>>().map_or(std::time::Duration::ZERO, |state| state.body_timeout);
    let read = body::read(payload, timeout).await;
    let mut response = refusal(request, &code.into());
    if !matches!(read, Read::Whole(_) | Read::TooLarge { drained: true }) {
        response.head_mut().set_connection_type(actix_web::http::ConnectionType::Close);
    }
    response
}

/// What the client is told of an error; the only place that logs its cause.
pub fn refusal(request: &HttpRequest, error: &ApiError) -> HttpResponse {
    let problem = error.problem();
    if error.is_fault() {
        let cause = error as &dyn std::error::Error;
        tracing::warn!(error = cause, request_id = %request_id(request), "request failed");
    }
    if let Some(state) = request.app_data::<Data<State>>() {
        state.refusals.count(problem.code);
    }
    let mut response = written(request, problem);
    if let ApiError::Limited(quota) = error {
        quota.write(response.headers_mut());
    }
    response
}

/// A problem in the client's language, with all its headers.
pub fn written(request: &HttpRequest, mut problem: Problem) -> HttpResponse {
    let jitter_s = rand::rng().random_range(0..=RETRY_JITTER_MAX_S);
    problem.retry_after_s = problem.retry_after_s.map(|seconds| seconds + jitter_s);
    let language = Language::of(request.headers());
    let unauthenticated = problem.code == Code::Unauthenticated;
    let mut response = localise(problem, language).response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_LANGUAGE, HeaderValue::from_static(language.tag()));
    if unauthenticated {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
