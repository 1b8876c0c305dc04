//! A store that is gone for long, under load: work goes on to the dirty limit, then new work is refused and what frees space is not; with the
//! store back all is committed in order, with no remount. Ten minutes in `make soak`.

use super::{content, errno, until};
use crate::harness::scale;
use crate::rig::{Rig, VOLUME};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const WRITERS: u64 = 3;
const LENGTH: usize = 30_000;
/// Each writer keeps its newest so many.
const KEPT: u64 = 400;

/// What a writer got done.
#[derive(Debug, Clone, Copy, Default)]
struct Done {
    written: u64,
    refused: u64,
}

/// Writes files one after the other, each made durable before the next, and removes the oldest. Refused: tries again.
fn write_files(dir: &Path, writer: u64, stop: &AtomicBool) -> Done {
    fs::create_dir(dir).expect("mkdir");
    let mut done = Done::default();
    while !stop.load(Ordering::Relaxed) {
        let path = dir.join(done.written.to_string());
        let made = File::create(&path).and_then(|mut file| {
            file.write_all(&content(writer << 32 | done.written, LENGTH))?;
            file.sync_all()
        });
        match made {
            Ok(()) => done.written += 1,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
                fs::remove_file(&path).ok();
                done.refused += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        if done.written > KEPT {
            // What frees space goes on, whatever the store does.
            let oldest = fs::remove_file(dir.join((done.written - KEPT - 1).to_string()));
            assert!(oldest.is_ok() || errno(oldest) == libc::ENOENT);
        }
    }
    done
}

/// Reads what is here, at all times: nothing of it waits for the store.
fn read_on(root: &Path, stop: &AtomicBool) -> u64 {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        assert_eq!(fs::read(root.join("before")).expect("read"), content(0, LENGTH));
        assert!(fs::read_dir(root).expect("list").count() > 0);
        rounds += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    rounds
}

/// In every commit, a writer's files are some in a row: later ones never without those before.
fn check_order(rig: &Rig, commit: u64) {
    for writer in 0..WRITERS {
        let path = format!("{VOLUME}:/writer{writer}");
        let output =
            rig.run("first", &["ls", &path, "--at", &commit.to_string(), "--json", "--recovery-key", &rig.key().display().to_string()]);
        if !output.status.success() {
            continue; // not made yet
        }
        let listed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("ls answers with JSON");
        let names = listed["entries"].as_array().unwrap_or_else(|| panic!("no entries in {listed}"));
        let mut numbers: Vec<u64> = names.iter().map(|entry| entry["name"].as_str().expect("a name").parse().expect("a number")).collect();
        numbers.sort_unstable();
        let in_a_row = numbers.windows(2).all(|two| two[1] == two[0] + 1);
        assert!(in_a_row, "commit {commit} has of writer {writer}: {numbers:?}");
    }
}

#[test]
fn store_gone_for_long_under_load() {
    let outage = Duration::from_secs(if scale() >= 20 { 600 } else { 3 });
    let rig = Rig::new();
    let first = rig.mount_with("first", |command| {
        command.args(["--dirty-size", "16MiB"]);
    });
    fs::write(first.root.join("before"), content(0, LENGTH)).expect("write");
    rig.flush("first");
    let stop = AtomicBool::new(false);
    let (done, reads) = std::thread::scope(|threads| {
        let (root, stop) = (&first.root, &stop);
        let write = |n: u64| threads.spawn(move || write_files(&root.join(format!("writer{n}")), n, stop));
        let writers: Vec<_> = (0..WRITERS).map(write).collect();
        let reader = threads.spawn(move || read_on(root, stop));
        until("a commit while they write", || rig.history("first").first().filter(|newest| **newest > 3).copied());
        fs::rename(rig.store(), rig.path("away")).expect("the store goes");
        let began = Instant::now();
        let refused = until("status tells that the store is gone", || {
            let (_, status) = rig.status("first");
            Some(status["status"]["store_trouble"].clone()).filter(|trouble| !trouble.is_null())
        });
        println!("gone: {refused}");
        std::thread::sleep(outage.saturating_sub(began.elapsed()));
        assert!(!rig.store().exists(), "something was written where the store was");
        fs::rename(rig.path("away"), rig.store()).expect("the store comes back");
        rig.flush("first");
        stop.store(true, Ordering::Relaxed);
        let done: Vec<Done> = writers.into_iter().map(|writer| writer.join().expect("a writer saw an error")).collect();
        (done, reader.join().expect("the reader saw an error"))
    });
    println!("{outage:?} without a store: {done:?}, {reads} rounds of reading");
    assert!(done.iter().any(|done| done.refused > 0), "the dirty limit was never reached");
    rig.flush("first");
    let commits = rig.history("first");
    commits.iter().take(12).for_each(|commit| check_order(&rig, *commit));
    first.kill();
    let second = rig.mount_with("second", |command| {
        command.arg("--take-over");
    });
    for (writer, done) in done.iter().enumerate() {
        for n in done.written.saturating_sub(KEPT)..done.written {
            let path = second.root.join(format!("writer{writer}/{n}"));
            assert!(fs::read(&path).expect("read") == content((writer as u64) << 32 | n, LENGTH), "{}", path.display());
        }
    }
    rig.unmount("second", second);
}
