//! Loading and recovery, step by step: what `load/attempt.rs` of stock-service does.

use stock_service::inventory::Committed;

use super::{Flight, Message, REPLICAS, Steps, World};
use crate::guard::Guard;
use crate::shelf::{Begun, Definition, News};

/// How far a replica's load is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Load {
    /// It loads nothing.
    Idle,
    /// It has the lock and an epoch.
    Granted {
        /// The epoch.
        epoch: i64,
    },
    /// It has closed the gate for good.
    Begun {
        /// The epoch.
        epoch: i64,
        /// Whether what survived in `unsettled` is still to be published.
        survivors: bool,
        /// Grants from before, which it gives their time.
        waits: Vec<Flight>,
    },
    /// Its fence is on the way.
    Fenced {
        /// The epoch.
        epoch: i64,
    },
    /// It has read the item and all its orders.
    Read {
        /// The epoch.
        epoch: i64,
        /// The item.
        definition: Definition,
        /// All orders.
        orders: Vec<News>,
        /// Whether they are staged.
        staged: bool,
    },
}

impl Load {
    fn epoch(&self) -> Option<i64> {
        match self {
            Self::Idle => None,
            Self::Granted { epoch }
            | Self::Begun { epoch, .. }
            | Self::Fenced { epoch }
            | Self::Read { epoch, .. } => Some(*epoch),
        }
    }
}

