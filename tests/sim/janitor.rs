//! A janitor: reads control, log and listing, plans, retires, marks, deletes; finishes purges. Several run at once.

use super::bugs::Bug;
use super::engine::{Kit, identity, load_checkpoint, read_change};
use super::exec::{DAY, HOUR, MINUTE, SECOND};
use super::tree::{Tree, apply, delta_packs};
use holdfast::format::names;
use holdfast::log::control::{Chain, Purging, Refused, State};
use holdfast::log::inventory::{Inventory, ObjectId};
use holdfast::log::lookup::{Found, Lookup, lookup};
use holdfast::log::plan::{self, Fact, Facts, Sweep, What};
use holdfast::log::{At, Hint, LogError, Reader, Record, Site, Tip, block, checkpoint, fence, objects_named};
use holdfast::policy::retention::Rules;
use holdfast::rpc::control_record::Kind as Control;
use holdfast::rpc::log_record::Kind;
use holdfast::rpc::{Purge, Release, Retire};
use holdfast::types::{Seq, WriterId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a fenced epoch has for its branch.
pub const GRACE: u64 = 12 * HOUR;
/// How long a purge can be undone.
const PURGE_GRACE: u64 = 2 * HOUR;

/// Records read, with their trees; no tree where only a retired record's predecessors could tell.
type Known = BTreeMap<Seq, (Record, Option<Tree>)>;

/// The log as a janitor saw it, with the objects of each tree.
#[derive(Clone)]
struct Seen {
    facts: Facts,
    objects: BTreeMap<Seq, BTreeSet<String>>,
}

/// What to retire.
struct Retirement {
    seqs: BTreeSet<Seq>,
    objects: Vec<String>,
}

pub struct Janitor {
    pub kit: Kit,
    pub volume: String,
    pub dense: u64,
    pub idle_max: u64,
}

impl Janitor {
    pub async fn run(self) {
        // Records are immutable: what was read once need not be read again.
        let mut known: Known = BTreeMap::new();
        let mut of = None;
        loop {
            self.kit.pause(SECOND, self.idle_max).await;
            let Lookup::Found(found) = lookup(&self.kit.books(), &identity(&self.volume)).await else { continue };
            if of != Some(found.incarnation) {
                known.clear();
                of = Some(found.incarnation);
            }
            if self.kit.sim.permille(200) {
                let _ = self.release_some(&self.kit.site(&found)).await;
            }
            if let Err(error) = self.pass(&found, &mut known).await {
                match error {
                    LogError::Unreachable(_) | LogError::Refused(_) | LogError::Control(_) | LogError::Retired { .. } => {}
                    error => self.kit.sim.violate(format!("janitor {}: {error}", self.kit.id)),
                }
            }
        }
    }

    async fn pass(&self, found: &Found, known: &mut Known) -> Result<(), LogError> {
        let site = self.kit.site(found);
        let reader = Reader::new(site.clone());
        let mut chain = Chain::read_for_gc(site.clone()).await?;
        self.purge(&site, &mut chain).await?;
        if self.kit.bug != Bug::ExpiredNotReleased {
            self.release_expired(&mut chain).await?;
        }
        let tip = self.kit.tip(&reader, Hint { seq: known.keys().next_back().copied().unwrap_or(0), open: 0 }).await?;
        if tip.seq == 0 {
            return Ok(());
        }
        let times = self.listing(&site).await?;
        let Some(seen) = self.facts(&reader, &tip, chain.state(), &times, known).await? else { return Ok(()) };
        let listing: Vec<String> = times.into_keys().collect();
        let retirement = self.plan(&site, &seen, chain.state(), &listing, known).await?;
        let facts = &seen.facts;
        if !retirement.seqs.is_empty() || !retirement.objects.is_empty() {
            if self.kit.bug == Bug::DeleteBeforeRetire {
                for name in &retirement.objects {
                    let _ = self.kit.store.delete(name).await;
                }
            }
            self.retire(&mut chain, facts, &retirement).await?;
        }
        self.delete(&reader, chain.state(), facts, &listing, known).await
    }

    /// Finishes a purge whose grace is over; in one order with attachments.
    async fn purge(&self, site: &Site, chain: &mut Chain) -> Result<(), LogError> {
        let now = self.kit.sim.store_time();
        if chain.state().purge_due(now, PURGE_GRACE as i64) {
            let decide = |state: &State| {
                let due = state.purge_due(now, PURGE_GRACE as i64);
                if due { Ok(Control::Purge(Purge { done: true, reason: "deleted".into() })) } else { Err(Refused::NotPurging) }
            };
            chain.append("janitor", now, &decide).await?;
        }
        if chain.state().purging == Purging::Done && self.kit.bug != Bug::PurgeWithoutFence {
            fence(site.clone(), WriterId(site.env().random()), "purged").await?;
        }
        Ok(())
    }

    /// Readers' claims whose time is over, by the store's clock: some readers never come back.
    async fn release_expired(&self, chain: &mut Chain) -> Result<(), LogError> {
        let wrong = if self.kit.bug == Bug::ExpireByOwnClock { DAY as i64 } else { 0 };
        let now = self.kit.sim.store_time() + wrong;
        for claim in chain.state().expired(now) {
            let decide = |state: &State| {
                if state.expired(now).contains(&claim) { Ok(Control::Release(Release { claim })) } else { Err(Refused::NoClaim(claim)) }
            };
            match chain.append("janitor", self.kit.sim.store_time(), &decide).await {
                Ok(_) => self.kit.world.oracle.lock().count("claims expired"),
                Err(LogError::Control(Refused::NoClaim(_))) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn listing(&self, site: &Site) -> Result<BTreeMap<String, i64>, LogError> {
        let prefix = names::volume_prefix(site.incarnation());
        let mut all = BTreeMap::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.kit.store.list(&prefix, after.as_deref(), 1000).await.map_err(LogError::Unreachable)?;
            let full = page.len() == 1000;
            all.extend(page.into_iter().map(|meta| (meta.name, meta.modified)));
            after = all.keys().next_back().cloned();
            if !full {
                return Ok(all);
            }
        }
    }

    /// Reads what is not known yet. `None`: another janitor was at work; the next pass sees more.
    async fn facts(
        &self,
        reader: &Reader,
        tip: &Tip,
        chain: &State,
        times: &BTreeMap<String, i64>,
        known: &mut Known,
    ) -> Result<Option<Seen>, LogError> {
        let first = known.keys().next_back().copied().unwrap_or(0) + 1;
        for seq in first..=tip.seq {
            let retired = chain.retired_seqs.contains(&seq);
            let record = match reader.at(seq).await? {
                At::Record(record) => record,
                _ if retired => continue,
                _ => return Ok(None),
            };
            let base = base(known, &record);
            let before = match known.get(&(seq - 1)) {
                _ if retired => None,
                // With a new base things may lie elsewhere.
                Some((previous, Some(tree))) if self.base_stays(known, previous, base) => Some(tree.clone()),
                _ if seq == 1 => Some(Tree::new()),
                _ => match self.tree_from(reader, base, seq - 1).await? {
                    Some(tree) => Some(tree),
                    None => return Ok(None),
                },
            };
            let tree = match (&record.record.kind, before) {
                (Some(Kind::Commit(commit)), Some(before)) => match read_change(reader.site(), commit).await? {
                    Some(change) => Some(apply(reader.site().incarnation(), &before, seq, &change.deltas)),
                    None => return Ok(None),
                },
                (_, before) => before,
            };
            known.insert(seq, (*record, tree));
        }
        let (mut records, mut objects) = (BTreeMap::new(), BTreeMap::new());
        let mut parts: BTreeMap<Seq, BTreeSet<String>> = BTreeMap::new();
        for (seq, (record, tree)) in known.iter() {
            let base = base(known, record);
            let unretired = !chain.retired_seqs.contains(seq);
            if unretired && base > 0 && !parts.contains_key(&base) {
                let Some(index) = checkpoint::load(reader.site(), base).await? else { return Ok(None) };
                let incarnation = reader.site().incarnation();
                let names = index.parts.iter().filter_map(|part| names::absolute(incarnation, &part.name)).map(|(_, name)| name);
                parts.insert(base, names.chain([names::checkpoint_index(incarnation, base)]).collect());
            }
            let tree = if unretired { tree.as_ref() } else { None };
            // Not listed yet: stored just now.
            let stored = times.get(&reader.site().record_name(*seq)).copied().unwrap_or_else(|| self.kit.sim.store_time());
            records.insert(*seq, fact(reader.site(), record, tree, base, stored));
            objects.insert(*seq, objects_of(tree, parts.get(&base)));
        }
        let facts = Facts { h: tip.seq, epoch: tip.epoch, checkpoint: tip.checkpoint, records };
        Ok(Some(Seen { facts, objects }))
    }

    fn base_stays(&self, known: &Known, previous: &Record, now: Seq) -> bool {
        self.kit.bug == Bug::GatheredForgotten || base(known, previous) == now
    }

    async fn tree_from(&self, reader: &Reader, base: Seq, upto: Seq) -> Result<Option<Tree>, LogError> {
        let mut tree = Tree::new();
        if base > 0 {
            let Some((there, _)) = load_checkpoint(reader.site(), base).await? else { return Ok(None) };
            tree = there;
        }
        for seq in base + 1..=upto {
            let At::Record(record) = reader.at(seq).await? else { return Ok(None) };
            if let Some(Kind::Commit(commit)) = &record.record.kind {
                let Some(change) = read_change(reader.site(), commit).await? else { return Ok(None) };
                tree = apply(reader.site().incarnation(), &tree, seq, &change.deltas);
            }
        }
        Ok(Some(tree))
    }

    fn rules(&self) -> Rules {
        let rules = Rules::parse("hourly=3 daily=2 min_keep=1").unwrap();
        Rules { keep_all: Duration::from_nanos(self.dense), branches: Duration::from_nanos(GRACE), ..rules }
    }

    async fn plan(&self, site: &Site, seen: &Seen, chain: &State, listing: &[String], known: &Known) -> Result<Retirement, LogError> {
        let (Seen { mut facts, mut objects }, mut chain) = (seen.clone(), chain.clone());
        let claimed: BTreeSet<Seq> = chain.claims.values().map(|claim| claim.seq).collect();
        let mut rules = self.rules();
        match self.kit.bug {
            Bug::GcEpochInForce => facts.epoch += 1,
            Bug::ClaimIgnored => chain.claims.clear(),
            Bug::ExpiredNotReleased => {
                for claim in chain.expired(self.kit.sim.store_time()) {
                    chain.claims.remove(&claim);
                }
            }
            Bug::BaseNotKept => rules.branches = Duration::ZERO,
            Bug::DeltaForgotten => facts.records.values_mut().for_each(|fact| fact.delta.clear()),
            Bug::AdoptionIgnored => {
                for fact in facts.records.values_mut() {
                    if let What::Open { adopted } = &mut fact.what {
                        adopted.clear();
                    }
                }
            }
            Bug::NewestByListing => {
                let newest = listing.iter().filter_map(|name| names::parse_checkpoint_index(name)).map(|(_, seq)| seq).max().unwrap_or(0);
                if newest > facts.checkpoint {
                    facts.checkpoint = newest;
                    if let Some(index) = checkpoint::load(site, newest).await? {
                        let own: BTreeSet<String> = index
                            .parts
                            .iter()
                            .filter_map(|part| names::absolute(site.incarnation(), &part.name))
                            .map(|(_, name)| name)
                            .collect();
                        for (seq, fact) in facts.records.iter_mut().filter(|(seq, _)| **seq >= newest) {
                            fact.base = newest;
                            let packs = known[seq].1.iter().flat_map(Tree::values).map(|(_, pack)| pack.clone());
                            objects.insert(*seq, packs.chain(own.clone()).collect());
                        }
                    }
                }
            }
            _ => {}
        }
        let kept = plan::keep(&facts, &chain, &rules, self.kit.sim.store_time());
        let inventory = Inventory::of(site.incarnation(), listing.iter().map(String::as_str));
        let mut sweep = Sweep::begin(&facts, &chain, &|seq| kept.contains_key(&seq), inventory);
        objects.values().flatten().for_each(|name| sweep.names(name));
        for seq in sweep.readable().clone() {
            objects[&seq].iter().for_each(|name| sweep.needs(name));
            sweep.told(seq);
        }
        let mut seqs = sweep.retiring().clone();
        // The chain itself refuses to retire what is claimed: only the objects are left to forget.
        seqs.retain(|seq| !claimed.contains(seq));
        let objects = sweep.garbage().unwrap().into_iter().map(|id| id.name(site.incarnation())).collect();
        Ok(Retirement { seqs, objects })
    }

    async fn retire(&self, chain: &mut Chain, facts: &Facts, retirement: &Retirement) -> Result<(), LogError> {
        let seen = chain.state().number;
        let retire = Retire {
            seqs: retirement.seqs.iter().copied().collect(),
            objects: retirement.objects.clone(),
            moved: Vec::new(),
            read_log_to: facts.h,
        };
        // Planned on the chain as it was: on a longer one it is planned again, in the next pass.
        let decide = |state: &State| if state.number == seen { Ok(Control::Retire(retire.clone())) } else { Err(Refused::Already) };
        let number = chain.append("janitor", self.kit.sim.store_time(), &decide).await?;
        self.kit.sim.note(|| format!("{} retire {number}: {:?}", self.kit.id, retirement.seqs));
        Ok(())
    }

    async fn delete(&self, reader: &Reader, chain: &State, facts: &Facts, listing: &[String], known: &mut Known) -> Result<(), LogError> {
        let newest = known.keys().next_back().copied();
        let mut facts = facts.clone();
        if self.kit.bug == Bug::FreeOpens {
            facts.records.values_mut().filter(|fact| matches!(fact.what, What::Open { .. })).for_each(|fact| fact.what = What::Close);
        }
        if self.kit.bug == Bug::InlineForgotten {
            facts.records.values_mut().for_each(|fact| fact.records.clear());
        }
        let facts = &facts;
        let incarnation = reader.site().incarnation();
        let objects = plan::deletable(chain, &Inventory::of(incarnation, listing.iter().map(String::as_str)));
        let seqs = plan::freeable(reader.site(), facts, chain);
        for name in objects.into_iter().map(|id: ObjectId| id.name(incarnation)) {
            self.kit.store.delete(&name).await.map_err(LogError::Unreachable)?;
        }
        if self.kit.bug == Bug::FreeUnmarked {
            for seq in seqs {
                self.kit.store.delete(&reader.site().record_name(seq)).await.map_err(LogError::Unreachable)?;
            }
            return Ok(());
        }
        block::free(reader, chain, plan::free_below(facts, chain), &seqs).await?;
        known.retain(|seq, _| !seqs.contains(seq) || Some(seq) == newest.as_ref());
        Ok(())
    }

    /// Claims that nobody needs any more: branches that a person has looked at.
    pub async fn release_some(&self, site: &Site) -> Result<(), LogError> {
        let mut chain = Chain::read(site.clone()).await?;
        let old = chain.state().claims.iter().find(|(_, claim)| claim.kind == "branch").map(|(number, _)| *number);
        if let Some(claim) = old {
            chain.append("janitor", self.kit.sim.store_time(), &|_| Ok(Control::Release(Release { claim }))).await?;
        }
        self.kit.pause(SECOND, MINUTE).await;
        Ok(())
    }
}

/// The checkpoint that a record names; of a `close` the one that the record before it names.
fn base(known: &Known, record: &Record) -> Seq {
    let before = || known.range(..record.seq).rev().find_map(|(_, (record, _))| record.checkpoint());
    record.checkpoint().or_else(before).unwrap_or(0)
}

fn fact(site: &Site, record: &Record, tree: Option<&Tree>, base: Seq, stored: i64) -> Fact {
    let what = match &record.record.kind {
        Some(Kind::Open(_)) => What::Open {
            adopted: objects_named(&record.record)
                .into_iter()
                .filter_map(|object| names::absolute(site.incarnation(), &object.name))
                .map(|(_, name)| name)
                .collect(),
        },
        Some(Kind::Close(_)) => What::Close,
        Some(Kind::Fence(_)) => What::Fence,
        _ => What::Commit { full: true, inodes: tree.map_or(0, |tree| tree.len() as u64), bytes: 0 },
    };
    let places = || tree.into_iter().flat_map(Tree::values).map(|(_, place)| place);
    let records = places().filter_map(|place| names::parse_commit(place)).map(|(_, seq)| seq).collect();
    let delta = match &record.record.kind {
        Some(Kind::Commit(commit)) => delta_packs(site.incarnation(), commit).into_iter().collect(),
        _ => BTreeSet::new(),
    };
    Fact { what, epoch: record.epoch(), stored, cut: record.record.time, base, delta, records }
}

/// Packs of a tree, and the index and parts of its checkpoint.
fn objects_of(tree: Option<&Tree>, parts: Option<&BTreeSet<String>>) -> BTreeSet<String> {
    let places = tree.into_iter().flat_map(Tree::values).map(|(_, place)| place);
    places.filter(|place| names::parse_commit(place).is_none()).chain(parts.into_iter().flatten()).cloned().collect()
}
