//! Liveness, readiness with reasons, and metrics, the same on every service.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpResponse, Responder};
use serde::Serialize;

use crate::telemetry::Metrics;
use crate::telemetry::trace::Sampling;

/// What a check says until it is first set.
const STARTING: &str = "starting";

/// What the process knows about its own health. Cheap to clone.
#[derive(Clone, Default)]
pub struct Health {
    state: Arc<Mutex<State>>,
    metrics: Metrics,
}

#[derive(Default)]
struct State {
    draining: bool,
    checks: BTreeMap<&'static str, Check>,
}

/// One named condition.
struct Check {
    /// Why it does not hold; `None` when it does.
    problem: Option<String>,
    /// Whether a failure takes the instance out of service. A dependency does so only until it was first reached.
    required: bool,
}

/// The answer of `/readyz`.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    draining: bool,
    checks: BTreeMap<&'static str, String>,
}

impl Health {
    /// Healthy as long as every check is; `metrics` is what `/metrics` shows.
    pub fn new(metrics: Metrics) -> Self {
        Self { state: Arc::default(), metrics }
    }

    /// A condition without which this instance must get no traffic. Not ready until first set.
    pub fn check(&self, name: &'static str) -> HealthCheck {
        self.add(name, true)
    }

    /// Something shared by all instances, such as a broker: not ready until it was reached once; after that a
    /// failure is shown, but does not take away all instances at once, so that callers still get an honest answer.
    pub fn dependency(&self, name: &'static str) -> HealthCheck {
        self.add(name, false)
    }

    /// From now on not ready: the process is about to stop.
    pub fn start_draining(&self) {
        self.lock().draining = true;
    }

    /// Whether this instance should get traffic.
    pub fn is_ready(&self) -> bool {
        self.readiness().ready
    }

    /// Who decides which requests are traced.
    pub(crate) fn sampling(&self) -> Sampling {
        self.metrics.sampling()
    }

    fn add(&self, name: &'static str, required: bool) -> HealthCheck {
        self.lock().checks.insert(name, Check { problem: Some(STARTING.to_owned()), required: true });
        HealthCheck { health: self.clone(), name, required }
    }

    fn readiness(&self) -> Readiness {
        let state = self.lock();
        let failing = state.checks.values().any(|check| check.required && check.problem.is_some());
        let checks = state
            .checks
            .iter()
            .map(|(name, check)| (*name, check.problem.clone().unwrap_or_else(|| "ok".to_owned())));
        Readiness { ready: !state.draining && !failing, draining: state.draining, checks: checks.collect() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to say whether one condition holds.
#[derive(Clone)]
pub struct HealthCheck {
    health: Health,
    name: &'static str,
    required: bool,
}

impl HealthCheck {
    /// The condition holds.
    pub fn ready(&self) {
        self.set(None);
    }

    /// The condition does not hold; `reason` is shown in `/readyz`, so it names no secret.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    fn set(&self, problem: Option<String>) {
        let holds = problem.is_none();
        let mut state = self.health.lock();
        if let Some(check) = state.checks.get_mut(self.name) {
            if check.problem.is_none() != holds {
                match &problem {
                    None => tracing::info!(check = self.name, "ready"),
                    Some(reason) => tracing::warn!(check = self.name, reason, "not ready"),
                }
            }
            if holds {
                check.required = self.required;
            }
            check.problem = problem;
        }
        metrics::gauge!("health_check", "check" => self.name).set(if holds { 1.0 } else { 0.0 });
    }
}

/// `/healthz`, `/readyz` and `/metrics`; [`crate::serve`] gives them what they show.
pub fn routes(cfg: &mut ServiceConfig) {
    liveness_route(cfg);
    cfg.route("/readyz", web::get().to(readyz)).route("/metrics", web::get().to(metrics));
    #[cfg(feature = "failpoints")]
    crate::failpoint::routes(cfg);
}

/// `/healthz` alone, for a port that strangers reach.
pub fn liveness_route(cfg: &mut ServiceConfig) {
    cfg.route("/healthz", web::get().to(healthz));
}

async fn healthz() -> impl Responder {
    HttpResponse::Ok().json(serde_json::json!({ "status": "ok" }))
}

async fn readyz(health: web::Data<Health>) -> impl Responder {
    let readiness = health.readiness();
    if readiness.ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() }.json(readiness)
}

async fn metrics(health: web::Data<Health>) -> impl Responder {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(health.metrics.render())
}
