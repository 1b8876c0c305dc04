//! Inline frames whose record is gone: a checkpoint moved them into a pack, and retention may free the record afterwards.
//!
//! A cache knows such a frame by its record. What is clean in it is what the head of the log shows, and the head is read from the newest
//! checkpoint; so the newest checkpoint names the same plain bytes, with the same checksum, at the same place of the file
//! (docs/protocol-notes.md 12).

use crate::cache::Missing;
use crate::format::codec;
use crate::format::seal::Kind;
use crate::format::tree::{self, Item, Located, Place};
use crate::log::{self, Hint, Patience, Reader, Site};
use crate::store::Objects;
use crate::types::{Fault, Ino};
use bytes::Bytes;
use std::time::Duration;

/// How long the log is asked for before the read fails like any other.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the newest checkpoint says that the extents of one file lie.
pub(super) struct Moved {
    extents: Vec<Located>,
}

impl Moved {
    /// Reads the parts of the newest checkpoint that speak of this file.
    ///
    /// # Errors
    /// The store's faults; damage of the log or the checkpoint, by name.
    pub(super) async fn of(objects: &Objects, ino: Ino) -> Result<Self, Fault> {
        let site = Site::of(objects.clone()).with_patience(Patience { give_up: Some(PATIENCE), ..Patience::default() });
        let tip = Reader::new(site.clone()).tip(Hint::default()).await?;
        let mut extents = Vec::new();
        let index = if tip.checkpoint == 0 { None } else { log::checkpoint::load(&site, tip.checkpoint).await? };
        for part in index.iter().flat_map(|index| &index.parts).filter(|part| (part.first_ino..=part.last_ino).contains(&ino)) {
            for item in tree::items_of(objects.checkpoint_part(part).await?) {
                if let Item::Extents(of, map) = item
                    && of == ino
                {
                    extents.extend(map.into_vec());
                }
            }
        }
        Ok(Self { extents })
    }

    /// The plain content of the frame that `wanted` lies in; `None`: the checkpoint does not name it in a pack.
    ///
    /// # Errors
    /// The store's faults; [`crate::types::FaultKind::Damaged`] names the pack.
    pub(super) async fn read(&self, objects: &Objects, wanted: &Missing) -> Result<Option<Bytes>, Fault> {
        let same = |located: &&Located| {
            let extent = &located.extent;
            extent.offset <= wanted.range.start
                && wanted.range.end <= extent.offset + extent.length
                && (extent.checksum, extent.plain_length) == (wanted.extent.checksum, wanted.extent.plain_length)
        };
        let Some(Located { extent, place: Place::Object(object) }) = self.extents.iter().find(same) else { return Ok(None) };
        let stored = objects.range(object, extent.stored_offset..extent.stored_offset + u64::from(extent.stored_length)).await?;
        let plain = objects.sealer().open_frame(Kind::Pack, object, extent.frame, extent.plain_length, &stored)?;
        Ok((codec::checksum(&plain) == extent.checksum).then_some(plain))
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
