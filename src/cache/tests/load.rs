//! A cache filled from what another one committed.

use super::lab::{Lab, options, origin};
use crate::cache::{Cache, CacheError, Head};
use crate::env::Env;
use crate::rpc;
use crate::types::{Hash, ROOT};

const HEAD: Head = Head { seq: 9, hash: Hash([9; 32]), epoch: 3 };

fn inode(ino: u64, mode: u32, size: u64) -> rpc::Inode {
    rpc::Inode { ino, mode, size, mtime: 77, ..rpc::Inode::default() }
}

fn name(dir: u64, name: &[u8], ino: u64, cookie: u64) -> rpc::Name {
    rpc::Name { dir, name: name.to_vec().into(), ino, cookie }
}

fn extent(offset: u64, length: u64, object: u32) -> rpc::Extent {
    rpc::Extent { offset, length, object, plain_length: length as u32, ..rpc::Extent::default() }
}

fn part() -> rpc::CheckpointPart {
    rpc::CheckpointPart {
        objects: vec![rpc::ObjectRef { name: "packs/1".into(), ..rpc::ObjectRef::default() }],
        inodes: vec![
            inode(ROOT, libc::S_IFDIR | 0o755, 0),
            inode(10, libc::S_IFDIR | 0o700, 0),
            inode(11, libc::S_IFREG | 0o644, 10_000),
            inode(12, libc::S_IFREG | 0o644, 5),
        ],
        names: vec![name(ROOT, b"d", 10, 4), name(10, b"f", 11, 1), name(ROOT, b"link", 11, 5), name(ROOT, b"gone", 12, 6)],
        extents: vec![rpc::ExtentChange { ino: 11, extents: vec![extent(0, 10_000, 1)], ..rpc::ExtentChange::default() }],
    }
}

#[test]
fn a_checkpoint_and_a_commit_fill_a_cache() {
    let mut lab = Lab::new();
    let dir = lab.fresh_dir();
    let cache = Cache::create(Env::real(), options(&dir, 1), &origin()).unwrap();
    let mut loader = cache.load().unwrap();
    loader.part(&part()).unwrap();
    let delta = rpc::Delta {
        objects: vec![rpc::ObjectRef { name: "packs/2".into(), ..rpc::ObjectRef::default() }],
        removed_names: vec![rpc::NameRef { dir: ROOT, name: b"gone".to_vec().into() }],
        removed_inodes: vec![12],
        inodes: vec![inode(11, libc::S_IFREG | 0o600, 9000)],
        extents: vec![rpc::ExtentChange {
            ino: 11,
            cleared: vec![rpc::Range { offset: 0, length: 4096 }],
            extents: vec![extent(8192, 808, 1)],
        }],
        ..rpc::Delta::default()
    };
    loader.delta(9, &delta).unwrap();
    loader.finish(HEAD, 1 << 41, 7).unwrap();
    let check = |cache: &Cache| {
        assert_eq!(cache.head(), Some(HEAD));
        assert!(!cache.changed());
        let (file, root, d) = cache.view(|v| (v.attr(11).unwrap().unwrap(), v.attr(ROOT).unwrap().unwrap(), v.attr(10).unwrap().unwrap()));
        assert_eq!((file.nlink, file.size, file.mode & 0o777, file.mtime), (2, 9000, 0o600, 77));
        assert_eq!((root.nlink, d.nlink), (3, 2));
        assert_eq!(cache.view(|v| v.names_of(11)).unwrap().len(), 2);
        assert_eq!(cache.view(|v| v.lookup(ROOT, b"gone")).unwrap(), None);
        assert!(cache.view(|v| v.name_captured(10, b"f")).unwrap());
        let missing = cache.missing(11, 0..9000).unwrap();
        let found: Vec<_> = missing.iter().map(|m| (m.range.clone(), cache.object(m.extent.object).unwrap().name)).collect();
        assert_eq!(found, [(4096..8192, "packs/1".into()), (8192..9000, "packs/2".into())]);
        assert_eq!(missing[0].extent.skip, 4096);
    };
    check(&cache);
    drop(cache);
    let cache = Cache::open(Env::real(), options(&dir, 1)).unwrap().0;
    check(&cache);
    // The cookie of the removed name is not used again.
    let ino = cache
        .update(None, |u| -> Result<_, CacheError> {
            let attr = u.new_inode(&crate::cache::NewInode { mode: libc::S_IFREG, ..Default::default() })?;
            u.set_name(ROOT, b"new", attr.ino)?;
            assert_eq!(u.lookup(ROOT, b"new")?, Some((attr.ino, 7)));
            Ok((attr.ino, crate::cache::SavedReply::Empty))
        })
        .unwrap();
    assert_eq!(ino, 1 << 41);
    assert!(matches!(cache.load(), Err(CacheError::Invalid(_))));
}

#[test]
fn what_hangs_in_the_air_is_refused() {
    for damage in [
        |p: &mut rpc::CheckpointPart| drop(p.inodes.remove(0)),
        |p: &mut rpc::CheckpointPart| drop(p.inodes.remove(2)),
        |p: &mut rpc::CheckpointPart| p.names[1].dir = 11,
    ] {
        let mut lab = Lab::new();
        let dir = lab.fresh_dir();
        let cache = Cache::create(Env::real(), options(&dir, 1), &origin()).unwrap();
        let mut loader = cache.load().unwrap();
        let mut part = part();
        damage(&mut part);
        loader.part(&part).unwrap();
        assert!(matches!(loader.finish(HEAD, 100, 0), Err(CacheError::Invalid(_))));
        assert_eq!(cache.head(), None);
    }
    let mut lab = Lab::new();
    let dir = lab.fresh_dir();
    let cache = Cache::create(Env::real(), options(&dir, 1), &origin()).unwrap();
    let mut bad = part();
    bad.extents[0].extents[0].object = 7;
    assert!(matches!(cache.load().unwrap().part(&bad), Err(CacheError::Invalid(_))));
}
