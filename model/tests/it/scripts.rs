//! Random sequences of everything that the scripts do, on a real Redis and on the model's transcription of them: the
//! same answers, and after each step the same keys.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::DateTime;
use common::api::inventory::{AdminHold, ItemDefinition};
use common::ids::{Currency, ItemId, OrderId, Quantity, SaleId, UserId};
use common::messages::order::Units;
use model::guard::Rules;
use model::shelf::{self, Definition, News, OrderNo, ReopenAs, Server, Shelf, UserNo};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use secrecy::SecretString;
use stock_service::inventory::{Begun, Commit, Inventory, RedisSettings, Reserved};
use stock_service::keys::ItemKeys;
use stock_service::stock::{Applied, Decision, OrderState, Shut, Wish, units_from};
use uuid::Uuid;

const ORDERS: OrderNo = 6;
const USERS: UserNo = 3;
const LIMIT: u32 = 3;
const ATTEMPTS_MAX: u32 = 4;
const CASES: u32 = 64;
/// The model's clock; like Redis', it is later than [`PAST_MS`] and earlier than [`FUTURE_MS`], whenever this runs.
const NOW_MS: i64 = 1_790_000_000_000;
const PAST_MS: i64 = 1_000;
const FUTURE_MS: i64 = 4_000_000_000_000;
/// No test lasts as long.
const LEASE_MS: u64 = 1_000_000_000;
/// The run id of the model's Redis, and the one that every other process has.
const HERE: u32 = 1;
const ELSEWHERE: u32 = 2;
const ELSEWHERE_TEXT: &str = "0000000000000000000000000000000000000000";
const SERVER: Server = Server { run: HERE, now_ms: NOW_MS, rules: Rules::ALL };

#[derive(Debug, Clone)]
enum Step {
    Reserve {
        epoch_min: i64,
        wishes: Vec<shelf::Wish>,
    },
    Apply {
        epoch_min: i64,
        lease: bool,
        orders: Vec<News>,
    },
    Begin {
        epoch: i64,
    },
    Stage {
        epoch: i64,
        orders: Vec<News>,
    },
    Commit {
        epoch: i64,
        staged: usize,
        lease: bool,
        definition: Definition,
    },
    Merge {
        epoch: i64,
    },
    /// All steps of a load.
    Load {
        epoch: i64,
        orders: Vec<News>,
        definition: Definition,
    },
    Update {
        lease: bool,
        definition: Definition,
    },
    Flush,
    /// As if the data had been loaded into another process.
    Restart,
}

fn own_quantity(order: OrderNo) -> i64 {
    1 + i64::from(order / USERS)
}

fn stage(units: Units) -> i64 {
    match units {
        Units::Held => 1,
        Units::Sold => 2,
        Units::Returned => 3,
    }
}

fn wish() -> impl Strategy<Value = shelf::Wish> {
    let deadline = prop_oneof![5 => Just(FUTURE_MS), 1 => Just(PAST_MS)];
    (0..ORDERS, 0..USERS, 1..=2_i64, deadline).prop_map(|(order, user, quantity, deadline_ms)| {
        // Mostly the order's own user and quantity.
        let user = if user == 0 { user } else { order % USERS };
        let quantity = if quantity == 1 { quantity } else { own_quantity(order) };
        shelf::Wish { order, user, quantity, deadline_ms }
    })
}

fn news() -> impl Strategy<Value = News> {
    let units = prop_oneof![Just(Units::Held), Just(Units::Sold), Just(Units::Returned)];
    (0..ORDERS, 0..8_u8, units, 1..=4_i64, any::<bool>()).prop_map(|(order, odd, units, version, refused)| {
        // Mostly as an order's life is, so that not everything contradicts everything.
        let version = if odd > 1 { stage(units) } else { version };
        let quantity = if odd > 0 { own_quantity(order) } else { 3 };
        let (user, refused) = (order % USERS, refused && units == Units::Returned);
        News { order, user, quantity, units, version, created_ms: PAST_MS, refused }
    })
}

