//! From the bytes of a request's answer to pages of the cache: each frame is opened, compared with its checksum, installed.
//!
//! Rule (protocol.md 7.4): bytes are installed by the cache only into pages that are still absent, so a write or truncate that
//! overtakes a fetch wins. A frame is verified (seal, length, checksum) before a byte of it is used.

use super::fetch::Wanted;
use crate::cache::{Cache, CacheError, LocalExtent, Missing};
use crate::format::codec;
use crate::format::seal::Kind;
use crate::rpc;
use crate::store::Objects;
use crate::types::{Fault, FaultKind, Ino};
use bytes::Bytes;
use std::sync::Arc;

/// The answer to one request, and the extents that lie in it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) object: rpc::ObjectRef,
    /// Where in the object the bytes begin.
    pub(super) start: u64,
    pub(super) bytes: Bytes,
    /// In order of where they are stored.
    pub(super) wanted: Vec<Wanted>,
}

/// Shared by all fetches, and by the threads that open frames for them.
#[derive(Debug, Clone)]
pub(super) struct Installer {
    objects: Objects,
    cache: Arc<Cache>,
}

impl Installer {
    pub(super) fn new(objects: Objects, cache: Arc<Cache>) -> Self {
        Self { objects, cache }
    }

    /// Installs what opens. Gives what does not: perhaps the answer was bad, and not what is stored.
    ///
    /// # Errors
    /// The cache's own; an extent that reaches beyond its frame.
    pub(super) fn take(&self, answer: Answer) -> Result<Vec<Wanted>, Fault> {
        let Answer { object, start, bytes, wanted } = answer;
        let (mut last, mut refused) = (None::<(u64, Bytes)>, Vec::new());
        for wanted in wanted {
            let extent = &wanted.missing.extent;
            // Extents of one frame follow one another.
            let plain = match &last {
                Some((offset, plain)) if *offset == extent.stored_offset => plain.clone(),
                _ => {
                    let at = usize::try_from(extent.stored_offset - start).unwrap_or(usize::MAX);
                    let stored = bytes.get(at..at.saturating_add(extent.stored_length as usize)).unwrap_or_default();
                    match self.open(&object, extent, stored) {
                        Ok(plain) => last.insert((extent.stored_offset, plain)).1.clone(),
                        Err(_) => {
                            refused.push(wanted);
                            continue;
                        }
                    }
                }
            };
            self.install(wanted.ino, &wanted.missing, &plain)?;
        }
        Ok(refused)
    }

    /// The content of one frame of an object.
    ///
    /// # Errors
    /// [`FaultKind::Damaged`]: it is not what the commit says.
    pub(super) fn open(&self, object: &rpc::ObjectRef, extent: &LocalExtent, stored: &[u8]) -> Result<Bytes, Fault> {
        let plain = self.objects.sealer().open_frame(Kind::Pack, object, extent.frame, extent.plain_length, stored)?;
        if codec::checksum(&plain) != extent.checksum {
            return Err(Fault::new(
                FaultKind::Damaged,
                format!("{}: frame {} has not the checksum that its commit says", object.name, extent.frame),
            ));
        }
        Ok(plain)
    }

    /// An extent's part of its frame, into the file; a file that is gone by now is no fault.
    ///
    /// # Errors
    /// The cache's own; [`FaultKind::Damaged`]: the frame has no such part.
    pub(super) fn install(&self, ino: Ino, missing: &Missing, plain: &Bytes) -> Result<(), Fault> {
        let start = missing.extent.skip as usize;
        let length = usize::try_from(missing.range.end - missing.range.start).unwrap_or(usize::MAX);
        let Some(bytes) = plain.get(start..start.saturating_add(length)) else {
            return Err(Fault::new(FaultKind::Damaged, format!("an extent of inode {ino} reaches beyond its frame")));
        };
        match self.cache.install(ino, missing, bytes) {
            // Removed meanwhile: the bytes beside it are other files'.
            Ok(_) | Err(CacheError::NoInode(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