impl Steps<'_> {
    pub(super) fn loads(&mut self) {
        for replica in 0..REPLICAS {
            if self.world.replicas[replica].stray {
                continue;
            }
            match self.world.replicas[replica].load.clone() {
                Load::Idle => self.start_load(replica),
                Load::Granted { epoch } => self.begin(replica, epoch),
                Load::Begun { epoch, survivors: true, waits } => self.survivors(replica, epoch, &waits),
                Load::Begun { epoch, survivors: false, waits } => self.fence(replica, epoch, &waits),
                Load::Fenced { epoch } => self.read(replica, epoch),
                Load::Read { epoch, definition, orders, staged: false } => {
                    self.stage(replica, (epoch, definition), &orders);
                }
                Load::Read { epoch, definition, orders, staged: true } => {
                    self.commit(replica, epoch, definition, orders.len());
                }
            }
            self.interrupted(replica);
        }
    }

    /// The gate is closed, or older than what this replica knows, and the lock is free.
    fn start_load(&mut self, replica: usize) {
        let world = self.world;
        let known = world.replicas[replica].epoch;
        let open = world.redis.shelf.gate(self.model.server(&world.redis), known).is_ok();
        if open || world.redis.lock.is_some() {
            return;
        }
        self.step(
            || format!("replica {replica} starts a load"),
            |world| {
                world.redis.lock = Some(replica);
                world.postgres.epoch += 1;
                let epoch = world.postgres.epoch;
                world.replicas[replica].epoch = known.max(epoch);
                world.replicas[replica].load = Load::Granted { epoch };
            },
        );
    }

    fn begin(&mut self, replica: usize, epoch: i64) {
        let model = self.model;
        self.step(
            || format!("replica {replica} begins load {epoch}"),
            |world| {
                let server = model.server(&world.redis);
                match world.redis.shelf.load_begin(server, epoch) {
                    Begun::Yes { earlier } => {
                        let recovering = earlier || epoch > 1;
                        let waits = world.flights.iter().filter(|flight| recovering && !flight.stale);
                        let waits = waits.copied().collect();
                        world.replicas[replica].load = Load::Begun { epoch, survivors: recovering, waits };
                    }
                    Begun::AlreadyOpen | Begun::Superseded => world.end_load(replica),
                }
            },
        );
    }

    fn survivors(&mut self, replica: usize, epoch: i64, waits: &[Flight]) {
        self.step(
            || format!("replica {replica} publishes what survived, in load {epoch}"),
            |world| {
                let survived = world
                    .redis
                    .shelf
                    .unsettled
                    .keys()
                    .filter(|order| world.redis.shelf.holds.contains_key(order));
                let messages: Vec<_> =
                    survived.map(|order| Message::Reserved { order: *order, epoch }).collect();
                world.broker.partition.extend(messages);
                let waits = waits.to_vec();
                world.replicas[replica].load = Load::Begun { epoch, survivors: false, waits };
            },
        );
    }

    fn fence(&mut self, replica: usize, epoch: i64, waits: &[Flight]) {
        if !waits.is_empty() && self.model.case.rules.hold(Guard::StragglerWait) {
            return;
        }
        self.step(
            || format!("replica {replica} sends the fence of load {epoch}"),
            |world| {
                world.broker.partition.push(Message::Fence { epoch });
                world.replicas[replica].load = Load::Fenced { epoch };
            },
        );
    }

    /// Everything as of one moment, or a refusal; or the fence is gone with its broker.
    fn read(&mut self, replica: usize, epoch: i64) {
        let (world, rules) = (self.world, self.model.case.rules);
        let newest = world.postgres.epoch == epoch || !rules.hold(Guard::LoaderEpoch);
        if !newest {
            self.step(|| format!("load {epoch} is superseded"), |world| world.end_load(replica));
            return;
        }
        if world.postgres.fenced >= epoch || !rules.hold(Guard::Fence) {
            let orders: Vec<News> = self.order_numbers().filter_map(|order| world.news(order)).collect();
            let definition = world.definition();
            self.step(
                || format!("replica {replica} reads the orders in load {epoch}"),
                |world| {
                    world.replicas[replica].load = Load::Read { epoch, definition, orders, staged: false };
                },
            );
        } else if !world.broker.partition.contains(&Message::Fence { epoch }) {
            self.step(
                || format!("load {epoch} waits for its fence in vain"),
                |world| world.end_load(replica),
            );
        }
    }

    fn stage(&mut self, replica: usize, (epoch, definition): (i64, Definition), orders: &[News]) {
        let model = self.model;
        let kept = |news: &&News| {
            news.units != common::messages::order::Units::Returned || model.case.rules.hold(Guard::Tombstones)
        };
        let orders: Vec<News> = orders.iter().filter(kept).copied().collect();
        self.step(
            || format!("replica {replica} stages the orders of load {epoch}"),
            |world| {
                let server = model.server(&world.redis);
                let shelf = &mut world.redis.shelf;
                let staged = orders.is_empty() || shelf.load_stage(server, epoch, &orders);
                if staged && shelf.load_merge(server, epoch) {
                    world.replicas[replica].load = Load::Read { epoch, definition, orders, staged: true };
                } else {
                    world.end_load(replica);
                }
            },
        );
    }

    fn commit(&mut self, replica: usize, epoch: i64, definition: Definition, staged: usize) {
        let model = self.model;
        self.step(
            || format!("replica {replica} commits load {epoch}"),
            |world| {
                let server = model.server(&world.redis);
                let committed = world.redis.shelf.load_commit(server, (epoch, staged, 0), definition);
                if matches!(committed, Committed::Opened { .. }) {
                    // They look at it several times a second.
                    for replica in world.replicas.iter_mut().filter(|replica| !replica.stray) {
                        replica.epoch = replica.epoch.max(epoch);
                    }
                }
                world.end_load(replica);
            },
        );
    }

    /// The lock runs out: by itself when its holder is gone, and under a holder that stands still. Who notices gives up.
    fn interrupted(&mut self, replica: usize) {
        let world = self.world;
        let epoch = world.replicas[replica].load.epoch();
        let ours = world.redis.lock == Some(replica);
        let Some(epoch) = epoch else {
            if ours {
                self.step(|| format!("replica {replica}'s lock runs out"), |world| world.redis.lock = None);
            }
            return;
        };
        if ours && world.left.pauses > 0 {
            self.fault(
                || format!("replica {replica} stands still in load {epoch}, and its lock runs out"),
                |world| {
                    world.redis.lock = None;
                    world.left.pauses -= 1;
                },
            );
        }
        if !ours {
            self.step(
                || format!("replica {replica} has lost its lock and gives up load {epoch}"),
                |world| world.replicas[replica].load = Load::Idle,
            );
        }
        if world.left.crashes > 0 {
            self.fault(
                || format!("replica {replica} dies in load {epoch}"),
                |world| {
                    world.replicas[replica].load = Load::Idle;
                    world.left.crashes -= 1;
                },
            );
        }
    }
}

impl World {
    fn end_load(&mut self, replica: usize) {
        self.replicas[replica].load = Load::Idle;
        if self.redis.lock == Some(replica) {
            self.redis.lock = None;
        }
    }

    /// A grant from before a load has come to its end.
    pub(super) fn forget_waiting(&mut self, flight: Flight) {
        for replica in &mut self.replicas {
            if let Load::Begun { waits, .. } = &mut replica.load {
                waits.retain(|other| (other.order, other.replica) != (flight.order, flight.replica));
            }
        }
    }
}
