//! The answer 202 is lost on its way; the world changes; the same key is asked again and learns of its order.

use std::net::SocketAddr;

use anyhow::Context as _;
use common::api::{OrderStatus, Sale};
use common::ids::OrderId;
use common::problem::Code;
use diesel::sql_query;
use diesel::sql_types::Uuid as SqlUuid;
use diesel_async::RunQueryDsl as _;
use e2e::client::Client;
use e2e::crowd::Buyer;
use futures_util::{StreamExt as _, stream};
use tokio::time::{Duration, Instant, sleep};
use url::Url;

use super::Outcome;
use super::books::{self, Promises};
use super::contention::{accepted, expected, insist};
use super::report::say;
use super::stage::Stage;
use crate::fault::Fault;
use crate::proxy::{Mode, Proxy};

const KEY: &str = "lost-in-transit";
/// Answers that get lost at the same time.
const AT_ONCE: usize = 16;
/// Units that others buy when an item is to sell out.
const OTHERS: u64 = 5;
const LAPSED_WITHIN: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What happens between the lost answer and the retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Nothing,
    SoldOut,
    Ended,
    Paused,
    Expired,
    RedisWiped,
    RedisWipedAndEnded,
    StockServiceRestarted,
}

const CHANGES: [Change; 8] = [
    Change::Nothing,
    Change::SoldOut,
    Change::Ended,
    Change::Paused,
    Change::Expired,
    Change::RedisWiped,
    Change::RedisWipedAndEnded,
    Change::StockServiceRestarted,
];

pub(super) async fn run(count: u64) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::new("retries", count);
    let mut stage = Stage::start(2, &[]).await?;
    let crowd = stage.buyers("buyer", count).await?;
    let others = stage.buyers("other", OTHERS + 1).await?;
    let gateways = stage.world.services.gateway_urls();
    let first = Url::parse(&gateways[0])?.port().context("a gateway has a port")?;
    let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], first))).await?;
    let deaf = Client::new(vec![format!("http://{}", proxy.address())])?;
    // The retry goes to the other gateway, which has never seen the key.
    let elsewhere = Client::new(vec![gateways[1].clone()])?;

    for change in CHANGES {
        let stock = if change == Change::SoldOut { count + OTHERS } else { count * 2 };
        let sale = stage.open_sale(stock, 1).await?;
        let mut promises = Promises::default();
        proxy.set(Mode::LoseReplies);
        let (deaf, item) = (&deaf, sale.items[0].id);
        let asked = crowd.iter().map(|buyer| deaf.order(&buyer.token, item, KEY, 1));
        let answers: Vec<_> = stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
        for answer in answers {
            outcome.require(answer.is_err(), format_args!("{change:?}: an answer got through: {answer:?}"));
        }
        proxy.set(Mode::Pass);
        make(change, &mut stage, &sale, (&crowd, &others), &mut promises).await?;
        for buyer in crowd.iter() {
            ask_again(&elsewhere, buyer, &sale, change, (&mut outcome, &mut promises)).await?;
        }
        if change == Change::Paused {
            stage.tell_sale(sale.id, "resume").await?;
        }
        books::settle(&stage, sale.id, &promises, &mut outcome).await?;
        say(&format!(
            "  {change:?}: {count} keys asked again, {} violations so far",
            outcome.violations.len()
        ));
    }
    outcome.figure("kinds_of_change", u64::try_from(CHANGES.len())?);
    books::nothing_parked(&stage, &mut outcome).await?;
    Ok(outcome)
}

async fn make(
    change: Change,
    stage: &mut Stage,
    sale: &Sale,
    (crowd, others): (&[Buyer], &[Buyer]),
    promises: &mut Promises,
) -> anyhow::Result<()> {
    match change {
        Change::Nothing => {}
        Change::SoldOut => {
            for buyer in others {
                let answer = insist(&stage.client, buyer, &sale.items[0], "other").await?;
                promises.accepted.extend(accepted(&answer));
            }
            let last = insist(&stage.client, &others[others.len() - 1], &sale.items[0], "one-more").await?;
            let code = last.code();
            anyhow::ensure!(
                matches!(code, Some(Code::SoldOut | Code::LimitExceeded)),
                "not sold out: {code:?}"
            );
        }
        Change::Ended => stage.tell_sale(sale.id, "end").await?,
        Change::Paused => stage.tell_sale(sale.id, "pause").await?,
        Change::Expired => lapse(stage, sale, crowd).await?,
        Change::RedisWiped => Fault::EmptyRedis.inject(&mut stage.world).await?,
        Change::RedisWipedAndEnded => {
            stage.tell_sale(sale.id, "end").await?;
            Fault::EmptyRedis.inject(&mut stage.world).await?;
        }
        Change::StockServiceRestarted => {
            for name in ["stock-service", "stock-service-2"] {
                stage.world.services.kill(name);
                stage.world.services.start_again(name);
            }
        }
    }
    Ok(())
}

/// Lets the buyers' orders run out of time.
async fn lapse(stage: &Stage, sale: &Sale, crowd: &[Buyer]) -> anyhow::Result<()> {
    let wanted = u64::try_from(crowd.len())?;
    let mut connection = books::connect(stage).await?;
    let begin = Instant::now();
    let expired =
        format!("SELECT count(*) AS count FROM orders WHERE sale_id = '{}' AND status = 'expired'", sale.id);
    while books::count(&mut connection, &expired).await? < wanted && begin.elapsed() < LAPSED_WITHIN {
        // Again each time: some orders may still be on their way into the database.
        sql_query("UPDATE orders SET expires_at = now() WHERE sale_id = $1 AND status = 'pending_payment'")
            .bind::<SqlUuid, _>(sale.id.0)
            .execute(&mut connection)
            .await?;
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

/// The same key at another gateway: accepted, the same order, which is shown to its owner.
async fn ask_again(
    client: &Client,
    buyer: &Buyer,
    sale: &Sale,
    change: Change,
    (outcome, promises): (&mut Outcome, &mut Promises),
) -> anyhow::Result<()> {
    let wanted = expected(buyer, &sale.items[0], KEY)?;
    let answer = insist(client, buyer, &sale.items[0], KEY).await?;
    outcome.require(
        accepted(&answer) == Some(wanted),
        format_args!(
            "{change:?}: {} is told {} {:?} of order {wanted}",
            buyer.user,
            answer.status,
            answer.code()
        ),
    );
    promises.accepted.insert(wanted);
    let shown = show(client, buyer, wanted).await;
    let expired = change == Change::Expired;
    outcome.require(
        matches!(shown, Some(status) if !expired || status == OrderStatus::Expired),
        format_args!("{change:?}: order {wanted} is shown as {shown:?}"),
    );
    Ok(())
}

/// The order's status, as soon as it is shown.
async fn show(client: &Client, buyer: &Buyer, order: OrderId) -> Option<OrderStatus> {
    let begin = Instant::now();
    loop {
        match client.order_state(&buyer.token, order).await {
            Ok(state) => return Some(state.status),
            Err(_) if begin.elapsed() < LAPSED_WITHIN => sleep(POLL_INTERVAL).await,
            Err(_) => return None,
        }
    }
}
