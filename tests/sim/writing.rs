//! What a node does with the volume while it has it: upload, commit, checkpoint, restore, fill a clone.

use super::bugs::Bug;
use super::engine::{Home, Pending, base_of, commit_of, home, put_checkpoint, tree_at};
use super::exec::SECOND;
use super::node::{Node, Running, Stop};
use super::tree::{Change, Tree, apply, same};
use holdfast::format::names;
use holdfast::log::control::Chain;
use holdfast::log::{At, Framed, Prepared, Reader, Site};
use holdfast::rpc::control_record::Kind as Control;
use holdfast::rpc::{ObjectRef, Release};
use holdfast::types::{Hash, Incarnation};
use std::collections::BTreeMap;

impl Node {
    /// I7: what is clean may go; its commit must be in the log, readable, and recorded here.
    pub(super) fn evict(&self, running: &Running) {
        let (head, durable) = {
            let disk = self.disk.lock();
            (disk.live.as_ref().unwrap().head, disk.durable.as_ref().map(|cache| cache.head))
        };
        let cache = self.cache();
        let oracle = self.kit.world.oracle.lock();
        let life = &oracle.lives[&running.found.incarnation];
        let fenced = life.opened_at.get(&(running.writer.epoch() + 1)).copied();
        if life.purged || fenced.is_some_and(|fenced| self.kit.sim.now() - fenced >= super::janitor::GRACE) {
            return;
        }
        let truth = life.records.get(&head.seq).filter(|truth| truth.hash == head.hash);
        // An inline value whose record was freed lies where the newest checkpoint says, which the log's own tree is read from.
        let there = |(_, place): &(u64, String)| self.kit.world.bytes(place).is_some();
        let wrong = cache.tree.iter().find(|(key, value)| {
            let shown = truth.and_then(|truth| truth.tree.get(key)).filter(|shown| shown.0 == value.0);
            let moved = names::parse_commit(&value.1).is_some() && self.kit.bug != Bug::MoveNotFollowed;
            !cache.dirty.contains_key(key) && shown.is_none_or(|shown| !there(shown) || !(moved || there(value)))
        });
        drop(oracle);
        if wrong.is_some() || durable != Some(head) {
            self.kit.sim.violate(format!("I7: node {} evicts {wrong:?} at {}, durable {durable:?}", self.kit.id, head.seq));
        }
    }

    pub(super) async fn commit(&self, running: &mut Running) -> Result<(), Stop> {
        let frozen = self.cache().dirty;
        if frozen.is_empty() {
            return Ok(());
        }
        let mut changes: BTreeMap<u64, (u64, Home)> = BTreeMap::new();
        let mut fresh = BTreeMap::new();
        let usable: Vec<ObjectRef> = running.writer.nameable().unnamed().cloned().collect();
        for (key, value) in &frozen {
            // An upload of this or an adopted epoch is used again as long as its content is what is dirty.
            match self.cache().unnamed.iter().find(|(object, entries)| entries.get(key) == Some(value) && usable.contains(object)) {
                Some((object, _)) => drop(changes.insert(*key, (*value, Home::Object(object.clone())))),
                None => drop(fresh.insert(*key, *value)),
            }
        }
        for entries in halves(fresh, self.kit.sim.permille(300)) {
            if self.kit.sim.permille(self.habits.inline) {
                changes.extend(entries.into_iter().map(|(key, value)| (key, (value, Home::Here))));
                continue;
            }
            let Some(object) = self.upload(running, &entries).await? else { return Ok(()) };
            changes.extend(entries.into_iter().map(|(key, value)| (key, (value, Home::Object(object.clone())))));
        }
        let Some(change) = self.place_delta(running, commit_of(&changes, "")).await? else { return Ok(()) };
        let prepared = self.prepare(running, &change)?;
        self.put(running, prepared, frozen, change).await?;
        if running.writer.head().seq >= running.last_checkpoint + self.habits.checkpoint_every {
            self.checkpoint(running).await?;
        }
        Ok(())
    }

