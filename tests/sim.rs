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
