//! Entry point of the job that scales before a sale. Wiring only.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use common::http_client;
use prescale::calendar::{self, Window};
use prescale::cluster::{Cluster, Objects};
use url::Url;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const SECONDS_PER_MINUTE: u64 = 60;

/// Raises the least number of replicas before a sale of the calendar opens, and lowers it afterwards.
#[derive(Parser)]
struct Arguments {
    /// Where the gateway is: the calendar is public.
    #[arg(long, env = "PRESCALE_GATEWAY_URL")]
    gateway_url: Url,
    /// Minutes before an opening from which the replicas are wanted.
    #[arg(long, env = "PRESCALE_LEAD_MINUTES", default_value_t = 10)]
    lead_minutes: u64,
    /// Minutes after it for which they are kept.
    #[arg(long, env = "PRESCALE_HOLD_MINUTES", default_value_t = 10)]
    hold_minutes: u64,
    /// What holds the least number.
    #[arg(long, env = "PRESCALE_OBJECTS", value_enum, default_value = "horizontal-pod-autoscalers")]
    objects: Objects,
    /// Names of the objects, with commas between.
    #[arg(long, env = "PRESCALE_NAMES", value_delimiter = ',', required = true)]
    names: Vec<String>,
    /// The Kubernetes API.
    #[arg(long, env = "PRESCALE_API_URL", default_value = "https://kubernetes.default.svc")]
    api_url: Url,
    /// The folder of the mounted service account.
    #[arg(
        long,
        env = "PRESCALE_SERVICE_ACCOUNT",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount"
    )]
    service_account: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let client = http_client::build(CONNECT_TIMEOUT, ANSWER_TIMEOUT)?;
    let cluster = Cluster::new(arguments.api_url, &arguments.service_account)?;
    let sales = calendar::read(&client, &arguments.gateway_url).await.context("reading the calendar")?;
    let minutes = |count: u64| Duration::from_secs(count * SECONDS_PER_MINUTE);
    let window = Window { lead: minutes(arguments.lead_minutes), hold: minutes(arguments.hold_minutes) };
    let on_sale = calendar::opening(&sales, window);
    say(&format!(
        "{} sales, an opening is near: {on_sale}, next: {:?}",
        sales.len(),
        calendar::next(&sales)
    ))?;
    let mut status = ExitCode::SUCCESS;
    for name in &arguments.names {
        match cluster.set_least(arguments.objects, name, on_sale).await {
            Ok(least) => say(&format!("{name}: at least {least} replicas"))?,
            Err(error) => {
                // The others can be scaled none the less.
                say(&format!("{name}: {error:#}"))?;
                status = ExitCode::FAILURE;
            }
        }
    }
    Ok(status)
}

fn say(line: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{line}")
}
