//! What processes cost: CPU seconds, the largest resident set, and bytes written to the disk, of a process and all below it.

use std::fs;

/// The cost of a set of processes so far.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Cost {
    pub(crate) cpu_seconds: f64,
    pub(crate) peak_rss_mib: f64,
    pub(crate) disk_mib: f64,
}

impl Cost {
    /// What was added since an earlier reading. The peak is of the whole life.
    pub(crate) fn since(self, before: Self) -> Self {
        Self { cpu_seconds: self.cpu_seconds - before.cpu_seconds, disk_mib: self.disk_mib - before.disk_mib, ..self }
    }
}

/// A process and its descendants.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for list in tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()) {
            found.extend(list.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    found
}

/// The cost of all these processes.
pub(crate) fn cost(pids: &[u32]) -> Cost {
    let mut sum = Cost::default();
    for pid in pids.iter().flat_map(|pid| family(*pid)) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the program's name, which may contain spaces: utime and stime are fields 14 and 15, counted from 1.
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        sum.cpu_seconds += (ticks(11) + ticks(12)) / ticks_per_second();
        sum.peak_rss_mib += field(&format!("/proc/{pid}/status"), "VmHWM:") / 1024.0;
        sum.disk_mib += field(&format!("/proc/{pid}/io"), "write_bytes:") / (1 << 20) as f64;
    }
    sum
}

fn field(path: &str, name: &str) -> f64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

fn ticks_per_second() -> f64 {
    // SAFETY: a question without memory.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    ticks.max(1) as f64
}
