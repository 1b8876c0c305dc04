//! Where the log ends, and its records, each believed only for a reason.
//!
//! Finding the end needs no LIST. The janitor marks blocks in order, so markers are a prefix of the blocks; in blocks without a marker no
//! number was ever freed, so records are a prefix of the numbers. Both prefixes end somewhere, and a few rounds of parallel HEADs find it
//! from any hint, right or wrong. What makes the answer exact is the last question: number n is absent, and *after that* its block has no
//! marker. Numbers are freed only after their block is marked; so n had never been filled, and n - 1 was the end.

use super::control::Chain;
use super::{LogError, Site};
use crate::format::{names, record, seal};
use crate::rpc::log_record::Kind;
use crate::rpc::{self, LogRecord};
use crate::types::{Epoch, Hash, Seq, WriterId};
use bytes::Bytes;
use futures::future::{join_all, try_join_all};

/// Questions asked side by side.
const SIDE_BY_SIDE: usize = 4;
/// Records read side by side.
const READ_AHEAD: usize = 16;

/// A record that is believed: it authenticates, and its number never held another.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its number.
    pub seq: Seq,
    /// SHA-256 of the stored object.
    pub hash: Hash,
    /// What it says.
    pub record: LogRecord,
}

impl Record {
    /// Its epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.record.epoch
    }

    /// The process that wrote it.
    #[must_use]
    pub fn writer(&self) -> Option<WriterId> {
        WriterId::from_slice(&self.record.writer)
    }

    /// The checkpoint that its writer named as the newest; `None` where this kind names none.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Seq> {
        match self.record.kind.as_ref()? {
            Kind::Open(open) => Some(open.checkpoint),
            Kind::Commit(commit) => Some(commit.checkpoint),
            Kind::Close(_) | Kind::Fence(_) => None,
        }
    }
}

/// What stands at a number.
#[derive(Debug, Clone, PartialEq)]
pub enum At {
    /// A record.
    Record(Box<Record>),
    /// Bytes that an administrator's `void` skips; their hash is still the parent of the next record.
    Void(Hash),
    /// Nothing.
    Absent,
}

/// What the last record makes of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No record yet.
    Empty,
    /// A writer has it.
    Open,
    /// Closed cleanly: nothing is missing.
    Closed,
    /// Purged, for ever.
    Fenced,
}

/// What a caller knows already; wrong hints cost requests, never safety.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hint {
    /// A number that was in the log.
    pub seq: Seq,
    /// The number of the last `open` known.
    pub open: Seq,
}

/// The end of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Tip {
    /// Number of the last record; 0: none.
    pub seq: Seq,
    /// Its hash: the parent hash of the next. Zeros when there is none.
    pub hash: Hash,
    /// The epoch in force; 0: none.
    pub epoch: Epoch,
    /// What the last record makes of the log.
    pub phase: Phase,
    /// The newest checkpoint: the one that the newest record names (not the newest that lies there, see `protocol`). 0: none.
    pub checkpoint: Seq,
    /// The `open` of the epoch in force; of a purged log none.
    pub open: Option<Box<Record>>,
}

/// An object that a record names is not there: retention overtook this reader, or it is lost.
struct Gone(String);

/// Reads a log. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    site: Site,
}

impl Reader {
    /// A reader of the log at `site`.
    #[must_use]
    pub fn new(site: Site) -> Self {
        Self { site }
    }

    /// Where it reads.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The end of the log, as of some moment during the call.
    ///
    /// # Errors
    /// The store does not answer, or the last records are damaged and not void.
    pub async fn tip(&self, hint: Hint) -> Result<Tip, LogError> {
        let mut overtaken = None;
        loop {
            let seq = self.last_number(hint.seq).await?;
            if seq == 0 {
                return Ok(Tip { seq: 0, hash: Hash([0; 32]), epoch: 0, phase: Phase::Empty, checkpoint: 0, open: None });
            }
            match self.describe(seq, hint).await? {
                Ok(tip) => return Ok(tip),
                // Retention overtook this reader: what it saw is not the end any more. It deletes only below what a newer record names; so
                // when the end is where it was, the object is lost.
                Err(Gone(name)) if overtaken == Some(seq) => return Err(LogError::missing(name)),
                Err(Gone(_)) => overtaken = Some(seq),
            }
        }
    }