fn definition() -> impl Strategy<Value = Definition> {
    let state =
        prop_oneof![4 => Just(AdminHold::None), 1 => Just(AdminHold::Paused), 1 => Just(AdminHold::Ended)];
    let window = prop_oneof![6 => Just((PAST_MS, FUTURE_MS)), 1 => Just((PAST_MS, PAST_MS)), 1 => Just((FUTURE_MS, FUTURE_MS))];
    (state, window, 0..6_i64, 1..=4_i64).prop_map(|(state, (starts_ms, ends_ms), total, version)| {
        Definition { starts_ms, ends_ms, state, limit: i64::from(LIMIT), total, version }
    })
}

fn step() -> impl Strategy<Value = Step> {
    let orders = || prop::collection::vec(news(), 1..4);
    let epoch = || 1..=4_i64;
    prop_oneof![
        8 => (0..=2_i64, prop::collection::vec(wish(), 1..4))
            .prop_map(|(epoch_min, wishes)| Step::Reserve { epoch_min, wishes }),
        6 => (0..=2_i64, any::<bool>(), orders()).prop_map(|(epoch_min, lease, orders)| Step::Apply { epoch_min, lease, orders }),
        3 => (epoch(), prop::collection::vec(news(), 0..4), definition())
            .prop_map(|(epoch, orders, definition)| Step::Load { epoch, orders, definition }),
        1 => epoch().prop_map(|epoch| Step::Begin { epoch }),
        1 => epoch().prop_map(|epoch| Step::Merge { epoch }),
        1 => (epoch(), orders()).prop_map(|(epoch, orders)| Step::Stage { epoch, orders }),
        1 => (epoch(), 0..3_usize, any::<bool>(), definition())
            .prop_map(|(epoch, staged, lease, definition)| Step::Commit { epoch, staged, lease, definition }),
        2 => (any::<bool>(), definition()).prop_map(|(lease, definition)| Step::Update { lease, definition }),
        1 => Just(Step::Flush),
        1 => Just(Step::Restart),
    ]
}

struct Pair {
    inventory: Inventory,
    connection: MultiplexedConnection,
    item: ItemId,
    keys: ItemKeys,
    shelf: Shelf,
}

fn order_id(order: OrderNo) -> OrderId {
    OrderId(Uuid::from_u128(1_000 + u128::from(order)))
}

fn user_id(user: UserNo) -> UserId {
    UserId::try_from(format!("u{user}")).unwrap()
}

fn quantity(units: i64) -> Quantity {
    Quantity::try_from(u32::try_from(units).unwrap()).unwrap()
}

fn state_of(news: &News) -> OrderState {
    OrderState {
        order_id: order_id(news.order),
        user_id: user_id(news.user),
        quantity: quantity(news.quantity),
        units: news.units,
        version: news.version,
        created_ms: news.created_ms,
        refused_by_total: news.refused,
    }
}

/// What the decision says apart from the time.
fn timeless(decision: Decision) -> Decision {
    match decision {
        Decision::Granted { left, .. } => Decision::Granted { left, reserved_ms: 0 },
        Decision::Known { settled, .. } => Decision::Known { settled, reserved_ms: 0 },
        Decision::Refused(refusal) => Decision::Refused(refusal),
    }
}

impl Pair {
    async fn new(redis: &testkit::Redis) -> Self {
        let settings = RedisSettings {
            mode: redis_route::Mode::Single,
            addresses: redis_route::AddressList::default(),
            master_name: String::new(),
            sentinel_password: SecretString::default(),
            url: SecretString::from(redis.url()),
            connect_timeout_ms: 5_000,
            response_timeout_ms: 20_000,
            bulk_timeout_ms: 20_000,
        };
        let inventory = Inventory::new(&settings).unwrap();
        inventory.check(&inventory.nodes()[0]).await.unwrap();
        let client = redis::Client::open(redis.url()).unwrap();
        let connection = client.get_multiplexed_async_connection().await.unwrap();
        let item = ItemId(Uuid::new_v4());
        Self { inventory, connection, item, keys: ItemKeys::of(item), shelf: Shelf::default() }
    }

