//! Passing a call on to the service that owns it, and its answer back. The request is written anew, so that no header
//! of a client gets through that is not named here.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::error::{ErrorBadGateway, ErrorGatewayTimeout};
use actix_web::http::StatusCode;
use actix_web::http::header::{
    CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION,
};
use actix_web::web::Bytes;
use common::internal::{ROLE_HEADER, USER_HEADER};
use common::problem::{CONTENT_TYPE_PROBLEM, Code, OUTCOME_HEADER, Outcome, Problem};
use futures_util::Stream;
use futures_util::stream::try_unfold;
use reqwest::{Method, Response};
use tokio::time::{Instant, timeout, timeout_at};

use crate::answer::written;
use crate::downstream::{Downstream, Failed, Priority};
use crate::endpoint::{Answer, Call};
use crate::error::ApiError;
use crate::limits::Class;
use crate::newer_problem::NewerProblem;

/// Where public paths begin, and internal ones.
const PUBLIC: &str = "/api/v1";
const INTERNAL: &str = "/internal/v1";
/// Longest problem document that is read, in bytes.
const PROBLEM_MAX_BYTES: u64 = 64 * 1024;
/// Longest body that is collected before it is sent on, in bytes; a page of orders has some 40 KiB.
const SHORT_MAX_BYTES: u64 = 256 * 1024;
/// Most time for an answer that is sent on as it comes, such as an export.
const EXPORT_MAX: Duration = Duration::from_secs(600);
/// After so long without a byte such an answer is broken off.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Longest parameter of a path that is not an id, such as the name of a payment provider.
const SLUG_LENGTH_MAX: usize = 32;
/// Headers of a request that are passed on, besides its type.
const PASSED_ON: [&str; 3] = ["accept", "accept-language", "sandbox-signature"];
/// Headers of an answer that are passed back, besides its type.
const PASSED_BACK: [HeaderName; 2] = [CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY];

/// A service that calls are passed on to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// order-service
    Orders,
    /// notify-service
    Notify,
}

impl Service {
    /// Its name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Orders => "order-service",
            Self::Notify => "notify-service",
        }
    }
}

impl Call {
    /// Passes the call on as it is and the answer back as it is.
    ///
    /// # Errors
    /// Parameters that are no ids; a service that gives no answer.
    pub async fn forward(&self, service: Service) -> Answer {
        let response = self.send(service).await?;
        self.pass_back(service, response).await
    }

    /// As [`Call::forward`], for a question whose answer may be long: its head has to come before the deadline, its
    /// body may take ten minutes.
    ///
    /// # Errors
    /// Parameters that are no ids; a service that gives no answer in time.
    pub async fn export(&self, service: Service) -> Answer {
        let sent = self.send_until(service, Instant::now() + EXPORT_MAX, false);
        match timeout_at(self.deadline, sent).await {
            Ok(response) => self.pass_back(service, response?).await,
            Err(_) => Err(Code::Unavailable.into()),
        }
    }

    /// Passes the call on.
    ///
    /// # Errors
    /// Parameters that are no ids; a service that gives no answer.
    pub async fn send(&self, service: Service) -> Result<Response, ApiError> {
        self.send_until(service, self.deadline, true).await
    }

    async fn send_until(
        &self,
        service: Service,
        deadline: Instant,
        counted: bool,
    ) -> Result<Response, ApiError> {
        let method = self.method()?;
        let mut call =
            self.upstream(service).request(method, &self.internal_path()?, deadline).query(&self.query()?);
        call = if counted { call.priority(self.priority()) } else { call.waiting() };
        if let Some(caller) = &self.caller {
            call = call.header(USER_HEADER, caller.user.as_str()).header(ROLE_HEADER, caller.role.as_str());
        }
        for name in PASSED_ON {
            if let Some(value) = self.header(name)? {
                call = call.header(name, value);
            }
        }
        if !self.body.is_empty() {
            let media = self.header("content-type")?.unwrap_or("application/octet-stream");
            call = call.body(media, self.body.to_vec());
        }
        call.send().await.map_err(|error| self.unanswered(error))
    }

    /// The answer of a service as the client gets it.
    ///
    /// # Errors
    /// An answer that must not get out: a redirect, a failure of the service, or our own token refused.
    pub async fn pass_back(&self, service: Service, response: Response) -> Answer {
        let status = response.status().as_u16();
        // A callback's signature is checked there; everybody else was authenticated here.
        let foreign_401 = status == 401 && self.caller.is_some();
        let expected =
            (200..300).contains(&status) || ((400..500).contains(&status) && !foreign_401) || status == 503;
        let Ok(status) = StatusCode::from_u16(status) else {
            return Err(self.bad_answer(service, "no HTTP status".to_owned()));
        };
        if !expected {
            return Err(self.bad_answer(service, format!("status {status}")));
        }
        let media = response.headers().get("content-type").and_then(|media| media.to_str().ok());
        if media.is_some_and(|media| media.starts_with(CONTENT_TYPE_PROBLEM)) {
            return self.pass_problem_back(service, response).await;
        }
        if status.is_client_error() || status.is_server_error() {
            return Err(self.bad_answer(service, format!("{} without a problem document", status.as_u16())));
        }
        self.pass_whole_back(service, status, response).await
    }

