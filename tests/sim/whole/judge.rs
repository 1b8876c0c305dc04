//! What the log says, in the order in which the store applied it, held against the rules and against what applications have seen.

use super::super::life::{Exists, Get};
use super::super::store::Judge;
use super::history::History;
use super::kept::Kept;
use super::person;
use super::shown::{Shown, Source};
use super::tree::Tree;
use bytes::Bytes;
use holdfast::format::seal::{Cipher, Sealer, hash};
use holdfast::format::{branch, checkpoint, control, names, record, volume};
use holdfast::rpc::log_record::Kind;
use holdfast::rpc::{Commit, LogRecord, control_record};
use holdfast::types::{Epoch, Hash, Incarnation, Seq};
use holdfast::volume::ASKED;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A record that is in the log.
#[derive(Clone, Debug)]
pub struct Truth {
    pub hash: Hash,
    pub epoch: Epoch,
    pub shown: Arc<Shown>,
    commit: bool,
}

struct Life {
    sealer: Sealer,
    records: BTreeMap<Seq, Truth>,
    writer: Bytes,
    closed: bool,
    /// By epoch, the machine that opened it.
    hosts: BTreeMap<Epoch, String>,
    adopted: BTreeSet<String>,
    /// Objects that a commit has named.
    named: BTreeSet<String>,
    kept: Kept,
    /// The epoch in force is of a restore in place.
    restoring: bool,
    /// Claims that asked for a restore on the next mount, and had it.
    carried_out: BTreeSet<u64>,
}

/// Judges one volume of one store.
pub struct Log {
    store_sealer: Sealer,
    lives: BTreeMap<Incarnation, Life>,
    ever: BTreeMap<String, Hash>,
    /// By machine, what its applications have seen since the volume was opened there on the cache that it has now, and before.
    histories: BTreeMap<String, Vec<Arc<Mutex<History>>>>,
    /// How often something worth having in a world happened.
    pub seen: BTreeMap<&'static str, u64>,
}

