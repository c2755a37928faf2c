//! `withdraw.lua` and `reclaim.lua`: units go off offer before a total is lowered by them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::api::inventory::{GaveBack, GiveBack, ReserveOutcome, Withdraw, WithdrawOutcome};
use common::ids::ItemId;
use common::messages::order::Units;
use futures_util::future::join_all;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stock_service::inventory::{Begun, BooksChecked, Inventory, Reading, Updated, Withdrawn};
use stock_service::keys::ItemKeys;
use stock_service::stock::{Applied, OrderState, Shut};
use uuid::Uuid;

use crate::support::app::TestApp;
use crate::support::shelf::{LEASE_MS, Shelf, granted};

const SALES_AT_ONCE: usize = 40;

/// Available and withheld.
async fn figures(shelf: &Shelf) -> (i64, i64) {
    shelf.assert_balanced().await;
    let figures = shelf.figures().await;
    (figures.available, figures.withheld)
}

async fn withdraw(shelf: &Shelf, units: u32) -> Withdrawn {
    shelf.inventory.withdraw(&shelf.keys, 0, units).await.unwrap()
}

async fn give_back(shelf: &Shelf, epoch: i64, units: u32) -> i64 {
    shelf.inventory.give_back_withdrawn(&shelf.keys, epoch, units, LEASE_MS).await.unwrap()
}

