//! The scripts of the line, with their arguments and replies as types.

use common::ids::ItemId;
use redis::Value;

use crate::settings::LineSettings;
use crate::store::{Script, Store, StoreError};

/// The version of the scripts' arguments; the first argument of each.
const SCHEMA: u32 = 1;
/// Tickets read at a time.
const PAGE: usize = 2_000;

/// The keys of one item's line. The item in braces is the hash tag: all of them are in one slot.
pub(super) struct Keys {
    line: String,
    queue: String,
    people: String,
    draw: String,
    admitted: String,
}

impl Keys {
    pub(super) fn of(item: ItemId) -> Self {
        let key = |name: &str| format!("line:{{{item}}}{name}");
        Self {
            line: key(""),
            queue: key(":queue"),
            people: key(":people"),
            draw: key(":draw"),
            admitted: key(":admitted"),
        }
    }
}

/// A line as open.lua shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) now_ms: i64,
    pub(super) id: String,
    pub(super) seed: String,
    pub(super) commitment: String,
    pub(super) starts_ms: i64,
    pub(super) opened_ms: i64,
    /// Empty until the draw.
    pub(super) list_hash: String,
    pub(super) drawn: i64,
}

/// What a new line is made with.
pub(super) struct Fresh {
    pub(super) id: String,
    pub(super) seed: String,
    pub(super) commitment: String,
    pub(super) starts_ms: i64,
    pub(super) gone_ms: i64,
}

/// One request, as places.lua takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Look,
    Join { drawn_place: u64 },
    Used { admitted_ms: i64 },
}

/// What places.lua needs to know of the item.
pub(super) struct Round<'a> {
    pub(super) id: &'a str,
    pub(super) gone_ms: i64,
    /// Units on offer; 0: nobody is let in.
    pub(super) units: i64,
    pub(super) settings: &'a LineSettings,
}

/// Where somebody stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    NoPlace,
    Undrawn,
    Waits { position: u64 },
    Admitted { admitted_ms: i64, expires_ms: i64 },
    RanOut,
    Full,
    Noted,
}

/// What places.lua answers.
pub(super) struct Answered {
    pub(super) now_ms: i64,
    /// Whether the draw must be closed before anybody is let in.
    pub(super) undrawn: bool,
    pub(super) waiting: u64,
    pub(super) gathered: u64,
    /// People let in per second of late; `None`: not known.
    pub(super) rate: Option<f64>,
    pub(super) standings: Vec<Standing>,
}

