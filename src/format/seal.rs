//! The bytes of every object but the marker: a header, sealed frames back to back, and a table of their lengths.
//!
//! ```text
//!   0  magic "HFO1"
//!   4  kind u8 | cipher u8 | 0 u16
//!   8  frame count n, u32
//!  12  epoch u64                    (0 where no epoch applies)
//!  20  salt, 32 random bytes
//!  52  frame 0 | ... | frame n-1    each: AEAD(codec u8 | data) | tag, 16 bytes
//!  end-4n  stored length of each frame, u32
//! ```
//! Integers are little-endian. key = HKDF-SHA256(ikm = data key or store key, salt, info = `"holdfast/v1" | kind | name`);
//! nonce = frame number as 96 bits; associated data = `store id | incarnation | epoch u64 | frame u32 | n u32 | name`, where name is
//! the object's name relative to the store. The incarnation is zeros for what the store key seals. Cipher 1 (none) leaves the
//! frame in the clear; its tag is XXH3-128, big-endian, of `kind | salt | associated data | frame`: a guard against rot and mix-ups.
//!
//! No (key, nonce) is used twice: the salt is new for each object, and frames are counted.

pub use super::kind::Kind;

use super::error::{FormatError, Reason};
use super::{codec, limits, names};
use crate::rpc;
use crate::types::{Epoch, Hash, Incarnation, StoreId};
use bytes::Bytes;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce, Tag};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;
use zeroize::Zeroizing;

/// Bytes of the header.
pub const HEADER: usize = 52;
/// Bytes of the tag after each frame.
pub const TAG: usize = 16;
/// Bytes that sealing adds to a frame: codec byte and tag.
pub const FRAME_OVERHEAD: usize = 1 + TAG;
const MAGIC: &[u8; 4] = b"HFO1";

/// SHA-256 of a whole stored object.
#[must_use]
pub fn hash(object: &[u8]) -> Hash {
    Hash(Sha256::digest(object).into())
}

/// How a store's objects are sealed: fixed in its marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// In the clear, with checksums.
    None = 1,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305 = 2,
}

/// Seals and opens the objects of one incarnation, or those of the store itself. Cheap to clone.
#[derive(Clone)]
pub struct Sealer {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    cipher: Cipher,
    pub(super) key: Zeroizing<[u8; 32]>,
    store: StoreId,
    incarnation: Option<Incarnation>,
    origins: Vec<Sealer>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { cipher, store, incarnation, .. } = &*self.inner;
        f.debug_struct("Sealer").field("cipher", cipher).field("store", store).field("incarnation", incarnation).finish_non_exhaustive()
    }
}

/// A sealed object, ready to be put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The whole object.
    pub bytes: Bytes,
    /// SHA-256 of it.
    pub hash: Hash,
    /// As in its header.
    pub salt: [u8; 32],
    /// Offset and stored length of each frame.
    pub frames: Vec<(u64, u32)>,
}

/// An object that authenticated: its header's epoch and the plain content of its frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// From the header, authenticated.
    pub epoch: Epoch,
    /// From the header, authenticated.
    pub salt: [u8; 32],
    /// Plain content, codec removed.
    pub frames: Vec<Bytes>,
}

struct Header {
    kind: Kind,
    frames: u32,
    epoch: Epoch,
    salt: [u8; 32],
}

impl Sealer {
    /// With the data key of an incarnation, or (no incarnation) the store key. With [`Cipher::None`] the key is not used.
    #[must_use]
    pub fn new(cipher: Cipher, key: &[u8; 32], store: StoreId, incarnation: Option<Incarnation>) -> Self {
        Self { inner: Arc::new(Inner { cipher, key: Zeroizing::new(*key), store, incarnation, origins: Vec::new() }) }
    }

    /// With the sealers of the incarnations that this one is a clone of: frames of their objects are opened too, nothing else of theirs.
    #[must_use]
    pub fn with_origins(&self, origins: Vec<Self>) -> Self {
        let Inner { cipher, key, store, incarnation, .. } = &*self.inner;
        Self { inner: Arc::new(Inner { cipher: *cipher, key: key.clone(), store: *store, incarnation: *incarnation, origins }) }
    }

    /// The sealer of the incarnation that this one is a clone of.
    #[must_use]
    pub fn origin(&self) -> Option<Self> {
        self.inner.origins.first().cloned()
    }

    /// The store that the objects belong to.
    #[must_use]
    pub fn store(&self) -> StoreId {
        self.inner.store
    }

