//! Drives a running Stampede: what `./dev demo`, `./dev line` and `./dev audit` run.

mod audit;
mod collect;
mod demo;
mod line;
mod open_sale;
mod rush;
mod storm;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use e2e::client::Client;
use e2e::environment::Environment;

/// Drives a running Stampede through its public API.
#[derive(Parser)]
struct Arguments {
    /// The env file of the running instance.
    #[arg(long, global = true, default_value = ".dev/env")]
    env_file: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Opens the demo sale and prints its id.
    OpenSale,
    /// Plays a flash sale: buyers rush, winners pay or lapse, the books are checked.
    Demo(demo::Arguments),
    /// Plays a sale with a waiting room with people and bots, and checks that it was fair.
    Line(line::Arguments),
    /// Receives traces and logs of the services, and keeps the last of them.
    Collect(collect::Arguments),
    /// Orders for a while and prints how many were accepted.
    Rush(rush::Arguments),
    /// Places one order and shows its trace.
    Trace(trace::Arguments),
    /// Plays the storm: everybody a final and true answer, exactly the stock.
    Storm(storm::Arguments),
    /// Checks the books of every sale, or of one.
    Audit(audit::Arguments),
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let client = || Client::new(Environment::read(&arguments.env_file)?.gateways()?);
    match arguments.command {
        Command::OpenSale => open_sale::run(&client()?).await,
        Command::Demo(arguments) => demo::run(&client()?, arguments).await,
        Command::Line(arguments) => line::run(&client()?, arguments).await,
        Command::Storm(arguments) => storm::run(&client()?, arguments).await,
        Command::Rush(arguments) => rush::run(&client()?, arguments).await,
        Command::Trace(arguments) => trace::run(&client()?, arguments).await,
        Command::Collect(arguments) => collect::run(arguments).await,
        Command::Audit(arguments) => audit::run(&client()?, arguments).await,
    }
}
