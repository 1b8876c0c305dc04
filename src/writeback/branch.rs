//! What a fenced writer had not committed, stored beside the log as a branch. The steps, in the order that keeps it safe; nothing of the
//! cache is freed by any of them, and each may be repeated by whoever opens the cache next:
//!
//! | step | a death right after it |
//! |---|---|
//! | 1 the record that the cache stands on is claimed in the control chain | `writeback.branch_after_claim`: a claim without a branch yet; the next attempt uses it |
//! | 2 all that is dirty is sealed at one instant, its packs are stored under `branches/<epoch>/` | `writeback.branch_after_packs`: the next attempt finds them again by content |
//! | 3 the cut is durable here, then the head is stored, which names the packs | `writeback.branch_after_head`: the next attempt finds the same head, and stores nothing |
//! | 4 the chain is read once more: the claim is in force | the branch is safe: only now may the cache be deleted |
//!
//! The claim comes first, so that retention cannot take the base while the rest is uploaded (docs/protocol-notes.md 26). Credentials that
//! may not write the control chain store the branch without it: then it is not safe, and its cache is kept.

use super::commit::{blocking, unshared};
use super::delta::{self, Placed};
use super::domain::Classifier;
use super::progress::Progress;
use super::reuse::Reuse;
use super::upload::{self, Home, Origin, Uploading, put_until_stored};
use super::{KernelPages, plan};
use crate::cache::{Cache, Seal};
use crate::env::Env;
use crate::format::{branch as format, names};
use crate::log::branch::{self, Claimed};
use crate::log::control::{Chain, Refused};
use crate::log::{LogError, Reader, Site};
use crate::rpc;
use crate::store::{self, Objects, StoreError};
use crate::types::{Epoch, Fault, FaultKind, Head};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

/// How far a branch is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BranchPhase {
    /// On its way into the store.
    Storing,
    /// Stored and claimed: the cache is not needed for it any more.
    Safe,
    /// Stored, but these credentials may not claim what it stands on: the cache is kept.
    Unclaimed(String),
    /// A person has dropped it.
    Dropped,
    /// It cannot be stored: what it would hold is in the cache alone.
    Stuck(String),
}

/// A branch of this node, for status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchNews {
    /// Its number: the epoch of the fenced writer.
    pub epoch: Epoch,
    /// How far it is.
    pub phase: BranchPhase,
    /// The cache that it is of.
    pub cache: PathBuf,
}

impl BranchNews {
    /// What became of what `volume` had not committed here, as the end of a sentence.
    #[must_use]
    pub fn told(&self, volume: &str) -> String {
        let Self { epoch, cache, .. } = self;
        match &self.phase {
            BranchPhase::Storing => format!("is being stored as branch {epoch}"),
            BranchPhase::Safe => format!("is branch {epoch}: `holdfast branch show {volume} {epoch}`"),
            BranchPhase::Unclaimed(why) => {
                format!("is branch {epoch}, but keep the cache {}: what the branch stands on could not be claimed: {why}", cache.display())
            }
            BranchPhase::Dropped => format!("was branch {epoch}, which a person has dropped"),
            BranchPhase::Stuck(why) => format!("is in the cache {} alone: {why}", cache.display()),
        }
    }
}

/// The branches that this process stores or has stored.
#[derive(Debug, Default)]
pub struct Branches(Mutex<BTreeMap<Epoch, BranchNews>>);

impl Branches {
    /// What is known now, by number.
    #[must_use]
    pub fn list(&self) -> Vec<BranchNews> {
        self.0.lock().values().cloned().collect()
    }

    fn set(&self, epoch: Epoch, cache: &Cache, phase: BranchPhase) {
        let volume = cache.origin().identity;
        match &phase {
            BranchPhase::Storing => {
                tracing::warn!(branch = epoch, %volume, "what this cache had not committed is being stored as a branch");
            }
            BranchPhase::Safe => {
                tracing::warn!(branch = epoch, %volume, "branch stored: `holdfast branch show {volume} {epoch}` tells what is in it");
            }
            BranchPhase::Unclaimed(why) => {
                tracing::error!(branch = epoch, %volume, %why, "the branch is stored, but what it stands on could not be claimed: keep this cache");
            }
            BranchPhase::Dropped => {
                tracing::warn!(branch = epoch, %volume, "a person has dropped the branch of this cache: nothing is stored");
            }
            BranchPhase::Stuck(why) => {
                tracing::error!(branch = epoch, %volume, %why, "the branch cannot be stored: what was not committed is in this cache alone");
            }
        }
        let cache = cache.dir().to_path_buf();
        self.0.lock().insert(epoch, BranchNews { epoch, phase, cache });
    }
}

/// What became of a cache's branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Nothing was dirty: there is nothing to keep.
    Nothing,
    /// The store has all of it, and holds it.
    Safe,
    /// The store has all of it; the cache must be kept.
    Unclaimed,
    /// A person dropped it: nobody wants it.
    Dropped,
}

