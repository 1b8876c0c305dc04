//! Tries again what may succeed later: with growing pauses, chosen at random below their bound so that many clients do not come back
//! together, and until a deadline.
//!
//! A put whose reply was lost may say [`Put::Exists`] when it is tried again, because of its own first attempt: callers resolve that by
//! what is stored (the log by nonce, packs by length and hash).

use crate::env::Env;
use crate::store::plan::{self, Retry};
use crate::store::{ObjectMeta, Put, Store, StoreError};
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// How to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retries {
    /// No attempt begins later than this after the first; zero: one attempt.
    pub deadline: Duration,
    /// Bound of the first pause; doubles with each.
    pub first_pause: Duration,
    /// Bound of any pause, what the store itself asks for aside.
    pub longest_pause: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(60), first_pause: Duration::from_millis(50), longest_pause: Duration::from_secs(10) }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Retrying {
    inner: Arc<dyn Store>,
    retries: Retries,
    env: Env,
}

impl Retrying {
    /// Tries again on `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, retries: Retries, env: Env) -> Self {
        Self { inner, retries, env }
    }

    async fn again<T, F: Future<Output = Result<T, StoreError>>>(&self, mut request: impl FnMut() -> F) -> Result<T, StoreError> {
        let began = self.env.monotonic();
        let mut attempt = 0;
        loop {
            let error = match request().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let elapsed = self.env.monotonic().saturating_sub(began);
            let pause = match plan::retry(&self.retries, &error, attempt, elapsed, |below| self.env.random_below(below)) {
                Retry::GiveUp => return Err(error),
                Retry::After(pause) => pause,
            };
            tracing::debug!(%error, attempt, ?pause, "trying again");
            self.env.sleep(pause).await;
            attempt += 1;
        }
    }
}

#[async_trait]
impl Store for Retrying {
    async fn put_if_absent(&self, name: &str, body: Bytes) -> Result<Put, StoreError> {
        self.again(|| self.inner.put_if_absent(name, body.clone())).await
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.again(|| self.inner.get(name)).await
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        self.again(|| self.inner.get_range(name, range.clone())).await
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.again(|| self.inner.head(name)).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        self.again(|| self.inner.list(prefix, start_after, limit)).await
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.again(|| self.inner.delete(name)).await
    }
}
