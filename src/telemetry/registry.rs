//! Counters, gauges and histograms by name and label values, and their text form. Handles are an atomic each: counting on
//! the path of a request costs no lock.

use super::names::{self, Desc, Kind};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The numbers of one process (or one test). Cheap to clone.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Inner>);

type Series = BTreeMap<(usize, Vec<String>), Slot>;
type Refresh = Box<dyn Fn(&Metrics) + Send + Sync>;

#[derive(Default)]
struct Inner {
    series: Mutex<Series>,
    refresh: Mutex<Vec<Refresh>>,
}

#[derive(Clone)]
enum Slot {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

/// Only grows.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The count so far.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Goes up and down.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Sets the number.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }

    /// Sets a count (exact up to 2^53).
    #[allow(clippy::cast_precision_loss, reason = "the text form is a float anyway")]
    pub fn set_count(&self, value: u64) {
        self.set(value as f64);
    }

    /// Adds, or takes away with a negative number.
    pub fn add(&self, delta: f64) {
        add(&self.0, delta);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}

/// Counts observations by size.
#[derive(Debug, Clone)]
pub struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    bounds: &'static [f64],
    // One per bound and one for what is above the last.
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Buckets { bounds, counts, sum: AtomicU64::default() }))
    }

    /// Counts one observation.
    pub fn observe(&self, value: f64) {
        let bucket = self.0.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.0.counts.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        add(&self.0.sum, value);
    }

    /// Observations so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.counts.iter().map(|count| count.load(Relaxed)).sum()
    }
}

fn add(cell: &AtomicU64, delta: f64) {
    let mut old = cell.load(Relaxed);
    while let Err(now) = cell.compare_exchange_weak(old, (f64::from_bits(old) + delta).to_bits(), Relaxed, Relaxed) {
        old = now;
    }
}

impl Metrics {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The counter with these label values; the same handle for the same values.
    #[must_use]
    pub fn counter(&self, desc: &'static Desc, labels: &[&str]) -> Counter {
        match self.slot(desc, labels) {
            Slot::Counter(counter) => counter,
            Slot::Gauge(_) | Slot::Histogram(_) => wrong_kind(desc),
        }
    }

    /// The gauge with these label values.
    #[must_use]
    pub fn gauge(&self, desc: &'static Desc, labels: &[&str]) -> Gauge {
        match self.slot(desc, labels) {
            Slot::Gauge(gauge) => gauge,
            Slot::Counter(_) | Slot::Histogram(_) => wrong_kind(desc),
        }
    }

    /// The histogram with these label values.
    #[must_use]
    pub fn histogram(&self, desc: &'static Desc, labels: &[&str]) -> Histogram {
        match self.slot(desc, labels) {
            Slot::Histogram(histogram) => histogram,
            Slot::Counter(_) | Slot::Gauge(_) => wrong_kind(desc),
        }
    }

    /// Runs `refresh` before each export: for numbers that are cheaper to ask for than to keep.
    pub fn on_export(&self, refresh: impl Fn(&Metrics) + Send + Sync + 'static) {
        self.0.refresh.lock().push(Box::new(refresh));
    }

    /// Forgets every series whose label `volume` is this one: it is closed.
    pub fn forget_volume(&self, volume: &str) {
        self.0.series.lock().retain(|(family, labels), _| {
            let at = names::ALL.get(*family).and_then(|desc| desc.labels.iter().position(|label| *label == "volume"));
            at.and_then(|at| labels.get(at)).is_none_or(|value| value != volume)
        });
    }

    /// The text form (Prometheus 0.0.4).
    #[must_use]
    pub fn export(&self) -> String {
        for refresh in self.0.refresh.lock().iter() {
            refresh(self);
        }
        let series = self.0.series.lock().clone();
        let mut text = String::new();
        let mut family_before = None;
        for ((family, values), slot) in &series {
            let Some(desc) = names::ALL.get(*family) else { continue };
            if family_before != Some(family) {
                family_before = Some(family);
                let _ = write!(text, "# HELP {} {}\n# TYPE {0} {}\n", desc.name, desc.help, type_name(desc.kind));
            }
            // Writing to a String does not fail.
            let _ = write_series(&mut text, desc, values, slot);
        }
        text
    }

    fn slot(&self, desc: &'static Desc, labels: &[&str]) -> Slot {
        let family = names::ALL.iter().position(|known| std::ptr::eq(*known, desc)).unwrap_or(usize::MAX);
        if family == usize::MAX || labels.len() != desc.labels.len() {
            tracing::error!(name = desc.name, "a metric is used with the wrong number of labels; it is not exported");
            return new_slot(desc);
        }
        let key = (family, labels.iter().map(|label| (*label).to_owned()).collect());
        self.0.series.lock().entry(key).or_insert_with(|| new_slot(desc)).clone()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

fn new_slot(desc: &Desc) -> Slot {
    match desc.kind {
        Kind::Counter => Slot::Counter(Counter::default()),
        Kind::Gauge => Slot::Gauge(Gauge::default()),
        Kind::Histogram(bounds) => Slot::Histogram(Histogram::new(bounds)),
    }
}

/// A metric asked for as another kind than it is declared: a mistake in the program that a test would meet at once. It must
/// not take a driver down, so the number goes nowhere.
fn wrong_kind<T: Detached>(desc: &Desc) -> T {
    tracing::error!(name = desc.name, kind = ?desc.kind, "a metric is used as another kind; it is not exported");
    T::detached()
}

trait Detached {
    fn detached() -> Self;
}

impl Detached for Counter {
    fn detached() -> Self {
        Self::default()
    }
}

impl Detached for Gauge {
    fn detached() -> Self {
        Self::default()
    }
}

impl Detached for Histogram {
    fn detached() -> Self {
        Self::new(&[])
    }
}

fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram(_) => "histogram",
    }
}