    async fn run(&mut self, step: &Step) {
        match step {
            Step::Reserve { epoch_min, wishes } => self.reserve(*epoch_min, wishes).await,
            Step::Apply { epoch_min, lease, orders } => self.apply(*epoch_min, *lease, orders).await,
            Step::Begin { epoch } => self.begin(*epoch).await,
            Step::Stage { epoch, orders } => self.stage(*epoch, orders).await,
            Step::Merge { epoch } => self.merge(*epoch).await,
            Step::Commit { epoch, staged, lease, definition } => {
                self.commit(*epoch, *staged, *lease, definition).await;
            }
            Step::Load { epoch, orders, definition } => {
                self.begin(*epoch).await;
                let numbers: BTreeSet<OrderNo> = orders.iter().map(|news| news.order).collect();
                if !orders.is_empty() {
                    self.stage(*epoch, orders).await;
                }
                self.merge(*epoch).await;
                self.commit(*epoch, numbers.len(), false, definition).await;
            }
            Step::Update { lease, definition } => {
                let lease_ms = if *lease { LEASE_MS } else { 0 };
                let item = self.definition(definition);
                let real = self.inventory.update_item(&self.keys, 0, lease_ms, &item).await.unwrap();
                let lease_ms = i64::try_from(lease_ms).unwrap();
                assert_eq!(real, self.shelf.update(SERVER, 0, lease_ms, *definition));
            }
            Step::Flush => {
                redis::cmd("FLUSHALL").query_async::<()>(&mut self.connection).await.unwrap();
                self.shelf = Shelf::default();
            }
            Step::Restart => self.restart().await,
        }
    }

    async fn reserve(&mut self, epoch_min: i64, wishes: &[shelf::Wish]) {
        let batch: Vec<Wish> = wishes
            .iter()
            .map(|wish| Wish {
                order_id: order_id(wish.order),
                user_id: user_id(wish.user),
                quantity: quantity(wish.quantity),
                deadline_ms: wish.deadline_ms,
                admitted_ms: None,
            })
            .collect();
        let real = self.inventory.reserve(&self.keys, epoch_min, ATTEMPTS_MAX, &batch).await.unwrap();
        let real = match real {
            Reserved::Decided { decisions, .. } => {
                Ok(decisions.into_iter().map(timeless).collect::<Vec<_>>())
            }
            Reserved::Shut(shut) => Err(shut),
        };
        let model = self.shelf.reserve(SERVER, epoch_min, i64::from(ATTEMPTS_MAX), wishes);
        assert_eq!(real, model.map(|decisions| decisions.into_iter().map(timeless).collect()));
    }

    async fn apply(&mut self, epoch_min: i64, lease: bool, orders: &[News]) {
        let lease_ms = if lease { LEASE_MS } else { 0 };
        let states: Vec<OrderState> = orders.iter().map(state_of).collect();
        let real = self.inventory.apply_orders(&self.keys, epoch_min, lease_ms, &states).await.unwrap();
        let gate = self.shelf.gate(SERVER, epoch_min).err();
        let model = self.shelf.apply(SERVER, epoch_min, i64::try_from(lease_ms).unwrap(), orders);
        let contradicts = model.contains(&Applied::Contradicts);
        assert_eq!(real, (if contradicts { Some(Shut::Broken) } else { gate }, model));
    }

    async fn begin(&mut self, epoch: i64) {
        let real = self.inventory.begin_load(&self.keys, epoch).await.unwrap();
        let model = match self.shelf.load_begin(SERVER, epoch) {
            shelf::Begun::Yes { earlier } => Begun::Yes { earlier },
            shelf::Begun::AlreadyOpen => Begun::AlreadyOpen,
            shelf::Begun::Superseded => Begun::Superseded,
        };
        assert_eq!(real, model);
    }

    async fn stage(&mut self, epoch: i64, orders: &[News]) {
        let states: Vec<OrderState> = orders.iter().map(state_of).collect();
        let real = self.inventory.stage_orders(&self.keys, epoch, &states).await.unwrap();
        assert_eq!(real, self.shelf.load_stage(SERVER, epoch, orders));
    }

    async fn merge(&mut self, epoch: i64) {
        let real = self.inventory.merge_unsettled(&self.keys, epoch).await.unwrap();
        assert_eq!(real, self.shelf.load_merge(SERVER, epoch));
    }

