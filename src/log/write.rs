//! Appending to the log: open, prepare, put, close, fence.
//!
//! ```text
//! open     read to the end -> nothing behind it? -> put `open`, epoch + 1 -> read it back -> no marker on its block? -> the volume is ours
//! commit   approve (nameable) -> prepare -> caller makes the intent durable -> put the same bytes until the outcome is known -> resolved
//! ```
//! A number is put with one content only. Until its outcome is known nothing else is prepared, whoever asks; [`Writer::abandon`] takes back
//! only what was never put.

use super::nameable::{Approved, Nameable};
use super::read::objects_named;
use super::{At, Created, Hint, LogError, Phase, Reader, Record, Site, Tip, block};
use crate::format::{names, record};
use crate::rpc::log_record::Kind;
use crate::rpc::{Close, Fence, Holder, LogRecord, ObjectRef, Open};
use crate::types::{CacheId, Epoch, Hash, Head, Intent, Nonce, Seq, WriterId};
use bytes::Bytes;
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeSet;

/// So many numbers behind its own an opener looks at: one round of requests, and none of it in a log that is whole.
const LOOK_BEHIND: Seq = 4;

/// A record ready to be put under the next number.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    intent: Intent,
    // What a commit names.
    named: Option<Vec<String>>,
}

impl Prepared {
    /// What must be durable here before [`Writer::put`].
    #[must_use]
    pub fn intent(&self) -> &Intent {
        &self.intent
    }

    /// Its number.
    #[must_use]
    pub fn seq(&self) -> Seq {
        self.intent.seq
    }
}

/// What a surviving cache knows.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheState {
    /// The newest record it has resolved.
    pub head: Head,
    /// The number that it was about to put, outcome unknown.
    pub intent: Option<Intent>,
    /// Packs that it uploaded or adopted, named by no commit as far as it knows; some puts may not have landed.
    pub unnamed: Vec<ObjectRef>,
}

/// Who opens, and with what.
#[derive(Debug, Clone, PartialEq)]
pub struct WriterParams {
    /// New for each process.
    pub writer: WriterId,
    /// Stands in the `open`; its cache id says which cache goes on.
    pub holder: Holder,
    /// The surviving cache; `None`: an empty one.
    pub cache: Option<CacheState>,
    /// Where the log was last seen.
    pub hint: Hint,
}

/// What became of the number that an earlier process was about to put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the log: its frozen set is committed.
    Landed,
    /// It never will be: another record has its number.
    Never,
}

/// What opening found.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenReport {
    /// The end of the log before our `open`: what a fresh cache hydrates from.
    pub before: Tip,
    /// What became of the cache's intent.
    pub intent: Option<Outcome>,
    /// What our `open` adopted.
    pub adopted: Vec<ObjectRef>,
    /// Those of the cache's unnamed packs that its landed intent names: the parent of the next commit names them.
    pub landed: Vec<ObjectRef>,
    /// `open` records between the cache's head and ours: the next checkpoint lists them too.
    pub opens: Vec<Seq>,
}

/// The writer of one epoch.
#[derive(Debug)]
pub struct Writer {
    reader: Reader,
    id: WriterId,
    head: Head,
    opened: Seq,
    checkpoint: Seq,
    last_commit: Seq,
    nameable: Nameable,
    // The number that is prepared, and whether it was ever put.
    pending: Option<(Seq, bool)>,
    closed: bool,
}

impl Writer {
    /// Opens the log for writing: appends `open` with the next epoch after having read everything before it, reads it back, and makes sure
    /// that its number was not one that retention had freed. From then on every older writer's next number is taken.
    ///
    /// # Errors
    /// [`LogError::Purged`], [`LogError::Diverged`] (the cache is to be set aside; nothing was appended), [`LogError::RolledBack`], damage by name, or no answer.
    pub async fn open(site: Site, params: WriterParams) -> Result<(Self, OpenReport), LogError> {
        Self::open_if(site, params, &|_| true).await
    }

