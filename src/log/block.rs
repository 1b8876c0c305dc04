//! Block markers, and the only place that frees numbers of the log.
//!
//! A number that is free again could be taken again: by a writer that slept, or an opener whose view was stale. So before any number of an
//! aligned block is freed, `blocks/<k>` is created, for ever, with the hash of every record that the block held. An opener looks for the
//! marker of its own block after its put; readers believe no other hash there.

use super::control::State;
use super::{At, Created, LogError, Reader, Site};
use crate::format::{block, names};
use crate::rpc::BlockMarker;
use crate::rpc::log_record::Kind;
use crate::types::{Hash, Seq};
use futures::future::try_join_all;
use std::collections::BTreeSet;

/// Numbers freed side by side.
const SIDE_BY_SIDE: usize = 16;

/// The marker of a block, if it has one.
///
/// # Errors
/// The store does not answer, or the marker is damaged.
pub async fn load(site: &Site, k: u64) -> Result<Option<BlockMarker>, LogError> {
    let name = names::block(site.incarnation(), k);
    let Some(bytes) = site.get(&name).await? else { return Ok(None) };
    block::decode(&bytes, site.sealer(), &name).map(Some).map_err(LogError::undecodable)
}

/// Whether a marker says that `seq` held the record with this hash.
#[must_use]
pub fn lists(site: &Site, marker: &BlockMarker, seq: Seq, hash: Hash) -> bool {
    let index = seq.checked_sub(marker.block * site.block).and_then(|index| usize::try_from(index).ok());
    index.and_then(|index| marker.record_hashes.get(index)).is_some_and(|listed| *listed == hash.as_bytes())
}

/// Marks block `k` unless it is marked. The block must lie wholly below `limit`: the newest checkpoint, which must be stored, or the `fence` of
/// a purged log. So all its numbers were filled, and the end of the log is beyond it. Blocks are marked in order: readers find the end by it.
///
/// # Errors
/// The block may not be marked, a record is damaged, or the store does not answer.
pub async fn mark(reader: &Reader, k: u64, limit: Seq) -> Result<(), LogError> {
    let site = reader.site();
    let name = names::block(site.incarnation(), k);
    if load(site, k).await?.is_some() {
        return Ok(());
    }
    if site.last_of(k) >= limit || !(super::checkpoint::load(site, limit).await?.is_some() || is_fence(reader, limit).await?) {
        return Err(LogError::damaged(
            name,
            format!("block {k} is not below a stored checkpoint or fence ({limit}) and may not be marked"),
        ));
    }
    if k > 0 && load(site, k - 1).await?.is_none() {
        return Err(LogError::damaged(name, format!("block {} is not marked, blocks are marked in order", k - 1)));
    }
    let mut record_hashes = Vec::new();
    if k == 0 {
        // Number 0 does not exist.
        record_hashes.push(Vec::new().into());
    }
    for seq in site.first_of(k)..=site.last_of(k) {
        let hash = match reader.raw(seq).await? {
            At::Record(record) => record.hash,
            At::Void(hash) => hash,
            // Another janitor marked the block and freed the number since this one looked.
            At::Absent if load(site, k).await?.is_some() => return Ok(()),
            At::Absent => return Err(LogError::missing(site.record_name(seq))),
        };
        record_hashes.push(hash.as_bytes().to_vec().into());
    }
    let marker = BlockMarker { block: k, record_hashes };
    let (bytes, _) = block::encode(&marker, site.sealer(), &name, site.env().random())?;
    site.env().failpoint("log.before_marker");
    match site.create(&name, &bytes).await? {
        Created::Ours => Ok(()),
        // Of another janitor: it read the same records, or freed some of them in between. Its list counts.
        Created::Theirs(bytes) => block::decode(&bytes, site.sealer(), &name).map(|_| ()).map_err(LogError::undecodable),
    }
}

async fn is_fence(reader: &Reader, seq: Seq) -> Result<bool, LogError> {
    Ok(matches!(reader.raw(seq).await?, At::Record(record) if matches!(record.record.kind, Some(Kind::Fence(_)))))
}

/// Frees numbers of the log: marker first. Only what a stored `retire` lists is freed; a number is skipped when its block may not be marked yet.
/// Returns how many were freed.
///
/// # Errors
/// The store does not answer, or a record is damaged.
pub async fn free(reader: &Reader, chain: &State, limit: Seq, numbers: &BTreeSet<Seq>) -> Result<u64, LogError> {
    let site = reader.site();
    let mut freed: u64 = 0;
    let Some(last) = numbers.iter().rev().find(|seq| site.last_of(site.block_of(**seq)) < limit) else { return Ok(0) };
    let last_block = site.block_of(*last);
    let unmarked = first_unmarked(reader, numbers.first().map_or(0, |seq| site.block_of(*seq))).await?;
    for k in unmarked..=last_block {
        mark(reader, k, limit).await?;
    }
    site.env().failpoint("log.after_marker_before_delete");
    let free: Vec<Seq> =
        numbers.iter().copied().filter(|seq| chain.retired_seqs.contains(seq) && site.block_of(*seq) <= last_block).collect();
    for batch in free.chunks(SIDE_BY_SIDE) {
        try_join_all(batch.iter().map(|seq| async move { site.delete(&site.record_name(*seq)).await })).await?;
        freed += batch.len() as u64;
        site.env().failpoint("log.in_freeing");
    }
    Ok(freed)
}

/// The first block without a marker: from `guess` on when the one before is marked, else from the beginning.
async fn first_unmarked(reader: &Reader, guess: u64) -> Result<u64, LogError> {
    let mut k = if guess > 0 && load(reader.site(), guess - 1).await?.is_some() { guess } else { 0 };
    while load(reader.site(), k).await?.is_some() {
        k += 1;
    }
    Ok(k)
}
