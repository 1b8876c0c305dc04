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
#[path = "apps/running.rs"]
mod running;
#[path = "apps/server.rs"]
mod server;
#[path = "apps/stepper.rs"]
mod stepper;

use harness::{Chance, Mounted, scale};
use running::Stepper;

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
fn a_bank_of_two_files_and_a_chain_of_renames() {
    stepper::scenario(&Stepper::worker("bank"));
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

/// Commits that each scenario must have made before it ends: the newest, the oldest, and ten between them.
const ENOUGH: usize = 12;

/// The directory under test. At small counts a commit follows each change within a tenth of a second instead of one, so that a dozen of them
/// come about in the time of a scenario; the soak has time for the lag that everybody has.
fn mounted(name: &str) -> Box<dyn Mounted> {
    if scale() > 1 || std::env::var_os("HOLDFAST_TEST_ON").is_some() {
        return harness::mounted(name);
    }
    // Every later mount of the volume reads it again.
    let policy = format!("{}/apps.policy", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&policy, "* continuous 100ms\n").expect("a policy");
    Box::new(harness::Holdfast::with(name, &["--policy", &policy]))
}

/// Whether commits are still to be made for the checks at the end.
fn too_few(mounted: &dyn Mounted) -> bool {
    mounted.commits_by_itself() && mounted.commits().len() < ENOUGH
}

/// Newest, oldest, and ten others by chance; all of them when counts are large.
fn chosen(commits: &[u64], chance: &mut Chance) -> Vec<u64> {
    if scale() > 1 || commits.len() <= ENOUGH {
        return commits.to_vec();
    }
    let mut others = commits[1..commits.len() - 1].to_vec();
    while others.len() > ENOUGH - 2 {
        others.swap_remove(chance.between(0, others.len() as u64) as usize);
    }
    let mut picked = vec![commits[0], commits[commits.len() - 1]];
    picked.extend(others);
    picked.sort_unstable();
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
    let least = if mounted.commits_by_itself() { ENOUGH } else { 1 };
    assert!(chosen.len() >= least, "{name}: {} commits are too few to check, of {least}", chosen.len());
}
