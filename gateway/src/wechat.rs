//! Logging in with WeChat: the code of a mini-program is exchanged for the user's openid, on this side only.
//!
//! The `session_key` is never read, and neither the secret nor an openid is logged.

use std::time::Duration;

use common::ids::UserId;
use common::problem::{Code, Problem};
use reqwest::{Client, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use crate::error::ApiError;
use crate::settings::WechatSettings;

/// Longest answer that is read, in bytes; a true one has some hundred.
const ANSWER_MAX_BYTES: usize = 16 * 1024;
/// Longest code that is sent on, in bytes; a true one has 32.
const CODE_LENGTH_MAX: usize = 128;

/// The code2session endpoint of one mini-program.
pub struct Wechat {
    client: Client,
    url: Url,
    app_id: String,
    app_secret: SecretString,
    timeout: Duration,
}

/// An answer of code2session: HTTP 200 always, `errcode` says how it went.
#[derive(Deserialize)]
struct Session {
    #[serde(default)]
    errcode: i64,
    openid: Option<String>,
}

impl Wechat {
    /// `None` where no mini-program is set up.
    ///
    /// # Errors
    /// The base URL cannot have a path.
    pub fn new(settings: &WechatSettings, client: Client) -> anyhow::Result<Option<Self>> {
        if settings.app_id.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            client,
            url: settings.base_url.join("/sns/jscode2session")?,
            app_id: settings.app_id.clone(),
            app_secret: settings.app_secret.clone(),
            timeout: Duration::from_millis(settings.timeout_ms),
        }))
    }

    /// The user whose code this is.
    ///
    /// # Errors
    /// `invalid_request` for a code that does not count, `forbidden` for a user that WeChat has blocked,
    /// `rate_limited`, and `unavailable` when WeChat gives no answer that makes sense.
    pub async fn user(&self, code: &str) -> Result<UserId, ApiError> {
        let plain = |byte: u8| byte.is_ascii_graphic();
        if code.is_empty() || code.len() > CODE_LENGTH_MAX || !code.bytes().all(plain) {
            return Err(Problem::invalid("code", "must be 1 to 128 visible ASCII characters").into());
        }
        let session = match tokio::time::timeout(self.timeout, self.exchange(code)).await {
            Ok(session) => session?,
            Err(_) => return Err(unavailable("no answer in time")),
        };
        match session.errcode {
            0 => {
                let openid = session.openid.ok_or_else(|| unavailable("neither an openid nor an errcode"))?;
                UserId::try_from(openid).map_err(|_| unavailable("an openid that is none"))
            }
            40029 | 40163 => Err(Problem::invalid("code", "is not valid, or was used before").into()),
            40226 => Err(Code::Forbidden.into()),
            45011 => Err(Code::RateLimited.into()),
            other => Err(unavailable(&format!("errcode {other}"))),
        }
    }

    async fn exchange(&self, code: &str) -> Result<Session, ApiError> {
        let query = [
            ("appid", self.app_id.as_str()),
            ("secret", self.app_secret.expose_secret()),
            ("js_code", code),
            ("grant_type", "authorization_code"),
        ];
        // The URL holds the secret: it must not be in the error.
        let failed = |error: reqwest::Error| unavailable(&error.without_url().to_string());
        let mut response = self.client.get(self.url.clone()).query(&query).send().await.map_err(failed)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(unavailable(&format!("status {}", response.status())));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > ANSWER_MAX_BYTES {
                return Err(unavailable("an answer that is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|_| unavailable("an answer that is not what it should be"))
    }
}

fn unavailable(reason: &str) -> ApiError {
    ApiError::BadAnswer { service: "WeChat", reason: reason.to_owned() }
}
