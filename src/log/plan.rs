//! What stays and what may go: pure. Whoever obeys has read the control chain to its end, then the log to `h`, then listed; appends what a
//! [`Sweep`] finds as the chain's next record (when somebody else appended meanwhile, plans again); and deletes only what stored records list.
//!
//! ```text
//! kept commit  <- head, claims, the commit before an unclosed open, the dense window, thinning rules
//! retired      <- every other record below the newest checkpoint: it cannot be claimed any more
//! freed        <- retired, a commit or close, its block below the newest checkpoint, and needed by nothing unretired
//! needs        <- the records of (its checkpoint, itself] with the packs of their deltas, the records that its inline extents lie in, its
//!                 checkpoint's objects, every pack of its tree
//! ```
//! A retired record may lie there for long, because a kept commit is read through it. Every commit that is not retired can still be claimed,
//! so everything that an unretired commit needs stays. Commits after `h` are safe by
//! the rule of what they may name (protocol.md 3): their parent's objects, which `h` needs; unnamed packs of the epoch in force, which are
//! never touched; adoptions of those; and claimed ones.

use super::Site;
use super::control::{Purging, State};
use super::inventory::{Inventory, ObjectId};
use crate::policy::retention::{self, Moment, Reason, Rules};
use crate::types::{Epoch, Seq, SeqSet, UnixNanos};
use std::collections::{BTreeMap, BTreeSet};

/// What kind of record stands at a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A new epoch; what it adopted, as names relative to the store.
    Open {
        /// Adopted packs.
        adopted: BTreeSet<String>,
    },
    /// A commit.
    Commit {
        /// Every tier at one instant.
        full: bool,
        /// Files, directories and others.
        inodes: u64,
        /// Bytes of its files.
        bytes: u64,
    },
    /// A clean end.
    Close,
    /// The last record of a purged incarnation.
    Fence,
    /// Skipped by an administrator's record.
    Void,
}

/// One record of the log, as far as the plan needs it. The objects of its tree are told to a [`Sweep`]: they may be a million.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Its kind.
    pub what: What,
    /// Its epoch.
    pub epoch: Epoch,
    /// When it was stored, by the store's clock: what windows and graces count from. A node whose clock is in the past must not end them.
    pub stored: UnixNanos,
    /// Its cut by the writer's clock, for the periods of thinning; a time after `stored` counts as `stored`.
    pub cut: UnixNanos,
    /// The checkpoint from which its tree is read: one that a record up to it names. 0: from the beginning of the log.
    pub base: Seq,
    /// Packs that hold the record's own delta in frames. It is needed as long as any unretired commit is read through this record.
    pub delta: BTreeSet<String>,
    /// Records outside (base, itself] that its inline extents lie in.
    pub records: BTreeSet<Seq>,
}

/// The log as read to `h`, without what was deleted. Retired records that others are read through are among them, and every `open` whose grace
/// is not over.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// The last number read.
    pub h: Seq,
    /// The epoch in force there.
    pub epoch: Epoch,
    /// The newest checkpoint: the one that record `h` names.
    pub checkpoint: Seq,
    /// The records.
    pub records: BTreeMap<Seq, Fact>,
}

/// Why a record is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is the newest.
    Head,
    /// This claim holds it.
    Claimed(u64),
    /// A fenced epoch may still store a branch on it.
    BeforeOpen,
    /// It is not below the newest checkpoint.
    Recent,
    /// A rule chose it.
    Rule(Reason),
}

/// The records that stay, and why. `now` is the store's clock.
#[must_use]
pub fn keep(facts: &Facts, chain: &State, rules: &Rules, now: UnixNanos) -> BTreeMap<Seq, Vec<Why>> {
    let mut kept: BTreeMap<Seq, Vec<Why>> = BTreeMap::new();
    let mut keep = |seq: Seq, why: Why| kept.entry(seq).or_default().push(why);
    for (number, claim) in &chain.claims {
        keep(claim.seq, Why::Claimed(*number));
    }
    if chain.purging != Purging::Done {
        keep(facts.h, Why::Head);
        let live = |seq: &Seq| !chain.retired_seqs.contains(seq);
        before_unclosed_opens(facts, chain, rules, now).into_iter().filter(live).for_each(|seq| keep(seq, Why::BeforeOpen));
        for (seq, reasons) in retention::choose(rules, &moments(facts, chain), now) {
            reasons.into_iter().for_each(|reason| keep(seq, Why::Rule(reason)));
        }
        for (seq, fact) in facts.records.iter().filter(|(seq, _)| live(seq)) {
            let commit = matches!(fact.what, What::Commit { .. });
            if *seq >= facts.checkpoint {
                keep(*seq, Why::Recent);
            } else if !commit && now.saturating_sub(fact.stored) < nanos(rules.keep_all) {
                keep(*seq, Why::Rule(Reason::KeepAll));
            }
        }
    }
    kept.retain(|seq, _| facts.records.contains_key(seq));
    kept
}

