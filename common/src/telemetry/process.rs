//! What the process uses, under the names that Prometheus has for it.

use std::time::Duration;

use metrics::gauge;

use super::metrics::Registry;

/// How often it is looked at, and histograms are folded together.
const INTERVAL: Duration = Duration::from_secs(5);
/// Linux counts processor time in these, whatever the kernel's own clock is.
const TICKS_PER_SECOND: f64 = 100.0;
/// Size of a page of memory where this runs.
const PAGE_BYTES: f64 = 4096.0;

/// Looks until aborted.
pub(super) async fn upkeep(registry: Registry) {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        registry.run_upkeep();
        let runtime = tokio::runtime::Handle::current().metrics();
        gauge!("tokio_alive_tasks").set(as_f64(runtime.num_alive_tasks()));
        gauge!("tokio_global_queue_depth").set(as_f64(runtime.global_queue_depth()));
        measure();
    }
}

fn measure() {
    if let Some(stat) = read("/proc/self/stat").as_deref().and_then(Stat::parse) {
        gauge!("process_resident_memory_bytes").set(stat.resident_bytes);
        gauge!("process_virtual_memory_bytes").set(stat.virtual_bytes);
        gauge!("process_threads").set(stat.threads);
        if let Some(boot_s) = read("/proc/stat").as_deref().and_then(boot_time_s) {
            gauge!("process_start_time_seconds").set(boot_s + stat.started_after_boot_s);
        }
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        gauge!("process_open_fds").set(as_f64(open.count()));
    }
    if let Some(most) = read("/proc/self/limits").as_deref().and_then(open_files_max) {
        gauge!("process_max_fds").set(most);
    }
}

/// The name of what [`cpu_seconds`] gives.
pub(super) const CPU: &str = "process_cpu_seconds_total";

/// Processor time used until now; a counter of the exporter would have whole seconds only.
pub(super) fn cpu_seconds() -> Option<f64> {
    read("/proc/self/stat").as_deref().and_then(Stat::parse).map(|stat| stat.cpu_s)
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// What we need of proc(5)'s `stat`.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu_s: f64,
    threads: f64,
    started_after_boot_s: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field, the program's name, may contain anything; the third is the first after it.
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_s: (field(14)? + field(15)?) / TICKS_PER_SECOND,
            threads: field(20)?,
            started_after_boot_s: field(22)? / TICKS_PER_SECOND,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * PAGE_BYTES,
        })
    }
}

fn boot_time_s(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn open_files_max(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn as_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_understood() {
        let stat = "12 (a ) b) S 1 12 12 0 -1 4194560 900 0 0 0 250 150 0 0 20 0 9 0 1000 8192 3 18446744073709551615";
        let expected = Stat {
            cpu_s: 4.0,
            threads: 9.0,
            started_after_boot_s: 10.0,
            virtual_bytes: 8192.0,
            resident_bytes: 12288.0,
        };
        assert_eq!(Stat::parse(stat), Some(expected));
        assert_eq!(
            open_files_max("Max open files            1024                 4096                 files"),
            Some(1024.0)
        );
        assert_eq!(boot_time_s("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000.0));
        assert!(read("/proc/self/stat").as_deref().and_then(Stat::parse).is_some());
    }
}
