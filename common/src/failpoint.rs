//! Named places at which a build for fault campaigns can be made to crash, to stand still or to fail, and mistakes that
//! it can be made to make, to see whether the campaign notices. Only with the feature `failpoints`; without it all of
//! this compiles to nothing.
//!
//! A point is armed by the environment (`FAILPOINTS=stock.publish.before=1*return(abort);...`) or while the process runs
//! (`PUT /failpoints/{name}`, on the port that has `/readyz`), in the language of the crate `fail`: an optional number of
//! times or percentage, then `return(abort)`, `return(pause)`, `return(error)`, or `off`. A planted mistake is armed by
//! `return` under the name `planted.<mistake>`.

/// The fault that an armed point asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("injected at {0}")]
pub struct Injected(pub &'static str);

/// Passes the point `name`, unless it is armed: then the process aborts here, or this waits for a while, or
///
/// # Errors
/// [`Injected`], as if the step at this point had failed.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub async fn reach(_name: &'static str) -> Result<(), Injected> {
    Ok(())
}

/// Whether the mistake `name` is to be made.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn planted(_name: &str) -> bool {
    false
}

/// Arms what the environment asks for: here, nothing.
///
/// # Errors
/// None.
#[cfg(not(feature = "failpoints"))]
pub fn arm_from_environment() -> anyhow::Result<()> {
    Ok(())
}

#[cfg(feature = "failpoints")]
pub use self::armed::{PAUSE, arm_from_environment, planted, reach, routes};

#[cfg(feature = "failpoints")]
mod armed {
    use std::time::Duration;

    use actix_web::HttpResponse;
    use actix_web::web::{self, ServiceConfig};
    use fail::fail_point;

    use super::Injected;

    /// How long an armed point stands still, when it is told to.
    pub const PAUSE: Duration = Duration::from_secs(3);
    /// Where the points to arm at the start are read from.
    const VARIABLE: &str = "FAILPOINTS";

    /// Passes the point `name`, unless it is armed: then the process aborts here, or this waits for [`PAUSE`], or
    ///
    /// # Errors
    /// [`Injected`], as if the step at this point had failed.
    pub async fn reach(name: &'static str) -> Result<(), Injected> {
        let Some(action) = action(name) else { return Ok(()) };
        tracing::warn!(failpoint = name, action, "injected");
        match action.as_str() {
            "abort" => std::process::abort(),
            "pause" => tokio::time::sleep(PAUSE).await,
            _ => return Err(Injected(name)),
        }
        Ok(())
    }

    /// Whether the mistake `name` is to be made.
    pub fn planted(name: &str) -> bool {
        action(&format!("planted.{name}")).is_some()
    }

    fn action(name: &str) -> Option<String> {
        fail_point!(name, |action| Some(action.unwrap_or_default()));
        None
    }

    /// Arms what the environment asks for.
    ///
    /// # Errors
    /// What it says cannot be understood.
    pub fn arm_from_environment() -> anyhow::Result<()> {
        let Ok(wanted) = std::env::var(VARIABLE) else { return Ok(()) };
        for point in wanted.split(';').filter(|point| !point.is_empty()) {
            let Some((name, action)) = point.split_once('=') else {
                anyhow::bail!("{VARIABLE}: {point:?} is not <name>=<action>");
            };
            arm(name, action)?;
        }
        Ok(())
    }

    fn arm(name: &str, action: &str) -> anyhow::Result<()> {
        fail::cfg(name, action).map_err(|error| anyhow::anyhow!("failpoint {name}={action}: {error}"))
    }

    /// `PUT /failpoints/{name}`, the action as the body.
    pub fn routes(cfg: &mut ServiceConfig) {
        cfg.route("/failpoints/{name}", web::put().to(put));
    }

    async fn put(name: web::Path<String>, action: String) -> HttpResponse {
        match arm(&name, &action) {
            Ok(()) => HttpResponse::NoContent().finish(),
            Err(error) => HttpResponse::BadRequest().body(error.to_string()),
        }
    }
}
