//! Names of objects relative to the store. Numbers are padded with zeros, so that byte order is number order.
//!
//! ```text
//! holdfast-store
//! keys/<n:8>
//! names/<segment>[/<segment>[/<segment>]]/~<n:8>      no segment begins with `~`: a/b never meets a/b/c
//! volumes/<uuid>/volume
//! volumes/<uuid>/commits/<seq:20>
//! volumes/<uuid>/packs/<epoch:10>-<32 hex>
//! volumes/<uuid>/checkpoints/<seq:20>/index
//! volumes/<uuid>/checkpoints/<seq:20>/<32 hex>
//! volumes/<uuid>/control/<n:20>
//! volumes/<uuid>/blocks/<k:20>
//! volumes/<uuid>/branches/<epoch:10>/head               the first of a branch; a later one is head-<n:8>, from 2 on
//! volumes/<uuid>/branches/<epoch:10>/<32 hex>           a pack of the branch
//! <any of these>~<n>                                    a healed copy: the same bytes
//! ```
//! Each `parse_*` is the exact inverse of its maker: what is not written in this one way is not parsed.

use crate::types::{Epoch, Identity, Incarnation, Seq};

/// The store's marker.
#[must_use]
pub fn marker() -> &'static str {
    "holdfast-store"
}

/// Key ring `n`.
#[must_use]
pub fn key_ring(n: u64) -> String {
    format!("{}{n:08}", key_rings_prefix())
}

/// What the names of all key rings begin with.
#[must_use]
pub fn key_rings_prefix() -> &'static str {
    "keys/"
}

/// The number of a key ring.
#[must_use]
pub fn parse_key_ring(name: &str) -> Option<u64> {
    number(name.strip_prefix(key_rings_prefix())?, 8)
}

/// What the names of all records of `identity`, and of no other, begin with.
#[must_use]
pub fn name_prefix(identity: &Identity) -> String {
    format!("{}{identity}/~", names_prefix())
}

/// What the names of the records of all identities begin with.
#[must_use]
pub fn names_prefix() -> &'static str {
    "names/"
}

/// Name record `n` of `identity`.
#[must_use]
pub fn name_record(identity: &Identity, n: u64) -> String {
    format!("{}{n:08}", name_prefix(identity))
}

/// The identity and number of a name record.
#[must_use]
pub fn parse_name_record(name: &str) -> Option<(Identity, u64)> {
    let (identity, n) = name.strip_prefix(names_prefix())?.rsplit_once("/~")?;
    Some((Identity::parse(identity).ok()?, number(n, 8)?))
}

/// An incarnation as it stands in names: a uuid with hyphens.
#[must_use]
pub fn uuid(incarnation: Incarnation) -> String {
    uuid::Uuid::from_bytes(incarnation.0).hyphenated().to_string()
}

/// What the names of all objects of a life of a volume begin with.
#[must_use]
pub fn volume_prefix(incarnation: Incarnation) -> String {
    format!("volumes/{}/", uuid(incarnation))
}

/// The volume record.
#[must_use]
pub fn volume(incarnation: Incarnation) -> String {
    volume_prefix(incarnation) + "volume"
}

/// The incarnation under which an object lies, and the rest of its name.
#[must_use]
pub fn parse_volume(name: &str) -> Option<(Incarnation, &str)> {
    let (text, rest) = name.strip_prefix("volumes/")?.split_once('/')?;
    let incarnation = Incarnation(uuid::Uuid::try_parse(text).ok()?.into_bytes());
    (uuid(incarnation) == text).then_some((incarnation, rest))
}

/// What the names of all log records begin with.
#[must_use]
pub fn commits_prefix(incarnation: Incarnation) -> String {
    volume_prefix(incarnation) + "commits/"
}

/// Log record `seq`.
#[must_use]
pub fn commit(incarnation: Incarnation, seq: Seq) -> String {
    format!("{}{seq:020}", commits_prefix(incarnation))
}

