//! The part of a volume that needs the store, which a resumed mount has only later.

use super::ops::Fetch;
use crate::cache::Cache;
use crate::env::{Env, Task, Waiter};
use crate::hydrate::Fetcher;
use crate::types::{ByteRange, Fault, FaultKind, Ino, Seq};
use crate::writeback::{Ended, Progress, WriteBack};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;

/// The part of a volume that needs the store.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) fetcher: Arc<Fetcher>,
    /// Absent for a reader.
    pub(super) writeback: Option<Arc<WriteBack>>,
    pub(super) run: Mutex<Option<Task<Ended>>>,
}

/// The engine, as soon as there is one.
#[derive(Debug, Default)]
pub(super) struct Late {
    pub(super) engine: OnceLock<Engine>,
    ready: watch::Sender<bool>,
    /// There is no write-back and will be none; what reads may come still.
    failed: AtomicBool,
    cancelled: AtomicBool,
}

impl Late {
    pub(super) fn set(&self, engine: Engine) {
        if self.engine.set(engine).is_ok() {
            // It may have been given up before there was anything to give up.
            if self.cancelled.load(Ordering::SeqCst) {
                self.cancel();
            }
            self.ready.send_replace(true);
        }
    }

    /// Write-back, when there is one by now.
    pub(super) fn writeback(&self) -> Option<&Arc<WriteBack>> {
        self.engine.get()?.writeback.as_ref()
    }

