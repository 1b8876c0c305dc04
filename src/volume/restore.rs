//! A new volume that begins with a commit of another: its metadata written anew, its data by reference to the origin's packs.
//!
//! | step | a death right after it |
//! |---|---|
//! | 1 a claim in the origin's control chain holds the commit | `volume.restore_after_claim`: one claim too many; the same command uses it again |
//! | 2 the new incarnation's volume record, which names origin, commit and claim | nobody finds it: no name points there; its few objects stay as garbage |
//! | 3 its log: `open`, the commit, a commit that names the checkpoint of the first, `close` | `volume.restore_before_name`: as 2 |
//! | 4 the name record | `volume.restore_after_name`: all is there; the same command says so |
//!
//! So the new volume is there whole or not at all, and at every instant a claim holds what it names (protocol.md 3 iv). A claim of step 1 whose
//! volume came to be in another way is released by the next command that meets it: step 4 of its restore can never succeed any more.

use super::open::look_up;
use super::source::{self, Shown};
use crate::format::names;
use crate::log::branch::{self, Claimed};
use crate::log::control::{Chain, Purging, Refused, State};
use crate::log::lookup::{self, Books, Draft, Found, Vacant};
use crate::log::{self, Framed, Hint, Lookup, Reader, Site, Writer, WriterParams};
use crate::rpc::{self, control_record::Kind as Control};
use crate::store::{self, Objects};
use crate::types::{Epoch, Fault, FaultKind, Identity, Incarnation, Seq, UnixNanos, WriterId};
use crate::writeback::{Cloned, clone_tree};
use bytes::Bytes;
use std::sync::Arc;

/// The kind of claim that a clone holds its origin's commit by.
pub const CLONE: &str = "clone";
/// Who appends control records for a person's command.
pub const AUTHOR: &str = "command";

/// What to restore.
#[derive(Debug, Clone)]
pub struct RestoreParams {
    /// The store, and the key of its own objects.
    pub books: Books,
    /// The volume that has the commit.
    pub from: Identity,
    /// What of it.
    pub what: Restorable,
    /// The volume to make.
    pub to: Identity,
    /// Who does it: stands in the `open` of the new log.
    pub holder: rpc::Holder,
}

/// What a new volume can begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restorable {
    /// A commit.
    Commit(Seq),
    /// What the writer of this epoch had not committed, on what it had.
    Branch(Epoch),
}

/// What a restore reads of its origin.
struct From {
    objects: Objects,
    shown: Shown,
    /// The commit, or the branch in its form.
    state: rpc::Commit,
    /// The record that is claimed.
    head: log::Head,
    /// For people: `commit 7`, `branch 3`.
    told: String,
}

impl From {
    async fn read(what: Restorable, objects: Objects, reader: &Reader) -> Result<Self, Fault> {
        match what {
            Restorable::Commit(seq) => {
                let (head, checkpoint) = source::find(reader, seq).await?;
                let state = objects.commit(seq).await?;
                let shown = source::read(&objects, reader, checkpoint, head).await?;
                Ok(Self { objects, shown, state, head, told: format!("commit {seq}") })
            }
            Restorable::Branch(epoch) => {
                let (shown, branch) = source::read_branch(&objects, reader, epoch).await?;
                let (head, _) = source::find(reader, branch.base_seq).await?;
                Ok(Self { objects, shown, state: branch.state.unwrap_or_default(), head, told: format!("branch {epoch}") })
            }
        }
    }
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// The new volume's incarnation.
    pub incarnation: Incarnation,
    /// Its first commit.
    pub commit: Seq,
    /// The instant that the origin's commit shows.
    pub cut: UnixNanos,
    /// Files, directories and others.
    pub inodes: u64,
    /// Bytes of its files, all of them by reference.
    pub bytes: u64,
    /// Bytes that were written for it.
    pub uploaded: u64,
}

