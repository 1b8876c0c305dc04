//! What a part of a checkpoint may hold.

use super::*;
use crate::format::changes::PackedDelta;
use crate::format::{limits, names};
use crate::rpc;
use crate::types::Hash;
use crate::writeback::checkpoint::Point;
use crate::writeback::clone_tree;

/// A database whose pages are written at random for hours: nearly every page lies in a pack of its own.
fn scattered(extents: u64, packs: u64) -> Tail {
    let ino = ROOT + 1;
    let object = |n: u64| rpc::ObjectRef {
        name: names::relative(LIFE, &names::pack(LIFE, 1, u128::from(n).to_be_bytes())).unwrap(),
        salt: Bytes::copy_from_slice(&[n as u8; 32]),
        epoch: 1,
        frames: 40,
        size: 100_000 + n,
        hash: Bytes::copy_from_slice(&[n as u8; 32]),
    };
    let extent = |n: u64| rpc::Extent {
        offset: n * 8192,
        length: 4096,
        object: u32::try_from(n % packs + 1).unwrap(),
        frame: u32::try_from(n / packs).unwrap(),
        stored_offset: 80_000,
        stored_length: 4100,
        plain_length: 4096,
        checksum: n.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        ..rpc::Extent::default()
    };
    let delta = rpc::Delta {
        objects: (0..packs).map(object).collect(),
        inodes: vec![rpc::Inode { ino, mode: libc::S_IFREG | 0o644, size: extents * 8192, ..rpc::Inode::default() }],
        extents: vec![rpc::ExtentChange { ino, cleared: Vec::new(), extents: (0..extents).map(extent).collect() }],
        next_inode: ino + 1,
        ..rpc::Delta::default()
    };
    let mut tail = Tail::after(None);
    tail.commit(2, &[], vec![PackedDelta::of(&delta)]);
    tail
}

#[tokio::test]
async fn a_part_with_as_many_packs_as_pages_stays_within_its_limit() {
    let world = World::new(SHAPE).await;
    let (objects, progress) = (world.site.objects().clone(), crate::writeback::Progress::default());
    let mut tail = scattered(45_056, 25_000);
    let into = Objects::new(Arc::clone(world.site.store()), objects.sealer().clone(), LIFE, objects.env().clone());
    let cloned = clone_tree(&tail, &objects, &into, (2, 1)).await.unwrap();
    assert_eq!(cloned.named.len(), 25_000);
    let point = Point { seq: 2, hash: Hash([7; 32]), epoch: 1, totals: None, domains: Vec::new(), policy: String::new() };
    tail.write(&objects, &world.site, &progress, point).await.unwrap();
    let index = crate::log::checkpoint::load(&world.site, 2).await.unwrap().unwrap();
    let mut extents = 0;
    for part in &index.parts {
        let part = objects.checkpoint_part(part).await.unwrap();
        assert!(prost::Message::encoded_len(&part) < limits::MESSAGE_PLAIN_MAX);
        extents += part.extents.iter().map(|file| file.extents.len()).sum::<usize>();
    }
    assert_eq!(extents, 45_056);
}
