//! A store that is far away: for tests and benches.

use crate::env::Env;
use crate::store::{ObjectMeta, Put, Store, StoreError};
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Half of the latency passes before the request reaches the inner store, half after it.
#[derive(Debug)]
pub struct Slow {
    inner: Arc<dyn Store>,
    half: Duration,
    env: Env,
}

impl Slow {
    /// Puts `inner` at a distance.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, latency: Duration, env: Env) -> Self {
        Self { inner, half: latency / 2, env }
    }

    async fn travel<T>(&self, request: impl Future<Output = T>) -> T {
        self.env.sleep(self.half).await;
        let outcome = request.await;
        self.env.sleep(self.half).await;
        outcome
    }
}

#[async_trait]
impl Store for Slow {
    async fn put_if_absent(&self, name: &str, body: Bytes) -> Result<Put, StoreError> {
        self.travel(self.inner.put_if_absent(name, body)).await
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        self.travel(self.inner.get(name)).await
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        self.travel(self.inner.get_range(name, range)).await
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError> {
        self.travel(self.inner.head(name)).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        self.travel(self.inner.list(prefix, start_after, limit)).await
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.travel(self.inner.delete(name)).await
    }
}
