//! The end of a life of a volume (protocol.md 2, 1.6; docs/protocol-notes.md 14), and how one stands in the store.
//!
//! | step | a death right after it |
//! |---|---|
//! | 1 `purge` begun, in the control chain | `history.after_purge_begun`: nothing is deleted; undone, or ended after the grace |
//! | 2 the grace is over; nobody is attached, no claim, the log is closed: `purge` done | `history.after_purge_done`: nobody opens it any more; the same command goes on |
//! | 3 `fence`, the last record of the log | `history.after_fence`: as 2; a next life may begin |
//! | 4 `retire` lists all that may go | `history.after_retire`: as 2 |
//! | 5 it is deleted, then the numbers of whole blocks, each block marked before | `history.in_deletion`: as 2 |
//! | 6 the claim that held the origin of a clone is released, by the caller | one claim too many; as 2 |
//!
//! What stays for ever: the name record, the volume record, the control chain, `open` and `fence` records, block markers, and the records of
//! the block that the fence lies in, which no rule allows to free.

use super::deletion::{Retiring, remove, retire};
use crate::format::names;
use crate::log::control::{Chain, Purging, Refused, State};
use crate::log::inventory::Inventory;
use crate::log::plan::{self, Fact, Facts, Sweep, What};
use crate::log::{At, Hint, LogError, Reader, Tip, block, fence};
use crate::rpc::control_record::Kind as Control;
use crate::rpc::{Purge, Undo, log_record::Kind};
use crate::store::ObjectMeta;
use crate::types::{Fault, FaultKind, Seq, UnixNanos, WriterId};
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet};

/// Requests side by side.
const SIDE_BY_SIDE: usize = 16;
/// Objects asked for in one listing.
const PAGE: usize = 1000;

/// How a life of a volume stands in the store.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The end of its log.
    pub tip: Tip,
    /// What its control chain says.
    pub chain: State,
}

/// Looks.
///
/// # Errors
/// The store's faults; damage by name.
pub async fn standing(reader: &Reader) -> Result<Standing, Fault> {
    let chain = Chain::read(reader.site().clone()).await?.state().clone();
    Ok(Standing { tip: reader.tip(Hint::default()).await?, chain })
}

/// What lies below a life: the number of objects, and their bytes.
///
/// # Errors
/// The store's.
pub async fn extent_of(reader: &Reader) -> Result<(u64, u64), Fault> {
    let mut sums = (0, 0);
    each_object(reader, &whole(reader), &mut |meta| sums = (sums.0 + 1, sums.1 + meta.size)).await?;
    Ok(sums)
}

/// Begins a removal; nothing is deleted yet. Gives the number of its record.
///
/// # Errors
/// Somebody is attached or has a claim, or it was begun already.
pub async fn begin(reader: &Reader, author: &str, now: UnixNanos) -> Result<u64, Fault> {
    let mut chain = Chain::read(reader.site().clone()).await?;
    let decide = |state: &State| unclaimed(state).map(|()| Control::Purge(Purge { done: false, reason: "removed".to_owned() }));
    let number = chain.append(author, now, &decide).await.map_err(refusal)?;
    reader.site().env().failpoint("history.after_purge_begun");
    Ok(number)
}

/// Takes a begun removal back.
///
/// # Errors
/// None is under way, or it is past that.
pub async fn undo(reader: &Reader, author: &str, now: UnixNanos) -> Result<(), Fault> {
    let mut chain = Chain::read(reader.site().clone()).await?;
    let decide = |state: &State| match state.purging {
        Purging::Begun { number, .. } => Ok(Control::Undo(Undo { number })),
        Purging::Done => Err(Refused::Purged),
        Purging::No => Err(Refused::NotPurging),
    };
    chain.append(author, now, &decide).await.map(drop).map_err(refusal)
}

/// Ends a begun removal whose grace is over: from here on nobody opens, claims or attaches. [`delete`] comes next.
///
/// # Errors
/// The grace is not over, somebody is attached or has a claim; the store's faults: then the same call goes on.
pub async fn end(reader: &Reader, author: &str, now: UnixNanos, grace_nanos: i64) -> Result<(), Fault> {
    let site = reader.site();
    let mut chain = Chain::read(site.clone()).await?;
    if chain.state().purging != Purging::Done {
        let decide = |state: &State| {
            unclaimed(state)?;
            let due = state.purge_due(now.max(state.time), grace_nanos);
            if due { Ok(Control::Purge(Purge { done: true, reason: "removed".to_owned() })) } else { Err(Refused::NotPurging) }
        };
        chain.append(author, now, &decide).await.map_err(refusal)?;
        site.env().failpoint("history.after_purge_done");
    }
    fence(site.clone(), WriterId(site.env().random()), "removed").await?;
    site.env().failpoint("history.after_fence");
    Ok(())
}

