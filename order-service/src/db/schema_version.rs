//! Waiting for a schema that another process migrates: a job that runs before the release, with the owner's
//! credentials, which this process then never has.

use std::collections::HashSet;
use std::time::Instant;

use anyhow::{Context as _, bail};
use diesel::QueryableByName;
use diesel::migration::MigrationSource;
use diesel::pg::Pg;
use diesel::sql_types::Text;
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};

use super::{MIGRATIONS, STARTUP_PATIENCE, STARTUP_RETRY, open_patiently};
use crate::settings::DatabaseSettings;

#[derive(QueryableByName)]
struct Applied {
    #[diesel(sql_type = Text)]
    version: String,
}

/// Waits until every migration of this version has been made. One that this version does not know is fine: migrations
/// suit the version before them.
///
/// # Errors
/// The database cannot be reached, or nobody migrated it in time; the message says what is missing.
pub async fn wait(settings: &DatabaseSettings) -> anyhow::Result<()> {
    let wanted = wanted()?;
    let mut connection = open_patiently(settings, &settings.url).await.context("connecting to Postgres")?;
    let give_up = Instant::now() + STARTUP_PATIENCE;
    loop {
        let missing = missing(&mut connection, &wanted).await;
        if missing.is_empty() {
            return Ok(());
        }
        if Instant::now() > give_up {
            bail!("nobody has migrated the database; missing: {}", missing.join(", "));
        }
        tracing::warn!(?missing, "waiting for the database to be migrated");
        tokio::time::sleep(STARTUP_RETRY).await;
    }
}

/// The migrations of this version.
fn wanted() -> anyhow::Result<Vec<String>> {
    let migrations =
        MigrationSource::<Pg>::migrations(&MIGRATIONS).map_err(|error| anyhow::anyhow!(error))?;
    Ok(migrations.iter().map(|migration| migration.name().version().to_string()).collect())
}

/// The migrations that were not made yet: all of them, where there is not even the table of what was made.
async fn missing(connection: &mut AsyncPgConnection, wanted: &[String]) -> Vec<String> {
    let query = diesel::sql_query("SELECT version FROM __diesel_schema_migrations");
    let applied: Vec<Applied> = query.load(connection).await.unwrap_or_default();
    let applied: HashSet<String> = applied.into_iter().map(|row| row.version).collect();
    wanted.iter().filter(|version| !applied.contains(*version)).cloned().collect()
}
