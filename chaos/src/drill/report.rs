//! What a drill found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

/// What a drill found.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The drill's name.
    pub name: &'static str,
    /// How often it did its worst.
    pub count: u64,
    /// Orders that were answered 202.
    pub accepted: u64,
    /// Of these, how many are not in Postgres.
    pub lost: u64,
    /// Units that are held or sold beyond the total.
    pub oversold: u64,
    /// Accepted orders that were rejected later.
    pub broken: u64,
    /// From the store's first answer to the first 202 after it.
    pub recovery_ms: Option<Recovery>,
    /// Further figures, with their units in the names.
    pub figures: BTreeMap<String, u64>,
    /// Figures that were held against what is promised; in builds without optimisation only shown.
    pub bounds: Vec<Bound>,
    /// What else went wrong, in words.
    pub violations: Vec<String>,
    /// How long all of it took, in seconds.
    pub took_s: u64,
    /// Whether the services were built with optimisation: figures of others mean nothing.
    pub release: bool,
    /// What was built.
    pub git_hash: String,
}

/// Times to recover, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Recovery {
    /// Half of them took less.
    pub median: u64,
    /// The longest.
    pub max: u64,
}

impl Recovery {
    /// Of measured times; `None` without any.
    pub fn of(times: &[Duration]) -> Option<Self> {
        let mut times: Vec<u64> = times.iter().map(|time| milliseconds(*time)).collect();
        times.sort_unstable();
        Some(Self { median: *times.get(times.len() / 2)?, max: *times.last()? })
    }
}

/// A figure and what it may be at most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bound {
    /// What was measured.
    pub what: String,
    /// The figure, in milliseconds.
    pub measured_ms: u64,
    /// Its bound, in milliseconds.
    pub at_most_ms: u64,
}

impl Outcome {
    /// Nothing found yet.
    pub fn new(name: &'static str, count: u64) -> Self {
        Self {
            name,
            count,
            accepted: 0,
            lost: 0,
            oversold: 0,
            broken: 0,
            recovery_ms: None,
            figures: BTreeMap::new(),
            bounds: Vec::new(),
            violations: Vec::new(),
            took_s: 0,
            release: !cfg!(debug_assertions),
            git_hash: String::new(),
        }
    }

    /// Holds a time against its bound.
    pub fn bound(&mut self, what: &str, measured: Duration, at_most: Duration) {
        let (measured_ms, at_most_ms) = (milliseconds(measured), milliseconds(at_most));
        self.bounds.push(Bound { what: what.to_owned(), measured_ms, at_most_ms });
    }

    /// Adds a figure.
    pub fn figure(&mut self, name: &str, value: u64) {
        self.figures.insert(name.to_owned(), value);
    }

    /// Adds a violation, unless `holds`.
    pub fn require(&mut self, holds: bool, otherwise: impl Display) {
        if !holds {
            self.violations.push(otherwise.to_string());
        }
    }

    /// Whether every promise was kept, and every bound in a build that is meant to keep them.
    pub fn passed(&self) -> bool {
        let kept = self.lost == 0 && self.oversold == 0 && self.broken == 0 && self.violations.is_empty();
        kept && (!self.release || self.bounds.iter().all(|bound| bound.measured_ms <= bound.at_most_ms))
    }

    /// The table at the end.
    pub fn print(&self) {
        say("");
        let mut rows = vec![
            ("accepted", self.accepted.to_string()),
            ("lost", verdict(self.lost)),
            ("oversold", verdict(self.oversold)),
            ("broken promises", verdict(self.broken)),
        ];
        if let Some(Recovery { median, max }) = self.recovery_ms {
            rows.push(("recovery", format!("median {median} ms, longest {max} ms")));
        }
        for (name, value) in rows {
            say(&format!("  {name:<32} {value}"));
        }
        for (name, value) in &self.figures {
            say(&format!("  {name:<32} {value}"));
        }
        for Bound { what, measured_ms, at_most_ms } in &self.bounds {
            let kept = if measured_ms <= at_most_ms { "kept" } else { "NOT KEPT" };
            say(&format!("  {what:<32} {measured_ms} ms, bound {at_most_ms} ms: {kept}"));
        }
        for violation in &self.violations {
            say(&format!("  VIOLATION: {violation}"));
        }
        let note = if self.release { "" } else { " (built without optimisation: bounds are only shown)" };
        say(&format!(
            "{} {} x{}{note}",
            if self.passed() { "PASSED" } else { "FAILED" },
            self.name,
            self.count
        ));
    }

    /// Appends one line of JSON.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append_to(&self, report: &Path) -> anyhow::Result<()> {
        if let Some(folder) = report.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        std::fs::File::options().create(true).append(true).open(report)?.write_all(&line)?;
        Ok(())
    }
}

/// One line for whoever watches.
pub(super) fn say(line: &str) {
    // A closed pipe is no reason to stop a drill.
    writeln!(std::io::stdout(), "{line}").ok();
}

pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn verdict(count: u64) -> String {
    if count == 0 { "0".to_owned() } else { format!("{count}  <-- VIOLATION") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_is_the_middle_and_the_worst() {
        let times: Vec<_> = [5, 1, 900, 2, 3].map(Duration::from_millis).to_vec();
        assert_eq!(Recovery::of(&times), Some(Recovery { median: 3, max: 900 }));
        assert_eq!(Recovery::of(&[]), None);
    }

    #[test]
    fn one_lost_order_fails_a_drill_and_so_does_one_violation() {
        assert!(Outcome::new("test", 1).passed());
        assert!(!Outcome { lost: 1, ..Outcome::new("test", 1) }.passed());
        assert!(!Outcome { oversold: 1, ..Outcome::new("test", 1) }.passed());
        assert!(!Outcome { broken: 1, ..Outcome::new("test", 1) }.passed());
        let mut outcome = Outcome::new("test", 1);
        outcome.require(true, "nothing");
        assert!(outcome.passed());
        outcome.require(false, "something");
        assert!(!outcome.passed());
    }
}
