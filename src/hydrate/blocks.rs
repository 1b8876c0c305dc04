//! Pieces of packs around what was read: small files that were written together lie side by side, and are mostly read together.
//!
//! The first small range that is asked of a block of a pack is fetched as it is; the next one nearby, soon after, brings the whole block, which
//! is kept for those that follow. A reader that jumps about finds its hint overtaken by others and goes on paying for its own bytes alone.

use super::plan;
use crate::cache::ObjectId;
use crate::rpc;
use crate::store::Objects;
use crate::types::{Fault, FaultKind};
use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::ops::Range;

/// Blocks kept, each of about [`plan::BLOCK_BYTES`]: the memory that this takes.
const KEPT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(7);
/// Blocks of which something was asked lately.
const ASKED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(7);

/// One block of one object.
type Place = (ObjectId, u64);

/// See the module.
#[derive(Debug)]
pub(super) struct Blocks {
    kept: Mutex<LruCache<Place, (u64, Bytes)>>,
    asked: Mutex<LruCache<Place, ()>>,
}

impl Default for Blocks {
    fn default() -> Self {
        Self { kept: Mutex::new(LruCache::new(KEPT)), asked: Mutex::new(LruCache::new(ASKED)) }
    }
}

impl Blocks {
    /// The stored bytes of `range`, from a kept block or from the store.
    ///
    /// # Errors
    /// As [`Objects::range`].
    pub(super) async fn range(&self, objects: &Objects, from: (ObjectId, &rpc::ObjectRef), range: Range<u64>) -> Result<Bytes, Fault> {
        let (id, object) = from;
        let Some(block) = plan::block_of(&range, object.size) else { return objects.range(object, range).await };
        let place = (id, block.start);
        if let Some(bytes) = self.kept(place, &range) {
            return Ok(bytes);
        }
        let neighbours = [block.start, block.start.wrapping_sub(plan::BLOCK_BYTES), block.start + plan::BLOCK_BYTES];
        let near = {
            let mut asked = self.asked.lock();
            let near = neighbours.iter().any(|start| asked.contains(&(id, *start)));
            asked.put(place, ());
            near
        };
        if !near {
            return objects.range(object, range).await;
        }
        let bytes = match objects.range(object, block.clone()).await {
            // It ends early: what lies before that is still good.
            Err(fault) if fault.kind == FaultKind::Damaged => return objects.range(object, range).await,
            bytes => bytes?,
        };
        self.kept.lock().put(place, (block.start, bytes.clone()));
        Ok(slice(&bytes, block.start, &range).unwrap_or_default())
    }

    /// Bytes of it were not what they must be: the store is asked again.
    pub(super) fn forget(&self, id: ObjectId, offset: u64) {
        let start = offset - offset % plan::BLOCK_BYTES;
        self.kept.lock().pop(&(id, start));
    }

    fn kept(&self, place: Place, range: &Range<u64>) -> Option<Bytes> {
        let mut kept = self.kept.lock();
        let (start, bytes) = kept.get(&place)?;
        slice(bytes, *start, range)
    }
}

fn slice(bytes: &Bytes, start: u64, range: &Range<u64>) -> Option<Bytes> {
    let from = usize::try_from(range.start.checked_sub(start)?).ok()?;
    let to = usize::try_from(range.end.checked_sub(start)?).ok()?;
    (from <= to && to <= bytes.len()).then(|| bytes.slice(from..to))
}
