//! Data files that are gone or too short: what is committed is fetched again, what is not is an error for its range and never zeros.
#![allow(clippy::single_range_in_vec_init, reason = "lists of ranges, some of one")]

use super::cut::copy_dir;
use super::lab::{Body, Lab};
use crate::cache::slots;
use crate::cache::{CacheError, ReadOutcome, WriteOutcome};
use crate::types::Ino;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const KIB: u64 = 1024;

/// The data file of an inode in a cache directory, and where in it the inode's bytes begin.
pub(super) fn place(lab: &Lab, dir: &Path, ino: Ino) -> (PathBuf, u64) {
    let slot = lab.cache.file(ino).unwrap().inner.lock().slot.unwrap();
    let base = if slots::is_shared(slot) { (slot & 0xfff) * slots::room(slot) } else { 0 };
    (dir.join("data").join(slots::path_of(slot)), base)
}

/// A committed file of 200 KiB and a small one, both with a page that is in no commit; in order, and open again in a new directory, after
/// `damage` had its way with that.
fn damaged(damage: impl FnOnce(&Lab, &Path, [Ino; 2])) -> (Lab, [Ino; 2]) {
    let mut lab = Lab::new();
    let files = [lab.file(b"large"), lab.file(b"small")];
    lab.write(files[0], 0, &vec![1; 200 * KIB as usize]);
    lab.write(files[1], 0, &[2; 12_000]);
    lab.commit_all();
    lab.write(files[0], 100 * KIB, &[3; 4096]);
    lab.write(files[1], 8192, &[4; 3000]);
    lab.cache.close().unwrap();
    let dir = lab.fresh_dir();
    copy_dir(&lab.dir, &dir);
    damage(&lab, &dir, files);
    lab.reopen(dir);
    (lab, files)
}

#[track_caller]
fn spoiled(lab: &Lab, ino: Ino, offset: u64, length: usize) {
    let mut out = Vec::new();
    let error = lab.cache.read(ino, offset, length, &mut out).expect_err("bytes that are nowhere");
    assert!(matches!(error, CacheError::Spoiled { .. }) && error.errno() == libc::EIO, "{error}");
}

#[test]
fn pages_that_a_data_file_lost_are_fetched_or_said() {
    let gone = |lab: &Lab, dir: &Path, files: [Ino; 2]| files.iter().for_each(|ino| fs::remove_file(place(lab, dir, *ino).0).unwrap());
    let cut = |lab: &Lab, dir: &Path, files: [Ino; 2]| {
        for ino in files {
            let (path, base) = place(lab, dir, ino);
            File::options().write(true).open(path).unwrap().set_len(base + 4096).unwrap();
        }
    };
    type Damage<'a> = &'a dyn Fn(&Lab, &Path, [Ino; 2]);
    let damages: [Damage<'_>; 2] = [&gone, &cut];
    for damage in damages {
        let (mut lab, [large, small]) = damaged(damage);
        spoiled(&lab, large, 100 * KIB, 1);
        spoiled(&lab, small, 9000, 10);
        let mut out = Vec::new();
        for (ino, range, byte) in [(large, 0..100 * KIB, 1), (large, 104 * KIB..200 * KIB, 1), (small, 0..8192, 2)] {
            lab.fetch(ino, std::slice::from_ref(&range));
            let length = (range.end - range.start) as usize;
            assert_eq!(lab.cache.read(ino, range.start, length, &mut out).unwrap(), ReadOutcome::Done);
            assert!(out.len() == length && out.iter().all(|b| *b == byte), "{ino} {range:?}");
        }
        assert!(lab.cache.dropped_bytes() > 0);
        assert_eq!(lab.cache.spoiled(), [(large, vec![100 * KIB..104 * KIB]), (small, vec![8192..12_000])]);
        assert!(lab.cache.fsync(large, false).is_err() && lab.cache.fsync(small, false).is_err());
        // A part of such a page cannot be written, the whole of it can.
        assert!(matches!(lab.cache.write(None, large, 100 * KIB, &[5; 100]), Err(CacheError::Spoiled { .. })));
        assert_eq!(lab.cache.write(None, large, 100 * KIB, &[5; 4096]).unwrap(), WriteOutcome::Done);
        lab.truncate(small, 100);
        lab.cache.fsync(large, false).unwrap();
        lab.cache.fsync(small, false).unwrap();
        assert!(lab.cache.spoiled().is_empty());
        lab.bytes(large)[100 * KIB as usize..][..4096].fill(5);
        lab.check();
        lab.commit_all();
    }
}

#[test]
fn a_data_file_that_was_lost_and_is_written_again_shows_no_zeros() {
    let (mut lab, [large, small]) = damaged(|lab, dir, files| {
        files.iter().for_each(|ino| fs::remove_file(place(lab, dir, *ino).0).unwrap());
    });
    // The file is there again, and longer than all that was lost.
    let end = 196 * KIB;
    lab.write(large, end, &[9; 4096]);
    lab.write(small, 0, &[9; 4096]);
    spoiled(&lab, large, 100 * KIB, 1);
    lab.fetch(large, std::slice::from_ref(&(0..100 * KIB)));
    let mut out = Vec::new();
    assert_eq!(lab.cache.read(large, 0, 100 * KIB as usize, &mut out).unwrap(), ReadOutcome::Done);
    assert!(out.iter().all(|byte| *byte == 1));
    // It is known after a restart as well, and the file before it is what commits show.
    lab.cache.apply_batch().unwrap();
    lab.crash();
    spoiled(&lab, large, 100 * KIB, 1);
    for ino in [large, small] {
        let committed = lab.committed.content[&ino].clone();
        let Some(Body::File(bytes)) = lab.tree.get_mut(&ino).map(|node| &mut node.body) else { panic!("a file") };
        let range = if ino == large { 100 * KIB as usize..104 * KIB as usize } else { 8192..12_000 };
        bytes[range.clone()].copy_from_slice(&committed[range]);
    }
    lab.commit_all();
}

#[test]
fn a_seal_never_stores_zeros_for_what_is_gone() {
    let mut lab = Lab::new();
    let ino = lab.file(b"large");
    lab.write(ino, 0, &vec![1; 200 * KIB as usize]);
    let sealing = lab.begin_seal();
    let (path, _) = place(&lab, &lab.dir.clone(), ino);
    File::options().write(true).open(path).unwrap().set_len(100 * KIB).unwrap();
    let mut bytes = vec![0; 4096];
    sealing.seal.read(ino, 0, &mut bytes).unwrap();
    assert!(sealing.seal.read(ino, 150 * KIB, &mut bytes).is_err());
    lab.cache.abandon(sealing.seal).unwrap();
    spoiled(&lab, ino, 150 * KIB, 1);
    // The next one is without them.
    lab.bytes(ino)[100 * KIB as usize..].fill(0);
    lab.commit_all();
}

#[test]
fn the_part_of_a_page_above_its_extent_is_not_believed_after_a_loss_of_power() {
    let mut lab = Lab::new();
    let ino = lab.file(b"f");
    lab.write(ino, 0, &[1; 221]);
    lab.commit_all();
    lab.truncate(ino, 5000);
    lab.commit_all();
    lab.cache.apply_batch().unwrap();
    let dir = lab.fresh_dir();
    copy_dir(&lab.dir, &dir);
    // Of a write that no fsync followed: its record went with the power, its page was on the disk.
    let (path, base) = place(&lab, &dir, ino);
    File::options().write(true).open(path).unwrap().write_all_at(&[9; 46], base + 1737).unwrap();
    lab.boot += 1;
    lab.reopen(dir);
    lab.check();
    assert!(!lab.cache.changed());
}
