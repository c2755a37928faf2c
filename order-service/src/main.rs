//! Entry point of order-service. Wiring only: every decision lives in the library.

use anyhow::Context as _;
use common::telemetry::Metrics;
use order_service::{App, Settings};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let settings = Settings::load().context("invalid configuration")?;
    let telemetry = common::telemetry::init("order-service", &settings.telemetry, order_service::METRICS)?;
    common::failpoint::arm_from_environment()?;

    let result = run(settings, telemetry.metrics()).await;

    telemetry.flush().await; // Also after a failure: the last spans are the interesting ones.
    result
}

async fn run(settings: Settings, metrics: Metrics) -> anyhow::Result<()> {
    let stop = common::shutdown::on_signal();
    let app = App::build(settings, metrics, stop).await?;
    app.run().await
}
