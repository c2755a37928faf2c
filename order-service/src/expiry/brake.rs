//! The brake on a mass expiry.
//!
//! While all is well no order stays unpaid for long after its time, however many of them end together. So when many are
//! late, nobody was there to end them, or the database's clock was set; in the second case they are not late at all.
//! Then they end slowly, oldest first, and an alarm is raised: units come back late rather than wrongly.

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Bool, Integer};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};

use crate::db::statement::Kept;
use crate::db::{Db, DbError};
use crate::settings::ExpirySettings;

/// Names the advisory lock under which one instance at a time lets orders expire while the brake is on.
const BRAKED_LOCK: i64 = 0x6272_616b_6564;

/// One look into the index, at the oldest.
const OLDEST_IS_LATE: &str = "
SELECT coalesce(min(expires_at) <= now() - make_interval(secs => $1 / 1000.0), false) AS late
  FROM orders WHERE status = 'pending_payment'";

/// Reads every unpaid order.
const LATE: &str = "
SELECT count(*) AS unpaid, count(*) FILTER (WHERE late) AS late
  FROM (SELECT expires_at <= now() - make_interval(secs => $1 / 1000.0)
               AND NOT EXISTS (SELECT 1 FROM payments p WHERE p.order_id = orders.id AND p.status = 'started')
               AS late
          FROM orders WHERE status = 'pending_payment') AS o";

#[derive(QueryableByName)]
struct Oldest {
    #[diesel(sql_type = Bool)]
    late: bool,
}

#[derive(QueryableByName, Default)]
struct Late {
    #[diesel(sql_type = BigInt)]
    unpaid: i64,
    #[diesel(sql_type = BigInt)]
    late: i64,
}

#[derive(QueryableByName)]
struct Locked {
    #[diesel(sql_type = Bool)]
    locked: bool,
}

/// Whether orders end slowly.
#[derive(Debug, Default)]
pub struct Brake {
    on: bool,
}

impl Brake {
    /// Whether it is on, by what is late now. It goes on at a share, and off when next to nothing is late any more.
    ///
    /// # Errors
    /// The database's.
    pub async fn is_on(&mut self, db: &Db, settings: &ExpirySettings) -> Result<bool, DbError> {
        let late_ms = i32::try_from(settings.brake_late_ms).unwrap_or(i32::MAX);
        let Late { unpaid, late } = late(&mut *db.get().await?, late_ms).await?;
        let many = late > settings.brake_minimum;
        let on = many && (self.on || 100 * late > settings.brake_share_percent * unpaid);
        if on && !self.on {
            tracing::error!(
                late,
                unpaid,
                "far too many orders are late: they expire slowly; is the database's clock right?"
            );
            metrics::counter!("expiry_brakes_total").increment(1);
        } else if self.on && !on {
            tracing::warn!("orders expire at full speed again");
        }
        self.on = on;
        metrics::gauge!("expiry_brake").set(f64::from(u8::from(on)));
        metrics::gauge!("expiry_late_orders").set(f64::from(i32::try_from(late).unwrap_or(i32::MAX)));
        Ok(on)
    }
}

/// All are counted only when the oldest is late.
async fn late(conn: &mut AsyncPgConnection, late_ms: i32) -> Result<Late, DbError> {
    let oldest = diesel::sql_query(OLDEST_IS_LATE).bind::<Integer, _>(late_ms);
    let oldest: Oldest = Kept(oldest).get_result(conn).await?;
    if !oldest.late {
        return Ok(Late::default());
    }
    Ok(Kept(diesel::sql_query(LATE).bind::<Integer, _>(late_ms)).get_result(conn).await?)
}

/// Whether it is this instance's turn, until the transaction ends.
pub(super) async fn has_turn(conn: &mut AsyncPgConnection) -> Result<bool, DbError> {
    let statement =
        diesel::sql_query("SELECT pg_try_advisory_xact_lock($1) AS locked").bind::<BigInt, _>(BRAKED_LOCK);
    let row: Locked = Kept(statement).get_result(conn).await?;
    Ok(row.locked)
}
