//! One commit, from the seal to its resolution, in the order of [`super::protocol`].

use super::checkpoint::Tail;
use super::delta::{self, Placed};
use super::domain::Classifier;
use super::progress::{LastCommit, Progress};
use super::reuse::Reuse;
use super::upload::{self, Home, Origin, Stored, Uploading};
use super::{Brought, KernelPages, plan};
use crate::cache::{Cache, CacheError, Seal};
use crate::env::{Env, memory};
use crate::format::changes::PackedDelta;
use crate::format::names;
use crate::log::{Framed, LogError, Prepared, Writer};
use crate::rpc;
use crate::store::Objects;
use crate::types::{Domain, Fault, FaultKind, Head, Seq, UnixNanos};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// What one writer works with.
#[derive(Debug)]
pub(super) struct Committer {
    pub(super) objects: Objects,
    pub(super) cache: Arc<Cache>,
    pub(super) kernel: Arc<dyn KernelPages>,
    pub(super) progress: Arc<Progress>,
    pub(super) writer: Writer,
    pub(super) classifier: Classifier,
    pub(super) tail: Tail,
    /// The policy stands in the first commit of each writer.
    pub(super) policy_recorded: bool,
    /// A checkpoint is stored that no record names yet: only a record makes it the newest.
    pub(super) checkpoint_unnamed: bool,
    /// Something was uploaded that no commit names: by the process before this one, or for a seal that was given up.
    pub(super) reuse_due: bool,
    /// The log was closed with this record.
    pub(super) closed: Option<Head>,
    /// Packs of the commit that was under way when the last process ended, and that landed: the parent of the next one names them.
    pub(super) landed: HashSet<String>,
    /// When a request last showed that there was no other writer (monotonic).
    pub(super) looked: Duration,
    /// The commit that last captured the tier `scheduled`, and its cut; `None`: none of this process.
    pub(super) scheduled: Option<(Seq, UnixNanos)>,
}

/// What an attempt to commit did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Done {
    /// Everything that was dirty at its cut (and is not `local`) is in the log.
    pub(super) full: bool,
    /// Everything that was fsynced before the cut is. What a seal leaves behind in a file lies above the size at its last fsync.
    pub(super) synced: bool,
    /// The tier `scheduled` is left for a later one.
    pub(super) waits: bool,
    /// Something was held only until a tag file is read: seal again at once.
    pub(super) again: bool,
    /// Why not all that the kernel holds came in before the cut, if it was asked: then the commit is not full.
    pub(super) missed: Option<String>,
}

impl Committer {
    /// Brings the kernel's pages in (unless told not to), seals, and sees the commit through. Waits for the store as long as it takes.
    /// `leaves_scheduled`: that tier is not due.
    ///
    /// # Errors
    /// [`FaultKind::Fenced`]: another writer has the volume; [`FaultKind::Unknown`]: cancelled; in both cases what was sealed is
    /// dirty again. The cache's faults, damage.
    pub(super) async fn commit(&mut self, with_kernel: bool, leaves_scheduled: bool) -> Result<Done, Fault> {
        let env = self.objects.env().clone();
        let began = env.monotonic();
        let mut brought = Brought::default();
        if with_kernel {
            let kernel = Arc::clone(&self.kernel);
            brought = blocking(&env, move || Ok(kernel.bring_in())).await?;
        }
        let missed = brought.missed;
        self.cache.flush_points(&brought.sizes);
        if !self.cache.changed() && !self.checkpoint_unnamed {
            self.cache.flush_points(&[]);
            return Ok(Done { full: missed.is_none(), synced: true, waits: false, again: false, missed });
        }
        let seal = self.seal(leaves_scheduled).await?;
        let sealed = env.monotonic();
        self.progress.seals().record(sealed.saturating_sub(began));
        env.failpoint("writeback.after_seal");
        let (full, waits) = (self.is_full(&seal), !seal.is_full());
        if seal.is_empty() && !self.checkpoint_unnamed {
            self.abandon(seal).await?;
        } else {
            self.store(seal).await?;
            self.progress.commits().record(env.monotonic().saturating_sub(sealed));
        }
        let (cache, mut classifier) = (Arc::clone(&self.cache), std::mem::replace(&mut self.classifier, Classifier::built_in()));
        let (classifier, again) = blocking(&env, move || {
            let again = classifier.read_tags(&cache);
            Ok((classifier, again))
        })
        .await?;
        self.classifier = classifier;
        // What is `strict` does not wait.
        Ok(Done { full: full && !again && missed.is_none(), synced: !again, waits, again, missed })
    }

