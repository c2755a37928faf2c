//! What admins did, written by the transaction that did it. Append-only.

use chrono::{DateTime, Utc};
use common::api::admin::AuditLogEntry;
use common::ids::UserId;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::db::DbError;
use crate::db::schema::audit_log;

/// One admin's deed.
#[derive(Debug)]
pub struct Deed<'a> {
    /// Which admin.
    pub actor: &'a UserId,
    /// What was done, such as `sale.publish`.
    pub action: &'static str,
    /// What it was done to.
    pub subject: Uuid,
}

impl Deed<'_> {
    /// Writes down that the subject is gone, with what it was.
    ///
    /// # Errors
    /// The database.
    pub async fn record_end<T: Serialize + Sync>(
        &self,
        conn: &mut AsyncPgConnection,
        before: &T,
    ) -> Result<(), DbError> {
        diesel::insert_into(audit_log::table)
            .values((
                audit_log::actor.eq(self.actor.as_str()),
                audit_log::action.eq(self.action),
                audit_log::subject.eq(self.subject),
                audit_log::before.eq(to_json(before)?),
            ))
            .execute(conn)
            .await?;
        Ok(())
    }

    /// Writes the deed down, with what the subject was before (`None`: it is new) and is now.
    ///
    /// # Errors
    /// The database.
    pub async fn record<T: Serialize + Sync>(
        &self,
        conn: &mut AsyncPgConnection,
        before: Option<&T>,
        after: &T,
    ) -> Result<(), DbError> {
        diesel::insert_into(audit_log::table)
            .values((
                audit_log::actor.eq(self.actor.as_str()),
                audit_log::action.eq(self.action),
                audit_log::subject.eq(self.subject),
                audit_log::before.eq(before.map(to_json).transpose()?),
                audit_log::after.eq(to_json(after)?),
            ))
            .execute(conn)
            .await?;
        Ok(())
    }
}

/// Up to `limit` entries, the newest first, those numbered below `before`.
///
/// # Errors
/// The database, or an entry that this service did not write.
pub async fn page(
    conn: &mut AsyncPgConnection,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<AuditLogEntry>, DbError> {
    type Row = (i64, DateTime<Utc>, String, String, Uuid, Option<Value>, Option<Value>);
    let rows: Vec<Row> = audit_log::table
        .filter(audit_log::id.lt(before.unwrap_or(i64::MAX)))
        .order(audit_log::id.desc())
        .limit(limit)
        .load(conn)
        .await?;
    let entry = |(id, at, actor, action, subject, before, after): Row| {
        let broken = |error| DbError::Broken(format!("actor of audit log entry {id}: {error}"));
        let actor = UserId::try_from(actor).map_err(broken)?;
        Ok(AuditLogEntry { id, at, actor, action, subject, before, after })
    };
    rows.into_iter().map(entry).collect()
}

fn to_json(value: &impl Serialize) -> Result<Value, DbError> {
    serde_json::to_value(value).map_err(|error| DbError::Broken(format!("audit log: {error}")))
}
