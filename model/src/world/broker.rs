//! RabbitMQ: the item's partition, which keeps its order, and the queues of order events, which do not.

use std::collections::BTreeSet;

use super::{Steps, World};
use crate::shelf::{News, OrderNo};

/// What a partition carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Message {
    /// `stock.reserved.v1`
    Reserved {
        /// The order to be.
        order: OrderNo,
        /// The epoch of the grant.
        epoch: i64,
    },
    /// `stock.fence.v1`; the epoch stands for the token.
    Fence {
        /// The epoch.
        epoch: i64,
    },
}

/// The broker.
#[derive(Default, Debug, Clone, PartialEq, Eq, Hash)]
pub struct Broker {
    /// `order-service.reservations.<n>`: one consumer at a time, and what comes back comes first.
    pub partition: Vec<Message>,
    /// `stock-service.orders`: several consumers, so in any order.
    pub stock_news: BTreeSet<News>,
    /// `notify-service.orders`.
    pub notify_news: BTreeSet<News>,
    /// Which broker this is: each loss of its data makes another one of it.
    pub number: u8,
}

impl Steps<'_> {
    /// notify-service tells.
    pub(super) fn broker(&mut self) {
        for news in self.world.broker.notify_news.iter().copied().collect::<Vec<_>>() {
            let News { order, version, .. } = news;
            self.step(
                || format!("the user is told of version {version} of order {order}"),
                |world| {
                    world.broker.notify_news.remove(&news);
                    world.told(news);
                },
            );
        }
    }
}

impl World {
    /// A user hears of an order; of what is older than the last time only the bell is heard.
    pub(super) fn told(&mut self, news: News) {
        let buyer = &mut self.buyers[usize::from(news.order)];
        buyer.told = buyer.told.max(news.version);
    }
}