    /// With something dirty for `age`, before its time to be sealed has come: asks for a successor when that is due (protocol.md 1.10).
    /// A store that does not answer says nothing.
    ///
    /// # Errors
    /// [`FaultKind::Fenced`]; damage.
    pub(super) async fn look(&mut self, age: Duration) -> Result<(), Fault> {
        let since = self.objects.env().monotonic().saturating_sub(age);
        let looked = look_when_due(&self.objects, &self.progress, &mut self.writer, &mut self.looked, since).await;
        looked.inspect_err(|fault| self.note_fence(fault))
    }

    /// Goes on looking for a successor while nothing else can be done about what is dirty `since` then (monotonic); ends only with the
    /// reason why nothing more is to be stored.
    pub(super) async fn watch(&mut self, since: Duration) -> Fault {
        let fault = watch(&self.objects, &self.progress, &mut self.writer, &mut self.looked, since).await;
        self.note_fence(&fault);
        fault
    }

    fn note_fence(&self, fault: &Fault) {
        if fault.kind == FaultKind::Fenced {
            self.progress.set_fenced(fault);
        }
    }

    async fn seal(&mut self, leaves_scheduled: bool) -> Result<Arc<Seal>, Fault> {
        let waits_from = leaves_scheduled.then(|| self.progress.waits_from());
        // What is frozen is no longer among the changed: its age must not be forgotten while the store does not take it.
        self.progress.set_sealed(self.cache.oldest_dirty());
        let (cache, mut classifier) = (Arc::clone(&self.cache), std::mem::replace(&mut self.classifier, Classifier::built_in()));
        let (classifier, seal) = blocking(self.objects.env(), move || {
            classifier.begin();
            let seal = cache.seal_urgent(waits_from, &mut |view, change| classifier.classify(view, change));
            Ok((classifier, seal))
        })
        .await?;
        self.classifier = classifier;
        Ok(Arc::new(seal?))
    }

    /// Whether everything that was dirty at the cut is in the seal: nothing of another tier is held, nor left behind a gap in a file that
    /// was opened for writing after the kernel had been asked.
    fn is_full(&self, seal: &Seal) -> bool {
        seal.is_full() && !self.cache.left_behind()
    }

    /// Uploads, then commits; on any failure the seal is given up and everything in it is dirty again.
    async fn store(&mut self, seal: Arc<Seal>) -> Result<(), Fault> {
        let result = self.upload_and_put(&seal).await;
        match result {
            Ok((head, stored, commit, deltas)) => {
                if seal.is_full() {
                    self.scheduled = Some((head.seq, commit.cut_time));
                }
                let last = LastCommit { seq: head.seq, cut_time: commit.cut_time, full: commit.full };
                // It is in the log, whatever this cache still has to note down of it.
                self.progress.set_last_commit(last);
                self.resolve(seal, head, stored).await?;
                self.objects.env().failpoint("writeback.after_resolve");
                self.tail.commit(head.seq, &commit.inline_frames, deltas);
                self.progress.committed(last);
                self.checkpoint_unnamed = false;
                self.policy_recorded = true;
                self.reuse_due = false;
                self.landed.clear();
                let large = self.tail.bytes() >= plan::CHECKPOINT_BYTES;
                if plan::checkpoint_due(self.tail.commits(), self.tail.bytes(), self.progress.checkpoint_every()) {
                    match self.checkpoint(head, &commit).await {
                        Err(fault) if matches!(fault.kind, FaultKind::Unknown | FaultKind::Denied) && !self.progress.is_cancelled() => {
                            tracing::warn!(%fault, "no checkpoint yet: the next commit tries again");
                        }
                        done => done?,
                    }
                }
                if large {
                    memory::give_back();
                }
                Ok(())
            }
            Err(fault) => {
                self.note_fence(&fault);
                self.reuse_due = true;
                self.abandon(seal).await?;
                Err(fault)
            }
        }
    }

