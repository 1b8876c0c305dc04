//! The small tree that the volumes of a world hold.

use bytes::Bytes;
use holdfast::format::seal::{HEADER, Sealer};
use holdfast::format::{codec, delta, names, record};
use holdfast::rpc::log_record::Kind;
use holdfast::rpc::{Commit, Delta, FrameRef};
use holdfast::types::{Incarnation, Seq};
use prost::Message;
use std::collections::BTreeMap;

/// Key -> (value, where it lies: the full name of a pack, or of the record that holds it inline). Values grow with every write in the world.
pub type Tree = BTreeMap<u64, (u64, String)>;

/// Packs of values have this size: room for every key, and for the smallest sealed frame.
pub const PACK_SIZE: usize = 256;

/// The content of a pack: the keys and values that lie in it.
pub fn pack_bytes(entries: &BTreeMap<u64, u64>) -> Bytes {
    let mut bytes: Vec<u8> = entries.iter().flat_map(|(key, value)| entry(*key, *value)).collect();
    bytes.resize(PACK_SIZE, 0xff);
    bytes.into()
}

/// What stands for a value wherever it lies.
pub fn entry(key: u64, value: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&key.to_le_bytes());
    bytes[8..].copy_from_slice(&value.to_le_bytes());
    bytes
}

/// Whether an object, a pack or a record, holds this value of a key. `sealer`: of the incarnation whose record it is.
pub fn holds(sealer: &Sealer, name: &str, bytes: &Bytes, key: u64, value: u64) -> bool {
    if names::parse_commit(name).is_none() {
        return bytes.chunks(16).any(|chunk| chunk == entry(key, value));
    }
    match record::decode(bytes, sealer, name).ok().and_then(|record| record.kind) {
        Some(Kind::Commit(commit)) => {
            commit.inline_frames.iter().any(|frame| codec::decompress(frame, 16).is_ok_and(|b| b == entry(key, value)))
        }
        _ => false,
    }
}

/// Whether two trees show the same values, wherever they lie.
pub fn same(left: &Tree, right: &Tree) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|((a, (x, _)), (b, (y, _)))| (a, x) == (b, y))
}

/// A commit with its delta, wherever that is stored.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub commit: Commit,
    pub deltas: Vec<Delta>,
}

/// The content of a pack that holds a delta in one frame, and the frame's place.
pub fn delta_bytes(delta: &Delta) -> (Bytes, FrameRef) {
    let plain = delta.encode_to_vec();
    let mut bytes = vec![0xfe; HEADER];
    bytes.extend(&plain);
    bytes.resize(bytes.len() + 16, 0xff);
    let stored_length = (plain.len() + 16) as u32;
    let checksum = codec::checksum(&plain);
    let frame = FrameRef { stored_offset: HEADER as u64, stored_length, plain_length: plain.len() as u32, checksum, ..FrameRef::default() };
    (bytes.into(), frame)
}

/// The objects that hold a commit's delta, by their full names.
pub fn delta_packs(incarnation: Incarnation, commit: &Commit) -> Vec<String> {
    let objects = commit.delta_frames.iter().filter_map(|frame| frame.object.as_ref());
    objects.filter_map(|object| names::absolute(incarnation, &object.name)).map(|(_, name)| name).collect()
}

/// A commit with its delta. `get`: the bytes of an object. `None`: a pack that holds a part of the delta is not there.
pub fn change(incarnation: Incarnation, commit: &Commit, get: &dyn Fn(&str) -> Option<Bytes>) -> Option<Change> {
    let mut deltas: Vec<Delta> = commit.delta.iter().cloned().collect();
    for (frame, name) in commit.delta_frames.iter().zip(delta_packs(incarnation, commit)) {
        let start = frame.stored_offset as usize;
        let plain = get(&name)?.slice(start..start + frame.plain_length as usize);
        deltas.push(delta::decode_frame(&name, &plain, commit.inline_frames.len()).expect("what was written can be read"));
    }
    Some(Change { commit: commit.clone(), deltas })
}

/// What commit `seq` sets: key -> (value, where it lies).
pub fn sets(incarnation: Incarnation, seq: Seq, deltas: &[Delta]) -> Vec<(u64, (u64, String))> {
    let mut all = Vec::new();
    for delta in deltas {
        for file in &delta.extents {
            let value = delta.inodes.iter().find(|inode| inode.ino == file.ino).map_or(0, |inode| inode.mtime as u64);
            for extent in &file.extents {
                let name = match extent.object.checked_sub(1) {
                    Some(index) => {
                        names::absolute(incarnation, &delta.objects[index as usize].name).map(|(_, name)| name).unwrap_or_default()
                    }
                    None => names::commit(incarnation, if extent.inline_seq == 0 { seq } else { extent.inline_seq }),
                };
                all.push((file.ino, (value, name)));
            }
        }
    }
    all
}

/// The tree after commit `seq`.
pub fn apply(incarnation: Incarnation, tree: &Tree, seq: Seq, deltas: &[Delta]) -> Tree {
    let mut tree = tree.clone();
    tree.extend(sets(incarnation, seq, deltas));
    tree
}
