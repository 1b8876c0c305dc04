//! What each wrapper is for, beyond being a store.

use crate::memory;
use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast::env::{Clock, Env, Failpoints, Random};
use holdfast::store::{Faults, Faulty, Limited, Limits, ObjectMeta, Put, Retries, Retrying, Slow, Store, StoreError};
use parking_lot::Mutex;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

/// A clock that jumps to the end of every sleep, and remembers how long each was.
#[derive(Default)]
pub(crate) struct Jumping {
    now: Mutex<Duration>,
    slept: Mutex<Vec<Duration>>,
}

impl Clock for Jumping {
    fn now(&self) -> i64 {
        0
    }

    fn monotonic(&self) -> Duration {
        *self.now.lock()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        *self.now.lock() += duration;
        self.slept.lock().push(duration);
        std::future::ready(()).boxed()
    }
}

struct Highest;

impl Random for Highest {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(0xff);
    }
}

pub(crate) fn jumping() -> (Arc<Jumping>, Env) {
    let clock = Arc::new(Jumping::default());
    (Arc::clone(&clock), Env::new(clock, Arc::new(Highest), Failpoints::none()))
}

/// Answers every request with the same error, and counts them.
#[derive(Debug)]
struct Refusing {
    requests: AtomicUsize,
    error: fn() -> StoreError,
}

impl Refusing {
    fn new(error: fn() -> StoreError) -> Arc<Self> {
        Arc::new(Self { requests: AtomicUsize::new(0), error })
    }

    fn refuse<T>(&self) -> Result<T, StoreError> {
        self.requests.fetch_add(1, SeqCst);
        Err((self.error)())
    }
}

#[async_trait]
impl Store for Refusing {
    async fn put_if_absent(&self, _: &str, _: Bytes) -> Result<Put, StoreError> {
        self.refuse()
    }
    async fn get(&self, _: &str) -> Result<Option<Bytes>, StoreError> {
        self.refuse()
    }
    async fn get_range(&self, _: &str, _: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        self.refuse()
    }
    async fn head(&self, _: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.refuse()
    }
    async fn list(&self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        self.refuse()
    }
    async fn delete(&self, _: &str) -> Result<(), StoreError> {
        self.refuse()
    }
}

fn unreachable() -> StoreError {
    StoreError::Unreachable { verb: "get", name: "x".to_owned(), why: "a test".to_owned() }
}

fn throttled() -> StoreError {
    StoreError::Throttled { verb: "get", name: "x".to_owned(), retry_after: Some(Duration::from_secs(20)) }
}

fn denied() -> StoreError {
    StoreError::Denied { verb: "get", name: "x".to_owned(), why: "a test".to_owned() }
}

#[tokio::test]
async fn retrying_ends_with_its_deadline_and_keeps_to_what_the_store_asks() {
    for (error, at_least, at_most, shortest) in [
        (unreachable as fn() -> StoreError, 8, 100, Duration::ZERO),
        (throttled, 3, 3, Duration::from_secs(20)),
        (denied, 1, 1, Duration::ZERO),
    ] {
        let (clock, env) = jumping();
        let refusing = Refusing::new(error);
        let store = Retrying::new(Arc::clone(&refusing) as Arc<dyn Store>, Retries::default(), env);
        assert!(store.get("x").await.is_err());
        let requests = refusing.requests.load(SeqCst);
        assert!((at_least..=at_most).contains(&requests), "{requests} attempts at {:?}", error());
        assert!(clock.monotonic() < Retries::default().deadline);
        assert!(clock.slept.lock().iter().all(|slept| *slept >= shortest && *slept <= shortest + Retries::default().longest_pause));
    }
}

#[tokio::test]
async fn an_outage_is_over_when_it_is_over() {
    let (_, env) = jumping();
    let faulty = Arc::new(Faulty::new(memory(), Faults::default(), 0));
    let once = Retries { deadline: Duration::ZERO, ..Retries::default() };
    let store = Retrying::new(Arc::clone(&faulty) as Arc<dyn Store>, once, env);
    faulty.set_down(true);
    assert!(store.put_if_absent("x", Bytes::new()).await.is_err());
    faulty.set_down(false);
    assert_eq!(store.put_if_absent("x", Bytes::new()).await.expect("put"), Put::Stored, "nothing was done while it was down");
}

#[tokio::test]
async fn a_lost_reply_is_a_put_all_the_same() {
    let inner = memory();
    let always = Faults { reply_lost: 1000, ..Faults::default() };
    let faulty = Faulty::new(Arc::clone(&inner), always, 0);
    assert!(matches!(faulty.put_if_absent("x", Bytes::from_static(b"1")).await, Err(StoreError::Unreachable { .. })));
    assert_eq!(inner.get("x").await.expect("get").as_deref(), Some(&b"1"[..]));
    let cut = Faulty::new(inner, Faults { cut_unnoticed: 1000, ..Faults::default() }, 0);
    assert_eq!(cut.get("x").await.expect("get").as_deref(), Some(&b""[..]));
}

#[tokio::test]
async fn no_more_requests_than_allowed_are_in_flight() {
    // Requests that never end by themselves show how many the bound lets through.
    let never = Arc::new(Slow::new(memory(), Duration::from_secs(3600), Env::real()));
    let counters = Arc::new(holdfast::store::Counters::default());
    let counted = Arc::new(holdfast::store::Counting::new(never, Arc::clone(&counters), Env::real()));
    let limited = Limited::new(counted, Limits { requests_in_flight: 3, ..Limits::default() }, Env::real());
    let mut gets: Vec<_> = (0..10).map(|_| Box::pin(limited.get("x"))).collect();
    for get in &mut gets {
        assert!(futures::poll!(get).is_pending());
    }
    drop(gets);
    assert_eq!(counters.total(), 3, "requests that reached the store");
    assert!(futures::poll!(Box::pin(limited.get("x"))).is_pending());
    assert_eq!(counters.total(), 4, "a dropped request gives its place back");
}

#[tokio::test]
async fn bandwidth_is_kept_on_the_average() {
    let (clock, env) = jumping();
    let limits = Limits { upload: NonZeroU64::new(1 << 20), download: NonZeroU64::new(4 << 20), ..Limits::default() };
    let store = Limited::new(memory(), limits, env);
    for n in 0..8 {
        store.put_if_absent(&format!("x/{n}"), Bytes::from(vec![0; 1 << 20])).await.expect("put");
    }
    assert_eq!(clock.monotonic(), Duration::from_secs(7), "8 MiB at 1 MiB/s, the last of them not waited for");
    for n in 0..8 {
        store.get(&format!("x/{n}")).await.expect("get");
    }
    assert_eq!(clock.monotonic(), Duration::from_millis(7000 + 1750), "8 MiB at 4 MiB/s, both ways apart");
}
