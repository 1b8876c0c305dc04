//! The index that makes a checkpoint, and which checkpoint is the newest.
//!
//! The newest checkpoint is the one that the newest *record* names, never the one with the highest number that happens to lie there: a
//! process that was fenced can still store an index that arrives late. Its successor does not know it, shares parts with an older one, and a
//! janitor that took the late one for the newest would delete those parts (docs/protocol-notes.md 1). A record can only be appended by the
//! writer in force, after it has read the log; so what records name is in one order.

use super::{Created, LogError, Site};
use crate::format::{checkpoint, names};
use crate::rpc::Checkpoint;
use crate::types::Seq;

/// The index of the checkpoint at `seq`; `None`: there is none.
///
/// # Errors
/// The store does not answer, or the index is damaged.
pub async fn load(site: &Site, seq: Seq) -> Result<Option<Checkpoint>, LogError> {
    let name = names::checkpoint_index(site.incarnation(), seq);
    let Some(bytes) = site.get(&name).await? else { return Ok(None) };
    checkpoint::decode_index(&bytes, site.sealer(), &name).map(Some).map_err(LogError::undecodable)
}

/// Stores the index that makes a checkpoint; its parts are stored already. Shared parts may come only from the newest checkpoint, the one
/// that this writer's records name. When another index of this number is there (an earlier life of this node, whose put landed), that one
/// counts, if it is of the same record; it is returned.
///
/// The writer then names it: [`super::Writer::name_checkpoint`].
///
/// # Errors
/// The store does not answer, or what is there is of another record.
pub async fn store(site: &Site, index: Checkpoint) -> Result<Checkpoint, LogError> {
    let name = names::checkpoint_index(site.incarnation(), index.seq);
    let (bytes, _) = checkpoint::encode_index(&index, site.sealer(), &name, site.env().random())?;
    site.env().failpoint("log.before_checkpoint_index");
    match site.create(&name, &bytes).await? {
        Created::Ours => Ok(index),
        Created::Theirs(bytes) => {
            let there = checkpoint::decode_index(&bytes, site.sealer(), &name).map_err(LogError::undecodable)?;
            if there.commit_hash == index.commit_hash {
                Ok(there)
            } else {
                Err(LogError::damaged(name, "it is of another record than the one of its number"))
            }
        }
    }
}
