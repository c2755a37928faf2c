//! Entry point of the gateway. Wiring only: every decision lives in the library.

use anyhow::Context as _;
use gateway::{App, Settings};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::load().context("invalid settings")?;
    let telemetry = common::telemetry::init("gateway", &settings.telemetry, gateway::METRICS)?;
    common::failpoint::arm_from_environment()?;
    let stop = common::shutdown::on_signal();

    let result = match App::build(settings, telemetry.metrics(), stop) {
        Ok(app) => app.run().await,
        Err(error) => Err(error),
    };

    telemetry.flush().await; // Also after a failure: the last spans are the interesting ones.
    result
}