    /// As [`Self::open`], asking `may_open` about every end of the log that the `open` would be appended to: somebody may have opened it
    /// since the caller looked.
    ///
    /// # Errors
    /// [`LogError::Held`] when it says no; the rest as [`Self::open`].
    pub async fn open_if(
        site: Site,
        params: WriterParams,
        may_open: &(dyn Fn(&Tip) -> bool + Sync),
    ) -> Result<(Self, OpenReport), LogError> {
        let reader = Reader::new(site);
        let mut hint = params.hint;
        loop {
            let tip = reader.tip(hint).await?;
            if tip.phase == Phase::Fenced {
                return Err(LogError::Purged { incarnation: reader.site().incarnation() });
            }
            if !may_open(&tip) {
                return Err(LogError::Held { seq: tip.open.as_ref().map_or(tip.seq, |open| open.seq) });
            }
            let (intent, opens) = reconcile(&reader, &tip, params.cache.as_ref()).await?;
            let (adopted, landed) = adoptable(&reader, &tip, &params, intent).await?;
            let open = Open { holder: Some(params.holder.clone()), previous_epoch: tip.epoch, adopted, checkpoint: tip.checkpoint };
            match append_open(&reader, &tip, params.writer, Kind::Open(open.clone())).await? {
                None => hint.seq = tip.seq,
                Some(head) => {
                    let nameable = Nameable::opened(reader.site().incarnation(), head.epoch, &open.adopted);
                    let (opened, checkpoint, last_commit) = (head.seq, tip.checkpoint, tip.seq);
                    let id = params.writer;
                    let writer = Self { reader, id, head, opened, checkpoint, last_commit, nameable, pending: None, closed: false };
                    return Ok((writer, OpenReport { before: tip, intent, adopted: open.adopted, landed, opens }));
                }
            }
        }
    }

