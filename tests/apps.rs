//! Real applications in a mounted directory: what they were told succeeded is there after a crash, and after the machine is lost.
//!
//! Each test: the application works; the driver is killed under it (a pause); everything is killed at a random moment and mounted again; all is
//! flushed; more is written; the machine is lost and the volume mounted elsewhere. Then commits are exported by the independent reader (which
//! checks every hash), and the application itself opens the newest, the oldest and ten others.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::disallowed_methods, reason = "tests against the real world")]

#[path = "apps/documents.rs"]
mod documents;
#[path = "apps/git.rs"]
mod git;
mod harness;
#[path = "apps/postgres.rs"]
mod postgres;
#[path = "apps/stepper.rs"]
mod stepper;

use harness::{Chance, Mounted, scale};
use stepper::Stepper;

#[test]
fn sqlite_with_a_wal() {
    stepper::scenario(&Stepper::worker("sqlite-wal"));
}

#[test]
fn sqlite_with_a_rollback_journal() {
    stepper::scenario(&Stepper::worker("sqlite-journal"));
}

#[test]
fn leveldb() {
    stepper::scenario(&Stepper::script("leveldb"));
}

#[test]
fn lmdb() {
    stepper::scenario(&Stepper::worker("lmdb"));
}

#[test]
fn a_log_that_is_never_closed_is_a_prefix_in_every_commit() {
    stepper::scenario(&Stepper::worker("append"));
}

#[test]
fn write_new_and_rename_over() {
    stepper::scenario(&Stepper::worker("replace"));
}

#[test]
fn no_commit_has_a_row_without_the_file_it_names() {
    stepper::scenario(&Stepper::worker("reference"));
}

#[test]
fn postgresql() {
    postgres::scenario();
}

#[test]
fn a_git_repository() {
    git::scenario();
}

#[test]
fn a_source_tree_keeps_every_attribute() {
    documents::source_tree();
}

#[test]
fn many_small_files() {
    documents::many_small_files(5_000 * scale());
}

#[test]
fn a_big_file() {
    documents::big_file(256 * scale().min(16));
}

/// Newest, oldest, and ten others by chance; all of them when counts are large.
fn chosen(commits: &[u64], chance: &mut Chance) -> Vec<u64> {
    if scale() > 1 || commits.len() <= 12 {
        return commits.to_vec();
    }
    let mut picked = vec![commits[0], commits[commits.len() - 1]];
    picked.extend((0..10).map(|_| commits[chance.between(1, commits.len() as u64 - 1) as usize]));
    picked.sort_unstable();
    picked.dedup();
    picked
}

/// Exports chosen commits, oldest first, and gives each to `check`; prints how many.
fn each_commit(name: &str, mounted: &dyn Mounted, chance: &mut Chance, mut check: impl FnMut(u64, &std::path::Path)) {
    let commits = mounted.commits();
    let chosen = chosen(&commits, chance);
    for commit in &chosen {
        let directory = harness::lab();
        let into = directory.path().join("tree");
        std::fs::create_dir(&into).expect("a directory for an export");
        mounted.export(*commit, &into);
        check(*commit, &into);
    }
    println!(
        "{name}: {} of {} commits opened by the application; in the store {}",
        chosen.len(),
        commits.len(),
        mounted.check_store().trim()
    );
    assert!(!chosen.is_empty(), "{name}: there is no commit to check");
}
