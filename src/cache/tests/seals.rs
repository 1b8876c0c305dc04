//! What a seal freezes.

use super::lab::{Lab, Sealing, everything};
use crate::cache::{CacheError, Change, Head, ReadOutcome, View};
use crate::types::{Domain, Hash, Ino, ROOT};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[test]
fn a_seal_is_the_state_at_the_flip() {
    let mut lab = Lab::new();
    let (a, b, c) = (lab.file(b"a"), lab.file(b"b"), lab.file(b"c"));
    for ino in [a, b, c] {
        lab.write(ino, 0, &[ino as u8; 30_000]);
    }
    let sealing = lab.begin_seal();
    assert!(matches!(lab.cache.seal(&mut everything), Err(CacheError::SealBusy)));
    lab.write(a, 5000, &[9; 10_000]);
    lab.truncate(a, 100);
    lab.write(a, 0, &[8; 50_000]);
    lab.remove(ROOT, b"b");
    lab.rename(ROOT, b"c", ROOT, b"a");
    lab.punch(c, 0, 20_000);
    lab.chmod(c, 0o600);
    lab.file(b"b");
    lab.cache.apply_batch().unwrap();
    lab.commit(sealing);
    lab.check();
    lab.commit_all();
    assert_eq!(lab.cache.dirty_content(), 0);
}

#[test]
fn overwritten_files_of_a_seal_share_a_descriptor() {
    let mut lab = Lab::new();
    let files: Vec<Ino> = (0..40).map(|n| lab.file(format!("f{n}").as_bytes())).collect();
    for round in 1..4u8 {
        for ino in &files {
            lab.write(*ino, 0, &[round; 30_000]);
        }
        let sealing = lab.begin_seal();
        // In runs that meet, out of order, and in part.
        for page in [3u64, 4, 1, 2, 6, 0] {
            for ino in &files {
                lab.write(*ino, page * 4096 + 10, &[100 + round + page as u8; 3000]);
            }
        }
        let copies = lab.dir.join("copies");
        let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
        assert_eq!(open.filter(|file| file.starts_with(&copies)).count(), 1);
        if round == 2 {
            lab.cache.abandon(sealing.seal).unwrap()
        } else {
            lab.commit(sealing)
        }
        let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
        assert_eq!(open.filter(|file| file.starts_with(&copies)).count(), 0);
        lab.check();
    }
}

#[test]
fn a_seal_given_up_is_dirty_again() {
    let mut lab = Lab::new();
    let a = lab.file(b"a");
    lab.write(a, 0, &[1; 30_000]);
    let Sealing { seal, .. } = lab.begin_seal();
    lab.write(a, 4096, &[2; 4096]);
    lab.truncate(a, 20_000);
    lab.cache.abandon(seal).unwrap();
    assert!(lab.cache.changed() && lab.cache.oldest_dirty().is_some());
    assert_eq!(lab.cache.dirty_content(), 20_480);
    lab.commit_all();
    assert!(!lab.cache.changed() && lab.cache.oldest_dirty().is_none());
}

#[test]
fn rows_in_no_commit_count_as_dirty() {
    let mut lab = Lab::new();
    for n in 0..100 {
        lab.file(format!("{n}").as_bytes());
    }
    let rows = lab.cache.dirty_bytes();
    assert_eq!(lab.cache.dirty_content(), 0);
    assert!(rows >= 100 * 512, "{rows}");
    // Again and again the same row is one row.
    let ino = lab.file(b"again");
    (0..50).for_each(|n| lab.chmod(ino, 0o600 + n % 2));
    assert!(lab.cache.dirty_bytes() < rows + 4096);
    let Sealing { seal, .. } = lab.begin_seal();
    assert!(lab.cache.dirty_bytes() >= rows, "on their way is not stored");
    lab.cache.abandon(seal).unwrap();
    assert!(lab.cache.dirty_bytes() >= rows);
    lab.crash();
    assert!(lab.cache.dirty_bytes() >= rows, "a successor counts them too");
    lab.commit_all();
    assert_eq!(lab.cache.dirty_bytes(), 0);
}