    /// The epoch of this writer.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.head.epoch
    }

    /// The newest record that is known to be in the log.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// The number of this writer's `open`.
    #[must_use]
    pub fn opened(&self) -> Seq {
        self.opened
    }

    /// Where the log lies.
    #[must_use]
    pub fn site(&self) -> &Site {
        self.reader.site()
    }

    /// The checkpoint that this writer's records name: the only one whose parts a new one may share.
    #[must_use]
    pub fn checkpoint(&self) -> Seq {
        self.checkpoint
    }

    /// What commits of this epoch may name.
    pub fn nameable(&mut self) -> &mut Nameable {
        &mut self.nameable
    }

    /// The next records name this checkpoint; its index is stored.
    pub fn name_checkpoint(&mut self, seq: Seq) {
        if seq <= self.head.seq {
            self.checkpoint = self.checkpoint.max(seq);
        }
    }

    /// A commit under the next number. The caller makes its [`Intent`] durable, and everything in its cut, before it puts it.
    ///
    /// # Errors
    /// A number is not resolved yet, or the commit cannot be encoded.
    pub fn prepare(&mut self, approved: Approved) -> Result<Prepared, LogError> {
        let Approved { mut commit, named } = approved;
        commit.checkpoint = self.checkpoint;
        let prepared = self.prepare_kind(Kind::Commit(commit))?;
        Ok(Prepared { named: Some(named), ..prepared })
    }

    /// The record of a clean end. Everything is committed; nothing is dirty.
    ///
    /// # Errors
    /// A number is not resolved yet.
    pub fn prepare_close(&mut self) -> Result<Prepared, LogError> {
        self.prepare_kind(Kind::Close(Close { last_commit: self.last_commit }))
    }

    fn prepare_kind(&mut self, kind: Kind) -> Result<Prepared, LogError> {
        if let Some((seq, _)) = self.pending {
            return Err(LogError::Pending { seq });
        }
        if self.closed {
            return Err(LogError::Fenced { seq: self.head.seq, epoch: self.head.epoch });
        }
        let prepared = encode(self.site(), self.head.seq, self.head.hash, self.head.epoch, self.id, kind)?;
        self.pending = Some((prepared.seq(), false));
        Ok(prepared)
    }

    /// Takes back what was prepared and never put.
    ///
    /// # Errors
    /// [`LogError::Pending`]: it was put, and only its outcome can end it.
    pub fn abandon(&mut self, prepared: &Prepared) -> Result<(), LogError> {
        match self.pending {
            Some((seq, false)) if seq == prepared.seq() => {
                self.pending = None;
                Ok(())
            }
            Some((seq, _)) => Err(LogError::Pending { seq }),
            None => Ok(()),
        }
    }

    /// Puts what was prepared, the same bytes until the outcome is known. After an error, or when the future was dropped, the outcome is
    /// unknown: call it again with the same argument.
    ///
    /// # Errors
    /// [`LogError::Fenced`] by a valid record of a higher epoch, [`LogError::Purged`], damage by name, or no answer.
    pub async fn put(&mut self, prepared: &Prepared) -> Result<Head, LogError> {
        let Intent { seq, hash, epoch, bytes, .. } = &prepared.intent;
        if self.head.seq == *seq && self.head.hash == *hash {
            return Ok(self.head);
        }
        if self.pending.is_none_or(|(pending, _)| pending != *seq) {
            return Err(LogError::Pending { seq: self.pending.map_or(self.head.seq, |(seq, _)| seq) });
        }
        // Before the first await: a dropped future has an unknown outcome too.
        self.pending = Some((*seq, true));
        let name = self.site().record_name(*seq);
        self.site().env().failpoint("log.after_intent_before_put");
        match self.site().create(&name, bytes).await? {
            Created::Theirs(there) => {
                return Err(match self.overtaken(*seq, &name, &there).await {
                    LogError::Pending { .. } => LogError::damaged(name, "this writer put two different records under one number"),
                    error => error,
                });
            }
            Created::Ours => {}
        }
        self.site().env().failpoint("log.after_put_before_resolve");
        self.pending = None;
        self.head = Head { seq: *seq, hash: *hash, epoch: *epoch };
        match &prepared.named {
            Some(named) => {
                self.last_commit = *seq;
                self.nameable.named(named);
            }
            None => self.closed = true,
        }
        Ok(self.head)
    }

    /// Appends `close`. For callers that keep no intent: with a cache, [`Self::prepare_close`], intent, [`Self::put`].
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn close(&mut self) -> Result<Head, LogError> {
        let prepared = self.prepare_close()?;
        self.put(&prepared).await
    }

    /// One GET of the next number: is there still no other writer? With anything dirty every 30 s, and before the first write after a pause;
    /// idle never (protocol.md 1.10).
    ///
    /// # Errors
    /// [`LogError::Fenced`] or [`LogError::Purged`] when there is one; no answer.
    pub async fn check_fenced(&mut self) -> Result<(), LogError> {
        if self.closed {
            return Ok(());
        }
        let seq = self.head.seq + 1;
        let name = self.site().record_name(seq);
        let Some(there) = self.site().get(&name).await? else { return Ok(()) };
        match self.overtaken(seq, &name, &there).await {
            // Our own put, outcome not asked for yet.
            LogError::Pending { .. } => Ok(()),
            error => Err(error),
        }
    }

    /// Reads the newest record back (protocol.md 1.9): at each checkpoint.
    ///
    /// # Errors
    /// [`LogError::Untrusted`]: what the store has is not what it said that it stored. Stop writing.
    pub async fn verify_newest(&self) -> Result<(), LogError> {
        let name = self.site().record_name(self.head.seq);
        match self.site().get(&name).await? {
            Some(bytes) if crate::format::seal::hash(&bytes) == self.head.hash => Ok(()),
            found => Err(untrusted(name, found.is_some())),
        }
    }

    /// What it means that another record stands at our next number.
    async fn overtaken(&self, seq: Seq, name: &str, there: &Bytes) -> LogError {
        let record = match self.reader.decode(seq, name, there).await {
            Ok(At::Record(record)) => record,
            Ok(_) => return LogError::damaged(name, "it is void; open the volume again to go on after it"),
            Err(error) => return error,
        };
        if record.record.parent_hash != self.head.hash.as_bytes() {
            return LogError::damaged(name, format!("it is not the child of record {}", self.head.seq));
        }
        match &record.record.kind {
            Some(Kind::Fence(_)) => LogError::Purged { incarnation: self.site().incarnation() },
            _ if record.epoch() > self.head.epoch => LogError::Fenced { seq, epoch: record.epoch() },
            _ if record.writer() == Some(self.id) && self.pending == Some((seq, true)) => LogError::Pending { seq },
            _ => LogError::damaged(name, format!("a record of epoch {} that this writer did not put", record.epoch())),
        }
    }
}

