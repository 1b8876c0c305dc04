//! Metadata of one commit into an empty cache.

use crate::cache::{Cache, Head};
use crate::env::memory;
use crate::format::changes::PackedDelta;
use crate::rpc;
use crate::store::Objects;
use crate::types::{Fault, FaultKind, ROOT, Seq};
use futures::StreamExt;
use std::sync::Arc;

/// Parts of a checkpoint that are fetched at the same time: each takes several MiB once it is decoded, and SQLite some 100 ms.
const PARTS_IN_FLIGHT: usize = 3;

/// What to load: a checkpoint and the commits after it, up to the one wanted.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The newest checkpoint at or before the commit.
    pub checkpoint: Option<rpc::Checkpoint>,
    /// The commits after it, in order, with their deltas.
    pub commits: Vec<(Seq, Vec<PackedDelta>)>,
    /// The record that the cache will stand at.
    pub head: Option<Head>,
}

/// Fills `cache`, which is empty. Nothing of the data is fetched.
///
/// # Errors
/// The store's faults; [`FaultKind::Damaged`] names the object; the cache's disk.
pub async fn load(objects: &Objects, cache: &Arc<Cache>, source: Source) -> Result<(), Fault> {
    let head = source.head.ok_or_else(|| Fault::new(FaultKind::NotFound, "the volume has no commit yet"))?;
    let mut loader = cache.load()?;
    let (mut next_inode, mut next_cookie) = (ROOT + 1, 0);
    if let Some(checkpoint) = &source.checkpoint {
        (next_inode, next_cookie) = (next_inode.max(checkpoint.next_inode), checkpoint.next_cookie);
        let mut parts =
            futures::stream::iter(checkpoint.parts.clone()).map(|part| fetch_part(objects.clone(), part)).buffered(PARTS_IN_FLIGHT);
        while let Some(part) = parts.next().await {
            let part = part?;
            // SQLite's work goes on while the next parts arrive.
            loader = objects.env().blocking(move || loader.part(&part).map(|()| loader)).await?;
        }
    }
    for (seq, deltas) in source.commits {
        loader = objects
            .env()
            .blocking(move || {
                for delta in &deltas {
                    let delta = delta.open()?;
                    next_inode = next_inode.max(delta.next_inode);
                    next_cookie = next_cookie.max(delta.next_cookie);
                    loader.delta(seq, &delta)?;
                }
                Ok::<_, Fault>((loader, next_inode, next_cookie))
            })
            .await
            .map(|(loader, inode, cookie)| {
                (next_inode, next_cookie) = (inode, cookie);
                loader
            })?;
    }
    objects.env().failpoint("hydrate.after_load_before_finish");
    objects.env().blocking(move || loader.finish(head, next_inode, next_cookie)).await?;
    memory::give_back();
    Ok(())
}

async fn fetch_part(objects: Objects, part: rpc::PartRef) -> Result<rpc::CheckpointPart, Fault> {
    // Decoding is CPU work: on its own task it runs beside SQLite's.
    let env = objects.env().clone();
    match env.spawn(async move { objects.checkpoint_part(&part).await }).await {
        Ok(part) => part,
        Err(error) => Err(Fault::with(FaultKind::Local, "a task did not end", error)),
    }
}
