//! A store on its bad days, for tests: the same seed gives the same faults to the same sequence of requests.

use crate::store::{ObjectMeta, Put, Store, StoreError};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

/// How often what happens, in requests of a thousand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// The request never arrives: an error, nothing done.
    pub before: u32,
    /// It is carried out, and the reply is lost: an error all the same.
    pub reply_lost: u32,
    /// 503 with a time to wait, nothing done.
    pub throttled: u32,
    /// A body ends early and the transport notices: an error.
    pub cut: u32,
    /// A body ends early and nobody notices: fewer bytes.
    pub cut_unnoticed: u32,
}

/// Wraps a store in faults.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Store>,
    faults: Faults,
    chance: Mutex<ChaCha8Rng>,
    down: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    None,
    Before,
    ReplyLost,
    Throttled,
    Cut,
    CutUnnoticed,
}

impl Faulty {
    /// Makes `inner` unreliable.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, faults: Faults, seed: u64) -> Self {
        Self { inner, faults, chance: Mutex::new(ChaCha8Rng::seed_from_u64(seed)), down: AtomicBool::new(false) }
    }

    /// From now on (until told otherwise) the store is gone: every request fails and does nothing.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, SeqCst);
    }

    fn fate(&self) -> Fate {
        if self.down.load(SeqCst) {
            return Fate::Before;
        }
        let mut left = self.chance.lock().random_range(0..1000);
        for (rate, fate) in [
            (self.faults.before, Fate::Before),
            (self.faults.reply_lost, Fate::ReplyLost),
            (self.faults.throttled, Fate::Throttled),
            (self.faults.cut, Fate::Cut),
            (self.faults.cut_unnoticed, Fate::CutUnnoticed),
        ] {
            if left < rate {
                return fate;
            }
            left -= rate;
        }
        Fate::None
    }

    async fn suffer<T>(
        &self,
        verb: &'static str,
        name: &str,
        request: impl Future<Output = Result<T, StoreError>>,
        cut: impl FnOnce(T) -> T,
    ) -> Result<T, StoreError> {
        let gone = |why: &str| Err(StoreError::Unreachable { verb, name: name.to_owned(), why: why.to_owned() });
        match self.fate() {
            Fate::Before => gone("connection refused (a fault that the test asked for)"),
            Fate::Throttled => Err(StoreError::Throttled { verb, name: name.to_owned(), retry_after: Some(Duration::from_millis(1)) }),
            Fate::None => request.await,
            Fate::ReplyLost => {
                let _ = request.await?;
                gone("the reply was lost (a fault that the test asked for)")
            }
            Fate::Cut => {
                let _ = request.await?;
                gone("the body ended early (a fault that the test asked for)")
            }
            Fate::CutUnnoticed => request.await.map(cut),
        }
    }
}

fn half(body: Option<Bytes>) -> Option<Bytes> {
    body.map(|body| body.slice(..body.len() / 2))
}

#[async_trait]
impl Store for Faulty {
    async fn put_if_absent(&self, name: &str, body: Bytes) -> Result<Put, StoreError> {
        self.suffer("put_if_absent", name, self.inner.put_if_absent(name, body), |put| put).await
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.suffer("get", name, self.inner.get(name), half).await
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        self.suffer("get_range", name, self.inner.get_range(name, range), half).await
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.suffer("head", name, self.inner.head(name), |meta| meta).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        self.suffer("list", prefix, self.inner.list(prefix, start_after, limit), |metas| metas).await
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.suffer("delete", name, self.inner.delete(name), |()| ()).await
    }
}