/// Appends the last record of an incarnation; after it nobody's put succeeds, for ever. The control chain says that the purge is done.
///
/// # Errors
/// The store does not answer, or a record is damaged.
pub async fn fence(site: Site, writer: WriterId, reason: &str) -> Result<(), LogError> {
    let reader = Reader::new(site);
    let mut hint = Hint::default();
    loop {
        let tip = reader.tip(hint).await?;
        if tip.phase == Phase::Fenced {
            return Ok(());
        }
        hint.seq = tip.seq;
        if append_open(&reader, &tip, writer, Kind::Fence(Fence { reason: reason.to_owned() })).await?.is_some() {
            return Ok(());
        }
    }
}

/// Puts a record of the next epoch; `None`: somebody else has the number, or it was a freed one.
async fn append_open(reader: &Reader, tip: &Tip, writer: WriterId, kind: Kind) -> Result<Option<Head>, LogError> {
    let site = reader.site();
    let prepared = encode(site, tip.seq, tip.hash, tip.epoch + 1, writer, kind)?;
    let Intent { seq, epoch, hash, bytes, .. } = prepared.intent;
    let name = site.record_name(seq);
    if lost_or_overtaken(site, seq).await? {
        return Ok(None);
    }
    site.env().failpoint("log.before_open");
    if site.create(&name, &bytes).await? != Created::Ours {
        return Ok(None);
    }
    site.env().failpoint("log.after_open_before_read_back");
    match site.get(&name).await? {
        Some(there) if there == bytes => {}
        found => return Err(untrusted(name, found.is_some())),
    }
    // Marked: the number had been freed, this view of the log was stale, and nobody will ever believe this record.
    if block::load(site, site.block_of(seq)).await?.is_some() {
        return Ok(None);
    }
    Ok(Some(Head { seq, hash, epoch }))
}

/// Records behind the number that is about to be filled. The end was found by asking for few numbers, as records are a prefix of the
/// numbers; where the store has lost one, a second valid record would be put under its number. True: the log went on meanwhile.
async fn lost_or_overtaken(site: &Site, seq: Seq) -> Result<bool, LogError> {
    let later: Vec<String> = (1..=LOOK_BEHIND).map(|n| site.record_name(seq + n)).collect();
    if try_join_all(later.iter().map(|name| site.size(name))).await?.iter().all(Option::is_none) {
        return Ok(false);
    }
    // Those were put after the one at `seq`: asked for only now, it is there, or it was freed after its block was marked.
    let name = site.record_name(seq);
    if site.size(&name).await?.is_some() || block::load(site, site.block_of(seq)).await?.is_some() {
        return Ok(true);
    }
    Err(LogError::missing(name))
}

fn untrusted(name: String, there: bool) -> LogError {
    let why = if there { "it has other content than was put" } else { "it was stored and is not there" };
    LogError::Untrusted { name, why: why.into() }
}

fn encode(site: &Site, parent: Seq, parent_hash: Hash, epoch: Epoch, writer: WriterId, kind: Kind) -> Result<Prepared, LogError> {
    let seq = parent + 1;
    let nonce: [u8; 16] = site.env().random();
    let message = LogRecord {
        seq,
        parent_hash: if seq == 1 { Bytes::new() } else { Bytes::copy_from_slice(parent_hash.as_bytes()) },
        epoch,
        writer: Bytes::copy_from_slice(writer.as_bytes()),
        nonce: Bytes::copy_from_slice(&nonce),
        time: site.env().now(),
        kind: Some(kind),
    };
    let (bytes, hash) = record::encode(&message, site.sealer(), &site.record_name(seq), site.env().random())?;
    Ok(Prepared { intent: Intent { seq, epoch, nonce: Nonce(nonce), hash, bytes }, named: None })
}

