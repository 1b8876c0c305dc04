//! Single operations.

use super::cut::copy_dir;
use super::lab::Lab;
use crate::cache::disk::{Disk, Hook, Synced};
use crate::cache::ring::{Place, Ring, Scan};
use crate::cache::{Cache, CacheError, CopyOutcome, Entry, RequestId, SavedReply, Whence, WriteOutcome};
use crate::types::ROOT;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

#[test]
fn replies_survive_the_process() {
    let mut lab = Lab::new();
    let ino = lab.file(b"f");
    let id = RequestId { conn_epoch: 3, unique: 77 };
    assert_eq!(lab.cache.write(Some(id), ino, 0, b"hello").unwrap(), WriteOutcome::Done);
    let other = RequestId { conn_epoch: 3, unique: 78 };
    lab.cache
        .update(Some(other), |u| -> Result<_, CacheError> {
            u.remove_name(ROOT, b"f")?;
            Ok(((), SavedReply::Empty))
        })
        .unwrap();
    lab.crash();
    assert_eq!(lab.cache.replayed(id), Some(SavedReply::Size(5)));
    assert_eq!(lab.cache.replayed(other), Some(SavedReply::Empty));
    lab.cache.apply_batch().unwrap();
    lab.crash();
    assert_eq!(lab.cache.replayed(other), Some(SavedReply::Empty));
    lab.cache.forget_replies(4).unwrap();
    assert_eq!(lab.cache.replayed(other), None);
}

#[test]
fn what_a_record_has_said_is_not_said_again() {
    let mut lab = Lab::new();
    let ino = lab.file(b"f");
    lab.write(ino, 0, &[1; 10_000]);
    let used = lab.cache.ring.used();
    lab.write(ino, 100, &[2; 9000]);
    assert_eq!(lab.cache.ring.used(), used, "dirty before and after it, within the size");
    lab.write(ino, 9000, &[3; 1001]);
    assert!(lab.cache.ring.used() > used, "it grew");
    lab.crash();
    lab.check();
    let used = lab.cache.ring.used();
    lab.write(ino, 0, &[4; 4096]);
    assert_eq!(lab.cache.ring.used(), used);
    let seal = lab.begin_seal();
    lab.write(ino, 0, &[5; 4096]);
    assert!(lab.cache.ring.used() > used, "frozen is not dirty");
    lab.commit(seal);
    lab.commit_all();
    lab.cache.evict(u64::MAX).unwrap();
    // No record says that a page was fetched: that it was written does.
    lab.write(ino, 5000, &[6; 1]);
    lab.crash();
    lab.check();
}

#[test]
fn a_failed_flush_is_not_believed_later() {
    let failing = Arc::new(AtomicBool::new(false));
    let mut lab = Lab::new();
    let fail = Arc::clone(&failing);
    lab.hook = Hook::new(move |what| match what {
        Synced::Slot(_) | Synced::DataFiles if fail.swap(false, Ordering::SeqCst) => Err(std::io::Error::from_raw_os_error(libc::EIO)),
        _ => Ok(()),
    });
    lab.crash();
    let ino = lab.file(b"f");
    let data = |lab: &Lab| std::fs::metadata(lab.dir.join("data/01/1")).unwrap().modified().unwrap();
    for (round, others) in [(1, 0), (2, 0), (3, 40)] {
        for n in 0..others {
            let other = lab.file(format!("o{n}").as_bytes());
            lab.write(other, 0, &[9; 100]);
        }
        lab.write(ino, 0, &[round; 300_000]);
        failing.store(true, Ordering::SeqCst);
        let failed = if round == 1 { lab.cache.fsync(ino, false) } else { lab.cache.apply_batch() };
        assert!(matches!(failed, Err(CacheError::Io { .. })), "{failed:?}");
        let before = data(&lab);
        std::thread::sleep(std::time::Duration::from_millis(20));
        // The kernel has told of its error: it calls the pages clean now, and the next flush a success.
        lab.cache.apply_batch().unwrap();
        assert!(data(&lab) > before, "the pages are written once more");
        assert!(matches!(lab.cache.fsync(ino, false), Err(CacheError::WriteLost { .. })));
        lab.check();
        lab.write(ino, 0, &[round + 10; 200_000]);
        assert!(matches!(lab.cache.fsync(ino, false), Err(CacheError::WriteLost { .. })));
        if round == 2 {
            lab.truncate(ino, 200_000)
        } else {
            lab.write(ino, 200_000, &[round; 100_000])
        }
        lab.cache.fsync(ino, false).unwrap();
        lab.check();
    }
    lab.crash();
    lab.check();
}

