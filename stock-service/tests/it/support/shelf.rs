//! One item in a Redis of its own, reached through the scripts alone.

use chrono::DateTime;
use common::api::inventory::{AdminHold, Books, ItemDefinition};
use common::ids::{Currency, IdempotencyKey, ItemId, OrderId, Quantity, SaleId, UserId};
use common::messages::order::Units;
use secrecy::SecretString;
use stock_service::inventory::{
    BOOKS_ATOMIC_MAX, Begun, Commit, Committed, Figures, Inventory, RedisSettings, Reserved, StoreError,
};
use stock_service::keys::ItemKeys;
use stock_service::stock::{Applied, Decision, OrderState, Refusal, Shut, Wish};
use uuid::Uuid;

/// Far in the future, in ms.
pub const LATER_MS: i64 = 4_000_000_000_000;
/// Short enough not to slow the tests down, long enough to be seen.
pub const LEASE_MS: u64 = 300;
pub const ATTEMPTS_MAX: u32 = 5;
/// How long a test waits for its Redis on a busy machine.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

pub struct Shelf {
    pub redis: testkit::Redis,
    pub inventory: Inventory,
    pub item: ItemId,
    pub keys: ItemKeys,
}

pub fn redis_settings(redis: &testkit::Redis) -> RedisSettings {
    RedisSettings {
        mode: redis_route::Mode::Single,
        addresses: redis_route::AddressList::default(),
        master_name: String::new(),
        sentinel_password: SecretString::default(),
        url: SecretString::from(redis.url()),
        connect_timeout_ms: 1_000,
        response_timeout_ms: 5_000,
        bulk_timeout_ms: 10_000,
    }
}

pub fn user(name: &str) -> UserId {
    UserId::try_from(name.to_owned()).unwrap()
}

pub fn units(quantity: u32) -> Quantity {
    Quantity::try_from(quantity).unwrap()
}

pub fn definition(item_id: ItemId, total: i64, per_user_limit: u32) -> ItemDefinition {
    ItemDefinition {
        item_id,
        sale_id: SaleId(Uuid::from_u128(77)),
        version: 1,
        starts_at: DateTime::from_timestamp_millis(1_000).unwrap(),
        ends_at: DateTime::from_timestamp_millis(LATER_MS).unwrap(),
        hold: AdminHold::None,
        total,
        per_user_limit,
        unit_price_cents: 1_999,
        currency: Currency::try_from("CNY".to_owned()).unwrap(),
        settled: false,
        waiting_room: false,
        challenge: false,
        epoch: None,
    }
}

impl Shelf {
    /// An empty Redis.
    pub async fn empty() -> Self {
        let redis = testkit::Redis::start().await;
        let inventory = Inventory::new(&redis_settings(&redis)).unwrap();
        inventory.check(&inventory.nodes()[0]).await.unwrap();
        let item = ItemId(Uuid::new_v4());
        Self { redis, inventory, item, keys: ItemKeys::of(item) }
    }

    /// An open item without orders.
    pub async fn open(total: i64, per_user_limit: u32) -> Self {
        let shelf = Self::empty().await;
        let item = definition(shelf.item, total, per_user_limit);
        shelf.load(1, &item, &[]).await;
        shelf
    }

    /// Loads `orders` with `epoch`, without a lease.
    pub async fn load(&self, epoch: i64, item: &ItemDefinition, orders: &[OrderState]) -> i64 {
        assert!(matches!(self.inventory.begin_load(&self.keys, epoch).await.unwrap(), Begun::Yes { .. }));
        for chunk in orders.chunks(256) {
            assert!(self.inventory.stage_orders(&self.keys, epoch, chunk).await.unwrap());
        }
        match self.commit_load(commit(epoch, orders.len(), 0), item).await.unwrap() {
            Committed::Opened { available, .. } => available,
            Committed::NotReady => panic!("the load was refused"),
        }
    }

    /// The last two steps of a load.
    pub async fn commit_load(&self, commit: Commit, item: &ItemDefinition) -> Result<Committed, StoreError> {
        self.inventory.merge_unsettled(&self.keys, commit.epoch).await?;
        self.inventory.commit_load(&self.keys, commit, item).await
    }