    /// The incarnation that the objects belong to; `None`: the store itself.
    #[must_use]
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.inner.incarnation
    }

    /// The store's cipher.
    #[must_use]
    pub fn cipher(&self) -> Cipher {
        self.inner.cipher
    }

    /// Seals frames (each: codec byte and data) as the object `name`. The caller takes `salt` from `Env`, new for each call.
    ///
    /// # Errors
    /// The object would be over a limit.
    pub fn seal(&self, kind: Kind, name: &str, epoch: Epoch, salt: [u8; 32], frames: &[&[u8]]) -> Result<Sealed, FormatError> {
        let room = frames.iter().map(|frame| frame.len() + TAG + 4).sum::<usize>() + HEADER;
        let mut draft = Draft::with_capacity(room);
        for frame in frames {
            draft.push(|bytes| bytes.extend_from_slice(frame));
        }
        self.finish(draft, kind, name, epoch, salt)
    }

    /// Seals a draft in place.
    pub(crate) fn finish(&self, draft: Draft, kind: Kind, name: &str, epoch: Epoch, salt: [u8; 32]) -> Result<Sealed, FormatError> {
        let Draft { mut bytes, frames } = draft;
        let refuse = |what, length: usize, max: usize| Reason::Limit { what, length: length as u64, max: max as u64 }.of(name);
        let length = bytes.len() + 4 * frames.len();
        if length > kind.bytes_max() {
            return Err(refuse("object", length, kind.bytes_max()));
        }
        if frames.len() > limits::FRAMES_MAX || frames.is_empty() {
            return Err(refuse("frames", frames.len(), limits::FRAMES_MAX));
        }
        if name.len() > limits::OBJECT_NAME_MAX {
            return Err(refuse("name", name.len(), limits::OBJECT_NAME_MAX));
        }
        let header = Header { kind, frames: frames.len() as u32, epoch, salt };
        header.write(self.inner.cipher, &mut bytes[..HEADER]);
        let context = Context::new(self, &header, name);
        for (number, (offset, stored)) in frames.iter().enumerate() {
            let start = *offset as usize;
            context.seal(number as u32, &mut bytes[start..start + *stored as usize]).map_err(|reason| reason.of(name))?;
        }
        for (_, stored) in &frames {
            bytes.extend_from_slice(&stored.to_le_bytes());
        }
        let bytes = Bytes::from(bytes);
        Ok(Sealed { hash: hash(&bytes), bytes, salt, frames })
    }

    /// Opens a whole object. Where the caller knows the epoch, another one is refused.
    ///
    /// # Errors
    /// Anything but an object of this kind, sealed under this name with this key.
    pub fn open(&self, kind: Kind, name: &str, epoch: Option<Epoch>, bytes: &Bytes) -> Result<Opened, FormatError> {
        self.open_all(kind, name, epoch, bytes, limits::FRAMES_MAX).map_err(|reason| reason.of(name))
    }

    /// Opens a whole object of one frame. Of another number none is opened: together they may have very many times its bytes.
    pub(super) fn open_message(&self, kind: Kind, name: &str, bytes: &Bytes) -> Result<(Bytes, Epoch), FormatError> {
        let opened = self.open_all(kind, name, None, bytes, 1).map_err(|reason| reason.of(name))?;
        let frame = opened.frames.into_iter().next();
        Ok((frame.ok_or_else(|| Reason::invalid("no frame").of(name))?, opened.epoch))
    }

    fn open_all(&self, kind: Kind, name: &str, epoch: Option<Epoch>, bytes: &[u8], frames_max: usize) -> Result<Opened, Reason> {
        if bytes.len() > kind.bytes_max() {
            return Err(Reason::Limit { what: "object", length: bytes.len() as u64, max: kind.bytes_max() as u64 });
        }
        let header = Header::read(self.inner.cipher, kind, bytes)?;
        if epoch.is_some_and(|epoch| epoch != header.epoch) {
            return Err(Reason::invalid(format!("of epoch {}, expected {}", header.epoch, epoch.unwrap_or_default())));
        }
        let context = Context::new(self, &header, name);
        let ranges = table(bytes, header.frames)?;
        if ranges.len() > frames_max {
            return Err(Reason::invalid(format!("{} frames where one message is expected", ranges.len())));
        }
        let mut frames = Vec::with_capacity(ranges.len());
        for (number, range) in ranges.into_iter().enumerate() {
            let frame = context.open(number as u32, &bytes[range])?;
            frames.push(Bytes::from(codec::decompress(&frame, limits::MESSAGE_PLAIN_MAX)?));
        }
        Ok(Opened { epoch: header.epoch, salt: header.salt, frames })
    }

    /// Opens one frame of an object of this incarnation, or of an origin, from the bytes of one ranged GET; the plain content must
    /// have exactly `plain_length` bytes. `object.name` is relative to the incarnation.
    ///
    /// # Errors
    /// Bytes that are not this frame.
    pub fn open_frame(
        &self,
        kind: Kind,
        object: &rpc::ObjectRef,
        frame: u32,
        plain_length: u32,
        stored: &[u8],
    ) -> Result<Bytes, FormatError> {
        let (name, plain) = self.open_one(kind, object, frame, plain_length, stored).map_err(|reason| reason.of(object.name.as_str()))?;
        if plain.len() != plain_length as usize {
            return Err(Reason::invalid(format!("frame {frame} has {} bytes, expected {plain_length}", plain.len())).of(name));
        }
        Ok(plain)
    }

    fn open_one(
        &self,
        kind: Kind,
        object: &rpc::ObjectRef,
        frame: u32,
        plain_length: u32,
        stored: &[u8],
    ) -> Result<(String, Bytes), Reason> {
        let incarnation = self.inner.incarnation.ok_or_else(|| Reason::invalid("no incarnation to look it up in"))?;
        let (of, name) = names::absolute(incarnation, &object.name).ok_or_else(|| Reason::invalid("its name is no object's"))?;
        let sealer = match self.inner.origins.iter().find(|origin| origin.inner.incarnation == Some(of)) {
            Some(origin) => origin,
            None if of == incarnation => self,
            None => return Err(Reason::invalid("it lies in another incarnation, whose key is needed")),
        };
        let salt = <[u8; 32]>::try_from(&*object.salt).map_err(|_| Reason::invalid("its reference has no salt of 32 bytes"))?;
        if frame >= object.frames || object.frames as usize > limits::FRAMES_MAX {
            return Err(Reason::invalid(format!("frame {frame} of {}", object.frames)));
        }
        let plain_max = plain_length as usize;
        if plain_max > limits::MESSAGE_PLAIN_MAX {
            return Err(Reason::Limit { what: "plain length of a frame", length: plain_max as u64, max: limits::MESSAGE_PLAIN_MAX as u64 });
        }
        let header = Header { kind, frames: object.frames, epoch: object.epoch, salt };
        let frame = Context::new(sealer, &header, &name).open(frame, stored)?;
        Ok((name, codec::decompress(&frame, plain_max)?.into()))
    }
}

