//! Flushes of data files that fail: the kernel calls their pages clean, and a later flush succeeds without them.

use super::cut::copy_dir;
use super::lab::Lab;
use super::spoiled::place;
use crate::cache::distrust::note_lost;
use crate::cache::{Hook, Synced};
use crate::types::Ino;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

const EPOCH: SystemTime = SystemTime::UNIX_EPOCH;

/// A cache whose flushes of data files and of the log fail while the switch is on.
fn failing() -> (Lab, Arc<AtomicBool>) {
    let mut lab = Lab::new();
    let fails = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&fails);
    lab.hook = Hook::new(move |what| match what {
        Synced::Slot(_) | Synced::DataFiles | Synced::Log if switch.load(Ordering::SeqCst) => Err(io::Error::from_raw_os_error(libc::EIO)),
        _ => Ok(()),
    });
    lab.crash();
    (lab, fails)
}

/// The same with a file that has been fsynced, and is in the log alone.
fn synced() -> (Lab, Arc<AtomicBool>, Ino) {
    let (mut lab, fails) = failing();
    let ino = lab.file(b"f");
    lab.write(ino, 0, &[5; 10_000]);
    lab.cache.fsync(ino, false).unwrap();
    (lab, fails, ino)
}

fn batch_fails(lab: &Lab, fails: &AtomicBool) {
    fails.store(true, Ordering::SeqCst);
    lab.cache.apply_batch().expect_err("a flush that fails");
    fails.store(false, Ordering::SeqCst);
}

/// The data file of an inode, with a time of change that no write has left.
fn aged(lab: &Lab, ino: Ino) -> PathBuf {
    aged_in(lab, &lab.dir, ino)
}

fn aged_in(lab: &Lab, dir: &Path, ino: Ino) -> PathBuf {
    let path = place(lab, dir, ino).0;
    File::options().write(true).open(&path).unwrap().set_modified(EPOCH).unwrap();
    path
}

/// What its driver leaves when it is killed.
fn killed(lab: &mut Lab) -> PathBuf {
    let dir = lab.fresh_dir();
    copy_dir(&lab.dir, &dir);
    // With its page cache: a copy may share blocks that nobody has read yet.
    for files in fs::read_dir(dir.join("data")).unwrap().map(|files| fs::read_dir(files.unwrap().path()).unwrap()) {
        files.for_each(|file| drop(fs::read(file.unwrap().path()).unwrap()));
    }
    dir
}

fn is_rewritten(path: &PathBuf) -> bool {
    fs::metadata(path).unwrap().modified().unwrap() != EPOCH
}

// What an fsync has put into the log alone is lost when the log's room is used again, and the flush that was to make it durable had failed.
#[test]
fn what_only_the_log_has_is_written_once_more_before_the_next_flush() {
    let (mut lab, fails, ino) = synced();
    fails.store(true, Ordering::SeqCst);
    lab.cache.apply_batch().expect_err("a flush that fails");
    lab.cache.fsync(ino, false).expect("the log has it");
    let path = aged(&lab, ino);
    lab.cache.apply_batch().expect_err("a flush that fails");
    assert!(is_rewritten(&path));
    fails.store(false, Ordering::SeqCst);
    let path = aged(&lab, ino);
    lab.cache.apply_batch().unwrap();
    assert!(is_rewritten(&path), "of two flushes that failed the second one needs it as well");
    let path = aged(&lab, ino);
    let other = lab.file(b"of another data file");
    lab.write(other, 0, &[6; 100_000]);
    lab.cache.apply_batch().unwrap();
    assert!(!is_rewritten(&path), "once is enough");
}

// Records that the log may have lost are in meta.db after the next batch: from there on it is a log as any other.
#[test]
fn a_log_whose_flush_failed_is_believed_again_after_a_batch() {
    let (mut lab, fails) = failing();
    let ino = lab.file(b"f");
    lab.write(ino, 0, &[5; 1000]);
    fails.store(true, Ordering::SeqCst);
    lab.cache.fsync(ino, false).expect_err("a flush that fails");
    fails.store(false, Ordering::SeqCst);
    lab.cache.fsync(ino, false).expect_err("the kernel calls its pages clean");
    lab.write(ino, 0, &[6; 1000]);
    lab.cache.fsync(ino, false).expect_err("a record behind what may be lost is not found");
    lab.cache.apply_batch().unwrap();
    lab.cache.fsync(ino, false).unwrap();
    lab.write(ino, 0, &[7; 1000]);
    lab.cache.fsync(ino, false).unwrap();
    lab.crash();
    lab.check();
}

