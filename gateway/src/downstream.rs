//! Calls to the services behind the gateway, each guarded: a circuit breaker, an adaptive limit of calls at a time by
//! priority, one retry of a question within a budget. The only layer of this process that tries anything again.
//!
//! A call that is not made fails with [`Failed::Open`] or [`Failed::Busy`]: nothing was sent, for sure.

mod breaker;
mod budget;
mod concurrency;

use std::sync::Arc;
use std::time::Duration;

use common::http_client::{self, CallError, Upstream};
use metrics::{Counter, Gauge};
use rand::Rng as _;
use reqwest::{Method, Response, StatusCode};
use serde::Serialize;
use tokio::time::Instant;

use crate::settings::{BreakerSettings, ConcurrencySettings};
use breaker::{Breaker, Pass, Standing};
use budget::Budget;
use concurrency::Concurrency;

/// A call that had less time than this and got no answer says nothing of the service.
const FAIR_TIME: Duration = Duration::from_millis(1000);
/// Longest pause before a question is asked again.
const RETRY_PAUSE_MAX_MS: u64 = 20;

/// Whose calls still get through when a service nears its limit: each may use this part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Placing orders.
    Order,
    /// Questions.
    Read,
    /// Paying, cancelling, and what admins do: an overloaded sale must still be paused.
    Command,
    /// Payment providers report what was paid.
    Callback,
}

impl Priority {
    /// The part of the limit.
    fn share(self) -> f64 {
        match self {
            Self::Order => 0.7,
            Self::Read => 0.8,
            Self::Command => 0.9,
            Self::Callback => 1.0,
        }
    }
}