    /// What the last record makes of the log. A few requests: it names the newest checkpoint, and the last `open` is the first record of its
    /// epoch.
    async fn describe(&self, seq: Seq, hint: Hint) -> Result<Result<Tip, Gone>, LogError> {
        let (mut at, mut hash, mut newest, mut checkpoint) = (seq, None, None, None);
        // Back over void numbers, and from a `close` to the record that names a checkpoint.
        while at > 0 && checkpoint.is_none() {
            match self.at(at).await? {
                At::Absent => return Ok(Err(Gone(self.site.record_name(at)))),
                At::Void(void) => drop(hash.get_or_insert(void)),
                At::Record(found) => {
                    hash.get_or_insert(found.hash);
                    checkpoint = found.checkpoint();
                    newest.get_or_insert(found);
                }
            }
            at -= 1;
        }
        // A life that was removed before anybody opened it: its `fence` is record 1.
        if seq == 1 && matches!(newest.as_ref().and_then(|newest| newest.record.kind.as_ref()), Some(Kind::Fence(_))) {
            checkpoint = Some(0);
        }
        let (Some(hash), Some(newest), Some(checkpoint)) = (hash, newest, checkpoint) else {
            return Err(LogError::damaged(self.site.record_name(seq), "no `open` stands before it"));
        };
        let phase = match newest.record.kind {
            Some(Kind::Close(_)) => Phase::Closed,
            Some(Kind::Fence(_)) => Phase::Fenced,
            _ => Phase::Open,
        };
        let open = match phase {
            Phase::Fenced => None,
            _ => match self.open_of(&newest, checkpoint, hint.open).await? {
                Ok(open) => Some(open),
                Err(gone) => return Ok(Err(gone)),
            },
        };
        Ok(Ok(Tip { seq, hash, epoch: newest.epoch(), phase, checkpoint, open }))
    }

