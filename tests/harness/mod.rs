//! A mounted directory under test: what can happen to it, and the file systems that it can be.
//!
//! `HOLDFAST_TEST_ON=plain` runs the same tests on an ordinary directory and `bare` on the bare FUSE daemon of `benches/bare.rs`: what fails
//! there is a fault of the test. `HOLDFAST_TEST_STORE=file` replaces the S3 server by a directory. `SCALE=` multiplies counts, `HOLDFAST_TEST_SEED=` repeats a run's random choices.
#![allow(dead_code, reason = "each test binary uses a part of this")]

pub(crate) mod command;
mod holdfast;
pub(crate) mod network;
pub(crate) mod objects;
mod other;
pub(crate) mod process;
#[path = "../common/s3.rs"]
pub(crate) mod s3;
pub(crate) mod tree;

use std::path::{Path, PathBuf};

pub(crate) use holdfast::Holdfast;

/// A directory that applications use, and the misfortunes of the machine below it. Only
/// [`Mounted::bounce`] leaves applications alive.
pub(crate) trait Mounted {
    /// The directory.
    fn root(&self) -> &Path;
    /// `kill -9` of the driver while applications go on: for them it is a pause.
    fn bounce(&mut self);
    /// `kill -9` of everything that holds the mount: applications get errors, and are ended by the caller.
    fn kill(&mut self);
    /// Mounted again, with the same cache.
    fn revive(&mut self);
    /// The machine is gone: its cache is deleted, and the volume mounted on another one from the store and a key alone.
    fn elsewhere(&mut self);
    /// Waits until all that was written is in a commit, and gives its number.
    fn flush(&mut self) -> u64;
    /// The numbers of all commits, oldest first.
    fn commits(&self) -> Vec<u64>;
    /// Writes the tree of one commit into an empty directory, checked by its hashes.
    fn export(&self, commit: u64, into: &Path);

    /// Every record, checkpoint and extent of the store, checked by the independent reader; what it counted.
    fn check_store(&self) -> String {
        String::new()
    }
    /// Whether commits are made by themselves too, and so at moments that no test chose.
    fn commits_by_itself(&self) -> bool {
        false
    }
    /// The same as `flush` while applications write.
    fn flush_busy(&mut self) {
        self.flush();
    }

    /// Killed and mounted again, with no application at work.
    fn crash(&mut self) {
        self.kill();
        self.revive();
    }

    /// Killed and mounted elsewhere, with no application at work.
    fn lose(&mut self) {
        self.kill();
        self.elsewhere();
    }
}

/// The directory under test, as `HOLDFAST_TEST_ON` says.
pub(crate) fn mounted(name: &str) -> Box<dyn Mounted> {
    match std::env::var("HOLDFAST_TEST_ON").as_deref() {
        Ok("plain") => Box::new(other::Plain::new()),
        Ok("bare") => Box::new(other::Bare::new()),
        Ok("holdfast") | Err(_) => Box::new(Holdfast::new(name)),
        Ok(unknown) => panic!("HOLDFAST_TEST_ON={unknown}: plain, bare or holdfast"),
    }
}

/// Whether the directory under test is reached through FUSE.
pub(crate) fn is_fuse() -> bool {
    std::env::var("HOLDFAST_TEST_ON").as_deref() != Ok("plain")
}

/// An ordinary directory with every application-visible feature of the reference file system.
pub(crate) fn lab() -> tempfile::TempDir {
    let parent = std::env::var_os("HOLDFAST_TEST_LAB").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    // Other users' processes pass through it: PostgreSQL's, and those of pjdfstest.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    tempfile::Builder::new().prefix("hf-").permissions(open).tempdir_in(parent).expect("a temporary directory on a disk")
}

/// The multiplier of counts: 1 shows each property at least once.
pub(crate) fn scale() -> u64 {
    std::env::var("SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Random choices of a test; the seed is printed when the test fails.
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(test: &str) -> Self {
        let seed = std::env::var("HOLDFAST_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
        println!("{test}: HOLDFAST_TEST_SEED={seed}");
        Self(seed)
    }

    /// Choices of this seed alone.
    pub(crate) fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from `low` to `high - 1`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        low + (mixed ^ (mixed >> 31)) % (high - low)
    }
}
