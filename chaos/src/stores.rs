//! Reading the stores directly, past every proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use common::ids::{ItemId, OrderId};
use common::messages::order::Units;
use diesel::QueryableByName;
use diesel::sql_types::Text;
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use redis::aio::MultiplexedConnection;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use stock_service::keys::ItemKeys;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::evidence::{Books, Inventory, InventorySample, LedgerSample};

/// Most time for one answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the sampler reads of Postgres: one statement, so one snapshot.
const LEDGER: &str = "
SELECT i.id AS item, i.total, i.taken,
       coalesce(sum(o.quantity) FILTER (WHERE o.units = 'held'), 0) AS held,
       coalesce(sum(o.quantity) FILTER (WHERE o.units = 'sold'), 0) AS sold,
       coalesce((SELECT max(units) FROM (SELECT sum(u.quantity) AS units FROM orders u
                  WHERE u.item_id = i.id AND u.units <> 'returned' GROUP BY u.user_id) AS users), 0) AS most_of_one_user
  FROM items i LEFT JOIN orders o ON o.item_id = i.id GROUP BY i.id";

/// What the sampler reads of Redis: one script, so one snapshot. Empty when the gate is not open in this process.
const INVENTORY: &str = "
local item = redis.call('HMGET', KEYS[1], 'run_id', 'epoch', 'total', 'available', 'withheld')
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
if item[1] ~= run_id or not item[4] then return '' end
local active, buyers, versions = 0, 0, 0
for _, hold in ipairs(redis.call('HVALS', KEYS[2])) do
  local quantity, units, version = string.match(hold, '^(%d+):(%l+):(%d+):')
  versions = versions + tonumber(version)
  if units ~= 'returned' then active = active + tonumber(quantity) end
end
for _, units in ipairs(redis.call('HVALS', KEYS[3])) do buyers = buyers + tonumber(units) end
local orders = ''
if ARGV[1] ~= item[2] then orders = table.concat(redis.call('HKEYS', KEYS[2]), ',') end
return table.concat({item[2], item[3], item[4], item[5] or '0', active, buyers, versions, orders}, ' ')";

/// Postgres, read directly.
pub struct Ledger {
    url: String,
    connection: Option<AsyncPgConnection>,
}

#[derive(QueryableByName)]
struct Json {
    #[diesel(sql_type = Text)]
    json: String,
}

impl Ledger {
    /// A database; the connection is made when it is needed.
    pub fn new(url: String) -> Self {
        Self { url, connection: None }
    }

    /// The rows of a query.
    ///
    /// # Errors
    /// The database's; the next call connects again.
    pub async fn rows<T: DeserializeOwned>(&mut self, query: &str) -> anyhow::Result<Vec<T>> {
        let answer = timeout(PATIENCE, self.json(query)).await;
        let json = match answer {
            Ok(Ok(json)) => json,
            Ok(Err(error)) => {
                self.connection = None;
                return Err(error);
            }
            Err(late) => {
                self.connection = None;
                return Err(late.into());
            }
        };
        serde_json::from_str(&json).with_context(|| format!("what {query} answers"))
    }

    async fn json(&mut self, query: &str) -> anyhow::Result<String> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(AsyncPgConnection::establish(&self.url).await?),
        };
        let query = format!("SELECT coalesce(json_agg(row), '[]')::text AS json FROM ({query}) AS row");
        Ok(diesel::sql_query(query).get_result::<Json>(connection).await?.json)
    }

    /// The one number that a query answers.
    ///
    /// # Errors
    /// As [`Ledger::rows`].
    pub async fn count(&mut self, query: &str) -> anyhow::Result<i64> {
        #[derive(Deserialize)]
        struct Count {
            count: i64,
        }
        let rows: Vec<Count> = self.rows(query).await?;
        Ok(rows.as_slice().first().context("a count has a row")?.count)
    }

    /// One snapshot of every item.
    ///
    /// # Errors
    /// As [`Ledger::rows`].
    pub async fn sample(&mut self) -> anyhow::Result<Vec<LedgerSample>> {
        self.rows(LEDGER).await
    }
}

/// Redis, read directly.
pub struct Shelf {
    url: watch::Receiver<String>,
    connection: Option<MultiplexedConnection>,
    script: redis::Script,
}

impl Shelf {
    /// A server, wherever it is at the time; the connection is made when it is needed.
    pub fn new(url: watch::Receiver<String>) -> Self {
        Self { url, connection: None, script: redis::Script::new(INVENTORY) }
    }

    async fn connection(&mut self) -> anyhow::Result<MultiplexedConnection> {
        let moved = self.url.has_changed().unwrap_or(false);
        if let Some(connection) = self.connection.as_ref().filter(|_| !moved) {
            return Ok(connection.clone());
        }
        let client = redis::Client::open(self.url.borrow_and_update().as_str())?;
        let connection = timeout(PATIENCE, client.get_multiplexed_async_connection()).await??;
        self.connection = Some(connection.clone());
        Ok(connection)
    }