#[test]
fn the_log_of_meta_db_is_emptied_under_load() {
    let mut lab = Lab::new();
    lab.cache.batch.lock().wal_max = 1 << 20;
    let wal = |lab: &Lab| std::fs::metadata(lab.dir.join("meta.db-wal")).unwrap().len();
    let (mut most, mut emptied) = (0, 0);
    for n in 0..1200 {
        lab.file(format!("a name of some length, so that it takes room {n}").as_bytes());
        if n % 4 == 0 {
            let before = wal(&lab);
            lab.cache.apply_batch().unwrap();
            emptied += u32::from(wal(&lab) < before);
            most = most.max(wal(&lab));
        }
    }
    assert!(emptied > 1 && most < 2 << 20, "{most} bytes, emptied {emptied} times");
    lab.check();
    lab.crash();
    lab.check();
}

#[test]
fn cookies_are_never_used_twice() {
    let mut lab = Lab::new();
    lab.file(b"a");
    lab.file(b"b");
    let names = |lab: &Lab| -> Vec<Entry> { lab.cache.view(|v| v.entries(ROOT, 0, 100)).unwrap() };
    let b = names(&lab)[1].cookie;
    lab.remove(ROOT, b"b");
    lab.cache.apply_batch().unwrap();
    lab.crash();
    lab.file(b"c");
    assert!(names(&lab)[1].cookie > b);
}

#[test]
fn an_orphan_stays_until_it_is_forgotten() {
    let mut lab = Lab::new();
    let ino = lab.file(b"f");
    lab.write(ino, 0, &[5; 9000]);
    lab.update(|u| u.remove_name(ROOT, b"f")).unwrap();
    assert_eq!(lab.content(ino), vec![5; 9000]);
    lab.crash();
    assert_eq!(lab.cache.view(|v| v.orphans()).unwrap(), [ino]);
    assert_eq!(lab.content(ino), vec![5; 9000]);
    lab.update(|u| u.forget_orphan(ino)).unwrap();
    assert!(matches!(lab.cache.write(None, ino, 0, b"x"), Err(CacheError::NoInode(_))));
    lab.crash();
    assert!(lab.cache.view(|v| v.attr(ino)).unwrap().is_none());
    assert_eq!(lab.cache.cached_bytes(), 0);
}

#[test]
fn a_recycled_data_file_shows_nothing_of_the_old_one() {
    let mut lab = Lab::new();
    for round in 1..6u8 {
        let ino = lab.file(b"f");
        lab.write(ino, 8192 * u64::from(round % 3), &[round; 5000]);
        lab.check();
        lab.remove(ROOT, b"f");
        lab.cache.apply_batch().unwrap();
        lab.cache.tick().unwrap();
    }
    let used: usize = std::fs::read_dir(lab.dir.join("data")).unwrap().count();
    assert!(used <= 2, "{used} shards for one file at a time");
}

#[test]
fn limits_refuse_what_can_be_refused_and_never_a_write() {
    let mut lab = Lab::with(|o| {
        o.bytes_max = 10_000;
        o.inodes_max = 3;
    });
    let ino = lab.file(b"a");
    lab.file(b"b");
    let refused = lab.update(|u| u.new_inode(&crate::cache::NewInode::default()));
    assert!(matches!(refused, Err(CacheError::NoSpace(_))));
    lab.write(ino, 0, &[1; 20_000]);
    assert!(matches!(lab.update(|u| u.set_size(ino, 30_000)), Err(CacheError::NoSpace(_))));
    assert!(matches!(lab.cache.fallocate(None, ino, 0, 0, 30_000), Err(CacheError::NoSpace(_))));
    lab.truncate(ino, 100);
    let space = lab.cache.view(|v| v.space());
    assert_eq!((space.bytes, space.inodes), (100, 3));
    lab.crash();
    assert_eq!(lab.cache.view(|v| v.space()), space);
}

