//! Packs on their way: which content lies where in packs that no commit names yet, so that a successor of this process need not upload
//! it again (protocol.md 3 iii, 6.6).
//!
//! A row is logged before the pack's upload begins and survives the process as every mutation does; whether the pack arrived is asked of
//! the store by whoever opens the log. All rows go in the step that makes a commit's outcome durable: what a commit has named can
//! never be taken for unnamed.

use super::Cache;
use super::codec::{Reader, Writer};
use super::types::CacheError;
use crate::rpc;
use crate::types::Ino;
use prost::Message;

/// Frames in one row: below what one record of the log holds.
const FRAMES_MAX: usize = 512;
/// In front of the keys of these rows in the table `state`.
const PREFIX: &str = "upload.";

/// Content of files in a pack.
#[derive(Debug, Clone, PartialEq)]
pub struct Upload {
    /// The pack.
    pub object: rpc::ObjectRef,
    /// What lies in it.
    pub frames: Vec<UploadedFrame>,
}

/// A frame of a pack, and what it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadedFrame {
    /// The file.
    pub ino: Ino,
    /// First byte in the file.
    pub offset: u64,
    /// Its number in the pack.
    pub frame: u32,
    /// Where it lies in the pack.
    pub stored_offset: u64,
    /// Its stored bytes, with the tag.
    pub stored_length: u32,
    /// Its plain bytes.
    pub plain_length: u32,
    /// XXH3-64 of the plain bytes.
    pub checksum: u64,
    /// Tells contents apart: see `format::codec::fingerprint`.
    pub content: u128,
}

impl Cache {
    /// Remembers what a pack holds whose upload is about to begin.
    ///
    /// # Errors
    /// When meta.db fails.
    pub fn note_upload(&self, upload: &Upload) -> Result<(), CacheError> {
        let object = upload.object.encode_to_vec();
        for (part, frames) in upload.frames.chunks(FRAMES_MAX).enumerate() {
            let mut w = Writer::default();
            w.bytes(&object);
            w.u64(frames.len() as u64);
            for f in frames {
                for number in [f.ino, f.offset, f.frame.into(), f.stored_offset, f.stored_length.into(), f.plain_length.into(), f.checksum]
                {
                    w.u64(number);
                }
                w.bytes(&f.content.to_le_bytes());
            }
            self.note_state(&format!("{PREFIX}{}.{part}", upload.object.name), &w.0)?;
        }
        Ok(())
    }

    /// What is in packs that no commit of this cache has named. One pack may come in several parts.
    ///
    /// # Errors
    /// When meta.db fails; `Damaged`.
    pub fn uploads(&self) -> Result<Vec<Upload>, CacheError> {
        let meta = self.meta.lock();
        let mut statement = meta.db.prepare_cached("SELECT value FROM state WHERE key>=?1 AND key<?2")?;
        let mut rows = statement.query([PREFIX, PREFIX_END])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let value: Vec<u8> = row.get(0)?;
            found.push(decode(&value).ok_or_else(|| CacheError::Damaged("what it knows of an upload".into()))?);
        }
        Ok(found)
    }

    /// All of them are named by a commit, or never will be; in the transaction that is open.
    pub(super) fn forget_uploads(db: &rusqlite::Connection) -> Result<(), CacheError> {
        db.execute("DELETE FROM state WHERE key>=?1 AND key<?2", [PREFIX, PREFIX_END])?;
        Ok(())
    }
}

/// The first key after all that begin with [`PREFIX`].
const PREFIX_END: &str = "upload/";

fn decode(value: &[u8]) -> Option<Upload> {
    let mut r = Reader(value);
    let object = rpc::ObjectRef::decode(r.bytes()?).ok()?;
    let count = r.u64()?;
    let mut frames = Vec::new();
    for _ in 0..count {
        frames.push(UploadedFrame {
            ino: r.u64()?,
            offset: r.u64()?,
            frame: r.u32()?,
            stored_offset: r.u64()?,
            stored_length: r.u32()?,
            plain_length: r.u32()?,
            checksum: r.u64()?,
            content: u128::from_le_bytes(r.bytes()?.try_into().ok()?),
        });
    }
    Some(Upload { object, frames })
}
