//! The HTTP server of a service: binding, limits of connections, one span and one time per request, and the drain.

mod answers;
mod connections;
mod guard;
mod input;
mod progress;
mod stream;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_http::HttpService;
use actix_service::map_config;
use actix_web::body::MessageBody;
use actix_web::dev::{AppConfig, ServiceRequest, ServiceResponse};
use actix_web::http::header::HeaderName;
use actix_web::http::{ConnectionType, Method, StatusCode, Uri};
use actix_web::middleware::{Next, from_fn};
use actix_web::web::{self, ServiceConfig};
use actix_web::{App, Error, HttpMessage as _};
use anyhow::Context as _;
use connections::Connections;
pub use connections::{ConnectionLimits, Exempt};
use guard::Guard;
use metrics::Histogram;
use opentelemetry::trace::TraceContextExt as _;
use progress::{Answer, HEAD_TIMEOUT, Progress};
use stream::Guarded;
use tokio::net::TcpSocket;
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::settings::{DrainSettings, HttpSettings};
use crate::telemetry::trace::{self, Context, Describe, Sampling, SpanKind, TRACEPARENT_HEADER};

/// How long a closed connection waits for the client to close it too.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Idle connections that keep their buffers, some 20 KiB each, of all workers together.
const KEPT_CONNECTIONS_MAX: usize = 512;
/// Whose work a request is.
const TRACEPARENT: HeaderName = HeaderName::from_static(TRACEPARENT_HEADER);
/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;

/// A bound server. Connections queue up until it runs.
pub struct Server {
    running: actix_web::dev::Server,
    address: SocketAddr,
    health: Health,
    drain: DrainSettings,
}

impl Server {
    /// Binds the address; `routes` is called once per worker, with [`Health`] already in the app data.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn bind<R>(
        http: &HttpSettings,
        drain: DrainSettings,
        health: Health,
        routes: R,
    ) -> anyhow::Result<Self>
    where
        R: Fn(&mut ServiceConfig) + Clone + Send + 'static,
    {
        let sampling = health.sampling();
        Self::bind_sampled(http, drain, (health, sampling), ConnectionLimits::default(), routes)
    }

    /// As [`Server::bind`], for a port that strangers reach.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn bind_limited<R>(
        http: &HttpSettings,
        drain: DrainSettings,
        health: Health,
        limits: ConnectionLimits,
        routes: R,
    ) -> anyhow::Result<Self>
    where
        R: Fn(&mut ServiceConfig) + Clone + Send + 'static,
    {
        let sampling = health.sampling().for_strangers();
        Self::bind_sampled(http, drain, (health, sampling), limits, routes)
    }

    fn bind_sampled<R>(
        http: &HttpSettings,
        drain: DrainSettings,
        (health, sampling): (Health, Sampling),
        limits: ConnectionLimits,
        routes: R,
    ) -> anyhow::Result<Self>
    where
        R: Fn(&mut ServiceConfig) + Clone + Send + 'static,
    {
        let cannot_bind = || format!("http: cannot bind {}:{}", http.host, http.port);
        let listener = listen(SocketAddr::new(http.host, http.port)).with_context(cannot_bind)?;
        let address = listener.local_addr().with_context(cannot_bind)?;
        let mut server = actix_server::Server::build()
            .disable_signals() // The token decides, not actix.
            .shutdown_timeout(drain.http_timeout().as_secs().max(1))
            // Ours come first, and answer instead of leaving clients to wait.
            .max_concurrent_connections(limits.total.saturating_mul(2));
        if http.workers > 0 {
            server = server.workers(http.workers);
        }
        let workers = if http.workers > 0 {
            http.workers
        } else {
            std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
        };
        let kept_max = (KEPT_CONNECTIONS_MAX / workers).max(1);
        let half_closed = limits.half_closed;
        let (shown, connections) = (health.clone(), Connections::new(limits));
        let closing = server.graceful_shutdown_signal();
        let server = server.listen("http", listener, move || {
            let (seen, closing) =
                (Seen { times: Times::default(), sampling: sampling.clone() }, closing.clone());
            let idle_closing = closing.clone();
            let app = App::new()
                .app_data(web::Data::new(shown.clone()))
                .configure(routes.clone())
                .wrap(from_fn(move |request, next| observe(seen.clone(), request, next)));
            let inner = HttpService::build()
                .graceful_shutdown_signal(move || {
                    let closing = closing.clone();
                    async move { closing.notified().await }
                })
                .keep_alive(KEEP_ALIVE)
                .h1_allow_half_closed(half_closed)
                .client_request_timeout(HEAD_TIMEOUT)
                .client_disconnect_timeout(DISCONNECT_TIMEOUT)
                .local_addr(address)
                .on_connect_ext(|connection: &Guarded, data| {
                    data.insert(connection.progress());
                })
                .finish(map_config(app, |()| AppConfig::default()));
            Guard { inner, connections: connections.clone(), closing: idle_closing, kept_max }
        });
        let server = server.with_context(cannot_bind)?;
        Ok(Self { running: server.run(), address, health, drain })
    }

    /// Where it listens, with the port that was given when 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then drains: not ready, but serving on until balancers have noticed;
    /// then no new connections, and what is in flight gets its time.
    ///
    /// # Errors
    /// The server ended by itself.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        tracing::info!(address = %self.address, "listening");
        let handle = self.running.handle();
        let mut running = pin!(self.running);
        tokio::select! {
            ended = &mut running => {
                ended.context("HTTP server")?;
                anyhow::bail!("HTTP server ended by itself");
            }
            () = stop.cancelled() => {}
        }
        let drain = async {
            self.health.start_draining();
            tracing::info!(ready_delay_ms = self.drain.ready_delay_ms, "draining");
            tokio::time::sleep(self.drain.ready_delay()).await;
            handle.stop(true).await;
        };
        let (ended, ()) = tokio::join!(running, drain);
        tracing::info!("HTTP drained");
        ended.context("HTTP server")
    }
}