/// The codec byte and data of frames, laid out where they will be sealed: no second copy of a pack is ever made.
#[derive(Debug)]
pub(crate) struct Draft {
    bytes: Vec<u8>,
    frames: Vec<(u64, u32)>,
}

impl Draft {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        let mut draft = Self { bytes: Vec::with_capacity(bytes.max(HEADER)), frames: Vec::new() };
        draft.bytes.resize(HEADER, 0);
        draft
    }

    /// Adds a frame that `write` appends; says where it will lie.
    pub(crate) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> (u64, u32) {
        let offset = self.bytes.len();
        write(&mut self.bytes);
        self.bytes.resize(self.bytes.len() + TAG, 0);
        let place = (offset as u64, (self.bytes.len() - offset) as u32);
        self.frames.push(place);
        place
    }

    /// Bytes of the object if it ended here.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len() + 4 * self.frames.len()
    }
}

impl Header {
    fn write(&self, cipher: Cipher, out: &mut [u8]) {
        out[..4].copy_from_slice(MAGIC);
        out[4..8].copy_from_slice(&[self.kind as u8, cipher as u8, 0, 0]);
        out[8..12].copy_from_slice(&self.frames.to_le_bytes());
        out[12..20].copy_from_slice(&self.epoch.to_le_bytes());
        out[20..52].copy_from_slice(&self.salt);
    }

    fn read(cipher: Cipher, kind: Kind, bytes: &[u8]) -> Result<Self, Reason> {
        let head: &[u8; HEADER] = bytes.first_chunk().ok_or(Reason::Truncated { need: HEADER as u64, have: bytes.len() as u64 })?;
        if &head[..3] == b"HFO" && head[3] != b'1' {
            return Err(Reason::newer(format!("object layout {:?}", char::from(head[3]))));
        }
        if &head[..4] != MAGIC {
            return Err(Reason::NotOurs);
        }
        if head[4] != kind as u8 {
            let found =
                Kind::ALL.iter().find(|kind| **kind as u8 == head[4]).map_or_else(|| format!("kind {}", head[4]), |k| k.as_str().into());
            return Err(Reason::Kind { found, wanted: kind.as_str() });
        }
        if head[5] != cipher as u8 {
            return Err(Reason::Cipher { found: head[5], wanted: cipher as u8 });
        }
        if head[6..8] != [0, 0] {
            return Err(Reason::newer("reserved bytes of the header are in use"));
        }
        let frames = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        let epoch = u64::from_le_bytes([head[12], head[13], head[14], head[15], head[16], head[17], head[18], head[19]]);
        let mut salt = [0; 32];
        salt.copy_from_slice(&head[20..52]);
        Ok(Self { kind, frames, epoch, salt })
    }
}

