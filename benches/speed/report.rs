//! Samples, medians, ratios, targets; a table for people and JSON for programs.

use crate::process::Cost;
use crate::workloads::{Unit, WORKLOADS};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// All that was measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// Systems in the order of the table.
    pub(crate) systems: Vec<String>,
    samples: BTreeMap<(String, &'static str), Vec<f64>>,
    /// Seconds from the end of a workload until all of it was stored.
    stored: BTreeMap<(String, &'static str), Vec<f64>>,
    cpu: BTreeMap<(String, &'static str), Vec<f64>>,
    pub(crate) totals: BTreeMap<String, Total>,
    /// Systems that were measured in the first round alone.
    pub(crate) slow: BTreeSet<String>,
}

/// What a system cost over all workloads.
#[derive(Debug, Clone)]
pub(crate) struct Total {
    pub(crate) cost: Cost,
    pub(crate) requests: BTreeMap<String, u64>,
    pub(crate) stored_mib: Option<f64>,
}

/// What one run of one workload on one system gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) value: f64,
    pub(crate) cpu_seconds: f64,
    pub(crate) stored_seconds: f64,
}

/// Where the ratio of Holdfast to another system should be: at least for rates, at most for seconds.
const TARGETS: &[(&str, &str, f64)] = &[
    ("sequential write + fsync", "bare", 0.9),
    ("sequential read, cold", "bare", 0.9),
    ("sequential read, warm", "bare", 0.9),
    ("4 KiB random read, cold", "bare", 0.9),
    ("4 KiB random read, warm", "bare", 0.9),
    ("4 KiB random write + fdatasync", "bare", 0.9),
    ("create small files", "bare", 1.3),
    ("untar", "bare", 1.3),
    ("rm -rf of small files", "bare", 1.3),
    ("rm -rf of the tree", "bare", 1.3),
    ("ls -lR, cold", "bare", 1.3),
    ("ls -lR, warm", "bare", 1.3),
    ("git add", "bare", 1.3),
    ("git status", "bare", 1.3),
    ("4 KiB random write, buffered", "ext4", 1.0),
    ("SQLite WAL, NORMAL", "ext4", 0.8),
    ("SQLite WAL, FULL", "ext4", 0.8),
    ("4 KiB random write + fdatasync", "ext4", 0.8),
];

/// The middle, and half the distance between the quartiles relative to it.
pub(crate) fn median_and_spread(samples: &[f64]) -> (f64, f64) {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let position = share * (sorted.len().saturating_sub(1)) as f64;
        let (low, high) = (position.floor() as usize, position.ceil() as usize);
        sorted[low] + (sorted[high] - sorted[low]) * (position - low as f64)
    };
    if sorted.is_empty() {
        return (f64::NAN, f64::NAN);
    }
    let middle = at(0.5);
    (middle, (at(0.75) - at(0.25)) / 2.0 / middle)
}

impl Results {
    pub(crate) fn add(&mut self, system: &str, workload: &'static str, sample: Sample) {
        let key = (system.to_owned(), workload);
        self.samples.entry(key.clone()).or_default().push(sample.value);
        self.cpu.entry(key.clone()).or_default().push(sample.cpu_seconds);
        self.stored.entry(key).or_default().push(sample.stored_seconds);
    }

    fn samples(&self, system: &str, workload: &'static str) -> &[f64] {
        self.samples.get(&(system.to_owned(), workload)).map_or(&[], Vec::as_slice)
    }