fn captured_size(lab: &Lab, ino: Ino) -> u64 {
    let seal = lab.cache.seal(&mut everything).unwrap();
    let inodes = seal.inodes(&mut 0, 10).unwrap();
    let size = inodes.iter().find(|i| i.ino == ino).map(|i| i.size).unwrap();
    let head = Head { seq: 1, hash: Hash([1; 32]), epoch: 1 };
    lab.cache.resolve(seal, head, &[]).unwrap();
    size
}

#[test]
fn an_append_only_file_is_sealed_as_a_prefix() {
    let lab = &mut Lab::new();
    let ino = lab.file(b"log");
    lab.cache.opened(ino, true);
    assert_eq!(lab.cache.writable_open(), [ino]);
    lab.write(ino, 0, &[1; 5000]);
    // The kernel sends what follows out of order: the bytes from 5000 to 9000 are not here yet.
    lab.write(ino, 9000, &[1; 3000]);
    lab.cache.flush_points(&[(ino, 5000)]);
    assert_eq!(captured_size(lab, ino), 5000);
    assert!(lab.cache.changed(), "the rest is for the next commit");
    lab.write(ino, 5000, &[1; 4000]);
    lab.cache.flush_points(&[(ino, 6000)]);
    assert_eq!(captured_size(lab, ino), 12_000);
    // Below the kernel's size a hole is one.
    lab.write(ino, 40_000, &[1; 10]);
    lab.cache.flush_points(&[(ino, 40_010)]);
    assert_eq!(captured_size(lab, ino), 40_010);
    // And below the size of an fsync.
    lab.write(ino, 50_000, &[1; 10]);
    lab.cache.fsync(ino, false).unwrap();
    lab.write(ino, 60_000, &[1; 10]);
    lab.cache.flush_points(&[(ino, 41_000)]);
    assert_eq!(captured_size(lab, ino), 50_010);
    lab.cache.released(ino, true);
    assert_eq!(captured_size(lab, ino), 60_010);
}

#[test]
fn a_driver_that_takes_a_mount_over_knows_what_may_still_come() {
    for applied in [false, true] {
        let lab = &mut Lab::new();
        let ino = lab.file(b"log");
        lab.cache.opened(ino, true);
        lab.write(ino, 0, &[1; 5000]);
        lab.cache.flush_points(&[(ino, 5000)]);
        assert_eq!(captured_size(lab, ino), 5000);
        lab.write(ino, 5000, &[1; 1000]);
        lab.write(ino, 8192, &[1; 3000]);
        if applied {
            lab.cache.apply_batch().unwrap();
        }
        lab.crash();
        // The kernel holds the pages in between, and cannot be asked.
        lab.cache.opened(ino, true);
        lab.cache.flush_points(&[]);
        assert_eq!(captured_size(lab, ino), 6000, "in meta.db: {applied}");
        assert!(lab.cache.changed());
        lab.write(ino, 6000, &[1; 2192]);
        lab.cache.flush_points(&[]);
        assert_eq!(captured_size(lab, ino), 11_192);
    }
}

#[test]
fn a_seal_without_the_kernel_has_prefixes_too() {
    let lab = &mut Lab::new();
    let ino = lab.file(b"log");
    lab.cache.opened(ino, true);
    lab.write(ino, 0, &[1; 5000]);
    lab.write(ino, 9000, &[1; 3000]);
    assert_eq!(captured_size(lab, ino), 5000);
    assert!(lab.cache.changed(), "the rest is for the next commit");
    lab.write(ino, 5000, &[1; 4000]);
    lab.write(ino, 20_000, &[1; 10]);
    // Opened after the kernel was asked.
    lab.cache.flush_points(&[]);
    assert_eq!(captured_size(lab, ino), 12_000);
    // However often: what is behind the gap is in no commit before the kernel was asked, stays as old as it is, and the next seal is
    // told to ask.
    let age = lab.cache.oldest_dirty().unwrap();
    for _ in 0..20 {
        assert_eq!(captured_size(lab, ino), 12_000);
        assert!(lab.cache.left_behind() && lab.cache.changed());
        assert_eq!(lab.cache.oldest_dirty(), Some(age));
    }
    lab.cache.flush_points(&[(ino, 20_010)]);
    assert_eq!(captured_size(lab, ino), 20_010);
    assert!(!lab.cache.left_behind() && !lab.cache.changed());
    assert_eq!((lab.cache.dirty_content(), lab.cache.dirty_bytes()), (0, 0));
    // What a seal had is in the next one, and so is what was closed.
    lab.write(ino, 30_000, &[1; 10]);
    assert_eq!(captured_size(lab, ino), 20_010);
    lab.cache.released(ino, true);
    assert_eq!(captured_size(lab, ino), 30_010);
}