    /// The answer with its body: a short one at once, so that it goes out with its head or not at all; a long one,
    /// such as an export, as it comes.
    async fn pass_whole_back(&self, service: Service, status: StatusCode, response: Response) -> Answer {
        let mut answer = HttpResponse::build(status);
        let headers = response.headers();
        for name in [CONTENT_TYPE].iter().chain(&PASSED_BACK) {
            let value = headers.get(name.as_str()).map(|value| HeaderValue::from_bytes(value.as_bytes()));
            if let Some(Ok(value)) = value {
                answer.insert_header((name.clone(), value));
            }
        }
        let location = headers.get("location").and_then(|value| value.to_str().ok());
        if let Some(location) = location.and_then(|location| location.strip_prefix(INTERNAL)) {
            answer.insert_header((LOCATION, format!("{PUBLIC}{location}")));
        }
        let length = response.content_length();
        if status == StatusCode::NO_CONTENT || length == Some(0) {
            return Ok(answer.finish());
        }
        if length.is_none_or(|length| length > SHORT_MAX_BYTES) {
            return Ok(answer.streaming(long_body(response)));
        }
        match timeout_at(self.deadline, response.bytes()).await {
            Ok(Ok(body)) => Ok(answer.body(body)),
            Ok(Err(error)) => Err(self.bad_answer(service, format!("broken off: {}", error.without_url()))),
            Err(_) => Err(self.bad_answer(service, "broken off by the deadline".to_owned())),
        }
    }

    /// A problem of a service, written anew: in the client's language, with all headers.
    async fn pass_problem_back(&self, service: Service, response: Response) -> Answer {
        if response.content_length().is_some_and(|length| length > PROBLEM_MAX_BYTES) {
            return Err(self.bad_answer(service, "a problem document that is too long".to_owned()));
        }
        let status = StatusCode::from_u16(response.status().as_u16()).unwrap_or_default();
        let without_effect = response.headers().get(OUTCOME_HEADER).is_some_and(|value| value == "none");
        let Ok(body) = timeout_at(self.deadline, response.bytes()).await else {
            return Err(self.bad_answer(service, "a problem document that did not come in time".to_owned()));
        };
        let body = match body {
            Ok(body) => body,
            Err(error) => {
                return Err(self.bad_answer(service, format!("broken off: {}", error.without_url())));
            }
        };
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if problem.code == Code::Internal => {
                Err(self.bad_answer(service, "a defect".to_owned()))
            }
            Ok(problem) => Ok(written(&self.request, problem)),
            Err(error) => match NewerProblem::parse(&body, status) {
                Some(problem) => {
                    let outcome = if without_effect { Outcome::None } else { Outcome::Unknown };
                    Ok(problem.response(outcome))
                }
                None => Err(self.bad_answer(service, format!("not a problem document: {error}"))),
            },
        }
    }

    /// How important it is to the services behind.
    pub fn priority(&self) -> Priority {
        match self.endpoint.class {
            Class::Callback => Priority::Callback,
            Class::Admin | Class::Auth => Priority::Command,
            Class::Order => Priority::Order,
            Class::Read if self.endpoint.method == actix_web::http::Method::GET => Priority::Read,
            Class::Read => Priority::Command,
        }
    }

    /// What it means that a service gave no answer: only a command may have had an effect.
    pub fn unanswered(&self, error: Failed) -> ApiError {
        if self.endpoint.method == actix_web::http::Method::GET {
            ApiError::Question(error)
        } else {
            ApiError::Command(error)
        }
    }

    fn bad_answer(&self, service: Service, reason: String) -> ApiError {
        let service = service.name();
        if self.endpoint.method == actix_web::http::Method::GET {
            ApiError::BadAnswer { service, reason }
        } else {
            ApiError::BadCommandAnswer { service, reason }
        }
    }

    /// Where calls of `service` go.
    pub fn upstream(&self, service: Service) -> &Downstream {
        match service {
            Service::Orders => &self.state.orders,
            Service::Notify => &self.state.notify,
        }
    }

    fn method(&self) -> Result<Method, ApiError> {
        // The two crates have different versions of the same type.
        Method::from_bytes(self.endpoint.method.as_str().as_bytes())
            .map_err(|_| ApiError::Defect("a route's method"))
    }

    /// The path of the route below `/internal/v1`, with the parameters of this call: checked ids, never raw text.
    fn internal_path(&self) -> Result<String, ApiError> {
        let mut path = INTERNAL.to_owned();
        let route = self.endpoint.path.strip_prefix(PUBLIC).unwrap_or(self.endpoint.path);
        for segment in route.split('/').skip(1) {
            path.push('/');
            match segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
                None => path.push_str(segment),
                Some("provider") => path.push_str(self.slug("provider")?),
                Some(parameter) => path.push_str(&self.id(parameter)?.to_string()),
            }
        }
        Ok(path)
    }

    fn slug(&self, parameter: &str) -> Result<&str, ApiError> {
        let text = self.path_parameter(parameter);
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if text.is_empty() || text.len() > SLUG_LENGTH_MAX || !text.bytes().all(plain) {
            return Err(Code::NotFound.into());
        }
        Ok(text)
    }
}

/// The body as it comes. When the service breaks off or falls silent the client's connection is broken off too, so that
/// nobody takes a part for the whole.
fn long_body(response: Response) -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
    try_unfold(response, |mut response| async {
        match timeout(SILENCE_MAX, response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk.map(|bytes| (bytes, response))),
            Ok(Err(error)) => Err(ErrorBadGateway(error.without_url())),
            Err(silence) => Err(ErrorGatewayTimeout(silence)),
        }
    })
}
