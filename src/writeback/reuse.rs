//! What was uploaded before a seal was given up, or before the process before this one died: found again by its content.
//!
//! Protocol.md 6.6 says that an uploaded extent is used again only if none of its pages was dirtied after it froze. Which pages those are
//! is not known any more after a death; that the bytes of the cut are the uploaded bytes says the same and needs no memory of it.

use crate::cache::{Cache, CacheError, UploadedFrame};
use crate::format::codec;
use crate::rpc;
use crate::types::Ino;
use std::collections::{HashMap, HashSet};

/// More frames than this are uploaded once more: bounds memory (about 100 bytes each).
const FRAMES_MAX: usize = 1 << 19;

/// Frames of packs that a commit may name and none has named.
#[derive(Debug, Default)]
pub(super) struct Reuse {
    seed: u64,
    objects: Vec<rpc::ObjectRef>,
    frames: HashMap<(Ino, u64, u128), (u32, UploadedFrame)>,
}

impl Reuse {
    /// Nothing to find.
    pub(super) fn none(cache: &Cache) -> Self {
        let id = cache.origin().cache_id;
        let seed = id.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Self { seed, ..Self::default() }
    }

    /// What the cache knows of packs that `allowed` names.
    ///
    /// # Errors
    /// When the cache's disk fails.
    pub(super) fn load(cache: &Cache, allowed: &HashSet<String>) -> Result<Self, CacheError> {
        let mut reuse = Self::none(cache);
        if allowed.is_empty() {
            return Ok(reuse);
        }
        let mut known: HashMap<String, u32> = HashMap::new();
        for upload in cache.uploads()? {
            if !allowed.contains(&upload.object.name) || reuse.frames.len() >= FRAMES_MAX {
                continue;
            }
            let object = *known.entry(upload.object.name.clone()).or_insert_with(|| {
                reuse.objects.push(upload.object.clone());
                // As many as there are packs in one seal.
                (reuse.objects.len() - 1) as u32
            });
            for frame in upload.frames {
                reuse.frames.insert((frame.ino, frame.offset, frame.content), (object, frame));
            }
        }
        Ok(reuse)
    }

    /// What tells this content apart.
    pub(super) fn fingerprint(&self, plain: &[u8]) -> u128 {
        codec::fingerprint(self.seed, plain)
    }

    /// The frame that holds exactly these bytes of a file, and the number of its pack.
    pub(super) fn find(&self, ino: Ino, offset: u64, length: usize, content: u128) -> Option<(u32, &UploadedFrame)> {
        let (object, frame) = self.frames.get(&(ino, offset, content))?;
        (frame.plain_length as usize == length).then_some((*object, frame))
    }

    /// A pack by its number.
    pub(super) fn object(&self, number: u32) -> Option<&rpc::ObjectRef> {
        self.objects.get(number as usize)
    }
}
