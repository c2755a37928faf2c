//! A small clean history: two buyers of one item, one pays and one cancels.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use common::api::OrderStatus;
use common::ids::{IdempotencyKey, ItemId, OrderId, PaymentId, UserId};
use common::messages::order::Units;
use uuid::Uuid;

use crate::client_log::{Function, History, Op, Outcome};
use crate::evidence::{
    Books, Evidence, Facts, Inventory, InventorySample, ItemFact, ItemRow, LedgerSample, OrderRow,
    PaymentRow, ProviderRow, Sample, ToldRow, TransitionRow,
};

/// A millisecond of the log.
pub const MS: u64 = 1_000_000;
const PRICE_CENTS: i64 = 500;
const STOCK: i64 = 10;
const WINDOW_S: u32 = 3;

/// Builds histories.
pub struct Build;

fn item() -> ItemId {
    ItemId(Uuid::from_u128(0x1234))
}

/// A moment so many milliseconds after the log began.
pub fn time(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap() + chrono::Duration::milliseconds(ms)
}

pub fn payment(n: u128) -> PaymentId {
    PaymentId(Uuid::from_u128(n))
}

fn id(user: &str, key: &str) -> OrderId {
    let user = UserId::try_from(user.to_owned()).unwrap();
    OrderId::derive(&user, item(), &IdempotencyKey::try_from(key.to_owned()).unwrap())
}

/// A successful operation that took a millisecond; what differs is set by the caller.
pub fn op(f: Function, user: &str, key: &str, qty: u32, at: u64) -> Op {
    let http = match f {
        Function::Reserve => 202,
        Function::Pay => 201,
        Function::Get | Function::Cancel | Function::Checkout | Function::Sse | Function::Admin => 200,
        Function::Callback => 204,
    };
    Op {
        op: at / MS,
        process: 0,
        f,
        user: user.to_owned(),
        item: Some(item()),
        qty,
        key: Some(key.to_owned()),
        t0: at,
        t1: at + MS,
        http: Some(http),
        code: None,
        hdr: BTreeMap::new(),
        rid: Some(id(user, key)),
        answered: None,
        state: None,
        version: None,
        forgery: None,
        kind: Outcome::Ok,
        note: None,
    }
}

pub fn order(user: &str, key: &str, status: OrderStatus) -> OrderRow {
    let units = if status == OrderStatus::Paid { Units::Sold } else { Units::Returned };
    OrderRow {
        id: id(user, key),
        item_id: item(),
        user_id: user.to_owned(),
        quantity: 1,
        unit_price_cents: PRICE_CENTS,
        status,
        units,
        reason: None,
        refund: None,
        version: 2,
        epoch: 1,
        reserved_at: time(1_000),
        created_at: time(1_050),
        expires_at: Some(time(1_050 + i64::from(WINDOW_S) * 1_000)),
    }
}

fn life(order: &OrderRow) -> [TransitionRow; 2] {
    let made = TransitionRow {
        order_id: order.id,
        version: 1,
        from_status: None,
        to_status: OrderStatus::PendingPayment,
        units: Units::Held,
        at: order.created_at,
    };
    let ended = TransitionRow {
        version: 2,
        from_status: Some(OrderStatus::PendingPayment),
        to_status: order.status,
        units: order.units,
        at: time(2_000),
        ..made.clone()
    };
    [made, ended]
}

fn told(transitions: &[TransitionRow], user: &str) -> Vec<ToldRow> {
    let rows = (1..).zip(transitions).map(|(seq, transition)| ToldRow {
        user_id: user.to_owned(),
        seq,
        order_id: transition.order_id,
        version: transition.version,
        status: transition.to_status,
    });
    rows.collect()
}

fn sample(at_ms: u64, taken: i64, first: bool) -> Sample {
    let ledger = LedgerSample {
        item: item(),
        total: STOCK,
        taken,
        held: taken,
        sold: 0,
        most_of_one_user: taken.min(1),
    };
    let inventory = InventorySample {
        item: item(),
        epoch: 1,
        total: STOCK,
        available: STOCK - taken,
        withheld: 0,
        active: taken,
        buyers: taken,
        versions: taken,
        orders: first.then(Default::default),
    };
    let from = at_ms * MS;
    Sample { from, until: from + MS, ledger: Some(vec![ledger]), inventory: Some(vec![inventory]) }
}

impl Build {
    /// Nothing is wrong with it.
    pub fn clean() -> Evidence {
        let (paid, cancelled) =
            (order("payer", "k", OrderStatus::Paid), order("leaver", "k", OrderStatus::Cancelled));
        let reserve = |user: &str| {
            let mut op = op(Function::Reserve, user, "k", 1, 1_000 * MS);
            op.answered = op.rid;
            op
        };
        let read = |order: &OrderRow| {
            let mut op = op(Function::Get, &order.user_id, "k", 0, 2_100 * MS);
            (op.answered, op.version, op.state) = (op.rid, Some(order.version), Some(order.status));
            op
        };
        let cancel = op(Function::Cancel, "leaver", "k", 0, 1_990 * MS);
        let ops = vec![reserve("payer"), reserve("leaver"), cancel, read(&paid), read(&cancelled)];
        let (life_paid, life_cancelled) = (life(&paid), life(&cancelled));
        let kept = PaymentRow {
            id: payment(1),
            order_id: paid.id,
            amount_cents: PRICE_CENTS,
            status: "kept".to_owned(),
        };
        let captured = ProviderRow {
            payment_id: kept.id,
            order_id: paid.id,
            amount_cents: PRICE_CENTS,
            captured_at: Some(time(1_900)),
            refunded_at: None,
            refund_no: None,
        };
        let holds = [(paid.id, (1, Units::Sold)), (cancelled.id, (1, Units::Returned))];
        let inventory = Inventory {
            open: true,
            epoch: 1,
            total: STOCK,
            available: STOCK - 1,
            holds: holds.into(),
            buyers: [("payer".to_owned(), 1)].into(),
            ..Inventory::default()
        };
        let items = vec![ItemRow { id: item(), total: STOCK, taken: 1, epoch: 1 }];
        let books = Books {
            told: [told(&life_paid, "payer"), told(&life_cancelled, "leaver")].concat(),
            transitions: [life_cancelled, life_paid].concat(),
            orders: vec![paid, cancelled],
            items,
            payments: vec![kept],
            provider: vec![captured],
            inventory: [(item(), inventory)].into(),
            ..Books::default()
        };
        let fact = ItemFact { id: item(), stock: STOCK, limit: 2, price_cents: PRICE_CENTS };
        let facts = Facts { items: vec![fact], window_s: WINDOW_S, lease_ms: 400, ..Facts::default() };
        let mut ended = sample(3_000, 1, false);
        ended.inventory.iter_mut().flatten().for_each(|item| item.versions = 4);
        let samples = vec![sample(100, 0, true), sample(1_500, 2, false), sample(1_700, 2, false), ended];
        Evidence { facts, history: History { began: time(0), ops, events: Vec::new() }, samples, books }
    }
}
