//! Where the keys of the identity provider come from: a URL or a file, read again and again.
//!
//! What was read last stays in use when reading fails. A token with an unknown key makes it read at once, because the
//! provider may just have changed its keys; but not more often than every `jwks_retry_ms`, so that invented names of
//! keys cost the provider nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use arc_swap::ArcSwapOption;
use common::health::HealthCheck;
use reqwest::{Client, StatusCode, Url};
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::keys::{DOCUMENT_MAX_BYTES, KeySet};
use crate::settings::AuthSettings;

/// Most time for reading the keys.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

enum Source {
    Url(Url),
    File(PathBuf),
}

/// The keys of the identity provider, as they were read last.
pub struct Jwks {
    source: Source,
    client: Client,
    refresh: Duration,
    retry: Duration,
    keys: ArcSwapOption<KeySet>,
    /// When it was last tried; locked while it is being read.
    tried: tokio::sync::Mutex<Option<Instant>>,
}

impl Jwks {
    /// `None` where no provider is set up.
    pub fn new(settings: &AuthSettings, client: Client) -> Option<Arc<Self>> {
        let text = settings.jwks.as_str();
        if text.is_empty() {
            return None;
        }
        let source = match Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => Source::Url(url),
            Ok(_) | Err(_) => Source::File(PathBuf::from(text)),
        };
        Some(Arc::new(Self {
            source,
            client,
            refresh: Duration::from_millis(settings.jwks_refresh_ms),
            retry: Duration::from_millis(settings.jwks_retry_ms),
            keys: ArcSwapOption::empty(),
            tried: tokio::sync::Mutex::new(None),
        }))
    }

    /// The keys; `None` before they were first read.
    pub fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// Reads the keys again for a token whose key is not among `known`, unless that has just been tried.
    /// Whether there are other keys now.
    pub async fn look_again(&self, known: Option<&Arc<KeySet>>) -> bool {
        let mut tried = self.tried.lock().await;
        // Whoever waited here finds what the first one has read.
        if !self.is(known) {
            return true;
        }
        if tried.is_some_and(|tried| tried.elapsed() < self.retry) {
            return false;
        }
        *tried = Some(Instant::now());
        if let Err(error) = self.read().await {
            tracing::warn!(error = &*error, "the keys of the identity provider cannot be read");
        }
        !self.is(known)
    }

    fn is(&self, known: Option<&Arc<KeySet>>) -> bool {
        match (self.keys.load().as_ref(), known) {
            (Some(now), Some(known)) => Arc::ptr_eq(now, known),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// Keeps the keys fresh until `stop`; `health` is ready with the first ones.
    ///
    /// # Errors
    /// Never: failures are shown and tried again.
    pub async fn run(self: Arc<Self>, health: HealthCheck, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            let result = {
                let mut tried = self.tried.lock().await;
                *tried = Some(Instant::now());
                self.read().await
            };
            let pause = match result {
                Ok(()) => {
                    health.ready();
                    self.refresh
                }
                Err(error) => {
                    tracing::warn!(error = &*error, "the keys of the identity provider cannot be read");
                    health.not_ready("the keys of the identity provider cannot be read");
                    self.retry
                }
            };
            if timeout(pause, stop.cancelled()).await.is_ok() {
                return Ok(());
            }
        }
    }

    async fn read(&self) -> anyhow::Result<()> {
        let document = match timeout(READ_TIMEOUT, self.document()).await {
            Ok(document) => document?,
            Err(_) => anyhow::bail!("no answer in time"),
        };
        let keys = KeySet::parse(&document)?;
        metrics::gauge!("auth_jwks_keys").set(u32::try_from(keys.count()).unwrap_or(u32::MAX));
        self.keys.store(Some(Arc::new(keys)));
        Ok(())
    }

    async fn document(&self) -> anyhow::Result<Vec<u8>> {
        let mut document = Vec::new();
        match &self.source {
            Source::File(path) => {
                let file = tokio::fs::File::open(path).await.context("the file of keys")?;
                let longest = u64::try_from(DOCUMENT_MAX_BYTES)?.saturating_add(1);
                file.take(longest).read_to_end(&mut document).await.context("the file of keys")?;
            }
            Source::Url(url) => {
                let response = self.client.get(url.clone()).header("accept", "application/json").send().await;
                let mut response = response.map_err(reqwest::Error::without_url)?;
                ensure!(response.status() == StatusCode::OK, "status {}", response.status());
                while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
                    document.extend_from_slice(&chunk);
                    ensure!(document.len() <= DOCUMENT_MAX_BYTES, "the document is too long");
                }
            }
        }
        Ok(document)
    }
}