    /// Checks what the commit names, then gives it a number.
    fn prepare(&self, running: &mut Running, change: &Change) -> Result<Prepared, Stop> {
        let incarnation = running.found.incarnation;
        let tree = self.cache().tree;
        let named = |name: &str| {
            let absolute = names::absolute(incarnation, name).map(|(_, name)| name).unwrap_or_default();
            tree.values().any(|(_, place)| *place == absolute)
        };
        let framed = if change.commit.delta.is_none() { change.deltas.as_slice() } else { &[] };
        let approved = running.writer.nameable().approve(change.commit.clone(), &Framed::of(framed), &named);
        let approved = approved.inspect_err(|error| self.kit.sim.violate(error.to_string()))?;
        Ok(running.writer.prepare(approved)?)
    }

    /// Some deltas lie in frames of a pack of their own, as too large ones do. `None`: it could not be uploaded.
    async fn place_delta(&self, running: &mut Running, change: Change) -> Result<Option<Change>, Stop> {
        if !self.kit.sim.permille(self.habits.framed) {
            return Ok(Some(change));
        }
        let (change, object, name, bytes) = self.kit.framed(running.reader.site(), running.writer.epoch(), change);
        if self.kit.put_pack(&name, &bytes).await.is_none() {
            self.kit.pause(SECOND, 5 * SECOND).await;
            return Ok(None);
        }
        running.writer.nameable().uploaded(object)?;
        self.kit.world.oracle.lock().count("deltas in packs");
        Ok(Some(change))
    }

    async fn upload(&self, running: &mut Running, entries: &BTreeMap<u64, u64>) -> Result<Option<ObjectRef>, Stop> {
        running.packs = running.packs.max(running.writer.head().seq * 4) + u64::from(self.kit.bug != Bug::ReusePackName);
        let (object, name, bytes) = self.kit.pack(running.reader.site(), running.writer.epoch(), running.packs, entries);
        self.with(|cache| cache.unnamed.push((object.clone(), entries.clone())));
        self.make_durable_sometimes();
        if self.kit.put_pack(&name, &bytes).await.is_none() {
            // It may land yet, but nothing of it is used; only an adoption may find it.
            self.kit.pause(SECOND, 5 * SECOND).await;
            return Ok(None);
        }
        running.writer.nameable().uploaded(object.clone())?;
        // A process often ends between an upload and its commit here: that is what adoptions are for.
        if self.kit.sim.permille(20) { Err(Stop::Exit) } else { Ok(Some(object)) }
    }

    fn make_durable_sometimes(&self) {
        if self.kit.sim.permille(500) {
            self.make_durable();
        }
    }

    /// Intent, put, resolve.
    async fn put(&self, running: &mut Running, prepared: Prepared, frozen: BTreeMap<u64, u64>, change: Change) -> Result<(), Stop> {
        let pending = Pending { intent: prepared.intent().clone(), frozen: frozen.clone(), change: change.clone() };
        if self.kit.bug != Bug::SkipIntent {
            self.with(|cache| cache.intent = Some(pending));
        }
        if self.kit.bug != Bug::PutBeforeDurable {
            self.make_durable();
        }
        if self.kit.bug == Bug::CleanBeforeResolved {
            self.with(|cache| cache.tree = apply(cache.found.incarnation, &cache.tree, prepared.seq(), &change.deltas));
            self.with(|cache| cache.dirty.clear());
            self.evict(running);
        }
        let head = loop {
            if self.kit.bug == Bug::Recut {
                // Past the writer's bookkeeping: one try, then something else under the same number.
                let name = running.reader.site().record_name(prepared.seq());
                if self.kit.store.put_if_absent(&name, prepared.intent().bytes.clone()).await.is_err() {
                    running.writer.abandon(&prepared)?;
                    self.with(|cache| cache.intent = None);
                    return Ok(());
                }
            }
            let result = running.writer.put(&prepared).await;
            if let Some(head) = self.outcome(running, result.map(Some))? {
                break head;
            }
            self.kit.pause(SECOND, 20 * SECOND).await;
        };
        let incarnation = running.found.incarnation;
        self.with(|cache| {
            cache.tree = apply(incarnation, &cache.tree, head.seq, &change.deltas);
            cache.head = head;
            cache.intent = None;
            cache.dirty.retain(|key, value| frozen.get(key) != Some(value));
            let named: Vec<&ObjectRef> = change.deltas.iter().flat_map(|delta| &delta.objects).collect();
            cache.unnamed.retain(|(object, _)| !named.contains(&object));
        });
        self.make_durable();
        running.last_check = self.kit.sim.now();
        let cache = self.cache();
        let mut oracle = self.kit.world.oracle.lock();
        let acked = oracle.acknowledged(self.kit.id, incarnation, head.seq, head.hash, &frozen);
        let same = acked.is_ok() && same(&oracle.lives[&incarnation].records[&head.seq].tree, &cache.tree);
        drop(oracle);
        self.kit.check(acked);
        if !same {
            self.kit.sim.violate(format!("I9: node {} shows something else than commit {}", self.kit.id, head.seq));
        }
        Ok(())
    }

