//! Everything that the protocol is spread over, as one value: Redis, the broker, Postgres, two replicas of
//! stock-service with their loads, buyers, and what went wrong so far.
//!
//! One item, a handful of buyers who want one unit each. Time is not counted: what depends on it (a deadline, the
//! expiry of a lock, an age) is a step of its own that may come or not, as far as the real times allow it.

mod broker;
mod faults;
mod loads;
mod orders;
mod properties;
mod redis;
mod stock;
mod wire;

use self::wire::Wire;
use crate::explorer::Move;
use crate::guard::Rules;
use crate::shelf::{Definition, OrderNo, Server, UserNo};

pub use self::broker::{Broker, Message};
pub use self::loads::Load;
pub use self::orders::{Outbox, Postgres, Row};
pub use self::properties::PROPERTIES;
pub use self::redis::Redis;
pub use self::stock::Flight;

/// Replicas of stock-service.
pub const REPLICAS: usize = 2;
/// No lease, no window: the moment does not matter.
const NOW_MS: i64 = 1_000;
/// Beyond what anybody tries here.
const ATTEMPTS_MAX: i64 = 20;

/// What may go wrong, and what may be done, how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    /// Redis loses everything, in a running process.
    pub flushes: u8,
    /// Redis is another process with the same data.
    pub restarts: u8,
    /// Redis is another process with an earlier copy of its data, or with none; the copy is made at any moment.
    pub stale_copies: u8,
    /// As `stale_copies`, and the old process goes on serving who is connected to it.
    pub failovers: u8,
    /// The broker loses everything.
    pub wipes: u8,
    /// A process dies, or an answer is lost: a grant not published, a confirm not heard, a load not ended, a commit not
    /// acknowledged.
    pub crashes: u8,
    /// A process stands still: a grant or a row of the outbox in hand grows old, a lock runs out under its holder.
    pub pauses: u8,
    /// An order event is delivered once more than needed.
    pub duplicates: u8,
    /// Orders expire.
    pub expiries: u8,
    /// Orders are paid.
    pub payments: u8,
    /// The total is raised by one.
    pub raises: u8,
    /// The total is lowered by one.
    pub cuts: u8,
}

/// A buyer's attempts at one order: the same key each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Buyer {
    /// Who.
    pub user: UserNo,
    /// Attempts left.
    pub attempts: u8,
    /// Whether a 202 was given.
    pub promised: bool,
    /// The newest version of the order that the user was told of.
    pub told: i64,
}

/// One replica of stock-service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Replica {
    /// The newest epoch that it knows.
    pub epoch: i64,
    /// Its load of the item.
    pub load: Load,
    /// Whether it is still connected to the Redis that was failed over.
    pub stray: bool,
}

/// A state of everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// The Redis that is in use.
    pub redis: Redis,
    /// The one that was, after a fail-over.
    pub stray: Option<Redis>,
    /// An earlier copy of its data.
    pub copy: Option<Box<Redis>>,
    /// RabbitMQ.
    pub broker: Broker,
    /// The source of truth.
    pub postgres: Postgres,
    /// stock-service.
    pub replicas: [Replica; REPLICAS],
    /// Grants that are on their way to the broker, sorted.
    pub flights: Vec<Flight>,
    /// By order number.
    pub buyers: Vec<Buyer>,
    /// What may still happen.
    pub left: Budget,
    /// What a step has seen that must not be.
    pub breach: Option<&'static str>,
}

/// What is looked at step by step, and else happens in one step with what leads to it. More steps show more ways in
/// which they mix, and cost more states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Detail {
    /// The first load of the item; else it is open from the beginning.
    pub first_load: bool,
    /// The outbox; else an event is published by the transaction that makes it true.
    pub outbox: bool,
    /// The queue of notify-service; else a user is told when the event is published.
    pub notify: bool,
}