/// Whether a cache agrees with the log: from its head only its own intent, and records that change nothing (`open`, `close`), lead to the end.
async fn reconcile(reader: &Reader, tip: &Tip, cache: Option<&CacheState>) -> Result<(Option<Outcome>, Vec<Seq>), LogError> {
    let Some(CacheState { head, intent, .. }) = cache else { return Ok((None, Vec::new())) };
    let diverged = LogError::Diverged { cache: head.seq, log: tip.seq };
    let mut outcome = intent.as_ref().map(|_| Outcome::Never);
    if head.seq > tip.seq {
        // No cache that is older or went another way looks so: what was acknowledged is not there.
        return Err(LogError::RolledBack { cache: head.seq, log: tip.seq });
    }
    if head.seq == tip.seq && head.hash != tip.hash {
        return Err(diverged);
    }
    let (mut foreign, mut next, mut opens) = (false, head.seq + 1, Vec::new());
    let mut visit = |record: Record| {
        if matches!(record.record.kind, Some(Kind::Open(_))) {
            opens.push(record.seq);
        }
        let ours = intent.as_ref().is_some_and(|intent| intent.seq == record.seq && intent.hash == record.hash);
        if ours {
            outcome = Some(Outcome::Landed);
        }
        foreign |= record.seq != next || !(ours || matches!(record.record.kind, Some(Kind::Open(_) | Kind::Close(_))));
        next = record.seq + 1;
        if foreign { Err(LogError::Diverged { cache: head.seq, log: tip.seq }) } else { Ok(()) }
    };
    match reader.walk((head.seq, head.hash), (tip.seq, tip.hash), &mut visit).await {
        Ok(()) if next == tip.seq + 1 => Ok((outcome, opens)),
        Ok(()) | Err(LogError::Retired { .. }) => Err(diverged),
        // The first record after the cache's head is the child of another one.
        Err(LogError::Damaged { .. }) if next == head.seq + 1 => Err(diverged),
        Err(error) => Err(error),
    }
}

/// Packs that an `open` adopts at most, some 130 bytes each: all stand in one record. What is more (100 GiB for one commit) is uploaded again.
const ADOPTED_MAX: usize = 8192;
const SIZES_IN_FLIGHT: usize = 16;

/// Which of a cache's unnamed packs an `open` may adopt: those of the epoch in force or adopted by it, when that epoch was of this very cache;
/// not those that a landed intent has named (none at all when its delta lies in packs); and only those that exist. While no newer `open` stands, gc leaves all of them alone; when one
/// comes in between, our put fails. Beside them those that the landed intent has named.
async fn adoptable(
    reader: &Reader,
    tip: &Tip,
    params: &WriterParams,
    intent: Option<Outcome>,
) -> Result<(Vec<ObjectRef>, Vec<ObjectRef>), LogError> {
    let nothing = Ok((Vec::new(), Vec::new()));
    let (Some(cache), Some(open)) = (&params.cache, &tip.open) else { return nothing };
    let Some(Kind::Open(open)) = &open.record.kind else { return nothing };
    let own = |id: &Bytes| CacheId::from_slice(id).filter(|_| *id == params.holder.cache_id);
    if open.holder.as_ref().and_then(|holder| own(&holder.cache_id)).is_none() {
        return nothing;
    }
    let site = reader.site();
    let mut named = BTreeSet::new();
    if let (Some(Outcome::Landed), Some(intent)) = (intent, &cache.intent)
        && let At::Record(landed) = reader.decode(intent.seq, &site.record_name(intent.seq), &intent.bytes).await?
    {
        named.extend(objects_named(&landed.record).into_iter().map(|object| object.name.clone()));
        if matches!(&landed.record.kind, Some(Kind::Commit(commit)) if !commit.delta_frames.is_empty()) {
            // What its deltas name is not known without reading them: any of the cache's packs may be among it.
            return nothing;
        }
    }
    let landed = cache.unnamed.iter().filter(|object| named.contains(&object.name)).cloned().collect();
    let before: BTreeSet<&str> = open.adopted.iter().map(|object| object.name.as_str()).collect();
    let mut asked = Vec::new();
    for object in cache.unnamed.iter().rev() {
        let Some((_, name)) = names::absolute(site.incarnation(), &object.name) else { continue };
        let epoch = names::parse_pack(&name).filter(|(of, ..)| *of == site.incarnation()).map(|(_, epoch, _)| epoch);
        let in_force = epoch == Some(tip.epoch) || before.contains(object.name.as_str());
        if in_force && !named.contains(&object.name) && asked.len() < ADOPTED_MAX {
            asked.push(async move { Ok::<_, LogError>((site.size(&name).await? == Some(object.size)).then(|| object.clone())) });
        }
    }
    let found: Vec<Option<ObjectRef>> = futures::stream::iter(asked).buffered(SIZES_IN_FLIGHT).try_collect().await?;
    Ok((found.into_iter().flatten().collect(), landed))
}
