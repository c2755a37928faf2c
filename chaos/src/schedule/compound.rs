//! Faults that are worse together: where systems really die.

use common::topology::{PARTITIONS, Queue};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::{Armed, PlannedFault};
use crate::fault::{Fault, Owner, Store};
use crate::points::Action;

/// When one begins, in milliseconds. Early, because small stocks are taken soon.
const FROM_MS: std::ops::Range<u64> = 0..700;
/// When one begins that is about the first grants.
const FIRST_GRANTS_MS: std::ops::Range<u64> = 0..250;

/// Adds one of them, unless both stores would lose their data.
pub fn add(rng: &mut StdRng, faults: &mut Vec<PlannedFault>, crash_points: &mut Vec<Armed>) {
    let at_ms = rng.random_range(FROM_MS);
    let mut plan = Plan { faults: Vec::new(), crash_points: Vec::new(), at_ms };
    match rng.random_range(0..9) {
        0 => reservations_under_way_when_redis_is_lost(rng, &mut plan),
        1 => publishing_when_redis_is_lost(rng, &mut plan),
        2 => consumer_away_when_the_broker_is_lost(rng, &mut plan),
        3 => answers_unheard_when_the_broker_is_lost(rng, &mut plan),
        4 => database_away(rng, &mut plan),
        5 => grants_unpublished(rng, &mut plan),
        6 => nobody_takes_reservations(rng, &mut plan),
        7 => commits_unheard(rng, &mut plan),
        _ => load_interrupted(rng, &mut plan),
    }
    let loses = |faults: &[PlannedFault]| faults.iter().find_map(|planned| planned.fault.loses());
    let (before, added) = (loses(faults), loses(&plan.faults));
    if before.zip(added).is_some_and(|(before, added): (Store, Store)| before != added) {
        return;
    }
    faults.append(&mut plan.faults);
    faults.sort_by_key(|planned| planned.at_ms);
    crash_points.append(&mut plan.crash_points);
    crash_points.sort_by_key(|armed| armed.at_ms);
}

struct Plan {
    faults: Vec<PlannedFault>,
    crash_points: Vec<Armed>,
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
    let slow = [points::ORDER_RECEIVE_AFTER, points::ORDER_BEGIN_AFTER, points::ORDER_COMMIT_BEFORE];
    plan.arm("order-service", slow.choose(rng).copied().unwrap_or(slow[0]), Action::Pause, 3);
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
    let services = ["order-service", "order-service", "notify-service", "stock-service"];
    let process = services.choose(rng).copied().unwrap_or(services[0]).to_owned();
    let away = if rng.random_bool(0.5) { Fault::Kill { process } } else { Fault::Freeze { process } };
    plan.fault(0, rng.random_range(900..1_600), away);
    plan.fault(rng.random_range(400..800), 100, Fault::WipeBroker);
}

/// The broker has confirmed, and nobody has heard it.
fn answers_unheard_when_the_broker_is_lost(rng: &mut StdRng, plan: &mut Plan) {
    let database = if rng.random_bool(0.5) { Owner::Orders } else { Owner::Notify };
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

/// Reservations come back from the broker, because no queue is bound.
fn nobody_takes_reservations(rng: &mut StdRng, plan: &mut Plan) {
    plan.at_ms = rng.random_range(FIRST_GRANTS_MS);
    for partition in 0..PARTITIONS {
        let Queue { name, exchange, .. } = Queue::reservations(partition);
        let queue = name;
        let exchange = exchange.name().to_owned();
        plan.fault(0, rng.random_range(500..1_000), Fault::DeleteBinding { exchange, queue });
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
