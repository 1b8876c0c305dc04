//! What a CreateVolume asks for, from its name and the parameters of its class: pure.

use super::handle::{Handle, is_alias, kubernetes_uid};
use crate::types::{Fault, FaultKind, Identity, nearest};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The store of a class that names none.
const STORE_DEFAULT: &str = "main";
/// No volume is larger: what a cache can address.
pub const CAPACITY_MAX: u64 = 1 << 50;
/// Longest volume name of the interface, in bytes.
const NAME_MAX: usize = 128;
/// What the provisioner adds with `--extra-create-metadata`.
const CLAIM_NAME: &str = "csi.storage.k8s.io/pvc/name";
const CLAIM_NAMESPACE: &str = "csi.storage.k8s.io/pvc/namespace";
/// What is added too, and says nothing that is needed.
const PASSED_OVER: [&str; 1] = ["csi.storage.k8s.io/pv/name"];
/// The namespace of volumes that are of no Kubernetes claim: no namespace there is called so.
const NO_NAMESPACE: &str = "_";
/// The keys of a class.
const KEYS: [&str; 3] = ["store", "resume", "onDelete"];

/// Bytes that a volume is to hold: at least `required` (0: whatever), at most `limit` (0: no matter).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Range {
    /// At least.
    pub required: u64,
    /// At most.
    pub limit: u64,
}

impl Range {
    /// Whether a volume that may hold so much (0: no limit) is what was asked for.
    #[must_use]
    pub fn admits(&self, capacity: u64) -> bool {
        let unlimited = capacity == 0;
        (unlimited || capacity >= self.required) && (self.limit == 0 || (!unlimited && capacity <= self.limit))
    }

    /// What a new volume may hold: no more than was asked for.
    #[must_use]
    pub fn chosen(&self) -> u64 {
        if self.required == 0 { self.limit } else { self.required }
    }
}

/// A CreateVolume, as it came.
#[derive(Debug, Clone, Default)]
pub struct Create {
    /// The name that makes it the same request when it comes again.
    pub name: String,
    /// Of the class, with what the provisioner adds.
    pub parameters: BTreeMap<String, String>,
    /// How large.
    pub range: Range,
    /// What it is to begin with.
    pub origin: Option<super::Origin>,
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    /// The handle.
    pub(super) handle: Handle,
    /// The volume.
    pub(super) identity: Identity,
    /// The volume that the same name would have with a source where this has none, and without where it has one; `None`: the same.
    pub(super) other: Option<Identity>,
    /// Purge the volume when its last claim is deleted.
    pub(super) purge: bool,
}

/// Reads a request.
///
/// # Errors
/// [`FaultKind::Invalid`]: a key or value that there is not, with the nearest there is; a name that is none.
pub(super) fn wish(cluster: &str, create: &Create) -> Result<Wish, Fault> {
    let Create { name, parameters, .. } = create;
    check_name(name)?;
    for key in parameters.keys().map(String::as_str) {
        if !KEYS.contains(&key) && ![CLAIM_NAME, CLAIM_NAMESPACE].contains(&key) && !PASSED_OVER.contains(&key) {
            let near = nearest(key, KEYS).map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            let all = KEYS.join(", ");
            return Err(invalid(format!("the class has no parameter `{}`{near} (parameters: {all})", key.escape_debug())));
        }
    }
    let alias = parameters.get("store").map_or(STORE_DEFAULT, String::as_str);
    if !is_alias(alias) {
        return Err(invalid(format!("the class's `store: {}` is no name of a store", alias.escape_debug())));
    }
    let resume = choice(parameters, "resume", ["always", "never"])?;
    let purge = choice(parameters, "onDelete", ["retain", "purge"])? == "purge";
    // With a source of its own it has a life of its own, and the history of its name is left alone.
    let resumed = identity(cluster, name, parameters, resume == "always")?;
    let apart = identity(cluster, name, parameters, false)?;
    let (identity, other) = if create.origin.is_some() { (apart, resumed) } else { (resumed, apart) };
    let other = Some(other).filter(|other| *other != identity);
    Ok(Wish { handle: Handle::new(alias, &identity, name), identity, other, purge })
}

/// Whose volume it is: the claim's place in its cluster. With `resume: never` each claim has a life of its own.
fn identity(cluster: &str, name: &str, parameters: &BTreeMap<String, String>, resume: bool) -> Result<Identity, Fault> {
    let text = match (parameters.get(CLAIM_NAMESPACE), parameters.get(CLAIM_NAME)) {
        (Some(namespace), Some(claim)) if resume => format!("{cluster}/{namespace}/{claim}"),
        // No claim's name has an underscore, so the two never meet.
        (Some(namespace), Some(claim)) => format!("{cluster}/{namespace}/{}_{}", shortened(claim), super::handle::claim_uid(name)),
        (None, None) if kubernetes_uid(name).is_none() => format!("{cluster}/{NO_NAMESPACE}/{}", segment(name)),
        _ => {
            return Err(invalid(format!(
                "{name} is of a claim whose name and namespace were not told: start the provisioner with --extra-create-metadata (without it a \
                 claim that is made again could not be given its data)"
            )));
        }
    };
    Identity::parse(&text).map_err(|error| invalid(error.to_string()))
}

