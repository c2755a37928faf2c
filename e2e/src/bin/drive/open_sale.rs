//! The sale that is open after `./dev up`.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use chrono::Utc;
use common::api::admin::{NewItem, NewSale};
use common::ids::Currency;
use e2e::client::Client;

/// How long the sale may take to appear at every gateway.
const LISTED_WITHIN: Duration = Duration::from_secs(20);

/// Opens the demo sale, waits until it is listed, prints its id.
pub async fn run(client: &Client) -> anyhow::Result<ExitCode> {
    let admin = client.token("admin", "admin").await?;
    let sale = client.open_sale(&admin, &demo_sale()?).await?;
    client.wait_until_listed(sale.id, LISTED_WITHIN).await?;
    writeln!(std::io::stdout(), "{}", sale.id)?;
    Ok(ExitCode::SUCCESS)
}

fn demo_sale() -> anyhow::Result<NewSale> {
    #[expect(clippy::disallowed_methods, reason = "a client picks its sale's opening by its own clock")]
    let now = Utc::now();
    let dish = |sku: &str, name: &str, price_cents: i64, stock: i64| {
        Ok::<_, common::ids::Invalid>(NewItem {
            sku: sku.to_owned(),
            name: name.to_owned(),
            image_url: String::new(),
            price_cents,
            currency: Currency::try_from("CNY".to_owned())?,
            stock,
            per_user_limit: 2,
        })
    };
    Ok(NewSale {
        title: "午市秒杀 Lunch flash sale".to_owned(),
        starts_at: now,
        ends_at: now + chrono::Duration::days(1),
        payment_window_seconds: 900,
        waiting_room: false,
        challenge: false,
        items: vec![
            dish("duck-01", "北京烤鸭 Peking duck", 9_900, 100)?,
            dish("tofu-01", "麻婆豆腐 Mapo tofu", 1_900, 500)?,
            dish("dumpling-01", "小笼包 Soup dumplings", 1_200, 1_000)?,
        ],
    })
}
