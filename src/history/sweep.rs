//! Retention and gc, beside live writers and without a lock (protocol.md 1 to 3, docs/protocol-notes.md 5 to 11).
//!
//! | step | a death right after it |
//! |---|---|
//! | 1 claims whose time is over, and snapshots that `last` does not keep, are released | `history.after_release`: nothing is retired; the next run goes on |
//! | 2 a `retire` record lists commits, and what only they need; and what nobody ever named and whose epoch is over | `history.after_retire`: nothing is deleted; the next run deletes it |
//! | 3 the objects are deleted | `history.in_deletion`: the next run deletes the rest |
//! | 4 numbers are freed: markers first (`src/log/block.rs`) | `log.before_marker`, `log.after_marker_before_delete`, `log.in_freeing`: the next run goes on |
//!
//! What a commit needs is found by laying the deltas after its checkpoint over that, part by part, as a checkpoint is made: in memory are
//! one part, the deltas of one checkpoint's interval, and 40 bytes an object that lies there.

use super::deletion::{Retiring, remove, retire};
use super::survey::{Scope, Survey, overtaken, survey, walked};
use crate::format::changes::{Changes, PackedDelta};
use crate::format::names;
use crate::format::tree::{self, Item, Key, Place};
use crate::log::control::{Chain, Purging, Refused, State};
use crate::log::inventory::ObjectId;
use crate::log::plan::{self, Fact, Facts, Sweep, What};
use crate::log::{At, LogError, Reader, Record, block, checkpoint};
use crate::policy::retention::Rules;
use crate::rpc::log_record::Kind;
use crate::rpc::{self, Checkpoint};
use crate::store::Objects;
use crate::types::{Fault, FaultKind, Hash, Seq, UnixNanos};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Another janitor may be faster so often.
const ATTEMPTS: usize = 5;

/// What a sweep is to do.
#[derive(Debug, Clone)]
pub struct Sweeping<'a> {
    /// What to keep; `None`: every commit that is not retired yet.
    pub rules: Option<&'a Rules>,
    /// The log up to this number, on a control chain that ends with this record: as they were planned on. `None`: as they are.
    pub planned: Option<(Seq, u64)>,
    /// Say what would go, and do nothing.
    pub dry_run: bool,
    /// Stands in the control records.
    pub author: &'a str,
    /// The store's clock, or that of the plan.
    pub now: UnixNanos,
}

/// What a sweep did, or would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Records of the log that were retired.
    pub retired: u64,
    /// Commits that are left.
    pub kept: u64,
    /// Objects that were deleted, the log's records not counted.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Numbers of the log that were freed.
    pub freed: u64,
}

/// Retires what the rules do not keep, and deletes what nothing needs. As often as wanted, by as many as want to.
///
/// # Errors
/// The store's faults: the same call goes on. [`FaultKind::Stale`]: other janitors were faster, again and again, or the plan is not of now.
pub async fn sweep(objects: &Objects, reader: &Reader, sweeping: &Sweeping<'_>) -> Result<Swept, Fault> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        match once(objects, reader, sweeping).await {
            Err(fault) if fault.kind == FaultKind::Stale && sweeping.planned.is_none() && attempt < ATTEMPTS => {}
            done => return done,
        }
    }
}

