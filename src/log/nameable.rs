//! Which objects a commit may name (protocol.md 3), as a set that a commit must pass to be prepared at all.
//!
//! By induction over the log, what the parent does not name and nobody claims can never be named again; that is what lets gc delete it.
//! The four sources are four fields here, and there is no fifth.

use super::LogError;
use crate::format::names;
use crate::rpc::{Commit, Delta, ObjectRef};
use crate::types::{Epoch, Incarnation, Seq};
use std::collections::{BTreeMap, BTreeSet};

/// What the next commit of one epoch may name. Names are relative to the incarnation, as in [`ObjectRef`].
#[derive(Debug, Clone, Default)]
pub struct Nameable {
    // (i) uploaded by this epoch, named by no commit yet; (iii) adopted by its `open`, named by no commit yet.
    unnamed: BTreeMap<String, ObjectRef>,
    // (iv) held by a claim that was stored before.
    claimed: BTreeSet<String>,
    prefix: Option<(Incarnation, Epoch)>,
}

/// A commit all of whose objects may be named. Made by [`Nameable::approve`] only.
#[derive(Debug, Clone, PartialEq)]
pub struct Approved {
    pub(super) commit: Commit,
    /// Every object that it names, also those that only its delta in frames of packs names.
    pub(super) named: Vec<String>,
}

/// What deltas name that stand in packs, and not in the commit itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Framed {
    /// Objects.
    pub objects: Vec<ObjectRef>,
    /// Earlier records, for the bytes that stand in them.
    pub records: Vec<Seq>,
}

impl Framed {
    /// What these deltas name.
    #[must_use]
    pub fn of(deltas: &[Delta]) -> Self {
        let extents = deltas.iter().flat_map(|delta| &delta.extents).flat_map(|file| &file.extents);
        Self {
            objects: deltas.iter().flat_map(|delta| &delta.objects).cloned().collect(),
            records: extents.filter(|extent| extent.object == 0 && extent.inline_seq != 0).map(|extent| extent.inline_seq).collect(),
        }
    }
}

impl Nameable {
    /// For the epoch that has just opened: what its `open` adopted.
    pub(super) fn opened(incarnation: Incarnation, epoch: Epoch, adopted: &[ObjectRef]) -> Self {
        let unnamed = adopted.iter().map(|object| (object.name.clone(), object.clone())).collect();
        Self { unnamed, claimed: BTreeSet::new(), prefix: Some((incarnation, epoch)) }
    }

    /// Takes an upload of this epoch whose put is known to have succeeded.
    ///
    /// # Errors
    /// It is not a pack of this epoch: gc already counts those of older epochs as nobody's.
    pub fn uploaded(&mut self, object: ObjectRef) -> Result<(), LogError> {
        let own = self.prefix.and_then(|(incarnation, epoch)| {
            let (_, name) = names::absolute(incarnation, &object.name)?;
            names::parse_pack(&name).filter(|(of, its, _)| (*of, *its) == (incarnation, epoch))
        });
        if own.is_none() {
            return Err(LogError::NotNameable { object: object.name, why: "it was not uploaded by this epoch" });
        }
        self.unnamed.insert(object.name.clone(), object);
        Ok(())
    }

    /// Takes objects that a claim holds; the claim's record is stored, and stays until the commit that names them is resolved.
    pub fn claimed(&mut self, objects: impl IntoIterator<Item = String>) {
        self.claimed.extend(objects);
    }

    /// The claim is about to be released.
    pub fn unclaimed(&mut self) {
        self.claimed.clear();
    }

    /// What was uploaded or adopted and is named by no commit: the next `open` of this cache may adopt it.
    pub fn unnamed(&self) -> impl Iterator<Item = &ObjectRef> {
        self.unnamed.values()
    }

    /// Checks every object that a commit names, and every earlier record in whose inline frames its extents lie. `framed`: its deltas when
    /// they lie in frames of packs, and stand not in the commit itself. `parent_names` says what the parent's tree names (ii): packs, and
    /// records by the name of their object.
    ///
    /// # Errors
    /// The first object that may not be named.
    pub fn approve(&self, commit: Commit, framed: &Framed, parent_names: &dyn Fn(&str) -> bool) -> Result<Approved, LogError> {
        let inline = Framed::of(commit.delta.as_slice());
        let frames = commit.delta_frames.iter().filter_map(|frame| frame.object.as_ref());
        let mut named = Vec::new();
        for object in frames.chain(&inline.objects).chain(&framed.objects) {
            let known = self.unnamed.get(&object.name).is_some_and(|uploaded| uploaded == object);
            if !known && !self.claimed.contains(&object.name) && !parent_names(&object.name) {
                return Err(not_nameable(object.name.clone()));
            }
            named.push(object.name.clone());
        }
        for seq in inline.records.iter().chain(&framed.records) {
            let name = self.record(*seq);
            if !name.as_ref().is_some_and(|name| self.claimed.contains(name) || parent_names(name)) {
                return Err(not_nameable(name.unwrap_or_default()));
            }
        }
        Ok(Approved { commit, named })
    }

    /// The name of a record's object, relative to the incarnation.
    fn record(&self, seq: Seq) -> Option<String> {
        let (incarnation, _) = self.prefix?;
        names::relative(incarnation, &names::commit(incarnation, seq))
    }

    /// A commit is in the log: from now on only its tree can hold what it named.
    pub(super) fn named(&mut self, names: &[String]) {
        for name in names {
            self.unnamed.remove(name);
        }
    }
}

fn not_nameable(object: String) -> LogError {
    let why = "its parent does not name it, this epoch did not upload or adopt it unnamed, and no claim holds it";
    LogError::NotNameable { object, why }
}
