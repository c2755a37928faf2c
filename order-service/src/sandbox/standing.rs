//! How a payment stands at the sandbox provider, for a merchant who asks, and who closes what nobody paid.

use diesel::dsl::now;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::FutureExt as _;
use uuid::Uuid;

use super::ledger::Bill;
use crate::db::schema::sandbox_payments as ledger;
use crate::db::{Db, DbError};
use crate::payments::notice::Notice;

/// How a payment stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// The buyer may still decide.
    Open,
    /// The buyer has decided; this is what the notice says.
    Decided(Notice),
    /// Closed: nothing will be captured any more.
    Closed,
    /// The provider has never heard of it.
    Unknown,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = ledger)]
struct Entry {
    notice: Option<String>,
    closed_at: Option<chrono::DateTime<chrono::Utc>>,
}

impl Entry {
    fn standing(self) -> Result<Standing, DbError> {
        let Some(notice) = self.notice else {
            return Ok(if self.closed_at.is_some() { Standing::Closed } else { Standing::Open });
        };
        let notice = serde_json::from_str(&notice);
        notice
            .map(Standing::Decided)
            .map_err(|error| DbError::Broken(format!("sandbox_payments.notice: {error}")))
    }
}

/// Says how a payment stands.
///
/// # Errors
/// The database.
pub async fn query(db: &Db, payment: Uuid) -> Result<Standing, DbError> {
    let mut conn = db.get().await?;
    let entry: Option<Entry> =
        ledger::table.find(payment).select(Entry::as_select()).first(&mut conn).await.optional()?;
    entry.map_or(Ok(Standing::Unknown), Entry::standing)
}

/// Closes a payment, unless the buyer has decided. One that is not known is closed too: a bill that comes later is of
/// no use.
///
/// # Errors
/// The database.
pub async fn close(db: &Db, bill: Bill) -> Result<Standing, DbError> {
    db.quiet_transaction(move |conn| async move { close_in(conn, bill).await }.boxed()).await
}

async fn close_in(conn: &mut AsyncPgConnection, bill: Bill) -> Result<Standing, DbError> {
    let payment = bill.payment;
    bill.insert(conn).await?;
    let entry: Entry =
        ledger::table.find(payment).select(Entry::as_select()).for_update().first(conn).await?;
    let standing = entry.standing()?;
    if standing != Standing::Open {
        return Ok(standing);
    }
    diesel::update(ledger::table.find(payment)).set(ledger::closed_at.eq(now)).execute(conn).await?;
    Ok(Standing::Closed)
}