    /// Nothing will be committed from here.
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
        self.ready.send_replace(true);
    }

    /// What waits for the store is given up.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        if let Some(writeback) = self.writeback() {
            writeback.cancel();
        }
    }

    /// Waits for what reads, however long it takes: somebody who waits for bytes has nothing else to do.
    async fn reader(&self) -> &Engine {
        let mut ready = self.ready.subscribe();
        loop {
            if let Some(engine) = self.engine.get() {
                return engine;
            }
            // Told again when there is one after all.
            if ready.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits for it; `None`: there will be none.
    pub(super) async fn get(&self) -> Option<&Engine> {
        self.ready.subscribe().wait_for(|ready| *ready).await.ok()?;
        self.engine.get()
    }
}

/// What `future` says, unless `side` is cancelled first.
pub(super) async fn unless_cancelled<T>(side: &Progress, future: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    side.cancelled_or(future).await?
}

/// The end of a volume that did not wait for the store.
pub(super) fn given_up() -> Fault {
    let what = "given up before everything was committed: the cache keeps the rest, the next mount here goes on with it";
    Fault::new(FaultKind::Unknown, what)
}

/// The end of a mount that was taken over and whose log never opened.
pub(super) fn not_committed(why: &str) -> Fault {
    let what = "nothing was committed since the mount's driver was restarted: what was written since is in this machine's cache alone";
    let next = "the log is still open; mend the cause and mount here again: that goes on with the cache";
    Fault::new(FaultKind::Unknown, format!("{what} ({why}); {next}"))
}

/// Fetches for the operations, from threads that may wait.
#[derive(Debug)]
pub(super) struct BlockingFetch {
    pub(super) late: Arc<Late>,
    pub(super) cache: Arc<Cache>,
    pub(super) env: Env,
    pub(super) patience: Duration,
    pub(super) waiter: Waiter,
}

impl Fetch for BlockingFetch {
    fn fetch(&self, ino: Ino, ranges: &[ByteRange]) -> Result<(), Fault> {
        let size = self.cache.view(|view| view.attr(ino))?.map_or(0, |attr| attr.size);
        self.waiter.wait(async {
            let engine = tokio::select! {
                biased;
                engine = self.late.reader() => Some(engine),
                () = self.env.sleep(self.patience) => None,
            };
            let Some(engine) = engine else {
                return Err(Fault::new(FaultKind::Unknown, "the store has not answered since the driver was restarted"));
            };
            for range in ranges {
                engine.fetcher.fetch(ino, range.clone(), size).await?;
            }
            Ok(())
        })
    }
}

/// Whether write-back is over, once there is one.
#[derive(Debug)]
pub(super) struct LateProgress(pub(super) Arc<Late>);

impl LateProgress {
    /// Whether what waits for the store is given up.
    pub(super) fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// The newest commit, once the log is open.
    pub(super) fn last_commit(&self) -> Option<Seq> {
        self.0.writeback().and_then(|writeback| writeback.progress().state().last_commit).map(|last| last.seq)
    }

    /// Whether nothing that is written now will ever be committed from here.
    pub(super) fn is_over(&self) -> bool {
        self.0.failed.load(Ordering::Acquire) || self.0.writeback().is_some_and(|writeback| writeback.progress().is_over())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{CacheError, CacheOptions, CacheOrigin, NewInode, SavedReply, Update};
    use crate::policy::Policy;
    use crate::types::{CacheId, Identity, Incarnation, ROOT, StoreId};
    use crate::volume::{RunOptions, Sizes, Volume};

    type Ready = Result<crate::volume::OpenParams, Fault>;

    /// A mount that was taken over, with a new file in its cache.
    async fn resumed<F>(dir: &std::path::Path, params: impl FnMut() -> F + Send + 'static) -> Arc<Volume>
    where
        F: Future<Output = Ready> + Send + 'static,
    {
        let identity = Identity::parse("a/b").unwrap();
        let options = || {
            let mut options = CacheOptions::new(dir.join("cache"));
            (options.log_bytes, options.any_file_system, options.no_sync) = (4 << 20, true, true);
            options
        };
        let (store_id, incarnation, cache_id) = (StoreId([1; 16]), Incarnation([5; 16]), CacheId([3; 16]));
        let origin = CacheOrigin { store_id, incarnation, identity: identity.clone(), cache_id };
        let cache = Cache::create(Env::real(), options(), &origin).unwrap();
        cache.set_epoch(1).unwrap();
        cache.close().unwrap();
        drop(cache);
        let sizes = Sizes { cache_max: 1 << 30, dirty_max: 1 << 29, capacity: None };
        let volume =
            Volume::resume(Env::real(), &identity, options(), sizes, RunOptions::default(), &Policy::built_in(), params).await.unwrap();
        let make = |update: &mut Update<'_>| -> Result<((), SavedReply), CacheError> {
            let ino = update.new_inode(&NewInode { mode: libc::S_IFREG | 0o644, ..NewInode::default() })?.ino;
            update.set_name(ROOT, b"f", ino)?;
            Ok(((), SavedReply::Empty))
        };
        volume.cache().update(None, make).unwrap();
        volume
    }

    #[tokio::test]
    async fn giving_up_ends_a_resumed_mount_whose_store_never_answered() {
        let dir = tempfile::tempdir().unwrap();
        let volume = resumed(dir.path(), std::future::pending).await;
        volume.cancel();
        // Dirty, and never asked for: not a clean end.
        assert_eq!(volume.close().await.unwrap_err().kind, FaultKind::Unknown);
    }

    #[tokio::test]
    async fn a_resumed_mount_whose_log_never_opened_has_no_clean_end() {
        let dir = tempfile::tempdir().unwrap();
        let too_new = || std::future::ready(Err(Fault::new(FaultKind::TooNew, "too new for this build")));
        let volume = resumed(dir.path(), too_new).await;
        let fault = volume.close().await.unwrap_err();
        let said = fault.to_string();
        assert_eq!(fault.kind, FaultKind::Unknown, "{said}");
        assert!(said.contains("in this machine's cache alone") && said.contains("too new for this build"), "{said}");
    }

    #[tokio::test]
    async fn what_a_resumed_mount_opens_its_log_with_is_asked_for_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut answers = vec![FaultKind::TooNew, FaultKind::Damaged, FaultKind::Denied, FaultKind::Invalid];
        let (send, mut asked) = tokio::sync::mpsc::unbounded_channel();
        let volume = resumed(dir.path(), move || {
            let kind = answers.pop().unwrap();
            send.send(kind).unwrap();
            std::future::ready(Err(Fault::new(kind, "no")))
        })
        .await;
        for (kind, of_the_store) in [(FaultKind::Invalid, false), (FaultKind::Denied, true)] {
            assert_eq!(asked.recv().await, Some(kind));
            while volume.report().waiting.is_none_or(|waiting| waiting.store != of_the_store) {
                tokio::task::yield_now().await;
            }
            // As while the store is away: whatever is written is to be committed later.
            assert!(volume.report().failed.is_none() && !LateProgress(Arc::clone(&volume.engine)).is_over());
        }
        assert_eq!(asked.recv().await, Some(FaultKind::Damaged));
        // Waits for the last word.
        assert!(volume.close().await.is_err());
        assert!(volume.report().failed.is_some() && volume.report().waiting.is_none());
    }
}
