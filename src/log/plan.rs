//! What stays and what may go: pure. Whoever obeys has read the control chain to its end, then the log to `h`, then listed; appends the
//! [`Retirement`] as the chain's next record (when somebody else appended meanwhile, plans again); and deletes only what stored records list.
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
use crate::format::names;
use crate::types::{Epoch, Incarnation, Seq, UnixNanos};
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
    Commit,
    /// A clean end.
    Close,
    /// The last record of a purged incarnation.
    Fence,
    /// Skipped by an administrator's record.
    Void,
}

/// One record of the log, as far as the plan needs it.
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
    /// Every object of its tree: packs, and its base's index and parts. Relative to the store.
    pub objects: BTreeSet<String>,
    /// Packs that hold the record's own delta in frames. It is needed as long as any unretired commit is read through this record.
    pub delta: BTreeSet<String>,
    /// Records outside (base, itself] that its inline extents lie in.
    pub records: BTreeSet<Seq>,
}

/// The log as read to `h`, without what was deleted. Retired records that lie there are among them; their objects need not be.
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

/// Which commits a person wants to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Every commit of the last so many nanoseconds.
    pub dense: i64,
    /// Of the older ones: (period, count): the last of each of the newest `count` periods that have one.
    pub thin: Vec<(i64, usize)>,
    /// How long the commit before an unclosed `open` waits for the branch of the fenced epoch.
    pub branch_grace: i64,
}

/// Why a commit is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is the newest.
    Head,
    /// A claim holds it.
    Claimed,
    /// A fenced epoch may still store a branch on it.
    BeforeOpen,
    /// It is within the dense window, or not below the newest checkpoint.
    Dense,
    /// A thinning rule chose it.
    Thinned,
}

/// What to retire: the content of the chain's next record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retirement {
    /// Numbers of the log.
    pub seqs: BTreeSet<Seq>,
    /// Objects, relative to the store.
    pub objects: BTreeSet<String>,
}

/// The commits that stay, and why. `now` is the store's clock.
#[must_use]
pub fn keep(facts: &Facts, chain: &State, rules: &Rules, now: UnixNanos) -> BTreeMap<Seq, Why> {
    let mut kept = BTreeMap::new();
    let purged = chain.purging == Purging::Done;
    if !purged {
        let live = |seq: &Seq| !chain.retired_seqs.contains(seq);
        thin(facts, rules).into_iter().filter(live).for_each(|seq| {
            kept.insert(seq, Why::Thinned);
        });
        for (seq, fact) in facts.records.iter().filter(|(seq, _)| live(seq)) {
            if *seq >= facts.checkpoint || now.saturating_sub(fact.stored) <= rules.dense {
                kept.insert(*seq, Why::Dense);
            }
        }
        for seq in before_unclosed_opens(facts, chain, rules, now).into_iter().filter(live) {
            kept.insert(seq, Why::BeforeOpen);
        }
        kept.insert(facts.h, Why::Head);
    }
    for claim in chain.claims.values() {
        kept.insert(claim.seq, Why::Claimed);
    }
    kept.retain(|seq, _| facts.records.contains_key(seq));
    kept
}

/// The last commit of each of the newest periods. Times are forced monotonic by number: order is by number alone.
fn thin(facts: &Facts, rules: &Rules) -> BTreeSet<Seq> {
    let mut chosen = BTreeSet::new();
    for (period, count) in &rules.thin {
        let mut periods: BTreeMap<i64, Seq> = BTreeMap::new();
        let mut time = i64::MIN;
        for (seq, fact) in facts.records.iter().filter(|(_, fact)| fact.what == What::Commit) {
            time = time.max(fact.cut.min(fact.stored));
            periods.insert(time.div_euclid((*period).max(1)), *seq);
        }
        chosen.extend(periods.values().rev().take(*count));
    }
    chosen
}

/// The commit before each `open` that no `close` precedes, unless the fenced epoch's branch was claimed or the grace is over.
fn before_unclosed_opens(facts: &Facts, chain: &State, rules: &Rules, now: UnixNanos) -> Vec<Seq> {
    let mut bases = Vec::new();
    for (seq, fact) in facts.records.iter().filter(|(_, fact)| matches!(fact.what, What::Open { .. })) {
        let Some((before, previous)) = facts.records.range(..seq).next_back().filter(|(before, _)| **before + 1 == *seq) else { continue };
        let branched = chain.branches.contains(&previous.epoch.to_string());
        let waited = now.saturating_sub(fact.stored) >= rules.branch_grace;
        if previous.what != What::Close && !branched && !waited {
            bases.push(*before);
        }
    }
    bases
}