// The successor of a driver that was killed after a flush had failed has the same page cache, with the same pages called clean.
#[test]
fn a_driver_that_died_after_a_failed_flush_leaves_word_of_it() {
    let (mut lab, fails, ino) = synced();
    batch_fails(&lab, &fails);
    let dir = killed(&mut lab);
    let path = aged_in(&lab, &dir, ino);
    let recovered = lab.reopen(dir);
    assert!(recovered.same_boot && recovered.lost_bytes == 0);
    assert!(is_rewritten(&path));
    lab.check();
    // It was flushed: the next one knows nothing of it.
    let dir = killed(&mut lab);
    let path = aged_in(&lab, &dir, ino);
    lab.reopen(dir);
    assert!(!is_rewritten(&path));
}

// Pages that the kernel let go after it called them clean are nowhere but in the log.
#[test]
fn after_pages_were_lost_only_the_log_is_believed() {
    let (mut lab, fails, ino) = synced();
    lab.write(ino, 4096, &[6; 4096]);
    batch_fails(&lab, &fails);
    let dir = killed(&mut lab);
    let (path, base) = place(&lab, &dir, ino);
    File::options().write(true).open(path).unwrap().write_all_at(&[0; 12_288], base).unwrap();
    note_lost(&dir).unwrap();
    lab.reopen(dir);
    assert_eq!(lab.content(ino), [5; 10_000]);
    lab.bytes(ino).splice(4096..8192, [5; 4096]);
    lab.check();
    assert!(!lab.dir.join("flush-failed").exists() && !lab.dir.join("flush-lost").exists());
}

// A note in a file's bytes would be an empty one on a full disk, and say that the page cache has everything.
#[test]
fn that_pages_were_lost_is_said_without_room() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str| fs::metadata(dir.path().join(name)).map(|note| (note.ino(), note.len())).ok();
    fs::write(dir.path().join("flush-failed"), "").unwrap();
    let there = of("flush-failed");
    note_lost(dir.path()).unwrap();
    assert_eq!((of("flush-failed"), of("flush-lost")), (None, there), "the same file, still empty");
    note_lost(dir.path()).unwrap();
    assert_eq!(of("flush-lost").map(|(_, bytes)| bytes), Some(0));
}

// What the kernel could not write of meta.db stays in blocks that read as zeros after a boot: the successor does not go on with them.
#[test]
fn meta_db_gets_new_blocks_after_a_failed_flush() {
    let (mut lab, _) = failing();
    let ino = lab.file(b"f");
    lab.write(ino, 0, &[5; 1000]);
    lab.cache.apply_batch().unwrap();
    let dir = killed(&mut lab);
    assert!(fs::metadata(dir.join("meta.db-wal")).unwrap().len() > 0);
    fs::write(dir.join("flush-failed"), "").unwrap();
    let before = fs::metadata(dir.join("meta.db")).unwrap().ino();
    lab.reopen(dir.clone());
    assert_ne!(fs::metadata(dir.join("meta.db")).unwrap().ino(), before);
    lab.check();
    assert!(!dir.join("flush-failed").exists() && !dir.join("meta.new").exists());
}

/// Whose disk has no room for what `meta.db` has in its log.
fn full() -> Lab {
    let mut lab = Lab::new();
    lab.hook = Hook::new(|what| match what {
        Synced::Meta => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        _ => Ok(()),
    });
    lab
}

// The log has what could not be copied: a batch is durable without, and the next one tries again.
#[test]
fn a_log_that_meta_db_has_no_room_for_stays() {
    let mut lab = full();
    lab.crash();
    lab.cache.batch.lock().wal_max = 0;
    let ino = lab.file(b"f");
    lab.write(ino, 0, &[5; 1000]);
    lab.cache.apply_batch().unwrap();
    assert_eq!(lab.cache.ring.used(), 0, "it is in meta.db");
    assert!(fs::metadata(lab.dir.join("meta.db-wal")).unwrap().len() > 0);
    assert!(!lab.dir.join("flush-failed").exists(), "no flush has failed");
    lab.crash();
    lab.check();
    lab.hook = Hook::default();
    lab.crash();
    lab.cache.batch.lock().wal_max = 0;
    lab.write(ino, 0, &[6; 1000]);
    lab.cache.apply_batch().unwrap();
    assert_eq!(fs::metadata(lab.dir.join("meta.db-wal")).unwrap().len(), 0);
    lab.check();
}

// Without room for new blocks it is served in the old ones: should those have lost a page, SQLite will see it.
#[test]
fn a_full_disk_keeps_no_cache_from_being_opened_after_a_failed_flush() {
    let mut lab = full();
    let ino = lab.file(b"f");
    lab.write(ino, 0, &[5; 1000]);
    lab.cache.apply_batch().unwrap();
    let dir = killed(&mut lab);
    fs::write(dir.join("flush-failed"), "").unwrap();
    let before = fs::metadata(dir.join("meta.db")).unwrap().ino();
    lab.reopen(dir.clone());
    assert_eq!(fs::metadata(dir.join("meta.db")).unwrap().ino(), before);
    lab.check();
}
