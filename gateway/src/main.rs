//! Entry point of the gateway. Wiring only: every decision lives in the library.

use std::io::Write as _;

use anyhow::Context as _;
use common::command::{self, Command};
use gateway::http::Served;
use gateway::{App, Settings, openapi};

/// See docs/PERFORMANCE.md: less work than the C library's for what is freed by another thread than made it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Prints the document of the whole API, and needs no settings.
const OPENAPI: &str = "openapi";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let command = Command::from_arguments(&[OPENAPI])?;
    if command == Command::Once(OPENAPI) {
        let document = openapi::document(Served { dev: true, wechat: true }, "").to_pretty_json()?;
        return writeln!(std::io::stdout(), "{document}").context("writing the document");
    }
    let settings = Settings::load().context("invalid settings")?;
    if command == Command::Health {
        return command::health(&settings.http.ops_listener(&settings.ops)).await;
    }
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
