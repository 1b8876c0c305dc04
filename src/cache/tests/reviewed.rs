//! Interleavings and inputs that a reader of the code found before any test did.

use super::lab::Lab;
use crate::cache::{CacheError, Change, CopyOutcome, Head};
use crate::types::{Domain, Hash, Ino, ROOT, RangeSet};
use std::sync::Arc;

// A batch lets go of files that it has written while a seal decides what of them waits: the seal has the metadata mutex then.
#[test]
fn a_file_may_leave_memory_while_its_seal_is_decided() {
    let mut lab = Lab::new();
    let files: Vec<Ino> = (0..40).map(|n| lab.file(format!("f{n}").as_bytes())).collect();
    lab.commit_all();
    for ino in &files {
        lab.write(*ino, 0, &[7; 5000]);
    }
    lab.cache.apply_batch().unwrap();
    let cache = Arc::clone(&lab.cache);
    let leaves = &mut |_: &mut crate::cache::View<'_>, _: &Change| {
        // At this moment, on the thread of a batch.
        cache.files.lock().retain(|_, file| Arc::strong_count(file) > 1);
        Domain::Scheduled
    };
    let seal = lab.cache.seal_urgent(Some(1), leaves).unwrap();
    assert!(!seal.is_full(), "all of it waits");
    lab.cache.abandon(seal).unwrap();
    lab.check();
}

// No tree names the packs of a file without a name, and gc may have deleted them: a commit that names them again cannot be read.
#[test]
fn what_has_no_name_is_copied_by_its_bytes() {
    let mut lab = Lab::new();
    let (from, to) = (lab.file(b"from"), lab.file(b"to"));
    lab.write(from, 0, &[1; 100_000]);
    lab.commit_all();
    assert_eq!(lab.cache.copy_range(None, from, 0, to, 0, 8192).unwrap(), CopyOutcome::Shared(8192));
    lab.cache.opened(from, false);
    lab.update(|u| u.remove_name(ROOT, b"from")).unwrap();
    assert_eq!(lab.cache.copy_range(None, from, 0, to, 8192, 8192).unwrap(), CopyOutcome::Copy);
    lab.update(|u| u.set_name(ROOT, b"again", from)).unwrap();
    assert_eq!(lab.cache.copy_range(None, from, 0, to, 8192, 8192).unwrap(), CopyOutcome::Shared(8192));
}

// It would be of a later commit than what lies before it: the one that takes it may be the one after the removal of its source.
#[test]
fn a_copy_behind_a_gap_of_an_open_file_is_copied_by_its_bytes() {
    let mut lab = Lab::new();
    let (from, to) = (lab.file(b"from"), lab.file(b"to"));
    lab.write(from, 0, &[1; 100_000]);
    lab.commit_all();
    lab.cache.opened(to, true);
    lab.write(to, 0, &[2; 4096]);
    assert_eq!(lab.cache.copy_range(None, from, 0, to, 8192, 8192).unwrap(), CopyOutcome::Copy);
    assert_eq!(lab.cache.copy_range(None, from, 0, to, 4096, 8192).unwrap(), CopyOutcome::Shared(8192));
}

// An append that found no room never grew the file: who cuts it where it ends has given those bytes up.
#[test]
fn cutting_a_file_where_it_ends_gives_up_a_write_that_failed_behind_it() {
    let mut lab = Lab::new();
    let ino = lab.file(b"log");
    lab.write(ino, 0, &[1; 8192]);
    let file = lab.cache.file(ino).unwrap();
    let mut lost = RangeSet::new();
    lost.insert(8192..16_384);
    file.inner.lock().error = Some((libc::ENOSPC, lost));
    assert!(matches!(lab.cache.fsync(ino, false), Err(CacheError::WriteLost { .. })));
    lab.truncate(ino, 8192);
    lab.cache.fsync(ino, false).unwrap();
    lab.check();
}

