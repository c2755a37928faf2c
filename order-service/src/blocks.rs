//! The block list: accounts and devices that may not buy, networks that get nothing. Gateways ask for the whole list by
//! its version and enforce it; here it is kept, so that every replica learns of it and a restart forgets nothing.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use common::api::admin::{Block, BlockKind, NewBlock};
use common::api::blocks::{BLOCKS_MAX, BlockList, Blocked};
use common::ids::UserId;
use diesel::dsl::now;
use diesel::prelude::*;
use diesel::sql_types::Timestamptz;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::FutureExt as _;
use ipnet::IpNet;
use uuid::Uuid;

use crate::audit_log::Deed;
use crate::db::schema::{block_list, blocks};
use crate::db::{Db, DbError};
use crate::sales::validate::InvalidField;

/// Longest reason, in characters.
const REASON_LENGTH_MAX: usize = 200;
/// Shortest and longest device id, in bytes.
const DEVICE_LENGTH: std::ops::RangeInclusive<usize> = 8..=128;
/// Widest networks, as lengths of their prefixes: a mistake must not shut everybody out.
const PREFIX_MIN_V4: u8 = 8;
const PREFIX_MIN_V6: u8 = 16;

#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = blocks, check_for_backend(diesel::pg::Pg))]
struct BlockRow {
    id: Uuid,
    kind: String,
    value: String,
    reason: String,
    created_by: String,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
}

impl BlockRow {
    fn to_api(&self) -> Result<Block, DbError> {
        let created_by = UserId::try_from(self.created_by.clone())
            .map_err(|error| DbError::Broken(format!("maker of block {}: {error}", self.id)))?;
        Ok(Block {
            id: self.id,
            kind: kind_of(&self.kind)?,
            value: self.value.clone(),
            reason: self.reason.clone(),
            created_by,
            created_at: self.created_at,
            expires_at: self.expires_at,
        })
    }
}

fn kind_of(text: &str) -> Result<BlockKind, DbError> {
    match text {
        "user" => Ok(BlockKind::User),
        "device" => Ok(BlockKind::Device),
        "network" => Ok(BlockKind::Network),
        other => Err(DbError::Broken(format!("kind of block {other:?}"))),
    }
}

fn name_of(kind: BlockKind) -> &'static str {
    match kind {
        BlockKind::User => "user",
        BlockKind::Device => "device",
        BlockKind::Network => "network",
    }
}

/// The wish with its value in the one spelling that is stored.
///
/// # Errors
/// Names the field that does not fit.
pub fn validate(wish: NewBlock) -> Result<NewBlock, InvalidField> {
    let length = wish.reason.chars().count();
    if !(1..=REASON_LENGTH_MAX).contains(&length) || wish.reason.chars().any(char::is_control) {
        let rule = format!("must be 1 to {REASON_LENGTH_MAX} characters without control characters");
        return Err(InvalidField::new("reason", rule));
    }
    let value = match wish.kind {
        BlockKind::User => {
            let user = wish.value.parse::<UserId>();
            user.map_err(|error| InvalidField::new("value", error.to_string()))?.as_str().to_owned()
        }
        BlockKind::Device => device(&wish.value)?,
        BlockKind::Network => network(&wish.value)?.to_string(),
    };
    Ok(NewBlock { value, ..wish })
}

fn device(text: &str) -> Result<String, InvalidField> {
    if !DEVICE_LENGTH.contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(InvalidField::new("value", "must be a device id: 8 to 128 visible ASCII characters"));
    }
    Ok(text.to_owned())
}

/// A network, or one address, without host bits; IPv4 also where it is written as IPv6.
fn network(text: &str) -> Result<IpNet, InvalidField> {
    let refused = || InvalidField::new("value", "must be a network such as 203.0.113.0/24, or an address");
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address.to_canonical()),
        Err(_) => text.parse::<IpNet>().map_err(|_| refused())?.trunc(),
    };
    if network.addr().to_canonical() != network.addr() {
        return Err(refused());
    }
    let shortest = if network.addr().is_ipv4() { PREFIX_MIN_V4 } else { PREFIX_MIN_V6 };
    if network.prefix_len() < shortest {
        let rule = format!("must not be wider than /{PREFIX_MIN_V4} (IPv4), /{PREFIX_MIN_V6} (IPv6)");
        return Err(InvalidField::new("value", rule));
    }
    Ok(network)
}