    pub fn definition(&self, total: i64, per_user_limit: u32) -> ItemDefinition {
        definition(self.item, total, per_user_limit)
    }

    pub fn order_id(&self, user_name: &str, key: &str) -> OrderId {
        OrderId::derive(&user(user_name), self.item, &IdempotencyKey::try_from(key.to_owned()).unwrap())
    }

    pub fn wish(&self, user_name: &str, key: &str, quantity: u32) -> Wish {
        Wish {
            order_id: self.order_id(user_name, key),
            user_id: user(user_name),
            quantity: units(quantity),
            deadline_ms: LATER_MS,
            admitted_ms: None,
        }
    }

    pub async fn reserve_all(&self, wishes: &[Wish]) -> Vec<Decision> {
        match self.inventory.reserve(&self.keys, 0, ATTEMPTS_MAX, wishes).await.unwrap() {
            Reserved::Decided { decisions, .. } => decisions,
            Reserved::Shut(shut) => panic!("the gate is not open: {shut:?}"),
        }
    }

    pub async fn reserve(&self, user_name: &str, key: &str, quantity: u32) -> Decision {
        self.reserve_all(&[self.wish(user_name, key, quantity)]).await[0]
    }

    pub async fn shut(&self) -> Option<Shut> {
        let wish = self.wish("prober", "probe", 100);
        match self.inventory.reserve(&self.keys, 0, ATTEMPTS_MAX, &[wish]).await.unwrap() {
            Reserved::Decided { .. } => None,
            Reserved::Shut(shut) => Some(shut),
        }
    }

    pub fn order(&self, user_name: &str, key: &str, quantity: u32, at: (Units, i64)) -> OrderState {
        OrderState {
            order_id: self.order_id(user_name, key),
            user_id: user(user_name),
            quantity: units(quantity),
            units: at.0,
            version: at.1,
            created_ms: 1_000,
            refused_by_total: false,
        }
    }

    pub async fn apply(&self, orders: &[OrderState]) -> Vec<Applied> {
        self.inventory.apply_orders(&self.keys, 0, LEASE_MS, orders).await.unwrap().1
    }

    pub async fn figures(&self) -> Figures {
        self.inventory.look(&self.keys).await.unwrap().figures.expect("the item has figures")
    }

    pub async fn books(&self) -> Books {
        self.books_with(BOOKS_ATOMIC_MAX).await
    }

    /// Read by pages if a key has more than `atomic_max` entries; the orders are sorted.
    pub async fn books_with(&self, atomic_max: u32) -> Books {
        let books = self.inventory.books(self.item, &self.keys, 0, atomic_max).await;
        let mut books = books.unwrap().expect("the gate is open");
        books.orders.sort_by_key(|order| order.order_id);
        books
    }

    /// Asserts that units are conserved and per-user counts fit.
    pub async fn assert_balanced(&self) {
        let (books, figures) = (self.books().await, self.figures().await);
        assert_eq!(
            books.available + books.held + books.sold + figures.withheld,
            books.total,
            "units are not conserved: {books:?}"
        );
        assert_eq!(books.buyers, books.held + books.sold, "per-user counts do not add up: {books:?}");
    }

    /// Everything in Redis, for showing that nothing has changed.
    pub async fn dump(&self) -> Vec<(String, Vec<u8>)> {
        let mut connection = self.connection().await;
        let mut names: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap();
        names.sort();
        let mut dump = Vec::new();
        for name in names {
            let value: Vec<u8> = redis::cmd("DUMP").arg(&name).query_async(&mut connection).await.unwrap();
            dump.push((name, value));
        }
        dump
    }

    pub async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.redis.url()).unwrap();
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
    }

    pub async fn redis_command(&self, words: &[&str]) {
        self.ask::<()>(words).await;
    }

    pub async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query_async(&mut self.connection().await).await.unwrap()
    }
}

pub fn commit(epoch: i64, staged: usize, lease_ms: u64) -> Commit {
    Commit { epoch, staged, lease_ms }
}

pub fn granted(decision: Decision) -> bool {
    matches!(decision, Decision::Granted { .. })
}

pub fn refused(refusal: Refusal) -> Decision {
    Decision::Refused(refusal)
}
