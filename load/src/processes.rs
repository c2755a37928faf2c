//! CPU time and memory of every process of the system and of this tool, from /proc.
//!
//! A part is its process and all that descend from it: PostgreSQL works in children, Erlang starts helpers.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};

/// Unit of CPU times in /proc, in microseconds: user space sees 100 ticks a second on every Linux.
const TICK_US: u64 = 10_000;
/// The name of this program among the parts.
pub const TOOL: &str = "load tool";

/// What one part has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since its start, user and system, in microseconds.
    pub cpu_us: u64,
    /// Memory, in bytes. What its processes share is counted once.
    pub memory_bytes: u64,
}

/// The parts of the system by name, with the id of the process that each began with.
#[derive(Debug, Clone)]
pub struct Parts {
    roots: BTreeMap<String, u32>,
}

impl Parts {
    /// The parts recorded in a folder of files, each named like a part and holding a process id; and this program.
    ///
    /// # Errors
    /// One of them does not run.
    pub fn recorded(folder: &Path) -> anyhow::Result<Self> {
        let mut roots = BTreeMap::from([(TOOL.to_owned(), std::process::id())]);
        let files = std::fs::read_dir(folder).with_context(|| {
            format!(
                "cannot read {}: is Stampede running? Start it with ./dev up --release --detach",
                folder.display()
            )
        })?;
        for file in files {
            let file = file?;
            let name = file.file_name().to_string_lossy().into_owned();
            let pid: u32 = std::fs::read_to_string(file.path())?.trim().parse().context(name.clone())?;
            ensure!(
                Path::new(&format!("/proc/{pid}")).exists(),
                "{name} does not run: ./dev status shows the parts, ./dev restart {name} starts it again"
            );
            roots.insert(name, pid);
        }
        ensure!(
            roots.len() > 1,
            "no process is recorded in {}: start Stampede with ./dev up",
            folder.display()
        );
        Ok(Self { roots })
    }

    /// These parts.
    pub fn of(parts: &[(&str, u32)]) -> Self {
        Self { roots: parts.iter().map(|(name, pid)| ((*name).to_owned(), *pid)).collect() }
    }

    /// One more.
    pub fn add(&mut self, name: &str, pid: u32) {
        self.roots.insert(name.to_owned(), pid);
    }

    /// The id of the process that a part began with.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.roots.get(name).copied()
    }

    /// The ids of all processes of a part, the first one first.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn members(&self, name: &str) -> anyhow::Result<Vec<u32>> {
        let children = children()?;
        Ok(self.roots.get(name).map(|root| self.family(*root, &children)).unwrap_or_default())
    }

    /// Names of all parts.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.roots.keys().map(String::as_str)
    }

    /// What each part has used so far; a part that has died is left out.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn usage(&self) -> anyhow::Result<BTreeMap<String, Usage>> {
        let children = children()?;
        let mut all = BTreeMap::new();
        for (name, root) in &self.roots {
            let Some(own) = stat(*root) else { continue };
            // A child that has ended and was waited for is counted by its parent.
            let mut cpu_ticks = own.ticks + own.ended_children_ticks;
            let (mut private, mut shared) = memory(*root);
            for pid in self.family(*root, &children).into_iter().skip(1) {
                cpu_ticks += stat(pid).map_or(0, |stat| stat.ticks + stat.ended_children_ticks);
                let (its_private, its_shared) = memory(pid);
                private += its_private;
                shared = shared.max(its_shared);
            }
            all.insert(name.clone(), Usage { cpu_us: cpu_ticks * TICK_US, memory_bytes: private + shared });
        }
        Ok(all)
    }

    /// A process and its descendants, but for those that are parts of their own, as servers that this program starts.
    fn family(&self, root: u32, children: &HashMap<u32, Vec<u32>>) -> Vec<u32> {
        let mut all = vec![root];
        let mut next = 0;
        while let Some(pid) = all.get(next).copied() {
            let own = |child: &&u32| !self.roots.values().any(|root| root == *child);
            all.extend(children.get(&pid).into_iter().flatten().filter(own));
            next += 1;
        }
        all
    }
}

/// CPU time used from `before` to `after`, by part.
pub fn cpu_between(
    before: &BTreeMap<String, Usage>,
    after: &BTreeMap<String, Usage>,
) -> BTreeMap<String, Duration> {
    let used = |name: &String| {
        let (before, after) = (before.get(name)?, after.get(name)?);
        Some(Duration::from_micros(after.cpu_us.saturating_sub(before.cpu_us)))
    };
    after.keys().filter_map(|name| Some((name.clone(), used(name)?))).collect()
}

struct Stat {
    parent: u32,
    ticks: u64,
    ended_children_ticks: u64,
}

/// Fields of /proc/<pid>/stat; `None` when the process has ended.
fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The second field, the program's name in parentheses, may contain anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    // In proc(5) these have the numbers 4 and 14 to 17; here the third is number 0.
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        ticks: number(11)? + number(12)?,
        ended_children_ticks: number(13)? + number(14)?,
    })
}

/// Memory of one process: its own, and what it may share with others; in bytes.
fn memory(pid: u32) -> (u64, u64) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = |field: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|rest| rest.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
    };
    (kib("RssAnon:") * 1024, (kib("RssFile:") + kib("RssShmem:")) * 1024)
}

/// Children of every process.
fn children() -> anyhow::Result<HashMap<u32, Vec<u32>>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").context("reading /proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        if let Some(stat) = stat(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    Ok(children)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_be_called_anything() {
        let text = "42 (a) b (c)) S 7 42 42 0 -1 4194304 100 0 0 0 150 50 3 4 20 0 1 0 100 1 1";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.parent, stat.ticks, stat.ended_children_ticks), (7, 200, 7));
        assert!(parse_stat("42 (cut").is_none());
    }

    #[test]
    fn descendants_of_any_depth_belong_to_a_part_unless_they_are_one() {
        let children = HashMap::from([(1, vec![2, 3, 5]), (3, vec![4]), (5, vec![6]), (9, vec![10])]);
        let parts = Parts::of(&[("tool", 1), ("server", 5)]);
        assert_eq!(parts.family(1, &children), [1, 2, 3, 4]);
        assert_eq!(parts.family(5, &children), [5, 6]);
    }

    #[test]
    fn this_program_uses_memory_and_what_works_uses_time() {
        let parts = Parts::of(&[("me", std::process::id())]);
        let before = parts.usage().unwrap();
        assert!(before["me"].memory_bytes > 100_000);
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_millis(200) {
            std::hint::black_box(0);
        }
        let used = cpu_between(&before, &parts.usage().unwrap());
        assert!(used["me"] > Duration::ZERO);
    }

    #[test]
    fn a_part_that_does_not_run_is_named_with_what_to_do() {
        let folder = std::env::temp_dir().join(format!("load-parts-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("gateway"), "4194999").unwrap();
        let error = Parts::recorded(&folder).unwrap_err().to_string();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(error.contains("./dev restart gateway"), "{error}");
    }
}