    async fn upload_and_put(&mut self, seal: &Arc<Seal>) -> Result<(Head, Stored, rpc::Commit, Vec<PackedDelta>), Fault> {
        let home = Home::Log(self.writer.epoch());
        let (reuse, arrived) = (self.reuse().await?, Mutex::default());
        // From stage to stage: each by itself may be shorter than the time between two looks.
        let since = self.progress.state().sealed_since.unwrap_or_else(|| self.objects.env().monotonic());
        let watching = watch(&self.objects, &self.progress, &mut self.writer, &mut self.looked, since);
        let with = Uploading { objects: &self.objects, cache: &self.cache, home, progress: &self.progress, reuse, arrived: &arrived };
        let stored = upload::upload(with, seal, watching).await;
        for object in arrived.into_inner() {
            self.writer.nameable().uploaded(object)?;
        }
        let stored = stored?;
        let seq = self.writer.head().seq + 1;
        let mut commit = self.commit_message(seal, seq);
        commit.inline_frames.clone_from(&stored.inline);
        commit.inline_checksums.clone_from(&stored.inline_checksums);
        if let Some(totals) = &mut commit.totals {
            totals.uploaded = stored.of(Origin::Own).map(|object| object.size).sum();
        }
        let stored = Arc::new(stored);
        let watching = watch(&self.objects, &self.progress, &mut self.writer, &mut self.looked, since);
        let placed = delta::place(&self.objects, &self.progress, home, (seal, &stored), &mut commit, watching).await?;
        let Placed { deltas, packs: delta_packs } = placed;
        let stored = Arc::into_inner(stored).ok_or_else(|| Fault::new(FaultKind::Local, "an upload is still being read"))?;
        self.objects.env().failpoint("writeback.after_pack_before_commit");
        for object in delta_packs {
            self.writer.nameable().uploaded(object)?;
        }
        // Extents are shared only when they are committed (protocol.md 6.8): then the parent names their objects.
        let shared: HashSet<String> = stored.of(Origin::Parent).map(|object| object.name.clone()).collect();
        let landed = std::mem::take(&mut self.landed);
        let parent_names = |name: &str| shared.contains(name) || landed.contains(name);
        let framed = Framed { objects: stored.objects.clone(), records: Vec::new() };
        let approved = self.writer.nameable().approve(commit.clone(), &framed, &parent_names);
        self.landed = landed;
        let approved = approved?;
        let (cache, sealed) = (Arc::clone(&self.cache), Arc::clone(seal));
        blocking(self.objects.env(), move || cache.make_durable(&sealed)).await?;
        self.objects.env().failpoint("writeback.after_durable_before_intent");
        let prepared = self.writer.prepare(approved)?;
        let head = self.put(&prepared).await?;
        Ok((head, stored, commit, deltas))
    }

    /// What need not be uploaded again: what is in packs that may be named (protocol.md 3) and that this cache knows the content of.
    async fn reuse(&mut self) -> Result<Reuse, Fault> {
        if !self.reuse_due {
            return Ok(Reuse::none(&self.cache));
        }
        let unnamed = self.writer.nameable().unnamed().map(|object| object.name.clone());
        let allowed: HashSet<String> = unnamed.chain(self.landed.iter().cloned()).collect();
        let cache = Arc::clone(&self.cache);
        blocking(self.objects.env(), move || Reuse::load(&cache, &allowed)).await
    }

