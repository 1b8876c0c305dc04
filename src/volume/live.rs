//! One live volume: its operations, its tasks, its end.
//!
//! A fresh mount opens first and serves then. A resumed one serves at once from its cache (protocol.md 1.2) and opens the log beside it:
//! until its `open` is stored it commits nothing, and reads of absent bytes wait.

use super::branch;
use super::late::{self, BlockingFetch, Engine, Late};
use super::limits::{Limits, Sizes};
use super::open::{self, OpenParams, Opened, Report};
use super::ops::{Fetch, Gate, Options, Posix};
use super::strict::Strict;
use crate::cache::Cache;
use crate::env::{Env, Task};
use crate::hydrate::{self, FetchOptions, Fetcher};
use crate::policy::Tier;
use crate::telemetry::{Desc, Histogram, names};
use crate::types::{ByteRange, Fault, FaultKind, Identity, Ino};
use crate::writeback::{
    BranchNews, Brancher, Branches, Classifier, Ended, KernelPages, Lag, LastCommit, NoKernel, Parts, Progress, State, WriteBack,
};
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Notify, watch};

/// When data comes here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HydrateMode {
    /// On first read, and all of it in the background.
    #[default]
    Lazy,
    /// All of it before the mount is usable.
    Eager,
    /// On first read only.
    Metadata,
}

/// A live volume.
#[derive(Debug)]
pub struct Volume {
    pub(super) env: Env,
    dir: PathBuf,
    identity: Identity,
    pub(super) cache: Arc<Cache>,
    posix: Arc<Posix>,
    fetch: Arc<BlockingFetch>,
    pub(super) engine: Arc<Late>,
    pub(super) report: Mutex<Report>,
    pub(super) sizes: Sizes,
    pub(super) stop: watch::Sender<bool>,
    pub(super) tasks: Mutex<Vec<Task<()>>>,
    /// Something happened after a quiet time.
    pub(super) stirred: Arc<Notify>,
    pub(super) scrubs: super::scrub::Scrubs,
    pub(super) kernel: Mutex<Arc<dyn KernelPages>>,
    pub(super) branches: Arc<Branches>,
    /// Of the branches that are stored beside the work of the mount.
    pub(super) side: Arc<Progress>,
    /// Stores the branches of caches that were set aside.
    asides: Mutex<Option<Task<()>>>,
    /// Stores what a resumed mount had not committed that finds the volume taken.
    pub(super) orphan: tokio::sync::Mutex<Option<Brancher>>,
}

/// How a volume runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunOptions {
    /// When data comes here.
    pub hydrate: HydrateMode,
    /// How long a read waits for the store.
    pub fetch: FetchOptions,
    /// Its requests have crashed the driver again and again: what can be refused of changes is refused, the rest goes on.
    pub quarantined: bool,
}

impl Volume {
    /// Opens a volume for writing, making it when it is proven absent. `waiting` is told why, while the store says nothing.
    ///
    /// # Errors
    /// [`FaultKind::Busy`]: held elsewhere; [`FaultKind::Damaged`], [`FaultKind::TooNew`]: named; the cache's own.
    pub async fn open(params: OpenParams, run: RunOptions, waiting: &(dyn Fn(&str) + Sync)) -> Result<Arc<Self>, Fault> {
        let opened = open::open(&params, waiting).await?;
        let (cache, late, sizes) = (Arc::clone(&opened.cache), Arc::new(Late::default()), params.sizes);
        let (env, dir) = (&params.books.env, &params.cache.dir);
        let (strict, waits) = Strict::start(env, &params.policy, &cache, &late).unzip();
        let gate = Limits::of(&cache, &late, sizes, run.quarantined, strict, &params.policy);
        let volume = Self::build(env, &params.identity, dir, cache, late, sizes, gate, run, Flavor::Fresh, Report::default())?;
        volume.tasks.lock().extend(waits);
        volume.start(&params, opened, run);
        if run.hydrate == HydrateMode::Eager {
            volume.hydrate_all().await?;
        }
        Ok(volume)
    }

    #[allow(clippy::too_many_arguments, reason = "one private constructor behind three public ones")]
    pub(super) fn build(
        env: &Env,
        identity: &Identity,
        dir: &Path,
        cache: Arc<Cache>,
        late: Arc<Late>,
        sizes: Sizes,
        gate: Arc<dyn Gate>,
        run: RunOptions,
        flavor: Flavor,
        report: Report,
    ) -> Result<Arc<Self>, Fault> {
        let fetch = Arc::new(BlockingFetch {
            late: Arc::clone(&late),
            cache: Arc::clone(&cache),
            env: env.clone(),
            patience: run.fetch.patience,
            waiter: env.waiter(),
        });
        let posix = Posix::new(Options {
            handles: dir.join("handles"),
            cache: Arc::clone(&cache),
            fetch: Arc::clone(&fetch) as _,
            gate,
            read_only: matches!(flavor, Flavor::Reader | Flavor::ResumedReader),
            resumed: matches!(flavor, Flavor::Resumed | Flavor::ResumedReader),
        })?;
        let volume = Arc::new(Self {
            env: env.clone(),
            identity: identity.clone(),
            dir: dir.to_path_buf(),
            cache,
            posix: Arc::new(posix),
            fetch,
            engine: late,
            report: Mutex::new(report),
            sizes,
            stop: watch::Sender::new(false),
            tasks: Mutex::default(),
            stirred: Arc::default(),
            scrubs: super::scrub::Scrubs::default(),
            kernel: Mutex::new(Arc::new(NoKernel)),
            branches: Arc::default(),
            side: Arc::default(),
            asides: Mutex::default(),
            orphan: tokio::sync::Mutex::default(),
        });
        volume.spawn_upkeep();
        Ok(volume)
    }

