//! docs/SECRETS.md, walked through: every secret is changed while buyers buy, and the old ones count no more in the end.

use std::collections::BTreeMap;
use std::time::Duration;

use common::internal::TOKEN_HEADER;
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use reqwest::StatusCode;
use testkit::{Services, Stores};
use uuid::Uuid;

use super::Outcome;
use super::books::{self, Promises};
use super::load::Load;
use super::report::say;
use super::stage::Stage;

const SERVICES: [&str; 4] = ["stock-service", "order-service", "notify-service", "gateway"];
const REPLICAS: usize = 2;
const USERS: u64 = 500;
/// Enough that the item never sells out: refusals would be cheap, and so a weak test.
const STOCK: u64 = 1_000_000;
/// How long a gateway goes on serving after SIGTERM, for the balancer to notice.
const SETTINGS: [(&str, &str); 1] = [("GATEWAY__DRAIN__READY_DELAY_MS", "1000")];
const TIMEOUT: Duration = Duration::from_secs(5);

/// Settings of one step, by their names.
type Settings = BTreeMap<&'static str, String>;

pub(super) async fn run(count: u64) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("secret-rotation", count);
    let (mut requests, mut unavailable) = (0, 0);
    for _ in 0..count {
        let mut stage = Stage::start_on(Stores::create_with_rights().await, REPLICAS, &SETTINGS).await?;
        let old = Old::of(&stage.world.services);
        // From here on with the users that services have in production.
        roll(&mut stage, &old.stores, &mut outcome).await;
        let users = stage.buyers("user", USERS).await?;
        let sale = stage.open_sale(STOCK, 100).await?;
        let load = Load::start(&stage, users, sale.items[0].id)?;

        let (internal, jwt) = (secret(), secret());
        say("  1. the new secrets count beside the old ones");
        let stores = add_stores(&stage.world.services).await;
        let both = tokens((&old.internal, &internal), (&old.jwt, &jwt));
        roll(&mut stage, &both, &mut outcome).await;
        say(&format!("  2. the new secrets are used ({})", load.so_far()));
        let turned = tokens((&internal, &old.internal), (&jwt, &old.jwt));
        roll(&mut stage, &stores.into_iter().chain(turned).collect(), &mut outcome).await;
        say(&format!("  3. the old secrets count no more ({})", load.so_far()));
        retire_stores(&stage.world.services, &mut outcome).await;
        // Tokens of users that were issued by the old key count until they have ended: that one is taken away last.
        let done = tokens((&internal, ""), (&jwt, &old.jwt));
        roll(&mut stage, &done, &mut outcome).await;
        let done = load.end().await?;
        old.counts_no_more(&stage.world.services, &internal, &mut outcome).await?;

        outcome.require(
            done.unanswered == 0,
            format_args!("{} requests got no answer: {:?}", done.unanswered, done.broken),
        );
        outcome.require(done.unauthenticated == 0, "somebody's token was refused");
        outcome.violations.extend(done.strange);
        requests += done.requests;
        unavailable += done.unavailable;
        let promises = Promises { accepted: done.accepted, ..Promises::default() };
        books::settle(&stage, sale.id, &promises, &mut outcome).await?;
        books::nothing_parked(&stage, &mut outcome).await?;
    }
    outcome.figure("requests", requests);
    outcome.figure("unavailable_503", unavailable);
    Ok(outcome)
}

/// What everything began with.
struct Old {
    internal: String,
    jwt: String,
    stores: Settings,
}

impl Old {
    fn of(services: &Services) -> Self {
        let (redis, vhost) = (services.redis(), services.vhost());
        let (orders, notify) = (services.orders_database(), services.notify_database());
        let stores = Settings::from([
            ("GATEWAY__REDIS__URL", redis.url_of("gateway")),
            ("STOCK_SERVICE__REDIS__URL", redis.url_of("stock-service")),
            ("STOCK_SERVICE__AMQP__URL", vhost.url_of("stock-service")),
            ("ORDER_SERVICE__AMQP__URL", vhost.url_of("order-service")),
            ("NOTIFY_SERVICE__AMQP__URL", vhost.url_of("notify-service")),
            ("ORDER_SERVICE__DATABASE__URL", orders.role_url()),
            ("ORDER_SERVICE__DATABASE__MIGRATION_URL", orders.url()),
            ("NOTIFY_SERVICE__DATABASE__URL", notify.role_url()),
            ("NOTIFY_SERVICE__DATABASE__MIGRATION_URL", notify.url()),
        ]);
        let (internal, jwt) = (services.internal_token().to_owned(), services.jwt_secret().to_owned());
        Self { internal, jwt, stores }
    }

