//! A live mount is taken over from a driver that died: its cache serves at once, and the log is opened beside it.

use super::branch;
use super::late::{self, Engine, Late};
use super::limits::{Limits, Sizes};
use super::live::{Flavor, RunOptions, Volume};
use super::open::{self, OpenParams, Opened, Report};
use super::strict::Strict;
use crate::cache::{Cache, CacheOptions};
use crate::env::Env;
use crate::hydrate::Fetcher;
use crate::policy::Policy;
use crate::types::{Fault, FaultKind, Identity};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

impl Volume {
    /// Takes over a live mount: serves from its cache at once, and opens the log beside it, as soon as `params` has reached the store.
    /// `policy`: the one that `params` will have, by which fsyncs are answered from the beginning.
    ///
    /// # Errors
    /// The cache is not there or cannot be read.
    pub async fn resume(
        env: Env,
        identity: &Identity,
        cache: CacheOptions,
        sizes: Sizes,
        run: RunOptions,
        policy: &Policy,
        params: impl Future<Output = Result<OpenParams, Fault>> + Send + 'static,
    ) -> Result<Arc<Self>, Fault> {
        let (world, dir) = (env.clone(), cache.dir.clone());
        let (cache, recovered) = env.blocking(move || Cache::open(world, cache)).await?;
        tracing::info!(?recovered, "taking over a live mount");
        let late = Arc::new(Late::default());
        let (strict, waits) = Strict::start(&env, policy, &cache, &late).unzip();
        let gate = Limits::of(&cache, &late, sizes, run.quarantined, strict);
        let local = Arc::clone(&cache);
        let volume = Self::build(&env, identity, &dir, cache, late, sizes, gate, run, Flavor::Resumed, Report::default())?;
        let later = Arc::clone(&volume);
        let task = env.spawn(async move {
            match late::unless_cancelled(&later.side, params).await {
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

    /// Opens the log of a live mount, as soon as the store answers.
    async fn open_late(&self, params: &OpenParams, cache: Arc<Cache>) -> Result<Opened, Fault> {
        loop {
            match open::open_with(params, Arc::clone(&cache), &|_| {}).await {
                Err(fault) if matches!(fault.kind, FaultKind::Unknown | FaultKind::Denied) => {
                    tracing::warn!(%fault, "the log cannot be opened yet; it is tried again");
                    self.env.sleep(Duration::from_secs(5)).await;
                }
                done => return done,
            }
        }
    }

    /// Nothing is committed from here; when another writer has the volume, what is dirty becomes a branch.
    async fn not_opened(&self, params: Option<&OpenParams>, run: RunOptions, fault: &Fault) {
        tracing::error!(%fault, "the log could not be opened: what is written stays in this cache and is in no commit");
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