/// Where the frames lie, from the table at the end; together with it they must fill the object exactly.
fn table(bytes: &[u8], frames: u32) -> Result<Vec<Range<usize>>, Reason> {
    let count = frames as usize;
    if count > limits::FRAMES_MAX || count == 0 {
        return Err(Reason::Limit { what: "frames", length: count as u64, max: limits::FRAMES_MAX as u64 });
    }
    let need = HEADER + count * (4 + FRAME_OVERHEAD);
    if bytes.len() < need {
        return Err(Reason::Truncated { need: need as u64, have: bytes.len() as u64 });
    }
    let (body, table) = bytes.split_at(bytes.len() - 4 * count);
    let mut ranges = Vec::with_capacity(count);
    let mut at = HEADER;
    for entry in table.chunks_exact(4) {
        let stored = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]) as usize;
        if stored > body.len() - at {
            return Err(Reason::Truncated { need: (at + stored) as u64, have: body.len() as u64 });
        }
        ranges.push(at..at + stored);
        at += stored;
    }
    if at != body.len() {
        return Err(Reason::invalid("bytes that belong to no frame"));
    }
    Ok(ranges)
}

/// One object's key and associated data.
struct Context {
    cipher: Option<ChaCha20Poly1305>,
    kind: Kind,
    salt: [u8; 32],
    associated: Vec<u8>,
}

/// Where the frame number stands in the associated data.
const FRAME_AT: usize = 40;

impl Context {
    fn new(sealer: &Sealer, header: &Header, name: &str) -> Self {
        let Inner { cipher, key, store, incarnation, .. } = &*sealer.inner;
        let mut associated = Vec::with_capacity(48 + name.len());
        associated.extend_from_slice(store.as_bytes());
        associated.extend_from_slice(&incarnation.map_or([0; 16], |incarnation| incarnation.0));
        associated.extend_from_slice(&header.epoch.to_le_bytes());
        associated.extend_from_slice(&[0; 4]);
        associated.extend_from_slice(&header.frames.to_le_bytes());
        associated.extend_from_slice(name.as_bytes());
        let cipher = (*cipher == Cipher::ChaCha20Poly1305).then(|| {
            let mut derived = Zeroizing::new([0; 32]);
            let info = [b"holdfast/v1".as_slice(), &[header.kind as u8], name.as_bytes()];
            // Fails only for outputs of more than 8160 bytes.
            if Hkdf::<Sha256>::new(Some(&header.salt), &**key).expand_multi_info(&info, &mut *derived).is_err() {
                tracing::error!("HKDF refused 32 bytes of output");
                std::process::abort();
            }
            ChaCha20Poly1305::new(&Key::from(*derived))
        });
        Self { cipher, kind: header.kind, salt: header.salt, associated }
    }

    fn associated(&self, frame: u32) -> Vec<u8> {
        let mut associated = self.associated.clone();
        associated[FRAME_AT..FRAME_AT + 4].copy_from_slice(&frame.to_le_bytes());
        associated
    }

    /// `stored` is the frame and room for its tag.
    fn seal(&self, frame: u32, stored: &mut [u8]) -> Result<(), Reason> {
        let associated = self.associated(frame);
        let (data, tag) = stored.split_at_mut(stored.len() - TAG);
        match &self.cipher {
            Some(cipher) => {
                let sealed = cipher.encrypt_inout_detached(&nonce(frame), &associated, data.into());
                tag.copy_from_slice(&sealed.map_err(|_| Reason::invalid("a frame that cannot be sealed"))?);
            }
            None => tag.copy_from_slice(&self.checksum_tag(&associated, data)),
        }
        Ok(())
    }

    fn open(&self, frame: u32, stored: &[u8]) -> Result<Vec<u8>, Reason> {
        let unauthentic = || Reason::Unauthentic { what: format!("frame {frame}") };
        let Some((data, tag)) = stored.split_last_chunk::<TAG>() else {
            return Err(Reason::Truncated { need: FRAME_OVERHEAD as u64, have: stored.len() as u64 });
        };
        let associated = self.associated(frame);
        let mut data = data.to_vec();
        match &self.cipher {
            Some(cipher) => cipher
                .decrypt_inout_detached(&nonce(frame), &associated, data.as_mut_slice().into(), &Tag::from(*tag))
                .map_err(|_| unauthentic())?,
            None if self.checksum_tag(&associated, &data) != *tag => return Err(unauthentic()),
            None => {}
        }
        Ok(data)
    }

    fn checksum_tag(&self, associated: &[u8], data: &[u8]) -> [u8; TAG] {
        let mut state = Xxh3::new();
        for part in [&[self.kind as u8], self.salt.as_slice(), associated, data] {
            state.update(part);
        }
        state.digest128().to_be_bytes()
    }
}

fn nonce(frame: u32) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&frame.to_le_bytes());
    Nonce::from(nonce)
}
