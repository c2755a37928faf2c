//! order-service: batches become orders by the service's own decisions, orders end by its own table, and the outbox.

use std::collections::BTreeMap;

use common::api::{OrderStatus, Reason};
use common::messages::order::Units;
use order_service::machine::{order_step, present_event};
use order_service::place_orders::decide::{Decision, decide};

use super::{Case, Detail, Message, Model, NOW_MS, Steps, World};
use crate::guard::Guard;
use crate::shelf::{News, OrderNo};

/// Messages that one transaction takes: more than one, so that batches meet themselves.
const BATCH_MAX: usize = 2;

/// A row of `orders`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row {
    /// Its state.
    pub status: OrderStatus,
    /// Where its units are.
    pub units: Units,
    /// Its version.
    pub version: i64,
    /// Why it was rejected.
    pub reason: Option<Reason>,
}

impl Row {
    /// An order that has just been made.
    fn new(status: OrderStatus, reason: Option<Reason>) -> Self {
        let units = if status == OrderStatus::Rejected { Units::Returned } else { Units::Held };
        Self { status, units, version: 1, reason }
    }
}

/// How far a row of `outbox` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outbox {
    /// Not published.
    Waiting,
    /// Published and confirmed by this broker, and the transaction that will say so is still open. The generation is
    /// the one that it read when it began.
    InHand {
        /// The broker's number as order-service knew it.
        generation: u8,
    },
    /// Published.
    Done,
}

/// Postgres.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Postgres {
    /// `items.total`
    pub total: i64,
    /// `items.per_user_limit`
    pub limit: i64,
    /// `items.version`
    pub version: i64,
    /// `items.taken`
    pub taken: i64,
    /// `items.epoch`, with its token.
    pub epoch: i64,
    /// `items.fenced_epoch`
    pub fenced: i64,
    /// `orders`, by order number.
    pub orders: Vec<Option<Row>>,
    /// `outbox`
    pub outbox: BTreeMap<News, Outbox>,
    /// `broker_generation`: the number of the broker that was marked last.
    pub generation: u8,
}

impl Postgres {
    pub(super) fn with(total: i64, limit: i64, orders: usize) -> Self {
        Self {
            total,
            limit,
            version: 1,
            taken: 0,
            epoch: 0,
            fenced: 0,
            orders: vec![None; orders],
            outbox: BTreeMap::new(),
            generation: 0,
        }
    }

    pub(super) fn is_over(&self, order: OrderNo) -> bool {
        self.orders[usize::from(order)].is_some_and(|row| row.units == Units::Returned)
    }
}

impl Steps<'_> {
    pub(super) fn orders(&mut self) {
        for count in 1..=BATCH_MAX.min(self.world.broker.partition.len()) {
            self.take(count);
        }
        for order in self.order_numbers() {
            if self.world.left.expiries > 0 {
                self.end(order, OrderStatus::Expired, |world| world.left.expiries -= 1);
            }
            if self.world.left.payments > 0 {
                self.end(order, OrderStatus::Paid, |world| world.left.payments -= 1);
            }
        }
        self.outbox();
        self.totals();
    }

    /// One transaction, then the ack, or a crash before it.
    fn take(&mut self, count: usize) {
        let model = self.model;
        let batch = &self.world.broker.partition[..count];
        self.step(
            || format!("order-service takes {batch:?}"),
            |world| {
                world.place(batch, model);
                world.broker.partition.drain(..count);
            },
        );
        if self.world.left.crashes > 0 {
            self.fault(
                || format!("order-service takes {batch:?} and dies before the ack"),
                |world| {
                    world.place(batch, model);
                    world.left.crashes -= 1;
                },
            );
        }
    }

    /// One of the ways in which an order that waits for payment ends: the condition of one update.
    fn end(&mut self, order: OrderNo, to: OrderStatus, spend: impl FnOnce(&mut World)) {
        let detail = self.model.case.detail;
        let Some(step) = order_step(to) else { return };
        let Some(row) = self.world.postgres.orders[usize::from(order)] else { return };
        if (row.status, Some(row.units)) != (step.from, step.units_from) {
            return;
        }
        self.step(
            || format!("order {order} becomes {to:?}"),
            |world| {
                spend(world);
                let next = Row { status: to, units: step.units_to, version: row.version + 1, ..row };
                world.postgres.orders[usize::from(order)] = Some(next);
                if step.units_to == Units::Returned {
                    world.postgres.taken -= 1;
                }
                if step.event.is_some() {
                    world.tell(order, detail);
                }
            },
        );
    }

    fn outbox(&mut self) {
        let Case { rules, detail, .. } = self.model.case;
        for (news, state) in
            self.world.postgres.outbox.iter().map(|(news, state)| (*news, *state)).collect::<Vec<_>>()
        {
            let News { order, version, .. } = news;
            let row = format!("version {version} of order {order}");
            match state {
                Outbox::Waiting => {
                    self.step(
                        || format!("the outbox publishes {row}"),
                        |world| world.publish(news, Outbox::Done, detail),
                    );
                    if self.world.left.crashes > 0 {
                        self.fault(
                            || format!("the outbox publishes {row} and dies before it is marked"),
                            |world| {
                                world.publish(news, Outbox::Waiting, detail);
                                world.left.crashes -= 1;
                            },
                        );
                    }
                    if self.world.left.pauses > 0 {
                        self.fault(
                            || format!("the outbox publishes {row} and stands still before it is marked"),
                            |world| {
                                let generation = world.postgres.generation;
                                world.publish(news, Outbox::InHand { generation }, detail);
                                world.left.pauses -= 1;
                            },
                        );
                    }
                }
                Outbox::InHand { generation } => self.step(
                    || format!("the outbox marks {row}"),
                    |world| {
                        let same = generation == world.postgres.generation;
                        let counts = same || !rules.hold(Guard::ConfirmOfThisBroker);
                        let state = if counts { Outbox::Done } else { Outbox::Waiting };
                        world.postgres.outbox.insert(news, state);
                    },
                ),
                Outbox::Done => {}
            }
        }
        // The keeper: rows that another transaction has in hand are not published yet as far as it can see.
        self.step(
            || "a new broker is told again what the old one was told".to_owned(),
            |world| {
                let new = world.broker.number != world.postgres.generation;
                world.postgres.generation = world.broker.number;
                if new && rules.hold(Guard::Generation) {
                    for state in world.postgres.outbox.values_mut().filter(|state| **state == Outbox::Done) {
                        *state = Outbox::Waiting;
                    }
                }
            },
        );
    }

    /// An admin changes the total.
    fn totals(&mut self) {
        if self.world.left.raises > 0 {
            self.step(
                || "an admin raises the total".to_owned(),
                |world| {
                    world.left.raises -= 1;
                    world.postgres.total += 1;
                    world.postgres.version += 1;
                },
            );
        }
        if self.world.left.cuts > 0 && self.world.postgres.total > self.world.postgres.taken {
            self.step(
                || "an admin lowers the total".to_owned(),
                |world| {
                    world.left.cuts -= 1;
                    world.postgres.total -= 1;
                    world.postgres.version += 1;
                },
            );
        }
    }
}

