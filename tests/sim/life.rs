//! One incarnation as it truly is: its records in their order, and what each of them may say after the ones before.

use super::tree::{Change, Tree, change, delta_packs, holds, sets};
use bytes::Bytes;
use holdfast::format::names;
use holdfast::format::seal::Sealer;
use holdfast::rpc::log_record::Kind;
use holdfast::rpc::{Claim, Commit, LogRecord};
use holdfast::types::{Epoch, Hash, Incarnation, Seq};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A record that is the first its number ever held.
#[derive(Clone, Debug)]
pub struct Truth {
    pub hash: Hash,
    pub epoch: Epoch,
    pub tree: Arc<Tree>,
    pub base: Seq,
    pub at: u64,
    pub kind: &'static str,
    pub(super) cache: Bytes,
    pub(super) needs: Vec<String>,
    // What it sets, and the packs that hold its delta.
    pub(super) sets: Vec<(u64, (u64, String))>,
    pub(super) frames: Vec<String>,
}

/// One incarnation.
#[derive(Debug)]
pub struct Life {
    pub sealer: Sealer,
    pub records: BTreeMap<Seq, Truth>,
    pub epoch: Epoch,
    pub opened_at: BTreeMap<Epoch, u64>,
    pub retired: BTreeSet<Seq>,
    pub claims: BTreeMap<u64, Claim>,
    pub attached: BTreeSet<String>,
    pub purged: bool,
    pub fenced: bool,
    pub ghosts: u64,
    pub(super) retired_objects: BTreeSet<String>,
    pub(super) writer: Bytes,
    pub(super) closed: bool,
    pub(super) adopted: Vec<String>,
    pub(super) checkpoints: BTreeMap<Seq, Vec<String>>,
    // As read from their parts.
    pub(super) trees: BTreeMap<Seq, Tree>,
    // Every pack that any commit named for a value.
    pub(super) named: BTreeSet<String>,
    pub(super) floors: BTreeMap<u64, u64>,
    pub(super) control: u64,
}

impl Life {
    pub fn head(&self) -> Seq {
        self.records.keys().next_back().copied().unwrap_or(0)
    }
}

pub(super) type Exists<'a> = &'a dyn Fn(&str) -> bool;
pub(super) type Get<'a> = &'a dyn Fn(&str) -> Option<Bytes>;

/// What follows from a record.
pub(super) struct Next {
    pub(super) tree: Arc<Tree>,
    pub(super) base: Seq,
    pub(super) kind: &'static str,
    pub(super) set: Vec<(u64, (u64, String))>,
    pub(super) frames: Vec<String>,
    pub(super) needs: Vec<String>,
    pub(super) cache: Bytes,
}

/// The cache that an `open` goes on from.
fn opener(message: &LogRecord) -> Option<Bytes> {
    match &message.kind {
        Some(Kind::Open(open)) => Some(open.holder.as_ref().map(|holder| holder.cache_id.clone()).unwrap_or_default()),
        _ => None,
    }
}

impl Life {
    pub(super) fn new(sealer: Sealer) -> Self {
        Self {
            sealer,
            records: BTreeMap::new(),
            epoch: 0,
            opened_at: BTreeMap::new(),
            retired: BTreeSet::new(),
            claims: BTreeMap::new(),
            attached: BTreeSet::new(),
            purged: false,
            fenced: false,
            ghosts: 0,
            retired_objects: BTreeSet::new(),
            writer: Bytes::new(),
            closed: false,
            adopted: Vec::new(),
            checkpoints: BTreeMap::new(),
            trees: BTreeMap::new(),
            named: BTreeSet::new(),
            floors: BTreeMap::new(),
            control: 0,
        }
    }

    /// Holds the next record against everything before it, and says what follows from it.
    pub(super) fn next(
        &mut self,
        incarnation: Incarnation,
        seq: Seq,
        message: &LogRecord,
        bytes: &Bytes,
        exists: Exists<'_>,
        get: Get<'_>,
    ) -> Result<Next, String> {
        let head = self.head();
        if seq != head + 1 {
            return Err(format!("I1: record {seq} was stored while the log ends at {head}"));
        }
        let parent = self.records.get(&head);
        if parent.is_some_and(|parent| message.parent_hash != parent.hash.as_bytes()) {
            return Err(format!("I1: record {seq} is not the child of record {head}"));
        }
        self.check_epoch(message)?;
        let before = parent.map(|parent| Arc::clone(&parent.tree)).unwrap_or_default();
        let old = parent.map_or(0, |parent| parent.base);
        let (base, kind) = match message.kind.as_ref().unwrap() {
            Kind::Commit(commit) => (commit.checkpoint, "commit"),
            Kind::Open(open) => (open.checkpoint, "open"),
            Kind::Close(_) => (old, "close"),
            Kind::Fence(_) => (old, "fence"),
        };
        let commit = match message.kind.as_ref().unwrap() {
            Kind::Commit(commit) => Some(change(incarnation, commit, get).ok_or(format!("I5: the delta of commit {seq} is not there"))?),
            _ => None,
        };
        let (set, frames) = match &commit {
            Some(Change { commit, deltas }) => (sets(incarnation, seq, deltas), delta_packs(incarnation, commit)),
            None => (Vec::new(), Vec::new()),
        };
        let cache = opener(message).unwrap_or_else(|| parent.map(|parent| parent.cache.clone()).unwrap_or_default());
        let tree = Arc::new(self.read_from(base, (base != old).then_some(seq), &before, &set));
        if let Some(Change { commit, .. }) = &commit {
            self.floors_hold(&tree, commit, seq)?;
            self.check_names(seq, &before, &set)?;
            let record = (names::commit(incarnation, seq), bytes.clone());
            self.check_values(&set, &|name| if name == record.0 { Some(record.1.clone()) } else { get(name) })?;
        }
        let mut needs: Vec<String> = tree.values().map(|(_, place)| place.clone()).collect();
        needs.extend((base + 1..=seq).map(|n| names::commit(incarnation, n)));
        // A record is read with its delta, wherever that lies.
        needs.extend(self.records.range(base + 1..).flat_map(|(_, truth)| truth.frames.clone()).chain(frames.clone()));
        if base > 0 {
            let parts = self.checkpoints.get(&base).ok_or(format!("I5: record {seq} names checkpoint {base}, which is not there"))?;
            if let Some(missing) = parts.iter().find(|part| !exists(part)) {
                return Err(format!("I5: record {seq} names checkpoint {base}, whose {missing} is gone"));
            }
            needs.extend(parts.iter().cloned());
        }
        Ok(Next { tree, base, kind, set, frames, needs, cache })
    }

