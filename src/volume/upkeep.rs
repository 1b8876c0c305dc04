//! What a volume does by itself beside write-back: the cache's background work, eviction, and looking at a cache that raised a suspicion.

use super::live::Volume;
use crate::cache::CacheError;
use crate::hydrate::Prefetch;
use crate::types::{Fault, FaultKind};
use crate::writeback;
use std::sync::Arc;
use std::time::Duration;

impl Volume {
    /// Once a second, until it is quiet: the cache's own background work, and eviction above its limit.
    pub(super) fn spawn_upkeep(self: &Arc<Self>) {
        let (volume, mut stop) = (Arc::downgrade(self), self.stop.subscribe());
        self.cache.on_stir({
            let (upkeep, engine) = (Arc::clone(&self.stirred), Arc::downgrade(&self.engine));
            move || {
                upkeep.notify_one();
                if let Some(late) = engine.upgrade()
                    && let Some(writeback) = late.writeback()
                {
                    writeback.stirred();
                }
            }
        });
        let (env, stirred) = (self.env.clone(), Arc::clone(&self.stirred));
        let task = self.env.spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = env.sleep(Duration::from_secs(1)) => {}
                }
                let Some(volume) = volume.upgrade() else { return };
                let done = env.blocking(move || volume.upkeep().map(|()| volume.cache.is_quiet())).await;
                let tell = |fault: &Fault| tracing::error!(%fault, "the cache's background work failed; it is tried again");
                if done.inspect_err(tell).unwrap_or(false) {
                    tokio::select! {
                        biased;
                        _ = stop.wait_for(|stop| *stop) => return,
                        () = stirred.notified() => {}
                        () = env.sleep(writeback::QUIET_MAX) => {}
                    }
                }
            }
        });
        self.tasks.lock().push(task);
    }

    fn upkeep(&self) -> Result<(), CacheError> {
        if let Some(why) = self.cache.suspicion()? {
            self.damaged(why);
        }
        self.cache.tick()?;
        let over = self.cache.cached_bytes().saturating_sub(self.sizes.cache_max);
        if over > 0 {
            // A little more than needed, so that a steady writer does not evict page by page.
            self.cache.evict(over + self.sizes.cache_max / 20)?;
        }
        Ok(())
    }

    /// The cache is not what was written: what it says must not become a commit.
    fn damaged(&self, why: String) {
        let fault = Fault::from(CacheError::Damaged(why));
        debug_assert_eq!(fault.kind, FaultKind::Damaged);
        tracing::error!(%fault, cache = %self.cache_dir().display(), "nothing more is committed from this cache");
        self.report.lock().failed = Some(fault.to_string());
        if let Some(writeback) = self.engine.writeback() {
            writeback.fail(fault);
        }
    }
}

impl Prefetch for Volume {
    fn room(&self) -> u64 {
        // Half of the dirty limit stays free for what the application writes.
        let usable = self.sizes.cache_max.saturating_sub(self.sizes.dirty_max / 2);
        usable.saturating_sub(self.cache.cached_bytes())
    }

    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }
}
