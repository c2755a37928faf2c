//! `lua/reserve.lua`.

use common::ids::{Currency, SaleId};
use redis::ToRedisArgs as _;
use tokio::time::Instant;
use uuid::Uuid;

use super::reply::Reply;
use super::{Inventory, Lane, StoreError};
use crate::crash_points::SCRIPT;
use crate::keys::ItemKeys;
use crate::stock::{Decision, Offer, Refusal, Shut, Wish};

/// Instead of a time of admission.
const NOT_ADMITTED: i64 = 0;

/// What a call of the script decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reserved {
    /// Each wish, in order.
    Decided {
        /// Redis' clock, in ms.
        now_ms: i64,
        /// First moment at which orders are taken, in ms of Redis' clock.
        starts_ms: i64,
        /// What is sold.
        offer: Offer,
        /// One decision per wish.
        decisions: Vec<Decision>,
    },
    /// None: the books cannot be used. Nothing was done.
    Shut(Shut),
}

impl Inventory {
    /// Decides 1 to [`crate::stock::REQUESTS_PER_CALL_MAX`] wishes for units of one item.
    ///
    /// # Errors
    /// See [`StoreError`]; after [`StoreError::Unknown`] any of them may have been granted.
    pub async fn reserve(
        &self,
        keys: &ItemKeys,
        epoch_min: i64,
        attempts_max: u32,
        wishes: &[Wish],
    ) -> Result<Reserved, StoreError> {
        let script = &self.shared.scripts.reserve;
        let item_keys =
            [&*keys.item, &*keys.holds, &*keys.buyers, &*keys.unsettled, &*keys.attempts, &*keys.places];
        self.begins(SCRIPT).await?;
        let sent = Instant::now();
        let connection = &self.shared.connection;
        let (value, node) = connection
            .run(Lane::Hot, script, &item_keys, |call| {
                call.arg(epoch_min).arg(attempts_max);
                let mut text = Uuid::encode_buffer();
                for wish in wishes {
                    let order_id: &str = wish.order_id.0.hyphenated().encode_lower(&mut text);
                    order_id.write_redis_args(call);
                    call.arg(wish.user_id.as_str()).arg(wish.quantity.get()).arg(wish.deadline_ms);
                    call.arg(wish.admitted_ms.unwrap_or(NOT_ADMITTED));
                }
            })
            .await?;
        self.ended(SCRIPT).await?;
        let reserved = decode(Reply::of(value, script.name)?, wishes.len())?;
        if let Reserved::Decided { now_ms, .. } = &reserved {
            node.clock().heard(*now_ms, sent);
        }
        Ok(reserved)
    }
}

fn decode(mut reply: Reply, wishes: usize) -> Result<Reserved, StoreError> {
    if let Some(shut) = reply.gate()? {
        return Ok(Reserved::Shut(shut));
    }
    let now_ms = reply.int()?;
    let offer = Offer {
        epoch: reply.int()?,
        sale_id: SaleId(reply.parsed(|text| Uuid::parse_str(&text))?),
        unit_price_cents: reply.int()?,
        currency: reply.parsed(Currency::try_from)?,
    };
    let starts_ms = reply.int()?;
    let mut decisions = Vec::with_capacity(wishes);
    while !reply.is_empty() {
        decisions.push(decision(&mut reply)?);
    }
    if decisions.len() == wishes {
        Ok(Reserved::Decided { now_ms, starts_ms, offer, decisions })
    } else {
        Err(reply.garbled())
    }
}

/// How a wish stands, as the script says it.
const GRANTED: i64 = 1;
const KNOWN_UNSETTLED: i64 = 2;
const KNOWN_SETTLED: i64 = 3;

fn decision(reply: &mut Reply) -> Result<Decision, StoreError> {
    let (code, standing, reserved_ms) = (reply.int()?, reply.int()?, reply.int()?);
    match standing {
        GRANTED => Ok(Decision::Granted { left: code, reserved_ms }),
        KNOWN_UNSETTLED => Ok(Decision::Known { settled: false, reserved_ms }),
        KNOWN_SETTLED => Ok(Decision::Known { settled: true, reserved_ms }),
        _ => Refusal::from_code(code).map(Decision::Refused).ok_or_else(|| reply.garbled()),
    }
}
