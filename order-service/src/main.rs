//! Entry point of order-service. Wiring only: every decision lives in the library.

use anyhow::Context as _;
use common::command::{self, Command};
use common::telemetry::Metrics;
use order_service::{App, Settings, once};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let command = Command::from_arguments(&once::COMMANDS)?;
    let settings = Settings::load().context("invalid configuration")?;
    if command == Command::Health {
        return command::health(&settings.http).await;
    }
    let telemetry = common::telemetry::init("order-service", &settings.telemetry, order_service::METRICS)?;
    common::failpoint::arm_from_environment()?;

    let result = match command {
        Command::Once(name) => once::run(name, &settings).await,
        Command::Serve | Command::Health => run(settings, telemetry.metrics()).await,
    };

    telemetry.flush().await; // Also after a failure: the last spans are the interesting ones.
    result
}

async fn run(settings: Settings, metrics: Metrics) -> anyhow::Result<()> {
    let stop = common::shutdown::on_signal();
    let app = App::build(settings, metrics, stop).await?;
    app.run().await
}