/// Deletes what a removed life leaves, whatever an earlier call got done of it. `told` hears how many of how many objects are gone.
/// Gives the number of objects and records that this call deleted.
///
/// # Errors
/// The store's faults: the same call goes on.
pub async fn delete(reader: &Reader, author: &str, now: UnixNanos, told: &(dyn Fn(u64, u64) + Sync)) -> Result<u64, Fault> {
    let site = reader.site();
    let mut chain = Chain::read_for_gc(site.clone()).await?;
    let mut listing = Vec::new();
    each_object(reader, &whole(reader), &mut |meta| listing.push(meta.name)).await?;
    let facts = facts(reader, &listing).await?;
    let inventory = Inventory::of(site.incarnation(), listing.iter().map(String::as_str));
    let before = chain.state().clone();
    let sweep = Sweep::begin(&facts, &before, &|_| false, inventory.clone());
    let objects = sweep.garbage().ok_or_else(|| Fault::new(FaultKind::Busy, "it is not removed: somebody claims a commit of it"))?;
    let retiring = Retiring { seqs: sweep.retiring().iter().copied().collect(), objects, h: facts.h };
    let allowed = |state: &State| match state.purging {
        Purging::Done => unclaimed(state),
        Purging::No | Purging::Begun { .. } => Err(Refused::NotPurging),
    };
    retire(&mut chain, site, (author, now), &retiring, &allowed).await.map_err(refusal)?;
    site.env().failpoint("history.after_retire");
    let objects = plan::deletable(chain.state(), &inventory);
    let numbers = plan::freeable(site, &facts, chain.state());
    let total = (objects.len() + numbers.len()) as u64;
    let mut gone = remove(site, &objects, &|gone| told(gone, total)).await?;
    gone += block::free(reader, chain.state(), plan::free_below(&facts, chain.state()), &numbers).await?;
    told(gone, total);
    Ok(gone)
}

/// The log as far as the plan needs it when nothing of it is claimed: its end, and the kinds of records whose numbers may be freed.
async fn facts(reader: &Reader, listing: &[String]) -> Result<Facts, Fault> {
    let site = reader.site();
    let tip = reader.tip(Hint::default()).await?;
    let commit = What::Commit { full: false, inodes: 0, bytes: 0 };
    let empty = Fact { what: commit.clone(), epoch: 0, stored: 0, cut: 0, base: 0, delta: BTreeSet::new(), records: BTreeSet::new() };
    let fact = |what, epoch| Fact { what, epoch, ..empty.clone() };
    let below = |seq: &Seq| site.last_of(site.block_of(*seq)) < tip.seq;
    let numbers = listing.iter().filter_map(|name| names::parse_commit(name)).map(|(_, seq)| seq).filter(below);
    let mut read = futures::stream::iter(numbers).map(|seq| async move { (seq, reader.at(seq).await) }).buffered(SIDE_BY_SIDE);
    let mut records = BTreeMap::new();
    while let Some((seq, found)) = read.next().await {
        let found = match found? {
            At::Record(record) => {
                let what = match &record.record.kind {
                    Some(Kind::Open(_)) => What::Open { adopted: BTreeSet::new() },
                    Some(Kind::Close(_)) => What::Close,
                    Some(Kind::Fence(_)) => What::Fence,
                    Some(Kind::Commit(_)) | None => commit.clone(),
                };
                fact(what, record.epoch())
            }
            At::Void(_) => fact(What::Void, 0),
            At::Absent => continue,
        };
        // Its own base: a record that nothing is read through.
        records.insert(seq, Fact { base: seq, ..found });
    }
    records.insert(tip.seq, Fact { base: tip.seq, ..fact(What::Fence, tip.epoch) });
    Ok(Facts { h: tip.seq, epoch: tip.epoch, checkpoint: tip.checkpoint, records })
}

/// What the names of all objects of a life begin with.
pub(super) fn whole(reader: &Reader) -> String {
    names::volume_prefix(reader.site().incarnation())
}

/// Every object whose name begins with `prefix`.
pub(super) async fn each_object(reader: &Reader, prefix: &str, visit: &mut (dyn FnMut(ObjectMeta) + Send)) -> Result<(), Fault> {
    let mut after: Option<String> = None;
    loop {
        let page = reader.site().store().list(prefix, after.as_deref(), PAGE).await?;
        let full = page.len() == PAGE;
        after = page.last().map(|meta| meta.name.clone());
        page.into_iter().for_each(&mut *visit);
        if !full {
            return Ok(());
        }
    }
}

fn unclaimed(state: &State) -> Result<(), Refused> {
    match state.claims.iter().next() {
        Some((number, claim)) => Err(Refused::Held { claim: *number, seq: claim.seq, kind: claim.kind.clone(), name: claim.name.clone() }),
        None => Ok(()),
    }
}

/// What the chain refuses about a removal is somebody else's need: in use.
fn refusal(error: LogError) -> Fault {
    match error {
        LogError::Control(refused) => Fault::new(FaultKind::Busy, format!("it is not removed: {refused}")),
        error => error.into(),
    }
}