    /// Starts what needs the store.
    pub(super) fn start(self: &Arc<Self>, params: &OpenParams, opened: Opened, run: RunOptions) {
        let Opened { objects, cache, writer, tail, last, report, requests, landed } = opened;
        // What is read is not counted as what writing costs.
        let reading = objects.with_store(Arc::clone(&params.books.store));
        let fetcher = Arc::new(Fetcher::new(reading, Arc::clone(&cache), run.fetch));
        let lag = params.policy.lag();
        debug_assert!(Tier::LAG_MIN <= lag);
        let classifier = Classifier::new(params.policy.clone());
        let (budget, dirty_max) = (params.budget, params.sizes.dirty_max);
        let (branches, host) = (Arc::clone(&self.branches), params.host.clone());
        let aside = (params.clone(), objects.with_store(Arc::clone(&params.books.store)));
        let parts = Parts { objects, cache, writer, tail, classifier, landed, lag, budget, requests, dirty_max, branches, host };
        let (writeback, run_loop) = WriteBack::new(parts);
        // The first commit of a mount that was taken over asks its kernel too.
        writeback.mounted(Arc::clone(&self.kernel.lock()));
        if let Some(last) = last {
            writeback.progress().set_last_commit(last);
        }
        *self.report.lock() = report;
        let task = self.env.spawn(run_loop.run());
        self.engine.set(Engine { fetcher, writeback: Some(writeback), run: Mutex::new(Some(task)) });
        let (side, branches) = (Arc::clone(&self.side), Arc::clone(&self.branches));
        let task = self.env.spawn(async move { branch::store_asides(&aside.0, &aside.1, &side, &branches).await });
        *self.asides.lock() = Some(task);
        if run.hydrate == HydrateMode::Lazy {
            let volume = Arc::clone(self);
            let task = self.env.spawn(async move {
                if let Err(fault) = volume.hydrate_all().await {
                    tracing::info!(%fault, "prefetch ended early; reads fetch what they need");
                }
            });
            self.tasks.lock().push(task);
        }
    }

    pub(super) async fn hydrate_all(&self) -> Result<(), Fault> {
        let Some(engine) = self.engine.get().await else { return Ok(()) };
        let left = hydrate::prefetch(&self.cache, &engine.fetcher, self).await?;
        if left > 0 {
            tracing::info!(left, "prefetch stopped: the cache has no room to spare");
        }
        Ok(())
    }

    /// The operations.
    #[must_use]
    pub fn posix(&self) -> &Arc<Posix> {
        &self.posix
    }

    /// The cache.
    #[must_use]
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// Its name.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What opening found.
    #[must_use]
    pub fn report(&self) -> Report {
        self.report.lock().clone()
    }

    /// How write-back goes; `None`: a reader, or the log is not open yet.
    #[must_use]
    pub fn progress(&self) -> Option<State> {
        Some(self.engine.writeback()?.progress().state())
    }

    /// Where its cache lies.
    #[must_use]
    pub fn cache_dir(&self) -> &Path {
        &self.dir
    }

    /// How old a change may become before it is sealed; zero for a reader.
    #[must_use]
    pub fn lag(&self) -> Lag {
        self.engine.writeback().map_or_else(Lag::default, |writeback| writeback.lag())
    }

    /// Tells the times of fetches, seals and commits, as far as there are any.
    pub fn timings(&self, tell: &mut dyn FnMut(&'static Desc, &Histogram)) {
        let Some(engine) = self.engine.engine.get() else { return };
        tell(&names::HYDRATE_FETCH_SECONDS, engine.fetcher.seconds());
        if let Some(writeback) = &engine.writeback {
            tell(&names::WRITEBACK_SEAL_SECONDS, writeback.progress().seals());
            tell(&names::WRITEBACK_COMMIT_SECONDS, writeback.progress().commits());
        }
    }

    /// Branches that are stored from here, or were.
    #[must_use]
    pub fn branches(&self) -> Vec<BranchNews> {
        self.branches.list()
    }

    /// A fence, with what became of what was not committed.
    fn with_branch(&self, fault: Fault) -> Fault {
        let own = self.branches.list().into_iter().find(|news| news.cache == self.dir);
        match own.filter(|_| fault.kind == FaultKind::Fenced) {
            Some(news) => Fault::new(fault.kind, format!("{fault}; what was not committed {}", news.told(self.identity.as_str()))),
            None => fault,
        }
    }

    /// Requests that writing made so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.engine.writeback().map_or(0, |writeback| writeback.requests())
    }

