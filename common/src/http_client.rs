//! HTTP to other services: one client with time-outs, and calls that know whether anything was sent.

mod instances;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Method, Request, RequestBuilder, Response};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use tokio::time::Instant;
use url::Url;

use self::instances::Instances;
use crate::internal::{DEADLINE_HEADER, TOKEN_HEADER};
use crate::settings::UrlList;
use crate::telemetry::trace::{self, Context, Describe, SpanKind, TRACEPARENT_HEADER};

/// Idle connections kept per service instance.
const IDLE_CONNECTIONS_MAX: usize = 128;

/// How long an idle connection is kept: less than [`crate::serve`] keeps it, so that no call meets its closing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Makes ring the TLS provider of the process; [`build`] and [`crate::telemetry::init`] do it.
pub fn install_crypto() {
    // Fails if there is one already, which is this one.
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
}

/// A client that follows no redirects, uses no proxy, and gives up after `total_timeout`.
///
/// # Errors
/// TLS cannot be set up, such as in an image without root certificates.
pub fn build(connect_timeout: Duration, total_timeout: Duration) -> anyhow::Result<Client> {
    install_crypto();
    Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(connect_timeout)
        .timeout(total_timeout)
        .tcp_nodelay(true)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .build()
        .context("HTTP client")
}

/// Why a call has no response.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No instance could be reached, or the deadline had passed already: nothing was sent.
    #[error("{service} cannot be reached")]
    NotSent {
        /// The service that was called.
        service: &'static str,
        /// Why; `None` when the deadline had passed.
        #[source]
        source: Option<reqwest::Error>,
    },
    /// The request was sent and no whole answer came: it may have had an effect.
    #[error("{service} gave no answer")]
    Unknown {
        /// The service that was called.
        service: &'static str,
        /// What happened instead of an answer.
        #[source]
        source: reqwest::Error,
    },
}

/// Another service of ours: one or more instances, called in turn; one whose connections fail is left alone for a moment.
/// Cheap to clone.
#[derive(Clone)]
pub struct Upstream {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    urls: UrlList,
    instances: Instances,
    client: Client,
    token: HeaderValue,
}

impl Upstream {
    /// The service `name` at `urls`, called with the internal `token`.
    ///
    /// # Errors
    /// The token cannot be a header.
    pub fn new(
        name: &'static str,
        urls: UrlList,
        client: Client,
        token: &SecretString,
    ) -> anyhow::Result<Self> {
        let mut token =
            HeaderValue::from_str(token.expose_secret()).context("internal.token: not fit for a header")?;
        token.set_sensitive(true);
        let instances = Instances::new(&urls);
        let shared = Shared { name, urls, instances, client, token };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// A call of `path`, such as `/internal/v1/items`, that ends at `deadline`; the deadline travels along.
    pub fn request(&self, method: Method, path: &str, deadline: Instant) -> Call {
        let url = self.shared.urls.as_slice()[0].clone();
        let builder = self.shared.client.request(method, url).header(TOKEN_HEADER, self.shared.token.clone());
        Call { upstream: self.clone(), path: path.to_owned(), deadline, builder }
    }
}

/// One call that is being prepared.
#[must_use]
pub struct Call {
    upstream: Upstream,
    path: String,
    deadline: Instant,
    builder: RequestBuilder,
}

impl Call {
    /// The same call once more; `None` if its body cannot be sent twice.
    pub fn try_clone(&self) -> Option<Self> {
        let builder = self.builder.try_clone()?;
        Some(Self {
            upstream: self.upstream.clone(),
            path: self.path.clone(),
            deadline: self.deadline,
            builder,
        })
    }

    /// Adds a header.
    pub fn header(self, name: &'static str, value: impl AsRef<str>) -> Self {
        Self { builder: self.builder.header(name, value.as_ref()), ..self }
    }

    /// Adds to the query.
    pub fn query(self, query: &impl Serialize) -> Self {
        Self { builder: self.builder.query(query), ..self }
    }

    /// Sends `body` as JSON.
    pub fn json(self, body: &impl Serialize) -> Self {
        Self { builder: self.builder.json(body), ..self }
    }

    /// Sends `body` as it is.
    pub fn body(self, content_type: &str, body: Vec<u8>) -> Self {
        Self { builder: self.builder.header(CONTENT_TYPE, content_type).body(body), ..self }
    }

    /// Sends it to one instance, to the next one only if none of it was sent. Any status is a response; reading its
    /// body is bound by the same deadline.
    ///
    /// # Errors
    /// See [`CallError`], which says whether anything was sent.
    pub async fn send(self) -> Result<Response, CallError> {
        let Shared { name, instances, client, .. } = &*self.upstream.shared;
        let service = *name;
        let not_sent = |source| CallError::NotSent { service, source };
        let request = self.builder.build().map_err(|error| not_sent(Some(error)))?;
        let question = request.method() == Method::GET;
        let (mut tried, mut failure) = (Vec::new(), None);
        while let Some(turn) = instances.turn(question, &tried, Instant::now()) {
            let remaining = self.deadline.saturating_duration_since(Instant::now());
            let (Some(mut request), false) = (request.try_clone(), remaining.is_zero()) else { break };
            tried.push(turn.number());
            aim(request.url_mut(), turn.url(), &self.path);
            *request.timeout_mut() = Some(remaining);
            let remaining_ms = HeaderValue::from(u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX));
            request.headers_mut().insert(DEADLINE_HEADER, remaining_ms);
            let work = calling(service, &request);
            match trace::within(work.clone(), execute(client, request)).await {
                Ok(response) => {
                    turn.answered();
                    trace::note_on(&work, "http.response.status_code", i64::from(response.status().as_u16()));
                    return Ok(response);
                }
                Err(error) => {
                    trace::fail(&work, "no answer");
                    // A peer that takes its time is there; one that cannot even be connected to in time is not.
                    if error.is_connect() || !error.is_timeout() {
                        turn.failed(Instant::now());
                    }
                    if !error.is_connect() {
                        return Err(CallError::Unknown { service, source: error });
                    }
                    failure = Some(error);
                }
            }
        }
        Err(not_sent(failure))
    }
}

/// The span of a call. The query is left out: it may hold a token.
fn calling(service: &'static str, request: &Request) -> Context {
    trace::child(|| {
        Describe::new(format!("{} {service}", request.method()), SpanKind::Client)
            .with("http.request.method", request.method().to_string())
            .with("server.address", service)
            .with("url.path", request.url().path().to_owned())
    })
}

/// Sends a request with the trace context of the current work.
async fn execute(client: &Client, mut request: Request) -> reqwest::Result<Response> {
    let traceparent = trace::current_traceparent().and_then(|text| HeaderValue::try_from(text).ok());
    if let Some(traceparent) = traceparent {
        request.headers_mut().insert(TRACEPARENT_HEADER, traceparent);
    }
    client.execute(request).await
}

/// Points `url` at `path` below `base`; the query stays.
fn aim(url: &mut Url, base: &Url, path: &str) {
    let query = url.query().map(str::to_owned);
    url.clone_from(base);
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url.set_query(query.as_deref());
}
