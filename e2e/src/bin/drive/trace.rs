//! One order, traced from the click to the notification.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use common::api::Accepted;
use e2e::client::Client;
use e2e::collector::Span;
use e2e::tree;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// How long the trace may take to be whole.
const WHOLE_WITHIN: Duration = Duration::from_secs(15);
/// How often to look.
const POLL: Duration = Duration::from_millis(300);
/// The span that comes last: the buyer's stream has the news.
const LAST: &str = "notify streams";

#[derive(clap::Args)]
pub struct Arguments {
    /// Where the collector is that the services export to.
    #[arg(long)]
    collector: String,
}

/// Places an order whose trace is kept, with a stream open, and prints the trace.
pub async fn run(client: &Client, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let user = format!("trace-{}", Uuid::new_v4().simple());
    let token = client.token(&user, "customer").await?;
    let sale = client.first_sale().await?;
    let item = sale.items.iter().find(|item| item.available > 0).context("nothing is left to be ordered")?.id;
    let stream =
        client.request(reqwest::Method::GET, "/api/v1/events").bearer_auth(&token).timeout(WHOLE_WITHIN * 2);
    let _stream = stream.send().await?.error_for_status()?;

    let trace_id = Uuid::new_v4().simple().to_string();
    let span_id = trace_id.get(..16).context("a trace id")?;
    let request = client.request(reqwest::Method::POST, &format!("/api/v1/items/{item}/orders"));
    let request = request.bearer_auth(&token).header("traceparent", format!("00-{trace_id}-{span_id}-01"));
    let answer = client.send(request.json(&serde_json::json!({ "quantity": 1 }))).await?;
    let order = answer.json::<Accepted>().context("the order was not accepted")?.order_id;

    let url = format!("{}/traces/{trace_id}", arguments.collector);
    let spans = whole(client, &url).await?;
    let mut out = std::io::stdout();
    writeln!(out, "order {order}, trace {trace_id}\n")?;
    write!(out, "{}", tree::text(&spans, &trace_id))?;
    Ok(ExitCode::SUCCESS)
}

async fn whole(client: &Client, url: &str) -> anyhow::Result<Vec<Span>> {
    let deadline = Instant::now() + WHOLE_WITHIN;
    loop {
        let spans: Vec<Span> = client.fetch(url).await.context("the collector gives no answer")?;
        let told = spans.iter().any(|span| span.name == LAST);
        let ended = spans.iter().any(|span| span.kind == "server" && span.service == "gateway");
        if told && ended {
            // What ended last may still be on its way.
            sleep(POLL * 4).await;
            return client.fetch(url).await;
        }
        ensure!(Instant::now() < deadline, "the trace is not whole: {} spans", spans.len());
        sleep(POLL).await;
    }
}
