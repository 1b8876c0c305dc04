//! A `meta.db` that is not what was written: seen when it is opened for a mount, and while it is served.

use super::cut::copy_dir;
use super::lab::{Lab, options};
use crate::cache::{Cache, CacheError, CacheOptions};
use crate::env::Env;
use crate::types::{Fault, FaultKind, ROOT};
use proptest::prelude::*;
use rusqlite::Connection;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A cache with some of everything, closed in order, all of it in commits but for `dirty`.
fn closed(dirty: bool) -> (Lab, PathBuf) {
    let mut lab = Lab::new();
    let dir = lab.make(ROOT, b"dir", true);
    for n in 0..200_u32 {
        let ino = lab.make(dir, format!("file{n}").as_bytes(), false);
        lab.write(ino, 0, &vec![n as u8; 5000]);
    }
    lab.commit_all();
    if dirty {
        let ino = lab.make(dir, b"precious", false);
        lab.write(ino, 0, b"in no commit");
    }
    lab.cache.close().unwrap();
    let copy = lab.fresh_dir();
    copy_dir(&lab.dir, &copy);
    Connection::open(copy.join("meta.db")).unwrap().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    (lab, copy)
}

fn open(dir: &Path) -> Result<(), CacheError> {
    let options = CacheOptions { check: true, ..options(dir, 1) };
    Cache::open(Env::real(), options).map(|_| ())
}

#[track_caller]
fn refused(dir: &Path) {
    let error = open(dir).expect_err("a cache that is not what was written");
    assert!(error.is_damage(), "{error}");
    assert_eq!(Fault::from(error).kind, FaultKind::Damaged);
    assert_eq!(Cache::origin_beside(dir), Some(super::lab::origin()), "readable without meta.db");
}

fn overwrite(dir: &Path, at: u64, length: usize) {
    File::options().write(true).open(dir.join("meta.db")).unwrap().write_all_at(&vec![0x5a; length], at).unwrap();
}

#[test]
fn a_damaged_database_is_not_opened() {
    let (_lab, whole) = closed(false);
    let length = fs::metadata(whole.join("meta.db")).unwrap().len();
    open(&whole).unwrap();
    type Damage<'a> = (&'a str, &'a dyn Fn(&Path));
    let damages: [Damage<'_>; 6] = [
        ("header", &|dir| overwrite(dir, 0, 100)),
        ("a page in the middle", &|dir| overwrite(dir, length / 2 / 4096 * 4096, 4096)),
        ("the last page", &|dir| overwrite(dir, length - 4096, 4096)),
        ("cut", &|dir| File::options().write(true).open(dir.join("meta.db")).unwrap().set_len(length / 2).unwrap()),
        ("emptied", &|dir| File::options().write(true).open(dir.join("meta.db")).unwrap().set_len(0).unwrap()),
        ("a row is gone", &|dir| {
            let sql = "DELETE FROM inodes WHERE ino=(SELECT MAX(ino) FROM inodes)";
            assert_eq!(Connection::open(dir.join("meta.db")).unwrap().execute(sql, []).unwrap(), 1);
        }),
    ];
    let (mut lab, _) = closed(false);
    for (what, damage) in damages {
        let dir = lab.fresh_dir();
        copy_dir(&whole, &dir);
        damage(&dir);
        println!("{what}");
        refused(&dir);
    }
}

#[test]
fn what_a_damaged_cache_had_in_no_commit_is_said() {
    let (_lab, dir) = closed(false);
    let (told, nothing) = Cache::survey(&dir);
    assert!(nothing && told.contains("is in a commit"), "{told}");
    let (_lab, dir) = closed(true);
    let (told, nothing) = Cache::survey(&dir);
    assert!(!nothing && told.contains("1 files with 4096 bytes") && told.contains("dir/precious"), "{told}");
    overwrite(&dir, 0, 100);
    let (told, nothing) = Cache::survey(&dir);
    assert!(!nothing && told.contains("cannot be known"), "{told}");
}

#[test]
fn a_malformed_page_met_while_serving_raises_a_suspicion() {
    let (mut lab, dir) = closed(false);
    lab.reopen(dir.clone());
    assert_eq!(lab.cache.suspicion().unwrap(), None);
    // Behind the back of the driver, as a disk does it.
    let length = fs::metadata(dir.join("meta.db")).unwrap().len();
    overwrite(&dir, 4096, length as usize - 4096);
    let error = (0..1000).find_map(|n| lab.cache.view(|view| view.lookup(ROOT + n, b"not hot")).err());
    // What SQLite has in memory may answer for all of it.
    if error.is_none() {
        return;
    }
    let why = lab.cache.suspicion().unwrap().expect("it looks");
    assert!(!why.is_empty());
    let after = lab.fresh_dir();
    copy_dir(&dir, &after);
    refused(&after);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    // Not all of it is seen; nothing that is read may end the process.
    #[test]
    fn flipped_bytes_of_a_database_never_end_the_process(flips in proptest::collection::vec((0.0..1.0_f64, 1..=255_u8), 1..40)) {
        static WHOLE: std::sync::OnceLock<(PathBuf, tempfile::TempDir)> = std::sync::OnceLock::new();
        let (whole, _) = WHOLE.get_or_init(|| {
            let keep = tempfile::tempdir().unwrap();
            let (_lab, dir) = closed(true);
            copy_dir(&dir, &keep.path().join("whole"));
            (keep.path().join("whole"), keep)
        });
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("copy");
        copy_dir(whole, &dir);
        let file = File::options().read(true).write(true).open(dir.join("meta.db")).unwrap();
        let length = file.metadata().unwrap().len();
        for (place, flip) in flips {
            let at = ((length as f64 * place) as u64).min(length - 1);
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ flip], at).unwrap();
        }
        let _ = open(&dir);
        let _ = Cache::survey(&dir);
    }
}