/// Makes the new volume. Ready at once whatever the bytes: only metadata is read and written, a part at a time.
///
/// # Errors
/// [`FaultKind::Exists`]: there is a volume of that name; [`FaultKind::NotFound`]: no such volume or commit; [`FaultKind::Busy`]: it is
/// being removed; [`FaultKind::Stale`]: the commit was retired; the store's faults. After any of them the same call may be made again.
pub async fn restore(params: &RestoreParams, waiting: &(dyn Fn(&str) + Sync)) -> Result<Restored, Fault> {
    let RestoreParams { books, from, to, what, .. } = params;
    if from == to {
        return Err(Fault::new(FaultKind::Invalid, format!("volume {to} cannot be restored into itself: give the new one another name")));
    }
    let Lookup::Found(origin) = look_up(books, from, waiting).await? else {
        return Err(Fault::new(FaultKind::NotFound, format!("there is no volume {from} in this store")));
    };
    let sealer = log::data_sealer(books, &origin.volume).await?;
    let site = Site::new(Arc::clone(&books.store), books.env.clone(), sealer.clone(), origin.incarnation);
    let objects = Objects::new(Arc::clone(&books.store), sealer, origin.incarnation, books.env.clone());
    let (vacant, first_life) = vacancy(params, &site, waiting).await?;
    let from = From::read(*what, objects, &Reader::new(site.clone())).await?;
    let claim = claim(params, &site, &from, first_life).await?;
    books.env.failpoint("volume.restore_after_claim");
    let draft = lookup::draft(
        books,
        to,
        Some(rpc::Origin {
            incarnation: origin.volume.incarnation.clone(),
            seq: from.head.seq,
            commit_hash: Bytes::copy_from_slice(from.head.hash.as_bytes()),
            claim,
            data_key: origin.volume.data_key.clone(),
        }),
    )
    .await?;
    let restored = write(params, &from, &draft).await?;
    books.env.failpoint("volume.restore_before_name");
    match lookup::name(books, to, vacant, draft).await? {
        (_, true) => {
            books.env.failpoint("volume.restore_after_name");
            Ok(restored)
        }
        (there, false) => Err(refuse_existing(params, &site, &there).await?),
    }
}

/// The permission to make the new volume, and whether there never was one of that name.
async fn vacancy(params: &RestoreParams, origin: &Site, waiting: &(dyn Fn(&str) + Sync)) -> Result<(Vacant, bool), Fault> {
    let RestoreParams { books, to, .. } = params;
    match look_up(books, to, waiting).await? {
        Lookup::Absent(vacant) => Ok((vacant, true)),
        Lookup::Found(there) => {
            let sealer = log::data_sealer(books, &there.volume).await?;
            let site = Site::new(Arc::clone(&books.store), books.env.clone(), sealer, there.incarnation);
            match lookup::vacated(&site, &there).await? {
                Some(vacant) => Ok((vacant, false)),
                None => Err(refuse_existing(params, origin, &there).await?),
            }
        }
        Lookup::Damaged(why) | Lookup::Unknown(why) => Err(Fault::new(FaultKind::Unknown, why)),
    }
}

/// Says what is there under the new name, and releases claims for restores of that name that can never end any more.
async fn refuse_existing(params: &RestoreParams, origin: &Site, there: &Found) -> Result<Fault, Fault> {
    let RestoreParams { books, from, to, .. } = params;
    let mut chain = Chain::read(origin.clone()).await?;
    let in_use = there.volume.origin.as_ref().filter(|of| of.incarnation == *origin.incarnation().as_bytes());
    for claim in claims_for(chain.state(), to) {
        if in_use.is_none_or(|of| of.claim != claim) {
            release(&mut chain, books, claim).await?;
        }
    }
    let what = match in_use {
        Some(of) => format!("volume {to} is there already: it was restored from commit {} of {from}", of.seq),
        None => format!("volume {to} is there already"),
    };
    Ok(Fault::new(FaultKind::Exists, format!("{what}; give the new one another name")))
}

/// Ends a claim.
///
/// # Errors
/// The store does not answer, or there is no such claim in force.
pub async fn release(chain: &mut Chain, books: &Books, claim: u64) -> Result<(), Fault> {
    let now = store::now(&*books.store, &books.env).await?;
    chain.append(AUTHOR, now, &|_| Ok(Control::Release(rpc::Release { claim }))).await?;
    Ok(())
}

/// Claims in force for clones of this name.
fn claims_for(state: &State, to: &Identity) -> Vec<u64> {
    let ours = state.claims.iter().filter(|(_, claim)| claim.kind == CLONE && claim.name == to.as_str());
    ours.map(|(number, _)| *number).collect()
}

