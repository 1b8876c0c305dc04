//! The real clock and the operating system's randomness.
#![allow(clippy::disallowed_methods, reason = "this is the module that owns them")]

use super::{Clock, Random};
use crate::types::UnixNanos;
use futures::FutureExt;
use futures::future::BoxFuture;
use rand::TryRng;
use std::time::{Duration, Instant, SystemTime};

pub(super) struct SystemClock {
    start: Instant,
}

impl SystemClock {
    pub(super) fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> UnixNanos {
        let now = SystemTime::now();
        match now.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |n| -n),
        }
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(duration).boxed()
    }
}

pub(super) struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        if let Err(error) = rand::rngs::SysRng.try_fill_bytes(bytes) {
            // Keys and names would repeat: nothing may go on.
            tracing::error!(%error, "the operating system gives no random bytes");
            std::process::abort();
        }
    }
}
