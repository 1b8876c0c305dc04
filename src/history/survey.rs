//! The log and the store as retention and gc see them: a listing, and of each record what the plan needs.
//!
//! Read are the records that are not retired, those that they are read through, and each `open` whose grace may not be over. Memory: 40 bytes
//! an object that lies there, about 300 bytes a record that is read.

use super::removal::{each_object, whole};
use crate::format::names;
use crate::log::control::State;
use crate::log::inventory::{Inventory, ObjectId};
use crate::log::plan::{Fact, Facts, What};
use crate::log::{At, Hint, LogError, Reader, Record, checkpoint, objects_named};
use crate::rpc::log_record::Kind;
use crate::rpc::{Commit, Delta};
use crate::store::Objects;
use crate::types::{Fault, FaultKind, Seq, UnixNanos};
use std::collections::{BTreeMap, BTreeSet};

/// What was seen.
#[derive(Debug, Clone)]
pub(super) struct Survey {
    pub(super) facts: Facts,
    /// What each record that was read names itself, of its own incarnation.
    pub(super) named: BTreeMap<Seq, Vec<ObjectId>>,
    pub(super) listing: Listing,
}

/// What lies there.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    pub(super) inventory: Inventory,
    /// Numbers of the log, with the store's time of each.
    pub(super) stored: BTreeMap<Seq, UnixNanos>,
}

/// How much to look at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope {
    /// The log up to this number; `None`: to its end.
    pub(super) upto: Option<Seq>,
    /// Trees will be read: then records matter that others are read through, and what each names.
    pub(super) trees: bool,
    /// The store's clock.
    pub(super) now: UnixNanos,
}

/// Looks. `chain` was read to its end before.
///
/// # Errors
/// The store's faults; damage by name; [`FaultKind::Stale`]: another janitor was faster.
pub(super) async fn survey(objects: &Objects, reader: &Reader, chain: &State, scope: Scope) -> Result<Survey, Fault> {
    let tip = reader.tip(Hint::default()).await?;
    let h = scope.upto.unwrap_or(tip.seq);
    if h > tip.seq {
        let why = format!("the log ends with record {} and did not before; nothing is retired from a log that went back", tip.seq);
        return Err(Fault::new(FaultKind::Damaged, why));
    }
    let mut survey = Survey {
        facts: Facts { h, epoch: tip.epoch, checkpoint: tip.checkpoint, records: BTreeMap::new() },
        named: BTreeMap::new(),
        listing: listing(reader).await?,
    };
    let mut looking = Looking { objects, reader, survey: &mut survey, scope };
    let mut wanted: BTreeSet<Seq> = chain.retired_seqs.others(h).into_iter().flatten().collect();
    if let Some(index) = checkpoint::load(reader.site(), tip.checkpoint).await? {
        let recent = |seq: &&Seq| looking.stored(**seq) >= scope.now.saturating_sub(BRANCHES_MAX) || Some(*seq) == index.opens.last();
        wanted.extend(index.opens.iter().filter(|seq| **seq <= h).filter(recent));
    }
    looking.read(&wanted).await?;
    if scope.trees {
        let through = looking.through(chain);
        looking.read(&through).await?;
    }
    if h < tip.seq
        && let Some(last) = survey.facts.records.get(&h)
    {
        (survey.facts.epoch, survey.facts.checkpoint) = (last.epoch, last.base);
    }
    Ok(survey)
}

/// The longest grace that the `open` of a fenced epoch's successor is looked at for.
const BRANCHES_MAX: UnixNanos = 400 * 86_400 * 1_000_000_000;

async fn listing(reader: &Reader) -> Result<Listing, Fault> {
    let mut listing = Listing { inventory: Inventory::new(reader.site().incarnation()), stored: BTreeMap::new() };
    each_object(reader, &whole(reader), &mut |meta| match names::parse_commit(&meta.name) {
        Some((_, seq)) => drop(listing.stored.insert(seq, meta.modified)),
        None => listing.inventory.list(&meta.name, meta.size),
    })
    .await?;
    listing.inventory.settle();
    Ok(listing)
}

struct Looking<'a> {
    objects: &'a Objects,
    reader: &'a Reader,
    survey: &'a mut Survey,
    scope: Scope,
}

