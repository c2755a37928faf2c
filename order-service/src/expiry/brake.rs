//! The brake on a mass expiry.
//!
//! While all is well no order stays unpaid for long after its time, however many of them end together. So when many are
//! late, nobody was there to end them, or the database's clock was set; in the second case they are not late at all.
//! Then they end slowly, oldest first, and an alarm is raised: units come back late rather than wrongly.
//!
//! All instances share the brake, which is a row: with each slow batch it stays on for a while, so that one that starts
//! when the rest is a small share goes on as slowly.

use diesel::QueryableByName;
use diesel::sql_types::{BigInt, Bool, Integer};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};

use crate::db::DbError;
use crate::db::statement::Kept;
use crate::settings::ExpirySettings;

/// A share that turns the brake off: not even a row of an instance that has it on counts then.
const BRAKES_NEVER_PERCENT: i64 = 100;

/// Names the advisory lock under which one instance at a time lets orders expire while the brake is on.
const BRAKED_LOCK: i64 = 0x6272_616b_6564;

/// Reads every unpaid order. A row that holds for longer than [`HOLD`] makes it was written before the clock was set back,
/// and counts for nothing; a minute more is for a transaction that began before the one that wrote it.
const STANDING: &str = "
SELECT count(*) AS unpaid, count(*) FILTER (WHERE late) AS late,
       (SELECT coalesce(bool_or(braked_until > now() AND braked_until < now() + interval '6 minutes'), false)
          FROM expiry_brake) AS braked
  FROM (SELECT expires_at <= now() - make_interval(secs => $1 / 1000.0)
               AND NOT EXISTS (SELECT 1 FROM payments p WHERE p.order_id = orders.id AND p.status = 'started')
               AS late
          FROM orders WHERE status = 'pending_payment') AS o";

/// Long enough for an instance that comes back from a restart.
const HOLD: &str = "UPDATE expiry_brake SET braked_until = now() + interval '5 minutes'";

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = BigInt)]
    unpaid: i64,
    #[diesel(sql_type = BigInt)]
    late: i64,
    #[diesel(sql_type = Bool)]
    braked: bool,
}

#[derive(QueryableByName)]
struct Locked {
    #[diesel(sql_type = Bool)]
    locked: bool,
}

/// How things are at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Standing {
    /// Whether orders end slowly.
    pub(super) on: bool,
    unpaid: i64,
    late: i64,
}

/// What this instance has said of the brake.
#[derive(Debug, Default)]
pub(super) struct Brake {
    on: bool,
}

impl Brake {
    /// Whether it was on when this instance last looked.
    pub(super) fn was_on(&self) -> bool {
        self.on
    }

    /// Says what has changed.
    pub(super) fn note(&mut self, Standing { on, unpaid, late }: Standing) {
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
    }
}

/// Whether the brake is on, by what is late now: it goes on at a share, and off when next to nothing is late any more.
pub(super) async fn standing(
    conn: &mut AsyncPgConnection,
    settings: &ExpirySettings,
) -> Result<Standing, DbError> {
    let late_ms = i32::try_from(settings.brake_late_ms).unwrap_or(i32::MAX);
    let statement = diesel::sql_query(STANDING).bind::<Integer, _>(late_ms);
    let Row { unpaid, late, braked } = Kept(statement).get_result(conn).await?;
    let may = settings.brake_share_percent < BRAKES_NEVER_PERCENT && late > settings.brake_minimum;
    let on = may && (braked || 100 * late > settings.brake_share_percent * unpaid);
    Ok(Standing { on, unpaid, late })
}

/// Keeps it on for all instances.
pub(super) async fn hold(conn: &mut AsyncPgConnection) -> Result<(), DbError> {
    Kept(diesel::sql_query(HOLD)).execute(conn).await?;
    Ok(())
}

/// Whether it is this instance's turn, until the transaction ends.
pub(super) async fn has_turn(conn: &mut AsyncPgConnection) -> Result<bool, DbError> {
    let statement =
        diesel::sql_query("SELECT pg_try_advisory_xact_lock($1) AS locked").bind::<BigInt, _>(BRAKED_LOCK);
    let row: Locked = Kept(statement).get_result(conn).await?;
    Ok(row.locked)
}
