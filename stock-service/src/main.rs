//! Entry point of stock-service. Wiring only: every decision lives in the library.

use anyhow::Context as _;
use common::command::{self, Command};
use common::telemetry::Metrics;
use stock_service::{App, Settings};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let command = Command::from_arguments(&[])?;
    let settings = Settings::load().context("invalid configuration")?;
    if command == Command::Health {
        return command::health(&settings.http).await;
    }
    let telemetry = common::telemetry::init("stock-service", &settings.telemetry, stock_service::METRICS)?;
    common::failpoint::arm_from_environment()?;
    let stop = common::shutdown::on_signal();

    let result = run(settings, telemetry.metrics(), stop).await;
    if let Err(error) = &result {
        tracing::error!(error = format!("{error:#}"), "stopped by a failure");
    }

    telemetry.flush().await; // Also after a failure: the last spans are the interesting ones.
    result
}

async fn run(settings: Settings, metrics: Metrics, stop: CancellationToken) -> anyhow::Result<()> {
    let app = App::build(settings, metrics, stop).await?;
    app.run().await
}