    async fn checkpoint(&self, running: &mut Running) -> Result<(), Stop> {
        if let Err(error) = running.writer.verify_newest().await {
            self.unforeseen("verify", &error);
            return Ok(());
        }
        let cache = self.cache();
        let previous = running.writer.checkpoint();
        let site = running.reader.site().clone();
        // Made from the checkpoint before and the deltas since: where the log says that things lie, which the cache need not know.
        let head = running.writer.head().seq;
        let shown = self.kit.world.oracle.lock().lives[&running.found.incarnation].records.get(&head).map(|record| record.tree.clone());
        let Some(shown) = shown else {
            self.kit.sim.violate(format!("I1: node {} stands at {head}, which was never acknowledged", self.kit.id));
            return Ok(());
        };
        let Some(tree) = self.gathered(running, &shown).await else { return Ok(()) };
        match put_checkpoint(&self.kit, &site, running.writer.head(), &tree, &cache.opens, previous).await {
            Ok(Some(seq)) => {
                running.writer.name_checkpoint(seq);
                running.last_checkpoint = seq;
            }
            Ok(None) => {}
            Err(error) => {
                // A fenced writer may find the checkpoint that it shares with gone.
                if running.writer.check_fenced().await.is_ok() {
                    self.unforeseen("checkpoint", &error);
                }
            }
        }
        Ok(())
    }

    /// A tree whose inline values have moved into a pack that the checkpoint alone names. `None`: it could not be uploaded.
    async fn gathered(&self, running: &mut Running, tree: &Tree) -> Option<Tree> {
        let inline: BTreeMap<u64, u64> =
            tree.iter().filter(|(_, (_, place))| names::parse_commit(place).is_some()).map(|(key, (value, _))| (*key, *value)).collect();
        if inline.is_empty() || !self.habits.gather {
            return Some(tree.clone());
        }
        running.packs = running.packs.max(running.writer.head().seq * 4) + u64::from(self.kit.bug != Bug::ReusePackName);
        let (_, name, bytes) = self.kit.pack(running.reader.site(), running.writer.epoch(), running.packs, &inline);
        self.kit.put_pack(&name, &bytes).await?;
        self.kit.world.oracle.lock().count("inline values gathered");
        Some(
            tree.iter()
                .map(|(key, (value, place))| (*key, (*value, if inline.contains_key(key) { name.clone() } else { place.clone() })))
                .collect(),
        )
    }

    /// An explicit restore by reference: claim, commit that names what the claim holds, release.
    pub(super) async fn restore(&self, running: &mut Running) -> Result<(), Stop> {
        if !self.cache().dirty.is_empty() || self.cache().head.seq < 3 {
            return Ok(());
        }
        let site = running.reader.site().clone();
        let seq = self.kit.sim.between(1, self.cache().head.seq - 1);
        let claim = match self.claim(&site, seq, "pin", "restore").await {
            Ok(claim) => claim,
            Err(error) => {
                self.unforeseen("claim", &error);
                return Ok(());
            }
        };
        let At::Record(record) = running.reader.at(seq).await? else {
            self.kit.sim.violate(format!("I5: commit {seq} is claimed and not there"));
            return Err(Stop::Exit);
        };
        let Some(base) = base_of(&running.reader, seq).await? else { return Err(Stop::Exit) };
        let read = tree_at(&running.reader, seq, record.hash, base).await.inspect_err(|error| self.unforeseen("restore", error))?;
        let Some((tree, _)) = read else {
            self.kit.sim.violate(format!("I5: commit {seq} is claimed and cannot be read"));
            return Err(Stop::Exit);
        };
        self.commit_tree(running, &tree, "restore").await?;
        self.kit.world.oracle.lock().count("restores");
        self.release(&site, claim).await;
        Ok(())
    }