#[test]
fn what_has_no_name_is_not_dirty() {
    let mut lab = Lab::new();
    let (a, b) = (lab.file(b"a"), lab.file(b"b"));
    lab.write(a, 0, &[1; 50_000]);
    lab.write(b, 0, &[2; 5000]);
    // Open still: its name goes, it does not.
    lab.update(|u| u.remove_name(ROOT, b"a")).unwrap();
    assert_eq!(lab.cache.dirty_content(), 8192);
    lab.put(a, 50_000, &[1; 10_000]);
    assert_eq!(lab.cache.dirty_content(), 8192);
    lab.crash();
    assert_eq!(lab.cache.dirty_content(), 8192);
    let sealing = lab.begin_seal();
    lab.cache.abandon(sealing.seal).unwrap();
    // It gets a name again: then it counts, and is committed whole although seals have passed over it.
    let gone = lab.tree.remove(&a).unwrap();
    lab.entries(ROOT).remove(b"a".as_slice());
    lab.commit_all();
    assert_eq!(lab.cache.dirty_content(), 0);
    lab.tree.insert(a, gone);
    lab.bytes(a).resize(60_000, 1);
    lab.link(a, ROOT, b"again");
    assert!(lab.cache.dirty_content() >= 60_000);
    // Its name goes while a seal has it.
    let sealing = lab.begin_seal();
    lab.update(|u| u.remove_name(ROOT, b"again")).unwrap();
    assert_eq!(lab.cache.dirty_content(), 0);
    lab.commit(sealing);
    lab.put(a, 0, &[7; 10_000]);
    assert_eq!(lab.cache.dirty_content(), 0);
    lab.update(|u| u.forget_orphan(a)).unwrap();
    assert_eq!((lab.cache.dirty_content(), lab.cache.cached_bytes()), (0, 8192));
}

fn tmp_is_local(view: &mut View<'_>, change: &Change) -> Domain {
    let mut at = match change {
        Change::Name { ino, .. } | Change::Inode(ino) => *ino,
    };
    while at != ROOT {
        let names = view.names_of(at).unwrap();
        let Some((dir, name)) = names.first().cloned() else { return Domain::Continuous };
        if name == b"keep" {
            return Domain::Continuous;
        }
        if name.starts_with(b"tmp") {
            return Domain::Local;
        }
        at = dir;
    }
    Domain::Continuous
}

