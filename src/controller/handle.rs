//! The handle of a volume in Kubernetes (protocol.md 9): `<store alias>/<identity hash>/<claim uid>`, 128 bytes at most. DeleteVolume gets
//! nothing else.

use crate::types::Identity;
use sha2::{Digest, Sha256};
use std::fmt;

/// Longest alias of a store: the other two parts and the slashes have 69 bytes at most.
pub const ALIAS_MAX: usize = 58;
/// Before the digest of a claim's name that is not `pvc-<uuid>`.
const NAMED: &str = "n-";

/// See the head of this file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle {
    alias: String,
    identity: String,
    claim: String,
}

impl Handle {
    /// Of a claim on the volume of this identity. `name` is the one that CreateVolume was given: of one name there is one handle.
    #[must_use]
    pub fn new(alias: &str, identity: &Identity, name: &str) -> Self {
        Self { alias: alias.to_owned(), identity: identity_hash(identity), claim: claim_uid(name) }
    }

    /// Of a claim by its uid.
    pub(super) fn of_claim(alias: &str, identity: &Identity, claim: &str) -> Self {
        Self { alias: alias.to_owned(), identity: identity_hash(identity), claim: claim.to_owned() }
    }

    /// A handle that this driver has made; `None`: it is none of them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let (alias, identity, claim) = (parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |text: &str| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        let is_claim = is_uuid(claim) || claim.strip_prefix(NAMED).is_some_and(is_hex);
        let whole = parts.next().is_none() && is_alias(alias) && is_hex(identity) && is_claim;
        whole.then(|| Self { alias: alias.to_owned(), identity: identity.to_owned(), claim: claim.to_owned() })
    }

    /// The store's name in this cluster.
    #[must_use]
    pub fn alias(&self) -> &str {
        &self.alias
    }

    /// The claim, as the control chain names it.
    #[must_use]
    pub fn claim(&self) -> &str {
        &self.claim
    }

    /// Whether it is of the volume of this identity.
    #[must_use]
    pub fn is_of(&self, identity: &Identity) -> bool {
        self.identity == identity_hash(identity)
    }

    /// A name for files and directories of this handle.
    #[must_use]
    pub fn file_name(&self) -> String {
        digest(&self.to_string())
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.alias, self.identity, self.claim)
    }
}

/// Whether a text can be the name of a store: a directory's, and a part of a handle.
#[must_use]
pub fn is_alias(text: &str) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    plain && (1..=ALIAS_MAX).contains(&text.len()) && text.starts_with(|first: char| first.is_ascii_alphanumeric())
}

/// The uid of a claim whose volume the provisioner names `pvc-<uid>`.
pub(super) fn kubernetes_uid(name: &str) -> Option<&str> {
    name.strip_prefix("pvc-").filter(|uid| is_uuid(uid))
}

/// A claim's uid: Kubernetes', or made from the name that the volume was given.
pub(super) fn claim_uid(name: &str) -> String {
    kubernetes_uid(name).map_or_else(|| format!("{NAMED}{}", digest(name)), str::to_owned)
}

pub(super) fn is_uuid(text: &str) -> bool {
    uuid::Uuid::try_parse(text).is_ok_and(|uuid| uuid.hyphenated().to_string() == text)
}

pub(super) fn identity_hash(identity: &Identity) -> String {
    digest(&format!("holdfast/v1/identity {identity}"))
}

pub(super) fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()).iter().take(16).copied().collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_handle_has_128_bytes_and_comes_back() {
        let identity = Identity::parse(&["c".repeat(253), "n".repeat(253), "v".repeat(253)].join("/")).unwrap();
        let uid = "pvc-0b6c2f7e-4d0c-4c8e-9f53-0d6c8d0a1b2c";
        for name in [uid, &"x".repeat(128), "ä name"] {
            let handle = Handle::new(&"a".repeat(ALIAS_MAX), &identity, name);
            assert!(handle.to_string().len() <= 128, "{handle}");
            assert_eq!(Handle::parse(&handle.to_string()), Some(handle.clone()));
            assert!(handle.is_of(&identity));
            assert!(!handle.is_of(&Identity::parse("c/n/v").unwrap()));
        }
        assert_eq!(Handle::new("main", &identity, uid).claim(), "0b6c2f7e-4d0c-4c8e-9f53-0d6c8d0a1b2c");
        assert_ne!(claim_uid("a"), claim_uid("b"));
    }

    #[test]
    fn what_this_driver_did_not_make_is_no_handle() {
        let good = Handle::new("main", &Identity::parse("c/n/v").unwrap(), "x").to_string();
        let upper = good.to_uppercase();
        let more = format!("{good}/");
        for text in ["", "main", "fake-vol-id-1", "a/b/c", "main//x", "../../x", &upper, &more] {
            assert_eq!(Handle::parse(text), None, "{text}");
        }
        for alias in ["", ".", "..", "a/b", "-a", "ä", &"a".repeat(ALIAS_MAX + 1)] {
            assert!(!is_alias(alias), "{alias}");
        }
    }
}
