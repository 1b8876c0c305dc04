//! `kill -9` in each window: the directory is copied as it is at the failpoint, and opened.

use super::cut::copy_dir;
use super::lab::{Lab, options};
use crate::cache::{Cache, Recovered};
use crate::env::Env;
use crate::types::ROOT;
use std::sync::Arc;

/// Does `before`, then `f` on a cache that is copied at the failpoint; goes on with the copy.
fn killed_at(lab: &mut Lab, point: &'static str, f: impl FnOnce(&Arc<Cache>)) -> Recovered {
    let to = lab.fresh_dir();
    let here = lab.fresh_dir();
    copy_dir(&lab.dir, &here);
    let (from, copy) = (here.clone(), to.clone());
    // What a kill there would leave.
    let env = super::armed::armed(point, 1, move || copy_dir(&from, &copy));
    let (cache, _) = Cache::open(env, options(&here, 1)).unwrap();
    f(&cache);
    assert!(to.exists(), "{point} was not passed");
    drop(cache);
    lab.reopen(to)
}

#[test]
fn kill_between_data_and_log() {
    let mut lab = Lab::new();
    let ino = lab.committed(b"f", &[1; 10_000]);
    // Over clean pages and beyond the end: not one byte of it may count, but the clean pages count as dirty.
    killed_at(&mut lab, "cache.after_data_before_log", |cache| {
        cache.write(None, ino, 4000, &[2; 20_000]).unwrap();
    });
    let found = lab.content(ino);
    assert_eq!(found.len(), 10_000);
    assert!(found[..4000].iter().all(|b| *b == 1));
    assert!(found[4000..].iter().all(|b| *b == 1 || *b == 2));
    assert!(lab.cache.changed(), "pages that may differ from the commit are dirty");
    // What lies above the size does not show when the file grows.
    lab.update(|u| u.set_size(ino, 24_000)).unwrap();
    assert_eq!(lab.content(ino)[10_000..], [0; 14_000]);
}

#[test]
fn kill_between_data_and_log_over_a_page_that_was_evicted_and_fetched() {
    let mut lab = Lab::new();
    let ino = lab.committed(b"f", &[1; 10_000]);
    killed_at(&mut lab, "cache.after_data_before_log", |cache| {
        assert!(cache.evict(u64::MAX).unwrap() > 0);
        // That it is here again is in no record: the next process takes it for evicted.
        for missing in cache.missing(ino, 0..10_000).unwrap() {
            let bytes = vec![1; (missing.range.end - missing.range.start) as usize];
            cache.install(ino, &missing, &bytes).unwrap();
        }
        cache.write(None, ino, 10_000, &[2; 1_000]).unwrap();
    });
    // A batch gives the place of what was evicted back.
    lab.cache.evict(0).unwrap();
    lab.commit_all();
    assert!(lab.content(ino) == [1; 10_000]);
    assert!(lab.committed.content[&ino] == [1; 10_000], "a commit has zeros in the place of what was committed before");
}

#[test]
fn a_data_file_that_failed_once_is_known_after_a_kill() {
    for (shard_only, fetched) in [(false, false), (true, false), (false, true)] {
        let mut lab = Lab::new();
        let ino = lab.file(b"f");
        if fetched {
            lab.truncate(ino, 5000);
        }
        // No directory where the first data file goes, or one in its place.
        let (shard, place) = (lab.dir.join("data/01"), lab.dir.join("data/01/1"));
        if shard_only {
            std::fs::write(&shard, b"").unwrap();
        } else {
            std::fs::create_dir_all(&place).unwrap();
        }
        assert!(lab.cache.write(None, ino, 0, &[1; 100_000]).is_err());
        if shard_only {
            std::fs::remove_file(&shard).unwrap()
        } else {
            std::fs::remove_dir(&place).unwrap()
        }
        lab.write(ino, 0, &[2; 100_000]);
        lab.crash();
        lab.check();
        let other = lab.file(b"g");
        lab.write(other, 0, &[3; 100_000]);
        lab.check();
        lab.crash();
        lab.check();
    }
}

#[test]
fn kill_in_each_window_of_a_batch() {
    for point in ["cache.after_fdatasync_before_commit", "cache.after_commit_before_trim"] {
        let mut lab = Lab::new();
        let ino = lab.file(b"f");
        lab.write(ino, 0, &[1; 10_000]);
        lab.make(ROOT, b"d", true);
        killed_at(&mut lab, point, |_| {});
        lab.check();
        lab.write(ino, 5000, &[2; 10_000]);
        lab.remove(ROOT, b"d");
        killed_at(&mut lab, point, |cache| cache.apply_batch().unwrap());
        lab.check();
        lab.crash();
        lab.check();
    }
}

#[test]
fn kill_in_eviction() {
    let mut lab = Lab::new();
    lab.committed(b"f", &[1; 50_000]);
    killed_at(&mut lab, "cache.in_evict_before_log", |cache| {
        assert!(cache.evict(u64::MAX).unwrap() > 0);
    });
    lab.check();
    lab.cache.evict(20_000).unwrap();
    lab.crash();
    lab.check();
}

#[test]
fn kill_in_resolve() {
    let mut lab = Lab::new();
    let ino = lab.file(b"f");
    lab.write(ino, 0, &[1; 50_000]);
    killed_at(&mut lab, "cache.in_resolve", |cache| {
        let seal = cache.seal(&mut super::lab::everything).unwrap();
        let head = crate::cache::Head { seq: 1, hash: crate::types::Hash([1; 32]), epoch: 1 };
        cache.resolve(seal, head, &[]).unwrap();
    });
    // The commit may be stored: nothing here says so but the intent, and all of it goes up once more.
    assert_eq!(lab.cache.head(), None);
    assert_eq!(lab.cache.dirty_content(), 53_248);
    lab.check();
    lab.commit_all();
}

#[test]
fn a_clean_close_is_known() {
    let mut lab = Lab::new();
    lab.file(b"f");
    lab.cache.close().unwrap();
    let to = lab.fresh_dir();
    copy_dir(&lab.dir, &to);
    let recovered = lab.reopen(to);
    assert_eq!(recovered, Recovered { clean: true, same_boot: true, replayed: 0, lost_bytes: 0 });
    lab.check();
    assert!(!lab.crash().clean);
    let _ = Env::real();
}
