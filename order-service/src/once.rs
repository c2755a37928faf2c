//! What the binary does once and ends: migrating before a release; comparing the books and archiving on a schedule.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::Instant;

use crate::db::{self, Db};
use crate::http::audit;
use crate::sales::listing;
use crate::settings::Settings;
use crate::{app, archive};

/// The commands, as arguments of the binary.
pub const COMMANDS: [&str; 3] = [MIGRATE, RECONCILE, ARCHIVE];
/// Brings the database to the schema of this version.
const MIGRATE: &str = "migrate";
/// Compares both stores' books of every published sale, and fails if they differ.
const RECONCILE: &str = "reconcile";
/// Writes the orders of sales that have been over for long into files.
const ARCHIVE: &str = "archive";

/// Most time for the books of one sale.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(60);
/// While orders come in the two stores differ by what is under way: so often a sale is looked at again.
const LOOKS_MAX: u32 = 5;
/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_secs(2);

/// Does one of [`COMMANDS`].
///
/// # Errors
/// It could not be done, or, for `reconcile`, some sale's books differ.
pub async fn run(command: &str, settings: &Settings) -> anyhow::Result<()> {
    match command {
        MIGRATE => db::migrate(&settings.database).await,
        RECONCILE => reconcile(settings).await,
        ARCHIVE => {
            let db = Db::connect(&settings.database)?.background;
            let written = archive::run(&db, &settings.archive).await?;
            tracing::info!(sales = written, "archived what is due");
            Ok(())
        }
        other => bail!("no such command: {other}"),
    }
}

async fn reconcile(settings: &Settings) -> anyhow::Result<()> {
    let db = Db::connect(&settings.database)?.background;
    let inventory = app::books(settings)?;
    let sales = listing::published(&mut *db.get().await?).await?;
    let mut differing = Vec::new();
    for sale in &sales {
        let id = sale.id();
        let mut looks = 1;
        loop {
            let audit = audit::of_sale(&db, &inventory, sale, Instant::now() + AUDIT_TIMEOUT).await;
            let audit = audit.with_context(|| format!("sale {id}"))?;
            if audit.consistent {
                tracing::info!(sale = %id, items = audit.items.len(), looks, "consistent");
                break;
            }
            if looks == LOOKS_MAX {
                tracing::error!(sale = %id, items = ?audit.items, "the stores' books differ");
                differing.push(id);
                break;
            }
            looks += 1;
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
    if !differing.is_empty() {
        bail!("the books of {} of {} sales differ: {differing:?}", differing.len(), sales.len());
    }
    tracing::info!(sales = sales.len(), "the books of every sale are consistent");
    Ok(())
}
