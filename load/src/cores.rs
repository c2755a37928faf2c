//! Holding processes to given cores, so that a figure says what so many cores can do.

use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use crate::processes::{Parts, TOOL};

/// What the names of gateways begin with.
const GATEWAY: &str = "gateway";

/// Processes that are held to cores; dropped, they get back what they were allowed before.
#[derive(Debug)]
pub struct Held {
    before: Vec<(u32, String)>,
}

/// Which part may use which cores, as lists such as `0,1`.
#[derive(Debug, Clone, Copy)]
pub struct Division<'a> {
    /// The system, but for what has cores of its own.
    pub system: &'a str,
    /// The gateways.
    pub gateways: &'a str,
    /// This program.
    pub tool: &'a str,
}

/// Holds each part to its cores. Threads and children to come inherit it.
///
/// # Errors
/// `taskset` refuses: no such core, or not allowed.
pub fn hold(parts: &Parts, division: Division<'_>) -> anyhow::Result<Held> {
    let mut held = Held { before: Vec::new() };
    for name in parts.names() {
        let cores = match name {
            TOOL => division.tool,
            name if name.starts_with(GATEWAY) => division.gateways,
            _ => division.system,
        };
        for pid in parts.members(name)? {
            let Some(allowed) = allowed(pid) else { continue };
            held.before.push((pid, allowed));
            set(pid, cores).with_context(|| format!("holding {name} to the cores {cores}"))?;
        }
    }
    Ok(held)
}

impl Drop for Held {
    fn drop(&mut self) {
        for (pid, cores) in &self.before {
            // One that has ended needs nothing.
            set(*pid, cores).ok();
        }
    }
}

/// How many cores a list such as `0-2,5` names.
pub fn count(cores: &str) -> Option<usize> {
    let mut count = 0;
    for part in cores.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        count += last.checked_sub(first)? + 1;
    }
    Some(count)
}

/// The cores that a process may use, as a list; `None` when it has ended.
pub fn allowed(pid: u32) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).map(|list| list.trim().to_owned())
}

fn set(pid: u32, cores: &str) -> anyhow::Result<()> {
    let mut command = Command::new("taskset");
    command.args(["-a", "-p", "-c", cores, &pid.to_string()]).stdout(Stdio::null());
    let status = command.stderr(Stdio::null()).status().context("running taskset (package util-linux)")?;
    ensure!(status.success() || allowed(pid).is_none(), "taskset does not take the cores {cores}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_counted() {
        assert_eq!(count("0,1"), Some(2));
        assert_eq!(count("0-3,7"), Some(5));
        assert_eq!(count("two"), None);
        assert_eq!(count("3-1"), None);
    }
}