async fn once(objects: &Objects, reader: &Reader, sweeping: &Sweeping<'_>) -> Result<Swept, Fault> {
    let site = reader.site();
    let mut chain = Chain::read_for_gc(site.clone()).await?;
    if chain.state().purging == Purging::Done {
        return Err(Fault::new(FaultKind::NotFound, "the volume was removed; `holdfast volume rm` deletes what is left of it"));
    }
    let scope = Scope { upto: sweeping.planned.map(|(seq, _)| seq), trees: true, now: sweeping.now };
    if sweeping.planned.is_some_and(|(_, number)| number != chain.state().number) {
        let why = "somebody claimed, released or retired since it was planned; plan again: `holdfast retention plan`";
        return Err(Fault::new(FaultKind::Stale, why));
    }
    let state = release(&mut chain, sweeping).await?;
    let Survey { mut facts, named, listing } = survey(objects, reader, &state, scope).await?;
    let kept = sweeping.rules.map(|rules| plan::keep(&facts, &state, rules, sweeping.now));
    let keeps = |seq: Seq| kept.as_ref().is_none_or(|kept| kept.contains_key(&seq));
    let told = {
        let sweep = Sweep::begin(&facts, &state, &keeps, listing.inventory.clone());
        let mut walk = Walk { objects, reader, sweep, seen: HashSet::new(), named: HashSet::new(), records: BTreeMap::new() };
        walk.names(&facts, &named);
        walk.trees(&facts).await.and_then(|()| {
            let garbage =
                walk.sweep.garbage().ok_or_else(|| Fault::new(FaultKind::Local, "a tree was not looked at; nothing is retired"))?;
            Ok((Retiring { seqs: walk.sweep.retiring().iter().copied().collect(), objects: garbage, h: facts.h }, walk.records))
        })
    };
    let (retiring, records) = match told {
        Err(fault) if fault.kind == FaultKind::Damaged => return Err(missing(&mut chain, fault).await?),
        told => told?,
    };
    let commits = facts.records.iter().filter(|(_, fact)| matches!(fact.what, What::Commit { .. }));
    let gone: HashSet<Seq> = retiring.seqs.iter().copied().collect();
    let left = commits.filter(|(seq, _)| !gone.contains(seq) && !state.retired_seqs.contains(seq)).count() as u64;
    let mut swept = Swept { retired: retiring.seqs.len() as u64, kept: left, ..Swept::default() };
    let sizes = |ids: &[ObjectId]| (ids.len() as u64, ids.iter().map(|id| listing.inventory.size(*id)).sum());
    if sweeping.dry_run {
        let before = plan::deletable(&state, &listing.inventory);
        let all: Vec<ObjectId> = before.into_iter().chain(retiring.objects).collect();
        (swept.objects, swept.bytes) = sizes(&all);
        return Ok(swept);
    }
    append(&mut chain, sweeping, &retiring).await?;
    site.env().failpoint("history.after_retire");
    let objects = plan::deletable(chain.state(), &listing.inventory);
    (swept.objects, swept.bytes) = sizes(&objects);
    remove(site, &objects, &|_| {}).await?;
    for (seq, more) in records {
        facts.records.entry(seq).and_modify(|fact| fact.records.extend(more));
    }
    swept.freed = free(reader, chain.state(), &mut facts, &listing.stored).await?;
    Ok(swept)
}

/// What an object that is named and not there means (protocol.md 3): somebody else retired it since the chain was read, or damage.
async fn missing(chain: &mut Chain, fault: Fault) -> Result<Fault, Fault> {
    let seen = chain.state().number;
    chain.refresh().await?;
    if chain.state().number == seen {
        return Ok(fault);
    }
    Ok(Fault::new(FaultKind::Stale, format!("somebody else retired meanwhile what was being looked at; try again ({fault})")))
}

/// Ends claims whose time is over, and snapshots of a schedule that `last` does not keep; gives what the chain says after it, or would.
async fn release(chain: &mut Chain, sweeping: &Sweeping<'_>) -> Result<State, Fault> {
    let over = super::snapshot::ending(chain.state(), sweeping.rules, sweeping.now);
    if sweeping.dry_run {
        let mut state = chain.state().clone();
        over.iter().for_each(|claim| drop(state.claims.remove(claim)));
        return Ok(state);
    }
    for claim in over {
        // Asked again on a longer chain: whoever needs it may have claimed it anew.
        let decide = |state: &State| {
            let still = super::snapshot::ending(state, sweeping.rules, sweeping.now).contains(&claim);
            if still { Ok(rpc::control_record::Kind::Release(rpc::Release { claim })) } else { Err(Refused::NoClaim(claim)) }
        };
        match chain.append(sweeping.author, sweeping.now, &decide).await {
            Ok(_) | Err(LogError::Control(Refused::NoClaim(_))) => {}
            Err(error) => return Err(error.into()),
        }
        chain.site().env().failpoint("history.after_release");
    }
    Ok(chain.state().clone())
}

/// Appends what was planned, unless somebody else appended since.
async fn append(chain: &mut Chain, sweeping: &Sweeping<'_>, retiring: &Retiring) -> Result<(), Fault> {
    let (seen, site) = (chain.state().number, chain.site().clone());
    let ours = std::sync::atomic::AtomicU64::new(seen);
    let allowed = |state: &State| {
        // What this call itself appended is no surprise.
        let expected = ours.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if state.number == expected { Ok(()) } else { Err(Refused::Already) }
    };
    match retire(chain, &site, (sweeping.author, sweeping.now), retiring, &allowed).await {
        Ok(()) => Ok(()),
        Err(LogError::Control(Refused::Already)) => {
            Err(Fault::new(FaultKind::Stale, "somebody else appended to the control chain meanwhile; nothing more was retired, try again"))
        }
        Err(error) => Err(error.into()),
    }
}

