//! The id of a snapshot in Kubernetes: `<store alias>/<namespace>/<claim>/<snapshot>`, which a person can write down for a snapshot that is
//! found in the store; where that is longer than 128 bytes, `<store alias>/<identity hash>/<snapshot hash>`. Both always are of this cluster.

use super::handle::{digest, identity_hash, is_alias};
use crate::history::snapshot::check_name;
use crate::types::Identity;
use std::fmt;

/// Longest id of the interface, in bytes.
const ID_MAX: usize = 128;
/// Before the digest of a name that no snapshot can have.
const NAMED: &str = "n-";
/// What Kubernetes calls a snapshot; a uid follows.
const KUBERNETES: &str = "snapshot-";

/// See the head of this file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SnapshotId {
    text: String,
    alias: String,
    of: Of,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Of {
    Named(Identity, String),
    Digested(String, String),
}

impl SnapshotId {
    /// Of a snapshot by this name of a volume of this cluster.
    pub(super) fn new(cluster: &str, alias: &str, identity: &Identity, name: &str) -> Self {
        let place = identity.as_str().strip_prefix(cluster).and_then(|rest| rest.strip_prefix('/')).unwrap_or(identity.as_str());
        let (text, of) = match format!("{alias}/{place}/{name}") {
            short if short.len() <= ID_MAX => (short, Of::Named(identity.clone(), name.to_owned())),
            _ => {
                let (identity, name) = (identity_hash(identity), digest(name));
                (format!("{alias}/{identity}/{name}"), Of::Digested(identity, name))
            }
        };
        Self { text, alias: alias.to_owned(), of }
    }

    /// An id that could be one; `None`: it is none of this cluster's.
    pub(super) fn parse(cluster: &str, text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let is_hex = |text: &str| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        let (alias, of) = match parts[..] {
            [alias, namespace, claim, name] => {
                let identity = Identity::parse(&format!("{cluster}/{namespace}/{claim}")).ok()?;
                check_name(name).ok()?;
                (alias, Of::Named(identity, name.to_owned()))
            }
            [alias, identity, name] if is_hex(identity) && is_hex(name) => (alias, Of::Digested(identity.to_owned(), name.to_owned())),
            _ => return None,
        };
        is_alias(alias).then(|| Self { text: text.to_owned(), alias: alias.to_owned(), of })
    }

    pub(super) fn alias(&self) -> &str {
        &self.alias
    }

    /// The volume, where its name stands in the id.
    pub(super) fn identity(&self) -> Option<&Identity> {
        match &self.of {
            Of::Named(identity, _) => Some(identity),
            Of::Digested(..) => None,
        }
    }

    /// Whether it is of the volume of this identity.
    pub(super) fn is_of(&self, identity: &Identity) -> bool {
        match &self.of {
            Of::Named(named, _) => named == identity,
            Of::Digested(hash, _) => *hash == identity_hash(identity),
        }
    }

    /// Whether it is of the snapshot of this name.
    pub(super) fn means(&self, snapshot: &str) -> bool {
        match &self.of {
            Of::Named(_, name) => name == snapshot,
            Of::Digested(_, hash) => *hash == digest(snapshot),
        }
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The name of the snapshot in its volume that a CreateSnapshot of this name makes: itself where that can be one.
pub(super) fn name_of(asked: &str) -> String {
    let digested = asked.strip_prefix(NAMED).is_some_and(|rest| rest.len() == 32);
    if check_name(asked).is_ok() && !digested { asked.to_owned() } else { format!("{NAMED}{}", digest(asked)) }
}

/// Whether Kubernetes gives this name to one snapshot alone.
pub(super) fn is_unique(name: &str) -> bool {
    name.strip_prefix(KUBERNETES).is_some_and(super::handle::is_uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_readable_bounded_and_come_back() {
        let short = Identity::parse("home/media/photos").unwrap();
        let long = Identity::parse(&["home", &"n".repeat(63), &"v".repeat(253)].join("/")).unwrap();
        assert_eq!(SnapshotId::new("home", "main", &short, "before").to_string(), "main/media/photos/before");
        for (identity, name) in [(&short, "before"), (&short, &*"x".repeat(128)), (&long, "before")] {
            let id = SnapshotId::new("home", &"a".repeat(58), identity, name);
            assert!(id.to_string().len() <= ID_MAX, "{id}");
            let back = SnapshotId::parse("home", &id.to_string()).unwrap();
            assert_eq!(back, id);
            assert!(back.is_of(identity) && back.means(name) && !back.means("other"));
            assert!(!back.is_of(&Identity::parse("home/media/other").unwrap()));
        }
        for text in
            ["", "x", "main/a/b", "main/media/photos/", "main/media/photos/1", "/media/photos/x", "main/me dia/photos/x", "a/b/c/d/e"]
        {
            assert_eq!(SnapshotId::parse("home", text), None, "{text}");
        }
    }

    #[test]
    fn any_name_of_the_interface_is_a_snapshot_s_name() {
        let uid = "snapshot-0b6c2f7e-4d0c-4c8e-9f53-0d6c8d0a1b2c";
        assert_eq!(name_of(uid), uid);
        assert!(is_unique(uid) && !is_unique("snapshot-1") && !is_unique("before"));
        let odd = ["now", "1", "a b", "ä", "2026-11-21", &name_of("now")].map(name_of);
        assert!(odd.iter().all(|name| check_name(name).is_ok() && name.starts_with(NAMED)), "{odd:?}");
        assert!(odd.iter().enumerate().all(|(at, name)| !odd[..at].contains(name)), "{odd:?}");
    }
}