impl Looking<'_> {
    /// What is not listed yet was stored just now.
    fn stored(&self, seq: Seq) -> UnixNanos {
        self.survey.listing.stored.get(&seq).copied().unwrap_or(self.scope.now)
    }

    /// Records that unretired ones are read through and that were not read.
    fn through(&self, chain: &State) -> BTreeSet<Seq> {
        let needed = crate::log::plan::records_needed(&self.survey.facts, chain);
        needed.iter().filter(|seq| !self.survey.facts.records.contains_key(seq)).collect()
    }

    async fn read(&mut self, wanted: &BTreeSet<Seq>) -> Result<(), Fault> {
        let site = self.reader.site();
        let mut blocks: BTreeMap<u64, Vec<Seq>> = BTreeMap::new();
        for seq in wanted {
            blocks.entry(site.block_of(*seq)).or_default().push(*seq);
        }
        // The checkpoint that the record before names: what a `close` is read from.
        let mut before: Option<(Seq, Seq)> = None;
        for (k, seqs) in blocks {
            // A block at a time: a record may have four megabytes.
            for seqs in seqs.chunks(64) {
                for (seq, at) in self.reader.at_many(k, seqs).await? {
                    let base = match &at {
                        At::Record(record) if record.checkpoint().is_some() => record.checkpoint().unwrap_or(0),
                        At::Absent => return Err(overtaken(seq)),
                        At::Record(_) | At::Void(_) => match before.filter(|(last, _)| last + 1 == seq) {
                            Some((_, base)) => base,
                            None => self.base_before(seq).await?,
                        },
                    };
                    before = Some((seq, base));
                    self.take(seq, at, base).await?;
                }
            }
        }
        Ok(())
    }

    async fn base_before(&self, seq: Seq) -> Result<Seq, Fault> {
        for before in (1..seq).rev() {
            match self.reader.at(before).await? {
                At::Record(record) => {
                    if let Some(base) = record.checkpoint() {
                        return Ok(base);
                    }
                }
                At::Void(_) => {}
                At::Absent => return Err(overtaken(before)),
            }
        }
        Ok(0)
    }

    async fn take(&mut self, seq: Seq, at: At, base: Seq) -> Result<(), Fault> {
        let stored = self.stored(seq);
        let none = Fact { what: What::Void, epoch: 0, stored, cut: stored, base, delta: BTreeSet::new(), records: BTreeSet::new() };
        let fact = match at {
            At::Record(record) => self.fact(*record, none).await?,
            At::Void(_) | At::Absent => none,
        };
        self.survey.facts.records.insert(seq, fact);
        Ok(())
    }

    async fn fact(&mut self, record: Record, none: Fact) -> Result<Fact, Fault> {
        let incarnation = self.objects.incarnation();
        let absolute = |name: &str| names::absolute(incarnation, name).map(|(_, name)| name);
        let (epoch, cut) = (record.epoch(), record.record.time);
        let mut fact = Fact { epoch, cut, ..none };
        fact.what = match &record.record.kind {
            Some(Kind::Open(_)) => {
                let adopted = objects_named(&record.record).into_iter().filter_map(|object| absolute(&object.name)).collect();
                What::Open { adopted }
            }
            Some(Kind::Commit(commit)) => {
                fact.cut = commit.cut_time;
                fact.delta = commit.delta_frames.iter().filter_map(|frame| absolute(&frame.object.as_ref()?.name)).collect();
                if self.scope.trees {
                    self.deltas(record.seq, commit, &mut fact).await?;
                }
                let totals = commit.totals.unwrap_or_default();
                What::Commit { full: commit.full, inodes: totals.inodes, bytes: totals.bytes }
            }
            Some(Kind::Close(_)) => What::Close,
            Some(Kind::Fence(_)) | None => What::Fence,
        };
        Ok(fact)
    }

    /// What the deltas of a commit name: objects, and other records for the bytes that stand in them.
    async fn deltas(&mut self, seq: Seq, commit: &Commit, fact: &mut Fact) -> Result<(), Fault> {
        let deltas = self.objects.deltas(commit).await?;
        let own = |name: &str| {
            let (of, name) = names::absolute(self.objects.incarnation(), name)?;
            ObjectId::parse(&name).filter(|_| of == self.objects.incarnation()).map(|(_, id)| id)
        };
        let named: Vec<ObjectId> = deltas.iter().flat_map(|delta| &delta.objects).filter_map(|object| own(&object.name)).collect();
        fact.records.extend(deltas.iter().flat_map(inline_elsewhere));
        self.survey.named.insert(seq, named);
        Ok(())
    }
}

fn inline_elsewhere(delta: &Delta) -> impl Iterator<Item = Seq> + '_ {
    let extents = delta.extents.iter().flat_map(|file| &file.extents);
    extents.filter(|extent| extent.object == 0 && extent.inline_seq != 0).map(|extent| extent.inline_seq)
}

/// A record that must be there is not: another janitor retired it since the chain was read. Whoever looks once more finds out.
pub(super) fn overtaken(seq: Seq) -> Fault {
    Fault::new(FaultKind::Stale, format!("record {seq} went while it was looked at: another janitor is at work, or it was lost; try again"))
}

/// [`overtaken`] for what a walk met.
pub(super) fn walked(error: LogError) -> Fault {
    match error {
        LogError::Retired { what } => {
            Fault::new(FaultKind::Stale, format!("{what} went while it was looked at: another janitor is at work; try again"))
        }
        error => error.into(),
    }
}
