//! The log and the control chain in seeded worlds (docs/protocol-notes.md says what they found).
//!
//! One seed is one world: nodes that open, commit, crash at any await, lose power or disk, and sleep for a month; janitors that retire and
//! delete at the same time; requests that get lost, land late or twice; listings that are stale. The invariants of protocol.md 11 are held
//! against the order in which the store applied things, at every step. `SCALE` multiplies the number of worlds; `SIM_SEED=n cargo test --test
//! sim replay -- --nocapture` replays one (`SIM_BUG=Name` with a bug planted); seeds that failed once are in `tests/sim/seeds.txt` for ever.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used, reason = "a test is its own crate, and may fail loudly")]

#[path = "sim/mod.rs"]
mod sim;

use sim::bugs::Bug;
use sim::world::{Report, run};
use std::collections::BTreeMap;
use std::io::Write;

const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sim/seeds.txt");

fn scale() -> u64 {
    std::env::var("SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn finding(report: &Report, bug: Bug) -> String {
    let what = report.violation.as_deref().unwrap_or_default();
    let planted = if bug == Bug::None { String::new() } else { format!("SIM_BUG={bug:?} ") };
    format!("seed {}: {what}\nreplay: {planted}SIM_SEED={} cargo test --test sim replay -- --nocapture", report.seed, report.seed)
}

#[test]
fn worlds() {
    let kept = std::fs::read_to_string(SEEDS).unwrap_or_default();
    let kept: Vec<u64> = kept.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
    let first: u64 = std::env::var("SIM_FIRST").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000);
    let fresh = first..first + 800 * scale();
    let mut seen: BTreeMap<&'static str, u64> = BTreeMap::new();
    let (mut count, mut steps, mut found) = (0u64, 0u64, Vec::new());
    for seed in kept.iter().copied().chain(fresh) {
        let report = run(seed, Bug::None, false);
        if report.violation.is_some() {
            found.push(finding(&report, Bug::None));
            if !kept.contains(&seed) {
                let mut file = std::fs::OpenOptions::new().append(true).create(true).open(SEEDS).unwrap();
                writeln!(file, "{seed} {}", report.violation.as_deref().unwrap_or_default()).unwrap();
            }
        }
        // I20: same seed, same digest.
        if seed % 16 == 0 {
            assert_eq!(run(seed, Bug::None, false).digest, report.digest, "seed {seed} is two worlds");
        }
        count += 1;
        steps += report.steps;
        for (what, times) in report.seen {
            *seen.entry(what).or_default() += times;
        }
    }
    assert!(found.is_empty(), "{} of {count} worlds broke an invariant:\n{}", found.len(), found.join("\n"));
    println!("{count} worlds, {steps} steps: {seen:?}");
    let all = [
        "numbers freed",
        "objects deleted",
        "adoptions",
        "intents that had landed",
        "re-created",
        "restores",
        "clones",
        "branches",
        "deltas in packs",
        "inline values gathered",
        "readers",
        "readers told",
        "claims renewed",
        "claims expired",
    ];
    for needed in all {
        assert!(seen.get(needed).is_some_and(|times| *times > 0), "no world had: {needed}");
    }
}