/// The claim that holds the commit: the one of an earlier attempt, or a new one. Where the name had a life before, always a new one: the
/// removal of that life releases the claim that it was made by.
async fn claim(params: &RestoreParams, site: &Site, what: &From, first_life: bool) -> Result<u64, Fault> {
    let RestoreParams { books, from, to, .. } = params;
    let mut chain = Chain::read(site.clone()).await?;
    match chain.state().purging {
        Purging::No => {}
        Purging::Begun { .. } => {
            return Err(Fault::new(
                FaultKind::Busy,
                format!("volume {from} is being removed: `holdfast volume rm {from} --undo` keeps it"),
            ));
        }
        Purging::Done => return Err(Fault::new(FaultKind::NotFound, format!("there is no volume {from}: it was removed"))),
    }
    let reason = match params.what {
        Restorable::Commit(_) => "restore".to_owned(),
        // Who drops the branch finds by this that its packs are needed.
        Restorable::Branch(epoch) => branch::clone_reason(epoch),
    };
    let (state, seq) = (chain.state(), what.head.seq);
    let same = |number: &u64| first_life && state.claims.get(number).is_some_and(|claim| claim.seq == seq && claim.reason == reason);
    if let Some(number) = claims_for(state, to).into_iter().find(same) {
        return Ok(number);
    }
    let now = store::now(&*books.store, &books.env).await?;
    let claim = rpc::Claim { seq, kind: CLONE.to_owned(), name: to.to_string(), reason, expires: 0 };
    let decide = |state: &State| match params.what {
        Restorable::Branch(epoch) if branch::claimed(state, epoch) == Claimed::Dropped => Err(Refused::Retired(seq)),
        _ => Ok(Control::Claim(claim.clone())),
    };
    Ok(chain.append(AUTHOR, now, &decide).await?)
}

/// The whole log of the new incarnation.
async fn write(params: &RestoreParams, from: &From, draft: &Draft) -> Result<Restored, Fault> {
    let (origin, tail) = (&from.state, &from.shown.tail);
    let (books, incarnation) = (&params.books, draft.incarnation());
    let sealer = draft.sealer(books).await?;
    let site = Site::new(Arc::clone(&books.store), books.env.clone(), sealer.clone(), incarnation);
    let into = Objects::new(Arc::clone(&books.store), sealer, incarnation, books.env.clone());
    let id = WriterId(books.env.random());
    let writer_params = WriterParams { writer: id, holder: params.holder.clone(), cache: None, hint: Hint::default() };
    let (mut writer, _) = Writer::open(site.clone(), writer_params).await?;
    let (seq, epoch) = (writer.head().seq + 1, writer.epoch());
    let Cloned { delta_frames, packs, named, parts, next: (next_inode, next_cookie) } =
        clone_tree(tail, &from.objects, &into, (seq, epoch)).await?;
    let uploaded = packs.iter().map(|pack| pack.size).sum();
    packs.iter().try_for_each(|pack| writer.nameable().uploaded(pack.clone()))?;
    for object in &named {
        // The origin's are claimed there; the others hold what lay inline in its records.
        match names::absolute(incarnation, &object.name) {
            Some((life, _)) if life != incarnation => writer.nameable().claimed([object.name.clone()]),
            _ => writer.nameable().uploaded(object.clone())?,
        }
    }
    let totals = origin.totals.unwrap_or_default();
    let first = rpc::Commit {
        // The instant of the restore: times grow along a log. The origin's is in the note.
        cut_time: books.env.now(),
        full: origin.full,
        delta_frames,
        note: format!("restored from {}: {}", params.from, from.told),
        totals: Some(rpc::Totals { uploaded, ..totals }),
        ..rpc::Commit::default()
    };
    let first = rpc::Commit { domains: instants(seq, first.cut_time), ..first };
    let head = append(&mut writer, first.clone(), &Framed { objects: named, records: Vec::new() }).await?;
    let index = rpc::Checkpoint {
        seq,
        commit_hash: Bytes::copy_from_slice(head.hash.as_bytes()),
        epoch,
        parts,
        next_inode,
        next_cookie,
        totals: first.totals,
        domains: first.domains,
        policy: String::new(),
        opens: vec![writer.opened()],
    };
    log::checkpoint::store(&site, index).await?;
    writer.name_checkpoint(seq);
    let delta = Some(rpc::Delta { next_inode, next_cookie, ..rpc::Delta::default() });
    let second = rpc::Commit {
        cut_time: first.cut_time,
        full: first.full,
        delta,
        domains: instants(seq + 1, first.cut_time),
        totals: Some(rpc::Totals { uploaded: 0, ..totals }),
        ..rpc::Commit::default()
    };
    append(&mut writer, second, &Framed::default()).await?;
    writer.close().await?;
    Ok(Restored { incarnation, commit: seq, cut: origin.cut_time, inodes: totals.inodes, bytes: totals.bytes, uploaded })
}

async fn append(writer: &mut Writer, commit: rpc::Commit, framed: &Framed) -> Result<log::Head, Fault> {
    let approved = writer.nameable().approve(commit, framed, &|_| false)?;
    let prepared = writer.prepare(approved)?;
    Ok(writer.put(&prepared).await?)
}

fn instants(seq: Seq, cut_time: UnixNanos) -> Vec<rpc::DomainInstant> {
    vec![rpc::DomainInstant { domain: rpc::Domain::Continuous.into(), seq, cut_time }]
}