impl Log {
    pub fn new(store_sealer: Sealer) -> Self {
        Self { store_sealer, lives: BTreeMap::new(), ever: BTreeMap::new(), histories: BTreeMap::new(), seen: BTreeMap::new() }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// A machine has opened the volume on a new cache.
    pub fn begins(&mut self, host: &str, history: &Arc<Mutex<History>>) {
        self.histories.entry(host.to_owned()).or_default().push(Arc::clone(history));
    }

    /// A commit that is not retired, if there is one; `choose` gives a number below its argument.
    pub fn some_commit(&self, choose: impl FnOnce(u64) -> u64) -> Option<Seq> {
        let (_, life) = self.lives.first_key_value()?;
        let commits = life.records.iter().filter(|(seq, truth)| truth.commit && !life.kept.retired.contains(seq));
        let commits: Vec<Seq> = commits.map(|(seq, _)| *seq).collect();
        (!commits.is_empty()).then(|| commits[choose(commits.len() as u64) as usize])
    }

    /// Whether a control record is the release of a claim.
    pub fn is_release(&self, name: &str, bytes: &Bytes) -> bool {
        let of = names::parse_control(name).and_then(|(incarnation, _)| self.lives.get(&incarnation));
        let record = of.and_then(|life| control::decode(bytes, &life.sealer, name).ok());
        record.is_some_and(|record| matches!(record.kind, Some(control_record::Kind::Release(_))))
    }

    /// Whether a commit has named an object.
    pub fn is_named(&self, name: &str) -> bool {
        self.lives.values().any(|life| life.named.contains(name))
    }

    /// What the log shows as of a record.
    pub fn at(&self, incarnation: Incarnation, seq: Seq) -> Option<Truth> {
        self.lives.get(&incarnation)?.records.get(&seq).cloned()
    }

    /// The newest record.
    pub fn head(&self) -> Option<(Incarnation, Seq, Truth)> {
        let (incarnation, life) = self.lives.first_key_value()?;
        life.records.last_key_value().map(|(seq, truth)| (*incarnation, *seq, truth.clone()))
    }

    fn record(&mut self, incarnation: Incarnation, seq: Seq, bytes: &Bytes, get: Get<'_>) -> Result<(), String> {
        let Self { lives, histories, seen, .. } = self;
        let life = lives.get_mut(&incarnation).ok_or("a record of nothing")?;
        let name = names::commit(incarnation, seq);
        let message = record::decode(bytes, &life.sealer, &name).map_err(|error| error.to_string())?;
        let parent = life.records.last_key_value().map(|(seq, truth)| (*seq, truth.clone()));
        life.check_place(seq, &message, parent.as_ref())?;
        let before = parent.map(|(_, truth)| truth.shown).unwrap_or_default();
        let (shown, what) = match message.kind.as_ref() {
            Some(Kind::Commit(commit)) => {
                let own = (name.clone(), bytes.clone());
                let get = |name: &str| if name == own.0 { Some(own.1.clone()) } else { get(name) };
                let shown = life.commit(incarnation, seq, commit, &before, &get)?;
                let source = Source { incarnation, sealer: &life.sealer, get: &get };
                let shown = life.kept.record(&source, seq, Some(commit.checkpoint), Some(commit), shown)?;
                let host = &life.hosts[&message.epoch].clone();
                if life.restoring {
                    *seen.entry(life.restored(seq, host == person::HOST, &shown)?).or_default() += 1;
                } else {
                    let history = histories
                        .get(host)
                        .and_then(|all| all.last())
                        .ok_or_else(|| format!("commit {seq} by {host}, where nothing was ever written"))?;
                    *seen.entry("commits that leave a tier").or_default() += u64::from(commit.domains.iter().any(|of| of.seq != seq));
                    history.lock().commit(&shown.tree, commit.full).map_err(|why| format!("I3: commit {seq} of {host} {why}"))?;
                }
                (Arc::new(shown), "commits")
            }
            Some(Kind::Open(open)) => {
                let holder = open.holder.clone().unwrap_or_default();
                let history = histories.get(&holder.host).and_then(|all| all.last()).map(|history| history.lock());
                if let Some(history) = history.filter(|history| history.cache.as_bytes()[..] == holder.cache_id[..]) {
                    let shown = &history.logged;
                    if *shown != before.tree && !is_bare(&before.tree) {
                        let why = before.tree.differs(shown);
                        return Err(format!("protocol.md 7.3: {} goes on with a cache that the log has left behind: {why}", holder.host));
                    }
                }
                life.restoring = holder.cache_id.is_empty();
                life.hosts.insert(message.epoch, holder.host);
                life.writer = message.writer.clone();
                life.adopted =
                    open.adopted.iter().filter_map(|object| names::absolute(incarnation, &object.name)).map(|(_, name)| name).collect();
                if let Some(missing) = life.adopted.iter().find(|name| get(name).is_none()) {
                    return Err(format!("I5: `open` {seq} adopts {missing}, which is not there"));
                }
                if let Some(named) = life.adopted.iter().find(|name| life.named.contains(*name)) {
                    return Err(format!("protocol.md 3: `open` {seq} adopts {named}, which a commit has named"));
                }
                let source = Source { incarnation, sealer: &life.sealer, get };
                let shown = life.kept.record(&source, seq, Some(open.checkpoint), None, Shown::clone(&before))?;
                (Arc::new(shown), if life.adopted.is_empty() { "opens" } else { "opens that adopt" })
            }
            Some(Kind::Close(_)) => {
                let host = &life.hosts[&message.epoch];
                if !life.restoring {
                    let history = histories.get(host).and_then(|all| all.last()).ok_or("a close of nobody")?.lock();
                    history.closed(&before.tree).map_err(|why| format!("I2: `close` {seq} of {host}, and not all is committed: {why}"))?;
                }
                let source = Source { incarnation, sealer: &life.sealer, get };
                (Arc::new(life.kept.record(&source, seq, None, None, Shown::clone(&before))?), "closes")
            }
            _ => return Err(format!("record {seq} is of no kind that is known here")),
        };
        life.closed = what == "closes";
        life.records.insert(seq, Truth { hash: hash(bytes), epoch: message.epoch, shown, commit: what == "commits" });
        self.count(what);
        Ok(())
    }

    /// The head of a branch was stored: it must show a state of the fenced machine, not older than its last commit.
    fn branch(&mut self, incarnation: Incarnation, epoch: Epoch, name: &str, bytes: &Bytes, get: Get<'_>) -> Result<(), String> {
        let life = self.lives.get(&incarnation).ok_or("a branch of nothing")?;
        let made = branch::decode(bytes, &life.sealer, name).map_err(|error| error.to_string())?;
        let base = match made.base_seq {
            0 => Arc::default(),
            seq => Arc::clone(&life.records.get(&seq).ok_or_else(|| format!("branch {epoch} stands on {seq}, which is not there"))?.shown),
        };
        let source = Source { incarnation, sealer: &life.sealer, get };
        let state = made.state.clone().unwrap_or_default();
        let shown = base.next(&source, made.base_seq + 1, &source.deltas(&state)?)?;
        // Of a cache that died before anybody was shown it: the root that a new one begins with.
        if is_bare(&base.tree) && is_bare(&shown.tree) {
            self.count("branches");
            return Ok(());
        }
        let histories = self.histories.get(&made.host).ok_or("a branch of nobody")?;
        if !histories.iter().any(|history| history.lock().may_show(&shown.tree, &base.tree)) {
            let told = histories.iter().map(|history| shown.tree.differs(history.lock().now()));
            let last = told.collect::<Vec<_>>().join(" || ");
            return Err(format!("I16: branch {epoch} shows no state of {}: {last}", made.host));
        }
        self.count("branches");
        Ok(())
    }
}

impl Life {
    fn check_place(&self, seq: Seq, message: &LogRecord, parent: Option<&(Seq, Truth)>) -> Result<(), String> {
        let (head, epoch) = parent.map_or((0, 0), |(seq, truth)| (*seq, truth.epoch));
        if seq != head + 1 {
            return Err(format!("I1: record {seq} was stored while the log ends at {head}"));
        }
        if parent.is_some_and(|(_, truth)| message.parent_hash != truth.hash.as_bytes()) {
            return Err(format!("I1: record {seq} is not the child of record {head}"));
        }
        let fits = match message.kind {
            Some(Kind::Open(_)) => message.epoch == epoch + 1,
            _ => message.epoch == epoch && message.writer == self.writer && !self.closed,
        };
        if fits { Ok(()) } else { Err(format!("I1: record {seq} of epoch {} while epoch {epoch} is in force", message.epoch)) }
    }

