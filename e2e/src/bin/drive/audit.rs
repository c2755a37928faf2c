//! The books of every sale, or of one, as a table; the exit code is the verdict.

use std::io::Write as _;
use std::process::ExitCode;

use common::api::admin::Audit;
use common::api::{Page, Sale};
use common::ids::SaleId;
use e2e::client::Client;
use uuid::Uuid;

/// What to check.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only this sale.
    #[arg(long)]
    sale: Option<Uuid>,
}

/// Prints the books; fails when any of them is inconsistent.
pub async fn run(client: &Client, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let admin = client.token("admin", "admin").await?;
    let sales = match arguments.sale {
        Some(id) => vec![SaleId(id)],
        None => {
            let listed: Page<Sale> = client.get("/api/v1/admin/sales?limit=100", &admin).await?.json()?;
            listed
                .items
                .iter()
                .filter(|sale| sale.state != common::api::SaleState::Draft)
                .map(|sale| sale.id)
                .collect()
        }
    };
    let mut consistent = true;
    for sale in sales {
        let audit = client.audit(&admin, sale).await?;
        consistent &= audit.consistent;
        print(sale, &audit)?;
    }
    Ok(if consistent { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One sale's books as a table, with the verdict.
pub fn print(sale: SaleId, audit: &Audit) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "sale {sale}: {}", if audit.consistent { "consistent" } else { "NOT CONSISTENT" })?;
    writeln!(
        out,
        "  {:<36} {:>8} {:>9} {:>7} {:>7} {:>9} {:>7} {:>7} {:>9} {:>7} {:>8} {:>8} {:>5}",
        "item",
        "total",
        "available",
        "held",
        "sold",
        "unsettled",
        "pending",
        "paid",
        "cancelled",
        "expired",
        "rejected",
        "refunded",
        "drift"
    )?;
    for item in &audit.items {
        writeln!(
            out,
            "  {:<36} {:>8} {:>9} {:>7} {:>7} {:>9} {:>7} {:>7} {:>9} {:>7} {:>8} {:>8} {:>5}",
            item.item_id.to_string(),
            item.total,
            item.available,
            item.held,
            item.sold,
            item.unsettled,
            item.pending_payment,
            item.paid,
            item.cancelled,
            item.expired,
            item.rejected,
            item.refunded,
            item.drift
        )?;
    }
    Ok(())
}
