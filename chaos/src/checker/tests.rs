//! A clean history passes; one minimal bad history for each invariant is found, and by that invariant.

mod scene;

use std::collections::BTreeSet;

use common::api::OrderStatus;
use common::messages::order::Units;

use self::scene::{Build, MS, op, order, time};
use super::check;
use crate::client_log::{Forgery, Function, Outcome, StreamEvent};
use crate::evidence::{
    DeadLetterRow, DeliveryRow, Evidence, NoticeRow, PaymentRow, ProviderRow, Received, ToldRow,
};
use crate::workload::poison::Injected;

/// The invariants that a history breaks.
fn broken(evidence: &Evidence) -> BTreeSet<&'static str> {
    check(evidence).iter().filter(|verdict| !verdict.holds()).map(|verdict| verdict.invariant).collect()
}

/// The clean history with one thing changed breaks this invariant; what else it breaks follows from that.
#[track_caller]
fn breaks(invariant: &str, change: impl FnOnce(&mut Evidence)) {
    let mut evidence = Build::clean();
    change(&mut evidence);
    let broken = broken(&evidence);
    assert!(broken.contains(invariant), "{invariant} was not found, only {broken:?}");
}

#[test]
fn a_clean_history_passes() {
    let verdicts = check(&Build::clean());
    let found: Vec<_> = verdicts.iter().filter(|verdict| !verdict.holds()).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn s1_finds_more_taken_than_there_is_even_for_a_moment() {
    breaks("S1", |evidence| {
        let item = &mut evidence.samples[1].ledger.as_mut().unwrap()[0];
        (item.taken, item.held) = (11, 9);
    });
    breaks("S1", |evidence| evidence.books.items[0].taken = 2);
}

#[test]
fn s2_finds_an_order_that_only_one_side_has() {
    breaks("S2", |evidence| {
        let inventory = evidence.books.inventory.values_mut().next().unwrap();
        let sold = inventory.holds.iter().find(|(_, (_, units))| *units == Units::Sold);
        let id = *sold.unwrap().0;
        inventory.holds.remove(&id);
    });
    breaks("S2", |evidence| evidence.books.inventory.values_mut().next().unwrap().available += 1);
}

#[test]
fn s3_finds_books_that_do_not_add_up_for_a_moment() {
    breaks("S3", |evidence| evidence.samples[1].inventory.as_mut().unwrap()[0].available += 1);
    breaks("S3", |evidence| evidence.samples[1].inventory.as_mut().unwrap()[0].buyers += 1);
}

#[test]
fn s4_finds_an_epoch_that_grants_more_than_it_had() {
    breaks("S4", |evidence| evidence.samples[0].inventory.as_mut().unwrap()[0].available = 0);
}

#[test]
fn s5_finds_units_that_leave_twice() {
    breaks("S5", |evidence| {
        let last = evidence.books.transitions.last_mut().unwrap();
        last.units = Units::Returned;
        let mut again = last.clone();
        (again.version, again.units) = (3, Units::Held);
        evidence.books.transitions.push(again);
    });
    breaks("S5", |evidence| evidence.samples[2].inventory.as_mut().unwrap()[0].versions = 1);
}

#[test]
fn s6_finds_a_user_with_too_many() {
    breaks("S6", |evidence| evidence.samples[1].ledger.as_mut().unwrap()[0].most_of_one_user = 3);
}

#[test]
fn s7_finds_a_sold_out_that_cannot_be_true() {
    breaks("S7", |evidence| {
        let mut refused = op(Function::Reserve, "late", "k", 1, 2_600 * MS);
        (refused.kind, refused.http, refused.code) = (Outcome::Fail, Some(409), Some("sold_out".to_owned()));
        evidence.history.ops.push(refused);
    });
}

#[test]
fn s8_finds_units_that_nobody_gets() {
    breaks("S8", |evidence| {
        let item = evidence.facts.items[0].id;
        evidence.facts.unserved.insert(item, 20);
    });
}

#[test]
fn a1_finds_an_accepted_order_that_is_gone_or_another() {
    breaks("A1", |evidence| drop(evidence.books.orders.remove(0)));
    breaks("A1", |evidence| evidence.books.orders[0].quantity = 2);
}

#[test]
fn a2_finds_an_order_that_nobody_asked_for() {
    breaks("A2", |evidence| {
        let phantom = order("nobody", "never", OrderStatus::Cancelled);
        evidence.books.orders.push(phantom);
    });
}

#[test]
fn a3_finds_an_effect_of_a_refusal() {
    breaks("A3", |evidence| {
        for op in evidence.history.ops.iter_mut().filter(|op| op.user == "payer" && op.f == Function::Reserve)
        {
            (op.kind, op.http, op.answered) = (Outcome::Fail, Some(503), None);
        }
    });
    // Also when a later attempt is accepted.
    breaks("A3", |evidence| {
        let mut later = evidence.history.ops[0].clone();
        (later.t0, later.t1) = (1_500 * MS, 1_501 * MS);
        let first = &mut evidence.history.ops[0];
        (first.kind, first.http, first.answered) = (Outcome::Fail, Some(503), None);
        evidence.history.ops.push(later);
    });
}

#[test]
fn a4_finds_two_orders_of_one_key_and_another_quantity_accepted() {
    breaks("A4", |evidence| {
        let other = evidence.books.orders[1].id;
        evidence.history.ops[0].answered = Some(other);
    });
    breaks("A4", |evidence| {
        let mut again = op(Function::Reserve, "payer", "k", 2, 2_000 * MS);
        again.answered = again.rid;
        evidence.history.ops.push(again);
    });
}

#[test]
fn a5_finds_a_broken_promise() {
    breaks("A5", |evidence| evidence.books.orders[0].status = OrderStatus::Rejected);
}

#[test]
fn a6_finds_a_read_that_goes_back_and_one_that_finds_nothing() {
    breaks("A6", |evidence| {
        let mut read = op(Function::Get, "payer", "k", 0, 2_500 * MS);
        (read.version, read.state, read.answered) = (Some(1), Some(OrderStatus::PendingPayment), read.rid);
        evidence.history.ops.push(read);
    });
    breaks("A6", |evidence| {
        let mut read = op(Function::Get, "payer", "k", 0, 2_500 * MS);
        (read.http, read.kind) = (Some(404), Outcome::Fail);
        evidence.history.ops.push(read);
    });
}

#[test]
fn a7_finds_a_step_that_is_not_in_the_table() {
    breaks("A7", |evidence| {
        let last = evidence.books.transitions.last_mut().unwrap();
        last.to_status = OrderStatus::Refunded;
    });
    breaks("A7", |evidence| evidence.books.transitions[1].version = 3);
}

#[test]
fn a8_finds_an_order_that_lapsed_too_early() {
    breaks("A8", |evidence| {
        let lapsed = evidence.books.transitions.iter_mut().find(|row| row.to_status == OrderStatus::Paid);
        let lapsed = lapsed.unwrap();
        (lapsed.to_status, lapsed.at) = (OrderStatus::Expired, time(1_000));
    });
}

#[test]
fn a9_finds_a_retry_that_is_told_sold_out() {
    breaks("A9", |evidence| {
        let mut again = op(Function::Reserve, "payer", "k", 1, 2_500 * MS);
        (again.kind, again.http, again.code) = (Outcome::Fail, Some(409), Some("sold_out".to_owned()));
        evidence.history.ops.push(again);
    });
}

#[test]
fn p1_finds_a_paid_order_without_its_payment() {
    breaks("P1", |evidence| evidence.books.payments[0].status = "failed".to_owned());
    breaks("P1", |evidence| evidence.books.payments[0].amount_cents -= 1);
}

#[test]
fn p2_finds_kept_money_that_was_never_captured() {
    breaks("P2", |evidence| evidence.books.provider[0].captured_at = None);
}

#[test]
fn p3_finds_money_of_a_cancelled_order_that_did_not_go_back() {
    breaks("P3", |evidence| {
        let order = evidence.books.orders[1].id;
        let payment =
            PaymentRow { id: scene::payment(2), order_id: order, ..evidence.books.payments[0].clone() };
        let captured =
            ProviderRow { payment_id: payment.id, order_id: order, ..evidence.books.provider[0].clone() };
        evidence.books.payments.push(payment);
        evidence.books.provider.push(captured);
    });
}

#[test]
fn p3_finds_a_refund_whose_next_attempt_would_be_another() {
    breaks("P3", |evidence| {
        let entry = &mut evidence.books.provider[0];
        (entry.refunded_at, entry.refund_no) = (entry.captured_at, Some(entry.order_id.0));
    });
}

#[test]
fn p4_finds_a_repeated_notice_that_is_refused() {
    breaks("P4", |evidence| {
        let mut notice = op(Function::Callback, "payer", "k", 0, 2_200 * MS);
        (notice.kind, notice.http) = (Outcome::Fail, Some(409));
        evidence.history.ops.push(notice);
    });
}

#[test]
fn p5_finds_a_forged_notice_that_is_believed() {
    breaks("P5", |evidence| {
        let mut notice = op(Function::Callback, "payer", "k", 0, 2_200 * MS);
        (notice.http, notice.forgery) = (Some(204), Some(Forgery::WrongAmount));
        evidence.history.ops.push(notice);
    });
    breaks("P5", |evidence| {
        let notice = NoticeRow { event_id: "forged-1".to_owned(), payment_id: scene::payment(1) };
        evidence.books.notices.push(notice);
    });
}

#[test]
fn p8_finds_a_stranger_who_sees_an_order() {
    breaks("P8", |evidence| {
        let mut read = op(Function::Get, "payer", "k", 0, 2_500 * MS);
        read.user = "stranger".to_owned();
        evidence.history.ops.push(read);
    });
}

#[test]
fn m1_finds_what_is_still_under_way() {
    breaks("M1", |evidence| evidence.books.outbox_unpublished = 1);
    breaks("M1", |evidence| {
        evidence.books.queues.insert("notify-service.orders".to_owned(), 1);
    });
}

#[test]
fn m2_finds_a_good_message_that_was_parked_and_a_poison_that_was_not() {
    breaks("M2", |evidence| {
        let (queue, reason) = ("stock-service.orders".to_owned(), String::new());
        evidence.books.dead_letters.push(DeadLetterRow { queue, reason, body: "{}".to_owned() });
    });
    breaks("M2", |evidence| {
        evidence.facts.poison.push(Injected { marker: "poison-1".to_owned(), queues: 1 });
    });
}

#[test]
fn m3_finds_a_delivery_that_never_arrived_and_one_event_under_two_ids() {
    breaks("M3", |evidence| {
        let event_id = uuid::Uuid::from_u128(7);
        evidence.books.deliveries.push(DeliveryRow { event_id, state: "delivered".to_owned() });
    });
    breaks("M3", |evidence| {
        let body = r#"{"type":"order.paid","data":{"id":"x","version":2}}"#.to_owned();
        let attempt = Received { id: "msg_1".to_owned(), body, answered: 500, genuine: true };
        let second = Received { id: "msg_2".to_owned(), ..attempt.clone() };
        evidence.facts.received.extend([attempt, second]);
    });
}

#[test]
fn m4_finds_a_gap_in_a_stream() {
    breaks("M4", |evidence| {
        let row = &evidence.books.told[1];
        let event = StreamEvent {
            user: row.user_id.clone(),
            connection: 0,
            after: 0,
            at: 0,
            seq: row.seq,
            rid: row.order_id,
            state: row.status,
            version: row.version,
        };
        evidence.history.events.push(event);
    });
    breaks("M4", |evidence| evidence.facts.listeners.push("payer".to_owned()));
}

#[test]
fn m5_finds_a_change_that_nobody_was_told_of_and_one_told_twice() {
    breaks("M5", |evidence| drop(evidence.books.told.pop()));
    breaks("M5", |evidence| {
        let last = evidence.books.told.last().unwrap().clone();
        evidence.books.told.push(ToldRow { seq: last.seq + 1, ..last });
    });
}

#[test]
fn c1_finds_an_answer_that_is_not_documented() {
    breaks("C1", |evidence| evidence.history.ops[0].http = Some(500));
    breaks("C1", |evidence| {
        let mut put_off = op(Function::Reserve, "payer", "k2", 1, 2_500 * MS);
        (put_off.http, put_off.kind) = (Some(503), Outcome::Info);
        evidence.history.ops.push(put_off);
    });
}

#[test]
fn h1_l1_and_l2_find_what_they_are_told() {
    breaks("H1", |evidence| evidence.facts.log_findings.push("gateway: panicked at".to_owned()));
    breaks("L1", |evidence| evidence.facts.not_quiet = Some("2 refunds".to_owned()));
    breaks("L2", |evidence| {
        let mut read = op(Function::Get, "payer", "k", 0, 2_500 * MS);
        (read.http, read.kind, read.note) = (Some(503), Outcome::Fail, Some("at rest".to_owned()));
        evidence.history.ops.push(read);
    });
}
