//! A record of the log as everybody who keeps one remembers it.

use super::{Epoch, Hash, Nonce, Seq};
use bytes::Bytes;

/// A record that is known to be in the log: the newest that a cache contains, or a writer has put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its number.
    pub seq: Seq,
    /// SHA-256 of its stored object.
    pub hash: Hash,
    /// The epoch that wrote it.
    pub epoch: Epoch,
}

/// What is about to be put under a number, durable in the cache before the put (protocol.md 1.3): until the outcome is known only these bytes
/// are tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intent {
    /// The number.
    pub seq: Seq,
    /// The epoch.
    pub epoch: Epoch,
    /// Tells two attempts at one number apart.
    pub nonce: Nonce,
    /// SHA-256 of `bytes`.
    pub hash: Hash,
    /// The sealed object.
    pub bytes: Bytes,
}
