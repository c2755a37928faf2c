//! The collector of `./dev up --observe`.

use std::process::ExitCode;

use e2e::collector::Collector;

#[derive(clap::Args)]
pub struct Arguments {
    /// Where to listen, on loopback.
    #[arg(long)]
    port: u16,
}

/// Collects until it is told to stop.
pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (_collector, server) = Collector::listen(arguments.port)?;
    server.run(common::shutdown::on_signal()).await?;
    Ok(ExitCode::SUCCESS)
}