/// All scripts.
pub(super) struct Scripts {
    open: Script,
    close: Script,
    places: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            open: Script::new("line_open", include_str!("open.lua")),
            close: Script::new("line_close", include_str!("close.lua")),
            places: Script::new("line_places", include_str!("places.lua")),
        }
    }

    pub(super) async fn open(&self, store: &Store, keys: &Keys, fresh: Fresh) -> Result<Opened, StoreError> {
        let value = store
            .run(&self.open, &[&keys.line], |call| {
                call.arg(SCHEMA).arg(fresh.id).arg(fresh.seed).arg(fresh.commitment);
                call.arg(fresh.starts_ms).arg(fresh.gone_ms);
            })
            .await?;
        let mut reply = Reply::of(value)?;
        Ok(Opened {
            now_ms: reply.int()?,
            id: reply.text()?,
            seed: reply.text()?,
            commitment: reply.text()?,
            starts_ms: reply.int()?,
            opened_ms: reply.int()?,
            list_hash: reply.text()?,
            drawn: reply.int()?,
        })
    }

    /// `false`: it is too early, or the list is another one, or this is another line.
    pub(super) async fn close(
        &self,
        store: &Store,
        keys: &Keys,
        id: &str,
        (list_hash, count): (String, usize),
    ) -> Result<bool, StoreError> {
        let value = store
            .run(&self.close, &[&keys.line, &keys.draw], |call| {
                call.arg(SCHEMA).arg(id).arg(list_hash).arg(count);
            })
            .await?;
        Ok(Reply::of(value)?.int()? == 0)
    }

    /// `None`: this is another line; nothing was done.
    pub(super) async fn places(
        &self,
        store: &Store,
        keys: &Keys,
        round: &Round<'_>,
        requests: &[(What, String)],
    ) -> Result<Option<Answered>, StoreError> {
        let all = [&*keys.line, &*keys.queue, &*keys.people, &*keys.draw, &*keys.admitted];
        let settings = round.settings;
        let value = store
            .run(&self.places, &all, |call| {
                call.arg(SCHEMA).arg(round.id).arg(round.gone_ms).arg(round.units);
                call.arg(settings.oversubscribe_percent).arg(settings.admit_per_second);
                call.arg(settings.token_ttl_ms).arg(settings.presence_ms).arg(settings.people_max);
                call.arg(settings.hold_ms.min(settings.token_ttl_ms));
                for (what, ticket) in requests {
                    match what {
                        What::Look => call.arg("look").arg(ticket).arg(0),
                        What::Join { drawn_place } => call.arg("join").arg(ticket).arg(drawn_place),
                        What::Used { admitted_ms } => call.arg("used").arg(ticket).arg(admitted_ms),
                    };
                }
            })
            .await?;
        let mut reply = Reply::of(value)?;
        if reply.int()? != 0 {
            return Ok(None);
        }
        let (now_ms, phase) = (reply.int()?, reply.int()?);
        let (waiting, gathered, rate) = (reply.count()?, reply.count()?, reply.int()?);
        let mut standings = Vec::with_capacity(requests.len());
        for _ in requests {
            standings.push(reply.standing()?);
        }
        let rate = (rate > 0).then(|| rate as f64 / 1000.0);
        Ok(Some(Answered { now_ms, undrawn: phase == 1, waiting, gathered, rate, standings }))
    }

    /// Tickets of the draw in the order that was drawn, `most` of them from place `from` on, counted from 0.
    pub(super) async fn tickets(
        &self,
        store: &Store,
        keys: &Keys,
        from: usize,
        most: usize,
    ) -> Result<Vec<String>, StoreError> {
        let mut tickets = Vec::new();
        while tickets.len() < most {
            let first = from + tickets.len();
            let last = first + PAGE.min(most - tickets.len()) - 1;
            let page =
                store.command(&keys.draw, redis::cmd("ZRANGE").arg(&keys.draw).arg(first).arg(last)).await?;
            let mut reply = Reply::of(page)?;
            let before = tickets.len();
            while !reply.is_empty() {
                tickets.push(reply.text()?);
            }
            if tickets.len() == before {
                break;
            }
        }
        Ok(tickets)
    }
}

/// The elements of a reply, in order.
struct Reply {
    elements: std::vec::IntoIter<Value>,
}

impl Reply {
    fn of(value: Value) -> Result<Self, StoreError> {
        let Value::Array(elements) = value else { return Err(StoreError::Garbled("line")) };
        Ok(Self { elements: elements.into_iter() })
    }

    fn is_empty(&self) -> bool {
        self.elements.len() == 0
    }

    fn int(&mut self) -> Result<i64, StoreError> {
        match self.elements.next() {
            Some(Value::Int(number)) => Ok(number),
            _ => Err(StoreError::Garbled("line: not a number")),
        }
    }

    fn count(&mut self) -> Result<u64, StoreError> {
        u64::try_from(self.int()?).map_err(|_| StoreError::Garbled("line: below zero"))
    }

    fn text(&mut self) -> Result<String, StoreError> {
        let garbled = StoreError::Garbled("line: not a text");
        match self.elements.next() {
            Some(Value::BulkString(bytes)) => String::from_utf8(bytes).map_err(|_| garbled),
            Some(Value::SimpleString(text)) => Ok(text),
            _ => Err(garbled),
        }
    }

    fn standing(&mut self) -> Result<Standing, StoreError> {
        let (standing, position, admitted_ms, expires_ms) =
            (self.int()?, self.count()?, self.int()?, self.int()?);
        match standing {
            0 => Ok(Standing::NoPlace),
            1 => Ok(Standing::Undrawn),
            2 => Ok(Standing::Waits { position }),
            3 => Ok(Standing::Admitted { admitted_ms, expires_ms }),
            4 => Ok(Standing::RanOut),
            5 => Ok(Standing::Full),
            6 => Ok(Standing::Noted),
            _ => Err(StoreError::Garbled("line: standing")),
        }
    }
}
