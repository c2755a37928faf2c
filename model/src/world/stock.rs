//! stock-service: the way to a unit, the relay, following orders, keeping the definition.

use stock_service::stock::{Applied, Decision};

use super::{ATTEMPTS_MAX, Message, Outbox, REPLICAS, Steps, World};
use crate::guard::Guard;
use crate::shelf::{News, OrderNo, Wish};

/// A grant between the script and the confirm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flight {
    /// Whose order.
    pub order: OrderNo,
    /// Which replica has it in hand.
    pub replica: usize,
    /// The epoch that it was granted or found under.
    pub epoch: i64,
    /// Whether the script was sent so long ago that nobody waits for the answer.
    pub stale: bool,
}

impl Steps<'_> {
    pub(super) fn stock(&mut self) {
        for order in self.order_numbers() {
            for replica in 0..REPLICAS {
                self.ask(order, replica);
            }
            self.republish(order);
        }
        for flight in self.world.flights.clone() {
            self.announce(flight);
        }
        for news in self.world.broker.stock_news.iter().copied().collect::<Vec<_>>() {
            self.follow(news);
        }
        self.catch_up();
    }

    /// A buyer asks, and the script answers. An attempt that meets a closed gate is as if it had not been made.
    fn ask(&mut self, order: OrderNo, replica: usize) {
        let buyer = self.world.buyers[usize::from(order)];
        let in_flight = self.world.flights.iter().any(|f| (f.order, f.replica) == (order, replica));
        if buyer.attempts == 0 || in_flight {
            return;
        }
        let model = self.model;
        self.step(
            || format!("buyer of order {order} asks replica {replica}"),
            |world| {
                let known = world.replicas[replica].epoch;
                let redis = world.redis_of(replica);
                let server = model.server(redis);
                let wish = Wish { order, user: buyer.user, quantity: 1, deadline_ms: i64::MAX };
                let Ok(decided) = redis.shelf.reserve(server, known, ATTEMPTS_MAX, &[wish]) else { return };
                let epoch = redis.shelf.item.map_or(0, |item| item.epoch);
                world.replicas[replica].epoch = known.max(epoch);
                world.buyers[usize::from(order)].attempts -= 1;
                for decision in decided {
                    world.decided(order, decision, Flight { order, replica, epoch, stale: false });
                }
            },
        );
    }

    /// The message reaches the partition and its confirm the replica: 202.
    fn announce(&mut self, flight: Flight) {
        if flight.stale && self.model.case.rules.hold(Guard::FreshGrant) {
            return;
        }
        let Flight { order, replica, epoch, stale } = flight;
        let rules = self.model.case.rules;
        self.step(
            || format!("replica {replica} publishes order {order}, granted in epoch {epoch}; stale: {stale}"),
            |world| {
                world.broker.partition.push(Message::Reserved { order, epoch });
                world.end_flight(flight);
                // To a stale one nobody listens any more.
                world.buyers[usize::from(order)].promised |= !stale;
                if !rules.hold(Guard::Unsettled) {
                    world.redis_of(replica).shelf.unsettled.remove(&order);
                }
            },
        );
    }

    /// The relay publishes what stays in `unsettled` when the partition is empty.
    fn republish(&mut self, order: OrderNo) {
        let world = self.world;
        let gate = world.redis.shelf.gate(self.model.server(&world.redis), 0);
        let unsettled = world.redis.shelf.unsettled.contains_key(&order);
        // It waits for longer than any of these may last; an earlier one would be one more duplicate.
        let in_flight = world.flights.iter().any(|flight| flight.order == order && !flight.stale);
        let told = world.broker.stock_news.iter().any(|news| news.order == order);
        let telling = world
            .postgres
            .outbox
            .iter()
            .any(|(news, state)| news.order == order && *state == Outbox::Waiting);
        let on_its_way = in_flight || told || telling || !world.broker.partition.is_empty();
        let Some(item) = gate.ok().filter(|_| unsettled && !on_its_way) else { return };
        self.step(
            || format!("the relay publishes order {order} again"),
            |world| world.broker.partition.push(Message::Reserved { order, epoch: item.epoch }),
        );
    }

    /// An order event reaches the books.
    fn follow(&mut self, news: News) {
        let model = self.model;
        for replica in 0..REPLICAS {
            // Without a stray Redis it does not matter which replica it is.
            if replica > 0 && self.world.stray.is_none() {
                break;
            }
            let apply = |world: &mut World| {
                let epoch = world.replicas[replica].epoch;
                let redis = world.redis_of(replica);
                let server = model.server(redis);
                let applied = redis.shelf.apply(server, epoch, 0, &[news]);
                if applied.contains(&Applied::Contradicts) {
                    world.breach = Some("S5: an order's news contradict the books");
                }
            };
            let News { order, version, .. } = news;
            self.step(
                || format!("the books follow version {version} of order {order}"),
                |world| {
                    apply(world);
                    world.broker.stock_news.remove(&news);
                },
            );
            if self.world.left.duplicates > 0 {
                self.fault(
                    || format!("the books follow version {version} of order {order}, which will come again"),
                    |world| {
                        apply(world);
                        world.left.duplicates -= 1;
                    },
                );
            }
        }
    }

    /// What came during a load, and newer definitions.
    fn catch_up(&mut self) {
        let model = self.model;
        self.step(
            || "what came during the load is applied".to_owned(),
            |world| {
                let late: Vec<News> = world.redis.shelf.late.values().copied().collect();
                let server = model.server(&world.redis);
                if world.redis.shelf.gate(server, 0).is_ok() && !late.is_empty() {
                    world.redis.shelf.apply(server, 0, 0, &late);
                }
            },
        );
        self.step(
            || "the newest definition is put in force".to_owned(),
            |world| {
                let (server, definition) = (model.server(&world.redis), world.definition());
                world.redis.shelf.update(server, 0, 0, definition);
            },
        );
    }
}

impl World {
    fn decided(&mut self, order: OrderNo, decision: Decision, flight: Flight) {
        let promised = self.buyers[usize::from(order)].promised;
        match decision {
            Decision::Granted { .. } => {
                if self.postgres.is_over(order) && self.stray.is_none() {
                    self.breach = Some("P5: an order that is over takes a unit again");
                }
                self.begin_flight(flight);
            }
            Decision::Known { settled: false, .. } => self.begin_flight(flight),
            Decision::Known { settled: true, .. } => self.buyers[usize::from(order)].promised = true,
            Decision::Refused(_) if promised && self.stray.is_none() => {
                self.breach = Some("P3: an accepted order is refused when its key comes again");
            }
            Decision::Refused(_) => {}
        }
    }

    fn begin_flight(&mut self, flight: Flight) {
        self.flights.push(flight);
        self.flights.sort_unstable();
    }

    /// The grant is out of the replica's hands; who waited for that goes on.
    pub(super) fn end_flight(&mut self, flight: Flight) {
        self.flights.retain(|other| *other != flight);
        self.forget_waiting(flight);
    }
}
