//! Faults that are worse together: where systems really die.

use common::topology::Exchange;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::{AdminAction, AdminStep, Armed, PlannedFault};
use crate::fault::{Fault, Owner};
use crate::points::Action;

/// When one begins, in milliseconds. Early, because small stocks are taken soon.
const FROM_MS: std::ops::Range<u64> = 0..700;
/// When one begins that is about the first grants.
const FIRST_GRANTS_MS: std::ops::Range<u64> = 0..250;

/// How often the exchange of the reservations is deleted, and at what intervals.
const UNBOUND_TIMES: u64 = 6;
const UNBOUND_EVERY_MS: u64 = 80;

/// Adds one of them; faults that would make both stores lose their data are left out.
pub fn add(
    rng: &mut StdRng,
    faults: &mut Vec<PlannedFault>,
    crash_points: &mut Vec<Armed>,
    admin: &mut Vec<AdminStep>,
) {
    let at_ms = rng.random_range(FROM_MS);
    let mut plan = Plan { faults: Vec::new(), crash_points: Vec::new(), admin: Vec::new(), at_ms };
    match rng.random_range(0..13) {
        0 => reservations_under_way_when_redis_is_lost(rng, &mut plan),
        1 => publishing_when_redis_is_lost(rng, &mut plan),
        2 => consumer_away_when_the_broker_is_lost(rng, &mut plan),
        3 => answers_unheard_when_the_broker_is_lost(rng, &mut plan),
        4 => database_away(rng, &mut plan),
        5 => grants_unpublished(rng, &mut plan),
        6 => nobody_takes_reservations(rng, &mut plan),
        7 => commits_unheard(rng, &mut plan),
        8 => news_repeated(rng, &mut plan),
        9 => broker_refuses(rng, &mut plan),
        10 => lowered_while_reservations_wait(rng, &mut plan),
        11 => redis_goes_back_while_everybody_buys(rng, &mut plan),
        _ => load_interrupted(rng, &mut plan),
    }
    // When both stores lose their data, nothing is promised: what is worse together stays.
    if let Some(lost) = plan.faults.iter().find_map(|planned| planned.fault.loses()) {
        faults.retain(|planned| planned.fault.loses().is_none_or(|other| other == lost));
    }
    faults.append(&mut plan.faults);
    faults.sort_by_key(|planned| planned.at_ms);
    crash_points.append(&mut plan.crash_points);
    crash_points.sort_by_key(|armed| armed.at_ms);
    admin.append(&mut plan.admin);
    admin.sort_by_key(|step| step.at_ms);
}

struct Plan {
    faults: Vec<PlannedFault>,
    crash_points: Vec<Armed>,
    admin: Vec<AdminStep>,
    at_ms: u64,
}

impl Plan {
    fn fault(&mut self, after_ms: u64, for_ms: u64, fault: Fault) {
        self.faults.push(PlannedFault { at_ms: self.at_ms + after_ms, for_ms, fault });
    }

    fn arm(&mut self, service: &'static str, point: &'static str, action: Action, times: u32) {
        self.crash_points.push(Armed { at_ms: self.at_ms, service, point, action, times });
    }
}

fn lose_redis(rng: &mut StdRng) -> Fault {
    if rng.random_bool(0.5) { Fault::FlushRedis } else { Fault::EmptyRedis }
}

/// order-service has reservations in hand and is slow, while the inventory is loaded anew.
fn reservations_under_way_when_redis_is_lost(rng: &mut StdRng, plan: &mut Plan) {
    use order_service::crash_points as points;
    plan.at_ms = rng.random_range(FIRST_GRANTS_MS);
    // Half of them before a transaction holds the item, behind whose lock a fence would wait whatever its way.
    let slow = [
        points::ORDER_RECEIVE_AFTER,
        points::ORDER_RECEIVE_AFTER,
        points::ORDER_BEGIN_AFTER,
        points::ORDER_COMMIT_BEFORE,
    ];
    // Mostly only the first batch, so that other queues are worked off meanwhile, now and then the next one, too.
    let times = rng.random_range(1..=3_u32).saturating_sub(1).max(1);
    plan.arm("order-service", slow.choose(rng).copied().unwrap_or(slow[0]), Action::Pause, times);
    plan.fault(rng.random_range(200..700), 100, lose_redis(rng));
}

/// Grants of a Redis that is gone are published when another one has been loaded.
fn publishing_when_redis_is_lost(rng: &mut StdRng, plan: &mut Plan) {
    plan.at_ms = rng.random_range(FIRST_GRANTS_MS);
    plan.arm("stock-service", stock_service::crash_points::PUBLISH.before, Action::Pause, 3);
    plan.fault(rng.random_range(200..700), 100, lose_redis(rng));
}

/// What waits for a consumer is lost.
fn consumer_away_when_the_broker_is_lost(rng: &mut StdRng, plan: &mut Plan) {
    let services = ["order-service", "order-service", "notify-service", "notify-service", "stock-service"];
    let process = services.choose(rng).copied().unwrap_or(services[0]).to_owned();
    let away = if rng.random_bool(0.5) { Fault::Kill { process } } else { Fault::Freeze { process } };
    plan.fault(0, rng.random_range(900..1_600), away);
    plan.fault(rng.random_range(400..800), 100, Fault::WipeBroker);
}

/// The broker has confirmed, and nobody has heard it.
fn answers_unheard_when_the_broker_is_lost(rng: &mut StdRng, plan: &mut Plan) {
    let database = if rng.random_bool(0.3) { Owner::Orders } else { Owner::Notify };
    plan.fault(0, rng.random_range(900..1_600), Fault::LockTable { database });
    plan.fault(rng.random_range(400..800), 100, Fault::WipeBroker);
}