#[test]
fn seek_finds_data_and_holes() {
    let mut lab = Lab::new();
    let ino = lab.file(b"f");
    lab.write(ino, 8192, &[1; 4096]);
    lab.truncate(ino, 20_000);
    let seek = |at, whence| lab.cache.seek(ino, at, whence).unwrap();
    assert_eq!(seek(0, Whence::Data), Some(8192));
    assert_eq!(seek(0, Whence::Hole), Some(0));
    assert_eq!(seek(9000, Whence::Hole), Some(12_288));
    assert_eq!(seek(12_288, Whence::Data), None);
    assert_eq!(seek(20_000, Whence::Hole), None);
    lab.commit_all();
    lab.cache.evict(u64::MAX).unwrap();
    assert_eq!(lab.cache.seek(ino, 0, Whence::Data).unwrap(), Some(8192));
    assert_eq!(lab.cache.seek(ino, 8192, Whence::Hole).unwrap(), Some(12_288));
}

#[test]
fn a_small_write_into_an_absent_page_asks_for_it_first() {
    let mut lab = Lab::new();
    let ino = lab.committed(b"f", &[1; 12_288]);
    lab.cache.evict(u64::MAX).unwrap();
    assert_eq!(lab.cache.cached_bytes(), 0);
    let WriteOutcome::Absent(needed) = lab.cache.write(None, ino, 5000, b"xyz").unwrap() else {
        panic!("the rest of the page is not here")
    };
    assert!(needed.iter().eq([&(4096..8192)]));
    lab.write(ino, 5000, b"xyz");
    // A whole page needs nothing, nor does what goes beyond all that is stored.
    lab.write(ino, 0, &[2; 4096]);
    lab.write(ino, 8192, &[3; 5000]);
    assert_eq!(lab.cache.cached_bytes(), 4 * 4096);
    lab.check();
}

#[test]
fn the_ring_is_reused_and_every_change_survives() {
    let mut lab = Lab::new();
    for n in 0..3000u32 {
        let ino = lab.file(format!("file{n}").as_bytes());
        lab.write(ino, 0, &n.to_le_bytes());
        if n % 3 == 0 {
            lab.remove(ROOT, format!("file{n}").as_bytes());
        }
    }
    lab.crash();
    lab.check();
}

#[test]
fn a_second_process_and_another_file_system_are_refused() {
    let lab = Lab::new();
    let again = crate::cache::Cache::open(crate::env::Env::real(), super::lab::options(&lab.dir, 1));
    assert!(matches!(again, Err(CacheError::Locked(_))));
    let mut options = super::lab::options(std::path::Path::new("/dev/shm/holdfast-test-cache"), 1);
    options.any_file_system = false;
    let refused = crate::cache::Cache::create(crate::env::Env::real(), options, &super::lab::origin());
    let _ = std::fs::remove_dir_all("/dev/shm/holdfast-test-cache");
    assert!(matches!(refused, Err(CacheError::Unsuitable { .. })));
}

#[test]
fn states_are_kept() {
    let mut lab = Lab::new();
    lab.cache.set_state("a", b"small").unwrap();
    lab.cache.set_state("b", &vec![7; 1 << 20]).unwrap();
    lab.crash();
    assert_eq!(lab.cache.get_state("a").unwrap().as_deref(), Some(&b"small"[..]));
    assert_eq!(lab.cache.get_state("b").unwrap(), Some(vec![7; 1 << 20]));
    let intent = crate::cache::Intent {
        seq: 9,
        epoch: 2,
        nonce: crate::types::Nonce([1; 16]),
        hash: crate::types::Hash([2; 32]),
        bytes: vec![3; 500_000].into(),
    };
    lab.cache.set_intent(Some(&intent)).unwrap();
    lab.crash();
    assert_eq!(lab.cache.intent().unwrap(), Some(intent));
    lab.cache.set_intent(None).unwrap();
    lab.crash();
    assert_eq!(lab.cache.intent().unwrap(), None);
}