// The format takes 1 MiB of them: with more, no commit could be made, or nobody could read it.
#[test]
fn the_extended_attributes_of_an_inode_have_a_limit_together() {
    let mut lab = Lab::new();
    let ino = lab.file(b"f");
    let set = |lab: &Lab, name: String| lab.update(|u| u.set_xattr(ino, name.as_bytes(), &[5; 64 << 10]));
    for n in 0..15 {
        set(&lab, format!("user.{n:02}")).unwrap();
    }
    assert!(matches!(set(&lab, "user.15".into()), Err(CacheError::NoSpace(_))));
    set(&lab, "user.14".into()).unwrap();
    let seal = lab.cache.seal(&mut super::lab::everything).unwrap();
    let inode = seal.inodes(&mut 0, 10).unwrap().into_iter().find(|inode| inode.ino == ino).unwrap();
    let delta = crate::rpc::Delta { inodes: vec![inode], next_inode: ino + 1, ..Default::default() };
    crate::format::delta::encode_frame(&delta, 0).unwrap();
    lab.cache.resolve(seal, Head { seq: 1, hash: Hash([1; 32]), epoch: 1 }, &[]).unwrap();
}

// Sizes that the kernel was asked for are true of that moment.
#[test]
fn a_file_that_was_cut_since_the_kernel_was_asked_is_a_prefix_still() {
    let mut lab = Lab::new();
    let ino = lab.file(b"log");
    lab.cache.opened(ino, true);
    lab.write(ino, 0, &[1; 50_000]);
    lab.cache.flush_points(&[(ino, 50_000)]);
    lab.truncate(ino, 0);
    lab.write(ino, 0, &[2; 4096]);
    // What lies between is in the kernel.
    lab.write(ino, 20_000, &[2; 5000]);
    let size = |lab: &Lab, seq| {
        let seal = lab.cache.seal(&mut super::lab::everything).unwrap();
        let size = seal.inodes(&mut 0, 10).unwrap().into_iter().find(|inode| inode.ino == ino).map(|inode| inode.size);
        lab.cache.resolve(seal, Head { seq, hash: Hash([1; 32]), epoch: 1 }, &[]).unwrap();
        size
    };
    assert_eq!(size(&lab, 1), Some(4096));
    // Of a file that was closed since, the kernel has sent all.
    lab.cache.flush_points(&[(ino, 4096)]);
    lab.cache.released(ino, true);
    assert_eq!(size(&lab, 2), Some(25_000));
}

// A page is dirty or shared: a commit that says both of it cannot be made. (World 50346.)
#[test]
fn what_was_frozen_and_copied_over_and_read_is_not_dirty_again() {
    let mut lab = Lab::new();
    let (from, to) = (lab.file(b"from"), lab.file(b"to"));
    lab.write(from, 0, &[1; 100_000]);
    lab.commit_all();
    lab.write(to, 0, &[2; 8192]);
    let seal = lab.cache.seal(&mut super::lab::everything).unwrap();
    assert_eq!(lab.cache.copy_range(None, from, 0, to, 0, 8192).unwrap(), CopyOutcome::Shared(8192));
    lab.bytes(to).fill(1);
    lab.check();
    // Its process dies, or the seal is given up.
    lab.cache.apply_batch().unwrap();
    let dead = lab.fresh_dir();
    super::cut::copy_dir(&lab.dir, &dead);
    lab.cache.abandon(seal).unwrap();
    for again in [false, true] {
        if again {
            lab.reopen(dead.clone());
        }
        let seal = lab.cache.seal(&mut super::lab::everything).unwrap();
        let file = seal.files(&mut 0, 10).unwrap().into_iter().find(|file| file.ino == to).unwrap();
        assert!(!file.shared.is_empty() && file.dirty.is_empty(), "{file:?}");
        lab.cache.abandon(seal).unwrap();
        lab.check();
    }
}
