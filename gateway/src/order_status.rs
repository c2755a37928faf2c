//! The status of an order, from the two services that know a part of it.
//!
//! order-service has every order that reached Postgres; until then stock-service has its hold. "There is none" may be
//! said only if both say so, the second with an open gate.

use chrono::{DateTime, Utc};
use common::api::inventory::Reservation;
use common::api::{Order, OrderStatus};
use common::failpoint;
use common::ids::{OrderId, UserId};
use common::internal::{ROLE_HEADER, USER_HEADER};
use common::problem::Code;
use reqwest::{Method, StatusCode};
use tokio::time::Instant;

use crate::downstream::{Downstream, Failed, Priority};
use crate::error::ApiError;
use crate::planted::FOREIGN_HOLD_SHOWN;
use crate::token::{Caller, Role};

/// What is known of an order.
pub enum Status {
    /// order-service has it, or stock-service has its hold.
    Known(Box<Order>),
    /// Neither of them has it, for this user.
    Unknown,
}

/// The two services, and on whose behalf they are asked.
pub struct OrderStatusOf<'a> {
    /// order-service.
    pub orders: &'a Downstream,
    /// stock-service.
    pub stock: &'a Downstream,
    /// Whose order it must be.
    pub caller: &'a Caller,
    /// How important the question is.
    pub priority: Priority,
}

impl OrderStatusOf<'_> {
    /// Asks order-service, then stock-service, and order-service again if the order has just moved from one to the
    /// other.
    ///
    /// # Errors
    /// Neither can say it for sure.
    pub async fn now(&self, id: OrderId, deadline: Instant) -> Result<Status, ApiError> {
        let stored = self.stored(id, &[], deadline).await;
        if let Ok(Some(order)) = stored {
            return Ok(Status::Known(Box::new(order)));
        }
        let hold = match (self.hold(id, deadline).await, stored) {
            (Ok(hold), Ok(_)) => hold,
            // Without order-service only a hold that it cannot have seen yet says anything.
            (Ok(Some(hold)), Err(_)) if hold.version == 0 && hold.user_id == self.caller.user => Some(hold),
            (Ok(_), Err(error)) | (Err(error), _) => return Err(error),
        };
        match hold {
            Some(hold) if hold.user_id != self.caller.user && !failpoint::planted(FOREIGN_HOLD_SHOWN) => {
                Ok(Status::Unknown)
            }
            Some(hold) if hold.version == 0 => Ok(Status::Known(Box::new(queued(hold)))),
            Some(_) => match self.stored(id, &[], deadline).await? {
                Some(order) => Ok(Status::Known(Box::new(order))),
                // The inventory has seen an order that the source of truth does not have: nothing to be said.
                None => Err(Code::Unavailable.into()),
            },
            None => Ok(Status::Unknown),
        }
    }

    /// Waits in order-service until the order is newer than `version`, `wait_s` at most.
    ///
    /// # Errors
    /// order-service cannot say.
    pub async fn newer(
        &self,
        id: OrderId,
        version: i64,
        wait_s: u64,
        deadline: Instant,
    ) -> Result<Option<Order>, ApiError> {
        let query = [("wait", wait_s.to_string()), ("version", version.to_string())];
        self.stored(id, &query, deadline).await
    }

    /// The order of this user in order-service.
    async fn stored(
        &self,
        id: OrderId,
        query: &[(&str, String)],
        deadline: Instant,
    ) -> Result<Option<Order>, ApiError> {
        let call = self
            .orders
            .request(Method::GET, &format!("/internal/v1/orders/{id}"), deadline)
            .header(USER_HEADER, self.caller.user.as_str())
            .header(ROLE_HEADER, self.caller.role.as_str());
        // A long poll takes as long as it is told to.
        let call = if query.is_empty() { call.priority(self.priority) } else { call.query(&query).waiting() };
        document("order-service", call.send().await).await
    }

    /// Whether this user has an order in order-service, for a retry whose item is gone from the inventory.
    ///
    /// # Errors
    /// order-service cannot say.
    pub async fn is_stored(
        orders: &Downstream,
        user: &UserId,
        id: OrderId,
        deadline: Instant,
    ) -> Result<bool, ApiError> {
        let caller = Caller { user: user.clone(), role: Role::Customer, expires_at_s: 0 };
        let of = OrderStatusOf { orders, stock: orders, caller: &caller, priority: Priority::Order };
        Ok(of.stored(id, &[], deadline).await?.is_some())
    }

    /// The hold in stock-service.
    ///
    /// # Errors
    /// stock-service cannot say: its gate is closed.
    pub async fn hold(&self, id: OrderId, deadline: Instant) -> Result<Option<Reservation>, ApiError> {
        let path = format!("/internal/v1/reservations/{id}");
        document(
            "stock-service",
            self.stock.request(Method::GET, &path, deadline).priority(self.priority).send().await,
        )
        .await
    }
}

/// The document that was asked for; `None` for 404.
///
/// # Errors
/// No answer, or one that says nothing.
pub async fn document<T: serde::de::DeserializeOwned>(
    service: &'static str,
    sent: Result<reqwest::Response, Failed>,
) -> Result<Option<T>, ApiError> {
    let response = sent.map_err(ApiError::Question)?;
    match response.status() {
        StatusCode::OK => {
            let bad = |error: reqwest::Error| ApiError::BadAnswer {
                service,
                reason: error.without_url().to_string(),
            };
            response.json().await.map(Some).map_err(bad)
        }
        StatusCode::NOT_FOUND => Ok(None),
        StatusCode::SERVICE_UNAVAILABLE => Err(Code::Unavailable.into()),
        status => Err(ApiError::BadAnswer { service, reason: format!("status {status}") }),
    }
}

/// An order that is on its way into the database.
fn queued(hold: Reservation) -> Order {
    let created_at: DateTime<Utc> = hold.reserved_at;
    Order {
        id: hold.order_id,
        item_id: hold.item_id,
        sale_id: hold.sale_id,
        quantity: hold.quantity,
        unit_price_cents: hold.unit_price_cents,
        total_cents: hold.unit_price_cents.saturating_mul(i64::from(hold.quantity.get())),
        currency: hold.currency,
        status: OrderStatus::Queued,
        reason: None,
        refund: None,
        version: 0,
        created_at,
        expires_at: None,
    }
}