    /// Tries every old secret that is to be refused.
    async fn counts_no_more(
        &self,
        services: &Services,
        internal: &str,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
        for (token, wanted) in [(self.internal.as_str(), false), (internal, true)] {
            for url in services.urls_of("stock-service") {
                let request = http.get(format!("{url}/internal/v1/items")).header(TOKEN_HEADER, token);
                let let_in = request.send().await?.status() != StatusCode::UNAUTHORIZED;
                outcome.require(let_in == wanted, format_args!("internal token, let in: {let_in}"));
            }
        }
        for service in ["gateway", "stock-service"] {
            let counts = services.redis().first_password_counts(service).await;
            outcome.require(!counts, format_args!("the old Redis password of {service} still counts"));
        }
        for database in [services.orders_database(), services.notify_database()] {
            let entered = AsyncPgConnection::establish(&database.role_url()).await.is_ok();
            outcome.require(!entered, "the old role of Postgres still gets in");
        }
        let old = self.stores["ORDER_SERVICE__AMQP__URL"].as_str();
        let entered = lapin::Connection::connect(old, lapin::ConnectionProperties::default()).await.is_ok();
        outcome.require(!entered, "the old user of RabbitMQ still gets in");
        Ok(())
    }
}

fn secret() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// The secrets that are used, and those that count besides; the latter may be empty.
fn tokens(internal: (&str, &str), jwt: (&str, &str)) -> Settings {
    let prefixes = [
        ("STOCK_SERVICE__INTERNAL__TOKEN", "STOCK_SERVICE__INTERNAL__TOKEN_ALSO"),
        ("ORDER_SERVICE__INTERNAL__TOKEN", "ORDER_SERVICE__INTERNAL__TOKEN_ALSO"),
        ("NOTIFY_SERVICE__INTERNAL__TOKEN", "NOTIFY_SERVICE__INTERNAL__TOKEN_ALSO"),
        ("GATEWAY__INTERNAL__TOKEN", "GATEWAY__INTERNAL__TOKEN_ALSO"),
    ];
    let mut settings = Settings::new();
    for (used, also) in prefixes {
        settings.insert(used, internal.0.to_owned());
        settings.insert(also, internal.1.to_owned());
    }
    settings.insert("GATEWAY__AUTH__JWT_SECRET", jwt.0.to_owned());
    settings.insert("GATEWAY__AUTH__JWT_SECRET_ALSO", jwt.1.to_owned());
    settings
}

/// A second way in for every service, at every store.
async fn add_stores(services: &Services) -> Settings {
    let (redis, vhost) = (services.redis(), services.vhost());
    Settings::from([
        ("GATEWAY__REDIS__URL", redis.add_next_password("gateway").await),
        ("STOCK_SERVICE__REDIS__URL", redis.add_next_password("stock-service").await),
        ("STOCK_SERVICE__AMQP__URL", vhost.add_next_user("stock-service").await),
        ("ORDER_SERVICE__AMQP__URL", vhost.add_next_user("order-service").await),
        ("NOTIFY_SERVICE__AMQP__URL", vhost.add_next_user("notify-service").await),
        ("ORDER_SERVICE__DATABASE__URL", services.orders_database().add_next_role().await),
        ("NOTIFY_SERVICE__DATABASE__URL", services.notify_database().add_next_role().await),
    ])
}

/// The first way in is closed; nobody may be inside by it.
async fn retire_stores(services: &Services, outcome: &mut Outcome) {
    for service in ["gateway", "stock-service"] {
        services.redis().retire_password(service).await;
    }
    for service in ["stock-service", "order-service", "notify-service"] {
        services.vhost().retire_user(service).await;
    }
    let inside =
        services.orders_database().retire_role().await + services.notify_database().retire_role().await;
    outcome.require(inside == 0, format_args!("{inside} connections by the old roles of Postgres"));
}

/// A rolling restart of everything with these settings.
async fn roll(stage: &mut Stage, settings: &Settings, outcome: &mut Outcome) {
    for (key, value) in settings {
        stage.world.services.set(key, value);
    }
    for service in SERVICES {
        for name in [service.to_owned(), format!("{service}-2")] {
            if let Err(error) = stage.world.services.try_stop(&name).await {
                outcome.violations.push(format!("{error:#}"));
            }
            stage.world.services.restart(&name).await;
        }
    }
}
