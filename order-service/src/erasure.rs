//! Erasing a user's personal data and keeping the ledger: an order that is final becomes nobody's, with everything else
//! of it as it was, under a name of its own, so that not even two orders of one person can be tied together.
//!
//! The user of an order is needed as long as anything can still happen to it: until its sale is over, its payments are
//! done with and every message about it is past being told again. Asking again later erases the rest; asking twice
//! changes nothing.

use common::api::erasure::OrdersErased;
use common::ids::UserId;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Integer, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use futures_util::FutureExt as _;
use uuid::Uuid;

use crate::audit_log::Deed;
use crate::db::{Db, DbError};

/// Most orders that one call makes nobody's; ask again for more.
const ORDERS_MAX: i64 = 5_000;

/// `$2` hours after the last message about an order it is not told again by the outbox.
const ORDERS: &str = "
    WITH done AS (
        SELECT o.id FROM orders AS o JOIN sales AS s ON s.id = o.sale_id
         WHERE o.user_id = $1
           AND o.status IN ('paid', 'cancelled', 'expired', 'rejected', 'refunded')
           AND LEAST(s.ends_at, COALESCE(s.ended_at, s.ends_at)) < now() - make_interval(hours => $2)
           AND NOT EXISTS (SELECT 1 FROM order_transitions AS t
                            WHERE t.order_id = o.id AND t.at >= now() - make_interval(hours => $2))
           AND NOT EXISTS (SELECT 1 FROM payments AS p
                            WHERE p.order_id = o.id AND p.status IN ('started', 'refund_pending'))
         ORDER BY o.id LIMIT $3 FOR UPDATE OF o
    )
    UPDATE orders SET user_id = 'erased-' || replace(gen_random_uuid()::text, '-', '')
     WHERE id IN (SELECT id FROM done)";

/// Deeds on the user's orders and blocks show the user; messages that were sent again or given up are in the log whole.
const AUDIT_LOG: &str = "
    UPDATE audit_log
       SET before = CASE WHEN before ? 'body' THEN jsonb_set(before, '{body}', 'null')
                         ELSE before - 'user_id' - 'value' END,
           after = after - 'user_id' - 'value'
     WHERE $1 IN (before ->> 'user_id', after ->> 'user_id')
        OR (before ->> 'kind' = 'user' AND before ->> 'value' = $1)
        OR (after ->> 'kind' = 'user' AND after ->> 'value' = $1)
        OR strpos(before ->> 'body', '\"user_id\":\"' || $1 || '\"') > 0";

#[derive(diesel::QueryableByName)]
struct Counted {
    #[diesel(sql_type = BigInt)]
    orders: i64,
    #[diesel(sql_type = BigInt)]
    letters: i64,
    #[diesel(sql_type = BigInt)]
    blocks: i64,
}

const LEFT: &str = "
    SELECT (SELECT count(*) FROM orders WHERE user_id = $1) AS orders,
           (SELECT count(*) FROM dead_letters
             WHERE position(convert_to('\"' || $1 || '\"', 'UTF8') IN body) > 0) AS letters,
           (SELECT count(*) FROM blocks WHERE kind = 'user' AND value = $1
               AND (expires_at IS NULL OR expires_at > now())) AS blocks";

/// Erases what can be erased of `user`. `keep_hours`: how long messages may be told again.
///
/// # Errors
/// The database.
pub async fn erase(
    db: &Db,
    actor: UserId,
    (erasure, user): (Uuid, UserId),
    keep_hours: i32,
) -> Result<OrdersErased, DbError> {
    db.quiet_transaction(move |conn| {
        async move {
            let orders = sql_query(ORDERS)
                .bind::<Text, _>(user.as_str())
                .bind::<Integer, _>(keep_hours)
                .bind::<BigInt, _>(ORDERS_MAX)
                .execute(conn)
                .await?;
            let entries = sql_query(AUDIT_LOG).bind::<Text, _>(user.as_str()).execute(conn).await?;
            let left = left(conn, &user).await?;
            let erased = OrdersErased {
                orders_erased: count(orders),
                orders_kept: left.orders.unsigned_abs(),
                audit_entries_erased: count(entries),
                dead_letters_kept: left.letters.unsigned_abs(),
                blocks_kept: left.blocks.unsigned_abs(),
            };
            // Not whose: the log is not to bring back what was erased.
            let deed = Deed { actor: &actor, action: "user.erase", subject: erasure };
            deed.record(conn, None, &erased).await?;
            Ok(erased)
        }
        .boxed()
    })
    .await
}

async fn left(conn: &mut AsyncPgConnection, user: &UserId) -> Result<Counted, DbError> {
    Ok(sql_query(LEFT).bind::<Text, _>(user.as_str()).get_result(conn).await?)
}

fn count(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}