/// A database takes nothing for longer than a statement may take.
fn database_away(rng: &mut StdRng, plan: &mut Plan) {
    let database = if rng.random_bool(0.5) { Owner::Orders } else { Owner::Notify };
    let away = match rng.random_range(0..3) {
        0 => Fault::BlockDatabase { database },
        1 => Fault::ReadOnlyDatabase { database },
        _ => Fault::LockTable { database },
    };
    plan.fault(0, rng.random_range(1_200..2_000), away);
}

/// stock-service has granted, and dies or fails before the broker has it.
fn grants_unpublished(rng: &mut StdRng, plan: &mut Plan) {
    use stock_service::crash_points as points;
    plan.at_ms = rng.random_range(FIRST_GRANTS_MS);
    let steps = [points::SCRIPT.after, points::PUBLISH.before, points::PUBLISH.after, points::CONFIRM.before];
    let action = if rng.random_bool(0.5) { Action::Abort } else { Action::Error };
    plan.arm("stock-service", steps.choose(rng).copied().unwrap_or(steps[0]), action, 2);
}

/// The database has committed, and order-service takes it for a failure.
fn commits_unheard(rng: &mut StdRng, plan: &mut Plan) {
    use order_service::crash_points as points;
    let commits = [points::PAY_COMMIT_AFTER, points::CANCEL_COMMIT_AFTER, points::PAYMENT_COMMIT_AFTER];
    for point in commits {
        if rng.random_bool(0.7) {
            plan.arm("order-service", point, Action::Error, 3);
        }
    }
}

/// order-service has reservations in hand and is slow, while an admin takes units away, one by one.
fn lowered_while_reservations_wait(rng: &mut StdRng, plan: &mut Plan) {
    plan.at_ms = rng.random_range(FIRST_GRANTS_MS);
    plan.arm("order-service", order_service::crash_points::ORDER_BEGIN_AFTER, Action::Pause, 2);
    let first_ms = plan.at_ms + rng.random_range(200..500);
    for n in 0..8 {
        let what = AdminAction::Restock { item: 0, units: -rng.random_range(1..=3) };
        plan.admin.push(AdminStep { at_ms: first_ms + n * 150, what });
    }
}

/// Redis comes back as it was before the last grants, of which all have been heard, and there is demand for what it takes to
/// be left.
fn redis_goes_back_while_everybody_buys(rng: &mut StdRng, plan: &mut Plan) {
    plan.at_ms = rng.random_range(FIRST_GRANTS_MS);
    plan.fault(0, 100, Fault::StaleRedis { age_ms: rng.random_range(250..600) });
}

/// Orders change while whoever hears of them is cut off again and again: old news come after new ones.
fn news_repeated(rng: &mut StdRng, plan: &mut Plan) {
    let services = ["stock-service", "notify-service"];
    let process = services.choose(rng).copied().unwrap_or(services[0]).to_owned();
    plan.fault(rng.random_range(0..600), rng.random_range(500..1_200), Fault::Freeze { process });
    for n in 1..=4 {
        plan.fault(n * 500, 100, Fault::CloseBrokerConnections { times: 1 });
    }
}

/// The broker takes nothing for a while, and answers so, in the middle of a rush.
fn broker_refuses(rng: &mut StdRng, plan: &mut Plan) {
    plan.fault(rng.random_range(0..800), rng.random_range(600..1_500), Fault::FullQueues);
    if rng.random_bool(0.5) {
        plan.fault(rng.random_range(1_500..2_500), rng.random_range(300..800), Fault::FullQueues);
    }
}

/// Reservations come back from the broker, because no queue is bound; and their other copy may be lost, too.
fn nobody_takes_reservations(rng: &mut StdRng, plan: &mut Plan) {
    plan.at_ms = rng.random_range(FIRST_GRANTS_MS);
    let exchange = Exchange::Stock.name().to_owned();
    // Whoever publishes makes the topology again at once.
    for n in 0..UNBOUND_TIMES {
        plan.fault(n * UNBOUND_EVERY_MS, 50, Fault::DeleteExchange { exchange: exchange.clone() });
    }
    if rng.random_bool(0.7) {
        let last_ms = UNBOUND_TIMES * UNBOUND_EVERY_MS;
        plan.fault(rng.random_range(last_ms - UNBOUND_EVERY_MS..last_ms + 150), 100, lose_redis(rng));
    }
}

/// A load of the inventory dies or stands still at one of its steps.
fn load_interrupted(rng: &mut StdRng, plan: &mut Plan) {
    use stock_service::crash_points as points;
    let steps = [
        points::REBUILD_CLAIM,
        points::REBUILD_REPUBLISH,
        points::REBUILD_FENCE,
        points::REBUILD_READ,
        points::REBUILD_STAGE,
        points::REBUILD_RENAME,
        points::REBUILD_GATE,
    ];
    let step = steps.choose(rng).copied().unwrap_or(steps[0]);
    let point = if rng.random_bool(0.5) { step.before } else { step.after };
    let action = Action::ALL[rng.random_range(0..Action::ALL.len())];
    plan.arm("stock-service", point, action, 1);
    plan.fault(rng.random_range(50..300), 100, lose_redis(rng));
    if rng.random_bool(0.5) {
        plan.fault(rng.random_range(700..1_200), 100, lose_redis(rng));
    }
}
