//! One attempt: sign, send, judge the answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use common::failpoint;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Response};
use uuid::Uuid;

use super::message_id;
use super::resolver::{Resolver, refusal};
use super::signature::Key;
use super::target::Rules;
use crate::db::queue::{Attempted, Taken};
use crate::db::webhooks::Endpoint;
use crate::settings::WebhookSettings;
use crate::{crash_points, planted};

/// Most bytes of an answer that are read; more is a failure.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Idle connections kept to one receiver.
const IDLE_CONNECTIONS_MAX: usize = 4;
/// How long they are kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends deliveries. Cheap to clone.
#[derive(Clone)]
pub struct Sender {
    client: Client,
    rules: Rules,
    retry_ms: Arc<[u64]>,
}

/// What the receiver made of an attempt.
struct Judgement {
    status: Option<u16>,
    error: Option<String>,
}

impl Sender {
    /// A sender by these settings.
    ///
    /// # Errors
    /// TLS cannot be set up, such as in an image without root certificates.
    pub fn new(settings: &WebhookSettings) -> anyhow::Result<Self> {
        common::http_client::install_crypto();
        let rules = Rules::new(settings.allow_private, settings.ports.0.clone());
        let client = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(Arc::new(Resolver(rules.clone())))
            .timeout(settings.timeout())
            .user_agent(concat!("stampede-webhooks/", env!("CARGO_PKG_VERSION")))
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .referer(false)
            .build()
            .context("webhook client")?;
        Ok(Self { client, rules, retry_ms: settings.retry_ms.0.clone().into() })
    }

    /// Makes one attempt. It always ends within the time-out, and has no other result than what it returns.
    pub async fn attempt(&self, endpoint: &Endpoint, taken: &Taken) -> Attempted {
        let began = Instant::now();
        let judgement = self.send_unless_injected(endpoint, taken).await;
        let took = began.elapsed();
        metrics::histogram!("webhook_attempt_seconds").record(took);
        let retry_after_s = judgement.error.as_ref().and_then(|_| pause_s(&self.retry_ms, taken.step));
        Attempted {
            id: taken.id,
            claims: taken.claims,
            status: judgement.status.map(i32::from),
            error: judgement.error,
            duration_ms: i32::try_from(took.as_millis()).unwrap_or(i32::MAX),
            at: taken.taken_at,
            retry_after_s,
        }
    }

    async fn send_unless_injected(&self, endpoint: &Endpoint, taken: &Taken) -> Judgement {
        if failpoint::planted(planted::DELIVERED_BEFORE_SENT) {
            return Judgement { status: None, error: None };
        }
        let injected =
            |injected: failpoint::Injected| Judgement { status: None, error: Some(injected.to_string()) };
        if let Err(error) = failpoint::reach(crash_points::SEND_BEFORE).await {
            return injected(error);
        }
        let judgement = self.send(endpoint, taken).await;
        failpoint::reach(crash_points::SEND_AFTER).await.map_or_else(injected, |()| judgement)
    }

    async fn send(&self, endpoint: &Endpoint, taken: &Taken) -> Judgement {
        let failed = |error: String| Judgement { status: None, error: Some(error) };
        // Again: rules change, and a number in the URL never meets the resolver.
        let url = match self.rules.check(&endpoint.url) {
            Ok(url) => url,
            Err(refused) => return failed(format!("url {refused}")),
        };
        let Ok(key) = Key::parse(&endpoint.secret) else {
            return failed("the secret is not valid".to_owned());
        };
        let per_attempt = failpoint::planted(planted::ID_PER_ATTEMPT);
        let id = message_id(if per_attempt { Uuid::new_v4() } else { taken.event_id });
        let timestamp_s = taken.taken_at.timestamp();
        let sent = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", &id)
            .header("webhook-timestamp", timestamp_s)
            .header("webhook-signature", key.sign(&id, timestamp_s, &taken.body))
            .body(taken.body.clone())
            .send()
            .await;
        match sent {
            Ok(response) => judge(response).await,
            Err(error) => failed(reason(&error)),
        }
    }
}

/// Seconds until the next attempt: half of the step of the ladder at least, so that chance cannot use up the ladder
/// at once, and the whole of it at most. `None`: that was the last one.
fn pause_s(retry_ms: &[u64], step: i32) -> Option<f64> {
    let step_ms = *retry_ms.get(usize::try_from(step).ok()?)?;
    Some(Duration::from_millis(step_ms).as_secs_f64() * (0.5 + rand::random::<f64>() / 2.0))
}

/// An answer counts when it is 2xx, whole, and not too long.
async fn judge(mut response: Response) -> Judgement {
    let status = response.status();
    let judged = |error: Option<String>| Judgement { status: Some(status.as_u16()), error };
    if !status.is_success() {
        return judged(Some(format!("answered {}", status.as_u16())));
    }
    let mut bytes = 0;
    loop {
        match response.chunk().await {
            Ok(None) => return judged(None),
            Ok(Some(chunk)) => bytes += chunk.len(),
            Err(error) => return judged(Some(reason(&error))),
        }
        if bytes > ANSWER_BYTES_MAX {
            return judged(Some(format!("answered more than {ANSWER_BYTES_MAX} bytes")));
        }
    }
}

/// What went wrong, for admins: no address and no part of an answer is in it.
fn reason(error: &reqwest::Error) -> String {
    if let Some(refused) = refusal(error) {
        return format!("url {refused}");
    }
    if error.is_timeout() {
        "timed out".to_owned()
    } else if error.is_connect() {
        "cannot connect".to_owned()
    } else {
        "the connection failed before the whole answer was there".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_between_half_of_its_step_and_all_of_it() {
        let ladder = [5_000, 30_000];
        for (step, step_s) in [(0, 5.0), (1, 30.0)] {
            let pauses: Vec<f64> =
                (0..1_000).map(|_| pause_s(&ladder, step).expect("on the ladder")).collect();
            assert!(pauses.iter().all(|pause| (step_s / 2.0..=step_s).contains(pause)));
            let shorter = pauses.iter().filter(|pause| **pause < step_s * 0.75).count();
            assert!((1..1_000).contains(&shorter), "replicas would try in step");
        }
        assert_eq!(pause_s(&ladder, 2), None);
        assert_eq!(pause_s(&ladder, -1), None);
    }
}
