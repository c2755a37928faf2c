//! Random sequences of everything the scripts do, against a small model of the books.

use std::collections::{BTreeMap, BTreeSet};

use common::api::inventory::AdminHold;
use common::messages::order::Units;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use stock_service::stock::{Applied, Decision, OrderState, Refusal, Shut};

use crate::support::shelf::{ATTEMPTS_MAX, Shelf, refused};

const USERS: usize = 4;
const KEYS: usize = 4;
const LIMIT: u32 = 3;
const CASES: u32 = 48;

#[derive(Debug, Clone)]
enum Step {
    Reserve(Vec<(usize, usize, u32)>),
    Apply { user: usize, key: usize, quantity: u32, units: Units, version: i64, refused: bool },
    Total { total: i64 },
    Reload { known: BTreeSet<(usize, usize)> },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wish = (0..USERS, 0..KEYS, 1..=3_u32);
    let units = prop_oneof![Just(Units::Held), Just(Units::Sold), Just(Units::Returned)];
    let apply = (0..USERS, 0..KEYS, 1..=3_u32, units, 1..=4_i64, any::<bool>()).prop_map(
        |(user, key, quantity, units, version, refused)| Step::Apply {
            user,
            key,
            quantity,
            units,
            version,
            refused,
        },
    );
    let step = prop_oneof![
        6 => prop::collection::vec(wish, 1..6).prop_map(Step::Reserve),
        6 => apply,
        1 => (0..12_i64).prop_map(|total| Step::Total { total }),
        1 => prop::collection::btree_set((0..USERS, 0..KEYS), 0..8).prop_map(|known| Step::Reload { known }),
    ];
    prop::collection::vec(step, 1..40)
}

#[derive(Debug, Clone, Copy)]
struct ModelHold {
    quantity: u32,
    units: Units,
    version: i64,
    settled: bool,
}

/// What the books should be, computed the simplest way: availability is not counted along but derived.
#[derive(Debug, Default)]
struct Model {
    total: i64,
    withheld: i64,
    holds: BTreeMap<(usize, usize), ModelHold>,
}

impl Model {
    fn active(&self, of: impl Fn(&(usize, usize)) -> bool) -> i64 {
        let active = self.holds.iter().filter(|(id, hold)| of(id) && hold.units != Units::Returned);
        active.map(|(_, hold)| i64::from(hold.quantity)).sum()
    }

    fn available(&self) -> i64 {
        self.total - self.active(|_| true) - self.withheld
    }

    fn attempts(&self, user: usize) -> usize {
        self.holds.keys().filter(|id| id.0 == user).count()
    }

    fn reserve(&mut self, user: usize, key: usize, quantity: u32) -> Result<bool, Refusal> {
        if let Some(hold) = self.holds.get(&(user, key)) {
            return if hold.quantity == quantity { Ok(false) } else { Err(Refusal::Mismatch) };
        }
        if self.active(|id| id.0 == user) + i64::from(quantity) > i64::from(LIMIT) {
            return Err(Refusal::OverLimit);
        }
        if self.attempts(user) >= usize::try_from(ATTEMPTS_MAX).unwrap() {
            return Err(Refusal::TooManyAttempts);
        }
        if self.available() < i64::from(quantity) {
            return Err(Refusal::NotEnough);
        }
        self.holds
            .insert((user, key), ModelHold { quantity, units: Units::Held, version: 0, settled: false });
        Ok(true)
    }

    fn apply(&mut self, id: (usize, usize), order: &OrderState) {
        let available_before = self.available();
        let before = self.holds.get(&id).copied();
        if let Some(hold) = self.holds.get_mut(&id) {
            hold.settled = true;
            if hold.version >= order.version {
                return;
            }
        }
        let quantity = order.quantity.get();
        let hold = ModelHold { quantity, units: order.units, version: order.version, settled: true };
        self.holds.insert(id, hold);
        let came_back = self.available() - available_before;
        if came_back > 0 && order.refused_by_total && before.is_some() {
            // Withheld, as far as no deficit is open.
            self.withheld += came_back - came_back.min((-available_before).max(0));
        } else if came_back < 0 {
            self.withheld -= self.withheld.min(-came_back);
        }
    }

    fn contradicts(&self, id: (usize, usize), order: &OrderState) -> bool {
        let stage =
            |units: Units| [Units::Held, Units::Sold, Units::Returned].iter().position(|u| *u == units);
        let Some(hold) = self.holds.get(&id) else { return false };
        hold.quantity != order.quantity.get()
            || order.version > hold.version && stage(order.units) < stage(hold.units)
            || order.version == hold.version && order.units != hold.units
    }

    fn set_total(&mut self, total: i64) {
        self.withheld -= self.withheld.min((self.total - total).max(0));
        self.total = total;
    }
}

fn names(user: usize, key: usize) -> (String, String) {
    (format!("u{user}"), format!("k{key}"))
}

