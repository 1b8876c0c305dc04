//! Losses of power: of what was not flushed any part may be on the disk, page by page.

use super::cut::{self, copy_dir};
use super::lab::{Body, Lab, Node, Sealing, Tree};
use super::model::{Op, op, run};
use crate::cache::Hook;
use crate::types::Ino;
use proptest::prelude::*;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PAGE: usize = 4096;

/// What is on the disk for certain: copies of the files as they were when last flushed.
fn attach(lab: &mut Lab, durable: &Path) {
    let (live, durable) = (lab.dir.clone(), durable.to_owned());
    lab.hook = Hook::new(move |what| {
        cut::keep(&live, &durable, &what.path());
        Ok(())
    });
}

struct Chance(u64);

impl Chance {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below.max(1)
    }
}

fn lose_power(lab: &mut Lab, durable: &Path, chance: &mut Chance) -> u64 {
    let to = lab.fresh_dir();
    cut::lose_power(&lab.dir, durable, &to, &mut |below| chance.next(below));
    lab.boot += 1;
    let _ = fs::remove_dir_all(durable);
    copy_dir(&to, durable);
    lab.dir = to.clone();
    attach(lab, durable);
    let recovered = lab.reopen(to);
    assert!(!recovered.same_boot && !recovered.clean);
    recovered.lost_bytes
}

/// What may be found: trees without content since the last flush of the log, and contents of each file since its last fsync.
#[derive(Default)]
struct History {
    shapes: Vec<Tree>,
    contents: HashMap<Ino, Vec<Vec<u8>>>,
}

fn shape(tree: &Tree) -> Tree {
    let strip = |node: &Node| match &node.body {
        Body::File(_) => Node { body: Body::File(Vec::new()), ..node.clone() },
        Body::Dir(_) => node.clone(),
    };
    tree.iter().map(|(ino, node)| (*ino, strip(node))).collect()
}

impl History {
    fn add(&mut self, tree: &Tree) {
        self.shapes.push(shape(tree));
        for (ino, node) in tree {
            if let Body::File(bytes) = &node.body {
                let versions = self.contents.entry(*ino).or_default();
                if versions.last() != Some(bytes) {
                    versions.push(bytes.clone());
                }
            }
        }
    }

    fn flushed(&mut self) {
        self.shapes.drain(..self.shapes.len() - 1);
    }

    fn synced(&mut self, ino: Ino) {
        if let Some(versions) = self.contents.get_mut(&ino) {
            versions.drain(..versions.len() - 1);
        }
    }

    fn check(&self, found: &Tree) {
        assert!(self.shapes.contains(&shape(found)), "no state since the last flush has these names: {:?}", shape(found));
        for (ino, node) in found {
            let Body::File(bytes) = &node.body else { continue };
            let versions = &self.contents[ino];
            assert!(versions.iter().any(|v| v.len() == bytes.len()), "file {ino} has a size it never had: {}", bytes.len());
            for (n, page) in bytes.chunks(PAGE).enumerate() {
                // Old, new, or torn within itself (protocol.md, I8): each byte as some version since the last fsync had it.
                let was = |at: usize, byte: &u8| versions.iter().any(|v| v.get(n * PAGE + at).copied().unwrap_or(0) == *byte);
                assert!(
                    page.iter().enumerate().all(|(at, byte)| was(at, byte)),
                    "page {n} of file {ino} ({} bytes) never was so: {:?}...",
                    bytes.len(),
                    &page[..8.min(page.len())]
                );
            }
        }
    }
}