async fn lower(shelf: &Shelf, total: i64, version: i64) {
    let mut item = shelf.definition(total, 100);
    item.version = version;
    assert_eq!(shelf.inventory.update_item(&shelf.keys, 0, LEASE_MS, &item).await.unwrap(), Updated::Changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_on_offer_is_withdrawn_all_of_it_or_nothing() {
    let shelf = Shelf::open(10, 100).await;
    assert!(granted(shelf.reserve("a", "k", 4).await));
    assert_eq!(withdraw(&shelf, 7).await, Withdrawn::NotEnough { available: 6 });
    assert_eq!(figures(&shelf).await, (6, 0));
    assert_eq!(withdraw(&shelf, 6).await, Withdrawn::Done { epoch: 1 });
    assert_eq!(figures(&shelf).await, (0, 6));
    assert!(!granted(shelf.reserve("b", "k", 1).await), "it is off offer");
    assert_eq!(withdraw(&shelf, 1).await, Withdrawn::NotEnough { available: 0 });
    // An order that Redis had lost: there is a deficit, and still nothing to withdraw.
    assert_eq!(shelf.apply(&[shelf.order("lost", "k", 2, (Units::Held, 1))]).await, [Applied::Adopted]);
    assert_eq!(
        figures(&shelf).await,
        (-2, 6),
        "what is withdrawn belongs to the total that is to be lowered"
    );
    assert_eq!(withdraw(&shelf, 1).await, Withdrawn::NotEnough { available: -2 });
    lower(&shelf, 4, 2).await;
    assert_eq!(figures(&shelf).await, (-2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn withdrawing_while_everybody_buys_never_takes_what_was_granted() {
    let shelf = Shelf::open(40, 100).await;
    let names: Vec<String> = (0..SALES_AT_ONCE).map(|n| format!("u{n}")).collect();
    let buying = join_all(names.iter().map(|name| shelf.reserve(name, "k", 1)));
    let withdrawing = join_all((0..SALES_AT_ONCE).map(|_| withdraw(&shelf, 1)));
    let (bought, withdrawn) = tokio::join!(buying, withdrawing);
    let bought = bought.into_iter().filter(|decision| granted(*decision)).count();
    let withdrawn = withdrawn.iter().filter(|outcome| matches!(outcome, Withdrawn::Done { .. })).count();
    assert_eq!(bought + withdrawn, 40);
    assert_eq!(figures(&shelf).await, (0, i64::try_from(withdrawn).unwrap()));
    lower(&shelf, i64::try_from(bought).unwrap(), 2).await;
    assert_eq!(figures(&shelf).await, (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_what_was_withdrawn_and_not_claimed_is_given_back() {
    let shelf = Shelf::open(10, 100).await;
    // A refusal by the total withholds units that nobody withdrew.
    assert!(granted(shelf.reserve("a", "k", 2).await));
    let refused = OrderState { refused_by_total: true, ..shelf.order("a", "k", 2, (Units::Returned, 1)) };
    assert_eq!(shelf.apply(&[refused]).await, [Applied::Withheld]);
    assert_eq!(give_back(&shelf, 1, 5).await, 0);
    assert_eq!(figures(&shelf).await, (8, 2));

    assert_eq!(withdraw(&shelf, 5).await, Withdrawn::Done { epoch: 1 });
    assert_eq!(give_back(&shelf, 1, 2).await, 2);
    assert_eq!(give_back(&shelf, 1, 100).await, 3, "no more than is left");
    assert_eq!(figures(&shelf).await, (8, 2));

    assert_eq!(withdraw(&shelf, 3).await, Withdrawn::Done { epoch: 1 });
    lower(&shelf, 7, 2).await;
    assert_eq!(give_back(&shelf, 1, 3).await, 0, "the lower total has claimed them");
    assert_eq!(figures(&shelf).await, (5, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_made_an_item_sell_out_comes_back_after_the_lease() {
    let shelf = Shelf::open(1, 100).await;
    assert_eq!(withdraw(&shelf, 1).await, Withdrawn::Done { epoch: 1 });
    let lease_ms = 600_000;
    let given = shelf.inventory.give_back_withdrawn(&shelf.keys, 1, 1, lease_ms).await.unwrap();
    assert_eq!((given, figures(&shelf).await), (1, (1, 0)));
    assert!(!granted(shelf.reserve("b", "k", 1).await), "some gateway may still refuse from before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_gate_and_another_epoch_change_nothing() {
    let shelf = Shelf::empty().await;
    assert_eq!(withdraw(&shelf, 1).await, Withdrawn::Shut(Shut::Unknown));
    shelf.load(1, &shelf.definition(10, 100), &[]).await;
    assert_eq!(withdraw(&shelf, 4).await, Withdrawn::Done { epoch: 1 });
    let stale = shelf.inventory.withdraw(&shelf.keys, 2, 1).await.unwrap();
    assert_eq!(stale, Withdrawn::Shut(Shut::Closed), "a newer epoch was handed out");

    let begun = shelf.inventory.begin_load(&shelf.keys, 2).await.unwrap();
    assert!(matches!(begun, Begun::Yes { .. }));
    let closed = shelf.dump().await;
    assert_eq!(withdraw(&shelf, 1).await, Withdrawn::Shut(Shut::Closed));
    assert_eq!(give_back(&shelf, 1, 4).await, 0);
    assert_eq!(shelf.dump().await, closed);

    shelf.load(3, &shelf.definition(10, 100), &[]).await;
    assert_eq!(figures(&shelf).await, (10, 0), "a load forgets what was withdrawn");
    assert_eq!(withdraw(&shelf, 2).await, Withdrawn::Done { epoch: 3 });
    assert_eq!(give_back(&shelf, 1, 4).await, 0, "these are another admin's");
    assert_eq!(give_back(&shelf, 3, 2).await, 2);

    shelf.redis_command(&["DEL", &shelf.keys.item]).await;
    shelf.redis_command(&["SET", &shelf.keys.item, "evil"]).await;
    assert_eq!(withdraw(&shelf, 1).await, Withdrawn::Shut(Shut::Broken));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_withdrawal_that_nobody_has_claimed_for_long_closes_the_gate() {
    let shelf = Shelf::open(10, 100).await;
    let reclaim =
        async |inventory: &Inventory, after| inventory.reclaim(&shelf.keys, 0, after).await.unwrap();
    let (at_once, later) = (Duration::ZERO, Duration::from_secs(600));
    assert!(!reclaim(&shelf.inventory, at_once).await, "nothing was withdrawn");
    withdraw(&shelf, 3).await;
    assert!(!reclaim(&shelf.inventory, later).await, "it may still be claimed");
    lower(&shelf, 7, 2).await;
    assert!(!reclaim(&shelf.inventory, at_once).await, "it was claimed");
    withdraw(&shelf, 3).await;
    assert_eq!(
        shelf.inventory.check_books(&shelf.keys, 0, 100, Reading::Check).await.unwrap(),
        BooksChecked::Sound
    );
    assert!(reclaim(&shelf.inventory, at_once).await);
    assert_eq!(shelf.shut().await, Some(Shut::Closed));
    assert_eq!(shelf.inventory.look(&shelf.keys).await.unwrap().alarms, 0, "nothing was wrong");
    assert!(!reclaim(&shelf.inventory, at_once).await, "once is enough");
}

async fn post<Q: Serialize, A: DeserializeOwned>(app: &TestApp, path: &str, body: &Q) -> A {
    let answer = app.post(path).json(body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_tells_the_outcomes_apart() {
    let app = TestApp::start().await;
    let item = app.open_item(5, 1).await;
    let path = format!("/items/{item}/withdraw");
    for body in ["{}", r#"{"units":0}"#, r#"{"units":-1}"#, "3"] {
        let answer = app.post(&path).header("content-type", "application/json").body(body).send().await;
        assert_eq!(answer.unwrap().status(), 400, "{body}");
    }
    let ask = async |units| post::<_, WithdrawOutcome>(&app, &path, &Withdraw { units }).await;
    assert_eq!(ask(6).await, WithdrawOutcome::NotEnough { available: 5 });
    assert_eq!(ask(4).await, WithdrawOutcome::Withdrawn { epoch: 1 });
    let back = |units, epoch| (format!("{path}/return"), GiveBack { units, epoch });
    for ((path, wish), units) in [(back(4, 2), 0), (back(3, 1), 3), (back(3, 1), 1), (back(1, 1), 0)] {
        assert_eq!(post::<_, GaveBack>(&app, &path, &wish).await, GaveBack { units }, "{wish:?}");
    }
    let unknown = format!("/items/{}/withdraw", ItemId(Uuid::new_v4()));
    let outcome: WithdrawOutcome = post(&app, &unknown, &Withdraw { units: 1 }).await;
    assert_eq!(outcome, WithdrawOutcome::UnknownItem);

    app.orders.switches.away.store(true, Ordering::SeqCst);
    let _: i64 = app.redis_command(&["HDEL", &ItemKeys::of(item).item, "run_id"]).await;
    assert_eq!(ask(1).await, WithdrawOutcome::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn units_that_nobody_claims_are_on_offer_again_after_a_load_and_a_late_claim_is_fenced_off() {
    let app =
        TestApp::start_with(&[("RECONCILE__INTERVAL_MS", "200"), ("RECONCILE__WITHDRAWN_MS", "500")]).await;
    let item = app.open_item(2, 1).await;
    let outcome: WithdrawOutcome =
        post(&app, &format!("/items/{item}/withdraw"), &Withdraw { units: 2 }).await;
    assert_eq!(outcome, WithdrawOutcome::Withdrawn { epoch: 1 });
    testkit::eventually("the units are on offer again", async || {
        Some(app.books(item).await).filter(|books| books.epoch == 2 && books.available == 2)
    })
    .await;
    assert_eq!(app.orders.switches.epochs.load(Ordering::SeqCst), 2, "whoever withdrew them learns by this");
    assert_eq!(app.reserve_until_decided(item, "a", "k", 1).await, ReserveOutcome::Accepted);
    assert_eq!(app.assert_quiet_and_equal(item).await.available, 1);
}