/// Why a call has no response.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The service is left alone for a moment: nothing was sent.
    #[error("{0} has failed too often and is left alone")]
    Open(&'static str),
    /// The service has as much to do as it can take: nothing was sent.
    #[error("{0} has as many calls as it can take")]
    Busy(&'static str),
    /// It was called.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// One service. Cheap to clone.
#[derive(Clone)]
pub struct Downstream {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    upstream: Upstream,
    breaker: Breaker,
    concurrency: Concurrency,
    budget: Budget,
    metrics: Metrics,
}

struct Metrics {
    breaker: Gauge,
    opened: Counter,
    limit: Gauge,
    in_flight: Gauge,
    refused_open: Counter,
    refused_busy: Counter,
    retries: Counter,
}

impl Metrics {
    fn new(service: &'static str) -> Self {
        let refused = |reason: &'static str| metrics::counter!("gateway_calls_refused_total", "upstream" => service, "reason" => reason);
        Self {
            breaker: metrics::gauge!("gateway_breaker_state", "upstream" => service),
            opened: metrics::counter!("gateway_breaker_opened_total", "upstream" => service),
            limit: metrics::gauge!("gateway_concurrency_limit", "upstream" => service),
            in_flight: metrics::gauge!("gateway_calls_in_flight", "upstream" => service),
            refused_open: refused("open"),
            refused_busy: refused("busy"),
            retries: metrics::counter!("gateway_retries_total", "upstream" => service),
        }
    }
}

impl Downstream {
    /// The service `name` behind `upstream`.
    pub fn new(
        name: &'static str,
        upstream: Upstream,
        breaker: &BreakerSettings,
        concurrency: &ConcurrencySettings,
    ) -> Self {
        let shared = Shared {
            name,
            upstream,
            breaker: Breaker::new(breaker),
            concurrency: Concurrency::new(concurrency),
            budget: Budget::new(),
            metrics: Metrics::new(name),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A question or command as [`Upstream::request`] makes it; [`Priority::Read`] unless it says otherwise.
    pub fn request(&self, method: Method, path: &str, deadline: Instant) -> Call {
        let question = method == Method::GET;
        let inner = self.shared.upstream.request(method, path, deadline);
        Call { service: self.clone(), inner, deadline, question, entry: Entry::Counted(Priority::Read) }
    }

    /// Waits for a place for a call, until `deadline`. For what has a bounded queue of its own.
    ///
    /// # Errors
    /// [`Failed::Open`] at once, [`Failed::Busy`] at the deadline.
    pub async fn turn(&self, priority: Priority, deadline: Instant) -> Result<Permit, Failed> {
        let shared = &self.shared;
        if shared.breaker.standing() != Standing::Closed {
            return self.enter(Entry::Probe); // The trial must not wait for a place.
        }
        let share = || shared.breaker.share(Instant::now()) * priority.share();
        if !shared.concurrency.enter(share, deadline).await {
            return Err(self.refused(Failed::Busy(shared.name)));
        }
        match shared.breaker.pass(Instant::now()) {
            Some(pass) => Ok(Permit::new(self, pass, Entry::Counted(priority))),
            None => {
                shared.concurrency.abandoned();
                Err(self.refused(Failed::Open(shared.name)))
            }
        }
    }

    fn enter(&self, entry: Entry) -> Result<Permit, Failed> {
        let shared = &self.shared;
        let now = Instant::now();
        let Some(pass) = shared.breaker.pass(now) else {
            return Err(self.refused(Failed::Open(shared.name)));
        };
        if let Entry::Counted(priority) = entry {
            let share = shared.breaker.share(now) * priority.share();
            if !shared.concurrency.try_enter(share) {
                shared.breaker.abandoned(pass, now);
                return Err(self.refused(Failed::Busy(shared.name)));
            }
        }
        Ok(Permit::new(self, pass, entry))
    }

    fn refused(&self, failed: Failed) -> Failed {
        match failed {
            Failed::Open(_) => self.shared.metrics.refused_open.increment(1),
            Failed::Busy(_) => self.shared.metrics.refused_busy.increment(1),
            Failed::Call(_) => {}
        }
        failed
    }
}

/// How a call is let through.
#[derive(Debug, Clone, Copy)]
enum Entry {
    /// It takes one of the places.
    Counted(Priority),
    /// It takes long by its nature.
    Waiting,
    /// It is made all the time, by few.
    Probe,
}

/// One call that is being prepared.
#[must_use]
pub struct Call {
    service: Downstream,
    inner: http_client::Call,
    deadline: Instant,
    question: bool,
    entry: Entry,
}

impl Call {
    /// How important it is.
    pub fn priority(self, priority: Priority) -> Self {
        Self { entry: Entry::Counted(priority), ..self }
    }

    /// It waits for something to happen: it takes no place, and its time says nothing.
    pub fn waiting(self) -> Self {
        Self { entry: Entry::Waiting, ..self }
    }

    /// It is made all the time, by few, and is what tries a service that was left alone: it takes no place.
    pub fn probe(self) -> Self {
        Self { entry: Entry::Probe, ..self }
    }

    /// Adds a header.
    pub fn header(self, name: &'static str, value: impl AsRef<str>) -> Self {
        Self { inner: self.inner.header(name, value), ..self }
    }

    /// Adds to the query.
    pub fn query(self, query: &impl Serialize) -> Self {
        Self { inner: self.inner.query(query), ..self }
    }

    /// Sends `body` as JSON.
    pub fn json(self, body: &impl Serialize) -> Self {
        Self { inner: self.inner.json(body), ..self }
    }

    /// Sends `body` as it is.
    pub fn body(self, content_type: &str, body: Vec<u8>) -> Self {
        Self { inner: self.inner.body(content_type, body), ..self }
    }

    /// Makes the call. A question whose answer broke off is asked once more, if the budget allows it.
    ///
    /// # Errors
    /// See [`Failed`].
    pub async fn send(self) -> Result<Response, Failed> {
        let permit = self.service.enter(self.entry)?;
        let again = if self.question { self.inner.try_clone() } else { None };
        let (service, entry, deadline) = (self.service.clone(), self.entry, self.deadline);
        let result = self.send_within(&permit).await;
        drop(permit);
        let (Err(Failed::Call(CallError::Unknown { source, .. })), Some(inner)) = (&result, again) else {
            return result;
        };
        if source.is_timeout() || !service.shared.budget.retry(Instant::now()) {
            return result;
        }
        let pause_ms = rand::rng().random_range(0..=RETRY_PAUSE_MAX_MS);
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        service.shared.metrics.retries.increment(1);
        let permit = service.enter(entry)?;
        Box::pin(Self { service, inner, deadline, question: true, entry }.attempt(&permit)).await
    }

    /// Makes the call with a permit from [`Downstream::turn`], which is held as long as the call is in flight.
    ///
    /// # Errors
    /// [`Failed::Call`].
    pub async fn send_within(self, permit: &Permit) -> Result<Response, Failed> {
        self.service.shared.budget.attempt(Instant::now());
        // Apart, as in store.rs.
        Box::pin(self.attempt(permit)).await
    }

    async fn attempt(self, permit: &Permit) -> Result<Response, Failed> {
        let allowed = self.deadline.saturating_duration_since(Instant::now());
        let result = self.inner.send().await;
        permit.note(verdict(&result, allowed, permit.entry));
        Ok(result?)
    }
}

/// What a call says of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Answered,
    Failed,
    Nothing,
}

fn verdict(result: &Result<Response, CallError>, allowed: Duration, entry: Entry) -> Verdict {
    match result {
        // 503 is an answer, of one item's closed gate or a store that is away: it came quickly and is honest. So is 500:
        // a defect that one request can reach must not take the service away from all others.
        Ok(response) => match response.status() {
            StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => Verdict::Failed,
            _ => Verdict::Answered,
        },
        Err(CallError::NotSent { source: None, .. }) => Verdict::Nothing,
        Err(CallError::NotSent { source: Some(_), .. }) => Verdict::Failed,
        Err(CallError::Unknown { source, .. }) if source.is_timeout() => {
            let fair = allowed >= FAIR_TIME && !matches!(entry, Entry::Waiting);
            if fair { Verdict::Failed } else { Verdict::Nothing }
        }
        Err(CallError::Unknown { .. }) => Verdict::Failed,
    }
}

/// A place for one call, given back when it is dropped.
pub struct Permit {
    service: Downstream,
    pass: Pass,
    entry: Entry,
    began: Instant,
    verdict: parking_lot::Mutex<Verdict>,
}

impl Permit {
    fn new(service: &Downstream, pass: Pass, entry: Entry) -> Self {
        let verdict = parking_lot::Mutex::new(Verdict::Nothing);
        Self { service: service.clone(), pass, entry, began: Instant::now(), verdict }
    }

    fn note(&self, verdict: Verdict) {
        *self.verdict.lock() = verdict;
        let Shared { name, breaker, metrics, .. } = &*self.service.shared;
        let now = Instant::now();
        let change = match verdict {
            Verdict::Answered => breaker.succeeded(self.pass, now),
            Verdict::Failed => breaker.failed(self.pass, now),
            Verdict::Nothing => None,
        };
        match change {
            Some(Standing::Open) => {
                metrics.opened.increment(1);
                tracing::warn!(service = name, "too many failures: left alone for a moment");
            }
            Some(Standing::Closed) => tracing::info!(service = name, "answers again"),
            Some(Standing::HalfOpen) | None => {}
        }
        metrics.breaker.set(match breaker.standing() {
            Standing::Closed => 0.0,
            Standing::HalfOpen => 1.0,
            Standing::Open => 2.0,
        });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Shared { breaker, concurrency, metrics, .. } = &*self.service.shared;
        let verdict = *self.verdict.lock();
        if verdict == Verdict::Nothing {
            breaker.abandoned(self.pass, Instant::now());
        }
        if matches!(self.entry, Entry::Counted(_)) {
            match verdict {
                Verdict::Answered => concurrency.answered(self.began.elapsed()),
                Verdict::Failed => concurrency.unanswered(),
                Verdict::Nothing => concurrency.abandoned(),
            }
            let (limit, in_flight) = concurrency.figures();
            metrics.limit.set(limit);
            metrics.in_flight.set(in_flight as f64);
        }
    }
}