    /// Stored objects that were found damaged or missing since the start, by name.
    #[must_use]
    pub fn damage(&self) -> Vec<String> {
        self.engine.engine.get().map(|engine| engine.fetcher.damage()).unwrap_or_default()
    }

    /// What scrubs found.
    #[must_use]
    pub fn scrubs(&self) -> &super::scrub::Scrubs {
        &self.scrubs
    }

    /// The limits in force.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Brings ranges of a file here. Called on a thread that may wait, never on one of the runtime's own.
    ///
    /// # Errors
    /// The store does not answer in time, or the bytes are damaged.
    pub fn fetch(&self, ino: Ino, ranges: &[ByteRange]) -> Result<(), Fault> {
        self.fetch.fetch(ino, ranges)
    }

    /// From now on pages of this mount are brought in before each seal.
    pub async fn mounted(&self, kernel: Arc<dyn KernelPages>) {
        *self.kernel.lock() = Arc::clone(&kernel);
        if let Some(writeback) = self.writeback().await {
            writeback.mounted(kernel);
        }
    }

    /// From now on a checkpoint is due after so many commits, in the place of 128: a mount that was taken over is waited for.
    pub async fn checkpoint_every(&self, commits: u64) {
        if let Some(writeback) = self.writeback().await {
            writeback.progress().set_checkpoint_every(commits);
        }
    }

    /// From now on this many dirty bytes of the tier `scheduled` wait for its time, in the place of 8 MiB.
    pub async fn waits_from(&self, bytes: u64) {
        if let Some(writeback) = self.writeback().await {
            writeback.progress().set_waits_from(bytes);
        }
    }

    async fn writeback(&self) -> Option<Arc<WriteBack>> {
        self.engine.get().await?.writeback.clone()
    }

    /// Everything written before the call is in a full commit when this returns; that commit.
    ///
    /// # Errors
    /// Write-back has ended, or never began on a mount that was taken over.
    pub async fn flush(&self) -> Result<Option<LastCommit>, Fault> {
        if let Some(writeback) = self.writeback().await {
            writeback.flush().await?;
            return Ok(writeback.progress().state().last_commit);
        }
        let Report { failed, fenced, .. } = self.report();
        match (fenced, failed) {
            (Some(why), _) => Err(self.with_branch(Fault::new(FaultKind::Fenced, why))),
            (None, Some(why)) => Err(Fault::new(FaultKind::Unknown, why)),
            (None, None) => Ok(None),
        }
    }

    /// The clean end, after the unmount: everything is committed, the log is closed, the cache too. Waits for the store.
    ///
    /// # Errors
    /// It could not be committed; the cache stays to be resumed.
    pub async fn close(&self) -> Result<(), Fault> {
        // What it repairs is to be in the last commit.
        self.scrubs.end().await;
        let mut result = if let Some(writeback) = self.writeback().await {
            writeback.drain();
            let task = self.engine.engine.get().and_then(|engine| engine.run.lock().take());
            match task {
                None => Ok(()),
                Some(task) => match task.await {
                    Ok(Ended::Closed) => Ok(()),
                    Ok(Ended::Cancelled) => Err(late::given_up()),
                    Ok(Ended::Failed(fault)) => Err(fault),
                    Err(error) => Err(Fault::with(FaultKind::Local, "write-back did not end", error)),
                },
            }
        } else {
            self.never_opened()
        };
        if let Some(brancher) = self.orphan.lock().await.as_mut() {
            let kernel = Arc::clone(&self.kernel.lock());
            if let Err(fault) = brancher.store(&kernel).await {
                tracing::error!(%fault, "what was not committed stays in this cache");
            }
        }
        let asides = self.asides.lock().take();
        if let Some(asides) = asides {
            let _ = asides.await;
        }
        if let Some(why) = self.report.lock().fenced.clone() {
            result = Err(Fault::new(FaultKind::Fenced, why));
        }
        result = result.map_err(|fault| self.with_branch(fault));
        self.stop.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            task.abort();
            let _ = task.await;
        }
        let cache = Arc::clone(&self.cache);
        self.env.blocking(move || cache.close()).await?;
        result
    }

    /// The end of a volume without write-back: of a reader in order, of a mount that was taken over and whose log never opened not.
    fn never_opened(&self) -> Result<(), Fault> {
        if self.side.is_cancelled() {
            return if self.cache.changed() { Err(late::given_up()) } else { Ok(()) };
        }
        // Whatever is dirty: to close the log is part of a clean end, and somebody else waits for that.
        match self.report.lock().failed.as_deref() {
            Some(why) => Err(late::not_committed(why)),
            None => Ok(()),
        }
    }

    /// Gives up what waits for the store, so that [`Self::close`] ends at once; the cache stays to be resumed.
    pub fn cancel(&self) {
        self.side.cancel();
        self.engine.cancel();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavor {
    Fresh,
    Resumed,
    Reader,
    ResumedReader,
}