/// What became of an admin's wish.
#[derive(Debug)]
pub enum Put {
    /// It is on the list.
    Done(Block),
    /// It would have ended already.
    Over,
    /// The list is full.
    Full,
}

/// Puts an entry on the list; what is on it already gets the new reason and end.
///
/// # Errors
/// The database.
pub async fn put(db: &Db, actor: UserId, wish: NewBlock) -> Result<Put, DbError> {
    db.quiet_transaction(move |conn| {
        async move {
            let at = next_version(conn).await?;
            if wish.expires_at.is_some_and(|end| end <= at) {
                return Ok(Put::Over);
            }
            diesel::delete(blocks::table.filter(blocks::expires_at.le(now))).execute(conn).await?;
            let known = blocks::table
                .filter(blocks::kind.eq(name_of(wish.kind)))
                .filter(blocks::value.eq(&wish.value));
            let before: Option<BlockRow> =
                known.select(BlockRow::as_select()).first(conn).await.optional()?;
            let (row, action) = match &before {
                Some(before) => (change(conn, before.id, &wish).await?, "block.change"),
                None => {
                    let count: i64 = blocks::table.count().get_result(conn).await?;
                    if usize::try_from(count).is_ok_and(|count| count >= BLOCKS_MAX) {
                        return Ok(Put::Full);
                    }
                    (insert(conn, &actor, &wish).await?, "block.create")
                }
            };
            let (before, after) = (before.map(|row| row.to_api()).transpose()?, row.to_api()?);
            Deed { actor: &actor, action, subject: after.id }.record(conn, before.as_ref(), &after).await?;
            Ok(Put::Done(after))
        }
        .boxed()
    })
    .await
}

async fn insert(conn: &mut AsyncPgConnection, actor: &UserId, wish: &NewBlock) -> Result<BlockRow, DbError> {
    let row = diesel::insert_into(blocks::table)
        .values((
            blocks::id.eq(Uuid::new_v4()),
            blocks::kind.eq(name_of(wish.kind)),
            blocks::value.eq(&wish.value),
            blocks::reason.eq(&wish.reason),
            blocks::created_by.eq(actor.as_str()),
            blocks::expires_at.eq(wish.expires_at),
        ))
        .returning(BlockRow::as_returning());
    Ok(row.get_result(conn).await?)
}

async fn change(conn: &mut AsyncPgConnection, id: Uuid, wish: &NewBlock) -> Result<BlockRow, DbError> {
    let row = diesel::update(blocks::table.find(id))
        .set((blocks::reason.eq(&wish.reason), blocks::expires_at.eq(wish.expires_at)))
        .returning(BlockRow::as_returning());
    Ok(row.get_result(conn).await?)
}

/// Takes an entry off the list; `false` when there is none.
///
/// # Errors
/// The database.
pub async fn lift(db: &Db, actor: UserId, id: Uuid) -> Result<bool, DbError> {
    db.quiet_transaction(move |conn| {
        async move {
            next_version(conn).await?;
            let gone = diesel::delete(blocks::table.find(id)).returning(BlockRow::as_returning());
            let gone: Option<BlockRow> = gone.get_result(conn).await.optional()?;
            let Some(gone) = gone else { return Ok(false) };
            let deed = Deed { actor: &actor, action: "block.lift", subject: id };
            deed.record_end(conn, &gone.to_api()?).await?;
            Ok(true)
        }
        .boxed()
    })
    .await
}

/// One change at a time; answers the database's clock.
async fn next_version(conn: &mut AsyncPgConnection) -> Result<DateTime<Utc>, DbError> {
    diesel::update(block_list::table)
        .set(block_list::version.eq(block_list::version + 1))
        .execute(conn)
        .await?;
    Ok(diesel::select(now.into_sql::<Timestamptz>()).get_result(conn).await?)
}

