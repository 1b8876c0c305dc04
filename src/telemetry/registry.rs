//! Counters and gauges by name and label values, and their text form. Handles are an atomic each: counting on the path of a
//! request costs no lock.

use super::histogram::Histogram;
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

    /// Takes over a count that is kept elsewhere and only grows.
    pub fn raise_to(&self, total: u64) {
        self.0.fetch_max(total, Relaxed);
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

    /// The counter (of a [`Kind::Time`]: of nanoseconds) with these label values; the same handle for the same values.
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

    /// Exports a histogram that is kept by the part that fills it. Once more with the same labels: the newer one counts.
    pub fn attach(&self, desc: &'static Desc, labels: &[&str], histogram: &Histogram) {
        if let Slot::Histogram(_) = self.slot(desc, labels) {
            self.put(desc, labels, Slot::Histogram(histogram.clone()));
        } else {
            wrong_kind::<Histogram>(desc);
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
        match key(desc, labels) {
            Some(key) => self.0.series.lock().entry(key).or_insert_with(|| new_slot(desc)).clone(),
            None => new_slot(desc),
        }
    }

    fn put(&self, desc: &'static Desc, labels: &[&str], slot: Slot) {
        if let Some(key) = key(desc, labels) {
            self.0.series.lock().insert(key, slot);
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

fn key(desc: &'static Desc, labels: &[&str]) -> Option<(usize, Vec<String>)> {
    let family = names::ALL.iter().position(|known| std::ptr::eq(*known, desc)).filter(|_| labels.len() == desc.labels.len());
    if family.is_none() {
        tracing::error!(name = desc.name, "a metric is used with the wrong number of labels; it is not exported");
    }
    Some((family?, labels.iter().map(|label| (*label).to_owned()).collect()))
}

fn new_slot(desc: &Desc) -> Slot {
    match desc.kind {
        Kind::Counter | Kind::Time => Slot::Counter(Counter::default()),
        Kind::Gauge => Slot::Gauge(Gauge::default()),
        Kind::Histogram => Slot::Histogram(Histogram::default()),
    }
}

/// A metric asked for as another kind than it is declared: a mistake in the program that a test would meet at once. It must
/// not take a driver down, so the number goes nowhere.
fn wrong_kind<T: Default>(desc: &Desc) -> T {
    tracing::error!(name = desc.name, kind = ?desc.kind, "a metric is used as another kind; it is not exported");
    T::default()
}

fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter | Kind::Time => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

#[allow(clippy::cast_precision_loss, reason = "seconds with nine digits, for three months of time")]
fn write_series(text: &mut String, desc: &Desc, values: &[String], slot: &Slot) -> fmt::Result {
    let labels: Vec<String> = desc.labels.iter().zip(values).map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    let braced = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    let value = match (slot, desc.kind) {
        (Slot::Counter(counter), Kind::Time) => number(counter.get() as f64 / 1e9),
        (Slot::Counter(counter), _) => counter.get().to_string(),
        (Slot::Gauge(gauge), _) => number(gauge.get()),
        (Slot::Histogram(histogram), _) => return write_histogram(text, desc.name, &labels, histogram),
    };
    writeln!(text, "{}{braced} {value}", desc.name)
}

fn write_histogram(text: &mut String, name: &str, labels: &[String], histogram: &Histogram) -> fmt::Result {
    let all = labels.iter().map(|label| format!("{label},")).collect::<String>();
    let mut last = 0;
    for (bound, count) in histogram.cumulative() {
        writeln!(text, "{name}_bucket{{{all}le=\"{}\"}} {count}", number(bound.as_secs_f64()))?;
        last = count;
    }
    // Read after the buckets: it may have grown, and must not be less than they are.
    let count = histogram.count().max(last);
    let braced = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    writeln!(text, "{name}_bucket{{{all}le=\"+Inf\"}} {count}")?;
    writeln!(text, "{name}_sum{braced} {}\n{name}_count{braced} {count}", number(histogram.sum().as_secs_f64()))
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
    fn time_is_counted_in_nanoseconds_and_shown_in_seconds() {
        let metrics = Metrics::new();
        let time = metrics.counter(&names::STORE_REQUEST_SECONDS, &["put"]);
        time.raise_to(1_500_000_000);
        time.raise_to(1);
        assert!(metrics.export().contains("counter\nholdfast_store_request_seconds_total{verb=\"put\"} 1.5\n"));
    }

    #[test]
    fn same_labels_share_a_handle_and_a_closed_volume_is_forgotten() {
        let metrics = Metrics::new();
        metrics.gauge(&names::CACHE_INODES, &["a"]).add(3.0);
        metrics.gauge(&names::CACHE_INODES, &["a"]).add(-1.0);
        metrics.gauge(&names::CACHE_INODES, &["b"]).set(7.0);
        assert!((metrics.gauge(&names::CACHE_INODES, &["a"]).get() - 2.0).abs() < f64::EPSILON);
        metrics.forget_volume("a");
        let text = metrics.export();
        assert!(text.contains("{volume=\"b\"} 7") && !text.contains("{volume=\"a\"}"), "{text}");
    }

    #[test]
    fn histogram_is_exported_as_it_is_when_asked_for() {
        let (metrics, histogram) = (Metrics::new(), Histogram::default());
        metrics.attach(&names::FUSE_REQUEST_SECONDS, &["a", "read"], &histogram);
        histogram.record(std::time::Duration::from_micros(3));
        histogram.record(std::time::Duration::from_secs(100));
        metrics.attach(&names::FUSE_REQUEST_SECONDS, &["a", "read"], &histogram);
        let text = metrics.export();
        for line in [
            "# TYPE holdfast_fuse_request_seconds histogram",
            "holdfast_fuse_request_seconds_bucket{volume=\"a\",opcode=\"read\",le=\"0.000001\"} 0",
            "holdfast_fuse_request_seconds_bucket{volume=\"a\",opcode=\"read\",le=\"0.000004\"} 1",
            "holdfast_fuse_request_seconds_bucket{volume=\"a\",opcode=\"read\",le=\"67.108864\"} 1",
            "holdfast_fuse_request_seconds_bucket{volume=\"a\",opcode=\"read\",le=\"+Inf\"} 2",
            "holdfast_fuse_request_seconds_sum{volume=\"a\",opcode=\"read\"} 100.000003",
            "holdfast_fuse_request_seconds_count{volume=\"a\",opcode=\"read\"} 2",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} in {text}");
        }
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
