//! Bounds on requests in flight and on bytes per second each way.

use crate::env::Env;
use crate::store::plan::Pace;
use crate::store::{ObjectMeta, Put, Store, StoreError};
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Requests that have begun and not ended; at least 1.
    pub requests_in_flight: usize,
    /// Bytes per second of puts, on the average.
    pub upload: Option<NonZeroU64>,
    /// Bytes per second of gets, on the average.
    pub download: Option<NonZeroU64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { requests_in_flight: 64, upload: None, download: None }
    }
}

/// Keeps to its [`Limits`]. Bytes are paid for after they moved: who comes next waits until the debt is paid, so that a large object
/// never has to wait for an allowance as large as itself.
#[derive(Debug)]
pub struct Limited {
    inner: Arc<dyn Store>,
    in_flight: Semaphore,
    upload: Lane,
    download: Lane,
    env: Env,
}

#[derive(Debug)]
struct Lane(Option<Mutex<Pace>>);

impl Lane {
    fn new(rate: Option<NonZeroU64>) -> Self {
        Self(rate.map(|rate| Mutex::new(Pace::new(rate))))
    }

    async fn wait(&self, env: &Env) {
        let Some(pace) = &self.0 else { return };
        loop {
            let pause = pace.lock().pause(env.monotonic());
            if pause.is_zero() {
                return;
            }
            env.sleep(pause).await;
        }
    }

    fn pay(&self, env: &Env, bytes: usize) {
        if let Some(pace) = &self.0 {
            pace.lock().pay(env.monotonic(), bytes as u64);
        }
    }
}

impl Limited {
    /// Bounds what goes to `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, limits: Limits, env: Env) -> Self {
        let in_flight = Semaphore::new(limits.requests_in_flight.clamp(1, Semaphore::MAX_PERMITS));
        Self { inner, in_flight, upload: Lane::new(limits.upload), download: Lane::new(limits.download), env }
    }

    async fn permit(&self, verb: &'static str, name: &str) -> Result<SemaphorePermit<'_>, StoreError> {
        let closed = |error: tokio::sync::AcquireError| StoreError::Unreachable { verb, name: name.to_owned(), why: error.to_string() };
        self.in_flight.acquire().await.map_err(closed)
    }

    fn paid(&self, body: Option<Bytes>) -> Option<Bytes> {
        self.download.pay(&self.env, body.as_ref().map_or(0, Bytes::len));
        body
    }
}

#[async_trait]
impl Store for Limited {
    async fn put_if_absent(&self, name: &str, body: Bytes) -> Result<Put, StoreError> {
        let _permit = self.permit("put_if_absent", name).await?;
        self.upload.wait(&self.env).await;
        // Paid whatever comes of it: the bytes go out before the answer comes in.
        self.upload.pay(&self.env, body.len());
        self.inner.put_if_absent(name, body).await
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        let _permit = self.permit("get", name).await?;
        self.download.wait(&self.env).await;
        Ok(self.paid(self.inner.get(name).await?))
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        let _permit = self.permit("get_range", name).await?;
        self.download.wait(&self.env).await;
        Ok(self.paid(self.inner.get_range(name, range).await?))
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError> {
        let _permit = self.permit("head", name).await?;
        self.inner.head(name).await
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        let _permit = self.permit("list", prefix).await?;
        self.inner.list(prefix, start_after, limit).await
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let _permit = self.permit("delete", name).await?;
        self.inner.delete(name).await
    }
}
