//! One commit, from the seal to its resolution, in the order of [`super::protocol`].

use super::checkpoint::Tail;
use super::domain::Classifier;
use super::progress::{LastCommit, Progress};
use super::upload::{self, Stored};
use super::{KernelPages, plan};
use crate::cache::{Cache, CacheError, Resolved, Seal};
use crate::format::pack::Builder;
use crate::format::{delta, names};
use crate::log::{LogError, Prepared, Writer};
use crate::rpc;
use crate::store::Objects;
use crate::types::{Fault, FaultKind, Head, Seq};
use prost::Message;
use std::collections::HashSet;
use std::sync::Arc;

/// A delta of at most so many plain bytes stands in the commit itself, whose object may have 4 MiB.
const DELTA_INLINE_MAX: usize = 2 << 20;
/// Plain bytes of one frame of a larger delta.
const DELTA_FRAME: usize = 2 << 20;
/// Rows asked for at once from a seal.
const ROWS: usize = 4096;

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
}

/// What an attempt to commit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Done {
    /// Everything that was dirty at its cut (and is not `local`) is in the log.
    pub(super) full: bool,
    /// Something was held only until a tag file is read: seal again at once.
    pub(super) again: bool,
}

impl Committer {
    /// Brings the kernel's pages in (unless told not to), seals, and sees the commit through. Waits for the store as long as it takes.
    ///
    /// # Errors
    /// [`FaultKind::Fenced`]: another writer has the volume; [`FaultKind::Unknown`]: cancelled; in both cases what was sealed is
    /// dirty again. The cache's faults, damage.
    pub(super) async fn commit(&mut self, with_kernel: bool) -> Result<Done, Fault> {
        if with_kernel {
            let kernel = Arc::clone(&self.kernel);
            let points = blocking(move || Ok(kernel.bring_in())).await?;
            self.cache.flush_points(&points);
        }
        if !self.cache.changed() && !self.checkpoint_unnamed {
            return Ok(Done { full: true, again: false });
        }
        let seal = self.seal().await?;
        self.objects.env().failpoint("writeback.after_seal");
        let full = seal.is_full();
        if seal.is_empty() && !self.checkpoint_unnamed {
            self.abandon(seal).await?;
        } else {
            self.store(seal).await?;
        }
        let (cache, mut classifier) = (Arc::clone(&self.cache), std::mem::replace(&mut self.classifier, Classifier::built_in()));
        let (classifier, again) = blocking(move || {
            let again = classifier.read_tags(&cache);
            Ok((classifier, again))
        })
        .await?;
        self.classifier = classifier;
        Ok(Done { full: full && !again, again })
    }

    async fn seal(&mut self) -> Result<Arc<Seal>, Fault> {
        // What is frozen is no longer among the changed: its age must not be forgotten while the store does not take it.
        self.progress.set_sealed(self.cache.oldest_dirty());
        let (cache, mut classifier) = (Arc::clone(&self.cache), std::mem::replace(&mut self.classifier, Classifier::built_in()));
        let (classifier, seal) = blocking(move || {
            classifier.begin();
            let seal = cache.seal(&mut |view, change| classifier.classify(view, change));
            Ok((classifier, seal))
        })
        .await?;
        self.classifier = classifier;
        Ok(Arc::new(seal?))
    }

    /// Uploads, then commits; on any failure the seal is given up and everything in it is dirty again.
    async fn store(&mut self, seal: Arc<Seal>) -> Result<(), Fault> {
        let result = self.upload_and_put(&seal).await;
        match result {
            Ok((head, stored, commit, deltas)) => {
                let last = LastCommit { seq: head.seq, cut_time: commit.cut_time, full: commit.full };
                self.resolve(seal, head, stored).await?;
                self.objects.env().failpoint("writeback.after_resolve");
                self.tail.commit(head.seq, &commit, &deltas);
                self.progress.committed(last);
                self.checkpoint_unnamed = false;
                self.policy_recorded = true;
                if plan::checkpoint_due(self.tail.commits(), self.tail.bytes()) {
                    match self.checkpoint(head, &commit).await {
                        Err(fault) if matches!(fault.kind, FaultKind::Unknown | FaultKind::Denied) && !self.progress.is_cancelled() => {
                            tracing::warn!(%fault, "no checkpoint yet: the next commit tries again");
                        }
                        done => done?,
                    }
                }
                Ok(())
            }
            Err(fault) => {
                if fault.kind == FaultKind::Fenced {
                    self.progress.set_fenced(&fault);
                }
                self.abandon(seal).await?;
                Err(fault)
            }
        }
    }

    async fn upload_and_put(&mut self, seal: &Arc<Seal>) -> Result<(Head, Stored, rpc::Commit, Vec<rpc::Delta>), Fault> {
        let epoch = self.writer.epoch();
        let stored = upload::upload(&self.objects, &self.cache, seal, epoch, &self.progress).await?;
        let seq = self.writer.head().seq + 1;
        let mut commit = self.commit_message(seal, seq);
        commit.inline_frames.clone_from(&stored.inline);
        commit.inline_checksums.clone_from(&stored.inline_checksums);
        let (deltas, delta_packs) = self.place_delta(seal, &stored, &mut commit).await?;
        self.objects.env().failpoint("writeback.after_pack_before_commit");
        let own = stored.objects.iter().take(stored.uploaded).chain(&delta_packs);
        for object in own {
            self.writer.nameable().uploaded(object.clone())?;
        }
        // Extents are shared only when they are committed (protocol.md 6.8): then the parent names their objects.
        let shared: HashSet<String> = stored.objects.iter().skip(stored.uploaded).map(|object| object.name.clone()).collect();
        let framed = if commit.delta.is_none() { deltas.as_slice() } else { &[] };
        let approved = self.writer.nameable().approve(commit.clone(), framed, &|name| shared.contains(name))?;
        let (cache, sealed) = (Arc::clone(&self.cache), Arc::clone(seal));
        blocking(move || cache.make_durable(&sealed)).await?;
        self.objects.env().failpoint("writeback.after_durable_before_intent");
        let prepared = self.writer.prepare(approved)?;
        let head = self.put(&prepared).await?;
        Ok((head, stored, commit, deltas))
    }

