//! An environment in which something happens at one failpoint.

use crate::env::{Env, Failpoints};
use std::sync::Arc;

/// The environment with one failpoint.
pub(super) fn armed(point: &str, n: u64, action: impl Fn() + Send + Sync + 'static) -> Env {
    struct Clock;
    impl crate::env::Clock for Clock {
        fn now(&self) -> i64 {
            1_000_000
        }
        fn monotonic(&self) -> std::time::Duration {
            std::time::Duration::from_secs(1)
        }
        fn sleep(&self, _: std::time::Duration) -> futures::future::BoxFuture<'static, ()> {
            Box::pin(std::future::ready(()))
        }
    }
    struct Chance;
    impl crate::env::Random for Chance {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(7);
        }
    }
    Env::new(Arc::new(Clock), Arc::new(Chance), Failpoints::none().arm(point, n, Arc::new(action)))
}