/// Up to `limit` entries that are in force, the newest first, those after the place of `after`.
///
/// # Errors
/// The database.
pub async fn page(
    conn: &mut AsyncPgConnection,
    after: Option<(DateTime<Utc>, Uuid)>,
    limit: i64,
) -> Result<Vec<Block>, DbError> {
    let mut rows = blocks::table
        .filter(blocks::expires_at.is_null().or(blocks::expires_at.gt(now)))
        .order((blocks::created_at.desc(), blocks::id.desc()))
        .limit(limit)
        .select(BlockRow::as_select())
        .into_boxed();
    if let Some((at, id)) = after {
        let same_time = blocks::created_at.eq(at).and(blocks::id.lt(id));
        rows = rows.filter(blocks::created_at.lt(at).or(same_time));
    }
    let rows: Vec<BlockRow> = rows.load(conn).await?;
    rows.iter().map(BlockRow::to_api).collect()
}

/// The version of the list.
///
/// # Errors
/// The database.
pub async fn version(conn: &mut AsyncPgConnection) -> Result<i64, DbError> {
    Ok(block_list::table.select(block_list::version).first(conn).await?)
}

/// All that is in force.
///
/// # Errors
/// The database.
pub async fn in_force(conn: &mut AsyncPgConnection) -> Result<BlockList, DbError> {
    let query = blocks::table.select((
        blocks::kind,
        blocks::value,
        blocks::expires_at,
        now.into_sql::<Timestamptz>(),
    ));
    let rows = query.load::<(String, String, Option<DateTime<Utc>>, DateTime<Utc>)>(conn).await?;
    let mut items = Vec::with_capacity(rows.len());
    for (kind, value, expires_at, at) in rows {
        let left_ms = expires_at.map(|end| (end - at).num_milliseconds());
        if left_ms.is_some_and(|left_ms| left_ms <= 0) {
            continue;
        }
        let expires_in_ms = left_ms.and_then(|left_ms| u64::try_from(left_ms).ok());
        items.push(Blocked { kind: kind_of(&kind)?, value, expires_in_ms });
    }
    Ok(BlockList { items })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(kind: BlockKind, value: &str) -> Result<String, String> {
        let wish = NewBlock { kind, value: value.to_owned(), reason: "resells".to_owned(), expires_at: None };
        validate(wish).map(|wish| wish.value).map_err(|error| error.field)
    }

    #[test]
    fn a_network_has_one_spelling_and_is_not_everybody() {
        for (text, stored) in [
            ("203.0.113.9", "203.0.113.9/32"),
            ("203.0.113.9/24", "203.0.113.0/24"),
            ("::ffff:203.0.113.9", "203.0.113.9/32"),
            ("2001:DB8:0:0::1/64", "2001:db8::/64"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("10.0.0.0/8", "10.0.0.0/8"),
        ] {
            assert_eq!(checked(BlockKind::Network, text).as_deref(), Ok(stored), "{text}");
        }
        for bad in [
            "",
            "0.0.0.0/0",
            "10.0.0.0/7",
            "::/0",
            "2001::/15",
            "203.0.113.0/33",
            "home",
            "1.2.3",
            "::ffff:0:0/96",
        ] {
            assert_eq!(checked(BlockKind::Network, bad), Err("value".to_owned()), "{bad}");
        }
    }

    #[test]
    fn users_and_devices_are_what_tokens_and_headers_can_name() {
        assert!(checked(BlockKind::User, "mei_1").is_ok());
        assert!(checked(BlockKind::User, "mei 1").is_err());
        assert!(checked(BlockKind::Device, "ab12cd34").is_ok());
        for bad in ["short", "with a space", "naïve-device", &"x".repeat(129)] {
            assert!(checked(BlockKind::Device, bad).is_err(), "{bad}");
        }
        for reason in ["", "\u{7}", &"x".repeat(201)] {
            let wish = NewBlock {
                kind: BlockKind::User,
                value: "mei".to_owned(),
                reason: reason.to_owned(),
                expires_at: None,
            };
            assert_eq!(validate(wish).expect_err("refused").field, "reason");
        }
    }
}
