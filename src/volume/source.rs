//! From the log to what hydrate and write-back begin with: the newest checkpoint and the commits after it, read once.

use crate::cache::Head;
use crate::format::changes::PackedDelta;
use crate::hydrate::Source;
use crate::log::{self, At, Reader, Record, branch};
use crate::rpc::{self, Checkpoint, Commit, log_record::Kind};
use crate::store::Objects;
use crate::types::{Epoch, Fault, FaultKind, Hash, Seq};
use crate::writeback::{LastCommit, Tail};

/// The state of a volume at one record.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) source: Source,
    pub(super) tail: Tail,
    pub(super) last: Option<LastCommit>,
}

/// Reads what the record `at` shows; `checkpoint` is the newest one at or before it that a record names (0: none).
pub(super) async fn read(objects: &Objects, reader: &Reader, checkpoint: Seq, at: Head) -> Result<Shown, Fault> {
    let base = match checkpoint {
        0 => None,
        seq => Some(load_checkpoint(reader, seq).await?),
    };
    let from = base.as_ref().map_or((0, Hash([0; 32])), |base| (base.seq, Hash::from_slice(&base.commit_hash).unwrap_or(Hash([0; 32]))));
    let mut records: Vec<Record> = Vec::new();
    let mut visit = |record: Record| {
        records.push(record);
        Ok(())
    };
    reader.walk(from, (at.seq, at.hash), &mut visit).await?;
    let mut shown = Shown {
        last: base.as_ref().map(last_of_checkpoint),
        tail: Tail::after(base.clone()),
        source: Source { checkpoint: base, commits: Vec::new(), head: Some(at) },
    };
    for record in records {
        match &record.record.kind {
            Some(Kind::Commit(commit)) => {
                let deltas = packed(objects, commit).await?;
                shown.tail.commit(record.seq, &commit.inline_frames, deltas.clone());
                shown.last = Some(last_of(record.seq, commit));
                shown.source.commits.push((record.seq, deltas));
            }
            Some(Kind::Open(_)) => shown.tail.opened(record.seq),
            Some(Kind::Close(_) | Kind::Fence(_)) | None => {}
        }
    }
    Ok(shown)
}

/// All deltas since a checkpoint are in memory until the cache is filled.
async fn packed(objects: &Objects, commit: &Commit) -> Result<Vec<PackedDelta>, Fault> {
    Ok(objects.deltas(commit).await?.iter().map(PackedDelta::of).collect())
}

/// Reads what commit `seq` shows.
pub(super) async fn read_at(objects: &Objects, reader: &Reader, seq: Seq) -> Result<Shown, Fault> {
    let (head, checkpoint) = find(reader, seq).await?;
    read(objects, reader, checkpoint, head).await
}

/// Reads what the branch of `epoch` shows: the record on which it stands, and what it changes of that.
pub(super) async fn read_branch(objects: &Objects, reader: &Reader, epoch: Epoch) -> Result<(Shown, rpc::Branch), Fault> {
    let (_, found) = branch::newest(reader.site(), epoch).await?.ok_or_else(|| {
        Fault::new(FaultKind::NotFound, format!("there is no branch {epoch} of this volume; `holdfast branch list` lists them"))
    })?;
    let (base, checkpoint) = find(reader, found.base_seq).await?;
    if base.hash.as_bytes()[..] != found.base_hash[..] {
        let name = reader.site().record_name(base.seq);
        return Err(Fault::new(FaultKind::Damaged, format!("{name} is not the record that branch {epoch} stands on")));
    }
    let mut shown = read(objects, reader, checkpoint, base).await?;
    let state = found.state.clone().unwrap_or_default();
    let deltas = packed(objects, &state).await?;
    // No record has this number in the branch; nothing of a branch lies inline in one.
    let seq = base.seq + 1;
    shown.tail.commit(seq, &[], deltas.clone());
    shown.last = Some(LastCommit { seq: base.seq, cut_time: state.cut_time, full: state.full });
    shown.source.commits.push((seq, deltas));
    Ok((shown, found))
}

/// The newest commit at or before a record, for a cache that goes on without reading the log: a few records back at the most.
pub(super) async fn newest_commit(reader: &Reader, from: Seq) -> Option<LastCommit> {
    const BACK: u64 = 64;
    for seq in (from.saturating_sub(BACK) + 1..=from).rev() {
        let Ok(At::Record(record)) = reader.at(seq).await else { continue };
        if let Some(Kind::Commit(commit)) = &record.record.kind {
            return Some(last_of(seq, commit));
        }
    }
    None
}

/// The record of a number and the newest checkpoint at or before it, for a reader of an older moment.
pub(super) async fn find(reader: &Reader, seq: Seq) -> Result<(Head, Seq), Fault> {
    let mut at = seq;
    let mut head = None;
    loop {
        let At::Record(record) = reader.at(at).await? else {
            return Err(Fault::new(FaultKind::NotFound, format!("there is no commit {seq}: see `holdfast history`")));
        };
        let head = *head.get_or_insert(Head { seq, hash: record.hash, epoch: record.epoch() });
        match record.checkpoint() {
            Some(checkpoint) => return Ok((head, checkpoint)),
            // `close` names none; the record before it does.
            None if at > 1 => at -= 1,
            None => return Ok((head, 0)),
        }
    }
}

async fn load_checkpoint(reader: &Reader, seq: Seq) -> Result<Checkpoint, Fault> {
    log::checkpoint::load(reader.site(), seq).await?.ok_or_else(|| {
        let name = crate::format::names::checkpoint_index(reader.site().incarnation(), seq);
        Fault::new(FaultKind::Damaged, format!("{name} is missing, though the log names it"))
    })
}

fn last_of(seq: Seq, commit: &Commit) -> LastCommit {
    LastCommit { seq, cut_time: commit.cut_time, full: commit.full }
}

fn last_of_checkpoint(checkpoint: &Checkpoint) -> LastCommit {
    let cut_time = checkpoint.domains.iter().map(|domain| domain.cut_time).max().unwrap_or(0);
    let full = checkpoint.domains.iter().all(|domain| domain.seq == checkpoint.seq);
    LastCommit { seq: checkpoint.seq, cut_time, full }
}