    /// One snapshot of an item; `None` unless its gate is open. Its orders are in it unless the epoch is still `epoch`.
    ///
    /// # Errors
    /// The server's; the next call connects again.
    pub async fn sample(&mut self, item: ItemId, epoch: i64) -> anyhow::Result<Option<InventorySample>> {
        let keys = ItemKeys::of(item);
        let mut connection = self.connection().await?;
        let mut call = self.script.key(&keys.item);
        call.key(&keys.holds).key(&keys.buyers).arg(epoch);
        let answer = timeout(PATIENCE, call.invoke_async::<String>(&mut connection)).await;
        let text = match answer {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => {
                self.connection = None;
                return Err(error.into());
            }
            Err(late) => {
                self.connection = None;
                return Err(late.into());
            }
        };
        if text.is_empty() {
            return Ok(None);
        }
        let fields: Vec<&str> = text.split(' ').collect();
        let number = |index: usize| -> anyhow::Result<i64> {
            let field = fields.get(index).with_context(|| format!("field {index} of {text:?}"))?;
            field.parse().with_context(|| format!("field {index} of {text:?}"))
        };
        let new_epoch = number(0)? != epoch;
        let orders = fields.get(7).copied().unwrap_or_default();
        Ok(Some(InventorySample {
            item,
            epoch: number(0)?,
            total: number(1)?,
            available: number(2)?,
            withheld: number(3)?,
            active: number(4)?,
            buyers: number(5)?,
            versions: number(6)?,
            orders: new_epoch.then(|| orders.split(',').filter_map(order_id).collect()),
        }))
    }

    /// All that is known of an item.
    ///
    /// # Errors
    /// The server's.
    pub async fn inventory(&mut self, item: ItemId) -> anyhow::Result<Inventory> {
        let sample = self.sample(item, -1).await?;
        let keys = ItemKeys::of(item);
        let mut connection = self.connection().await?;
        let mut pipe = redis::pipe();
        pipe.atomic().hgetall(&keys.holds).hgetall(&keys.buyers).zrange(&keys.unsettled, 0, -1);
        type Answer = (BTreeMap<String, String>, BTreeMap<String, i64>, Vec<String>);
        let (holds, buyers, unsettled): Answer =
            timeout(PATIENCE, pipe.query_async(&mut connection)).await??;
        let holds = holds.iter().filter_map(|(id, hold)| Some((order_id(id)?, parse_hold(hold)?)));
        let unsettled = unsettled.iter().filter_map(|id| order_id(id)).collect();
        let mut inventory = Inventory { holds: holds.collect(), buyers, unsettled, ..Inventory::default() };
        if let Some(sample) = sample {
            inventory.open = true;
            inventory.epoch = sample.epoch;
            (inventory.total, inventory.available) = (sample.total, sample.available);
            inventory.withheld = sample.withheld;
        }
        Ok(inventory)
    }
}

fn order_id(text: &str) -> Option<OrderId> {
    text.parse().ok().map(OrderId)
}

fn parse_hold(text: &str) -> Option<(i64, Units)> {
    let mut parts = text.split(':');
    let quantity = parts.next()?.parse().ok()?;
    let units = match parts.next()? {
        "held" => Units::Held,
        "sold" => Units::Sold,
        "returned" => Units::Returned,
        _ => return None,
    };
    Some((quantity, units))
}

/// Reads the books of both databases and of Redis; queues are the caller's to add.
///
/// # Errors
/// A store's.
pub async fn books(
    orders: &mut Ledger,
    notify: &mut Ledger,
    shelf: &mut Shelf,
    items: &BTreeSet<ItemId>,
) -> anyhow::Result<Books> {
    let mut inventory = BTreeMap::new();
    for item in items {
        inventory.insert(*item, shelf.inventory(*item).await?);
    }
    Ok(Books {
        orders: orders.rows("SELECT * FROM orders").await?,
        transitions: orders.rows("SELECT * FROM order_transitions ORDER BY order_id, version").await?,
        items: orders.rows("SELECT * FROM items").await?,
        payments: orders.rows("SELECT * FROM payments").await?,
        notices: orders.rows("SELECT * FROM payment_notices").await?,
        provider: orders.rows("SELECT * FROM sandbox_payments").await?,
        dead_letters: orders
            .rows("SELECT queue, reason, encode(body, 'escape') AS body FROM dead_letters")
            .await?,
        outbox_unpublished: orders
            .count("SELECT count(*) AS count FROM outbox WHERE published_at IS NULL")
            .await?,
        told: notify
            .rows(
                "SELECT user_id, seq, data::json->>'id' AS order_id, (data::json->>'version')::bigint AS version, \
                 data::json->>'status' AS status FROM events ORDER BY user_id, seq",
            )
            .await?,
        deliveries: notify.rows("SELECT event_id, state FROM deliveries").await?,
        queues: BTreeMap::new(),
        inventory,
    })
}