    /// The median of the ratios of the same rounds: what disturbs a round disturbs both.
    fn ratio(&self, system: &str, other: &str, workload: &'static str) -> Option<f64> {
        let pairs: Vec<f64> =
            self.samples(system, workload).iter().zip(self.samples(other, workload)).map(|(own, others)| own / others).collect();
        (!pairs.is_empty()).then(|| median_and_spread(&pairs).0)
    }

    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let _ = write!(text, "{:<34}{:>7}", "median ± spread (x ext4)", "");
        for system in &self.systems {
            let _ = write!(text, "{system:>25}");
        }
        text.push('\n');
        for workload in WORKLOADS {
            let _ = write!(text, "{:<34}{:>7}", workload.name, workload.unit.name());
            for system in &self.systems {
                let (middle, spread) = median_and_spread(self.samples(system, workload.name));
                let ratio = self.ratio(system, "ext4", workload.name).map_or(String::new(), |ratio| format!("({ratio:.2}x)"));
                let cell = if middle.is_nan() { "-".to_owned() } else { format!("{} ±{:.0}% {ratio}", short(middle), spread * 100.0) };
                let _ = write!(text, "{cell:>25}");
            }
            text.push('\n');
        }
        let _ = writeln!(
            text,
            "\n{:<16}{:>12}{:>14}{:>12}{:>14}  requests by name",
            "all workloads", "CPU s", "peak RSS MiB", "disk MiB", "in store MiB"
        );
        for (system, total) in &self.totals {
            let verbs: Vec<String> = total.requests.iter().map(|(verb, count)| format!("{verb} {count}")).collect();
            let Cost { cpu_seconds, peak_rss_mib, disk_mib } = total.cost;
            let stored = total.stored_mib.map_or("-".to_owned(), |mib| format!("{mib:.0}"));
            let rounds = if self.slow.contains(system) { "  (of one round: too slow for more)" } else { "" };
            let _ = writeln!(
                text,
                "{system:<16}{cpu_seconds:>12.1}{peak_rss_mib:>14.0}{disk_mib:>12.0}{stored:>14}  {}{rounds}",
                verbs.join(", ")
            );
        }
        text.push('\n');
        text + &self.targets()
    }

    /// Each target of the design for each Holdfast in the run.
    fn targets(&self) -> String {
        let mut text = String::new();
        for system in self.systems.iter().filter(|system| system.starts_with("holdfast")) {
            for (name, other, target) in TARGETS {
                let Some(workload) = WORKLOADS.iter().find(|workload| workload.name == *name) else { continue };
                let Some(ratio) = self.ratio(system, other, workload.name) else { continue };
                let at_most = workload.unit == Unit::Seconds;
                let met = if at_most { ratio <= *target } else { ratio >= *target };
                let sign = if at_most { "<=" } else { ">=" };
                let _ = writeln!(
                    text,
                    "{} {system:<14} {name:<34} {ratio:>6.2}x {other} (to reach: {sign} {target})",
                    if met { "met   " } else { "MISSED" }
                );
            }
        }
        text
    }

    pub(crate) fn json(&self, about: serde_json::Value, found: &[crate::recovery::Finding]) -> serde_json::Value {
        let mut rows = Vec::new();
        for workload in WORKLOADS {
            for system in &self.systems {
                let key = (system.clone(), workload.name);
                let Some(samples) = self.samples.get(&key) else { continue };
                let (median, spread) = median_and_spread(samples);
                rows.push(serde_json::json!({
                    "workload": workload.name, "system": system, "unit": workload.unit.name(), "median": median, "spread": spread, "samples": samples,
                    "of_ext4": self.ratio(system, "ext4", workload.name), "of_bare": self.ratio(system, "bare", workload.name),
                    "cpu_seconds": median_and_spread(&self.cpu[&key]).0, "seconds_until_stored": median_and_spread(&self.stored[&key]).0,
                }));
            }
        }
        let totals: serde_json::Map<String, serde_json::Value> = self
            .totals
            .iter()
            .map(|(system, Total { cost, requests, stored_mib })| {
                let value = serde_json::json!({
                    "cpu_seconds": cost.cpu_seconds, "peak_rss_mib": cost.peak_rss_mib, "disk_mib": cost.disk_mib, "requests": requests, "stored_mib": stored_mib,
                });
                (system.clone(), value)
            })
            .collect();
        let found: Vec<serde_json::Value> =
            found.iter().map(|finding| serde_json::json!({ "name": finding.name, "value": finding.value, "unit": finding.unit, "at_most": finding.at_most })).collect();
        serde_json::json!({ "about": about, "slow": self.slow, "rows": rows, "totals": totals, "recovery": found })
    }
}

/// Three significant digits.
fn short(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.3}"),
    }
}