/// A listener that may take over from one that has just ended.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// Times of requests of one worker by route, method and status, looked up without touching the global registry.
#[derive(Clone, Default)]
struct Times(Rc<RefCell<HashMap<Kind, Histogram>>>);

/// What requests have in common whose times are counted together: route, method, status.
type Kind = (Option<Cow<'static, str>>, &'static str, StatusCode);

impl Times {
    fn record(&self, route: Option<Cow<'static, str>>, method: &Method, status: StatusCode, took: Duration) {
        let mut times = self.0.borrow_mut();
        let key = (route, known_method(method), status);
        let histogram = times.entry(key).or_insert_with_key(|(route, method, status)| {
            let route = route.clone().unwrap_or(Cow::Borrowed("none"));
            let status = status.as_str().to_owned();
            metrics::histogram!("http_server_request_duration_seconds", "route" => route, "method" => *method, "status" => status)
        });
        histogram.record(took);
    }
}

/// Methods are free text of the client; a metric knows only these.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// The route of a request, as a service with routes of its own says it in the request's extensions; for others the
/// framework knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteName(pub &'static str);

/// What is seen of the requests of one worker.
#[derive(Clone)]
struct Seen {
    times: Times,
    sampling: Sampling,
}

/// What a log line says of the request that it belongs to.
pub(crate) struct RequestLine {
    /// Its method.
    pub(crate) method: Method,
    /// Its target; the query is not for logs.
    pub(crate) target: Uri,
}

tokio::task_local! {
    /// What this task answers.
    pub(crate) static ANSWERED: RequestLine;
}

/// One time per request, and a span where it is traced. The query is left out: it may hold a token.
async fn observe(
    seen: Seen,
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let began = Instant::now();
    let method = request.method().clone();
    let work = seen.begin(&request);

    let progress = request.request().conn_data::<Rc<Progress>>().cloned();
    if let Some(progress) = &progress {
        progress.no_surplus().await;
    }
    let asked_to_close = request.head().connection_type() == ConnectionType::Close;
    let answering = progress.as_ref().map(|progress| progress.answering(request.head()));
    let line = RequestLine { method: method.clone(), target: request.uri().clone() };
    let answered = ANSWERED.scope(line, next.call(request));
    let response = trace::within(work.clone(), answered).await?;
    let closes = asked_to_close || response.response().head().connection_type() == ConnectionType::Close;
    if let Some(progress) = progress.filter(|_| closes) {
        progress.last_answered();
    }

    let named = response.request().extensions().get::<RouteName>().map(|route| Cow::Borrowed(route.0));
    let route = named.or_else(|| response.request().match_pattern().map(Cow::Owned));
    let span = work.span();
    if span.is_recording() {
        let (status, route) = (response.status(), route.as_deref().unwrap_or("none"));
        // Only now is the route known.
        span.update_name(format!("{method} {route}"));
        trace::note_on(&work, "http.route", route.to_owned());
        trace::note_on(&work, "http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            trace::fail(&work, "server error");
        }
    }
    seen.times.record(route, &method, response.status(), began.elapsed());
    Ok(response.map_body(|_, body| Answer { body, answering }))
}

impl Seen {
    /// The context of a request, which its log lines take their ids from.
    fn begin(&self, request: &ServiceRequest) -> Context {
        let traceparent = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok());
        let (method, path) = (request.method(), request.path());
        self.sampling.request(traceparent, || {
            Describe::new("request", SpanKind::Server)
                .with("http.request.method", known_method(method))
                .with("url.path", path.to_owned())
        })
    }
}
