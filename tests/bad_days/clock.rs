//! A clock that is set by a year, back and forward, while the volume is mounted and between mounts. Commits go on, in the order of their
//! numbers; what is dirty has the age it has; a number finds its commit, and now finds the newest.

use super::until;
use crate::harness::command::{run, succeed};
use crate::harness::objects::reader;
use crate::rig::{Mount, Rig, VOLUME};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

const YEAR: i64 = 365 * 86_400;

/// The clock of everything that mounts with it.
struct Clock {
    library: PathBuf,
    shift: PathBuf,
}

impl Clock {
    fn new(rig: &Rig) -> Self {
        let clock = Self { library: rig.path("shift.so"), shift: rig.path("shift") };
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bad_days/shift.c");
        run("cc", ["-shared", "-fPIC", "-O1", "-o", &clock.library.display().to_string(), source]);
        fs::write(&clock.shift, 0i64.to_le_bytes()).expect("write");
        clock
    }

    /// The same file, so that who has it mapped sees it at once.
    fn set(&self, seconds: i64) {
        File::options().write(true).open(&self.shift).and_then(|file| file.write_all_at(&seconds.to_le_bytes(), 0)).expect("set the clock");
    }

    fn mount(&self, rig: &Rig) -> Mount {
        rig.mount_with("first", |command| {
            command.env("LD_PRELOAD", &self.library).env("SHIFT_CLOCK", &self.shift);
        })
    }
}

/// The newest commit, as the driver tells it, once it is safe.
fn newest(rig: &Rig) -> Option<u64> {
    let (code, status) = rig.status("first");
    let dirty = status["status"]["oldest_dirty_seconds"].as_u64();
    assert!(dirty.is_none_or(|age| age < YEAR.unsigned_abs() / 2), "{status}");
    status["status"]["head"]["commit"].as_u64().filter(|_| code == 0 && dirty.is_none())
}

/// Writes a file, sets the clock while it is dirty, and waits until it is in a commit, without a flush: the lag must end by itself.
fn committed(rig: &Rig, mount: &Mount, name: &str, clock: &Clock, shift: i64) -> u64 {
    let before = newest(rig).unwrap_or(0);
    fs::write(mount.root.join(name), name).expect("write");
    clock.set(shift);
    until("a commit while the clock is wrong", || newest(rig).filter(|commit| *commit > before))
}

#[test]
fn clock_set_by_a_year() {
    let rig = Rig::new();
    let clock = Clock::new(&rig);
    let mut commits = Vec::new();
    for between in [0, -YEAR, YEAR] {
        // Between mounts ...
        clock.set(between);
        let mount = clock.mount(&rig);
        for shift in [between, -YEAR, YEAR, 0] {
            // ... and under one.
            let name = format!("file{}", commits.len());
            commits.push((committed(&rig, &mount, &name, &clock, shift), name));
        }
        clock.set(between);
        rig.unmount("first", mount);
    }
    assert!(commits.is_sorted_by(|a, b| a.0 < b.0), "{commits:?}");
    let key = rig.key().display().to_string();
    let list = |at: &str| succeed(&mut rig.prepare("second", &["ls", &format!("{VOLUME}:"), "--at", at, "--recovery-key", &key]));
    for (n, (commit, name)) in commits.iter().enumerate() {
        let listed = list(&commit.to_string());
        assert!(listed.contains(name.as_str()) && listed.lines().count() == n + 1, "commit {commit}: {listed}");
    }
    // A last commit by a right clock: that is what now means, whatever the others said.
    clock.set(0);
    let mount = clock.mount(&rig);
    committed(&rig, &mount, "last", &clock, 0);
    rig.unmount("first", mount);
    assert!(list("now").contains("last"));
    succeed(&mut reader(&rig.store(), Some(&rig.key()), &["check", VOLUME]));
}