/// What is explored: where it begins and which guards are in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Units in the sale.
    pub total: i64,
    /// Most units of one user.
    pub limit: i64,
    /// The user of each order, and how often it is asked for.
    pub buyers: Vec<(UserNo, u8)>,
    /// What may happen.
    pub budget: Budget,
    /// What is looked at step by step.
    pub detail: Detail,
    /// The guards in force.
    pub rules: Rules,
}

/// A case, ready to be explored.
#[derive(Debug, Clone)]
pub struct Model {
    case: Case,
    wire: Wire,
}

impl Model {
    /// Prepares a case.
    ///
    /// # Errors
    /// A buyer's number makes no user id.
    pub fn new(case: Case) -> anyhow::Result<Self> {
        let users: Vec<UserNo> = case.buyers.iter().map(|(user, _)| *user).collect();
        let wire = Wire::new(&users)?;
        Ok(Self { case, wire })
    }

    /// The first state.
    pub fn start(&self) -> World {
        let mut world = self.published();
        if !self.case.detail.first_load {
            // Nobody asks yet and nothing fails, so all that may happen is the load.
            while let Some(next) = self.moves(&world).into_iter().next() {
                world = next.to;
            }
        }
        for (buyer, (_, attempts)) in world.buyers.iter_mut().zip(&self.case.buyers) {
            buyer.attempts = *attempts;
        }
        world.left = self.case.budget;
        world
    }

    /// The item is published and not loaded yet.
    fn published(&self) -> World {
        let case = &self.case;
        let buyer = |(user, _)| Buyer { user, attempts: 0, promised: false, told: 0 };
        let replica = Replica { epoch: 0, load: Load::Idle, stray: false };
        World {
            redis: Redis::default(),
            stray: None,
            copy: None,
            broker: Broker::default(),
            postgres: Postgres::with(case.total, case.limit, case.buyers.len()),
            replicas: [replica.clone(), replica],
            flights: Vec::new(),
            buyers: case.buyers.iter().copied().map(buyer).collect(),
            left: Budget::default(),
            breach: None,
        }
    }

    /// Everything that may happen next.
    pub fn moves(&self, world: &World) -> Vec<Move<World>> {
        let mut steps = Steps { model: self, world, moves: Vec::new() };
        steps.stock();
        steps.broker();
        steps.orders();
        steps.loads();
        steps.faults();
        steps.moves
    }

    fn server(&self, redis: &Redis) -> Server {
        Server { run: redis.run, now_ms: NOW_MS, rules: self.case.rules }
    }
}

/// Collects the moves out of one state.
struct Steps<'a> {
    model: &'a Model,
    world: &'a World,
    moves: Vec<Move<World>>,
}

impl Steps<'_> {
    /// A step, if it changes anything.
    fn step(&mut self, name: impl FnOnce() -> String, change: impl FnOnce(&mut World)) {
        self.push(name, false, change);
    }

    /// A fault, if it changes anything.
    fn fault(&mut self, name: impl FnOnce() -> String, change: impl FnOnce(&mut World)) {
        self.push(name, true, change);
    }

    fn push(&mut self, name: impl FnOnce() -> String, fault: bool, change: impl FnOnce(&mut World)) {
        let mut to = self.world.clone();
        change(&mut to);
        if to != *self.world {
            self.moves.push(Move { name: name(), fault, to });
        }
    }

    fn order_numbers(&self) -> impl Iterator<Item = OrderNo> + use<> {
        0..u8::try_from(self.world.buyers.len()).unwrap_or(u8::MAX)
    }
}

impl World {
    /// The Redis that a replica is connected to.
    fn redis_of(&mut self, replica: usize) -> &mut Redis {
        match &mut self.stray {
            Some(stray) if self.replicas[replica].stray => stray,
            Some(_) | None => &mut self.redis,
        }
    }

    /// What order-service says of the item.
    fn definition(&self) -> Definition {
        Definition {
            starts_ms: 0,
            ends_ms: i64::MAX,
            state: common::api::inventory::AdminHold::None,
            limit: self.postgres.limit,
            total: self.postgres.total,
            version: self.postgres.version,
        }
    }
}