    pub(super) async fn release(&self, site: &Site, claim: u64) {
        if let Ok(mut chain) = Chain::read(site.clone()).await {
            let result = chain.append("controller", self.kit.sim.store_time(), &|_| Ok(Control::Release(Release { claim }))).await;
            drop(result);
        }
    }

    /// A commit that names what a claim holds. What lies inline in another incarnation has no name in this one, and is copied.
    async fn commit_tree(&self, running: &mut Running, tree: &Tree, note: &str) -> Result<(), Stop> {
        let incarnation = running.found.incarnation;
        let mut changes = BTreeMap::new();
        let mut copied = BTreeMap::new();
        for (key, (value, place)) in tree {
            match home(incarnation, place) {
                Some(home) => drop(changes.insert(*key, (*value, home))),
                None => drop(copied.insert(*key, *value)),
            }
        }
        let claimed: Vec<String> = changes.values().filter_map(|(_, home)| named(incarnation, home)).collect();
        if !copied.is_empty() {
            let Some(object) = self.upload(running, &copied).await? else { return Ok(()) };
            changes.extend(copied.into_iter().map(|(key, value)| (key, (value, Home::Object(object.clone())))));
        }
        if changes.is_empty() {
            return Ok(());
        }
        let Some(change) = self.place_delta(running, commit_of(&changes, note)).await? else { return Ok(()) };
        running.writer.nameable().claimed(claimed);
        let prepared = self.prepare(running, &change)?;
        let frozen = changes.iter().map(|(key, (value, _))| (*key, *value)).collect();
        self.put(running, prepared, frozen, change).await?;
        running.writer.nameable().unclaimed();
        Ok(())
    }

    /// A clone's first commit names its origin's packs, which the claim in the origin's chain holds.
    pub(super) async fn fill_clone(&self, running: &mut Running) -> Result<(), Stop> {
        let Some(origin) = running.found.volume.origin.clone() else { return Ok(()) };
        if !self.cache().tree.is_empty() {
            return Ok(());
        }
        let incarnation = Incarnation::from_slice(&origin.incarnation).unwrap();
        let key: [u8; 32] = origin.data_key.as_ref().try_into().unwrap();
        let reader = Reader::new(self.kit.site_of(incarnation, &key));
        let Some(base) = base_of(&reader, origin.seq).await? else {
            self.kit.sim.violate(format!("I5: record {} of a clone's origin is gone", origin.seq));
            return Err(Stop::Exit);
        };
        let hash = Hash::from_slice(&origin.commit_hash).unwrap();
        let read = tree_at(&reader, origin.seq, hash, base).await.inspect_err(|error| self.unforeseen("clone", error))?;
        let Some((tree, _)) = read else {
            self.kit.sim.violate(format!("I5: record {} of a clone's origin cannot be read", origin.seq));
            return Err(Stop::Exit);
        };
        self.commit_tree(running, &tree, "").await
    }
}

fn halves(entries: BTreeMap<u64, u64>, split: bool) -> Vec<BTreeMap<u64, u64>> {
    if entries.is_empty() {
        return Vec::new();
    }
    if !split || entries.len() < 2 {
        return vec![entries];
    }
    let (left, right) = entries.into_iter().partition(|(key, _)| key % 2 == 0);
    [left, right].into_iter().filter(|half: &BTreeMap<u64, u64>| !half.is_empty()).collect()
}

/// What a commit must be allowed to name, relative to its incarnation.
fn named(incarnation: Incarnation, home: &Home) -> Option<String> {
    match home {
        Home::Object(object) => Some(object.name.clone()),
        Home::Record(seq) => names::relative(incarnation, &names::commit(incarnation, *seq)),
        Home::Here => None,
    }
}
