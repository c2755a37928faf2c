//! Which fault comes next.

use common::topology::{Exchange, Queue};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::{Fault, Owner};
use crate::proxy::Mode;
use crate::world::Edge;

const SERVICES: [&str; 4] = ["stock-service", "order-service", "notify-service", "gateway"];
/// What faults are about, with how often of a hundred.
const SUBJECTS: [(Subject, u32); 5] = [
    (Subject::Process, 25),
    (Subject::Redis, 25),
    (Subject::Broker, 15),
    (Subject::Database, 15),
    (Subject::Network, 20),
];

#[derive(Debug, Clone, Copy)]
enum Subject {
    Process,
    Redis,
    Broker,
    Database,
    Network,
}

pub(super) fn draw(rng: &mut StdRng) -> Fault {
    let mut point = rng.random_range(0..SUBJECTS.iter().map(|(_, weight)| weight).sum());
    for (subject, weight) in SUBJECTS {
        if point < weight {
            return about(subject, rng);
        }
        point -= weight;
    }
    about(Subject::Process, rng)
}

fn about(subject: Subject, rng: &mut StdRng) -> Fault {
    match subject {
        Subject::Process => process(rng),
        Subject::Redis => inventory(rng),
        Subject::Broker => broker(rng),
        Subject::Database => database(rng),
        Subject::Network => Fault::Network { edge: *pick(&Edge::ALL, rng), mode: mode(rng) },
    }
}

fn process(rng: &mut StdRng) -> Fault {
    let process = (*pick(&SERVICES, rng)).to_owned();
    match rng.random_range(0..4) {
        0 => Fault::Freeze { process },
        1 => Fault::Restart { process },
        _ => Fault::Kill { process },
    }
}

fn inventory(rng: &mut StdRng) -> Fault {
    match rng.random_range(0..10) {
        0 => Fault::StopRedis,
        1 => Fault::FlushRedis,
        2 => Fault::EmptyRedis,
        3 => Fault::StaleRedis { age_ms: rng.random_range(50..800) },
        4 => Fault::TruncateRedis { bytes: rng.random_range(1..20_000) },
        5 => Fault::FailOver { lag_ms: rng.random_range(0..500) },
        6 => Fault::FreezeRedis,
        7 => Fault::FlushScripts,
        8 => Fault::FullRedis,
        _ => Fault::SpoilKey,
    }
}

fn broker(rng: &mut StdRng) -> Fault {
    let Queue { name, exchange, .. } = pick(&Queue::all(), rng).clone();
    match rng.random_range(0..7) {
        0 => Fault::WipeBroker,
        1 => Fault::DeleteQueue { queue: name },
        2 => Fault::DeleteBinding { exchange: Exchange::name(exchange).to_owned(), queue: name },
        3 => Fault::CloseBrokerConnections { times: rng.random_range(1..5) },
        4 => Fault::BlockBroker,
        5 => Fault::DeleteExchange { exchange: Exchange::name(exchange).to_owned() },
        _ => Fault::FullQueues,
    }
}

fn database(rng: &mut StdRng) -> Fault {
    let database = if rng.random_bool(0.75) { Owner::Orders } else { Owner::Notify };
    match rng.random_range(0..5) {
        0 => Fault::CloseDatabaseConnections { database },
        1 => Fault::BlockDatabase { database },
        2 => Fault::LockTable { database },
        3 => Fault::ReadOnlyDatabase { database },
        _ => {
            // The commit happened, and nobody is told.
            let mode = Mode::LoseReplyTo { text: "COMMIT".to_owned() };
            Fault::Network { edge: Edge::OrderToDatabase, mode }
        }
    }
}

fn mode(rng: &mut StdRng) -> Mode {
    match rng.random_range(0..5) {
        0 => Mode::Delay { fixed_ms: rng.random_range(5..100), jitter_ms: rng.random_range(0..200) },
        1 => Mode::Cut,
        2 => Mode::HalfOpen,
        3 => Mode::LoseReplies,
        _ => Mode::CutAfter { bytes: rng.random_range(0..20_000) },
    }
}

fn pick<'a, T>(all: &'a [T], rng: &mut StdRng) -> &'a T {
    all.choose(rng).unwrap_or(&all[0])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn every_kind_of_fault_is_drawn() {
        let mut rng = StdRng::seed_from_u64(1);
        let drawn: BTreeSet<&str> = (0..5_000).map(|_| draw(&mut rng).kind()).collect();
        let network = 6;
        let others = 24;
        assert_eq!(drawn.len(), network + others, "{drawn:?}");
    }

    #[test]
    fn a_fault_survives_its_report() {
        let mut rng = StdRng::seed_from_u64(2);
        for _ in 0..500 {
            let fault = draw(&mut rng);
            let text = serde_json::to_string(&fault).unwrap();
            assert_eq!(serde_json::from_str::<Fault>(&text).unwrap(), fault, "{text}");
        }
    }
}