#[test]
fn planted_bugs_are_found() {
    let only = std::env::var("SIM_BUG").ok().and_then(|name| Bug::by_name(&name));
    let mut missed = Vec::new();
    for (bug, within) in Bug::ALL.iter().filter(|(bug, _)| only.is_none_or(|only| only == *bug)) {
        match (1..=*within).map(|seed| run(seed, *bug, false)).find(|report| report.violation.is_some()) {
            Some(report) => println!("{bug:?}: world {}: {}", report.seed, report.violation.unwrap_or_default()),
            None => missed.push(format!("{bug:?} within {within}")),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// Each rule of `log::protocol` names what holds it: planted bugs, or `world` for the worlds without one.
#[test]
fn each_rule_has_its_planted_bug() {
    for rule in holdfast::log::protocol::RULES {
        for test in rule.test.split(", ") {
            assert!(test == "world" || Bug::by_name(test).is_some(), "{}: no bug {test}", rule.rule);
        }
    }
}

#[test]
fn replay() {
    let Some(seed) = std::env::var("SIM_SEED").ok().and_then(|text| text.parse().ok()) else { return };
    let bug = std::env::var("SIM_BUG").ok().and_then(|name| Bug::by_name(&name)).unwrap_or(Bug::None);
    let report = run(seed, bug, true);
    for line in &report.trace {
        println!("{line}");
    }
    println!("{} steps, digest {:016x}, {:?}", report.steps, report.digest, report.seen);
    assert!(report.violation.is_none(), "{}", finding(&report, bug));
}

/// The whole engine: docs/testing.md says what its worlds are. Seeds that failed once are in `tests/sim/worlds.txt` for ever.
mod whole {
    use super::sim::whole::bugs::Bug;
    use super::sim::whole::life::FAILPOINTS;
    use super::sim::whole::world::run;
    use super::sim::whole::{janitor, person};
    use super::{BTreeMap, Report, scale};
    use std::io::Write;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sim/worlds.txt");
    const WORLDS: u64 = 400;
    /// Worlds that are added, and how often, while something rare has not been met: which worlds have it changes with any line of the engine.
    const MORE_WORLDS: u64 = 50;
    const MORE_TIMES: u64 = 16;
    /// What a run must have had.
    const NEEDED: &[&str] = &[
        "request lost",
        "reply lost",
        "late",
        "twice",
        "throttled",
        "stale listing",
        "stall before a record",
        "partition",
        "pause",
        "crashes",
        "losses of power",
        "commits that leave a tier",
        "disks lost",
        "mounts taken over",
        "requests sent again",
        "answered again",
        "fenced while mounted",
        "branches",
        "opens that adopt",
        "closes",
        "flushes",
        "strict fsyncs",
        "refusals",
        "checkpoints",
        "sweeps that retire",
        "objects deleted",
        "restores on the next mount",
        "restores in place",
        "writes that the kernel holds",
    ];

    fn variable(name: &str) -> Option<u64> {
        std::env::var(name).ok().and_then(|text| text.parse().ok())
    }

    fn finding(report: &Report, bug: Bug) -> String {
        let what = report.violation.as_deref().unwrap_or_default();
        let planted = if bug == Bug::None { String::new() } else { format!("SIM_BUG={bug:?} ") };
        format!(
            "world {}: {what}\nreplay: {planted}HOLDFAST_WORLD={} cargo test --test sim whole_world -- --nocapture",
            report.seed, report.seed
        )
    }

    /// Runs worlds, as many at a time as there are processors; each knows nothing of the others.
    fn side_by_side(seeds: &[u64], take: &mut dyn FnMut(Report)) {
        let (next, workers) = (AtomicUsize::new(0), std::thread::available_parallelism().map_or(2, usize::from).min(4));
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for tell in std::iter::repeat_n(tell, workers) {
                scope.spawn(|| {
                    let tell = tell;
                    while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let report = run(*seed, Bug::None, false);
                        // I20: same seed, same digest.
                        if seed % 16 == 0 {
                            assert_eq!(run(*seed, Bug::None, false).digest, report.digest, "world {seed} is two worlds");
                        }
                        tell.send(report).unwrap();
                    }
                });
            }
            told.iter().for_each(take);
        });
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the speed is told to a person")]
    fn whole_worlds() {
        if variable("HOLDFAST_WORLD").is_some() {
            return;
        }
        let began = std::time::Instant::now();
        let kept = std::fs::read_to_string(SEEDS).unwrap_or_default();
        let kept: Vec<u64> = kept.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect();
        let first = variable("SIM_FIRST").unwrap_or(1);
        let mut seen: BTreeMap<&'static str, u64> = BTreeMap::new();
        let (mut count, mut steps, mut found) = (0u64, 0u64, Vec::new());
        let needed = || NEEDED.iter().chain(FAILPOINTS).chain(janitor::FAILPOINTS).chain(person::FAILPOINTS).chain(person::ON_MOUNT);
        let mut next = first + WORLDS * scale();
        let mut seeds: Vec<u64> = kept.iter().copied().chain(first..next).collect();
        for _ in 0..=MORE_TIMES {
            side_by_side(&seeds, &mut |report| {
                let seed = report.seed;
                if report.violation.is_some() {
                    println!("{}", finding(&report, Bug::None));
                    found.push(finding(&report, Bug::None));
                    if !kept.contains(&seed) {
                        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(SEEDS).unwrap();
                        writeln!(file, "{seed} {}", report.violation.as_deref().unwrap_or_default()).unwrap();
                    }
                }
                count += 1;
                steps += report.steps;
                for (what, times) in report.seen {
                    *seen.entry(what).or_default() += times;
                }
            });
            if !found.is_empty() || needed().all(|what| seen.contains_key(what)) {
                break;
            }
            seeds = (next..next + MORE_WORLDS).collect();
            next += MORE_WORLDS;
        }
        let minutes = began.elapsed().as_secs_f64() / 60.0;
        println!("{count} worlds, {:.0} a minute, {steps} steps: {seen:?}", count as f64 / minutes);
        assert!(found.is_empty(), "{} of {count} worlds broke an invariant:\n{}", found.len(), found.join("\n"));
        for needed in needed() {
            assert!(seen.get(needed).is_some_and(|times| *times > 0), "no world had: {needed}");
        }
    }

    #[test]
    fn planted_bugs_of_the_engine_are_found() {
        let only = std::env::var("SIM_BUG").ok().and_then(|name| Bug::by_name(&name));
        let mut missed = Vec::new();
        for (bug, within) in Bug::ALL.iter().filter(|(bug, _)| only.is_none_or(|only| only == *bug)) {
            match (1..=*within).map(|seed| run(seed, *bug, false)).find(|report| report.violation.is_some()) {
                Some(report) => println!("{bug:?}: world {}: {}", report.seed, report.violation.unwrap_or_default()),
                None => missed.push(format!("{bug:?} within {within}")),
            }
        }
        assert!(missed.is_empty(), "not found: {missed:?}");
    }

    #[test]
    fn whole_world() {
        let Some(seed) = variable("HOLDFAST_WORLD") else { return };
        let bug = std::env::var("SIM_BUG").ok().and_then(|name| Bug::by_name(&name)).unwrap_or(Bug::None);
        let report = run(seed, bug, true);
        for line in &report.trace {
            println!("{line}");
        }
        println!("{} steps, digest {:016x}, {:?}", report.steps, report.digest, report.seen);
        assert!(report.violation.is_none(), "{}", finding(&report, bug));
    }
}
