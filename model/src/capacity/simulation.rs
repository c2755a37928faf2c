//! The write path on one machine, event by event: clients that wait, batches that fill while others are in flight, cores
//! that everything shares.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::Figures;

/// A machine and who asks it.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// Its cores.
    pub cores: usize,
    /// Clients, each of which waits for its answer before it asks again.
    pub connections: usize,
    /// How much dearer an order is than the costs say.
    pub cost_factor: f64,
    /// How long to watch, in seconds of the simulation.
    pub seconds: f64,
}

/// What the simulation found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// Accepted orders a second.
    pub orders_per_s: f64,
    /// Half of the answers took less, in milliseconds.
    pub p50_ms: f64,
    /// Of 100 answers 99 took less, in milliseconds.
    pub p99_ms: f64,
    /// Accepted orders that were not in Postgres yet at the end.
    pub backlog: usize,
}

/// Time in nanoseconds: whole numbers are in one order on every machine.
type Nanos = u64;

/// What happens next to a job, when its computing or waiting is over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// A client's order is at the batcher.
    Arrived(usize),
    /// A batch was decided and published.
    Published(Vec<usize>),
    /// Its confirm is there.
    Confirmed(Vec<usize>),
    /// A client has its answer.
    Answered(usize),
    /// A transaction is ready to be committed, with so many orders.
    Written(usize),
    /// It is committed.
    Committed,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A core is done with this.
    Computed(Step),
    /// Something that takes no core is over.
    Waited(Step),
    /// order-service looks for messages.
    Look,
}

struct World<'a> {
    figures: &'a Figures,
    machine: Machine,
    now: Nanos,
    serial: u64,
    events: BinaryHeap<Reverse<(Nanos, u64, Event)>>,
    free_cores: usize,
    ready: VecDeque<(Nanos, Step)>,
    waiting: VecDeque<usize>,
    in_flight: usize,
    backlog: usize,
    asked_at: Vec<Nanos>,
    latencies: Vec<Nanos>,
}

/// Plays `machine` and says what it takes.
pub fn simulate(figures: &Figures, machine: Machine) -> Found {
    let mut world = World {
        figures,
        machine,
        now: 0,
        serial: 0,
        events: BinaryHeap::new(),
        free_cores: machine.cores,
        ready: VecDeque::new(),
        waiting: VecDeque::new(),
        in_flight: 0,
        backlog: 0,
        asked_at: vec![0; machine.connections],
        latencies: Vec::new(),
    };
    world.run()
}

impl World<'_> {
    fn run(&mut self) -> Found {
        let (end, warm) = (nanos(self.machine.seconds * 1e3), nanos(self.machine.seconds * 1e3 / 5.0));
        (0..self.machine.connections).for_each(|client| self.ask(client));
        self.at(nanos(self.figures.delays.consume_interval), Event::Look);
        let mut warm_count = None;
        while let Some(Reverse((time, _, event))) = self.events.pop() {
            if time > end {
                break;
            }
            self.now = time;
            if warm_count.is_none() && time >= warm {
                warm_count = Some(self.latencies.len());
            }
            match event {
                Event::Computed(step) => {
                    self.free_cores += 1;
                    self.step(step);
                    self.compute_next();
                }
                Event::Waited(step) => self.step(step),
                Event::Look => self.look(),
            }
        }
        let mut measured = self.latencies.split_off(warm_count.unwrap_or(0));
        measured.sort_unstable();
        let at = |share: usize| {
            measured.get(measured.len() * share / 100).map_or(0.0, |nanos| *nanos as f64 / 1e6)
        };
        Found {
            orders_per_s: measured.len() as f64 / (self.machine.seconds * 0.8),
            p50_ms: at(50),
            p99_ms: at(99),
            backlog: self.backlog,
        }
    }

    /// A client sends its next order.
    fn ask(&mut self, client: usize) {
        self.asked_at[client] = self.now;
        let costs = self.figures.costs;
        self.compute(1, costs.generator / 2.0 + costs.gateway, Step::Arrived(client));
    }

    fn step(&mut self, step: Step) {
        let (costs, delays) = (self.figures.costs, self.figures.delays);
        match step {
            Step::Arrived(client) => {
                self.waiting.push_back(client);
                self.send_batch();
            }
            Step::Published(batch) => self.wait(delays.confirm, Step::Confirmed(batch)),
            Step::Confirmed(batch) => {
                self.in_flight -= 1;
                self.backlog += batch.len();
                for client in batch {
                    self.compute(1, costs.generator / 2.0, Step::Answered(client));
                }
                self.send_batch();
            }
            Step::Answered(client) => {
                self.latencies.push(self.now - self.asked_at[client]);
                self.ask(client);
            }
            Step::Written(orders) => {
                self.backlog -= orders;
                self.wait(delays.commit, Step::Committed);
            }
            Step::Committed => self.at(self.now, Event::Look),
        }
    }

    /// Whatever is waiting travels together.
    fn send_batch(&mut self) {
        let batches = self.figures.batches;
        while self.in_flight < batches.in_flight && !self.waiting.is_empty() {
            let batch: Vec<usize> = self.waiting.drain(..self.waiting.len().min(batches.orders)).collect();
            self.in_flight += 1;
            let costs = self.figures.costs;
            let cost = costs.stock_service + costs.redis + costs.rabbitmq;
            self.compute(batch.len(), cost, Step::Published(batch));
        }
    }

    /// order-service takes what is there, one transaction at a time.
    fn look(&mut self) {
        let orders = self.backlog.min(self.figures.batches.transaction);
        if orders == 0 {
            self.at(self.now + nanos(self.figures.delays.consume_interval), Event::Look);
            return;
        }
        let cost = self.figures.costs.order_service + self.figures.costs.postgres;
        self.compute(orders, cost, Step::Written(orders));
    }

    /// Takes a core for `orders` times the cost of one, as soon as one is free.
    fn compute(&mut self, orders: usize, ms_per_thousand: f64, step: Step) {
        let cost = orders as f64 * ms_per_thousand / 1e3 * self.machine.cost_factor;
        self.ready.push_back((nanos(cost), step));
        self.compute_next();
    }

    fn compute_next(&mut self) {
        while self.free_cores > 0 {
            let Some((cost, step)) = self.ready.pop_front() else { return };
            self.free_cores -= 1;
            self.at(self.now + cost, Event::Computed(step));
        }
    }

    fn wait(&mut self, ms: f64, step: Step) {
        self.at(self.now + nanos(ms), Event::Waited(step));
    }

    fn at(&mut self, time: Nanos, event: Event) {
        self.serial += 1;
        self.events.push(Reverse((time, self.serial, event)));
    }
}

fn nanos(ms: f64) -> Nanos {
    std::time::Duration::try_from_secs_f64(ms / 1e3)
        .map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(Nanos::MAX))
}
