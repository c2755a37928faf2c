//! Old orders as files: one for each sale that has been over for long, with everything that became of its orders.
//!
//! A copy for whoever keeps records. Nothing is deleted: the orders stay where their buyers and the audit look for them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};
use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Integer, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl as _;
use tokio::fs::{self, File};
use tokio::io::{AsyncWriteExt as _, BufWriter};
use uuid::Uuid;

use crate::db::Db;
use crate::settings::ArchiveSettings;

/// Orders read by one query.
const PAGE: i64 = 1_000;

/// Over for so many days, and none of its orders may still change.
const DUE: &str = "
SELECT s.id FROM sales s
 WHERE s.published_at IS NOT NULL AND least(s.ended_at, s.ends_at) < now() - make_interval(days => $1)
   AND NOT EXISTS (SELECT FROM orders o WHERE o.sale_id = s.id AND o.status IN ('pending_payment', 'refund_pending'))
   AND NOT EXISTS (SELECT FROM orders o JOIN payments p ON p.order_id = o.id
                    WHERE o.sale_id = s.id AND p.status IN ('started', 'refund_pending'))
 ORDER BY s.ends_at, s.id";

/// One line of JSON for each order, the newest first, from the one after a place in that order on.
const LINES: &str = "
SELECT o.created_at, o.id, jsonb_build_object(
           'order', to_jsonb(o),
           'transitions', (SELECT coalesce(jsonb_agg(to_jsonb(t) ORDER BY t.version), '[]')
                             FROM order_transitions t WHERE t.order_id = o.id),
           'payments', (SELECT coalesce(jsonb_agg(to_jsonb(p) ORDER BY p.created_at, p.id), '[]')
                          FROM payments p WHERE p.order_id = o.id))::text AS line
  FROM orders o
 WHERE o.sale_id = $1 AND ($2 IS NULL OR (o.created_at, o.id) < ($2, $3))
 ORDER BY o.created_at DESC, o.id DESC LIMIT $4";

#[derive(QueryableByName)]
struct Due {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Timestamptz)]
    created_at: DateTime<Utc>,
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Text)]
    line: String,
}

/// Writes `<folder>/<sale>.ndjson` for each sale that is due and has no such file. Returns how many were written.
///
/// # Errors
/// The database, or a file cannot be written; what was written whole stays, and the next run goes on.
pub async fn run(db: &Db, settings: &ArchiveSettings) -> anyhow::Result<usize> {
    ensure!(!settings.folder.is_empty(), "archive.folder is not set");
    let folder = PathBuf::from(&settings.folder);
    let due: Vec<Due> = diesel::sql_query(DUE)
        .bind::<Integer, _>(i32::from(settings.after_days))
        .load(&mut *db.get().await?)
        .await
        .context("looking for old sales")?;
    let mut written = 0;
    for Due { id } in due {
        let file = folder.join(format!("{id}.ndjson"));
        if fs::try_exists(&file).await.with_context(|| format!("{}", file.display()))? {
            continue;
        }
        let orders = write(db, id, &file).await.with_context(|| format!("archiving sale {id}"))?;
        tracing::info!(sale = %id, orders, "archived");
        written += 1;
    }
    Ok(written)
}

/// Writes one sale beside its place, and moves it there when it is whole and on disk.
async fn write(db: &Db, sale: Uuid, file: &Path) -> anyhow::Result<usize> {
    let part = file.with_extension("ndjson.part");
    let mut out = BufWriter::new(File::create(&part).await?);
    let (mut orders, mut after) = (0, None);
    loop {
        let (at, id) = after.unzip();
        let page: Vec<Line> = diesel::sql_query(LINES)
            .bind::<SqlUuid, _>(sale)
            .bind::<Nullable<Timestamptz>, _>(at)
            .bind::<Nullable<SqlUuid>, _>(id)
            .bind::<BigInt, _>(PAGE)
            .load(&mut *db.get().await?)
            .await?;
        let Some(last) = page.last() else { break };
        after = Some((last.created_at, last.id));
        for line in &page {
            out.write_all(line.line.as_bytes()).await?;
            out.write_all(b"\n").await?;
        }
        orders += page.len();
    }
    out.flush().await?;
    out.get_ref().sync_all().await?;
    fs::rename(&part, file).await?;
    Ok(orders)
}
