//! Notices of the sandbox provider, delivered in its place: genuine ones again, and forged ones.

use chrono::Utc;
use common::ids::OrderId;
use diesel::sql_types::{Nullable, Text};
use diesel::{OptionalExtension as _, QueryableByName};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use uuid::Uuid;

use crate::client_log::Forgery;

/// What the provider knows: its secret, and its books.
#[derive(Debug, Clone)]
pub struct Provider {
    secret: String,
    /// Where its ledger is.
    database: String,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Nullable<Text>)]
    notice: Option<String>,
}

impl Provider {
    /// A provider with this secret, whose ledger is in this database.
    pub fn new(secret: String, database: String) -> Self {
        Self { secret, database }
    }

    /// The notice that the provider sends of a payment: the same bytes every time. `None` before the buyer decided, and
    /// while the ledger cannot be read.
    pub async fn notice(&self, payment: Uuid) -> Option<String> {
        let mut connection = AsyncPgConnection::establish(&self.database).await.ok()?;
        let query = diesel::sql_query("SELECT notice FROM sandbox_payments WHERE payment_id = $1");
        let row: Option<Row> = query
            .bind::<diesel::sql_types::Uuid, _>(payment)
            .get_result(&mut connection)
            .await
            .optional()
            .ok()?;
        row?.notice
    }

    /// The signature header of a body.
    pub fn sign(&self, body: &str) -> String {
        sign(&self.secret, now().timestamp(), body)
    }

    /// Body and signature of a notice that nobody may believe.
    pub fn forge(
        &self,
        forgery: Forgery,
        payment: Uuid,
        order: OrderId,
        amount_cents: i64,
    ) -> (String, String) {
        let notice = |order: Uuid, amount_cents: i64| {
            json!({
                "event_id": format!("forged-{}", Uuid::new_v4()),
                "payment_id": payment,
                "order_id": order,
                "amount_cents": amount_cents,
                "currency": "CNY",
                "outcome": "success",
                "paid_at": now(),
            })
        };
        let text = |notice: Value| notice.to_string();
        let fair = text(notice(order.0, amount_cents));
        match forgery {
            Forgery::WrongKey => {
                let signature = sign("another key that is as long as a key is", now().timestamp(), &fair);
                (fair, signature)
            }
            Forgery::AlteredBody => {
                let signature = self.sign(&fair);
                (format!("{fair} "), signature)
            }
            Forgery::OldTimestamp => {
                let signature = sign(&self.secret, now().timestamp() - 3_600, &fair);
                (fair, signature)
            }
            Forgery::WrongAmount => {
                let body = text(notice(order.0, amount_cents + 1));
                let signature = self.sign(&body);
                (body, signature)
            }
            Forgery::WrongOrder => {
                let body = text(notice(Uuid::new_v4(), amount_cents));
                let signature = self.sign(&body);
                (body, signature)
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the provider signs by its own clock")]
fn now() -> chrono::DateTime<Utc> {
    Utc::now()
}

fn sign(secret: &str, unix_s: i64, body: &str) -> String {
    // HMAC takes keys of any length.
    let code = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map(|mut mac| {
        mac.update(format!("{unix_s}.{body}").as_bytes());
        hex::encode(mac.finalize().into_bytes())
    });
    format!("t={unix_s},v1={}", code.unwrap_or_default())
}
