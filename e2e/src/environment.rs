//! Where the running system is: the `KEY=value` lines of `.dev/env`.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context as _;

/// Addresses and secrets of a running instance.
#[derive(Debug, Clone)]
pub struct Environment {
    values: HashMap<String, String>,
}

impl Environment {
    /// Reads an env file.
    ///
    /// # Errors
    /// When it cannot be read; the message says how to get one.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!("cannot read {}: is Stampede running? Start it with ./dev up", path.display())
        })?;
        let values = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()))
            .collect();
        Ok(Self { values })
    }

    /// One value.
    ///
    /// # Errors
    /// When the file does not have it.
    pub fn value(&self, key: &str) -> anyhow::Result<&str> {
        self.values.get(key).map(String::as_str).with_context(|| format!("the env file has no {key}"))
    }

    /// The base addresses of all gateways, without a trailing slash.
    ///
    /// # Errors
    /// When the file names none.
    pub fn gateways(&self) -> anyhow::Result<Vec<String>> {
        let urls = self.values.get("GATEWAY_URLS").or_else(|| self.values.get("GATEWAY_URL"));
        let urls = urls.context("the env file has neither GATEWAY_URLS nor GATEWAY_URL")?;
        Ok(urls.split(',').map(|url| url.trim().trim_end_matches('/').to_owned()).collect())
    }
}
