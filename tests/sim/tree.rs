//! The small tree that the volumes of a world hold.

use bytes::Bytes;
use holdfast::format::names;
use holdfast::rpc::Commit;
use holdfast::types::Incarnation;
use std::collections::BTreeMap;

/// Key -> (value, pack by its full name). Values grow with every write in the world.
pub type Tree = BTreeMap<u64, (u64, String)>;

/// All packs of a world have this size: room for every key, and for the smallest sealed frame.
pub const PACK_SIZE: usize = 256;

/// The content of a pack: the keys and values that lie in it.
pub fn pack_bytes(entries: &BTreeMap<u64, u64>) -> Bytes {
    let mut bytes: Vec<u8> = entries.iter().flat_map(|(key, value)| key.to_le_bytes().into_iter().chain(value.to_le_bytes())).collect();
    bytes.resize(PACK_SIZE, 0xff);
    bytes.into()
}

/// Whether a pack holds this value of a key.
pub fn holds(pack: &Bytes, key: u64, value: u64) -> bool {
    let entry: Vec<u8> = key.to_le_bytes().into_iter().chain(value.to_le_bytes()).collect();
    pack.chunks(16).any(|chunk| chunk == entry)
}

/// The tree after a commit.
pub fn apply(incarnation: Incarnation, tree: &Tree, commit: &Commit) -> Tree {
    let mut tree = tree.clone();
    let Some(delta) = &commit.delta else { return tree };
    for change in &delta.extents {
        let value = delta.inodes.iter().find(|inode| inode.ino == change.ino).map_or(0, |inode| inode.mtime as u64);
        for extent in &change.extents {
            let object = &delta.objects[extent.object as usize - 1];
            let name = names::absolute(incarnation, &object.name).map(|(_, name)| name).unwrap_or_default();
            tree.insert(change.ino, (value, name));
        }
    }
    tree
}