    async fn commit(&mut self, epoch: i64, staged: usize, lease: bool, definition: &Definition) {
        let lease_ms = if lease { LEASE_MS } else { 0 };
        let item = self.definition(definition);
        let commit = Commit { epoch, staged, lease_ms };
        let real = self.inventory.commit_load(&self.keys, commit, &item).await.unwrap();
        let lease_ms = i64::try_from(lease_ms).unwrap();
        assert_eq!(real, self.shelf.load_commit(SERVER, (epoch, staged, lease_ms), *definition));
    }

    fn definition(&self, definition: &Definition) -> ItemDefinition {
        ItemDefinition {
            item_id: self.item,
            sale_id: SaleId(Uuid::from_u128(77)),
            version: definition.version,
            starts_at: DateTime::from_timestamp_millis(definition.starts_ms).unwrap(),
            ends_at: DateTime::from_timestamp_millis(definition.ends_ms).unwrap(),
            hold: definition.state,
            total: definition.total,
            per_user_limit: u32::try_from(definition.limit).unwrap(),
            unit_price_cents: 1_999,
            currency: Currency::try_from("CNY".to_owned()).unwrap(),
            settled: false,
            waiting_room: false,
            challenge: false,
            epoch: None,
        }
    }

    /// Another process has another run id; here its data gets one that is not this process's.
    async fn restart(&mut self) {
        if let Some(item) = self.shelf.item.as_mut().filter(|item| item.run.is_some()) {
            item.run = Some(ELSEWHERE);
            let _: i64 = self.connection.hset(&*self.keys.item, "run_id", ELSEWHERE_TEXT).await.unwrap();
        }
        if let Some(loading) = &mut self.shelf.loading {
            loading.run = ELSEWHERE;
            let _: i64 = self.connection.hset(&*self.keys.loading, "run_id", ELSEWHERE_TEXT).await.unwrap();
        }
    }

    async fn hash(&mut self, key: &str) -> BTreeMap<String, String> {
        self.connection.hgetall(key).await.unwrap()
    }

    /// Every key, apart from times.
    async fn compare(&mut self, step: &Step) {
        let keys = self.keys.clone();
        let item = self.hash(&keys.item).await;
        let (seconds, _): (i64, i64) = redis::cmd("TIME").query_async(&mut self.connection).await.unwrap();
        let now_ms = (seconds + 1) * 1_000;
        assert_eq!(item_fields(&item, now_ms), model_item(&self.shelf), "item after {step:?}");
        let model = self.shelf.clone();
        for (key, holds) in [(&keys.holds, &model.holds), (&keys.staged_holds, &model.staging.holds)] {
            let real = self.hash(key).await;
            let expected = holds.iter().map(|(order, hold)| (order_id(*order).to_string(), hold_text(hold)));
            let real = real.into_iter().map(|(order, hold)| (order, without_time(&hold)));
            assert!(real.eq(expected), "{key} after {step:?}");
        }
        let counts = [
            (&keys.buyers, &model.buyers),
            (&keys.attempts, &model.attempts),
            (&keys.staged_buyers, &model.staging.buyers),
            (&keys.staged_attempts, &model.staging.attempts),
        ];
        for (key, counted) in counts {
            let real = self.hash(key).await;
            let expected = counted.iter().map(|(user, units)| (format!("u{user}"), units.to_string()));
            assert_eq!(real, expected.collect(), "{key} after {step:?}");
        }
        let unsettled: BTreeSet<String> = self
            .connection
            .zrange(&*keys.unsettled, 0, -1)
            .await
            .map(BTreeSet::from_iter::<Vec<String>>)
            .unwrap();
        let expected: BTreeSet<String> =
            model.unsettled.keys().map(|order| order_id(*order).to_string()).collect();
        assert_eq!(unsettled, expected, "unsettled after {step:?}");
        self.compare_load(&keys, step).await;
        self.compare_alarm(&keys, step).await;
    }

    async fn compare_alarm(&mut self, keys: &ItemKeys, step: &Step) {
        let times: Option<i64> = self.connection.hget(&*keys.alarm, "times").await.unwrap();
        assert_eq!(times.unwrap_or(0), self.shelf.alarm, "alarm after {step:?}");
    }

