//! What is true, tracked from the order in which the store applied things, and the invariants held against it at every step.

use super::engine::lay;
use super::exec::BEGINNING;
use super::life::{Exists, Get, Life, Next, Truth};
use super::store::Judge;
use super::tree::{Tree, same};
use bytes::Bytes;
use holdfast::format::seal::{Cipher, Sealer, hash};
use holdfast::format::{checkpoint, control, name, names, record, volume};
use holdfast::log::{Phase, Tip};
use holdfast::rpc::Retire;
use holdfast::rpc::control_record::Kind as Control;
use holdfast::types::{CacheId, Hash, Identity, Incarnation, Seq};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// All that is true, and what was counted on the way.
#[derive(Debug)]
pub struct Oracle {
    store_sealer: Sealer,
    pub lives: BTreeMap<Incarnation, Life>,
    // identity -> incarnations by number
    pub names: BTreeMap<String, BTreeMap<u64, Incarnation>>,
    refs: BTreeMap<String, u32>,
    ever: BTreeMap<String, Hash>,
    salts: BTreeMap<(String, [u8; 32]), Hash>,
    /// How often something worth having in a world happened.
    pub seen: BTreeMap<&'static str, u64>,
}

impl Judge for Oracle {
    fn stored(&mut self, now: u64, name: &str, bytes: &Bytes, exists: Exists<'_>, get: Get<'_>) -> Result<(), String> {
        self.take_in(now, name, bytes, exists, get)
    }

    fn deleted(&mut self, name: &str) -> Result<(), String> {
        self.let_out(name)
    }
}

impl Oracle {
    pub fn new(store_sealer: Sealer) -> Self {
        Self {
            store_sealer,
            lives: BTreeMap::new(),
            names: BTreeMap::new(),
            refs: BTreeMap::new(),
            ever: BTreeMap::new(),
            salts: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn hold(&mut self, needs: &[String]) {
        for name in needs {
            *self.refs.entry(name.clone()).or_default() += 1;
        }
    }

    fn release(&mut self, needs: &[String]) {
        for name in needs {
            if let Some(count) = self.refs.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.refs.remove(name);
                }
            }
        }
    }

    /// An object was stored.
    fn take_in(&mut self, now: u64, name: &str, bytes: &Bytes, exists: Exists<'_>, get: Get<'_>) -> Result<(), String> {
        let digest = hash(bytes);
        if names::parse_pack(name).is_none() && bytes.len() > 52 && bytes.starts_with(b"HFO1") {
            let salt: [u8; 32] = bytes[20..52].try_into().unwrap();
            if *self.salts.entry((name.to_owned(), salt)).or_insert(digest) != digest {
                return Err(format!("I6: {name} sealed twice with one key and nonce"));
            }
        }
        if let Some((incarnation, seq)) = names::parse_commit(name) {
            return self.record(now, incarnation, seq, bytes, exists, get);
        }
        if *self.ever.entry(name.to_owned()).or_insert(digest) != digest {
            return Err(format!("I6: {name} was stored with two contents"));
        }
        if let Some((incarnation, number)) = names::parse_control(name) {
            return self.control(BEGINNING + now as i64, incarnation, number, name, bytes);
        }
        if let Some((incarnation, "volume")) = names::parse_volume(name) {
            let record = volume::decode(bytes, &self.store_sealer, name).map_err(|e| e.to_string())?;
            let key: [u8; 32] = record.data_key.as_ref().try_into().unwrap();
            let sealer = Sealer::new(Cipher::None, &key, self.store_sealer.store(), Some(incarnation));
            self.lives.insert(incarnation, Life::new(sealer));
        } else if let Some((identity, number)) = names::parse_name_record(name) {
            return self.named(&identity, number, name, bytes);
        } else if let Some((incarnation, seq)) = names::parse_checkpoint_index(name) {
            let life = self.lives.get_mut(&incarnation).ok_or("a checkpoint of nothing")?;
            let index = checkpoint::decode_index(bytes, &life.sealer, name).map_err(|e| e.to_string())?;
            let parts = index.parts.iter().filter_map(|part| names::absolute(incarnation, &part.name)).map(|(_, name)| name);
            life.checkpoints.insert(seq, parts.chain([name.to_owned()]).collect());
            let mut tree = Some(Tree::new());
            for part in &index.parts {
                let there = names::absolute(incarnation, &part.name).and_then(|(_, name)| get(&name));
                let message =
                    there.map(|bytes| checkpoint::decode_part(&bytes, &life.sealer, part).map_err(|e| e.to_string())).transpose()?;
                tree = tree.zip(message).map(|(tree, message)| lay(incarnation, &tree, message));
            }
            // Without all of its parts (it landed late) it is no checkpoint that a record may name.
            if let Some(tree) = tree {
                if life.records.get(&seq).is_some_and(|truth| !same(&truth.tree, &tree)) {
                    return Err(format!("I20: checkpoint {seq} shows something else than record {seq}"));
                }
                life.trees.insert(seq, tree);
            }
            self.count("checkpoints");
        }
        Ok(())
    }