impl Kept {
    /// Whether the cache may be deleted.
    #[must_use]
    pub fn cache_may_go(self) -> bool {
        matches!(self, Self::Nothing | Self::Safe | Self::Dropped)
    }
}

/// Stores the branch of one cache.
#[derive(Debug)]
pub struct Brancher {
    objects: Objects,
    cache: Arc<Cache>,
    classifier: Classifier,
    progress: Arc<Progress>,
    branches: Arc<Branches>,
    host: String,
}

impl Brancher {
    /// For this cache, of a writer of `host`. How it goes is told by `branches`; `progress` gives it up.
    #[must_use]
    pub fn new(
        objects: Objects,
        cache: Arc<Cache>,
        classifier: Classifier,
        progress: Arc<Progress>,
        branches: Arc<Branches>,
        host: String,
    ) -> Self {
        Self { objects, cache, classifier, progress, branches, host }
    }

    /// Its cache.
    #[must_use]
    pub fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    /// Stores all that is dirty, with what the kernel holds. Waits for the store as long as it takes. A branch that has it all already
    /// is left as it is.
    ///
    /// # Errors
    /// [`FaultKind::Unknown`]: given up; else the base is gone, or something is damaged: the cache is the only place.
    pub async fn store(&mut self, kernel: &Arc<dyn KernelPages>) -> Result<Kept, Fault> {
        let mut failures = 0;
        loop {
            match self.attempt(kernel).await {
                Err(fault) if self.progress.is_cancelled() => return Err(fault),
                Err(fault) if matches!(fault.kind, FaultKind::Local | FaultKind::Unknown | FaultKind::Denied | FaultKind::Full) => {
                    let pause = plan::backoff(failures);
                    failures += 1;
                    self.progress.store_failed(self.env(), &fault, pause);
                    self.progress.cancelled_or(self.env().sleep(pause)).await?;
                }
                Err(fault) => {
                    let epoch = self.cache.head().map_or(0, |head| head.epoch);
                    self.branches.set(epoch, &self.cache, BranchPhase::Stuck(fault.to_string()));
                    return Err(fault);
                }
                done => return done,
            }
        }
    }

    fn env(&self) -> &Env {
        self.objects.env()
    }

    async fn attempt(&mut self, kernel: &Arc<dyn KernelPages>) -> Result<Kept, Fault> {
        let Some(head) = self.cache.head() else { return Ok(Kept::Nothing) };
        let pages = Arc::clone(kernel);
        let brought = blocking(self.env(), move || Ok(pages.bring_in())).await?;
        self.cache.flush_points(&brought.sizes);
        if !self.cache.changed() {
            return Ok(Kept::Nothing);
        }
        let seal = self.seal().await?;
        if seal.is_empty() {
            self.abandon(seal).await?;
            return Ok(Kept::Nothing);
        }
        if !self.branches.list().iter().any(|news| news.epoch == head.epoch && news.phase == BranchPhase::Storing) {
            self.branches.set(head.epoch, &self.cache, BranchPhase::Storing);
        }
        let kept = self.keep(&seal, head).await;
        self.abandon(seal).await?;
        let (kept, phase) = match kept? {
            (Claimed::By(_), _) => (Kept::Safe, BranchPhase::Safe),
            (Claimed::Dropped, _) => (Kept::Dropped, BranchPhase::Dropped),
            (Claimed::Never, why) => (Kept::Unclaimed, BranchPhase::Unclaimed(why)),
        };
        self.branches.set(head.epoch, &self.cache, phase);
        Ok(kept)
    }

    /// Steps 1 to 4; what the chain says in the end, and why it could not be written.
    async fn keep(&mut self, seal: &Arc<Seal>, head: Head) -> Result<(Claimed, String), Fault> {
        let site = Site::of(self.objects.clone());
        let intent = self.cache.intent()?;
        let reader = Reader::new(site.clone());
        let base = self.watched("the base of a branch", branch::base(&reader, head, intent.as_ref())).await??;
        let claimed = self.claim(&site, head.epoch, base).await?;
        if claimed.0 == Claimed::Dropped {
            return Ok(claimed);
        }
        self.env().failpoint("writeback.branch_after_claim");
        let state = self.upload(seal, head.epoch).await?;
        self.env().failpoint("writeback.branch_after_packs");
        let (cache, sealed) = (Arc::clone(&self.cache), Arc::clone(seal));
        blocking(self.env(), move || cache.make_durable(&sealed)).await?;
        let made = rpc::Branch {
            epoch: head.epoch,
            base_seq: base.seq,
            base_hash: base.hash.as_bytes().to_vec().into(),
            state: Some(state),
            host: self.host.clone(),
        };
        self.put_head(&site, &made).await?;
        self.env().failpoint("writeback.branch_after_head");
        self.claim(&site, head.epoch, base).await
    }

    async fn watched<F: Future>(&self, what: &str, request: F) -> Result<F::Output, Fault> {
        let done = self.progress.watched(self.env(), what, request).await?;
        self.progress.store_answered();
        Ok(done)
    }

