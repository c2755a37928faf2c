//! Breadth-first exploration of every state that can be reached, with the shortest way to what must not be.
//!
//! States are known by a fingerprint of 128 bits: two that share one would be taken for the same, which among a
//! hundred million states has a chance of one in 10^22.

use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::hash::{Hash, Hasher as _};

/// One way out of a state.
#[derive(Debug, Clone)]
pub struct Move<W> {
    /// What is done, for traces.
    pub name: String,
    /// Whether it is a fault; from every state there must be a way to rest without one.
    pub fault: bool,
    /// The state after.
    pub to: W,
}

/// What is said of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// A property does not hold; which.
    Broken(String),
    /// All hold, and there is something to do.
    Busy,
    /// All hold, those of quiet states too.
    Quiet,
}

/// How an exploration ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Every state that can be reached was seen, and all properties hold.
    Holds,
    /// The shortest way to a state that must not be.
    Broken {
        /// The property.
        property: String,
        /// The steps from the first state to that one.
        trace: Vec<String>,
    },
    /// More states than allowed.
    TooMany,
}

/// What was explored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Different states.
    pub states: usize,
    /// Those in which nothing is left to do.
    pub quiet: usize,
    /// Moves between states.
    pub moves: u64,
    /// Moves on the longest of the shortest ways from the first state.
    pub depth: u32,
    /// The result.
    pub outcome: Outcome,
}

struct Seen {
    index: HashMap<u128, u32>,
    prints: Vec<u128>,
    parents: Vec<u32>,
    depths: Vec<u32>,
    quiet: Vec<u32>,
    /// Moves that are no faults: (to, from).
    back: Vec<(u32, u32)>,
    moves: u64,
}

/// Explores everything that `moves` leads to from `start`, at most `states_max` states.
pub fn explore<W: Clone + Hash + Debug>(
    start: &W,
    states_max: usize,
    moves: impl Fn(&W) -> Vec<Move<W>>,
    judge: impl Fn(&W) -> Judgement,
) -> Report {
    let mut seen = Seen::with(fingerprint(start));
    let mut queue = VecDeque::from([(0_u32, start.clone())]);
    let mut outcome = Outcome::Holds;
    while let Some((at, state)) = queue.pop_front() {
        match judge(&state) {
            Judgement::Broken(property) => {
                outcome = Outcome::Broken { property, trace: seen.trace(start, at, &moves) };
                break;
            }
            Judgement::Quiet => seen.quiet.push(at),
            Judgement::Busy => {}
        }
        for next in moves(&state) {
            let (to, new) = seen.add(fingerprint(&next.to), at);
            if !next.fault {
                seen.back.push((to, at));
            }
            if new {
                queue.push_back((to, next.to));
            }
        }
        if seen.prints.len() > states_max {
            outcome = Outcome::TooMany;
            break;
        }
    }
    if outcome == Outcome::Holds
        && let Some(stuck) = seen.stuck()
    {
        let property = "liveness: without further faults everything comes to rest".to_owned();
        outcome = Outcome::Broken { property, trace: seen.trace(start, stuck, &moves) };
    }
    let depth = seen.depths.last().copied().unwrap_or(0);
    Report { states: seen.prints.len(), quiet: seen.quiet.len(), moves: seen.moves, depth, outcome }
}

impl Seen {
    fn with(first: u128) -> Self {
        Self {
            index: HashMap::from([(first, 0)]),
            prints: vec![first],
            parents: vec![0],
            depths: vec![0],
            quiet: Vec::new(),
            back: Vec::new(),
            moves: 0,
        }
    }

    /// The number of a state that a move from `parent` leads to, and whether it is a new one.
    fn add(&mut self, print: u128, parent: u32) -> (u32, bool) {
        self.moves += 1;
        let next = u32::try_from(self.prints.len()).unwrap_or(u32::MAX);
        match self.index.entry(print) {
            Entry::Occupied(known) => (*known.get(), false),
            Entry::Vacant(place) => {
                place.insert(next);
                self.prints.push(print);
                self.parents.push(parent);
                self.depths.push(self.depths[parent as usize] + 1);
                (next, true)
            }
        }
    }

