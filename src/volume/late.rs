//! The part of a volume that needs the store, which a resumed mount has only later.

use super::ops::Fetch;
use crate::cache::Cache;
use crate::env::Env;
use crate::hydrate::Fetcher;
use crate::types::{ByteRange, Fault, FaultKind, Ino};
use crate::writeback::{Ended, WriteBack};
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The part of a volume that needs the store.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) fetcher: Arc<Fetcher>,
    /// Absent for a reader.
    pub(super) writeback: Option<Arc<WriteBack>>,
    pub(super) run: Mutex<Option<JoinHandle<Ended>>>,
}

/// The engine, as soon as there is one.
#[derive(Debug, Default)]
pub(super) struct Late {
    pub(super) engine: OnceLock<Engine>,
    ready: watch::Sender<bool>,
}

impl Late {
    pub(super) fn set(&self, engine: Engine) {
        if self.engine.set(engine).is_ok() {
            self.ready.send_replace(true);
        }
    }

    /// There will be none.
    pub(super) fn fail(&self) {
        self.ready.send_replace(true);
    }

    /// Waits for it; `None`: there will be none.
    pub(super) async fn get(&self) -> Option<&Engine> {
        self.ready.subscribe().wait_for(|ready| *ready).await.ok()?;
        self.engine.get()
    }
}

/// Fetches for the operations, from threads that may wait.
#[derive(Debug)]
pub(super) struct BlockingFetch {
    pub(super) late: Arc<Late>,
    pub(super) cache: Arc<Cache>,
    pub(super) env: Env,
    pub(super) patience: Duration,
    pub(super) runtime: Handle,
}

impl Fetch for BlockingFetch {
    fn fetch(&self, ino: Ino, ranges: &[ByteRange]) -> Result<(), Fault> {
        let size = self.cache.view(|view| view.attr(ino))?.map_or(0, |attr| attr.size);
        self.runtime.block_on(async {
            let engine = tokio::select! {
                engine = self.late.get() => engine,
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
        let writeback = self.0.engine.get().and_then(|engine| engine.writeback.as_ref());
        writeback.is_some_and(|writeback| writeback.progress().is_cancelled())
    }

    /// Whether nothing that is written now will ever be committed from here.
    pub(super) fn is_over(&self) -> bool {
        match self.0.engine.get() {
            Some(engine) => engine.writeback.as_ref().is_some_and(|writeback| writeback.progress().is_over()),
            None => *self.0.ready.borrow(),
        }
    }
}