/// The commits that are not retired, as the rules see them.
fn moments(facts: &Facts, chain: &State) -> Vec<Moment> {
    let live = facts.records.iter().filter(|(seq, _)| !chain.retired_seqs.contains(seq));
    live.filter_map(|(seq, fact)| match fact.what {
        What::Commit { full, inodes, bytes } => Some(Moment { seq: *seq, cut: fact.cut, stored: fact.stored, full, inodes, bytes }),
        _ => None,
    })
    .collect()
}

fn nanos(duration: std::time::Duration) -> UnixNanos {
    UnixNanos::try_from(duration.as_nanos()).unwrap_or(UnixNanos::MAX)
}

/// The commit before each `open` that no `close` precedes, unless the fenced epoch's branch was claimed or the grace is over.
fn before_unclosed_opens(facts: &Facts, chain: &State, rules: &Rules, now: UnixNanos) -> Vec<Seq> {
    let mut bases = Vec::new();
    for (seq, fact) in facts.records.iter().filter(|(_, fact)| matches!(fact.what, What::Open { .. })) {
        let Some((before, previous)) = facts.records.range(..seq).next_back().filter(|(before, _)| **before + 1 == *seq) else { continue };
        let branched = chain.branches.contains(&previous.epoch.to_string());
        let waited = now.saturating_sub(fact.stored) >= nanos(rules.branches);
        if previous.what != What::Close && !branched && !waited {
            bases.push(*before);
        }
    }
    bases
}

/// The records that unretired ones are read from.
#[must_use]
pub fn records_needed(facts: &Facts, chain: &State) -> SeqSet {
    let mut needed = SeqSet::default();
    for (seq, fact) in facts.records.iter().filter(|(seq, _)| !chain.retired_seqs.contains(seq)) {
        needed.extend(fact.base + 1..=*seq);
        needed.extend(&fact.records);
    }
    needed
}

/// Numbers are freed in blocks that lie wholly below this one: the newest checkpoint (1.5), or the `fence` of a purged log.
#[must_use]
pub fn free_below(facts: &Facts, chain: &State) -> Seq {
    let fence = facts.records.iter().next_back().filter(|(_, fact)| fact.what == What::Fence);
    match fence {
        Some((seq, _)) if chain.purging == Purging::Done => *seq,
        _ => facts.checkpoint,
    }
}

/// One look at everything: which numbers to retire, and which objects with them. Whoever makes one tells it the objects of each tree of
/// [`Self::readable`]; only then it says what is garbage.
#[derive(Debug)]
pub struct Sweep<'a> {
    facts: &'a Facts,
    chain: &'a State,
    inventory: Inventory,
    retiring: BTreeSet<Seq>,
    untold: BTreeSet<Seq>,
}

impl<'a> Sweep<'a> {
    /// Retires what `kept` does not have, of what may be retired: below the newest checkpoint; of a purged incarnation everything.
    #[must_use]
    pub fn begin(facts: &'a Facts, chain: &'a State, kept: &dyn Fn(Seq) -> bool, mut inventory: Inventory) -> Self {
        let purged = chain.purging == Purging::Done;
        let below = if purged { facts.h } else { facts.checkpoint };
        let live = |seq: &Seq| !chain.retired_seqs.contains(seq);
        let retiring: BTreeSet<Seq> = facts.records.range(..below).map(|(seq, _)| *seq).filter(|seq| live(seq) && !kept(*seq)).collect();
        let readable = |seq: &Seq| live(seq) && !retiring.contains(seq) && !(purged && *seq == facts.h);
        let untold: BTreeSet<Seq> = facts.records.keys().copied().filter(readable).collect();
        for fact in facts.records.values() {
            fact.delta.iter().for_each(|name| inventory.name(name));
        }
        // They are read through these records, and these through their deltas, retired or not.
        for (base, last) in last_by_base(facts, &untold) {
            // A record that names a checkpoint of its own number, or a later one, reads nothing before it.
            let read = facts.records.range(base..=last.max(base)).filter(|(seq, _)| **seq > base);
            read.flat_map(|(_, fact)| &fact.delta).for_each(|name| inventory.need(name));
        }
        let adopted = facts.records.values().rev().find_map(|fact| match &fact.what {
            What::Open { adopted } => Some(adopted),
            _ => None,
        });
        if !purged {
            adopted.into_iter().flatten().for_each(|name| inventory.need(name));
        }
        Self { facts, chain, inventory, retiring, untold }
    }

