//! Random operations with crashes, seals, evictions and fetches between them.

use super::lab::{Body, Lab, Sealing};
use crate::types::{Ino, ROOT};
use proptest::prelude::*;

#[derive(Debug, Clone)]
pub(super) enum Op {
    Make(u8, u8, bool),
    Remove(u8, u8),
    Rename(u8, u8, u8, u8),
    Link(u8, u8, u8),
    Chmod(u8, u8),
    Write(u8, u16, u16, u8),
    Truncate(u8, u16),
    Punch(u8, u16, u16),
    Copy(u8, u8),
    Fsync(u8),
    BeginSeal,
    Commit,
    Abandon,
    Evict(u16),
    Batch,
    Crash,
    Check,
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let n = any::<u8>;
    // Above 64 KiB a data file is not shared.
    let at = || prop_oneof![4 => 0u16..40_000, 1 => 50_000u16..=65_535, 4 => (0u16..10).prop_map(|p| p * 4096)];
    prop_oneof![
        6 => (n(), 0u8..12, prop::bool::weighted(0.3)).prop_map(|(d, name, dir)| Op::Make(d, name, dir)),
        3 => (n(), n()).prop_map(|(d, e)| Op::Remove(d, e)),
        3 => (n(), n(), n(), 0u8..12).prop_map(|(d, e, t, name)| Op::Rename(d, e, t, name)),
        2 => (n(), n(), 0u8..12).prop_map(|(f, d, name)| Op::Link(f, d, name)),
        2 => (n(), n()).prop_map(|(i, bits)| Op::Chmod(i, bits)),
        12 => (n(), at(), 1u16..12_000, n()).prop_map(|(f, at, len, b)| Op::Write(f, at, len, b)),
        4 => (n(), at()).prop_map(|(f, size)| Op::Truncate(f, size)),
        3 => (n(), at(), 1u16..20_000).prop_map(|(f, at, len)| Op::Punch(f, at, len)),
        2 => (n(), n()).prop_map(|(f, t)| Op::Copy(f, t)),
        2 => n().prop_map(Op::Fsync),
        4 => Just(Op::BeginSeal),
        4 => Just(Op::Commit),
        1 => Just(Op::Abandon),
        2 => any::<u16>().prop_map(Op::Evict),
        2 => Just(Op::Batch),
        2 => Just(Op::Crash),
        1 => Just(Op::Check),
    ]
}

fn pick(from: &[Ino], n: u8) -> Option<Ino> {
    (!from.is_empty()).then(|| from[n as usize % from.len()])
}

fn dirs(lab: &Lab) -> Vec<Ino> {
    lab.tree.iter().filter(|(_, n)| matches!(n.body, Body::Dir(_))).map(|(i, _)| *i).collect()
}

fn files(lab: &Lab) -> Vec<Ino> {
    lab.tree.iter().filter(|(_, n)| matches!(n.body, Body::File(_))).map(|(i, _)| *i).collect()
}

fn below(lab: &Lab, dir: Ino, above: Ino) -> bool {
    dir == above
        || match &lab.tree[&above].body {
            Body::Dir(entries) => entries.values().any(|child| below(lab, dir, *child)),
            Body::File(_) => false,
        }
}

fn entry(lab: &mut Lab, dir: Ino, n: u8) -> Option<(Vec<u8>, Ino)> {
    let entries = lab.entries(dir);
    let at = n as usize % entries.len().max(1);
    entries.iter().nth(at).map(|(name, ino)| (name.clone(), *ino))
}

fn empty(lab: &mut Lab, ino: Ino) -> bool {
    match &lab.tree[&ino].body {
        Body::Dir(entries) => entries.is_empty(),
        Body::File(_) => true,
    }
}

fn rename(lab: &mut Lab, d: u8, e: u8, t: u8, name: u8) {
    let (Some(from), Some(to)) = (pick(&dirs(lab), d), pick(&dirs(lab), t)) else { return };
    let Some((old, ino)) = entry(lab, from, e) else { return };
    let new = format!("n{name}").into_bytes();
    let is_dir = matches!(lab.tree[&ino].body, Body::Dir(_));
    if is_dir && below(lab, to, ino) {
        return;
    }
    if let Some(target) = lab.entries(to).get(&new).copied() {
        let target_dir = matches!(lab.tree[&target].body, Body::Dir(_));
        if target == ino || target_dir != is_dir || !empty(lab, target) {
            return;
        }
    }
    lab.rename(from, &old, to, &new);
}

