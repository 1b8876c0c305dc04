//! The one list of metric and span names: `holdfast_<module>_<what>_<unit>`, with help, type and labels.

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations in these upper bounds (ascending; `+Inf` is added).
    Histogram(&'static [f64]),
}

/// One metric family.
#[derive(Debug, PartialEq)]
pub struct Desc {
    /// The exported name.
    pub name: &'static str,
    /// One sentence for the person who meets it in an alert.
    pub help: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Label names; the values are given in the same order.
    pub labels: &'static [&'static str],
}

const VOLUME: &[&str] = &["volume"];
/// Waits: from a local disk's answer to a store that is almost gone.
const SECONDS: &[f64] = &[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0];

macro_rules! metrics {
    ($($id:ident = $kind:expr, $name:literal, $labels:expr, $help:literal;)*) => {
        $(#[doc = $help] pub static $id: Desc = Desc { name: $name, help: $help, kind: $kind, labels: $labels };)*
        /// All of them, in the order in which they are exported.
        pub static ALL: &[&Desc] = &[$(&$id),*];
    };
}

metrics! {
    STORE_REQUESTS = Kind::Counter, "holdfast_store_requests_total", &["verb", "result"],
        "Requests to the store by verb (put, get, range, head, list, delete) and result.";
    STORE_REQUEST_SECONDS = Kind::Histogram(SECONDS), "holdfast_store_request_seconds", &["verb"],
        "Time from sending a request to its whole answer, each attempt by itself.";
    STORE_RETRIES = Kind::Counter, "holdfast_store_retries_total", &["verb"],
        "Attempts after the first one.";
    STORE_SENT_BYTES = Kind::Counter, "holdfast_store_sent_bytes_total", &[],
        "Bytes of objects sent to the store, attempts that failed included.";
    STORE_RECEIVED_BYTES = Kind::Counter, "holdfast_store_received_bytes_total", &[],
        "Bytes of objects received from the store.";
    STORE_IN_FLIGHT = Kind::Gauge, "holdfast_store_requests_in_flight", &[],
        "Requests that wait for an answer now.";

    CACHE_DIRTY_BYTES = Kind::Gauge, "holdfast_cache_dirty_bytes", VOLUME,
        "Bytes that are in the cache and in no commit.";
    CACHE_DIRTY_AGE_SECONDS = Kind::Gauge, "holdfast_cache_dirty_age_seconds", VOLUME,
        "Age of the oldest change that is in no commit; 0 when nothing is dirty.";
    CACHE_DIRTY_LIMIT_BYTES = Kind::Gauge, "holdfast_cache_dirty_limit_bytes", VOLUME,
        "At this many dirty bytes writers are slowed and new work is refused.";
    CACHE_STORED_BYTES = Kind::Gauge, "holdfast_cache_stored_bytes", VOLUME,
        "Bytes of file data in the cache, clean and dirty.";
    CACHE_LIMIT_BYTES = Kind::Gauge, "holdfast_cache_limit_bytes", VOLUME,
        "Clean data is evicted by least use above this.";
    CACHE_EVICTED_BYTES = Kind::Counter, "holdfast_cache_evicted_bytes_total", VOLUME,
        "Clean bytes given back to the disk.";
    CACHE_INODES = Kind::Gauge, "holdfast_cache_inodes", VOLUME,
        "Files, directories and others in the volume.";
    CACHE_FSYNC_SECONDS = Kind::Histogram(SECONDS), "holdfast_cache_fsync_seconds", VOLUME,
        "Time of an fsync of the application, as the driver saw it.";
    CACHE_LOG_BYTES = Kind::Gauge, "holdfast_cache_log_bytes", VOLUME,
        "Bytes of the mutation log that are not yet in the metadata database.";

    LOG_HEAD_SEQ = Kind::Gauge, "holdfast_log_head_seq", VOLUME,
        "Number of the newest record of the log that this writer knows.";
    LOG_EPOCH = Kind::Gauge, "holdfast_log_epoch", VOLUME,
        "Epoch of this writer.";
    LOG_FENCED = Kind::Gauge, "holdfast_log_fenced", VOLUME,
        "1 when another writer has taken the volume over.";

    HYDRATE_OPEN_SECONDS = Kind::Gauge, "holdfast_hydrate_open_seconds", VOLUME,
        "Time from the start of opening until the volume was usable.";
    HYDRATE_FETCHED_BYTES = Kind::Counter, "holdfast_hydrate_fetched_bytes_total", &["volume", "why"],
        "Bytes of file data brought into the cache, by demand or prefetch.";
    HYDRATE_WAIT_SECONDS = Kind::Histogram(SECONDS), "holdfast_hydrate_wait_seconds", VOLUME,
        "Time that a read waited for data that was not in the cache.";
    HYDRATE_FAULTS = Kind::Counter, "holdfast_hydrate_faults_total", &["volume", "kind"],
        "Ranges that could not be brought: unreachable, damaged, missing.";
    HYDRATE_LEFT_BYTES = Kind::Gauge, "holdfast_hydrate_left_bytes", VOLUME,
        "Bytes of the volume that are not in the cache.";

    WRITEBACK_COMMITS = Kind::Counter, "holdfast_writeback_commits_total", &["volume", "kind"],
        "Commits stored, full and partial.";
    WRITEBACK_COMMIT_SECONDS = Kind::Histogram(SECONDS), "holdfast_writeback_commit_seconds", VOLUME,
        "Time from the cut until its commit is known to be stored.";
    WRITEBACK_LAST_COMMIT_TIME = Kind::Gauge, "holdfast_writeback_last_commit_timestamp_seconds", VOLUME,
        "Cut time of the newest stored commit, seconds since 1970.";
    WRITEBACK_LAST_COMMIT_SEQ = Kind::Gauge, "holdfast_writeback_last_commit_seq", VOLUME,
        "Number of the newest stored commit.";
    WRITEBACK_PACKED_BYTES = Kind::Counter, "holdfast_writeback_packed_bytes_total", VOLUME,
        "Bytes of packs stored, as sealed.";
    WRITEBACK_CAPTURED_BYTES = Kind::Counter, "holdfast_writeback_captured_bytes_total", VOLUME,
        "Bytes of file data captured, before compression.";
    WRITEBACK_FAULTS = Kind::Counter, "holdfast_writeback_faults_total", &["volume", "kind"],
        "Attempts to make a commit that ended in a fault, by the kind of fault.";
    WRITEBACK_LAG_SECONDS = Kind::Gauge, "holdfast_writeback_lag_seconds", VOLUME,
        "The lag in force: the policy's, or wider when the request budget asks for it.";

    VOLUME_OPEN_FILES = Kind::Gauge, "holdfast_volume_open_files", VOLUME,
        "Open handles of files.";
    VOLUME_SAFE = Kind::Gauge, "holdfast_volume_safe", VOLUME,
        "1 when `status` would say SAFE.";
    FUSE_REQUESTS = Kind::Counter, "holdfast_fuse_requests_total", &["volume", "operation"],
        "Requests of the kernel by operation.";
    FUSE_ERRORS = Kind::Counter, "holdfast_fuse_errors_total", &["volume", "errno"],
        "Errors answered to the kernel, ENOENT and ENODATA left out.";

    TELEMETRY_BUILD = Kind::Gauge, "holdfast_telemetry_build_info", &["version"],
        "1; the version is the label.";
    TELEMETRY_MEMORY_BYTES = Kind::Gauge, "holdfast_telemetry_memory_resident_bytes", &[],
        "Resident memory of the process.";
    TELEMETRY_OPEN_DESCRIPTORS = Kind::Gauge, "holdfast_telemetry_open_descriptors", &[],
        "Open file descriptors of the process.";
}

/// Span: one command line, from arguments to exit code.
pub const SPAN_COMMAND: &str = "cli.command";
/// Span: one connection to the control socket.
pub const SPAN_CONTROL: &str = "cli.control";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_well_formed_and_begin_with_their_module() {
        let modules = ["store", "cache", "log", "hydrate", "writeback", "volume", "fuse", "telemetry"];
        let mut seen = HashSet::new();
        for desc in ALL {
            assert!(seen.insert(desc.name), "{} twice", desc.name);
            let module = desc.name.strip_prefix("holdfast_").and_then(|rest| rest.split('_').next()).unwrap();
            assert!(modules.contains(&module), "{}", desc.name);
            assert!(desc.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", desc.name);
            assert_eq!(desc.name.ends_with("_total"), desc.kind == Kind::Counter, "{}", desc.name);
            assert!(desc.help.ends_with('.') && !desc.help.contains('\n'), "{}", desc.name);
            if let Kind::Histogram(bounds) = desc.kind {
                assert!(bounds.windows(2).all(|pair| pair[0] < pair[1]) && desc.name.ends_with("_seconds"), "{}", desc.name);
            }
        }
    }
}