#[test]
fn a_full_ring_keeps_its_oldest_record() {
    for (first, length) in [(0, 1000), (100, 1000), (4000, 777), (5000, 3), (60_000, 2000)] {
        let file = tempfile::tempfile().unwrap();
        let size = 64 << 10;
        file.set_len(size).unwrap();
        let start = Place { lsn: 0, at: 0 };
        let ring = Ring::new(file.try_clone().unwrap(), size, 7, start, start, Disk::default());
        ring.append(&vec![0; first]).unwrap();
        let oldest = ring.end();
        ring.trim(oldest);
        let mut count = 0;
        while ring.append(&vec![count as u8; length]).is_ok() {
            count += 1;
        }
        let mut scan = Scan { file: &file, size, generation: 7, place: oldest };
        let found = std::iter::from_fn(|| scan.next().unwrap()).count();
        assert_eq!(found, count, "{count} records of {length} bytes after one of {first}");
    }
}

#[test]
fn files_that_are_only_read_leave_memory_too() {
    let mut lab = Lab::new();
    let mut files = Vec::new();
    for n in 0..300 {
        let ino = lab.file(format!("f{n}").as_bytes());
        lab.write(ino, 0, b"content");
        files.push(ino);
    }
    lab.commit_all();
    lab.cache.apply_batch().unwrap();
    for ino in &files {
        lab.cache.missing(*ino, 0..4096).unwrap();
    }
    let (left, hot) = (lab.cache.files.lock().len(), lab.cache.options.hot_inodes);
    assert!(left <= hot + hot / 4 + 1, "{left} in memory, {hot} wanted");
}