    /// Claims the base, or finds it claimed. Credentials that may not are no failure.
    async fn claim(&self, site: &Site, epoch: Epoch, base: Head) -> Result<(Claimed, String), Fault> {
        let asked = async {
            let mut chain = Chain::read(site.clone()).await?;
            if branch::claimed(chain.state(), epoch) != Claimed::Never {
                return Ok(branch::claimed(chain.state(), epoch));
            }
            let now = store::now(&**self.objects.store(), self.env()).await.map_err(LogError::Refused)?;
            branch::claim(&mut chain, &format!("driver on {}", self.host), now, epoch, base.seq).await
        };
        match self.watched("the claim of a branch", asked).await? {
            Ok(claimed) => Ok((claimed, String::new())),
            Err(LogError::Refused(refused @ StoreError::Denied { .. })) => Ok((Claimed::Never, refused.to_string())),
            Err(LogError::Control(refused @ Refused::Retired(_))) => {
                Err(Fault::new(FaultKind::Stale, format!("the record on which it stands was retired: {refused}")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What is sealed, in packs of the branch.
    async fn upload(&self, seal: &Arc<Seal>, epoch: Epoch) -> Result<rpc::Commit, Fault> {
        let (home, arrived) = (Home::Branch(epoch), Mutex::default());
        let reuse = self.reuse(epoch).await?;
        let with = Uploading { objects: &self.objects, cache: &self.cache, home, progress: &self.progress, reuse, arrived: &arrived };
        let stored = Arc::new(upload::upload(with, seal, std::future::pending()).await?);
        let (cut, totals) = (seal.cut(), seal.totals());
        let uploaded = stored.of(Origin::Own).map(|object| object.size).sum();
        let mut state = rpc::Commit {
            cut_time: cut.time,
            full: seal.is_full(),
            totals: Some(rpc::Totals { inodes: totals.inodes, bytes: totals.bytes, uploaded }),
            ..rpc::Commit::default()
        };
        let Placed { .. } = delta::place(&self.objects, &self.progress, home, (seal, &stored), &mut state, std::future::pending()).await?;
        // The producer has ended: nobody else holds it.
        drop(stored);
        Ok(state)
    }

    /// Packs of an earlier attempt that the store has.
    async fn reuse(&self, epoch: Epoch) -> Result<Reuse, Fault> {
        let life = self.objects.incarnation();
        let (mut allowed, mut asked) = (HashSet::new(), HashSet::new());
        for upload in self.cache.uploads()? {
            let Some((_, name)) = names::absolute(life, &upload.object.name) else { continue };
            let ours = names::parse_branch_pack(&name).is_some_and(|(of, its, _)| (of, its) == (life, epoch));
            if !ours || !asked.insert(name.clone()) {
                continue;
            }
            let there = self.watched(&name, self.objects.store().head(&name)).await??;
            if there.is_some_and(|meta| meta.size == upload.object.size) {
                allowed.insert(upload.object.name);
            }
        }
        let cache = Arc::clone(&self.cache);
        blocking(self.env(), move || Reuse::load(&cache, &allowed)).await
    }

    /// The next head, unless the newest one says the same.
    async fn put_head(&self, site: &Site, made: &rpc::Branch) -> Result<(), Fault> {
        let newest = self.watched("the head of a branch", branch::newest(site, made.epoch)).await??;
        let number = match &newest {
            Some((_, there)) if same(there, made) => return Ok(()),
            Some((number, _)) => number + 1,
            None => 1,
        };
        let name = names::branch_head(self.objects.incarnation(), made.epoch, number);
        let (bytes, hash) = format::encode(made, self.objects.sealer(), &name, self.objects.salt())?;
        put_until_stored(&self.objects, &self.progress, &name, &bytes, hash).await
    }

    /// All that is dirty and not `local`, tag files read.
    async fn seal(&mut self) -> Result<Arc<Seal>, Fault> {
        loop {
            let (cache, mut classifier) = (Arc::clone(&self.cache), std::mem::replace(&mut self.classifier, Classifier::built_in()));
            let (classifier, sealed) = blocking(self.env(), move || {
                classifier.begin();
                let seal = cache.seal(&mut |view, change| classifier.classify(view, change));
                let again = classifier.read_tags(&cache);
                Ok((classifier, seal.map(|seal| (seal, again))))
            })
            .await?;
            self.classifier = classifier;
            let (seal, again) = sealed?;
            if !again {
                return Ok(Arc::new(seal));
            }
            self.abandon(Arc::new(seal)).await?;
        }
    }

    async fn abandon(&self, seal: Arc<Seal>) -> Result<(), Fault> {
        let (cache, seal) = (Arc::clone(&self.cache), unshared(seal)?);
        blocking(self.env(), move || cache.abandon(seal)).await
    }
}

/// Whether two heads show the same tree, whenever they were cut.
fn same(a: &rpc::Branch, b: &rpc::Branch) -> bool {
    let undated = |branch: &rpc::Branch| {
        let mut branch = branch.clone();
        if let Some(state) = &mut branch.state {
            state.cut_time = 0;
            state.totals = None;
        }
        branch
    };
    undated(a) == undated(b)
}
