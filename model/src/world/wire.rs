//! The model's numbers as what order-service's decisions are made of.

use std::collections::HashMap;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use common::api::Order;
use common::ids::{Currency, ItemId, OrderId, Quantity, SaleId, UserId};
use common::messages::order::{OrderV1, Units};
use common::messages::stock::{FenceV1, ReservedV1};
use order_service::place_orders::StockEvent;
use order_service::place_orders::decide::{Books, Item};
use uuid::Uuid;

use super::{Message, Postgres, Row};
use crate::guard::{Guard, Rules};
use crate::shelf::{OrderNo, UserNo};

const ITEM: ItemId = ItemId(Uuid::from_u128(1));
const SALE: SaleId = SaleId(Uuid::from_u128(2));
const PRICE_CENTS: i64 = 5;
/// Orders are numbered from here as ids.
const FIRST_ORDER: u128 = 1_000;

/// What every message and row of the model has in common.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    currency: Currency,
    one: Quantity,
    now: DateTime<Utc>,
    /// By order number.
    users: Vec<UserId>,
}

impl Wire {
    pub(super) fn new(buyers: &[UserNo]) -> anyhow::Result<Self> {
        let users = buyers.iter().map(|user| UserId::try_from(format!("u{user}")));
        Ok(Self {
            currency: Currency::try_from("CNY".to_owned())?,
            one: Quantity::try_from(1)?,
            now: DateTime::from_timestamp(1_790_000_000, 0).context("a time")?,
            users: users.collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn event(&self, message: Message) -> StockEvent {
        match message {
            Message::Fence { epoch } => {
                StockEvent::Fence(FenceV1 { item_id: ITEM, epoch, token: Uuid::from_u128(3) })
            }
            Message::Reserved { order, epoch } => StockEvent::Reserved(ReservedV1 {
                order_id: order_id(order),
                item_id: ITEM,
                sale_id: SALE,
                user_id: self.user(order),
                quantity: self.one,
                unit_price_cents: PRICE_CENTS,
                currency: self.currency.clone(),
                epoch,
                reserved_at: self.now,
            }),
        }
    }

    /// What a transaction reads; all orders instead of those of the batch, which makes no difference.
    pub(super) fn books(&self, postgres: &Postgres, rules: Rules) -> Books {
        let item = Item {
            sale_id: SALE,
            price_cents: PRICE_CENTS,
            currency: self.currency.clone(),
            total: if rules.hold(Guard::Taken) { postgres.total } else { i64::MAX },
            taken: postgres.taken,
            per_user_limit: postgres.limit,
            payment_window_seconds: 60,
            epoch: postgres.epoch,
        };
        let mut books = Books { now: self.now, items: HashMap::from([(ITEM, item)]), ..Books::default() };
        for (order, row) in (0_u8..).zip(&postgres.orders) {
            let Some(row) = row else { continue };
            if row.units != Units::Returned {
                *books.usage.entry((ITEM, self.user(order))).or_default() += 1;
            }
            books.known.insert(order_id(order), self.order(order, *row));
        }
        books
    }

    fn order(&self, order: OrderNo, row: Row) -> OrderV1 {
        let user_id = self.user(order);
        let order = Order {
            id: order_id(order),
            item_id: ITEM,
            sale_id: SALE,
            quantity: self.one,
            unit_price_cents: PRICE_CENTS,
            total_cents: PRICE_CENTS,
            currency: self.currency.clone(),
            status: row.status,
            reason: row.reason,
            refund: None,
            version: row.version,
            created_at: self.now,
            expires_at: None,
        };
        OrderV1 { order, user_id, units: row.units, epoch: 1 }
    }

    fn user(&self, order: OrderNo) -> UserId {
        self.users[usize::from(order)].clone()
    }
}

fn order_id(order: OrderNo) -> OrderId {
    OrderId(Uuid::from_u128(FIRST_ORDER + u128::from(order)))
}