    /// Makes the intent durable, then puts the same bytes until the outcome is known.
    pub(super) async fn put(&mut self, prepared: &Prepared) -> Result<Head, Fault> {
        let intent = prepared.intent().clone();
        let cache = Arc::clone(&self.cache);
        if let Err(fault) = blocking(move || cache.set_intent(Some(&intent))).await {
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

    async fn resolve(&mut self, seal: Arc<Seal>, head: Head, stored: Stored) -> Result<(), Fault> {
        self.progress.set_sealed(None);
        let seal = unshared(seal)?;
        let cache = Arc::clone(&self.cache);
        let resolved = Resolved { objects: stored.objects, files: stored.files };
        // The commit is in the log and this cache does not know it: only a successor, which reads both, can tell what is clean.
        blocking(move || cache.resolve(seal, head, resolved)).await.map_err(|fault| {
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
        let abandoned = blocking(move || cache.abandon(seal)).await;
        self.progress.set_sealed(None);
        abandoned
    }

    fn commit_message(&self, seal: &Seal, seq: Seq) -> rpc::Commit {
        let (cut, totals) = (seal.cut(), seal.totals());
        rpc::Commit {
            cut_time: cut.time,
            full: seal.is_full(),
            domains: vec![rpc::DomainInstant { domain: rpc::Domain::Continuous.into(), seq, cut_time: cut.time }],
            policy: if self.policy_recorded { String::new() } else { self.classifier.policy().text().to_owned() },
            totals: Some(rpc::Totals { inodes: totals.inodes, bytes: totals.bytes, uploaded: 0 }),
            ..Default::default()
        }
    }

    /// Puts the delta into the commit, or into packs of its own when it is large.
    async fn place_delta(
        &self,
        seal: &Arc<Seal>,
        stored: &Stored,
        commit: &mut rpc::Commit,
    ) -> Result<(Vec<rpc::Delta>, Vec<rpc::ObjectRef>), Fault> {
        let rows = Arc::clone(seal);
        let mut delta = blocking(move || delta_rows(&rows)).await?;
        delta.objects.clone_from(&stored.objects);
        delta.extents = stored.files.iter().filter(|file| !file.cleared.is_empty() || !file.extents.is_empty()).cloned().collect();
        if let Some(totals) = &mut commit.totals {
            totals.uploaded = stored.objects.iter().take(stored.uploaded).map(|object| object.size).sum();
        }
        if delta.encoded_len() <= DELTA_INLINE_MAX {
            commit.delta = Some(delta.clone());
            return Ok((vec![delta], Vec::new()));
        }
        let deltas = delta::split(delta, DELTA_FRAME);
        let (mut packs, mut builder) = (Vec::new(), Builder::default());
        for (at, part) in deltas.iter().enumerate() {
            builder.push(&part.encode_to_vec())?;
            if builder.size() as u64 >= plan::PACK_BYTES_TARGET || at + 1 == deltas.len() {
                let epoch = self.writer.epoch();
                let name = self.objects.new_pack_name(epoch);
                let pack = std::mem::take(&mut builder).finish(&name, epoch, self.objects.salt(), self.objects.sealer())?;
                upload::put_pack(&self.objects, &self.progress, &pack).await?;
                commit.delta_frames.extend((0u32..).zip(&pack.frames).filter_map(|(frame, _)| pack.frame_ref(frame)));
                packs.push(pack.object);
            }
        }
        Ok((deltas, packs))
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
        self.writer.verify_newest().await?;
        let site = self.writer.site().clone();
        self.tail.write(&self.objects, &site, &self.progress, point).await?;
        self.writer.name_checkpoint(head.seq);
        self.checkpoint_unnamed = true;
        tracing::info!(seq = head.seq, name = names::checkpoint_index(self.objects.incarnation(), head.seq), "checkpoint stored");
        Ok(())
    }
}

/// The metadata of a seal as a delta without extents.
fn delta_rows(seal: &Seal) -> Result<rpc::Delta, CacheError> {
    let mut delta = rpc::Delta { next_inode: seal.next_inode(), next_cookie: seal.next_cookie(), ..Default::default() };
    collect(|cursor| seal.removed_names(cursor, ROWS), &mut delta.removed_names)?;
    collect(|cursor| seal.removed_inodes(cursor, ROWS), &mut delta.removed_inodes)?;
    collect(|cursor| seal.inodes(cursor, ROWS), &mut delta.inodes)?;
    collect(|cursor| seal.names(cursor, ROWS), &mut delta.names)?;

    Ok(delta)
}

fn collect<T>(mut next: impl FnMut(&mut u64) -> Result<Vec<T>, CacheError>, into: &mut Vec<T>) -> Result<(), CacheError> {
    let mut cursor = 0;
    loop {
        let rows = next(&mut cursor)?;
        if rows.is_empty() {
            return Ok(());
        }
        into.extend(rows);
    }
}

fn unshared(seal: Arc<Seal>) -> Result<Seal, Fault> {
    Arc::try_unwrap(seal).map_err(|_| Fault::new(FaultKind::Local, "a seal is still being read"))
}

/// Runs work that may wait for the disk on a thread where it may.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, CacheError> + Send + 'static) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Fault::from),
        Err(error) => Err(Fault::with(FaultKind::Local, "a thread did not end", error)),
    }
}