async fn run(steps: Vec<Step>, total: i64) {
    let shelf = Shelf::open(total, LIMIT).await;
    let mut model = Model { total, ..Model::default() };
    let (mut item_version, mut epoch) = (1, 1);
    for step in steps {
        match &step {
            Step::Reserve(wishes) => reserve(&shelf, &mut model, wishes).await,
            Step::Apply { user, key, quantity, units, version, refused } => {
                let (name, key_name) = names(*user, *key);
                let known = model.holds.get(&(*user, *key)).map_or(*quantity, |hold| hold.quantity);
                // Now and then an order that is not the one that was reserved.
                let quantity = if *quantity == 3 { *quantity } else { known };
                let order = shelf.order(&name, &key_name, quantity, (*units, *version));
                let refused_by_total = *refused && *units == Units::Returned;
                let order = OrderState { refused_by_total, ..order };
                let applied =
                    shelf.inventory.apply_orders(&shelf.keys, 0, 0, std::slice::from_ref(&order)).await;
                if model.contradicts((*user, *key), &order) {
                    assert_eq!(applied.unwrap(), (Some(Shut::Broken), vec![Applied::Contradicts]));
                    epoch += 1;
                    let mut item = shelf.definition(model.total, LIMIT);
                    item.version = item_version;
                    reload(&shelf, &mut model, epoch, &item, &BTreeSet::new()).await;
                } else {
                    assert!(!matches!(applied.unwrap().1[..], [Applied::Kept | Applied::Dropped]));
                    model.apply((*user, *key), &order);
                }
            }
            Step::Total { total } => {
                item_version += 1;
                let mut item = shelf.definition(*total, LIMIT);
                (item.version, item.hold) = (item_version, AdminHold::None);
                shelf.inventory.update_item(&shelf.keys, 0, 0, &item).await.unwrap();
                model.set_total(*total);
            }
            Step::Reload { known } => {
                epoch += 1;
                let mut item = shelf.definition(model.total, LIMIT);
                item.version = item_version;
                reload(&shelf, &mut model, epoch, &item, known).await;
            }
        }
        compare(&shelf, &model, &step).await;
    }
}

async fn reserve(shelf: &Shelf, model: &mut Model, wishes: &[(usize, usize, u32)]) {
    let batch: Vec<_> = wishes
        .iter()
        .map(|(user, key, quantity)| {
            let (name, key_name) = names(*user, *key);
            shelf.wish(&name, &key_name, *quantity)
        })
        .collect();
    let decisions = shelf.reserve_all(&batch).await;
    for ((user, key, quantity), decision) in wishes.iter().zip(decisions) {
        match model.reserve(*user, *key, *quantity) {
            Ok(true) => assert!(matches!(decision, Decision::Granted { .. }), "{decision:?}"),
            Ok(false) => {
                let settled = model.holds[&(*user, *key)].settled;
                assert!(
                    matches!(decision, Decision::Known { settled: s, .. } if s == settled),
                    "{decision:?}"
                );
            }
            Err(refusal) => assert_eq!(decision, refused(refusal)),
        }
    }
}

/// Everything settled is in the source of truth; of the rest, `known` has arrived there.
async fn reload(
    shelf: &Shelf,
    model: &mut Model,
    epoch: i64,
    item: &common::api::inventory::ItemDefinition,
    known: &BTreeSet<(usize, usize)>,
) {
    let mut orders = Vec::new();
    for (id, hold) in &mut model.holds {
        if hold.settled || known.contains(id) {
            hold.settled = true;
            hold.version = hold.version.max(1);
            let (name, key_name) = names(id.0, id.1);
            orders.push(shelf.order(&name, &key_name, hold.quantity, (hold.units, hold.version)));
        }
    }
    model.withheld = 0;
    shelf.load(epoch, item, &orders).await;
}

async fn compare(shelf: &Shelf, model: &Model, step: &Step) {
    let (books, figures) = (shelf.books().await, shelf.figures().await);
    let of = |units: Units| {
        let holds = model.holds.values().filter(move |hold| hold.units == units);
        holds.map(|hold| i64::from(hold.quantity)).sum::<i64>()
    };
    let unsettled = model.holds.values().filter(|hold| !hold.settled).count();
    assert_eq!(books.available, model.available(), "available after {step:?}: {books:?} {model:?}");
    assert_eq!((books.held, books.sold), (of(Units::Held), of(Units::Sold)), "after {step:?}");
    assert_eq!((figures.withheld, figures.unsettled), (model.withheld, unsettled), "after {step:?}");
    assert_eq!(books.orders.len(), model.holds.len(), "after {step:?}");
    shelf.assert_balanced().await;
}

#[test]
fn the_scripts_do_what_the_model_says() {
    let mut runner = TestRunner::new(Config { cases: CASES, max_shrink_iters: 200, ..Config::default() });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let strategy = (steps(), 0..10_i64);
    runner
        .run(&strategy, |(steps, total)| {
            runtime.block_on(run(steps, total));
            Ok(())
        })
        .unwrap();
}