    /// Claims, each with the record that it holds.
    fn claimed(&self) -> impl Iterator<Item = (u64, &Truth)> {
        self.kept.claims.iter().filter_map(|(number, claim)| Some((*number, self.records.get(&claim.seq)?)))
    }

    /// A commit that a restore in place made: it shows what a claim holds, and what was asked for on the next mount is done once.
    fn restored(&mut self, seq: Seq, at_once: bool, shown: &Shown) -> Result<&'static str, String> {
        let asked = self.kept.claims.iter().find(|(_, claim)| claim.kind == ASKED && !at_once).map(|(number, _)| *number);
        let same = |(number, truth): (u64, &Truth)| asked.is_none_or(|asked| asked == number) && truth.shown.tree == shown.tree;
        if !self.claimed().any(same) {
            let older: Vec<String> = self.claimed().map(|(_, truth)| shown.tree.differs(&truth.shown.tree)).collect();
            return Err(format!("commit {seq} restores what no claim holds: {}", older.join(" || ")));
        }
        match asked {
            Some(claim) if !self.carried_out.insert(claim) => Err(format!("commit {seq} restores again what claim {claim} asked for once")),
            Some(_) => Ok("restores on the next mount"),
            None => Ok("restores in place"),
        }
    }

    fn commit(&mut self, incarnation: Incarnation, seq: Seq, commit: &Commit, before: &Shown, get: Get<'_>) -> Result<Shown, String> {
        let source = Source { incarnation, sealer: &self.sealer, get };
        let deltas = source.deltas(commit)?;
        let parent = before.objects(incarnation);
        let mut names: BTreeSet<String> = commit
            .delta_frames
            .iter()
            .filter_map(|frame| frame.object.as_ref())
            .chain(deltas.iter().flat_map(|delta| &delta.objects))
            .filter_map(|object| names::absolute(incarnation, &object.name))
            .map(|(_, name)| name)
            .collect();
        if let Some(missing) = names.iter().find(|name| get(name).is_none()) {
            return Err(format!("I5: commit {seq} names {missing}, which is not there"));
        }
        names.retain(|name| !parent.contains(name));
        if self.restoring {
            // 3 iv: what a claim holds.
            let claimed: BTreeSet<String> = self.claimed().flat_map(|(_, truth)| truth.shown.objects(incarnation)).collect();
            names.retain(|name| !claimed.contains(name));
        }
        if let Some(dropped) = names.iter().find(|name| self.named.contains(*name)) {
            return Err(format!("protocol.md 3: commit {seq} names {dropped}, which was named before and dropped"));
        }
        let epoch = self.records.last_key_value().map_or(0, |(_, truth)| truth.epoch);
        let foreign = |name: &&String| names::parse_pack(name).is_none_or(|(_, of, _)| of != epoch) && !self.adopted.contains(*name);
        if let Some(foreign) = names.iter().find(foreign) {
            return Err(format!("protocol.md 3: commit {seq} of epoch {epoch} names {foreign}, which it did not adopt"));
        }
        self.named.extend(names);
        before.next(&source, seq, &deltas)
    }
}