    fn named(&mut self, identity: &Identity, number: u64, name: &str, bytes: &Bytes) -> Result<(), String> {
        let record = name::decode(bytes, &self.store_sealer, name).map_err(|e| e.to_string())?;
        let incarnation = Incarnation::from_slice(&record.incarnation).unwrap();
        let before = self.names.entry(identity.to_string()).or_default();
        if let Some((last, previous)) = before.last_key_value() {
            if number != last + 1 {
                return Err(format!("I15: name record {number} of {identity} after {last}"));
            }
            if !self.lives[previous].fenced {
                return Err(format!("I15: incarnation {number} of {identity} was made while the one before is not fenced"));
            }
        }
        before.insert(number, incarnation);
        self.count(if number == 1 { "created" } else { "re-created" });
        Ok(())
    }

    fn record(
        &mut self,
        now: u64,
        incarnation: Incarnation,
        seq: Seq,
        bytes: &Bytes,
        exists: Exists<'_>,
        get: Get<'_>,
    ) -> Result<(), String> {
        let life = self.lives.get_mut(&incarnation).ok_or("a record of nothing")?;
        let message = record::decode(bytes, &life.sealer, &names::commit(incarnation, seq)).map_err(|e| e.to_string())?;
        if life.records.contains_key(&seq) {
            life.ghosts += 1;
            self.count("numbers refilled after they were freed");
            return Ok(());
        }
        let Next { tree, base, kind, set, frames, needs, cache } = life.next(incarnation, seq, &message, bytes, exists, get)?;
        let previous = life.note(now, &message, incarnation);
        let (hash, epoch) = (hash(bytes), message.epoch);
        life.records.insert(seq, Truth { hash, epoch, tree, base, at: now, kind, cache, needs: needs.clone(), sets: set, frames });
        let (adopted, purged) = (life.adopted.clone(), life.purged);
        if let Some(previous) = previous {
            self.release(&previous);
            self.hold(&adopted);
            if let Some(missing) = adopted.iter().find(|pack| !exists(pack)) {
                return Err(format!("I5: `open` {seq} adopts {missing}, which is not there"));
            }
            if let Some(pack) = adopted.iter().find(|pack| self.lives[&incarnation].named.contains(*pack)) {
                return Err(format!("protocol.md 3: `open` {seq} adopts {pack}, which a commit has named"));
            }
            if !adopted.is_empty() {
                self.count("adoptions");
            }
        }
        if purged {
            // Nobody is attached: what an unreachable holder still writes before the fence belongs to nobody.
            self.lives.get_mut(&incarnation).unwrap().records.get_mut(&seq).unwrap().needs.clear();
        } else {
            self.hold(&needs);
        }
        self.count(kind);
        Ok(())
    }