fn copy(lab: &mut Lab, from: Ino, to: Ino) {
    let len = lab.bytes(from).len() as u64;
    if let Ok(crate::cache::CopyOutcome::Shared(n)) = lab.cache.copy_range(None, from, 0, to, 4096, len) {
        let bytes = lab.bytes(from)[..n as usize].to_vec();
        let target = lab.bytes(to);
        target.resize(target.len().max(4096 + n as usize), 0);
        target[4096..4096 + n as usize].copy_from_slice(&bytes);
    }
}

pub(super) fn run(lab: &mut Lab, sealing: &mut Option<Sealing>, op: &Op) {
    match *op {
        Op::Make(d, name, is_dir) => {
            let dir = pick(&dirs(lab), d).unwrap();
            let name = format!("n{name}").into_bytes();
            if !lab.entries(dir).contains_key(&name) {
                lab.make(dir, &name, is_dir);
            }
        }
        Op::Remove(d, e) => {
            let dir = pick(&dirs(lab), d).unwrap();
            if let Some((name, ino)) = entry(lab, dir, e)
                && empty(lab, ino)
            {
                lab.remove(dir, &name);
            }
        }
        Op::Rename(d, e, t, name) => rename(lab, d, e, t, name),
        Op::Link(f, d, name) => {
            let (file, dir) = (pick(&files(lab), f), pick(&dirs(lab), d).unwrap());
            let name = format!("n{name}").into_bytes();
            if let Some(file) = file
                && !lab.entries(dir).contains_key(&name)
            {
                lab.link(file, dir, &name);
            }
        }
        Op::Chmod(i, bits) => {
            let all: Vec<Ino> = lab.tree.keys().copied().filter(|ino| *ino != ROOT).collect();
            if let Some(ino) = pick(&all, i) {
                lab.chmod(ino, u32::from(bits));
            }
        }
        _ => run_content(lab, sealing, op),
    }
}

fn run_content(lab: &mut Lab, sealing: &mut Option<Sealing>, op: &Op) {
    let file = |lab: &Lab, f| pick(&files(lab), f);
    match *op {
        Op::Write(f, at, len, b) => {
            if let Some(ino) = file(lab, f) {
                let data: Vec<u8> = (0..len).map(|i| b.wrapping_add(i as u8) | 1).collect();
                lab.write(ino, u64::from(at), &data);
            }
        }
        Op::Truncate(f, size) => {
            if let Some(ino) = file(lab, f) {
                lab.truncate(ino, u64::from(size));
            }
        }
        Op::Punch(f, at, len) => {
            if let Some(ino) = file(lab, f) {
                lab.punch(ino, u64::from(at), u64::from(len));
            }
        }
        Op::Copy(f, t) => {
            if let (Some(from), Some(to)) = (file(lab, f), file(lab, t)) {
                copy(lab, from, to);
            }
        }
        Op::Fsync(f) => {
            if let Some(ino) = file(lab, f) {
                lab.cache.fsync(ino, false).unwrap();
            }
        }
        Op::BeginSeal if sealing.is_none() => *sealing = Some(lab.begin_seal()),
        Op::Commit => {
            if let Some(sealing) = sealing.take() {
                lab.commit(sealing);
            }
        }
        Op::Abandon => {
            if let Some(sealing) = sealing.take() {
                lab.cache.abandon(sealing.seal).unwrap();
            }
        }
        Op::Evict(target) => drop(lab.cache.evict(u64::from(target)).unwrap()),
        Op::Batch => {
            lab.cache.apply_batch().unwrap();
            lab.cache.tick().unwrap();
        }
        Op::Crash => {
            *sealing = None;
            lab.crash();
        }
        Op::Check => lab.check(),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("CACHE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(48), max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_cache_is_a_file_system(ops in prop::collection::vec(op(), 1..120)) {
        let mut lab = Lab::new();
        let mut sealing = None;
        for op in &ops {
            run(&mut lab, &mut sealing, op);
        }
        lab.check();
        if let Some(sealing) = sealing {
            lab.commit(sealing);
        }
        lab.commit_all();
        prop_assert_eq!(lab.cache.dirty_content(), 0);
        lab.check();
        // All of it can be dropped and fetched again.
        lab.cache.evict(u64::MAX).unwrap();
        lab.check();
        lab.crash();
        lab.check();
        prop_assert!(!lab.cache.changed());
    }
}
