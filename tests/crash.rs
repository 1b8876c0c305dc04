//! A real driver dies at every failpoint of the engine, under writers who must only feel a pause. Then everything they were told
//! succeeded is there: here, and on another machine that has the store and the key alone.
//!
//! `a_name_without_a_test` keeps the list complete. Needs root and /dev/fuse.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::disallowed_methods, reason = "tests against the real world")]

mod harness;
#[path = "crash/rig.rs"]
mod rig;
#[path = "crash/work.rs"]
mod work;

use harness::objects::objects;
use rig::{Mount, Rig};
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use work::Work;

/// What leads the driver to the place.
#[derive(Clone, Copy)]
enum Way {
    /// Ordinary writes and flushes.
    Writes,
    /// The same, but making the cache passes the place too: the first passages are let by.
    Batches,
    /// So much metadata that a checkpoint is due.
    Checkpoint,
    /// A cache too small for what is written.
    SmallCache,
    /// The first mount of a volume: nothing is mounted yet when it dies.
    FirstMount,
    /// A mount whose predecessor died whole, holder and driver.
    Recovery,
    /// A mount of the volume on a machine without its cache, and reading there what is in the store alone.
    Elsewhere,
}

/// Defines one test for each failpoint, and the list of all.
macro_rules! failpoints {
    ($($test:ident: $name:literal by $way:ident;)*) => {
        const VISITED: &[&str] = &[$($name),*];
        $(#[test] fn $test() { dies_at($name, Way::$way); })*
    };
}

failpoints! {
    cache_after_data_before_log: "cache.after_data_before_log" by Writes;
    cache_after_log_before_reply: "cache.after_log_before_reply" by Writes;
    cache_after_fdatasync_before_commit: "cache.after_fdatasync_before_commit" by Batches;
    cache_after_commit_before_trim: "cache.after_commit_before_trim" by Batches;
    cache_in_resolve: "cache.in_resolve" by Writes;
    cache_in_evict_before_log: "cache.in_evict_before_log" by SmallCache;
    cache_in_evict_before_punch: "cache.in_evict_before_punch" by SmallCache;
    cache_in_creation: "cache.in_creation" by FirstMount;
    cache_in_recovery: "cache.in_recovery" by Recovery;
    hydrate_after_load_before_finish: "hydrate.after_load_before_finish" by Elsewhere;
    hydrate_after_fetch_before_install: "hydrate.after_fetch_before_install" by Elsewhere;
    fuse_after_change_before_reply: "fuse.after_change_before_reply" by Writes;
    log_after_volume_before_name: "log.after_volume_before_name" by FirstMount;
    log_before_open: "log.before_open" by Recovery;
    log_before_the_first_open: "log.before_open" by FirstMount;
    log_after_the_first_open_before_read_back: "log.after_open_before_read_back" by FirstMount;
    hydrate_after_the_first_open_elsewhere: "log.after_open_before_read_back" by Elsewhere;
    log_after_open_before_read_back: "log.after_open_before_read_back" by Recovery;
    log_after_intent_before_put: "log.after_intent_before_put" by Writes;
    log_after_put_before_resolve: "log.after_put_before_resolve" by Writes;
    log_before_checkpoint_index: "log.before_checkpoint_index" by Checkpoint;
    writeback_after_seal: "writeback.after_seal" by Writes;
    writeback_after_pack_before_commit: "writeback.after_pack_before_commit" by Writes;
    writeback_after_durable_before_intent: "writeback.after_durable_before_intent" by Writes;
    writeback_after_intent_before_put: "writeback.after_intent_before_put" by Writes;
    writeback_after_put_before_resolve: "writeback.after_put_before_resolve" by Writes;
    writeback_after_resolve: "writeback.after_resolve" by Writes;
    writeback_after_parts_before_checkpoint: "writeback.after_parts_before_checkpoint" by Checkpoint;
    writeback_after_checkpoint: "writeback.after_checkpoint" by Checkpoint;
}

/// Places on the way of other commands: `tests/restore.rs` ends them there.
const COMMANDS: &[&str] = &[
    "log.before_control",
    "volume.restore_after_claim",
    "volume.restore_before_name",
    "volume.restore_after_name",
    "volume.turn_after_pins",
    "writeback.turn_after_packs",
    "volume.turn_after_close",
    "volume.asked_after_commit",
    "volume.asked_after_release",
    "history.after_purge_begun",
    "history.after_purge_done",
    "history.after_fence",
    "history.after_retire",
    "history.in_deletion",
];

/// On the way of a fenced driver's branch and of its end: `tests/branches.rs` ends them there.
const BRANCHES: &[&str] = &[
    "writeback.branch_after_claim",
    "writeback.branch_after_packs",
    "writeback.branch_after_head",
    "volume.branch_before_rename",
    "history.branch_after_retire",
    "history.branch_after_release",
];

/// The janitor's steps: `tests/history/steps.rs` ends it there, and the simulation (`tests/sim`) wherever it likes.
const JANITORS: &[&str] = &["log.before_marker", "log.after_marker_before_delete", "log.in_freeing", "history.after_release"];

/// On the way of a mount into its three hands: `tests/keeper.rs` suspends a driver there.
const HANDS: &[&str] = &["cli.after_mount_before_watch"];

#[test]
fn a_name_without_a_test() {
    let mut names = Vec::new();
    let mut pending = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(std::fs::read_dir(&path).expect("a directory").map(|entry| entry.expect("an entry").path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a source file");
        for part in text.split(".failpoint(\"").skip(1) {
            names.push(part.split('"').next().expect("a name").to_owned());
        }
    }
    names.extend(holdfast::writeback::protocol::FAILPOINTS.iter().map(|name| (*name).to_owned()));
    names.extend(holdfast::log::protocol::RULES.iter().filter_map(|rule| rule.failpoint).map(str::to_owned));
    let lists = || VISITED.iter().chain(COMMANDS).chain(BRANCHES).chain(JANITORS).chain(HANDS);
    let known = |name: &String| lists().any(|known| *known == name.as_str());
    let missing: Vec<&String> = names.iter().filter(|name| !known(name)).collect();
    assert!(missing.is_empty(), "no test visits {missing:?}");
    let gone: Vec<&&str> = lists().filter(|name| !names.iter().any(|known| known == **name)).collect();
    assert!(gone.is_empty(), "no source has {gone:?}");
}

/// Mounts with the failpoint armed for the first process that comes there.
fn arm(rig: &Rig, name: &'static str) -> impl FnOnce(&mut Command) + use<> {
    let once = rig.path("reached");
    move |command: &mut Command| {
        command.env("HOLDFAST_FAILPOINTS", name).env("HOLDFAST_FAILPOINTS_ONCE", once);
    }
}

fn dies_at(name: &'static str, way: Way) {
    let rig = Rig::new();
    if matches!(way, Way::Elsewhere) {
        return dies_elsewhere(&rig, name);
    }
    let reached = rig.path("reached");
    let mut work = Work::new(&rig.root("first"));
    let mount = match way {
        Way::Batches => rig.mount_with("first", |command| {
            arm(&rig, name)(command);
            command.env("HOLDFAST_FAILPOINTS", format!("{name}:8"));
        }),
        Way::Writes | Way::Checkpoint => rig.mount_with("first", arm(&rig, name)),
        Way::SmallCache => rig.mount_with("first", |command| {
            arm(&rig, name)(command);
            command.args(["--cache-size", "1MiB"]);
        }),
        // Whatever of log and cache is there by then, the next mount on this machine goes on without a person's word.
        Way::FirstMount => {
            rig.refused("first", arm(&rig, name));
            rig.mount("first")
        }
        Way::Recovery | Way::Elsewhere => recover(&rig, name, &mut work),
    };
    let mut turns = 0;
    while !reached.exists() {
        // Eviction comes once a second, whatever the turns.
        assert!(turns < if matches!(way, Way::SmallCache) { 20_000 } else { 400 }, "{name} was never reached\n{}", mount.said());
        work.turn();
        turns += 1;
        if matches!(way, Way::Checkpoint) && turns == 1 {
            work.attributes(160);
        }
        if turns % 10 == 0 {
            rig.flush("first");
        }
    }
    // They go on through the death of the driver and after it.
    (0..12).for_each(|_| work.turn());
    work.check("after the driver's death");
    survives(&rig, mount, work);
}

/// Written and flushed, the machine is lost, and the driver on the next one dies at the place: before it is mounted, or under readers.
fn dies_elsewhere(rig: &Rig, name: &'static str) {
    let mut work = Work::new(&rig.root("first"));
    let first = rig.mount("first");
    (0..16).for_each(|_| work.turn());
    rig.flush("first");
    first.kill();
    let armed = |command: &mut Command| {
        arm(rig, name)(command);
        command.arg("--take-over");
    };
    let mut command = rig.mount_command("second");
    armed(&mut command);
    // Bytes may be fetched ahead before it is mounted. Only the first who comes there dies; that it was this machine is known here by its
    // cache, and nowhere else.
    let second = rig.start("second", command).wait().unwrap_or_else(|_| {
        let refused = rig.refused("third", |_| {});
        assert_eq!(refused.code, 8, "{}", refused.said);
        rig.mount_with("second", arm(rig, name))
    });
    work.moved(&second.root);
    work.check("elsewhere");
    assert!(rig.path("reached").exists(), "{name} was never reached\n{}", second.said());
    (0..8).for_each(|_| work.turn());
    rig.flush("second");
    work.check("elsewhere, after more");
    rig.unmount("second", second);
}

/// Written, and killed with the holder: the next mount dies at the place, the one after it succeeds.
fn recover(rig: &Rig, name: &'static str, work: &mut Work) -> Mount {
    let mount = rig.mount("first");
    (0..8).for_each(|_| work.turn());
    rig.flush("first");
    (0..8).for_each(|_| work.turn());
    mount.kill();
    rig.refused("first", arm(rig, name));
    let mount = rig.mount("first");
    work.check("after two deaths");
    mount
}

/// Bytes of all packs in the store.
fn packed(rig: &Rig) -> u64 {
    objects(&rig.store(), "/packs/").iter().map(|pack| pack.metadata().expect("an object").len()).sum()
}

/// A large file is written and flushed; the driver dies at `name`, and what was uploaded by then is not uploaded again, though the file
/// is changed meanwhile. `whole`: the machine's processes all die, and the volume is mounted again.
fn goes_on_where_it_was(name: &'static str, whole: bool) {
    const SIZE: usize = 40 << 20;
    let rig = Rig::new();
    let policy = rig.path("policy");
    // The flush decides when it is sealed: one commit holds all.
    std::fs::write(&policy, "* continuous 1h\n").expect("a policy");
    let with_policy = |command: &mut Command| {
        command.arg("--policy").arg(&policy);
    };
    let mount = rig.mount_with("first", |command| {
        arm(&rig, name)(command);
        with_policy(command);
    });
    let mut bytes = rig::content(7, SIZE);
    std::fs::write(mount.root.join("large"), &bytes).expect("write");
    let mut flush = rig.prepare("first", &["flush", &mount.root.display().to_string()]).spawn().expect("holdfast starts");
    let began = std::time::Instant::now();
    while !rig.path("reached").exists() {
        assert!(began.elapsed() < rig::PATIENCE, "{name} was never reached\n{}", mount.said());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let _ = flush.wait();
    let mount = if whole {
        mount.kill();
        rig.mount_with("first", with_policy)
    } else {
        mount
    };
    let before = packed(&rig);
    assert!(before >= SIZE as u64, "{before} bytes were uploaded before the death");
    // One page in the middle: its frame is another now, all the others are the same.
    bytes[SIZE / 2..SIZE / 2 + 4096].fill(0xee);
    let file = File::options().write(true).open(mount.root.join("large")).expect("open");
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xee; 4096], SIZE as u64 / 2).expect("write");
    drop(file);
    rig.flush("first");
    let more = packed(&rig) - before;
    println!("{name}: {before} bytes of packs before the death, {more} after it");
    assert!(more < 1 << 20, "{more} bytes were uploaded again\n{}", mount.said());
    mount.kill();
    let second = rig.mount_with("second", |command| {
        command.arg("--take-over");
    });
    assert!(std::fs::read(second.root.join("large")).expect("read") == bytes, "another content elsewhere");
    rig.unmount("second", second);
}

#[test]
fn uploaded_and_not_committed_is_not_uploaded_again_by_a_successor() {
    goes_on_where_it_was("writeback.after_pack_before_commit", false);
}

#[test]
fn uploaded_and_not_committed_is_not_uploaded_again_by_the_next_mount() {
    goes_on_where_it_was("writeback.after_pack_before_commit", true);
}

#[test]
fn landed_and_not_known_to_have_is_not_uploaded_again() {
    goes_on_where_it_was("writeback.after_put_before_resolve", false);
}

/// Committed, everything killed, mounted elsewhere: the same tree; and the history is whole.
fn survives(rig: &Rig, mount: Mount, mut work: Work) {
    let commit = rig.flush("first");
    work.check("after the flush");
    mount.kill();
    let second = rig.mount_with("second", |command| {
        command.arg("--take-over");
    });
    work.moved(&second.root);
    work.check("elsewhere");
    work.turn();
    let newest = rig.flush("second");
    assert!(newest > commit, "{newest} after {commit}");
    work.check("elsewhere, after more");
    let history = rig.history("second");
    assert!(history.is_sorted_by(|newer, older| newer > older), "{history:?}");
    assert!(history.contains(&commit) && history.contains(&newest), "{commit} and {newest} in {history:?}");
    rig.unmount("second", second);
}
