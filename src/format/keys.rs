//! `keys/<n>`: the store key, wrapped for each recipient by `age` (X25519), and the identities that unwrap it.
//!
//! The object is laid out as any other (see [`seal`](super::seal)), with cipher 1, so that whoever has an identity can read it;
//! the age file inside protects the key. What is unwrapped is believed only if the store's id is the one of that key. Taking
//! a recipient out stops it from unwrapping later rings; the key itself stays the same.
//!
//! Whoever may create objects can put a ring under the next number: nonsense, or an older age file with other recipients. Its proof tells
//! a ring that somebody with the store key made: HKDF-SHA256 of that key over all its other fields.
//!
//! `age` draws its own randomness (file key, ephemeral shares) from the operating system: the one place outside `Env`.

use super::error::{FormatError, Reason};
use super::seal::{Cipher, Kind, Sealer};
use super::{limits, marker, message, names, valid};
use crate::rpc;
use crate::types::{Hash, StoreId, StoreKey};
use age::secrecy::ExposeSecret;
use bytes::Bytes;
use hkdf::Hkdf;
use prost::Message;
use sha2::{Digest, Sha256};
use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;
use zeroize::Zeroizing;

/// An age X25519 identity: a recovery key on paper, or the key of a node.
#[derive(Clone)]
pub struct Recovery(age::x25519::Identity);

/// A text that is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No identity.
    #[error("this is no recovery key: {0}; one is a line that begins with AGE-SECRET-KEY-1")]
    Identity(&'static str),
    /// No recipient.
    #[error("`{0}` is no recipient: {1}; one begins with age1")]
    Recipient(String, &'static str),
    /// Nobody could open the ring.
    #[error("a key ring without recipients could be opened by nobody; name at least one")]
    Nobody,
    /// `age` failed.
    #[error("the store key could not be wrapped: {0}")]
    Wrap(String),
}

impl Recovery {
    /// A new one, from the operating system's randomness.
    #[must_use]
    pub fn generate() -> Self {
        Self(age::x25519::Identity::generate())
    }

    /// From a text of lines as `age-keygen` writes it: empty lines and those that begin with `#` are skipped, one remains.
    ///
    /// # Errors
    /// There is not exactly one identity.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let line = lines.next().ok_or(KeyError::Identity("it is empty"))?;
        if lines.next().is_some() {
            return Err(KeyError::Identity("there is more than one line"));
        }
        age::x25519::Identity::from_str(line).map(Self).map_err(KeyError::Identity)
    }

    /// `AGE-SECRET-KEY-1...`: the secret itself.
    #[must_use]
    pub fn secret(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.to_string().expose_secret().to_owned())
    }

    /// `age1...`: what a key is wrapped for.
    #[must_use]
    pub fn recipient(&self) -> String {
        self.0.to_public().to_string()
    }
}

impl fmt::Debug for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recovery({})", self.recipient())
    }
}

/// Ring `number`: the key wrapped for all of `recipients`.
///
/// # Errors
/// There are none, or one is no age X25519 recipient.
pub fn wrap(key: &StoreKey, number: u64, recipients: Vec<rpc::Recipient>) -> Result<rpc::KeyRing, KeyError> {
    let parse = |recipient: &rpc::Recipient| {
        age::x25519::Recipient::from_str(&recipient.public_key).map_err(|why| KeyError::Recipient(recipient.public_key.clone(), why))
    };
    let parsed = recipients.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let encryptor = age::Encryptor::with_recipients(parsed.iter().map(|recipient| recipient as _)).map_err(|_| KeyError::Nobody)?;
    let mut file = Vec::new();
    let write = |file: &mut Vec<u8>| {
        let mut writer = encryptor.wrap_output(file)?;
        writer.write_all(&key.0)?;
        writer.finish().map(|_| ())
    };
    write(&mut file).map_err(|why| KeyError::Wrap(why.to_string()))?;
    let mut ring = rpc::KeyRing { number, age_file: file.into(), recipients, proof: Bytes::new() };
    ring.proof = Bytes::copy_from_slice(&*proof(&ring, key));
    Ok(ring)
}

