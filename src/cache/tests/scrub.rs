//! A scrub finds each clean page that is not what was stored, under any operations before it, and takes nothing else for such a one.

use super::lab::Lab;
use super::spoiled::place;
use crate::cache::Cache;
use crate::types::{Ino, PAGE};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug, Clone)]
enum Op {
    Write { file: usize, at: u64, length: usize, byte: u8 },
    Truncate { file: usize, size: u64 },
    Punch { file: usize, at: u64, length: u64 },
    Commit,
    Evict(u64),
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    let place = || 0..40 * PAGE;
    prop_oneof![
        6 => (0..3_usize, place(), 1..30_000_usize, 1..=255_u8).prop_map(|(file, at, length, byte)| Op::Write { file, at, length, byte }),
        1 => (0..3_usize, place()).prop_map(|(file, size)| Op::Truncate { file, size }),
        1 => (0..3_usize, place(), 1..20_000_u64).prop_map(|(file, at, length)| Op::Punch { file, at, length }),
        4 => Just(Op::Commit),
        1 => (1..100_000_u64).prop_map(Op::Evict),
        1 => Just(Op::Crash),
    ]
}

fn play(lab: &mut Lab, files: &[Ino], op: &Op) {
    match *op {
        Op::Write { file, at, length, byte } => lab.write(files[file], at, &vec![byte; length]),
        Op::Truncate { file, size } => lab.truncate(files[file], size),
        Op::Punch { file, at, length } => lab.punch(files[file], at, length),
        Op::Commit => {
            lab.commit_all();
        }
        Op::Evict(bytes) => drop(lab.cache.evict(bytes).unwrap()),
        Op::Crash => drop(lab.crash()),
    }
}

/// Everything that a scrub drops, in small steps.
fn scrub(cache: &Cache) -> BTreeSet<(Ino, u64)> {
    let (mut after, mut dropped) = (Some(0), BTreeSet::new());
    while after.is_some() {
        for ino in cache.clean_files(&mut after, 1).unwrap() {
            let mut from = Some(0);
            while let Some(at) = from {
                let done = cache.scrub(ino, at, 10_000).unwrap();
                dropped.extend(done.dropped.iter().map(|range| (ino, range.start)));
                from = done.next;
            }
        }
    }
    dropped
}

/// Flips one byte of some of the extents that a checksum covers; which.
fn rot(lab: &Lab, files: &[Ino], picks: &[(usize, f64)]) -> BTreeSet<(Ino, u64)> {
    let mut flipped = BTreeSet::new();
    for ino in files {
        let file = lab.cache.file(*ino).unwrap();
        let whole: Vec<_> = {
            let content = file.inner.lock();
            content.extents.within(0..content.size).filter(|extent| content.is_compared(extent)).collect()
        };
        for (pick, at) in picks {
            let Some(extent) = whole.get(*pick).filter(|extent| flipped.insert((*ino, extent.offset))) else { continue };
            let (path, base) = place(lab, &lab.dir, *ino);
            let data = File::options().read(true).write(true).open(path).unwrap();
            let at = base + extent.offset + ((extent.length as f64 * at) as u64).min(extent.length - 1);
            let mut byte = [0];
            data.read_exact_at(&mut byte, at).unwrap();
            data.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        }
    }
    flipped
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("CACHE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(48), ..ProptestConfig::default() })]
    #[test]
    fn a_scrub_finds_each_flipped_byte(
        ops in proptest::collection::vec(op(), 1..40),
        picks in proptest::collection::vec((0..4_usize, 0.0..1.0_f64), 0..4),
        after in proptest::collection::vec(op(), 0..5),
    ) {
        let mut lab = Lab::new();
        let files = [lab.file(b"a"), lab.file(b"b"), lab.file(b"c")];
        for op in &ops {
            play(&mut lab, &files, op);
        }
        lab.check();
        prop_assert_eq!(scrub(&lab.cache), BTreeSet::new(), "nothing is wrong yet");
        let flipped = rot(&lab, &files, &picks);
        prop_assert_eq!(scrub(&lab.cache), flipped);
        lab.check();
        for op in &after {
            play(&mut lab, &files, op);
        }
        lab.check();
        prop_assert_eq!(scrub(&lab.cache), BTreeSet::new(), "all was mended");
    }
}

#[test]
fn a_scrub_beside_writers_takes_nothing_for_rot() {
    let mut lab = Lab::new();
    let ino = lab.file(b"a");
    lab.write(ino, 0, &vec![1; 64 * PAGE as usize]);
    lab.commit_all();
    let stop = AtomicBool::new(false);
    let cache = std::sync::Arc::clone(&lab.cache);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(scrub(&cache), BTreeSet::new());
            }
        });
        for round in 0..60_u64 {
            for page in 0..64 {
                if (page + round) % 3 == 0 {
                    lab.write(ino, page * PAGE, &[round as u8; 2048]);
                }
            }
            lab.commit_all();
            if round % 7 == 0 {
                lab.cache.evict(20 * PAGE).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    lab.check();
}