    /// Makes the intent durable, then puts the same bytes until the outcome is known.
    pub(super) async fn put(&mut self, prepared: &Prepared) -> Result<Head, Fault> {
        let intent = prepared.intent().clone();
        let cache = Arc::clone(&self.cache);
        if let Err(fault) = blocking(self.objects.env(), move || cache.set_intent(Some(&intent))).await {
            // Never put: the number is free for the next attempt.
            self.writer.abandon(prepared)?;
            return Err(fault);
        }
        self.objects.env().failpoint("writeback.after_intent_before_put");
        let mut failures = 0;
        loop {
            let what = format!("commits/{}", prepared.seq());
            match self.progress.watched(self.objects.env(), &what, self.writer.put(prepared)).await? {
                Ok(head) => {
                    self.progress.store_answered();
                    self.looked = self.objects.env().monotonic();
                    self.objects.env().failpoint("writeback.after_put_before_resolve");
                    return Ok(head);
                }
                Err(error @ (LogError::Unreachable(_) | LogError::Refused(_))) => {
                    let pause = plan::backoff(failures);
                    failures += 1;
                    self.progress.store_failed(self.objects.env(), &error.into(), pause);
                    self.progress.cancelled_or(self.objects.env().sleep(pause)).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Closes the log, and notes it here.
    ///
    /// # Errors
    /// As of a put; the cache's disk: called again, only the note is made again.
    pub(super) async fn close(&mut self) -> Result<(), Fault> {
        let head = match self.closed {
            Some(head) => head,
            None => {
                let prepared = self.writer.prepare_close()?;
                self.put(&prepared).await?
            }
        };
        self.closed = Some(head);
        let cache = Arc::clone(&self.cache);
        blocking(self.objects.env(), move || {
            cache.set_head(head)?;
            cache.set_intent(None)
        })
        .await
    }

    async fn resolve(&mut self, seal: Arc<Seal>, head: Head, stored: Stored) -> Result<(), Fault> {
        self.progress.set_sealed(None);
        let seal = unshared(seal)?;
        let cache = Arc::clone(&self.cache);
        // The commit is in the log and this cache does not know it: only a successor, which reads both, can tell what is clean.
        blocking(self.objects.env(), move || cache.resolve(seal, head, &stored.objects)).await.map_err(|fault| {
            Fault::with(
                FaultKind::Damaged,
                format!("commit {} is stored and the cache could not take it over; mount again", head.seq),
                fault,
            )
        })
    }

    async fn abandon(&self, seal: Arc<Seal>) -> Result<(), Fault> {
        let seal = unshared(seal)?;
        let cache = Arc::clone(&self.cache);
        let abandoned = blocking(self.objects.env(), move || cache.abandon(seal)).await;
        self.progress.set_sealed(None);
        abandoned
    }

    /// Those that the policy has paths for: a commit captures all of them.
    fn domains(&self) -> impl Iterator<Item = rpc::Domain> {
        let mut domains: Vec<Domain> = self.classifier.policy().rules().map(|(_, _, tier)| tier.domain()).collect();
        // What a commit has held stays captured as `continuous`, and so does the root.
        domains.push(Domain::Continuous);
        domains.sort_unstable();
        domains.dedup();
        domains.into_iter().filter_map(|domain| match domain {
            Domain::Strict => Some(rpc::Domain::Strict),
            Domain::Continuous => Some(rpc::Domain::Continuous),
            Domain::Debounced => Some(rpc::Domain::Debounced),
            Domain::Scheduled => Some(rpc::Domain::Scheduled),
            Domain::Local => None,
        })
    }

    fn commit_message(&self, seal: &Seal, seq: Seq) -> rpc::Commit {
        let (cut, totals) = (seal.cut(), seal.totals());
        let older = self.scheduled.filter(|_| !seal.is_full());
        rpc::Commit {
            cut_time: cut.time,
            full: self.is_full(seal),
            domains: self.domains().map(|domain| instant(domain, seq, cut.time, older)).collect(),
            policy: if self.policy_recorded { String::new() } else { self.classifier.policy().text().to_owned() },
            totals: Some(rpc::Totals { inodes: totals.inodes, bytes: totals.bytes, uploaded: 0 }),
            ..Default::default()
        }
    }

    async fn checkpoint(&mut self, head: Head, commit: &rpc::Commit) -> Result<(), Fault> {
        let point = super::checkpoint::Point {
            seq: head.seq,
            hash: head.hash,
            epoch: head.epoch,
            totals: commit.totals,
            domains: commit.domains.clone(),
            policy: self.classifier.policy().text().to_owned(),
        };
        // What the store said it stored must be there (protocol.md 1.9), before anything is built on it.
        self.progress.cancelled_or(self.writer.verify_newest()).await??;
        let site = self.writer.site().clone();
        let since = self.objects.env().monotonic();
        tokio::select! {
            biased;
            written = self.progress.cancelled_or(self.tail.write(&self.objects, &site, &self.progress, point)) => written??,
            // What was written since the cut is dirty.
            fault = watch(&self.objects, &self.progress, &mut self.writer, &mut self.looked, since) => {
                self.note_fence(&fault);
                return Err(fault);
            }
        }
        self.writer.name_checkpoint(head.seq);
        self.checkpoint_unnamed = true;
        tracing::info!(seq = head.seq, name = names::checkpoint_index(self.objects.incarnation(), head.seq), "checkpoint stored");
        Ok(())
    }
}

/// What a commit says of a domain. `older`: when `scheduled` was last captured, if this commit leaves it.
fn instant(domain: rpc::Domain, seq: Seq, cut_time: UnixNanos, older: Option<(Seq, UnixNanos)>) -> rpc::DomainInstant {
    let (seq, cut_time) = older.filter(|_| domain == rpc::Domain::Scheduled).unwrap_or((seq, cut_time));
    rpc::DomainInstant { domain: domain.into(), seq, cut_time }
}

/// One GET of the next number, when something is dirty and the last request that would have met a successor was made
/// [`plan::LOOK_EVERY`] ago. Measured from that request, not from the last wake-up (docs/protocol-notes.md 14).
async fn look_when_due(
    objects: &Objects,
    progress: &Progress,
    writer: &mut Writer,
    looked: &mut Duration,
    dirty_since: Duration,
) -> Result<(), Fault> {
    let env = objects.env();
    let now = env.monotonic();
    if now.saturating_sub((*looked).max(dirty_since)) < plan::LOOK_EVERY {
        return Ok(());
    }
    progress.not_saved_by_waiting();
    let answered = tokio::select! {
        biased;
        answered = progress.cancelled_or(writer.check_fenced()) => answered?,
        () = env.sleep(plan::LOOK_EVERY / 4) => return Ok(()),
    };
    match answered {
        Ok(()) => *looked = now,
        Err(LogError::Unreachable(_) | LogError::Refused(_)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Goes on looking, as something is dirty since then; ends only with the reason why nothing more is to be stored.
async fn watch(objects: &Objects, progress: &Progress, writer: &mut Writer, looked: &mut Duration, since: Duration) -> Fault {
    loop {
        if let Err(fault) = look_when_due(objects, progress, writer, looked, since).await {
            return fault;
        }
        objects.env().sleep(plan::LOOK_EVERY / 4).await;
    }
}

pub(super) fn unshared(seal: Arc<Seal>) -> Result<Seal, Fault> {
    Arc::try_unwrap(seal).map_err(|_| Fault::new(FaultKind::Local, "a seal is still being read"))
}

/// Runs work that may wait for the disk on a thread where it may.
pub(super) async fn blocking<T: Send + 'static>(
    env: &Env,
    work: impl FnOnce() -> Result<T, CacheError> + Send + 'static,
) -> Result<T, Fault> {
    env.blocking(work).await
}