    /// `stored`: the store's clock.
    fn control(&mut self, stored: i64, incarnation: Incarnation, number: u64, name: &str, bytes: &Bytes) -> Result<(), String> {
        let life = self.lives.get_mut(&incarnation).ok_or("a control record of nothing")?;
        let record = control::decode(bytes, &life.sealer, name).map_err(|e| e.to_string())?;
        if number != life.control + 1 {
            return Err(format!("control record {number} after {}", life.control));
        }
        life.control = number;
        let mut free: Vec<Seq> = Vec::new();
        let what = match record.kind.unwrap() {
            Control::Claim(claim) => {
                if life.retired.contains(&claim.seq) {
                    return Err(format!("I5: claim {number} is on commit {}, which was retired before", claim.seq));
                }
                life.claims.insert(number, claim);
                "claims"
            }
            Control::Release(release) => {
                let claim = life.claims.remove(&release.claim);
                let early = claim.as_ref().is_some_and(|claim| claim.expires > stored);
                if early && record.author == "janitor" {
                    return Err(format!("I5: claim {} was released before its time by record {number}", release.claim));
                }
                if life.purged {
                    free.extend(claim.map(|claim| claim.seq).filter(|seq| !life.claims.values().any(|claim| claim.seq == *seq)));
                }
                "releases"
            }
            Control::Retire(retire) => return self.retired(incarnation, number, &retire),
            Control::Purge(purge) if purge.done => {
                if let Some(uid) = life.attached.first() {
                    return Err(format!("I17: the purge was done while {uid} is attached"));
                }
                life.purged = true;
                let claimed: BTreeSet<Seq> = life.claims.values().map(|claim| claim.seq).collect();
                free.extend(life.records.keys().filter(|seq| !claimed.contains(seq) && !life.retired.contains(seq)));
                "purges"
            }
            Control::Attach(attach) => {
                if life.purged {
                    return Err(format!("I17: {} was attached to a purged volume", attach.claim_uid));
                }
                life.attached.insert(attach.claim_uid);
                "attachments"
            }
            Control::Detach(detach) => {
                if record.author != detach.claim_uid {
                    return Err(format!("I17: deleting {} detached {}", record.author, detach.claim_uid));
                }
                life.attached.remove(&detach.claim_uid);
                "detachments"
            }
            Control::Purge(_) | Control::Undo(_) | Control::Void(_) => "other control records",
        };
        self.let_go(incarnation, &free);
        self.count(what);
        Ok(())
    }

    fn retired(&mut self, incarnation: Incarnation, number: u64, retire: &Retire) -> Result<(), String> {
        let life = self.lives.get_mut(&incarnation).ok_or("a retirement of nothing")?;
        let fits = |seq: &&Seq| life.records.contains_key(*seq) && **seq < life.head() || life.purged;
        if let Some(seq) = retire.seqs.iter().find(|seq| !fits(seq) || life.claims.values().any(|claim| claim.seq == **seq)) {
            return Err(format!("I5: retire {number} lists commit {seq}, which is claimed or the head"));
        }
        if life.purged && !life.fenced {
            return Err(format!("I1: retire {number} begins a purge, and the log can still be written"));
        }
        // Those of a purged life were let go when the purge was done.
        let purged = life.purged;
        let free: Vec<Seq> = retire.seqs.iter().copied().filter(|seq| !purged && !life.retired.contains(seq)).collect();
        life.retired.extend(&retire.seqs);
        life.retired_objects.extend(retire.objects.iter().cloned());
        self.let_go(incarnation, &free);
        if let Some(name) = retire.objects.iter().find(|name| self.refs.contains_key(*name)) {
            return Err(format!("I5: retire {number} lists {name}, which is needed"));
        }
        self.count("retirements");
        Ok(())
    }

    fn let_go(&mut self, incarnation: Incarnation, seqs: &[Seq]) {
        for seq in seqs {
            let needs =
                self.lives.get_mut(&incarnation).and_then(|life| life.records.get_mut(seq)).map(|truth| std::mem::take(&mut truth.needs));
            self.release(&needs.unwrap_or_default());
        }
    }