impl Judge for Log {
    fn stored(&mut self, _now: u64, name: &str, bytes: &Bytes, _exists: Exists<'_>, get: Get<'_>) -> Result<(), String> {
        let digest = hash(bytes);
        if *self.ever.entry(name.to_owned()).or_insert(digest) != digest {
            return Err(format!("I6: {name} was stored with two contents"));
        }
        if let Some((incarnation, seq)) = names::parse_commit(name) {
            return self.record(incarnation, seq, bytes, get);
        }
        if let Some((incarnation, epoch, _)) = names::parse_branch_head(name) {
            return self.branch(incarnation, epoch, name, bytes, get);
        }
        if let Some((incarnation, "volume")) = names::parse_volume(name) {
            let volume = volume::decode(bytes, &self.store_sealer, name).map_err(|error| error.to_string())?;
            let key: [u8; 32] = volume.data_key.as_ref().try_into().map_err(|_| "a key of another length")?;
            let sealer = Sealer::new(Cipher::None, &key, self.store_sealer.store(), Some(incarnation));
            let life = Life {
                sealer,
                records: BTreeMap::new(),
                writer: Bytes::new(),
                closed: false,
                hosts: BTreeMap::new(),
                adopted: BTreeSet::new(),
                named: BTreeSet::new(),
                kept: Kept::default(),
                restoring: false,
                carried_out: BTreeSet::new(),
            };
            self.lives.insert(incarnation, life);
        }
        if let Some((incarnation, seq)) = names::parse_checkpoint_index(name) {
            let life = self.lives.get_mut(&incarnation).ok_or("a checkpoint of nothing")?;
            let index = checkpoint::decode_index(bytes, &life.sealer, name).map_err(|error| error.to_string())?;
            let shown = Arc::clone(&life.records.get(&seq).ok_or_else(|| format!("a checkpoint of {seq}, which is not there"))?.shown);
            let source = Source { incarnation, sealer: &life.sealer, get };
            if life.kept.checkpoint(&source, seq, &index, &shown)? {
                self.count("checkpoints");
            }
        }
        if let Some((incarnation, number)) = names::parse_control(name) {
            let life = self.lives.get_mut(&incarnation).ok_or("a control record of nothing")?;
            let record = control::decode(bytes, &life.sealer, name).map_err(|error| error.to_string())?;
            let head = life.records.last_key_value().map_or(0, |(seq, _)| *seq);
            let adopted = life.adopted.difference(&life.named).cloned().collect();
            let what = life.kept.control(number, &record, head, &adopted)?;
            self.count(what);
        }
        let what = [("/packs/", "packs"), ("/checkpoints/", "objects of checkpoints"), ("/control/", "control records")];
        if let Some((_, what)) = what.iter().find(|(part, _)| name.contains(part)) {
            self.count(what);
        }
        Ok(())
    }

    fn deleted(&mut self, name: &str) -> Result<(), String> {
        if name.starts_with("probe/") {
            return Ok(());
        }
        let life = names::parse_volume(name).and_then(|(incarnation, _)| self.lives.get(&incarnation));
        let what = life.ok_or_else(|| format!("{name} was deleted"))?.kept.deleted(name)?;
        self.count(what);
        Ok(())
    }
}

/// An empty tree, but for what a new cache begins with: nothing is committed that nobody wrote.
pub fn is_bare(tree: &Tree) -> bool {
    tree.0.len() <= 1 && tree.0.values().all(|node| node.entries.is_empty())
}