    /// The numbers to retire.
    #[must_use]
    pub fn retiring(&self) -> &BTreeSet<Seq> {
        &self.retiring
    }

    /// The records whose trees were not told yet.
    #[must_use]
    pub fn readable(&self) -> &BTreeSet<Seq> {
        &self.untold
    }

    /// What a readable tree needs: an object, relative to the store. Of a tree that needs most of what one told before needs, the rest is
    /// enough.
    pub fn needs(&mut self, name: &str) {
        self.inventory.need(name);
    }

    /// What a record or checkpoint that lies there names, also one that nobody reads any more.
    pub fn names(&mut self, name: &str) {
        self.inventory.name(name);
    }

    /// The tree of a record was told whole.
    pub fn told(&mut self, seq: Seq) {
        self.untold.remove(&seq);
    }

    /// The objects that may be retired now, of those that lie there. `None`: a tree was not told.
    #[must_use]
    pub fn garbage(&self) -> Option<Vec<ObjectId>> {
        let nobodys =
            |(id, needed, named): &(ObjectId, bool, bool)| !needed && !self.chain.retired_objects.contains(id) && self.may_go(*id, *named);
        self.untold.is_empty().then(|| self.inventory.iter().filter(nobodys).map(|(id, _, _)| id).collect())
    }

    /// Whether an object that nothing needs is old enough to be nobody's.
    fn may_go(&self, id: ObjectId, named: bool) -> bool {
        let purged = self.chain.purging == Purging::Done;
        match id {
            ObjectId::Pack(epoch, _) => purged || named || epoch < self.facts.epoch,
            // A branch goes by its own `retire`, when a person drops it; of a purged life nobody claims one.
            ObjectId::BranchHead(..) | ObjectId::BranchPack(..) => purged,
            // The newest checkpoint is the one that record h names. A later one may just be in the making.
            ObjectId::Index(seq) | ObjectId::Part(seq, _) => purged || seq < self.facts.checkpoint,
        }
    }
}

/// The last of `seqs` that is read from each checkpoint: what is read for it is read for the others of that checkpoint.
fn last_by_base(facts: &Facts, seqs: &BTreeSet<Seq>) -> BTreeMap<Seq, Seq> {
    let mut last: BTreeMap<Seq, Seq> = BTreeMap::new();
    for seq in seqs {
        if let Some(fact) = facts.records.get(seq) {
            last.insert(fact.base, *seq);
        }
    }
    last
}

/// The objects that stored records allow to delete now, of what lies there.
#[must_use]
pub fn deletable(chain: &State, inventory: &Inventory) -> Vec<ObjectId> {
    inventory.iter().map(|(id, _, _)| id).filter(|id| chain.retired_objects.contains(id)).collect()
}

/// The numbers of the log that stored records allow to delete now, for [`super::block::free`]. `open` and `fence` stay for ever, and so does a
/// void number: each is the number that some zombie would take next (protocol.md 1.4).
#[must_use]
pub fn freeable(site: &Site, facts: &Facts, chain: &State) -> BTreeSet<Seq> {
    let needed = records_needed(facts, chain);
    let limit = free_below(facts, chain);
    let free = |seq: &Seq, fact: &Fact| {
        chain.retired_seqs.contains(seq)
            && matches!(fact.what, What::Commit { .. } | What::Close)
            && site.last_of(site.block_of(*seq)) < limit
            && !needed.contains(seq)
    };
    facts.records.iter().filter(|(seq, fact)| free(seq, fact)).map(|(seq, _)| *seq).collect()
}
