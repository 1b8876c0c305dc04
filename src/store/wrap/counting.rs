//! Counts requests by verb and result, and bytes both ways.

use crate::env::Env;
use crate::store::{ObjectMeta, Put, Store, StoreError};
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The requests of [`Store`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as the trait's methods are")]
pub enum Verb {
    PutIfAbsent,
    Get,
    GetRange,
    Head,
    List,
    Delete,
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as StoreError's variants are")]
pub enum VerbResult {
    /// Done, or found.
    Ok,
    /// A put met an object of that name.
    Exists,
    /// There is no such object.
    Absent,
    Unreachable,
    Throttled,
    Denied,
    NoBucket,
    Unsupported,
    /// The caller stopped waiting; what the store did is not known.
    Dropped,
}

impl Verb {
    /// All, in the order of the trait.
    pub const ALL: [Self; 6] = [Self::PutIfAbsent, Self::Get, Self::GetRange, Self::Head, Self::List, Self::Delete];

    /// As in metrics and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PutIfAbsent => "put_if_absent",
            Self::Get => "get",
            Self::GetRange => "get_range",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }
}

impl VerbResult {
    /// All.
    pub const ALL: [Self; 9] = [
        Self::Ok,
        Self::Exists,
        Self::Absent,
        Self::Unreachable,
        Self::Throttled,
        Self::Denied,
        Self::NoBucket,
        Self::Unsupported,
        Self::Dropped,
    ];

    /// As in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Exists => "exists",
            Self::Absent => "absent",
            Self::Unreachable => "unreachable",
            Self::Throttled => "throttled",
            Self::Denied => "denied",
            Self::NoBucket => "no_bucket",
            Self::Unsupported => "unsupported",
            Self::Dropped => "dropped",
        }
    }

    fn of(error: &StoreError) -> Self {
        match error {
            StoreError::Unreachable { .. } => Self::Unreachable,
            StoreError::Throttled { .. } => Self::Throttled,
            StoreError::Denied { .. } => Self::Denied,
            StoreError::NoBucket { .. } => Self::NoBucket,
            StoreError::Unsupported { .. } => Self::Unsupported,
        }
    }
}

/// Counters that any number of stores add to and anybody may read.
#[derive(Debug, Default)]
pub struct Counters {
    requests: [[AtomicU64; VerbResult::ALL.len()]; Verb::ALL.len()],
    nanoseconds: [AtomicU64; Verb::ALL.len()],
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

/// The counters at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Every verb and result with its number of requests, zeros included.
    pub requests: Vec<(Verb, VerbResult, u64)>,
    /// Every verb with the time its requests took, added up.
    pub time: Vec<(Verb, Duration)>,
    /// Bytes of bodies put.
    pub bytes_up: u64,
    /// Bytes of bodies got.
    pub bytes_down: u64,
}

impl Counters {
    /// Reads all.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let requests =
            Verb::ALL.iter().flat_map(|verb| VerbResult::ALL.iter().map(|result| (*verb, *result, self.count(*verb, *result)))).collect();
        let time = Verb::ALL.iter().map(|verb| (*verb, Duration::from_nanos(self.nanoseconds[*verb as usize].load(Relaxed)))).collect();
        Snapshot { requests, time, bytes_up: self.bytes_up.load(Relaxed), bytes_down: self.bytes_down.load(Relaxed) }
    }

    /// Requests of one verb with one result.
    #[must_use]
    pub fn count(&self, verb: Verb, result: VerbResult) -> u64 {
        self.requests[verb as usize][result as usize].load(Relaxed)
    }

    /// All requests.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.requests.iter().flatten().map(|count| count.load(Relaxed)).sum()
    }
}

/// Adds every request to its [`Counters`].
#[derive(Debug)]
pub struct Counting {
    inner: Arc<dyn Store>,
    counters: Arc<Counters>,
    env: Env,
}

impl Counting {
    /// Counts what goes to `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, counters: Arc<Counters>, env: Env) -> Self {
        Self { inner, counters, env }
    }

    async fn count<T>(
        &self,
        verb: Verb,
        request: impl Future<Output = Result<T, StoreError>>,
        kind: impl FnOnce(&T) -> VerbResult,
    ) -> Result<T, StoreError> {
        let mut open = Open { of: self, verb, began: self.env.monotonic(), result: VerbResult::Dropped };
        let outcome = request.await;
        open.result = match &outcome {
            Ok(value) => kind(value),
            Err(error) => VerbResult::of(error),
        };
        outcome
    }

    fn down(&self, body: Option<&Bytes>) -> VerbResult {
        match body {
            Some(body) => {
                self.counters.bytes_down.fetch_add(body.len() as u64, Relaxed);
                VerbResult::Ok
            }
            None => VerbResult::Absent,
        }
    }
}

/// A request under way; counted when it ends, also when its future is dropped.
struct Open<'a> {
    of: &'a Counting,
    verb: Verb,
    began: Duration,
    result: VerbResult,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let took = self.of.env.monotonic().saturating_sub(self.began);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.of.counters.nanoseconds[self.verb as usize].fetch_add(nanoseconds, Relaxed);
        self.of.counters.requests[self.verb as usize][self.result as usize].fetch_add(1, Relaxed);
    }
}

#[async_trait]
impl Store for Counting {
    async fn put_if_absent(&self, name: &str, body: Bytes) -> Result<Put, StoreError> {
        self.counters.bytes_up.fetch_add(body.len() as u64, Relaxed);
        let kind = |put: &Put| if *put == Put::Stored { VerbResult::Ok } else { VerbResult::Exists };
        self.count(Verb::PutIfAbsent, self.inner.put_if_absent(name, body), kind).await
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.count(Verb::Get, self.inner.get(name), |body| self.down(body.as_ref())).await
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        self.count(Verb::GetRange, self.inner.get_range(name, range), |body| self.down(body.as_ref())).await
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError> {
        let kind = |meta: &Option<ObjectMeta>| if meta.is_some() { VerbResult::Ok } else { VerbResult::Absent };
        self.count(Verb::Head, self.inner.head(name), kind).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        self.count(Verb::List, self.inner.list(prefix, start_after, limit), |_| VerbResult::Ok).await
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.count(Verb::Delete, self.inner.delete(name), |()| VerbResult::Ok).await
    }
}