/// Whether somebody who had the store key made the ring, as it is.
#[must_use]
pub fn is_proven(ring: &rpc::KeyRing, key: &StoreKey) -> bool {
    !ring.proof.is_empty() && *ring.proof == proof(ring, key)[..]
}

fn proof(ring: &rpc::KeyRing, key: &StoreKey) -> Zeroizing<[u8; 32]> {
    let said = rpc::KeyRing { proof: Bytes::new(), ..ring.clone() }.encode_to_vec();
    let mut proof = Zeroizing::new([0; 32]);
    // Fails only for outputs of more than 8160 bytes.
    if Hkdf::<Sha256>::new(Some(&Sha256::digest(said)), &key.0).expand(b"holdfast/v1/key-ring", &mut *proof).is_err() {
        tracing::error!("HKDF refused 32 bytes of output");
        std::process::abort();
    }
    proof
}

/// The store key, by whichever of `identities` can open the ring; refused unless it is the key of `store`.
///
/// # Errors
/// No identity fits, or the ring holds another store's key.
pub fn unwrap(ring: &rpc::KeyRing, store: StoreId, identities: &[Recovery]) -> Result<StoreKey, FormatError> {
    open(ring, store, identities).map_err(|reason| reason.of(names::key_ring(ring.number)))
}

fn open(ring: &rpc::KeyRing, store: StoreId, identities: &[Recovery]) -> Result<StoreKey, Reason> {
    let failed = |why: String| Reason::NoKey { why };
    let decryptor = age::Decryptor::new(&ring.age_file[..]).map_err(|why| Reason::invalid(format!("age: {why}")))?;
    let reader = decryptor.decrypt(identities.iter().map(|identity| &identity.0 as _)).map_err(|why| failed(why.to_string()))?;
    let mut plain = Zeroizing::new(Vec::with_capacity(33));
    reader.take(33).read_to_end(&mut plain).map_err(|why| failed(why.to_string()))?;
    let key = StoreKey(plain.as_slice().try_into().map_err(|_| Reason::invalid(format!("a store key of {} bytes", plain.len())))?);
    if marker::store_id(&key) != store {
        return Err(Reason::invalid(format!("it holds the key of store {}, not of {store}", marker::store_id(&key))));
    }
    Ok(key)
}

/// The object's bytes and their hash.
///
/// # Errors
/// The ring is over a limit.
pub fn encode(ring: &rpc::KeyRing, store: StoreId, salt: [u8; 32]) -> Result<(Bytes, Hash), FormatError> {
    let name = names::key_ring(ring.number);
    check(ring, &name).map_err(|reason| reason.of(name.as_str()))?;
    message::encode(ring, &clear(store), Kind::KeyRing, &name, 0, salt)
}

/// The ring, every field checked.
///
/// # Errors
/// Anything but a key ring of this name.
pub fn decode(bytes: &Bytes, store: StoreId, name: &str) -> Result<rpc::KeyRing, FormatError> {
    let (ring, _) = message::decode(bytes, &clear(store), Kind::KeyRing, name)?;
    check(&ring, name).map_err(|reason| reason.of(name))?;
    Ok(ring)
}

fn check(ring: &rpc::KeyRing, name: &str) -> Result<(), Reason> {
    valid::ensure(names::parse_key_ring(name) == Some(ring.number), || format!("ring {} is not the one of this name", ring.number))?;
    valid::at_most("age file", ring.age_file.len(), limits::AGE_FILE_MAX)?;
    valid::at_most("recipients", ring.recipients.len(), limits::RECIPIENTS_MAX)?;
    valid::ensure(matches!(ring.proof.len(), 0 | 32), || format!("a proof of {} bytes", ring.proof.len()))?;
    ring.recipients
        .iter()
        .flat_map(|recipient| [&recipient.name, &recipient.public_key])
        .try_for_each(|text| valid::text("recipient", text))
}

fn clear(store: StoreId) -> Sealer {
    Sealer::new(Cipher::None, &[0; 32], store, None)
}