/// Frees numbers of whole blocks. What kind of record stands at a retired one is read now: `open` records stay.
async fn free(reader: &Reader, chain: &State, facts: &mut Facts, stored: &BTreeMap<Seq, UnixNanos>) -> Result<u64, Fault> {
    let site = reader.site();
    let limit = plan::free_below(facts, chain);
    let needed = plan::records_needed(facts, chain);
    let candidate = |seq: &Seq| {
        chain.retired_seqs.contains(seq)
            && site.last_of(site.block_of(*seq)) < limit
            && !needed.contains(seq)
            && !facts.records.contains_key(seq)
    };
    let mut blocks: BTreeMap<u64, Vec<Seq>> = BTreeMap::new();
    stored.keys().copied().filter(candidate).for_each(|seq| blocks.entry(site.block_of(seq)).or_default().push(seq));
    for (k, seqs) in blocks {
        for (seq, at) in reader.at_many(k, &seqs).await? {
            if let At::Record(record) = at {
                let what = match record.record.kind {
                    Some(Kind::Commit(_)) => What::Commit { full: false, inodes: 0, bytes: 0 },
                    Some(Kind::Close(_)) => What::Close,
                    _ => continue,
                };
                let (epoch, delta, records) = (record.record.epoch, BTreeSet::new(), BTreeSet::new());
                facts.records.insert(seq, Fact { what, epoch, stored: 0, cut: 0, base: seq, delta, records });
            }
        }
    }
    let numbers = plan::freeable(site, facts, chain);
    Ok(block::free(reader, chain, limit, &numbers).await?)
}

/// Tells a [`Sweep`] what every kept commit needs.
struct Walk<'a> {
    objects: &'a Objects,
    reader: &'a Reader,
    sweep: Sweep<'a>,
    /// Parts of checkpoints that were told whole.
    seen: HashSet<String>,
    /// Those of which it was told what they name.
    named: HashSet<String>,
    /// Records outside their own path that trees have inline bytes in.
    records: BTreeMap<Seq, BTreeSet<Seq>>,
}

impl<'a> Walk<'a> {
    /// What records name that lie there: also of retired ones, which matters for packs of the epoch in force.
    fn names(&mut self, facts: &Facts, named: &BTreeMap<Seq, Vec<ObjectId>>) {
        let incarnation = self.objects.incarnation();
        for (seq, ids) in named.iter().filter(|(seq, _)| facts.records.contains_key(seq)) {
            let needed = self.sweep.readable().contains(seq);
            for id in ids {
                let name = id.name(incarnation);
                if needed { self.sweep.needs(&name) } else { self.sweep.names(&name) }
            }
        }
    }

    async fn trees(&mut self, facts: &Facts) -> Result<(), Fault> {
        let mut by_base: BTreeMap<Seq, Vec<Seq>> = BTreeMap::new();
        let kept = self.sweep.readable().clone();
        let retiring = self.sweep.retiring().clone();
        for seq in kept.iter().chain(&retiring) {
            if let Some(fact) = facts.records.get(seq) {
                by_base.entry(fact.base).or_default().push(*seq);
            }
        }
        for (base, mut seqs) in by_base {
            seqs.retain(|seq| kept.contains(seq));
            let index = if base == 0 { None } else { checkpoint::load(self.reader.site(), base).await? };
            if base != 0 && index.is_none() {
                // Only retired ones are read from it: it went with them.
                if seqs.is_empty() {
                    continue;
                }
                return Err(overtaken(base));
            }
            if seqs.is_empty() {
                self.table(index.as_ref()).await?;
            } else {
                self.interval(base, index, &seqs).await?;
            }
        }
        Ok(())
    }

    /// What a checkpoint names that only retired commits are read from.
    async fn table(&mut self, index: Option<&Checkpoint>) -> Result<(), Fault> {
        for part in index.iter().flat_map(|index| &index.parts) {
            if !self.named.contains(&part.name) {
                self.part(part).await?;
            }
        }
        Ok(())
    }

    /// A part of a checkpoint, after it was told what it names.
    async fn part(&mut self, part: &rpc::PartRef) -> Result<Vec<Item>, Fault> {
        let message = self.objects.checkpoint_part(part).await?;
        if self.named.insert(part.name.clone()) {
            for object in &message.objects {
                if let Some((_, name)) = names::absolute(self.objects.incarnation(), &object.name) {
                    self.sweep.names(&name);
                }
            }
        }
        Ok(tree::items_of(message))
    }

