//! `holdfast-store`: what says that a prefix is a store, and how its other objects are to be read. In the clear; its layout
//! never changes, so that every version can read which version is needed.
//!
//! ```text
//!  0  magic "HFM1"
//!  4  XXH3-64 of the rest, u64 little-endian
//! 12  protobuf StoreMarker
//! ```
//! The store id says whether the store is sealed, and with which key: it is the first 16 bytes of
//! HKDF-SHA256(ikm = store key, no salt, info = `"holdfast/v1/store-id"`) with the highest bit of the first byte set; without
//! encryption it is random with a first byte of 0. Who pins the id (`store-id=` in the URL) can be given neither another key nor
//! a store in the clear.

use super::error::{FormatError, Reason};
use super::seal::Cipher;
use super::{FEATURE_LEVEL, names, valid};
use crate::rpc;
use crate::types::{StoreId, StoreKey, UnixNanos};
use bytes::Bytes;
use hkdf::Hkdf;
use prost::Message;
use sha2::Sha256;

const MAGIC: &[u8; 4] = b"HFM1";
const HEADER: usize = 12;
const BYTES_MAX: usize = 65536;

/// A store's marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// The store's identity.
    pub store: StoreId,
    /// How its objects are sealed.
    pub cipher: Cipher,
    /// The version of the format that its writers may use.
    pub feature_level: u32,
    /// When it was made.
    pub created: UnixNanos,
    /// The program that made it.
    pub created_by: String,
    /// The store cannot put if absent: whoever made it vouches that no volume in it ever has two writers.
    pub single_writer: bool,
}

/// The feature of [`Marker::single_writer`], which a version that does not know it must refuse.
const SINGLE_WRITER: &str = "single-writer";

impl Marker {
    /// Of a new store whose objects are sealed with `key`.
    #[must_use]
    pub fn encrypted(key: &StoreKey, created: UnixNanos, created_by: &str) -> Self {
        let cipher = Cipher::ChaCha20Poly1305;
        Self {
            store: store_id(key),
            cipher,
            feature_level: FEATURE_LEVEL,
            created,
            created_by: created_by.to_owned(),
            single_writer: false,
        }
    }

    /// Of a new store in the clear; `random` comes from `Env`.
    #[must_use]
    pub fn clear(random: [u8; 16], created: UnixNanos, created_by: &str) -> Self {
        let mut id = random;
        id[0] = 0;
        let (store, cipher) = (StoreId(id), Cipher::None);
        Self { store, cipher, feature_level: FEATURE_LEVEL, created, created_by: created_by.to_owned(), single_writer: false }
    }

    /// The object's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let cipher = match self.cipher {
            Cipher::None => rpc::Cipher::None,
            Cipher::ChaCha20Poly1305 => rpc::Cipher::Chacha20Poly1305,
        };
        let message = rpc::StoreMarker {
            store_id: Bytes::copy_from_slice(self.store.as_bytes()),
            feature_level: self.feature_level,
            required_features: self.single_writer.then(|| SINGLE_WRITER.to_owned()).into_iter().collect(),
            cipher: cipher.into(),
            created: self.created,
            created_by: self.created_by.clone(),
        };
        let body = message.encode_to_vec();
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&super::codec::checksum(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes.into()
    }

    /// Reads a marker, and refuses what this version does not understand.
    ///
    /// # Errors
    /// Damage, or a newer feature level.
    pub fn decode(bytes: &Bytes) -> Result<Self, FormatError> {
        decode(bytes).map_err(|reason| reason.of(names::marker()))
    }
}

/// The id of the store that is sealed with `key`.
#[must_use]
pub fn store_id(key: &StoreKey) -> StoreId {
    let mut id = [0; 16];
    // Fails only for outputs of more than 8160 bytes.
    if Hkdf::<Sha256>::new(None, &key.0).expand(b"holdfast/v1/store-id", &mut id).is_err() {
        tracing::error!("HKDF refused 16 bytes of output");
        std::process::abort();
    }
    id[0] |= 0x80;
    StoreId(id)
}

fn decode(bytes: &Bytes) -> Result<Marker, Reason> {
    valid::at_most("marker", bytes.len(), BYTES_MAX)?;
    let head: &[u8; HEADER] = bytes.first_chunk().ok_or(Reason::Truncated { need: HEADER as u64, have: bytes.len() as u64 })?;
    if &head[..4] != MAGIC {
        return Err(Reason::invalid("it is no store's marker (its first bytes are not `HFM1`)"));
    }
    let body = bytes.slice(HEADER..);
    if super::codec::checksum(&body).to_le_bytes() != head[4..] {
        return Err(Reason::Unauthentic { what: "checksum".into() });
    }
    let message: rpc::StoreMarker = super::message::parse(&body)?;
    if message.feature_level > FEATURE_LEVEL {
        return Err(Reason::newer(format!("feature level {}, this version knows {FEATURE_LEVEL}", message.feature_level)));
    }
    if let Some(feature) = message.required_features.iter().find(|feature| *feature != SINGLE_WRITER) {
        return Err(Reason::newer(format!("feature `{}`", feature.escape_debug())));
    }
    valid::ensure(message.feature_level > 0, || "feature level 0".into())?;
    let store = StoreId::from_slice(&message.store_id).ok_or_else(|| Reason::invalid("a store id that has not 16 bytes"))?;
    let cipher = match rpc::Cipher::try_from(message.cipher) {
        Ok(rpc::Cipher::None) => Cipher::None,
        Ok(rpc::Cipher::Chacha20Poly1305) => Cipher::ChaCha20Poly1305,
        Ok(rpc::Cipher::Unspecified) => return Err(Reason::invalid("no cipher")),
        Err(_) => return Err(Reason::newer(format!("cipher {}", message.cipher))),
    };
    let agrees = match cipher {
        Cipher::None => store.0[0] == 0,
        Cipher::ChaCha20Poly1305 => store.0[0] & 0x80 != 0,
    };
    valid::ensure(agrees, || format!("store id {store} is not one of a store with cipher {cipher:?}"))?;
    let single_writer = !message.required_features.is_empty();
    let rpc::StoreMarker { feature_level, created, created_by, .. } = message;
    Ok(Marker { store, cipher, feature_level, created, created_by, single_writer })
}
