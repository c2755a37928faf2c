//! The last release is replaced by this one under load, service by service, replica by replica, in every order of the
//! services. Meanwhile both releases serve side by side, and read each other's messages and rows.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

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
/// How long both releases serve side by side after each service.
const SIDE_BY_SIDE: Duration = Duration::from_millis(1_500);

/// Where the binaries of both releases are.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub(super) struct Releases {
    /// Drill `upgrades`: binaries of the last release.
    #[arg(long, requires = "drill")]
    old_binaries: Option<PathBuf>,
    /// Drill `upgrades`: binaries of this release.
    #[arg(long, requires = "drill")]
    new_binaries: Option<PathBuf>,
    /// Drill `upgrades`: the folder that processes are started from, of links to either; `./dev upgrade-test` gives it.
    #[arg(long, requires = "drill")]
    live_binaries: Option<PathBuf>,
    /// Drill `upgrades`: how many orders of services are left out, for others who do those.
    #[arg(long, requires = "drill", default_value_t = 0)]
    from_order: usize,
}

pub(super) async fn run(count: u64, releases: &Releases) -> anyhow::Result<Outcome> {
    let Releases { old_binaries: Some(old), new_binaries: Some(new), live_binaries: Some(live), from_order } =
        releases
    else {
        anyhow::bail!("this drill needs the binaries of two releases: ./dev upgrade-test");
    };
    let mut outcome = Outcome::new("upgrades", count);
    let (mut requests, mut unavailable, mut refused) = (0, 0, 0);
    let orders = every_order();
    for order in orders.iter().cycle().skip(*from_order).take(usize::try_from(count)?) {
        for service in SERVICES {
            install(live, service, old)?;
        }
        let mut stage = Stage::start(REPLICAS, &SETTINGS).await?;
        let users = stage.buyers("user", USERS).await?;
        let sale = stage.open_sale(STOCK, 100).await?;
        let load = Load::start(&stage, users, sale.items[0].id)?;
        tokio::time::sleep(SIDE_BY_SIDE).await;
        for service in order {
            install(live, service, new)?;
            for name in [(*service).to_owned(), format!("{service}-2")] {
                if let Err(error) = stage.world.services.try_stop(&name).await {
                    outcome.violations.push(format!("{order:?}: {error:#}"));
                }
                stage.world.services.restart(&name).await;
                tokio::time::sleep(SIDE_BY_SIDE).await;
            }
        }
        let done = load.end().await?;
        say(&format!("  {}: {} requests, {} accepted", order.join(", "), done.requests, done.accepted.len()));
        outcome.require(
            done.unanswered == 0,
            format_args!("{order:?}: {} requests got no answer: {:?}", done.unanswered, done.broken),
        );
        requests += done.requests;
        unavailable += done.unavailable;
        refused += done.refused;
        outcome.violations.extend(done.strange.into_iter().map(|what| format!("{order:?}: {what}")));
        let promises = Promises { accepted: done.accepted, ..Promises::default() };
        books::settle(&stage, sale.id, &promises, &mut outcome).await?;
        books::nothing_parked(&stage, &mut outcome).await?;
    }
    outcome.figure("requests", requests);
    outcome.figure("unavailable_503", unavailable);
    outcome.figure("refused_4xx", refused);
    outcome.figure("orders_of_services", count.min(u64::try_from(orders.len())?));
    Ok(outcome)
}

/// From now on `service` is started from `release`. What runs goes on from what it was started from.
fn install(live: &Path, service: &str, release: &Path) -> anyhow::Result<()> {
    let (binary, link) = (release.join(service), live.join(service));
    anyhow::ensure!(binary.is_file(), "{} is missing", binary.display());
    let next = live.join(format!("{service}.next"));
    symlink(&binary, &next).with_context(|| format!("linking {}", next.display()))?;
    std::fs::rename(&next, &link).with_context(|| format!("linking {}", link.display()))
}

/// The services in every order.
fn every_order() -> Vec<Vec<&'static str>> {
    fn extend(rest: &[&'static str]) -> Vec<Vec<&'static str>> {
        if rest.is_empty() {
            return vec![Vec::new()];
        }
        let mut all = Vec::new();
        for first in rest {
            let others: Vec<_> = rest.iter().filter(|one| *one != first).copied().collect();
            for mut order in extend(&others) {
                order.insert(0, first);
                all.push(order);
            }
        }
        all
    }
    extend(&SERVICES)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn four_services_have_twenty_four_orders() {
        let orders: BTreeSet<_> = every_order().into_iter().collect();
        assert_eq!(orders.len(), 24);
        assert!(orders.iter().all(|order| order.iter().collect::<BTreeSet<_>>().len() == 4));
    }
}
