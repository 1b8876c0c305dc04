//! Everything around a volume that goes wrong one day, through the command: what it says, how it ends, and that nothing is lost.
//! Needs root and /dev/fuse.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::disallowed_methods, reason = "tests against the real world")]

#[path = "bad_days/clock.rs"]
mod clock;
#[path = "bad_days/days.rs"]
mod days;
#[path = "common/disk.rs"]
mod disk;
mod harness;
#[path = "bad_days/machine.rs"]
mod machine;
#[path = "bad_days/memory.rs"]
mod memory;
#[path = "bad_days/outage.rs"]
mod outage;
#[path = "crash/rig.rs"]
mod rig;
#[path = "bad_days/rot.rs"]
mod rot;
#[path = "bad_days/slow.rs"]
mod slow;
#[path = "bad_days/store.rs"]
mod store;
#[path = "bad_days/tampered.rs"]
mod tampered;
#[path = "bad_days/way.rs"]
mod way;

use rig::content;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn errno<T>(result: std::io::Result<T>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

/// Asks until there is an answer.
#[track_caller]
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < rig::PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The packs of a `file://` store.
fn packs(store: &Path) -> Vec<PathBuf> {
    let (mut found, mut pending) = (Vec::new(), vec![store.to_owned()]);
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).expect("list").flatten() {
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.parent().and_then(Path::file_name).is_some_and(|name| name == "packs") {
                found.push(path);
            }
        }
    }
    found
}
