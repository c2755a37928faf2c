//! One running system per test, and what tests ask of it.

use std::time::Duration;

use chrono::Utc;
use common::api::admin::Audit;
use common::api::{Order, OrderStatus, Sale};
use common::ids::{ItemId, OrderId, SaleId};
use e2e::client::{Answer, Client, one_dish};
use reqwest::StatusCode;
use testkit::{Services, eventually};

/// How long the books may take to come to rest. Generous: the machine may be busy with other tests.
const QUIET_WITHIN: Duration = Duration::from_secs(30);

/// A running system with its admin.
pub struct World {
    pub services: Services,
    pub client: Client,
    pub admin: String,
}

impl World {
    pub async fn start() -> Self {
        Self::with_replicas(1).await
    }

    /// So many processes of each service; the client speaks to the gateways in turn.
    pub async fn with_replicas(replicas: usize) -> Self {
        let services = Services::start_with(replicas, &[]).await;
        let client = Client::new(services.gateway_urls()).unwrap();
        let admin = client.token("admin", "admin").await.unwrap();
        Self { services, client, admin }
    }

    /// Opens a sale of one dish and waits until it can be ordered.
    pub async fn open_sale(&self, stock: i64, per_user_limit: u32, payment_window_s: u32) -> Sale {
        #[expect(clippy::disallowed_methods, reason = "a client picks its sale's opening by its own clock")]
        let dish = one_dish(Utc::now(), stock, per_user_limit, payment_window_s).unwrap();
        let sale = self.client.open_sale(&self.admin, &dish).await.unwrap();
        self.client.wait_until_listed(sale.id, QUIET_WITHIN).await.unwrap();
        sale
    }

    pub async fn customer(&self, user: &str) -> String {
        self.client.token(user, "customer").await.unwrap()
    }

    /// Places an order that must be accepted; short refusals for want of readiness are asked again with the same key.
    pub async fn accepted(&self, token: &str, item: ItemId, key: &str) -> OrderId {
        let answer = self.final_answer(token, item, key, 1).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", String::from_utf8_lossy(&answer.body));
        answer.json::<common::api::Accepted>().unwrap().order_id
    }

    /// Asks until the answer is neither "too busy" nor "temporarily unavailable".
    pub async fn final_answer(&self, token: &str, item: ItemId, key: &str, quantity: u32) -> Answer {
        eventually("a final answer to an order", async || {
            let answer = self.client.order(token, item, key, quantity).await.ok()?;
            let again =
                [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&answer.status);
            (!again).then_some(answer)
        })
        .await
    }

    /// Waits until the order is in this state, and returns it.
    pub async fn reaches(&self, token: &str, order: OrderId, status: OrderStatus) -> Order {
        eventually(&format!("order {order} is {status:?}"), async || {
            self.client.order_state(token, order).await.ok().filter(|order| order.status == status)
        })
        .await
    }

    pub async fn quiet(&self, sale: SaleId) -> Audit {
        self.client.wait_until_quiet(&self.admin, sale, QUIET_WITHIN).await.unwrap()
    }

    /// Waits until every queue of the system is empty, dead letters too.
    pub async fn queues_run_dry(&self) {
        eventually("all queues are empty", async || {
            let depths = self.services.vhost().queue_depths().await;
            depths.values().all(|depth| *depth == 0).then_some(())
        })
        .await;
    }
}