#[test]
fn local_paths_are_held_and_captured_ones_stay() {
    let mut lab = Lab::new();
    let tmp = lab.make(ROOT, b"tmp", true);
    let held = lab.make(tmp, b"x", false);
    let data = lab.file(b"data");
    lab.write(held, 0, &[1; 5000]);
    lab.write(data, 0, &[2; 5000]);
    let seal_all = |lab: &mut Lab| {
        let seal = lab.cache.seal(&mut tmp_is_local).unwrap();
        let (_, files) = lab.collect(&seal, "");
        lab.committed.seq += 1;
        let head = Head { seq: lab.committed.seq, hash: Hash([1; 32]), epoch: 1 };
        let object = crate::rpc::ObjectRef { name: format!("p{}", lab.committed.seq), ..Default::default() };
        seal.keep_stored(&files).unwrap();
        lab.cache.resolve(seal, head, &[object]).unwrap();
        lab.committed.inodes.keys().copied().collect::<Vec<Ino>>()
    };
    assert_eq!(seal_all(&mut lab), [ROOT, data]);
    assert!(!lab.cache.changed());
    assert_eq!(lab.cache.dirty_content(), 0);
    // A name that is kept below a local directory brings its directories along, and not their other entries.
    let keep = lab.make(tmp, b"keep", false);
    assert_eq!(seal_all(&mut lab), [ROOT, tmp, data, keep]);
    // What a commit has held is not lost by a rename into a local directory.
    lab.rename(ROOT, b"data", tmp, b"data");
    lab.chmod(data, 0o600);
    assert_eq!(seal_all(&mut lab), [ROOT, tmp, data, keep]);
    assert!(lab.committed.names.contains_key(&(tmp, b"data".to_vec())));
    // A rename out of it is captured, whole.
    lab.rename(tmp, b"x", ROOT, b"x");
    assert_eq!(seal_all(&mut lab), [ROOT, tmp, held, data, keep]);
    assert_eq!(lab.committed.content[&held], vec![1; 5000]);
    // A local file in the place of a captured name: the name goes.
    let other = lab.make(ROOT, b"tmpfile", false);
    lab.rename(ROOT, b"tmpfile", tmp, b"data");
    assert_eq!(seal_all(&mut lab), [ROOT, tmp, held, keep]);
    assert!(!lab.committed.names.contains_key(&(tmp, b"data".to_vec())));
    assert!(lab.cache.view(|v| v.attr(other)).unwrap().is_some());
    assert!(lab.cache.seal(&mut tmp_is_local).map(|seal| seal.is_empty()).unwrap());
}