    async fn compare_load(&mut self, keys: &ItemKeys, step: &Step) {
        let loading = self.hash(&keys.loading).await;
        let expected = self.shelf.loading.map(|loading| {
            let merged = i64::try_from(loading.merged).unwrap();
            (loading.run == HERE, loading.epoch, loading.active, merged, loading.complete)
        });
        let real = (!loading.is_empty()).then(|| {
            let number = |field: &str| loading[field].parse::<i64>().unwrap();
            let merged = loading.get("merged").map_or(0, |merged| merged.parse().unwrap());
            let here = loading["run_id"] != ELSEWHERE_TEXT;
            (here, number("epoch"), number("active"), merged, loading.contains_key("complete"))
        });
        assert_eq!(real, expected, "loading after {step:?}");
        let late: HashMap<OrderId, OrderState> = {
            let late = self.inventory.late_orders(keys).await.unwrap();
            late.into_iter().map(|order| (order.order_id, order)).collect()
        };
        let expected = self.shelf.late.values().map(|news| (order_id(news.order), state_of(news)));
        assert_eq!(late, expected.collect(), "late after {step:?}");
    }
}

/// `quantity:units:version:reserved_ms:user` without the fourth, which is a time of the real clock for grants.
fn without_time(hold: &str) -> String {
    let parts: Vec<&str> = hold.split(':').collect();
    let [quantity, units, version, _, user] = parts[..] else { panic!("not a hold: {hold}") };
    assert!(units_from(units).is_some());
    format!("{quantity}:{units}:{version}:{user}")
}

fn hold_text(hold: &shelf::Hold) -> String {
    let units = stock_service::stock::units_text(hold.units);
    format!("{}:{units}:{}:u{}", hold.quantity, hold.version, hold.user)
}

/// Open here, epoch, version, state, total, available, withheld, ended by an admin, what a lease shows now.
type ItemFields = (Option<bool>, i64, i64, String, (i64, i64, i64), bool, Option<&'static str>);

fn item_fields(item: &BTreeMap<String, String>, now_ms: i64) -> Option<ItemFields> {
    if item.is_empty() {
        return None;
    }
    let number = |field: &str| item[field].parse::<i64>().unwrap();
    let lease = item.get("reopen_ms").filter(|until| until.parse::<i64>().unwrap() > now_ms).map(|_| {
        match item["reopen_as"].as_str() {
            "paused" => "paused",
            "loading" => "loading",
            "sold_out" => "sold_out",
            other => panic!("reopen_as {other}"),
        }
    });
    Some((
        item.get("run_id").map(|run| run != ELSEWHERE_TEXT),
        number("epoch"),
        number("version"),
        item["state"].clone(),
        (number("total"), number("available"), number("withheld")),
        item.contains_key("ended_ms"),
        lease,
    ))
}

fn model_item(shelf: &Shelf) -> Option<ItemFields> {
    let item = shelf.item?;
    let state = match item.definition.state {
        AdminHold::None => "none",
        AdminHold::Paused => "paused",
        AdminHold::Ended => "ended",
    };
    let lease = item.reopen.filter(|(until_ms, _)| *until_ms > NOW_MS).map(|(_, shown_as)| match shown_as {
        ReopenAs::Paused => "paused",
        ReopenAs::Loading => "loading",
        ReopenAs::SoldOut => "sold_out",
    });
    Some((
        item.run.map(|run| run == HERE),
        item.epoch,
        item.definition.version,
        state.to_owned(),
        (item.definition.total, item.available, item.withheld),
        item.ended,
        lease,
    ))
}

#[test]
fn the_scripts_do_in_a_real_redis_what_the_model_says() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let redis = runtime.block_on(testkit::Redis::start());
    let mut runner = TestRunner::new(Config {
        cases: CASES,
        max_shrink_iters: 500,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&prop::collection::vec(step(), 1..60), |steps| {
            runtime.block_on(async {
                let mut pair = Pair::new(&redis).await;
                pair.run(&Step::Flush).await;
                for step in &steps {
                    pair.run(step).await;
                    pair.compare(step).await;
                }
            });
            Ok(())
        })
        .unwrap();
}
