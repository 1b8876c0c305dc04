//! Round trips of made-up packs, deltas and checkpoints.

use super::seal::{Cipher, Kind, Sealed, Sealer};
use super::{checkpoint, codec, delta, names, pack};
use crate::rpc;
use crate::types::{Incarnation, StoreId};
use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use std::collections::BTreeMap;

const LIFE: Incarnation = Incarnation([7; 16]);

fn sealer(encrypted: bool) -> Sealer {
    let cipher = if encrypted { Cipher::ChaCha20Poly1305 } else { Cipher::None };
    Sealer::new(cipher, &[9; 32], StoreId([3; 16]), Some(LIFE))
}

/// Content that sometimes compresses.
fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..300), (any::<u8>(), 0..5000usize).prop_map(|(byte, length)| vec![byte; length])]
}

fn object(number: u8) -> rpc::ObjectRef {
    let name = names::relative(LIFE, &names::pack(LIFE, 1, [number; 16])).unwrap();
    rpc::ObjectRef { name, salt: vec![number; 32].into(), epoch: 1, frames: 9, size: 1 << 20, hash: vec![number; 32].into() }
}

fn extent(offset: u64, length: u64, object: u32) -> rpc::Extent {
    let (stored_offset, stored_length, plain_length) = (52, 4000, 1 << 16);
    rpc::Extent {
        offset,
        length,
        object,
        frame: 1,
        stored_offset,
        stored_length,
        plain_length,
        skip: offset as u32,
        checksum: 1,
        inline_seq: 0,
    }
}

/// How far into its slot an extent begins, its length, its object.
type Run = (u64, u64, u32);

/// Inode number, what is cleared, what is written.
type File = (u64, (Vec<(u64, u64)>, Vec<Run>));

/// Deltas of few names and inodes, so that they meet.
fn a_delta() -> impl Strategy<Value = rpc::Delta> {
    let inode = (2..9u64, 0..4000u64).prop_map(|(ino, size)| rpc::Inode { ino, mode: libc::S_IFREG, size, ..Default::default() });
    let name = (2..5u64, "[a-d]{1,2}", 10..19u64).prop_map(|(dir, name, ino)| rpc::Name {
        dir,
        name: Bytes::from(name.into_bytes()),
        ino,
        cookie: ino,
    });
    let changes = btree_map(20..29u64, (vec((0..4000u64, 1..500u64), 0..4), vec((0..50u64, 1..100u64, 1..4u32), 0..20)), 0..5);
    (vec(name.clone(), 0..9), vec(10..19u64, 0..5), vec(inode, 0..9), vec(name, 0..9), changes).prop_map(
        |(gone, dead, inodes, names, changes)| {
            let removed_names = gone.into_iter().map(|rpc::Name { dir, name, .. }| rpc::NameRef { dir, name }).collect();
            let file = |(ino, (cleared, extents)): File| rpc::ExtentChange {
                ino,
                cleared: cleared.into_iter().map(|(offset, length)| rpc::Range { offset, length }).collect(),
                extents: (0..).zip(extents).map(|(at, (from, length, object))| extent(at * 200 + from, length, object)).collect(),
            };
            let extents = changes.into_iter().map(file).collect();
            let objects = (1..4).map(object).collect();
            rpc::Delta { objects, removed_names, removed_inodes: dead, inodes, names, extents, next_inode: 99, next_cookie: 77 }
        },
    )
}

/// What deltas make of a tree: each byte of a file is the object that it comes from.
#[derive(Debug, Default, PartialEq)]
struct Tree {
    inodes: BTreeMap<u64, rpc::Inode>,
    names: BTreeMap<(u64, Bytes), u64>,
    bytes: BTreeMap<(u64, u64), (Bytes, u64)>,
    next: (u64, u64),
}

impl Tree {
    fn apply(&mut self, delta: &rpc::Delta) {
        for gone in &delta.removed_names {
            self.names.remove(&(gone.dir, gone.name.clone()));
        }
        for gone in &delta.removed_inodes {
            self.inodes.remove(gone);
            self.bytes.retain(|(ino, _), _| ino != gone);
        }
        self.inodes.extend(delta.inodes.iter().map(|inode| (inode.ino, inode.clone())));
        self.names.extend(delta.names.iter().map(|name| ((name.dir, name.name.clone()), name.ino)));
        for change in &delta.extents {
            for range in &change.cleared {
                (range.offset..range.offset + range.length).for_each(|at| drop(self.bytes.remove(&(change.ino, at))));
            }
            for extent in &change.extents {
                let of = Bytes::from(delta.objects[extent.object as usize - 1].name.clone().into_bytes());
                for at in 0..extent.length {
                    self.bytes.insert((change.ino, extent.offset + at), (of.clone(), u64::from(extent.skip) + at));
                }
            }
        }
        self.next = (delta.next_inode.max(self.next.0), delta.next_cookie.max(self.next.1));
    }
}