    /// The `open` of a record's epoch: the first record of that epoch.
    async fn open_of(&self, newest: &Record, checkpoint: Seq, hint: Seq) -> Result<Result<Box<Record>, Gone>, LogError> {
        let its = |found: At| match found {
            At::Record(record) if record.epoch() == newest.epoch() && matches!(record.record.kind, Some(Kind::Open(_))) => Some(record),
            _ => None,
        };
        if matches!(newest.record.kind, Some(Kind::Open(_))) {
            return Ok(Ok(Box::new(newest.clone())));
        }
        if hint > checkpoint
            && hint < newest.seq
            && let Some(open) = its(self.at(hint).await?)
        {
            return Ok(Ok(open));
        }
        if checkpoint > 0 {
            let Some(index) = super::checkpoint::load(&self.site, checkpoint).await? else {
                return Ok(Err(Gone(names::checkpoint_index(self.site.incarnation(), checkpoint))));
            };
            if let Some(&last) = index.opens.last()
                && let Some(open) = its(self.at(last).await?)
            {
                return Ok(Ok(open));
            }
        }
        // Epochs only grow along the log: between the checkpoint and the end, halve.
        let (mut low, mut high) = (checkpoint + 1, newest.seq);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.at(middle).await? {
                At::Absent => return Ok(Err(Gone(self.site.record_name(middle)))),
                At::Record(record) if record.epoch() < newest.epoch() => low = middle + 1,
                At::Record(_) => high = middle,
                // A void number tells no epoch: one by one from here.
                At::Void(_) => return self.open_one_by_one(low, high, &its).await.map(Ok),
            }
        }
        self.open_one_by_one(low, low, &its).await.map(Ok)
    }

    async fn open_one_by_one(
        &self,
        low: Seq,
        high: Seq,
        its: &(dyn Fn(At) -> Option<Box<Record>> + Sync),
    ) -> Result<Box<Record>, LogError> {
        for seq in low..=high {
            if let Some(open) = its(self.at(seq).await?) {
                return Ok(open);
            }
        }
        Err(LogError::damaged(self.site.record_name(low), "the `open` of the epoch in force is not among the records since the checkpoint"))
    }

    /// What stands at a number, believed by the rule of markers: in a block without a marker no number was ever freed, so what stands there
    /// is the only thing that ever did; in a marked block the marker lists the hashes.
    ///
    /// # Errors
    /// The store does not answer; a record that is damaged and not void.
    pub async fn at(&self, seq: Seq) -> Result<At, LogError> {
        let found = self.raw(seq).await?;
        let hash = match &found {
            At::Absent => return Ok(found),
            At::Void(hash) => *hash,
            At::Record(record) => record.hash,
        };
        // After the record was read: whoever freed the number before that had marked the block before that.
        let Some(marker) = super::block::load(&self.site, self.site.block_of(seq)).await? else { return Ok(found) };
        Ok(if super::block::lists(&self.site, &marker, seq, hash) { found } else { At::Absent })
    }

    /// What stands at several numbers of block `k`, as [`Self::at`] says it, with one look at the block's marker.
    ///
    /// # Errors
    /// As [`Self::at`].
    pub async fn at_many(&self, k: u64, seqs: &[Seq]) -> Result<Vec<(Seq, At)>, LogError> {
        let mut found = Vec::with_capacity(seqs.len());
        for batch in seqs.chunks(READ_AHEAD) {
            found.extend(try_join_all(batch.iter().map(|seq| self.raw(*seq))).await?);
        }
        // After the records were read, as there.
        let marker = super::block::load(&self.site, k).await?;
        let believed = |seq: Seq, at: At| match (&marker, &at) {
            (Some(marker), At::Record(record)) if !super::block::lists(&self.site, marker, seq, record.hash) => At::Absent,
            (Some(marker), At::Void(hash)) if !super::block::lists(&self.site, marker, seq, *hash) => At::Absent,
            _ => at,
        };
        Ok(seqs.iter().zip(found).map(|(seq, at)| (*seq, believed(*seq, at))).collect())
    }

    /// Reads records `from + 1 ..= to.0` in order, each the child of the one before, the last with hash `to.1`.
    ///
    /// # Errors
    /// [`LogError::Retired`] when retention deleted one; damage by name; what `visit` returns.
    pub async fn walk(
        &self,
        from: (Seq, Hash),
        to: (Seq, Hash),
        visit: &mut (dyn FnMut(Record) -> Result<(), LogError> + Send),
    ) -> Result<(), LogError> {
        let (mut seq, mut hash) = from;
        while seq < to.0 {
            let upto = to.0.min(seq + READ_AHEAD as u64);
            let batch = try_join_all((seq + 1..=upto).map(|n| self.raw(n))).await?;
            for (n, found) in (seq + 1..=upto).zip(batch) {
                hash = match found {
                    At::Absent => return Err(self.why_absent(n).await?),
                    At::Void(void) => void,
                    At::Record(record) => {
                        if n > 1 {
                            self.check_link(&record, hash)?;
                        }
                        let own = record.hash;
                        visit(*record)?;
                        own
                    }
                };
            }
            seq = upto;
        }
        if hash == to.1 {
            Ok(())
        } else {
            Err(LogError::damaged(self.site.record_name(to.0), "it is not the record that was there before"))
        }
    }

    async fn why_absent(&self, seq: Seq) -> Result<LogError, LogError> {
        let name = self.site.record_name(seq);
        Ok(match super::block::load(&self.site, self.site.block_of(seq)).await? {
            Some(_) => LogError::Retired { what: name },
            None => LogError::missing(name),
        })
    }

    fn check_link(&self, child: &Record, parent: Hash) -> Result<(), LogError> {
        if child.record.parent_hash == parent.as_bytes() {
            return Ok(());
        }
        Err(LogError::damaged(self.site.record_name(child.seq), format!("it is not the child of record {}", child.seq - 1)))
    }

    /// The bytes at a number, decoded; not yet held against a marker.
    pub(super) async fn raw(&self, seq: Seq) -> Result<At, LogError> {
        let name = self.site.record_name(seq);
        match self.site.get(&name).await? {
            None => Ok(At::Absent),
            Some(bytes) => self.decode(seq, &name, &bytes).await,
        }
    }

    /// A record that does not authenticate stops the volume, by name, unless the control chain voids it (protocol.md 1.7): skipping a rotted
    /// `open` silently would un-fence a zombie.
    pub(super) async fn decode(&self, seq: Seq, name: &str, bytes: &Bytes) -> Result<At, LogError> {
        let hash = seal::hash(bytes);
        match record::decode(bytes, self.site.sealer(), name) {
            Ok(record) => Ok(At::Record(Box::new(Record { seq, hash, record }))),
            Err(error) => {
                let chain = Chain::read(self.site.clone()).await?;
                if chain.state().voids.contains(&seq) { Ok(At::Void(hash)) } else { Err(LogError::undecodable(error)) }
            }
        }
    }

    /// The number of the last record, exact at some moment during the call.
    async fn last_number(&self, hint: Seq) -> Result<Seq, LogError> {
        let mut block = self.site.block_of(hint);
        if !self.marked(block.saturating_sub(1)).await? {
            // A hint beyond the markers says nothing about them.
            block = 0;
        }
        loop {
            block = self.prefix_end(block, &|k| names::block(self.site.incarnation(), k)).await?;
            let first = self.site.first_of(block);
            let mut next = if hint > first { self.prefix_end(hint, &|n| self.site.record_name(n)).await? } else { first };
            if next == hint.max(first) {
                next = self.prefix_end(first, &|n| self.site.record_name(n)).await?;
            }
            if self.marked(self.site.block_of(next)).await? {
                block = self.site.block_of(next);
                continue;
            }
            if next == first && block > 0 {
                // Below the newest checkpoint only: a marked block cannot end the log (protocol.md 1.5).
                let name = self.site.record_name(first);
                return Err(LogError::damaged(name, format!("block {} is marked and nothing follows it", block - 1)));
            }
            return Ok(next - 1);
        }
    }

    async fn marked(&self, block: u64) -> Result<bool, LogError> {
        Ok(self.site.size(&names::block(self.site.incarnation(), block)).await?.is_some())
    }

    /// The first number from `from` on whose object is absent, when those present form a prefix. A few at a time, side by side.
    async fn prefix_end(&self, from: u64, name: &(dyn Fn(u64) -> String + Sync)) -> Result<u64, LogError> {
        let (mut low, mut step) = (from, 1);
        // First the reach doubles until an absent one is found: [low, high) holds the end.
        let mut high = loop {
            let probes: Vec<u64> = (0..SIDE_BY_SIDE).map(|i| low + (step << i) - step).collect();
            match self.first_absent(&probes, name).await? {
                Some(0) => return Ok(low),
                Some(i) => {
                    low = probes[i - 1] + 1;
                    break probes[i];
                }
                None => {
                    low = probes[SIDE_BY_SIDE - 1] + 1;
                    step <<= SIDE_BY_SIDE;
                }
            }
        };
        while low < high {
            let width = high - low;
            let parts = (SIDE_BY_SIDE as u64).min(width);
            let probes: Vec<u64> = (0..parts).map(|i| low + width * i / parts).collect();
            match self.first_absent(&probes, name).await? {
                Some(0) => return Ok(low),
                Some(i) => {
                    high = probes[i];
                    low = probes[i - 1] + 1;
                }
                None => low = probes[probes.len() - 1] + 1,
            }
        }
        Ok(high)
    }

    async fn first_absent(&self, probes: &[u64], name: &(dyn Fn(u64) -> String + Sync)) -> Result<Option<usize>, LogError> {
        let names: Vec<String> = probes.iter().map(|n| name(*n)).collect();
        let found = join_all(names.iter().map(|name| self.site.size(name))).await;
        for (i, found) in found.into_iter().enumerate() {
            if found?.is_none() {
                return Ok(Some(i));
            }
        }
        Ok(None)
    }
}

/// The objects that a record names (commits and adoptions), as it names them: relative to its incarnation.
pub fn objects_named(record: &LogRecord) -> Vec<&rpc::ObjectRef> {
    match &record.kind {
        Some(Kind::Open(open)) => open.adopted.iter().collect(),
        Some(Kind::Commit(commit)) => {
            let delta = commit.delta.iter().flat_map(|delta| &delta.objects);
            delta.chain(commit.delta_frames.iter().filter_map(|frame| frame.object.as_ref())).collect()
        }
        _ => Vec::new(),
    }
}