impl World {
    /// What `place_orders` does with a batch: read, decide, write.
    fn place(&mut self, batch: &[Message], model: &Model) {
        let Case { rules, detail, .. } = model.case;
        let events: Vec<_> = batch.iter().map(|message| model.wire.event(*message)).collect();
        let mut books = model.wire.books(&self.postgres, rules);
        let decisions = decide(&mut books, &events);
        for (message, decision) in batch.iter().zip(decisions) {
            match (*message, decision) {
                (Message::Reserved { order, .. }, Decision::Place) => {
                    self.postgres.taken += 1;
                    self.insert(order, Row::new(OrderStatus::PendingPayment, None), detail);
                }
                (Message::Reserved { order, .. }, Decision::Reject(reason)) => {
                    self.insert(order, Row::new(OrderStatus::Rejected, Some(reason)), detail);
                }
                (Message::Reserved { order, .. }, Decision::Known) => self.tell(order, detail),
                (Message::Fence { epoch }, Decision::Fence) => {
                    let newest = epoch == self.postgres.epoch || !rules.hold(Guard::LoaderEpoch);
                    if newest {
                        self.postgres.fenced = self.postgres.fenced.max(epoch);
                    }
                }
                (_, Decision::Repeated) => {}
                (Message::Reserved { .. } | Message::Fence { .. }, _) => {
                    self.breach = Some("P7: a good message is parked");
                }
            }
        }
    }

    fn insert(&mut self, order: OrderNo, row: Row, detail: Detail) {
        self.postgres.orders[usize::from(order)] = Some(row);
        self.tell(order, detail);
    }

    /// The order's present state goes into the outbox.
    fn tell(&mut self, order: OrderNo, detail: Detail) {
        let Some(news) = self.news(order) else { return };
        if detail.outbox {
            self.postgres.outbox.insert(news, Outbox::Waiting);
        } else {
            self.publish(news, Outbox::Done, detail);
        }
    }

    fn publish(&mut self, news: News, state: Outbox, detail: Detail) {
        self.broker.stock_news.insert(news);
        if detail.notify {
            self.broker.notify_news.insert(news);
        } else {
            self.told(news);
        }
        self.postgres.outbox.insert(news, state);
    }

    /// What is said of an order now; `None` when there is none, or nobody is told.
    pub(super) fn news(&self, order: OrderNo) -> Option<News> {
        let Row { status, units, version, reason } = self.postgres.orders[usize::from(order)]?;
        present_event(status)?;
        let user = self.buyers[usize::from(order)].user;
        let refused = reason == Some(Reason::SoldOut);
        Some(News { order, user, quantity: 1, units, version, created_ms: NOW_MS, refused })
    }
}