/// The records that unretired ones are read from.
#[must_use]
pub fn records_needed(facts: &Facts, chain: &State) -> BTreeSet<Seq> {
    let mut needed = BTreeSet::new();
    for (seq, fact) in facts.records.iter().filter(|(seq, _)| !chain.retired_seqs.contains(seq)) {
        needed.extend(fact.base + 1..=*seq);
        needed.extend(&fact.records);
    }
    needed
}

/// What may be retired now. `listing`: objects that lie there. Of a purged incarnation everything that no claim needs.
#[must_use]
pub fn retire(site: &Site, facts: &Facts, chain: &State, kept: &BTreeMap<Seq, Why>, listing: &[String]) -> Retirement {
    let purged = chain.purging == Purging::Done;
    let below = if purged { facts.h } else { facts.checkpoint };
    let seqs: BTreeSet<Seq> = facts
        .records
        .range(..below)
        .map(|(seq, _)| *seq)
        .filter(|seq| !kept.contains_key(seq) && !chain.retired_seqs.contains(seq))
        .collect();
    let objects = garbage(site, facts, chain, &seqs, listing);
    Retirement { seqs, objects }
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

fn garbage(site: &Site, facts: &Facts, chain: &State, retiring: &BTreeSet<Seq>, listing: &[String]) -> BTreeSet<String> {
    let purged = chain.purging == Purging::Done;
    let mut needed: BTreeSet<&String> = BTreeSet::new();
    let mut named: BTreeSet<&String> = BTreeSet::new();
    for (seq, fact) in &facts.records {
        let gone = retiring.contains(seq) || chain.retired_seqs.contains(seq) || (purged && *seq == facts.h);
        if !gone {
            needed.extend(&fact.objects);
            // It is read through these records, and they through their deltas, retired or not.
            let read = facts.records.range(..=*seq).rev().take_while(|(before, _)| **before > fact.base);
            needed.extend(read.flat_map(|(_, fact)| &fact.delta));
        }
        named.extend(fact.objects.iter().chain(&fact.delta));
    }
    let adopted = facts.records.values().rev().find_map(|fact| match &fact.what {
        What::Open { adopted } => Some(adopted),
        _ => None,
    });
    if !purged {
        needed.extend(adopted.into_iter().flatten());
    }
    let nobodys = |name: &String| may_go(site.incarnation(), facts, purged, named.contains(name), name);
    listing.iter().filter(|name| !needed.contains(name) && !chain.retired_objects.contains(*name) && nobodys(name)).cloned().collect()
}

/// Whether an object that nothing needs is old enough to be nobody's.
fn may_go(incarnation: Incarnation, facts: &Facts, purged: bool, named: bool, name: &str) -> bool {
    let own = names::parse_volume(name).is_some_and(|(of, _)| of == incarnation);
    if let Some((_, epoch, _)) = names::parse_pack(name) {
        return own && (purged || named || epoch < facts.epoch);
    }
    // A branch goes by its own `retire`, when a person drops it; of a purged life nobody claims one.
    if names::parse_branch(name).is_some() {
        return own && purged;
    }
    // The newest checkpoint is the one that record h names. A later one may just be in the making.
    let checkpoint =
        names::parse_checkpoint_index(name).map(|(_, seq)| seq).or_else(|| names::parse_checkpoint_part(name).map(|(_, seq, _)| seq));
    own && checkpoint.is_some_and(|seq| purged || seq < facts.checkpoint)
}

/// What stored records allow to delete now, of what lies there: objects, and numbers of the log for [`super::block::free`]. `open` and `fence`
/// stay for ever, and so does a void number: each is the number that some zombie would take next (protocol.md 1.4).
#[must_use]
pub fn deletable(site: &Site, facts: &Facts, chain: &State, listing: &[String]) -> (Vec<String>, BTreeSet<Seq>) {
    let objects = listing.iter().filter(|name| chain.retired_objects.contains(*name)).cloned().collect();
    let needed = records_needed(facts, chain);
    let limit = free_below(facts, chain);
    let free = |seq: &Seq, fact: &Fact| {
        chain.retired_seqs.contains(seq)
            && matches!(fact.what, What::Commit | What::Close)
            && site.last_of(site.block_of(*seq)) < limit
            && !needed.contains(seq)
    };
    (objects, facts.records.iter().filter(|(seq, fact)| free(seq, fact)).map(|(seq, _)| *seq).collect())
}