    /// The kept records that are read from one checkpoint. After one whose tree was told, the next one's needs are what it names itself.
    async fn interval(&mut self, base: Seq, index: Option<Checkpoint>, seqs: &[Seq]) -> Result<(), Fault> {
        let incarnation = self.objects.incarnation();
        if let Some(index) = &index {
            self.sweep.needs(&names::checkpoint_index(incarnation, base));
            for part in &index.parts {
                if let Some((_, name)) = names::absolute(incarnation, &part.name) {
                    self.sweep.needs(&name);
                }
            }
        }
        let mut before = None;
        let mut deltas: Vec<(Seq, PackedDelta)> = Vec::new();
        let mut read = (base, index.as_ref().and_then(|index| Hash::from_slice(&index.commit_hash)).unwrap_or(Hash([0; 32])));
        for seq in seqs {
            // What the record itself names was told by `names`.
            if before.is_none_or(|before: Seq| before + 1 != *seq) {
                read = self.deltas(read, *seq, &mut deltas).await?;
                self.tree(*seq, base, index.as_ref(), &deltas).await?;
            }
            self.sweep.told(*seq);
            before = Some(*seq);
        }
        Ok(())
    }

    /// Reads on from a record to another, each held against the one before.
    async fn deltas(&self, from: (Seq, Hash), to: Seq, deltas: &mut Vec<(Seq, PackedDelta)>) -> Result<(Seq, Hash), Fault> {
        let hash = match self.reader.at(to).await? {
            At::Record(record) => record.hash,
            At::Void(hash) => hash,
            At::Absent => return Err(overtaken(to)),
        };
        let mut records: Vec<Record> = Vec::new();
        let mut visit = |record: Record| {
            records.push(record);
            Ok(())
        };
        self.reader.walk(from, (to, hash), &mut visit).await.map_err(walked)?;
        for record in records {
            if let Some(Kind::Commit(commit)) = &record.record.kind {
                let found = self.objects.deltas(commit).await?;
                deltas.extend(found.iter().map(|delta| (record.seq, PackedDelta::of(delta))));
            }
        }
        Ok((to, hash))
    }

    /// Everything that one tree needs: parts that no delta touches as they are, the others with what changed.
    async fn tree(&mut self, seq: Seq, base: Seq, index: Option<&Checkpoint>, deltas: &[(Seq, PackedDelta)]) -> Result<(), Fault> {
        let parts: &[rpc::PartRef] = index.map_or(&[], |index| &index.parts);
        let mut changes = Changes::new(deltas)?;
        let keys: Vec<Key> = parts.iter().map(part_key).collect::<Result<_, _>>()?;
        for at in 0..parts.len().max(1) {
            let from = if at == 0 { tree::first_key() } else { keys[at].clone() };
            let to = keys.get(at + 1);
            let part = parts.get(at);
            if let Some(part) = part
                && !changes.touches(&from, to)
            {
                if self.seen.insert(part.name.clone()) {
                    let items = self.part(part).await?;
                    items.iter().for_each(|item| self.item(seq, base, item));
                }
                continue;
            }
            let items = match part {
                Some(part) => self.part(part).await?,
                None => Vec::new(),
            };
            let mut left = Some((from, items));
            while let Some((from, items)) = left {
                let merge = changes.merge(items, &from, to)?;
                merge.items.iter().for_each(|item| self.item(seq, base, item));
                left = merge.rest;
            }
        }
        Ok(())
    }

    fn item(&mut self, seq: Seq, base: Seq, item: &Item) {
        let Item::Extents(_, map) = item else { return };
        for located in map.iter() {
            match &located.place {
                Place::Object(object) => {
                    if let Some((_, name)) = names::absolute(self.objects.incarnation(), &object.name) {
                        self.sweep.needs(&name);
                    }
                }
                Place::Inline(record) if *record > base && *record <= seq => {}
                Place::Inline(record) => drop(self.records.entry(seq).or_default().insert(*record)),
            }
        }
    }
}

fn part_key(part: &rpc::PartRef) -> Result<Key, Fault> {
    Key::decode(&part.first_key).ok_or_else(|| Fault::new(FaultKind::Damaged, format!("{}: its first key is none", part.name)))
}