/// The incarnation and number of a log record.
#[must_use]
pub fn parse_commit(name: &str) -> Option<(Incarnation, Seq)> {
    numbered(name, "commits/")
}

/// What the names of all packs begin with.
#[must_use]
pub fn packs_prefix(incarnation: Incarnation) -> String {
    volume_prefix(incarnation) + "packs/"
}

/// A pack of `epoch`; `random` is never used twice.
#[must_use]
pub fn pack(incarnation: Incarnation, epoch: Epoch, random: [u8; 16]) -> String {
    format!("{}{epoch:010}-{}", packs_prefix(incarnation), hex::encode(random))
}

/// The incarnation, epoch and random part of a pack.
#[must_use]
pub fn parse_pack(name: &str) -> Option<(Incarnation, Epoch, [u8; 16])> {
    let (incarnation, rest) = parse_volume(name)?;
    let (epoch, random) = rest.strip_prefix("packs/")?.split_once('-')?;
    Some((incarnation, number(epoch, 10)?, random16(random)?))
}

/// What the names of all checkpoints begin with.
#[must_use]
pub fn checkpoints_prefix(incarnation: Incarnation) -> String {
    volume_prefix(incarnation) + "checkpoints/"
}

/// The index of the checkpoint at `seq`: stored last, it makes the checkpoint.
#[must_use]
pub fn checkpoint_index(incarnation: Incarnation, seq: Seq) -> String {
    format!("{}{seq:020}/index", checkpoints_prefix(incarnation))
}

/// The incarnation and number of a checkpoint's index.
#[must_use]
pub fn parse_checkpoint_index(name: &str) -> Option<(Incarnation, Seq)> {
    let (incarnation, rest) = parse_volume(name)?;
    let seq = rest.strip_prefix("checkpoints/")?.strip_suffix("/index")?;
    Some((incarnation, number(seq, 20)?))
}

/// A part of the checkpoint at `seq`. `random` is never used twice: a second attempt at a checkpoint makes other parts.
#[must_use]
pub fn checkpoint_part(incarnation: Incarnation, seq: Seq, random: [u8; 16]) -> String {
    format!("{}{seq:020}/{}", checkpoints_prefix(incarnation), hex::encode(random))
}

/// The incarnation, checkpoint and random part of a checkpoint's part.
#[must_use]
pub fn parse_checkpoint_part(name: &str) -> Option<(Incarnation, Seq, [u8; 16])> {
    let (incarnation, rest) = parse_volume(name)?;
    let (seq, random) = rest.strip_prefix("checkpoints/")?.split_once('/')?;
    Some((incarnation, number(seq, 20)?, random16(random)?))
}

/// What the names of all control records begin with.
#[must_use]
pub fn control_prefix(incarnation: Incarnation) -> String {
    volume_prefix(incarnation) + "control/"
}

/// Control record `n`.
#[must_use]
pub fn control(incarnation: Incarnation, n: u64) -> String {
    format!("{}{n:020}", control_prefix(incarnation))
}

/// The incarnation and number of a control record.
#[must_use]
pub fn parse_control(name: &str) -> Option<(Incarnation, u64)> {
    numbered(name, "control/")
}

/// What the names of all block markers begin with.
#[must_use]
pub fn blocks_prefix(incarnation: Incarnation) -> String {
    volume_prefix(incarnation) + "blocks/"
}

/// The marker of block `k`.
#[must_use]
pub fn block(incarnation: Incarnation, k: u64) -> String {
    format!("{}{k:020}", blocks_prefix(incarnation))
}

/// The incarnation and number of a block marker.
#[must_use]
pub fn parse_block(name: &str) -> Option<(Incarnation, u64)> {
    numbered(name, "blocks/")
}

/// What the names of all branches begin with.
#[must_use]
pub fn branches_prefix(incarnation: Incarnation) -> String {
    volume_prefix(incarnation) + "branches/"
}

/// An object of the branch of `epoch`.
#[must_use]
pub fn branch(incarnation: Incarnation, epoch: Epoch, what: &str) -> String {
    format!("{}{epoch:010}/{what}", branches_prefix(incarnation))
}

