//! The bucket: put if absent, get, list, retries, probe. The only user of `object_store`.
//!
//! [`Store`] is what the rest of the crate sees; names are relative to the store's prefix, as `format::names` makes them.
//! Every wrapper (retries, counting, faults in tests) is a `Store` too, and one conformance suite runs on all of them.

mod clock;
mod cloud;
mod file;
mod init;
mod memory;
mod name;
mod objects;
mod open;
pub mod plan;
mod probe;
mod url;
mod wrap;

pub use clock::{now, sweep_clocks};
pub use file::FileStore;
pub use init::{Initialized, init, read_marker};
pub use memory::Memory;
pub use name::{BODY_BYTES_MAX, OBJECT_NAME_MAX};
pub use objects::Objects;
pub use open::{OpenOptions, open};
pub use probe::{CREATORS, Check, ProbeReport, Verdict, Writers, probe, probe_for};
pub use url::{Bucket, Location, StoreUrl, UrlError};
pub use wrap::{Counters, Counting, Faults, Faulty, Limited, Limits, Retries, Retrying, Slow, Snapshot, Verb, VerbResult};

use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::time::Duration;

/// What a put if absent did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object is stored, durably, with these bytes.
    Stored,
    /// An object of that name was there before. It may be our own: an earlier attempt whose reply was lost.
    Exists,
}

/// What a listing or head says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Name relative to the store's prefix.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// By the store's clock, nanoseconds since the Unix epoch.
    pub modified: i64,
}

/// Why a request has no answer. *Not found* is an answer, not an error.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No answer, or a broken one: the outcome of a put is unknown. Trying again is right.
    #[error("the store did not answer {verb} {name}: {why}")]
    Unreachable {
        /// The request.
        verb: &'static str,
        /// The object.
        name: String,
        /// What the transport said.
        why: String,
    },
    /// The store asks for fewer requests.
    #[error("the store is throttling {verb} {name}")]
    Throttled {
        /// The request.
        verb: &'static str,
        /// The object.
        name: String,
        /// What its answer asked for.
        retry_after: Option<Duration>,
    },
    /// The credentials do not allow it. Trying again with the same ones does not help.
    #[error("the store refuses {verb} {name}: {why}; check the credentials and their policy")]
    Denied {
        /// The request.
        verb: &'static str,
        /// The object.
        name: String,
        /// What the store said.
        why: String,
    },
    /// The bucket (or directory) itself is not there.
    #[error("{what} does not exist; nothing is made here by itself, see `holdfast store init`")]
    NoBucket {
        /// Which.
        what: String,
    },
    /// The request cannot be carried out by this store.
    #[error("the store cannot do {verb} {name}: {why}")]
    Unsupported {
        /// The request.
        verb: &'static str,
        /// The object.
        name: String,
        /// Why.
        why: String,
    },
}

/// An object store. All methods may be called concurrently. A dropped future leaves the request's outcome unknown.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// Creates the object unless one of that name exists. `Stored` only when it is durable. Any error: outcome unknown.
    async fn put_if_absent(&self, name: &str, body: Bytes) -> Result<Put, StoreError>;
    /// The whole object; `None`: the store says that there is none.
    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError>;
    /// Bytes `range` of the object, fewer only where it ends earlier; `None`: there is none.
    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>, StoreError>;
    /// Size and time; `None`: there is none.
    async fn head(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError>;
    /// Objects whose names begin with `prefix`, in byte order, after `start_after`, at most `limit`. Only for opening, gc and listing
    /// commands; may be stale.
    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError>;
    /// Removes the object; fine when there is none. Only the janitor calls it.
    async fn delete(&self, name: &str) -> Result<(), StoreError>;
}