#[test]
fn fetch_against_write_and_evict() {
    let mut lab = Lab::new();
    let ino = lab.file(b"f");
    let len = 64 * 4096u64;
    for page in 0..64u64 {
        lab.write(ino, page * 4096, &[1; 4096]);
    }
    lab.commit_all();
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..400u64 {
                let page = round * 7 % 64;
                lab.put(ino, page * 4096, &[(round % 250) as u8 + 2; 4096]);
            }
            stop.store(true, Ordering::Relaxed);
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                lab.cache.evict(10 * 4096).unwrap();
            }
        });
        scope.spawn(|| {
            let mut out = Vec::new();
            while !stop.load(Ordering::Relaxed) || reads.load(Ordering::Relaxed) == 0 {
                match lab.cache.read(ino, 0, len as usize, &mut out).unwrap() {
                    ReadOutcome::Absent(ranges) => lab.fetch(ino, &ranges),
                    ReadOutcome::Done => {
                        assert!(out.iter().all(|b| *b != 0), "bytes that nobody wrote");
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
    });
    assert!(reads.load(Ordering::Relaxed) > 0);
}

#[test]
fn writers_go_on_while_seals_freeze() {
    let mut lab = Lab::new();
    let files: Vec<Ino> = (0..4).map(|n| lab.file(format!("f{n}").as_bytes())).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for ino in &files {
            let (lab, stop) = (&lab, &stop);
            scope.spawn(move || {
                // Each write fills the file with one number: no seal may see two.
                let mut n = 1u8;
                while !stop.load(Ordering::Relaxed) {
                    lab.put(*ino, 0, &[n; 20_000]);
                    n = n.wrapping_add(1).max(1);
                }
            });
        }
        for seq in 1..60 {
            let seal = lab.cache.seal(&mut everything).unwrap();
            let mut cursor = 0;
            for file in seal.files(&mut cursor, 10).unwrap() {
                let mut bytes = vec![0; file.size as usize];
                seal.read(file.ino, 0, &mut bytes).unwrap();
                assert!(bytes.iter().all(|b| *b == bytes[0] && *b != 0), "a seal saw half of a write");
            }
            let head = Head { seq, hash: Hash([1; 32]), epoch: 1 };
            lab.cache.resolve(seal, head, &[]).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

// A store that was away for long: very many files are in one seal, and memory is bounded (design.md, promise 7).
#[test]
fn the_files_of_a_seal_need_not_be_in_memory() {
    let mut lab = Lab::new();
    let files: Vec<Ino> = (0..600).map(|n| lab.file(format!("f{n}").as_bytes())).collect();
    for (n, ino) in files.iter().enumerate() {
        lab.write(*ino, 0, &[n as u8; 5000]);
    }
    lab.cache.apply_batch().unwrap();
    let few = |lab: &Lab| assert!(lab.cache.files.lock().len() <= 40, "{} files are in memory", lab.cache.files.lock().len());
    few(&lab);
    for round in 0..3u8 {
        let sealing = lab.begin_seal();
        assert_eq!(sealing.seal.dirty_bytes(), 600 * 8192);
        few(&lab);
        // What comes back to change is frozen first: changed in part, cut, changed twice.
        for ino in files.iter().step_by(50) {
            lab.write(*ino, 4096 * u64::from(round), &[200 + round; 3000]);
        }
        lab.truncate(files[7], 10);
        lab.chmod(files[8], 0o600);
        lab.file(format!("new{round}").as_bytes());
        lab.remove(ROOT, format!("new{round}").as_bytes());
        lab.cache.apply_batch().unwrap();
        for ino in files.iter().step_by(100) {
            lab.write(*ino, 0, &[220 + round; 100]);
        }
        lab.check();
        if round == 1 {
            // Given up: all is dirty again, what is in memory and what is not.
            lab.cache.abandon(sealing.seal).unwrap();
            assert!(lab.cache.changed());
            lab.commit_all();
        } else {
            lab.commit(sealing);
        }
        lab.commit_all();
        few(&lab);
        lab.check();
        assert_eq!(lab.cache.dirty_content(), 0);
        for (n, ino) in files.iter().enumerate() {
            lab.write(*ino, 0, &[n as u8 ^ round; 5000]);
        }
        lab.cache.apply_batch().unwrap();
    }
}

#[test]
fn what_a_commit_holds_that_landed_while_its_driver_died_is_captured() {
    let mut lab = Lab::new();
    let (held, left) = (lab.file(b"held"), lab.file(b"left"));
    lab.file(b"gone");
    let stays = |change: &Change| matches!(change, Change::Inode(ino) | Change::Name { ino, .. } if *ino == left);
    let tier = |change: &Change| if stays(change) { Domain::Local } else { Domain::Continuous };
    let seal = lab.cache.seal(&mut |_, change| tier(change)).unwrap();
    lab.collect(&seal, "packs/1");
    lab.cache.make_durable(&seal).unwrap();
    lab.remove(ROOT, b"gone");
    let again = lab.file(b"gone");
    lab.cache.apply_batch().unwrap();
    drop(seal);
    lab.crash();
    let known = |lab: &Lab| {
        lab.cache.view(|view| {
            let of = [held, left, again].map(|ino| view.inode_captured(ino).unwrap());
            (of, view.name_captured(ROOT, b"held").unwrap(), view.name_captured(ROOT, b"gone").unwrap())
        })
    };
    assert_eq!(known(&lab), ([false; 3], false, false));
    let deltas = std::mem::take(&mut lab.deltas);
    lab.cache.landed(&deltas).unwrap();
    // Also after another death.
    lab.crash();
    assert_eq!(known(&lab), ([true, false, false], true, false), "a file made at a name that had gone is another one");
    assert!(lab.cache.changed());
}

#[test]
fn a_file_made_at_a_name_that_went_while_its_commit_was_on_the_way_is_not_captured() {
    let mut lab = Lab::new();
    lab.file(b"removed");
    lab.file(b"replaced");
    let sealing = lab.begin_seal();
    lab.remove(ROOT, b"removed");
    lab.file(b"removed");
    lab.file(b"other");
    lab.rename(ROOT, b"other", ROOT, b"replaced");
    lab.commit(sealing);
    let captured = |name: &[u8]| lab.cache.view(|view| view.name_captured(ROOT, name)).unwrap();
    assert!(!captured(b"removed"), "as at any other moment");
    assert!(captured(b"replaced"));
    lab.commit_all();
    lab.check();
}