    /// A state from which no way without a fault leads to a quiet one; the first that was found.
    fn stuck(&mut self) -> Option<u32> {
        self.back.sort_unstable();
        let mut rests = vec![false; self.prints.len()];
        let mut open = std::mem::take(&mut self.quiet);
        for state in &open {
            rests[*state as usize] = true;
        }
        let quiet = open.clone();
        while let Some(to) = open.pop() {
            let first = self.back.partition_point(|(after, _)| *after < to);
            for (_, from) in self.back[first..].iter().take_while(|(after, _)| *after == to) {
                if !rests[*from as usize] {
                    rests[*from as usize] = true;
                    open.push(*from);
                }
            }
        }
        self.quiet = quiet;
        rests.iter().position(|rests| !rests).and_then(|state| u32::try_from(state).ok())
    }

    /// The names of the moves from the first state to `end`, found again by their fingerprints.
    fn trace<W: Clone + Hash>(&self, start: &W, end: u32, moves: impl Fn(&W) -> Vec<Move<W>>) -> Vec<String> {
        let mut way = vec![end];
        while let Some(at) = way.last().filter(|at| **at != 0) {
            way.push(self.parents[*at as usize]);
        }
        let mut state = start.clone();
        let mut trace = Vec::with_capacity(way.len());
        for at in way.iter().rev().skip(1) {
            let print = self.prints[*at as usize];
            let Some(step) = moves(&state).into_iter().find(|next| fingerprint(&next.to) == print) else {
                break;
            };
            trace.push(step.name);
            state = step.to;
        }
        trace
    }
}

fn fingerprint(state: &impl Hash) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        state.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    (half(1) << 64) | half(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, fault: bool, to: (u8, u8)) -> Move<(u8, u8)> {
        Move { name: name.to_owned(), fault, to }
    }

    /// Two jugs of 3 and 5 litres.
    fn pour((small, large): (u8, u8)) -> Vec<Move<(u8, u8)>> {
        let (right, left) = (small.min(5 - large), large.min(3 - small));
        vec![
            step("fill small", false, (3, large)),
            step("fill large", false, (small, 5)),
            step("empty small", false, (0, large)),
            step("empty large", false, (small, 0)),
            step("to large", false, (small - right, large + right)),
            step("to small", false, (small + left, large - left)),
        ]
    }

    #[test]
    fn the_shortest_way_to_what_must_not_be_is_found() {
        let judge = |jugs: &(u8, u8)| match jugs.1 {
            4 => Judgement::Broken("never four litres".to_owned()),
            _ => Judgement::Quiet,
        };
        let report = explore(&(0, 0), 1_000, |jugs| pour(*jugs), judge);
        let Outcome::Broken { property, trace } = report.outcome else { panic!("{report:?}") };
        assert_eq!(property, "never four litres");
        assert_eq!(trace, ["fill large", "to small", "empty small", "to small", "fill large", "to small"]);
    }

    #[test]
    fn every_state_is_seen_once() {
        let report = explore(&(0, 0), 1_000, |jugs| pour(*jugs), |_| Judgement::Quiet);
        assert_eq!((report.outcome, report.states, report.quiet), (Outcome::Holds, 16, 16));
    }

    #[test]
    fn a_way_to_rest_that_needs_a_fault_does_not_count() {
        let moves = |state: &(u8, u8)| match state.0 {
            0 => vec![step("work", false, (1, 0)), step("rest", false, (3, 0))],
            1 => vec![step("spin", false, (2, 0))],
            2 => vec![step("spin back", false, (1, 0)), step("luck", true, (3, 0))],
            _ => Vec::new(),
        };
        let judge = |state: &(u8, u8)| if state.0 == 3 { Judgement::Quiet } else { Judgement::Busy };
        let report = explore(&(0, 0), 1_000, moves, judge);
        let Outcome::Broken { property, trace } = report.outcome else { panic!("{report:?}") };
        assert!(property.starts_with("liveness"), "{property}");
        assert_eq!(trace, ["work"]);
    }

    #[test]
    fn more_states_than_allowed_is_not_a_proof() {
        let moves =
            |state: &(u64, u64)| vec![Move { name: String::new(), fault: false, to: (state.0 + 1, 0) }];
        let report = explore(&(0, 0), 50, moves, |_| Judgement::Quiet);
        assert_eq!(report.outcome, Outcome::TooMany);
    }
}