    fn check_epoch(&self, message: &LogRecord) -> Result<(), String> {
        let (seq, epoch) = (message.seq, message.epoch);
        if self.fenced {
            return Err(format!("I1: record {seq} was stored after the fence"));
        }
        let opens = matches!(message.kind, Some(Kind::Open(_) | Kind::Fence(_)));
        if opens && epoch == self.epoch + 1 {
            return Ok(());
        }
        if !opens && epoch == self.epoch && message.writer == self.writer && !self.closed {
            return Ok(());
        }
        Err(format!("I1: record {seq} of epoch {epoch} while epoch {} is in force", self.epoch))
    }

    /// Takes the record's effect on the epoch in; gives the adoptions that end with it.
    pub(super) fn note(&mut self, now: u64, message: &LogRecord, incarnation: Incarnation) -> Option<Vec<String>> {
        self.closed = matches!(message.kind, Some(Kind::Close(_)));
        match message.kind.as_ref() {
            Some(Kind::Open(open)) => {
                self.epoch = message.epoch;
                self.writer = message.writer.clone();
                self.opened_at.insert(self.epoch, now);
                let adopted = open.adopted.iter().filter_map(|object| names::absolute(incarnation, &object.name)).map(|(_, name)| name);
                Some(std::mem::replace(&mut self.adopted, adopted.collect()))
            }
            Some(Kind::Fence(_)) => {
                self.epoch = message.epoch;
                self.fenced = true;
                self.opened_at.insert(self.epoch, now);
                Some(std::mem::take(&mut self.adopted))
            }
            _ => None,
        }
    }

    /// The tree of the next record, read from `base`. `again`: the base is a new one, and things may lie elsewhere than `before` says.
    fn read_from(&self, base: Seq, again: Option<Seq>, before: &Tree, set: &[(u64, (u64, String))]) -> Tree {
        let Some(seq) = again else { return before.iter().map(|(k, v)| (*k, v.clone())).chain(set.iter().cloned()).collect() };
        let mut tree = self.trees.get(&base).cloned().unwrap_or_default();
        tree.extend(self.records.range(base + 1..seq).flat_map(|(_, truth)| truth.sets.clone()));
        tree.extend(set.iter().cloned());
        tree
    }

    /// protocol.md 3: what the parent does not name, and no claim holds, is never named again.
    fn check_names(&mut self, seq: Seq, before: &Tree, set: &[(u64, (u64, String))]) -> Result<(), String> {
        for (_, (_, place)) in set {
            let shown = |tree: &Tree| tree.values().any(|(_, other)| other == place);
            let claimed = || self.claims.values().any(|claim| self.records.get(&claim.seq).is_some_and(|truth| shown(&truth.tree)));
            if self.named.contains(place) && !shown(before) && !claimed() {
                return Err(format!("protocol.md 3: commit {seq} names {place}, which was named before and dropped"));
            }
        }
        self.named.extend(set.iter().map(|(_, (_, place))| place.clone()));
        Ok(())
    }

    fn check_values(&self, set: &[(u64, (u64, String))], get: Get<'_>) -> Result<(), String> {
        for (key, (value, place)) in set {
            match get(place) {
                None => return Err(format!("I5: {place} is named for {key}={value}, and is not there")),
                Some(bytes) if !holds(&self.sealer, place, &bytes, *key, *value) => {
                    return Err(format!("I6: {place} is named for {key}={value}, which it does not hold"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn floors_hold(&mut self, tree: &Tree, commit: &Commit, seq: Seq) -> Result<(), String> {
        if commit.note == "restore" {
            // An explicit restore: from now on what it shows is what was asked for.
            for (key, floor) in &mut self.floors {
                *floor = tree.get(key).map_or(0, |(value, _)| *value);
            }
        }
        for (key, floor) in &self.floors {
            let shown = tree.get(key).map_or(0, |(value, _)| *value);
            if shown < *floor {
                return Err(format!("I2: {key}={floor} was acknowledged, commit {seq} shows {shown}"));
            }
        }
        Ok(())
    }
}
