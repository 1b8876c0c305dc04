//! A live mount is taken over from a driver that died: its cache serves at once, and the log is opened beside it.

use super::branch;
use super::late::{self, Engine, Late};
use super::limits::{Limits, Sizes};
use super::live::{Flavor, RunOptions, Volume};
use super::open::{self, OpenParams, Opened, Report, Waiting};
use super::strict::Strict;
use crate::cache::{Cache, CacheOptions};
use crate::env::Env;
use crate::hydrate::Fetcher;
use crate::policy::Policy;
use crate::types::{Fault, FaultKind, Identity};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Between two tries, when the store does not answer or refuses, and while its key or a setting cannot be read.
pub(super) const AGAIN: Duration = Duration::from_secs(5);
/// The first pause of these, for what is over in a moment.
const AGAIN_FIRST: Duration = Duration::from_millis(250);
/// Between two tries to open the log, when the answer was another: each try may store a record.
const AGAIN_LATER: Duration = Duration::from_secs(30);

impl Volume {
    /// Takes over a live mount: serves from its cache at once, and opens the log beside it, as soon as `params` has reached the store. It is
    /// asked again for as long as it fails, whatever it says: a running mount would get over the same.
    /// `policy`: the one that `params` will have, by which fsyncs are answered from the beginning.
    ///
    /// # Errors
    /// The cache is not there or cannot be read.
    pub async fn resume<F: Future<Output = Result<OpenParams, Fault>> + Send + 'static>(
        env: Env,
        identity: &Identity,
        cache: CacheOptions,
        sizes: Sizes,
        run: RunOptions,
        policy: &Policy,
        params: impl FnMut() -> F + Send + 'static,
    ) -> Result<Arc<Self>, Fault> {
        let (world, dir) = (env.clone(), cache.dir.clone());
        let (cache, recovered) = env.blocking(move || Cache::open(world, cache)).await?;
        tracing::info!(?recovered, "taking over a live mount");
        let late = Arc::new(Late::default());
        let (strict, waits) = Strict::start(&env, policy, &cache, &late).unzip();
        let gate = Limits::of(&cache, &late, sizes, run.quarantined, strict, policy);
        let local = Arc::clone(&cache);
        let volume = Self::build(&env, identity, &dir, cache, late, sizes, gate, run, Flavor::Resumed, Report::default())?;
        let later = Arc::clone(&volume);
        let task = env.spawn(async move {
            match late::unless_cancelled(&later.side, later.params_late(params)).await {
                Ok(params) => match late::unless_cancelled(&later.side, later.open_late(&params, local)).await {
                    Ok(opened) => later.start(&params, opened, run),
                    Err(fault) => later.not_opened(Some(&params), run, &fault).await,
                },
                Err(fault) => later.not_opened(None, run, &fault).await,
            }
        });
        volume.tasks.lock().extend(waits.into_iter().chain([task]));
        Ok(volume)
    }

    /// What the log is opened with. What is wrong (a key's file that is away, a policy with a mistake) may be mended while the mount lives.
    async fn params_late<F>(&self, mut params: impl FnMut() -> F) -> Result<OpenParams, Fault>
    where
        F: Future<Output = Result<OpenParams, Fault>>,
    {
        let mut pause = AGAIN_FIRST;
        loop {
            match params().await {
                // The next version of the program is the only help.
                Err(fault) if fault.kind != FaultKind::TooNew => {
                    self.waits("the log is not open", &fault);
                    self.env.sleep(pause).await;
                    pause = (pause * 2).min(AGAIN);
                }
                done => return done,
            }
        }
    }

    /// Opens the log of a live mount, as soon as the store answers.
    async fn open_late(&self, params: &OpenParams, cache: Arc<Cache>) -> Result<Opened, Fault> {
        loop {
            match open::open_with(params, Arc::clone(&cache), &|_| {}).await {
                // Proven: the volume is another writer's, gone, or not for this version.
                Err(fault) if matches!(fault.kind, FaultKind::Fenced | FaultKind::NotFound | FaultKind::TooNew) => return Err(fault),
                Err(fault) => {
                    self.waits("the log is not open", &fault);
                    self.env.sleep(if of_the_store(&fault) { AGAIN } else { AGAIN_LATER }).await;
                }
                done => return done,
            }
        }
    }

    /// Notes why a mount that was taken over is not whole yet, for whoever asks how it stands.
    pub(super) fn waits(&self, what: &str, fault: &Fault) {
        let why = format!("{what} since the mount's driver was restarted, and it is tried again: {fault}");
        tracing::warn!(why, "waiting");
        let mut report = self.report.lock();
        let since = report.waiting.as_ref().map_or_else(|| self.env.monotonic(), |waiting| waiting.since);
        report.waiting = Some(Waiting { why, store: of_the_store(fault), since });
    }

    /// Nothing is committed from here; when another writer has the volume, what is dirty becomes a branch.
    async fn not_opened(&self, params: Option<&OpenParams>, run: RunOptions, fault: &Fault) {
        tracing::error!(%fault, "the log could not be opened: what is written stays in this cache and is in no commit");
        self.report.lock().waiting = None;
        let Some(params) = params.filter(|_| fault.kind == FaultKind::Fenced) else {
            self.report.lock().failed = Some(fault.to_string());
            self.engine.fail();
            return;
        };
        self.report.lock().fenced = Some(fault.to_string());
        let mut orphan = self.orphan.lock().await;
        // Who closes the volume waits for this lock from here on.
        self.engine.fail();
        match late::unless_cancelled(&self.side, branch::objects_of(params, self.cache.origin().incarnation)).await {
            Ok(objects) => {
                let fetcher = Arc::new(Fetcher::new(objects.clone(), Arc::clone(&self.cache), run.fetch));
                self.engine.set(Engine { fetcher, writeback: None, run: Mutex::default() });
                let brancher = branch::brancher(params, objects, Arc::clone(&self.cache), &self.side, &self.branches);
                let kernel = Arc::clone(&self.kernel.lock());
                if let Err(fault) = orphan.insert(brancher).store(&kernel).await {
                    tracing::error!(%fault, "what was not committed stays in this cache");
                }
            }
            Err(fault) => tracing::error!(%fault, "what was not committed stays in this cache"),
        }
    }
}

/// Whether it is what the store said, or that it said nothing.
fn of_the_store(fault: &Fault) -> bool {
    matches!(fault.kind, FaultKind::Unknown | FaultKind::Denied)
}