/// The incarnation, epoch and last part of an object of a branch.
#[must_use]
pub fn parse_branch(name: &str) -> Option<(Incarnation, Epoch, &str)> {
    let (incarnation, rest) = parse_volume(name)?;
    let (epoch, what) = rest.strip_prefix("branches/")?.split_once('/')?;
    (!what.is_empty()).then_some(())?;
    Some((incarnation, number(epoch, 10)?, what))
}

/// Head `n` of the branch of `epoch`, from 1 on: the greatest is in force.
#[must_use]
pub fn branch_head(incarnation: Incarnation, epoch: Epoch, n: u64) -> String {
    if n <= 1 { branch(incarnation, epoch, "head") } else { branch(incarnation, epoch, &format!("head-{n:08}")) }
}

/// The incarnation, epoch and number of a branch's head.
#[must_use]
pub fn parse_branch_head(name: &str) -> Option<(Incarnation, Epoch, u64)> {
    let (incarnation, epoch, what) = parse_branch(name)?;
    let n = if what == "head" { 1 } else { number(what.strip_prefix("head-")?, 8).filter(|n| *n > 1)? };
    Some((incarnation, epoch, n))
}

/// A pack of the branch of `epoch`; `random` is never used twice.
#[must_use]
pub fn branch_pack(incarnation: Incarnation, epoch: Epoch, random: [u8; 16]) -> String {
    branch(incarnation, epoch, &hex::encode(random))
}

/// The incarnation, epoch and random part of a branch's pack.
#[must_use]
pub fn parse_branch_pack(name: &str) -> Option<(Incarnation, Epoch, [u8; 16])> {
    let (incarnation, epoch, what) = parse_branch(name)?;
    Some((incarnation, epoch, random16(what)?))
}

/// Copy `n` of a healed object: the same bytes, opened under the name without the suffix.
#[must_use]
pub fn healed(name: &str, n: u32) -> String {
    format!("{name}~{n}")
}

/// The name as an [`ObjectRef`](crate::rpc::ObjectRef) of `incarnation` holds it: relative to the incarnation, or `../<uuid>/...` into the
/// one that it was cloned from. `None` for names outside all volumes.
#[must_use]
pub fn relative(incarnation: Incarnation, name: &str) -> Option<String> {
    let (of, rest) = parse_volume(name)?;
    Some(if of == incarnation { rest.to_owned() } else { format!("../{}/{rest}", uuid(of)) })
}

/// The inverse of [`relative`]: the incarnation where the object lies, and its name relative to the store.
#[must_use]
pub fn absolute(incarnation: Incarnation, relative: &str) -> Option<(Incarnation, String)> {
    let of = match relative.strip_prefix("../") {
        None => incarnation,
        Some(rest) => {
            let (text, _) = rest.split_once('/')?;
            Incarnation(uuid::Uuid::try_parse(text).ok()?.into_bytes())
        }
    };
    let rest = match relative.strip_prefix("../") {
        None => relative,
        Some(rest) => rest.split_once('/')?.1,
    };
    let plain = !rest.is_empty() && rest.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
    let name = volume_prefix(of) + rest;
    (plain && self::relative(incarnation, &name)? == relative).then_some((of, name))
}

fn numbered(name: &str, folder: &str) -> Option<(Incarnation, u64)> {
    let (incarnation, rest) = parse_volume(name)?;
    Some((incarnation, number(rest.strip_prefix(folder)?, 20)?))
}

/// A number of at least `width` digits, with leading zeros only up to it.
fn number(text: &str, width: usize) -> Option<u64> {
    let value: u64 = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())??;
    (format!("{value:0width$}") == text).then_some(value)
}

fn random16(text: &str) -> Option<[u8; 16]> {
    let bytes: [u8; 16] = hex::decode(text).ok()?.try_into().ok()?;
    (hex::encode(bytes) == text).then_some(bytes)
}