proptest! {
    #[test]
    fn a_pack_gives_each_frame_back_and_only_in_its_place(plains in vec(content(), 1..9), encrypted: bool, other in any::<prop::sample::Index>()) {
        let sealer = sealer(encrypted);
        let mut builder = pack::Builder::default();
        for (number, plain) in plains.iter().enumerate() {
            prop_assert_eq!(builder.push(plain).unwrap() as usize, number);
        }
        let (size, name) = (builder.size(), names::pack(LIFE, 4, [8; 16]));
        let packed = builder.finish(&name, 4, [6; 32], &sealer).unwrap();
        prop_assert_eq!(packed.bytes.len(), size);
        prop_assert_eq!(packed.object.size as usize, size);
        let all = sealer.open(Kind::Pack, &name, Some(4), &packed.bytes).unwrap();
        for (number, plain) in plains.iter().enumerate() {
            prop_assert_eq!(&all.frames[number], plain);
            let info = packed.frames[number];
            let stored = &packed.bytes[info.stored_offset as usize..][..info.stored_length as usize];
            let extent = info.extent(0, plain.len() as u64, 1, number as u32, 0);
            prop_assert_eq!(&pack::open_extent(&sealer, &packed.object, &extent, stored).unwrap(), plain);
            let reference = packed.frame_ref(number as u32).unwrap();
            prop_assert_eq!(&pack::open_frame(&sealer, &reference, stored).unwrap(), plain);
            let wrong = other.index(plains.len());
            if wrong != number {
                let moved = rpc::Extent { frame: wrong as u32, ..extent };
                prop_assert!(pack::open_extent(&sealer, &packed.object, &moved, stored).is_err());
            }
            let more = rpc::Extent { plain_length: extent.plain_length + 1, ..extent };
            prop_assert!(pack::open_extent(&sealer, &packed.object, &more, stored).is_err());
            let later = rpc::ObjectRef { epoch: 5, ..packed.object.clone() };
            prop_assert!(pack::open_extent(&sealer, &later, &extent, stored).is_err());
        }
    }

    #[test]
    fn the_same_frames_never_look_the_same(plain in vec(any::<u8>(), 40..90), salts in (any::<[u8; 32]>(), any::<[u8; 32]>())) {
        prop_assume!(salts.0 != salts.1);
        let (sealer, frame) = (sealer(true), codec::compress(&plain));
        let seal = |salt| sealer.seal(Kind::Pack, &names::pack(LIFE, 1, [1; 16]), 1, salt, &[&frame, &frame]).unwrap();
        let stored = |sealed: &Sealed, at: usize| sealed.bytes[sealed.frames[at].0 as usize..][..frame.len()].to_vec();
        let (one, two) = (seal(salts.0), seal(salts.1));
        let mut seen = [stored(&one, 0), stored(&one, 1), stored(&two, 0), stored(&two, 1), frame.clone()];
        seen.sort();
        prop_assert!(seen.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_split_delta_means_what_the_whole_did(before in a_delta(), whole in a_delta(), plain_max in 1..2000usize) {
        let mut tree = Tree::default();
        tree.apply(&before);
        let mut other = Tree::default();
        other.apply(&before);
        tree.apply(&whole);
        for part in delta::split(whole, plain_max) {
            let size = prost::Message::encoded_len(&part);
            prop_assert!(size <= plain_max + 400, "{} bytes where {} were asked for", size, plain_max);
            other.apply(&part);
        }
        prop_assert_eq!(tree, other);
    }

    #[test]
    fn parts_of_a_checkpoint_hold_all_of_it_once(
        files in btree_map(2..500u64, (vec("[a-z]{1,20}", 0..9), vec(1..4u32, 0..30)), 0..20), target in 300..5000usize, encrypted: bool, cuts in any::<u8>(),
    ) {
        let sealer = sealer(encrypted);
        let mut builder = checkpoint::PartBuilder::new(target);
        let (mut names, mut extents, mut inodes, mut parts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (ino, (entries, runs)) in &files {
            let inode = rpc::Inode { ino: *ino, mode: libc::S_IFREG, size: 1 << 20, ..Default::default() };
            builder.inode(inode.clone());
            inodes.push(inode);
            let mut entries: Vec<_> = entries.iter().map(|name| Bytes::from(name.clone().into_bytes())).collect();
            entries.sort();
            entries.dedup();
            for name in entries {
                let name = rpc::Name { dir: *ino, name, ino: 900, cookie: 3 };
                builder.name(name.clone());
                names.push(name);
            }
            for (at, of) in (0..).zip(runs) {
                builder.extent(*ino, extent(at * 100, 50, 0), Some(&object(*of as u8)));
                extents.push((*ino, at * 100, object(*of as u8).name));
            }
            if ino % 8 == u64::from(cuts) % 8 {
                builder.cut();
            }
            parts.extend(std::iter::from_fn(|| builder.ready()));
        }
        parts.extend(builder.finish());
        let (mut found_names, mut found_extents, mut found_inodes, mut last) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for (number, part) in (0u128..).zip(parts) {
            prop_assert!(part.first_ino >= last);
            last = part.last_ino;
            let (bytes, reference) =
                checkpoint::encode_part(&part, &sealer, &names::checkpoint_part(LIFE, 7, number.to_le_bytes()), 1, [0; 32]).unwrap();
            let part = checkpoint::decode_part(&bytes, &sealer, &reference).unwrap();
            prop_assert!(prost::Message::encoded_len(&part) <= target + 400);
            for change in &part.extents {
                let of = |extent: &rpc::Extent| part.objects[extent.object as usize - 1].name.clone();
                found_extents.extend(change.extents.iter().map(|extent| (change.ino, extent.offset, of(extent))));
            }
            found_names.extend(part.names);
            found_inodes.extend(part.inodes);
        }
        prop_assert_eq!((found_names, found_extents, found_inodes), (names, extents, inodes));
    }
}