fn step(lab: &mut Lab, sealing: &mut Option<Sealing>, history: &mut History, op: &Op) {
    run(lab, sealing, op);
    history.add(&lab.tree);
    match op {
        Op::Fsync(f) => {
            let files: Vec<Ino> = lab.tree.iter().filter(|(_, n)| matches!(n.body, Body::File(_))).map(|(i, _)| *i).collect();
            if !files.is_empty() {
                history.flushed();
                history.synced(files[*f as usize % files.len()]);
            }
        }
        Op::Batch => {
            history.flushed();
            let all: Vec<Ino> = lab.tree.keys().copied().collect();
            all.into_iter().for_each(|ino| history.synced(ino));
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("CACHE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(48), max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn power_loss_keeps_what_was_synced(ops in prop::collection::vec(op(), 1..100), seed in any::<u64>()) {
        let mut lab = Lab::new();
        let durable = lab.fresh_dir();
        lab.cache.apply_batch().unwrap();
        copy_dir(&lab.dir, &durable);
        let mut chance = Chance(seed);
        let mut history = History::default();
        let mut sealing = None;
        // The first cache was made without the hook.
        history.add(&lab.tree);
        lose_power(&mut lab, &durable, &mut chance);
        for op in &ops {
            if matches!(op, Op::Crash) {
                sealing = None;
                lose_power(&mut lab, &durable, &mut chance);
                let found = lab.seen();
                history.check(&found);
                lab.tree = found;
                history = History::default();
                history.add(&lab.tree);
            } else {
                step(&mut lab, &mut sealing, &mut history, op);
            }
        }
        if let Some(sealing) = sealing {
            lab.commit(sealing);
        }
        lose_power(&mut lab, &durable, &mut chance);
        let found = lab.seen();
        history.check(&found);
        lab.tree = found;
        // What is dirty is known to be: the commit is what is here.
        lab.commit_all();
        lab.cache.evict(u64::MAX).unwrap();
        lab.check();
    }
}

/// A cache that loses power as `seed` says, with what is durable of it.
fn powered(seed: u64) -> (Lab, PathBuf, Chance) {
    let mut lab = Lab::new();
    let durable = lab.fresh_dir();
    lab.cache.apply_batch().unwrap();
    copy_dir(&lab.dir, &durable);
    let mut chance = Chance(seed);
    // The first cache was made without the hook.
    lose_power(&mut lab, &durable, &mut chance);
    (lab, durable, chance)
}

// A file that outgrows its slot leaves it to others: what was durable in the old place must be in the log before the new one counts.
#[test]
fn a_file_that_moved_keeps_what_was_durable_in_its_old_place() {
    for seed in 0..8 {
        let (mut lab, durable, mut chance) = powered(seed);
        let (ino, other) = (lab.file(b"grows"), lab.file(b"other"));
        for end in [4000, 16_000, 60_000, 100_000] {
            lab.write(ino, end - 4000, &vec![(end / 1000) as u8; 4000]);
            let content = lab.content(ino);
            lab.cache.apply_batch().unwrap();
            // Frozen pages are dirty again after a loss of power.
            let seal = (seed % 2 == 0).then(|| lab.begin_seal());
            // Leaves the slot it is in, by a write that is never flushed; another file's fsync makes the record of the new one durable.
            lab.put(ino, end * 5, &[9; 10]);
            lab.write(other, 0, &[1; 100]);
            lab.cache.fsync(other, false).unwrap();
            drop(seal);
            lose_power(&mut lab, &durable, &mut chance);
            let found = lab.content(ino);
            assert_eq!(found[..content.len()], content, "seed {seed}, {end} bytes");
            lab.tree = lab.seen();
        }
    }
}

// The size of a truncate is believed as soon as its record is durable, though nobody asked for the bytes to be: what an earlier truncate
// has cut off must not come back with it.
#[test]
fn a_file_that_grew_again_shows_zeros_and_not_what_was_cut_off() {
    for seed in 0..8 {
        let (mut lab, durable, mut chance) = powered(seed);
        let (ino, other) = (lab.file(b"f"), lab.file(b"other"));
        lab.write(ino, 0, &[7; 3000]);
        lab.truncate(ino, 1000);
        lab.cache.apply_batch().unwrap();
        lab.truncate(ino, 2000);
        lab.cache.fsync(other, false).unwrap();
        lose_power(&mut lab, &durable, &mut chance);
        let found = lab.content(ino);
        assert_eq!((found[..1000].to_vec(), found[1000..].to_vec()), (vec![7; 1000], vec![0; 1000]), "seed {seed}");
    }
}

// The same when it grows by a write that begins below its end: no zeros are written then, and the page may be on the disk as it was before.
#[test]
fn a_file_that_was_written_over_its_end_shows_nothing_that_was_cut_off() {
    for seed in 0..16 {
        let (mut lab, durable, mut chance) = powered(seed);
        let (ino, other) = (lab.file(b"f"), lab.file(b"other"));
        lab.write(ino, 0, &[7; 4000]);
        if seed % 2 == 0 {
            lab.cache.apply_batch().unwrap();
        }
        lab.truncate(ino, 1000);
        lab.cache.fsync(ino, false).unwrap();
        lab.write(ino, 500, &[8; 2000]);
        // A size that is believed without a flush of the file.
        lab.truncate(ino, 3500);
        lab.cache.fsync(other, false).unwrap();
        lose_power(&mut lab, &durable, &mut chance);
        let found = lab.content(ino);
        assert_eq!(found.len(), 3500, "seed {seed}");
        assert_eq!(found[..500], [7; 500], "seed {seed}");
        assert!(found[500..1000].iter().all(|byte| [7, 8].contains(byte)), "seed {seed}");
        assert!(found[1000..2500].iter().all(|byte| [0, 8].contains(byte)), "seed {seed}: what was cut off is back");
        assert_eq!(found[2500..], [0; 1000], "seed {seed}");
    }
}

// What was logged, and then flushed with the whole file, is in the file: nothing of the log may be put over it.
#[test]
fn a_flush_of_the_whole_file_ends_what_the_log_would_write() {
    for seed in 0..8 {
        let (mut lab, durable, mut chance) = powered(seed);
        let ino = lab.file(b"f");
        lab.write(ino, 0, &[7; 1000]);
        lab.cache.fsync(ino, false).unwrap();
        // With a gap below it, or none.
        lab.write(ino, 500 + (seed % 2) * 1500, &[8; 3000]);
        lab.cache.fsync(ino, false).unwrap();
        lab.write(ino, 100_000, &[9; 200_000]);
        lab.cache.fsync(ino, false).unwrap();
        let content = lab.content(ino);
        lose_power(&mut lab, &durable, &mut chance);
        assert_eq!(lab.content(ino), content, "seed {seed}");
    }
}

type Action = Arc<std::sync::Mutex<Option<Box<dyn Fn() + Send>>>>;

/// A cache that loses power as `seed` says, and whose n-th passage of the failpoint, counted from its opening, does what the action says.
fn powered_with(point: &str, n: u64, seed: u64) -> (Lab, PathBuf, Chance, Action) {
    let (mut lab, durable, mut chance) = powered(seed);
    let action: Action = Arc::default();
    let passed = Arc::clone(&action);
    lab.env = super::armed::armed(point, n, move || passed.lock().unwrap().take().unwrap()());
    lose_power(&mut lab, &durable, &mut chance);
    (lab, durable, chance, action)
}

// The files of a batch are flushed a moment before meta.db says so: until then an fsync has to log what it was asked for.
#[test]
fn an_fsync_between_the_flush_of_a_batch_and_its_commit() {
    for seed in 0..4 {
        let (mut lab, durable, mut chance, action) = powered_with("cache.after_fdatasync_before_commit", 2, seed);
        let ino = lab.file(b"f");
        lab.write(ino, 0, &[5; 10_000]);
        let (live, kept) = (lab.fresh_dir(), lab.fresh_dir());
        let (cache, dir, from, to, of) = (Arc::clone(&lab.cache), lab.dir.clone(), durable.clone(), kept.clone(), live.clone());
        *action.lock().unwrap() = Some(Box::new(move || {
            cache.fsync(ino, false).unwrap();
            copy_dir(&dir, &of);
            copy_dir(&from, &to);
        }));
        lab.cache.apply_batch().unwrap();
        // The power failed at that moment.
        lab.env = crate::env::Env::real();
        lab.dir = live;
        lose_power(&mut lab, &kept, &mut chance);
        assert_eq!(lab.content(ino), [5; 10_000], "seed {seed}");
    }
}

// Pages are clean in memory a moment before their commit is recorded here: a file that moves just then leaves a place that still counts.
#[test]
fn a_file_that_moves_while_its_commit_is_recorded_keeps_its_bytes() {
    for seed in 0..4 {
        let (mut lab, durable, mut chance, action) = powered_with("cache.in_resolve", 1, seed);
        let ino = lab.file(b"grows");
        lab.write(ino, 0, &[5; 16_600]);
        lab.cache.apply_batch().unwrap();
        let (live, kept) = (lab.fresh_dir(), lab.fresh_dir());
        let (cache, dir, from, to, of) = (Arc::clone(&lab.cache), lab.dir.clone(), durable.clone(), kept.clone(), live.clone());
        *action.lock().unwrap() = Some(Box::new(move || {
            // Out of a slot of 64 KiB.
            cache.write(None, ino, 300_000, &[6; 100]).unwrap();
            cache.fsync(ino, false).unwrap();
            copy_dir(&dir, &of);
            copy_dir(&from, &to);
        }));
        let seal = lab.cache.seal(&mut super::lab::everything).unwrap();
        let head = crate::cache::Head { seq: 1, hash: crate::types::Hash([1; 32]), epoch: 1 };
        lab.cache.resolve(seal, head, &[]).unwrap();
        // The power failed at that moment.
        lab.env = crate::env::Env::real();
        lab.dir = live;
        lose_power(&mut lab, &kept, &mut chance);
        assert_eq!(lab.content(ino)[..16_600], [5; 16_600], "seed {seed}");
    }
}