    /// An object was deleted.
    fn let_out(&mut self, name: &str) -> Result<(), String> {
        if let Some(count) = self.refs.get(name) {
            return Err(format!("I5: {name} was deleted and {count} kept commits, claims or adoptions need it"));
        }
        let Some((incarnation, _)) = names::parse_volume(name) else { return Err(format!("{name} was deleted")) };
        let life = &self.lives[&incarnation];
        let listed = match names::parse_commit(name) {
            Some((_, seq)) => life.retired.contains(&seq),
            None => life.retired_objects.contains(name),
        };
        if !listed {
            return Err(format!("protocol.md 2: {name} was deleted and no stored `retire` lists it"));
        }
        self.count(if names::parse_commit(name).is_some() { "numbers freed" } else { "objects deleted" });
        Ok(())
    }

    /// Somebody believes that this record is in the log.
    pub fn believed(&mut self, who: usize, incarnation: Incarnation, seq: Seq, hash: Hash) -> Result<(), String> {
        match self.lives.get(&incarnation).and_then(|life| life.records.get(&seq)) {
            Some(truth) if truth.hash == hash => Ok(()),
            _ => Err(format!("I1: node {who} believes a record {seq} that is not the one of its number")),
        }
    }

    /// Whether all that the log holds after `seq` was written by the epochs of this one cache.
    pub fn only_own(&self, incarnation: Incarnation, seq: Seq, cache: CacheId) -> bool {
        self.lives[&incarnation].records.range(seq + 1..).all(|(_, truth)| truth.cache == cache.as_bytes())
    }

    /// A writer's commit is acknowledged, and with it these values.
    pub fn acknowledged(
        &mut self,
        who: usize,
        incarnation: Incarnation,
        seq: Seq,
        hash: Hash,
        values: &BTreeMap<u64, u64>,
    ) -> Result<(), String> {
        self.believed(who, incarnation, seq, hash)?;
        let life = self.lives.get_mut(&incarnation).unwrap();
        if life.fenced && life.records[&seq].at > life.records[&life.head()].at {
            return Err(format!("I1: node {who} committed {seq} into a purged volume"));
        }
        let tree = Arc::clone(&life.records[&seq].tree);
        for (key, value) in values {
            if tree.get(key).is_none_or(|(shown, _)| shown < value) {
                return Err(format!("I2: node {who} acknowledged {key}={value}, commit {seq} does not show it"));
            }
            let floor = life.floors.entry(*key).or_default();
            *floor = (*floor).max(*value);
        }
        Ok(())
    }

    /// What a reader found the end of the log to be, and where it was when it began.
    pub fn read_tip(&mut self, who: usize, incarnation: Incarnation, began: Seq, tip: &Tip) -> Result<(), String> {
        let life = self.lives.get(&incarnation).ok_or("a log of nothing was read")?;
        if tip.seq < began {
            return Err(format!("I1: node {who} took {} for the end, which was {began} before it began", tip.seq));
        }
        if tip.seq == 0 {
            return Ok(());
        }
        let Some(truth) = life.records.get(&tip.seq).filter(|truth| truth.hash == tip.hash) else {
            return Err(format!("I1: node {who} took a record {} for the end that is not the one of its number", tip.seq));
        };
        let open = life.records.range(..=tip.seq).rev().find(|(_, truth)| truth.kind == "open").map(|(seq, _)| *seq);
        let (phase, open) = match truth.kind {
            "close" => (Phase::Closed, open),
            "fence" => (Phase::Fenced, None),
            _ => (Phase::Open, open),
        };
        let told = (tip.epoch, tip.checkpoint, tip.phase, tip.open.as_ref().map(|open| open.seq));
        if told != (truth.epoch, truth.base, phase, open) {
            return Err(format!("node {who} describes record {} as {told:?}, not {:?}", tip.seq, (truth.epoch, truth.base, phase, open)));
        }
        Ok(())
    }
}