fn write_series(text: &mut String, desc: &Desc, values: &[String], slot: &Slot) -> fmt::Result {
    let labels: Vec<String> = desc.labels.iter().zip(values).map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    let braced = |extra: Option<String>| {
        let all: Vec<String> = labels.iter().cloned().chain(extra).collect();
        if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
    };
    match slot {
        Slot::Counter(counter) => writeln!(text, "{}{} {}", desc.name, braced(None), counter.get()),
        Slot::Gauge(gauge) => writeln!(text, "{}{} {}", desc.name, braced(None), number(gauge.get())),
        Slot::Histogram(histogram) => {
            let mut total = 0;
            let bounds = histogram.0.bounds.iter().map(|bound| number(*bound)).chain(["+Inf".to_owned()]);
            for (bound, count) in bounds.zip(&histogram.0.counts) {
                total += count.load(Relaxed);
                writeln!(text, "{}_bucket{} {total}", desc.name, braced(Some(format!("le=\"{bound}\""))))?;
            }
            let sum = f64::from_bits(histogram.0.sum.load(Relaxed));
            writeln!(text, "{}_sum{} {}", desc.name, braced(None), number(sum))?;
            writeln!(text, "{}_count{} {total}", desc.name, braced(None))
        }
    }
}

fn number(value: f64) -> String {
    if value == f64::INFINITY {
        "+Inf".to_owned()
    } else if value == f64::NEG_INFINITY {
        "-Inf".to_owned()
    } else {
        value.to_string()
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn export_has_help_type_labels_and_values_in_the_order_of_the_list() {
        let metrics = Metrics::new();
        metrics.gauge(&names::CACHE_DIRTY_BYTES, &["a/b"]).set_count(4096);
        metrics.counter(&names::STORE_REQUESTS, &["put", "stored"]).add(2);
        metrics.counter(&names::STORE_REQUESTS, &["get", "no \"quotes\"\n"]).add(1);
        let text = metrics.export();
        let expected = "# HELP holdfast_store_requests_total Requests to the store by verb (put, get, range, head, list, delete) and result.\n\
            # TYPE holdfast_store_requests_total counter\n\
            holdfast_store_requests_total{verb=\"get\",result=\"no \\\"quotes\\\"\\n\"} 1\n\
            holdfast_store_requests_total{verb=\"put\",result=\"stored\"} 2\n\
            # HELP holdfast_cache_dirty_bytes Bytes that are in the cache and in no commit.\n\
            # TYPE holdfast_cache_dirty_bytes gauge\n\
            holdfast_cache_dirty_bytes{volume=\"a/b\"} 4096\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn histogram_buckets_are_cumulative_and_bounds_inclusive() {
        let metrics = Metrics::new();
        let histogram = metrics.histogram(&names::STORE_REQUEST_SECONDS, &["put"]);
        for value in [0.001, 0.002, 1.0, 1000.0] {
            histogram.observe(value);
        }
        let text = metrics.export();
        for line in [
            "holdfast_store_request_seconds_bucket{verb=\"put\",le=\"0.001\"} 1",
            "holdfast_store_request_seconds_bucket{verb=\"put\",le=\"0.003\"} 2",
            "holdfast_store_request_seconds_bucket{verb=\"put\",le=\"1\"} 3",
            "holdfast_store_request_seconds_bucket{verb=\"put\",le=\"300\"} 3",
            "holdfast_store_request_seconds_bucket{verb=\"put\",le=\"+Inf\"} 4",
            "holdfast_store_request_seconds_sum{verb=\"put\"} 1001.003",
            "holdfast_store_request_seconds_count{verb=\"put\"} 4",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
    }

    #[test]
    fn same_labels_share_a_handle_and_a_closed_volume_is_forgotten() {
        let metrics = Metrics::new();
        metrics.gauge(&names::VOLUME_OPEN_FILES, &["a"]).add(3.0);
        metrics.gauge(&names::VOLUME_OPEN_FILES, &["a"]).add(-1.0);
        metrics.gauge(&names::VOLUME_OPEN_FILES, &["b"]).set(7.0);
        assert!((metrics.gauge(&names::VOLUME_OPEN_FILES, &["a"]).get() - 2.0).abs() < f64::EPSILON);
        metrics.forget_volume("a");
        let text = metrics.export();
        assert!(text.contains("{volume=\"b\"} 7") && !text.contains("{volume=\"a\"}"), "{text}");
    }

    #[test]
    fn wrong_kind_or_labels_count_into_nothing() {
        let metrics = Metrics::new();
        metrics.counter(&names::CACHE_DIRTY_BYTES, &["a"]).add(5);
        metrics.counter(&names::STORE_REQUESTS, &["put"]).add(5);
        assert!(!metrics.export().contains(" 5"));
    }

    #[test]
    fn refresh_runs_before_each_export() {
        let metrics = Metrics::new();
        metrics.on_export(|metrics| metrics.gauge(&names::TELEMETRY_OPEN_DESCRIPTORS, &[]).add(1.0));
        let _ = metrics.export();
        assert!(metrics.export().contains("holdfast_telemetry_open_descriptors 2\n"));
    }
}
