//! What of a life may be deleted: checkpoints, claims and retirements as the store has them, held against what unretired records are read
//! from (I5).

use super::shown::{Shown, Source};
use holdfast::format::{checkpoint, names};
use holdfast::rpc::control_record::Kind as Control;
use holdfast::rpc::{Claim, Commit, ControlRecord, Delta};
use holdfast::types::Seq;
use std::collections::{BTreeMap, BTreeSet};

/// A record, as far as it matters here.
#[derive(Default)]
struct Read {
    /// The checkpoint that its tree is read from.
    base: Seq,
    deltas: Vec<Delta>,
    /// Packs with its own delta.
    framed: BTreeSet<String>,
    /// Objects of its tree.
    objects: BTreeSet<String>,
}

/// A checkpoint all of whose parts were there when its index was stored.
struct Point {
    shown: Shown,
    objects: BTreeSet<String>,
}

#[derive(Default)]
pub struct Kept {
    read: BTreeMap<Seq, Read>,
    points: BTreeMap<Seq, Point>,
    control: u64,
    pub claims: BTreeMap<u64, Claim>,
    pub retired: BTreeSet<Seq>,
    objects: BTreeSet<String>,
}

impl Kept {
    /// A record was stored that shows this, by the deltas since the beginning; gives what it shows to who reads it from its checkpoint.
    pub fn record(
        &mut self,
        source: &Source<'_>,
        seq: Seq,
        base: Option<Seq>,
        commit: Option<&Commit>,
        shown: Shown,
    ) -> Result<Shown, String> {
        let incarnation = source.incarnation;
        let before = self.read.last_key_value().map_or(0, |(_, read)| read.base);
        let base = base.unwrap_or(before);
        let framed = commit.iter().flat_map(|commit| &commit.delta_frames).filter_map(|frame| frame.object.as_ref());
        let mut read = Read {
            base,
            deltas: commit.map(|commit| source.deltas(commit)).transpose()?.unwrap_or_default(),
            framed: framed.filter_map(|object| names::absolute(incarnation, &object.name)).map(|(_, name)| name).collect(),
            ..Read::default()
        };
        let mut found = shown;
        if base != before {
            let point = self.points.get(&base).ok_or_else(|| format!("I5: record {seq} names checkpoint {base}, which is not there"))?;
            let mut again = point.shown.clone();
            for (later, read) in self.read.range(base + 1..) {
                again = again.next(source, *later, &read.deltas)?;
            }
            again = again.next(source, seq, &read.deltas)?;
            if again.tree != found.tree {
                let why = again.tree.differs(&found.tree);
                return Err(format!("I3: record {seq} read from checkpoint {base} shows something else than read from before it: {why}"));
            }
            found = again;
        }
        read.objects = found.objects(incarnation);
        self.read.insert(seq, read);
        Ok(found)
    }

    /// The index of a checkpoint was stored. `shown`: what its record shows.
    pub fn checkpoint(&mut self, source: &Source<'_>, seq: Seq, index: &holdfast::rpc::Checkpoint, shown: &Shown) -> Result<bool, String> {
        let (mut deltas, mut objects) = (Vec::new(), BTreeSet::from([names::checkpoint_index(source.incarnation, seq)]));
        for part in &index.parts {
            let Some((_, name)) = names::absolute(source.incarnation, &part.name) else { return Err(format!("{} is no name", part.name)) };
            // It landed late, and its parts are gone: no record may name it.
            let Some(bytes) = (source.get)(&name) else { return Ok(false) };
            let part = checkpoint::decode_part(&bytes, source.sealer, part).map_err(|error| error.to_string())?;
            deltas.push(Delta { objects: part.objects, inodes: part.inodes, names: part.names, extents: part.extents, ..Delta::default() });
            objects.insert(name);
        }
        // The same of the packs that it names alone: inline frames that it moved there.
        let named = deltas.iter().flat_map(|delta| &delta.objects).filter_map(|object| names::absolute(source.incarnation, &object.name));
        if named.into_iter().any(|(_, name)| (source.get)(&name).is_none()) {
            return Ok(false);
        }
        let found = match Shown::default().next(source, seq, &deltas) {
            Ok(found) => found,
            Err(_) if self.retired.contains(&seq) => return Ok(false),
            Err(error) => return Err(error),
        };
        if found.tree != shown.tree {
            return Err(format!("I20: checkpoint {seq} shows something else than record {seq}: {}", found.tree.differs(&shown.tree)));
        }
        self.points.insert(seq, Point { shown: found, objects });
        Ok(true)
    }

    /// A control record was stored; what it was. `head`: of the log; `adopted`: packs that the epoch in force may still name.
    pub fn control(&mut self, number: u64, record: &ControlRecord, head: Seq, adopted: &BTreeSet<String>) -> Result<&'static str, String> {
        if number != self.control + 1 {
            return Err(format!("control record {number} after {}", self.control));
        }
        self.control = number;
        match record.kind.as_ref() {
            Some(Control::Claim(claim)) => {
                if self.retired.contains(&claim.seq) {
                    return Err(format!("control record {number} claims {}, which was retired", claim.seq));
                }
                self.claims.insert(number, claim.clone());
                Ok("claims")
            }
            Some(Control::Release(release)) => {
                self.claims.remove(&release.claim);
                Ok("releases")
            }
            Some(Control::Retire(retire)) => {
                let point = self.read.last_key_value().map_or(0, |(_, read)| read.base);
                for seq in &retire.seqs {
                    if *seq >= head || *seq >= point || self.claims.values().any(|claim| claim.seq == *seq) {
                        return Err(format!("I5: record {seq} is retired: the log ends at {head}, its checkpoint is {point}"));
                    }
                }
                self.retired.extend(&retire.seqs);
                for name in &retire.objects {
                    if let Some(needs) = self.needs(name) {
                        return Err(format!("I5: {name} is retired, and record {needs} is read from it"));
                    }
                    if adopted.contains(name) {
                        return Err(format!("protocol.md 3: {name} is retired, and the epoch in force has adopted it"));
                    }
                    self.objects.insert(name.clone());
                }
                Ok("retirements")
            }
            _ => Ok("other control records"),
        }
    }

    /// An object was deleted.
    pub fn deleted(&self, name: &str) -> Result<&'static str, String> {
        if !self.objects.contains(name) {
            return Err(format!("{name} was deleted, and no record retires it"));
        }
        match self.needs(name) {
            None => Ok("objects deleted"),
            Some(seq) => Err(format!("I5: {name} was deleted, and record {seq} is read from it")),
        }
    }

    /// An unretired record that is read from an object.
    fn needs(&self, name: &str) -> Option<Seq> {
        let live = self.read.iter().filter(|(seq, _)| !self.retired.contains(seq));
        let of_point = |base: Seq| self.points.get(&base).is_some_and(|point| point.objects.contains(name));
        let through =
            |base: Seq, upto: Seq| self.read.range(base.min(upto)..=upto).any(|(seq, read)| *seq > base && read.framed.contains(name));
        live.filter(|(seq, read)| read.objects.contains(name) || of_point(read.base) || through(read.base, **seq))
            .map(|(seq, _)| *seq)
            .next()
    }
}