/// So much of a claim's name that a uid fits behind it.
fn shortened(claim: &str) -> &str {
    claim.get(..claim.len().min(200)).unwrap_or(claim)
}

/// Any name as a segment of an identity: itself where it is one, else its digest.
fn segment(name: &str) -> String {
    match Identity::parse(name) {
        Ok(_) if !name.contains('/') && !name.starts_with('_') => name.to_owned(),
        _ => format!("_{}", hex::encode(Sha256::digest(name.as_bytes()))),
    }
}

fn check_name(name: &str) -> Result<(), Fault> {
    if name.is_empty() {
        return Err(invalid("a volume needs a name"));
    }
    if name.len() > NAME_MAX || name.chars().any(char::is_control) {
        return Err(invalid(format!("a volume's name has {NAME_MAX} bytes at most, and no control characters")));
    }
    Ok(())
}

/// One of two words; the first when there is none.
fn choice<'a>(parameters: &'a BTreeMap<String, String>, key: &str, words: [&'a str; 2]) -> Result<&'a str, Fault> {
    let Some(value) = parameters.get(key) else { return Ok(words[0]) };
    let known = words.into_iter().find(|word| word == value);
    known.ok_or_else(|| invalid(format!("the class's `{key}: {}` is neither `{}` nor `{}`", value.escape_debug(), words[0], words[1])))
}

fn invalid(message: impl Into<String>) -> Fault {
    Fault::new(FaultKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "pvc-0b6c2f7e-4d0c-4c8e-9f53-0d6c8d0a1b2c";

    fn create(name: &str, parameters: &[(&str, &str)]) -> Create {
        let parameters = parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Create { name: name.to_owned(), parameters, ..Create::default() }
    }

    fn of_claim<'a>(namespace: &'a str, claim: &'a str) -> [(&'static str, &'a str); 3] {
        [(CLAIM_NAMESPACE, namespace), (CLAIM_NAME, claim), (PASSED_OVER[0], UID)]
    }

    #[test]
    fn same_claim_name_is_the_same_volume_and_never_of_another() {
        let identity = |name: &str, parameters: &[(&str, &str)]| wish("home", &create(name, parameters)).unwrap().identity.to_string();
        assert_eq!(identity(UID, &of_claim("media", "photos")), "home/media/photos");
        let fresh = |name: &str, claim| identity(name, &[&of_claim("media", claim)[..], &[("resume", "never")]].concat());
        let long = "p".repeat(253);
        assert_eq!(fresh(UID, "photos"), "home/media/photos_0b6c2f7e-4d0c-4c8e-9f53-0d6c8d0a1b2c");
        assert_ne!(fresh(UID, &long), fresh(&UID.replace('b', "c"), &long), "a name at its limit keeps its uid");
        assert_eq!(identity("plain", &[]), "home/_/plain");
        let odd = [identity("a/b", &[]), identity("ä", &[]), identity("_x", &[]), identity(".x", &[])];
        assert!(odd.iter().all(|identity| identity.starts_with("home/_/_")), "{odd:?}");
        wish("home", &create(&"x".repeat(128), &[])).unwrap();
    }

    #[test]
    fn unknown_keys_and_values_name_the_nearest() {
        let said = |name: &str, parameters: &[(&str, &str)]| {
            let fault = wish("home", &create(name, parameters)).unwrap_err();
            assert_eq!(fault.kind, FaultKind::Invalid);
            fault.to_string()
        };
        assert!(said("x", &[("ondelete", "purge")]).contains("no parameter `ondelete`; did you mean `onDelete`?"));
        assert!(said("x", &[("stor", "main")]).contains("did you mean `store`?"));
        assert!(said("x", &[("csi.storage.k8s.io/pvc/labels", "x")]).contains("no parameter"));
        assert!(said("x", &[("resume", "sometimes")]).contains("neither `always` nor `never`"));
        assert!(said("x", &[("store", "../etc")]).contains("is no name of a store"));
        assert!(said(UID, &[]).contains("--extra-create-metadata"));
        assert!(said("x", &of_claim("media", "a b")).contains("is no volume name"));
        assert!(said("x", &of_claim("media", "photos")[..1]).contains("--extra-create-metadata"));
        for name in ["", "a\nb", &"x".repeat(129)] {
            said(name, &[]);
        }
    }

    #[test]
    fn sizes_meet_what_was_asked_for() {
        let range = |required, limit| Range { required, limit };
        assert!(range(0, 0).admits(0) && range(0, 0).admits(5) && range(5, 0).admits(5) && range(5, 9).admits(9) && range(5, 0).admits(0));
        assert!(!range(6, 0).admits(5) && !range(0, 4).admits(5) && !range(0, 4).admits(0));
        assert_eq!([range(0, 0), range(5, 0), range(5, 9), range(0, 9)].map(|range| range.chosen()), [0, 5, 5, 9]);
    }
}
