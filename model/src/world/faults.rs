//! What goes wrong: processes, Redis, the broker.

use super::{Broker, REPLICAS, Redis, Steps};

impl Steps<'_> {
    pub(super) fn faults(&mut self) {
        self.grants();
        self.reconnect();
        self.redis();
        self.copies();
        if self.world.left.wipes > 0 {
            self.fault(
                || "the broker loses everything".to_owned(),
                |world| {
                    world.left.wipes -= 1;
                    world.broker = Broker { number: world.broker.number + 1, ..Broker::default() };
                },
            );
        }
    }

    /// A grant in hand: its replica dies or gives up, or stands still for longer than anybody waits.
    fn grants(&mut self) {
        for flight in self.world.flights.clone() {
            let (order, replica) = (flight.order, flight.replica);
            if self.world.left.crashes > 0 {
                self.fault(
                    || format!("replica {replica} dies with order {order} in hand"),
                    |world| {
                        world.left.crashes -= 1;
                        world.end_flight(flight);
                    },
                );
            }
            if self.world.left.pauses > 0 && !flight.stale {
                self.fault(
                    || format!("replica {replica} stands still with order {order} in hand"),
                    |world| {
                        world.left.pauses -= 1;
                        world.end_flight(flight);
                        let mut stale = flight;
                        stale.stale = true;
                        world.flights.push(stale);
                        world.flights.sort_unstable();
                    },
                );
            }
            // It wakes, sees how late it is, and leaves the order to whoever finds it in `unsettled`.
            if flight.stale {
                self.step(
                    || format!("replica {replica} gives up order {order}"),
                    |world| world.end_flight(flight),
                );
            }
        }
    }

    fn redis(&mut self) {
        if self.world.left.flushes > 0 {
            self.fault(
                || "Redis is flushed".to_owned(),
                |world| {
                    world.left.flushes -= 1;
                    world.redis = Redis { run: world.redis.run, ..Redis::default() };
                },
            );
        }
        if self.world.left.restarts > 0 {
            self.fault(
                || "Redis starts again with its data".to_owned(),
                |world| {
                    world.left.restarts -= 1;
                    world.redis.run += 1;
                },
            );
        }
    }

    /// A copy is made at any moment, and is what Redis starts from later: its last state that reached the disk, or the
    /// replica that lagged.
    fn copies(&mut self) {
        let left = self.world.left;
        if self.world.copy.is_none() && left.stale_copies + left.failovers > 0 {
            self.fault(
                || "Redis writes its data to the disk for the last time".to_owned(),
                |world| world.copy = Some(Box::new(world.redis.clone())),
            );
        }
        let Some(copy) = self.world.copy.as_deref() else { return };
        let run = self.world.redis.run + 1;
        if left.stale_copies > 0 {
            self.fault(
                || "Redis starts again with its earlier data".to_owned(),
                |world| {
                    world.left.stale_copies -= 1;
                    world.redis = Redis { run, ..copy.clone() };
                    world.copy = None;
                },
            );
        }
        if left.failovers > 0 {
            self.fault(
                || "Redis fails over to a replica that lags".to_owned(),
                |world| {
                    world.left.failovers -= 1;
                    let next = Redis { run, ..copy.clone() };
                    world.stray = Some(std::mem::replace(&mut world.redis, next));
                    world.copy = None;
                    for replica in &mut world.replicas {
                        replica.stray = true;
                    }
                },
            );
        }
    }

    /// A replica leaves the Redis that was failed over.
    fn reconnect(&mut self) {
        for replica in 0..REPLICAS {
            self.step(
                || format!("replica {replica} connects to the new Redis"),
                |world| world.replicas[replica].stray = false,
            );
        }
    }
}
