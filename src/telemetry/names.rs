//! The one list of metric and span names: `holdfast_<module>_<what>_<unit>`, with help, type and labels.

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Time that only grows: a counter of nanoseconds, exported in seconds.
    Time,
    /// Goes up and down.
    Gauge,
    /// Durations by their size, in seconds.
    Histogram,
}

/// One metric family.
#[derive(Debug, PartialEq, Eq)]
pub struct Desc {
    /// The exported name.
    pub name: &'static str,
    /// One sentence for the person who meets it in an alert.
    pub help: &'static str,
    /// Which kind of number.
    pub kind: Kind,
    /// Label names; the values are given in the same order.
    pub labels: &'static [&'static str],
}

const VOLUME: &[&str] = &["volume"];

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
    STORE_REQUEST_SECONDS = Kind::Time, "holdfast_store_request_seconds_total", &["verb"],
        "Time that requests took, each attempt from sending it to its whole answer; divided by their number: the mean.";
    STORE_SENT_BYTES = Kind::Counter, "holdfast_store_sent_bytes_total", &[],
        "Bytes of objects sent to the store, attempts that failed included.";
    STORE_RECEIVED_BYTES = Kind::Counter, "holdfast_store_received_bytes_total", &[],
        "Bytes of objects received from the store.";

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
    CACHE_INODES = Kind::Gauge, "holdfast_cache_inodes", VOLUME,
        "Files, directories and others in the volume.";

    CACHE_DROPPED_BYTES = Kind::Counter, "holdfast_cache_dropped_bytes_total", VOLUME,
        "Bytes of clean data that the cache's disk no longer had as they were, dropped to be fetched again.";
    CACHE_SPOILED_FILES = Kind::Gauge, "holdfast_cache_spoiled_files", VOLUME,
        "Files with bytes that are in no commit and gone from the cache's disk.";

    LOG_EPOCH = Kind::Gauge, "holdfast_log_epoch", VOLUME,
        "Epoch of this writer.";
    LOG_FENCED = Kind::Gauge, "holdfast_log_fenced", VOLUME,
        "1 when another writer has taken the volume over.";

    HYDRATE_LEFT_BYTES = Kind::Gauge, "holdfast_hydrate_left_bytes", VOLUME,
        "Bytes of the volume that are not in the cache.";

    HYDRATE_FETCH_SECONDS = Kind::Histogram, "holdfast_hydrate_fetch_seconds", VOLUME,
        "Time until bytes that somebody waits for came from the store, or were given up.";

    WRITEBACK_SEAL_SECONDS = Kind::Histogram, "holdfast_writeback_seal_seconds", VOLUME,
        "Time of a seal: what the kernel holds brought in, and all that changed frozen.";
    WRITEBACK_COMMIT_SECONDS = Kind::Histogram, "holdfast_writeback_commit_seconds", VOLUME,
        "Time from a frozen seal to its commit in the log and taken over by the cache.";
    WRITEBACK_COMMITS = Kind::Counter, "holdfast_writeback_commits_total", VOLUME,
        "Commits that this driver stored.";
    WRITEBACK_CHECKPOINTS = Kind::Counter, "holdfast_writeback_checkpoints_total", VOLUME,
        "Checkpoints that this driver stored.";
    WRITEBACK_LAST_COMMIT_TIME = Kind::Gauge, "holdfast_writeback_last_commit_timestamp_seconds", VOLUME,
        "Cut time of the newest stored commit, seconds since 1970.";
    WRITEBACK_LAST_COMMIT_SEQ = Kind::Gauge, "holdfast_writeback_last_commit_seq", VOLUME,
        "Number of the newest stored commit.";
    WRITEBACK_PACKED_BYTES = Kind::Counter, "holdfast_writeback_packed_bytes_total", VOLUME,
        "Bytes of packs stored, as sealed.";
    WRITEBACK_LAG_SECONDS = Kind::Gauge, "holdfast_writeback_lag_seconds", VOLUME,
        "The lag in force: the policy's, or wider when the request budget asks for it.";
    WRITEBACK_REQUESTS = Kind::Counter, "holdfast_writeback_requests_total", VOLUME,
        "Requests that writing took, without attempts that failed: what the request budget goes by.";
    WRITEBACK_REQUEST_BUDGET = Kind::Gauge, "holdfast_writeback_request_budget", VOLUME,
        "Requests an hour that writing all the time may cost; 0: any number.";

    FUSE_REQUEST_SECONDS = Kind::Histogram, "holdfast_fuse_request_seconds", &["volume", "opcode"],
        "Requests of the kernel: time until the handler had answered, or had handed it to a thread that may wait.";
    FUSE_SYNC_SECONDS = Kind::Histogram, "holdfast_fuse_sync_seconds", VOLUME,
        "Time until an fsync of a file or directory was answered.";

    VOLUME_SCRUBBED_BYTES = Kind::Counter, "holdfast_volume_scrubbed_bytes_total", VOLUME,
        "Bytes of clean data that scrubs compared with their checksums.";
    VOLUME_SCRUB_DIFFERENCES = Kind::Counter, "holdfast_volume_scrub_differences_total", VOLUME,
        "Names and inodes that scrubs found different from the newest commit, and repaired.";
    VOLUME_SAFE = Kind::Gauge, "holdfast_volume_safe", VOLUME,
        "1 when `status` would say SAFE.";

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
            let counts = matches!(desc.kind, Kind::Counter | Kind::Time);
            assert_eq!(desc.name.ends_with("_total"), counts, "{}", desc.name);
            assert!(desc.kind != Kind::Histogram || desc.name.ends_with("_seconds"), "{}", desc.name);
            assert_eq!(desc.name.ends_with("_seconds_total"), desc.kind == Kind::Time, "{}", desc.name);
            assert!(desc.help.ends_with('.') && !desc.help.contains('\n'), "{}", desc.name);
        }
    }
}