#[test]
fn a_slot_taken_and_freed_within_a_batch_is_free_afterwards() {
    let mut lab = Lab::new();
    for name in [b"a", b"b"] {
        let ino = lab.file(name);
        lab.write(ino, 0, &[1; 100_000]);
        lab.remove(ROOT, name);
        if name == b"a" {
            lab.cache.apply_batch().unwrap();
            lab.cache.tick().unwrap();
        }
    }
    lab.cache.close().unwrap();
    let to = lab.fresh_dir();
    copy_dir(&lab.dir, &to);
    lab.reopen(to);
    lab.cache.apply_batch().unwrap();
    lab.cache.tick().unwrap();
    let held = |path: std::path::PathBuf| std::fs::metadata(path).unwrap().len();
    let left: u64 = walk(&lab.dir.join("data")).into_iter().map(held).sum();
    assert_eq!(left, 0, "bytes that no file owns");
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn nothing_is_shared_while_a_commit_is_taken_over() {
    let mut lab = Lab::new();
    let (from, to) = (lab.file(b"from"), lab.file(b"to"));
    lab.write(from, 0, &[1; 100_000]);
    let (cache, seen) = (Arc::new(OnceLock::<Weak<Cache>>::new()), Arc::new(OnceLock::new()));
    let (here, outcome) = (Arc::clone(&cache), Arc::clone(&seen));
    lab.env = super::armed::armed("cache.in_resolve", 1, move || {
        let cache = here.get().and_then(Weak::upgrade).unwrap();
        outcome.set(cache.copy_range(None, from, 0, to, 0, 8192).unwrap()).unwrap();
    });
    let dir = lab.fresh_dir();
    copy_dir(&lab.dir, &dir);
    lab.reopen(dir);
    cache.set(Arc::downgrade(&lab.cache)).unwrap();
    lab.commit_all();
    assert_eq!(seen.get(), Some(&CopyOutcome::Copy), "its object may never come to meta.db");
    assert_eq!(lab.cache.copy_range(None, from, 0, to, 0, 8192).unwrap(), CopyOutcome::Shared(8192));
}

#[test]
fn a_writer_is_remembered_when_handles_of_an_earlier_process_are_released() {
    let mut lab = Lab::new();
    let ino = lab.file(b"f");
    // What a successor knows: the writable ones.
    lab.cache.opened(ino, true);
    lab.cache.opened(ino, true);
    lab.cache.released(ino, false);
    lab.cache.released(ino, true);
    assert_eq!(lab.cache.writable_open(), [ino], "the kernel may hold bytes of it still");
    lab.cache.released(ino, true);
    assert!(lab.cache.writable_open().is_empty());
    assert_eq!(lab.cache.open_count(ino), 0);
}

#[test]
fn nothing_is_evicted_after_the_end() {
    let mut lab = Lab::new();
    lab.committed(b"f", &[1; 100_000]);
    lab.cache.close().unwrap();
    assert_eq!(lab.cache.evict(u64::MAX).unwrap(), 0);
}

// The page in which the file ended is zeroed below its end and written above it, in one record.
#[test]
fn zeroing_beyond_the_end_leaves_nothing_of_what_was_there() {
    for (start, size) in [(0, 15_000), (12_288, 15_000), (13_000, 15_000), (0, 100)] {
        let mut lab = Lab::new();
        let ino = lab.file(b"f");
        lab.write(ino, 0, &vec![7; size]);
        let outcome = lab.cache.fallocate(None, ino, libc::FALLOC_FL_ZERO_RANGE, start, 30_000).unwrap();
        assert_eq!(outcome, crate::cache::WriteOutcome::Done);
        let bytes = lab.bytes(ino);
        bytes[start as usize..].fill(0);
        bytes.resize(start as usize + 30_000, 0);
        lab.check();
        lab.commit_all();
        lab.crash();
        lab.check();
    }
}

// It would grow into what the reserve has left, and no driver could open the cache any more; and room given back may be taken by others.
#[test]
fn the_log_of_meta_db_begins_anew_at_each_batch_on_a_full_disk() {
    let mut lab = Lab::new();
    let wal = |lab: &Lab| std::fs::metadata(lab.dir.join("meta.db-wal")).unwrap().len();
    lab.cache.reserve.run_out();
    lab.file(b"f");
    lab.cache.apply_batch().unwrap();
    let before = wal(&lab);
    assert!(before > 0, "its room is kept");
    for n in 0..50 {
        lab.file(format!("f{n}").as_bytes());
        lab.cache.apply_batch().unwrap();
    }
    assert!((before..4 * before).contains(&wal(&lab)), "{before} bytes, then {}", wal(&lab));
    lab.crash();
    lab.check();
}

#[test]
fn a_path_keeps_the_bytes_of_its_names() {
    let mut lab = Lab::new();
    let dir = lab.make(ROOT, b"d\xff", true);
    let ino = lab.make(dir, b"a\nb", false);
    lab.cache.view(|view| {
        assert_eq!(view.path(ino).unwrap().unwrap(), b"d\xff/a\nb");
        assert_eq!(view.path_of(&(dir, b"new".to_vec())).unwrap().unwrap(), b"d\xff/new");
        assert_eq!(view.path_of(&(ROOT, b"new".to_vec())).unwrap().unwrap(), b"new");
        assert_eq!(view.path(ROOT).unwrap().unwrap(), b"");
        assert_eq!(view.path(4711).unwrap(), None);
        assert_eq!([view.show_path(ino), view.show_path(4711)], ["d\\xff/a\\nb", "inode 4711"]);
    });
}

#[test]
fn only_so_many_files_wait_for_a_batch() {
    let mut lab = Lab::with(|options| (options.log_bytes, options.hot_inodes) = (64 << 20, 16 << 10));
    let waiting = |lab: &Lab| lab.cache.pending_files.lock().len();
    let mut most = 0;
    for n in 0..14_000u32 {
        let ino = lab.file(format!("{n}").as_bytes());
        lab.write(ino, 0, &n.to_le_bytes());
        most = most.max(waiting(&lab));
        if n == 5000 {
            lab.cache.tick().unwrap();
            assert_eq!(waiting(&lab), 0, "so many do not wait for its time");
        }
    }
    assert!(most <= 8192, "{most}");
    lab.crash();
    lab.check();
}
