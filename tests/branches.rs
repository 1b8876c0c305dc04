//! Two writers, real processes, one store: whoever is fenced loses nothing that was acknowledged. What it had not committed becomes a
//! branch, whatever dies on the way, and is got back from there byte for byte. Needs root and /dev/fuse.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::disallowed_methods, reason = "tests against the real world")]

#[path = "branches/deaths.rs"]
mod deaths;
#[path = "branches/ends.rs"]
mod ends;
mod harness;
#[path = "branches/holder.rs"]
mod holder;
#[path = "branches/partition.rs"]
mod partition;
#[path = "crash/rig.rs"]
mod rig;

use harness::command::said;
use harness::objects::reader;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rig::{Mount, PATIENCE, Rig, VOLUME, content};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// Nothing is committed but by `flush`.
fn slow(rig: &Rig) -> impl Fn(&mut Command) + use<> {
    let policy = rig.path("policy");
    fs::write(&policy, "* continuous 1h\n").expect("a policy");
    move |command: &mut Command| {
        command.arg("--policy").arg(&policy);
    }
}

fn take_over(command: &mut Command) {
    command.arg("--take-over");
}

fn synced(path: &Path, bytes: &[u8]) {
    let mut file = File::create(path).expect("create");
    file.write_all(bytes).and_then(|()| file.sync_all()).expect("fsync");
}

/// A commit with some files.
fn committed(rig: &Rig, machine: &str, root: &Path) {
    fs::create_dir(root.join("d")).expect("mkdir");
    fs::write(root.join("d/kept"), content(1, 200_000)).expect("write");
    fs::write(root.join("d/changed"), content(2, 200_000)).expect("write");
    fs::write(root.join("removed"), "of the commit").expect("write");
    rig.flush(machine);
}

/// What was acknowledged after it, seeded.
fn tail(root: &Path, seed: u64) {
    synced(&root.join("small"), format!("tail {seed}").as_bytes());
    synced(&root.join("d/large"), &content(seed, 3 << 20));
    let mut changed = fs::read(root.join("d/changed")).expect("read");
    changed[100_000..104_096].copy_from_slice(&content(seed + 1, 4096));
    let file = File::options().write(true).open(root.join("d/changed")).expect("open");
    std::os::unix::fs::FileExt::write_all_at(&file, &changed[100_000..104_096], 100_000).expect("write");
    file.sync_all().expect("fsync");
    fs::remove_file(root.join("removed")).expect("remove");
    fs::create_dir(root.join("new")).expect("mkdir");
    fs::hard_link(root.join("small"), root.join("new/link")).expect("link");
    File::open(root).and_then(|dir| dir.sync_all()).expect("fsync of the directory");
}

/// That a tree is the commit and the tail, and nothing else.
#[track_caller]
fn is_tail(root: &Path, seed: u64) {
    let read = |name: &str| fs::read(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(read("small"), format!("tail {seed}").as_bytes());
    assert_eq!(read("new/link"), format!("tail {seed}").as_bytes());
    assert!(read("d/large") == content(seed, 3 << 20), "d/large");
    assert!(read("d/kept") == content(1, 200_000), "d/kept");
    let mut changed = content(2, 200_000);
    changed[100_000..104_096].copy_from_slice(&content(seed + 1, 4096));
    assert!(read("d/changed") == changed, "d/changed");
    assert!(!root.join("removed").exists());
    let mut names: Vec<String> =
        fs::read_dir(root).expect("list").flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    assert_eq!(names, ["d", "new", "small"]);
}

/// The first machine's processes died with a tail, and the second has taken the volume over and committed.
fn lost(seed: u64) -> (Rig, Mount) {
    let rig = Rig::new();
    let first = rig.mount_with("first", slow(&rig));
    committed(&rig, "first", &first.root);
    tail(&first.root, seed);
    first.kill();
    let second = overtaken(&rig);
    (rig, second)
}

/// The second machine has taken the volume over, and committed.
fn overtaken(rig: &Rig) -> Mount {
    let second = rig.mount_with("second", take_over);
    synced(&second.root.join("other"), b"of the second");
    rig.flush("second");
    second
}

/// What differs, as `branch show` tells it.
const DIFFERENCES: [(&str, &str); 6] = [
    ("/d/changed", "changed"),
    ("/d/large", "added"),
    ("/new", "added"),
    ("/new/link", "added"),
    ("/removed", "removed"),
    ("/small", "added"),
];

/// A command on a machine that has the recovery key.
fn say(rig: &Rig, arguments: &[&str]) -> (i32, String) {
    let output = rig.prepare("desk", arguments).arg("--recovery-key").arg(rig.key()).output().expect("holdfast starts");
    (output.status.code().unwrap_or(-1), said(&output))
}

#[track_caller]
fn succeed(rig: &Rig, arguments: &[&str]) -> String {
    let (code, said) = say(rig, arguments);
    assert_eq!(code, 0, "{arguments:?}: {said}");
    said
}

#[track_caller]
fn json(rig: &Rig, arguments: &[&str]) -> serde_json::Value {
    let text = succeed(rig, &[arguments, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Number and state of each branch.
fn branches(rig: &Rig) -> Vec<(u64, String)> {
    let listed = json(rig, &["branch", "list", VOLUME]);
    let branch = |value: &serde_json::Value| (value["branch"].as_u64().unwrap_or(0), value["state"].as_str().unwrap_or("").to_owned());
    listed["branches"].as_array().expect("a list").iter().map(branch).collect()
}

#[track_caller]
fn until(what: &str, mount: Option<&Mount>, mut ask: impl FnMut() -> bool) {
    let began = Instant::now();
    while !ask() {
        assert!(began.elapsed() < PATIENCE, "never: {what}\n{}", mount.map(Mount::said).unwrap_or_default());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[track_caller]
fn until_safe(rig: &Rig, branch: u64, mount: Option<&Mount>) {
    until(&format!("branch {branch} is safe"), mount, || branches(rig).contains(&(branch, "safe".to_owned())));
}

/// `status` says that it is fenced, and where the rest is.
#[track_caller]
fn until_told(rig: &Rig, machine: &str, mount: &Mount) {
    until("status names the branch", Some(mount), || {
        let (code, status) = rig.status(machine);
        let why = status["why"].to_string();
        let told = why.contains("another writer") && why.contains("holdfast branch show");
        code == 20 && told && status["status"]["branches"][0]["state"] == "safe"
    });
}

/// Every way back from a branch gives exactly the tail.
#[track_caller]
fn gives_back(rig: &Rig, branch: u64, seed: u64) {
    let number = branch.to_string();
    let shown = json(rig, &["branch", "show", VOLUME, &number]);
    let differences: Vec<(&str, &str)> = shown["differences"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|difference| (difference["path"].as_str().unwrap_or(""), difference["change"].as_str().unwrap_or("")))
        .collect();
    assert_eq!(differences, DIFFERENCES, "{shown}");
    let copy = rig.path(&format!("copy-{branch}-{seed}"));
    succeed(rig, &["export", &format!("{VOLUME}:"), &copy.display().to_string(), "--branch", &number]);
    is_tail(&copy, seed);
    if rig.store().exists() {
        // Without this program, from the format alone.
        let read = rig.path(&format!("read-{branch}-{seed}"));
        let mut command = reader(&rig.store(), Some(&rig.key()), &["export", VOLUME, "--branch", &number]);
        crate::harness::command::succeed(command.arg(&read));
        is_tail(&read, seed);
    }
    let new = format!("test/of-branch-{branch}-{seed}");
    succeed(rig, &["branch", "restore", VOLUME, &number, "--to", &new]);
    let again = rig.path(&format!("restored-{branch}-{seed}"));
    succeed(rig, &["export", &format!("{new}:"), &again.display().to_string()]);
    is_tail(&again, seed);
}

/// Stops or continues holder and driver.
fn signal(mount: &Mount, signal: Signal) {
    for pid in mount.family() {
        kill(Pid::from_raw(i32::try_from(pid).expect("a process id")), signal).expect("signal");
    }
}

/// A fenced mount is taken away: it says that it is fenced, and where the rest is.
#[track_caller]
fn unmount_fenced(rig: &Rig, machine: &str, mount: Mount, branch: u64) {
    let output = rig.run(machine, &["unmount", &rig.root(machine).display().to_string()]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(said.contains(&format!("branch {branch}")), "{said}");
    mount.kill();
}

#[test]
fn stopped_taken_over_elsewhere_and_continued() {
    let rig = Rig::new();
    let first = rig.mount_with("first", slow(&rig));
    committed(&rig, "first", &first.root);
    tail(&first.root, 7);
    signal(&first, Signal::SIGSTOP);
    if harness::scale() > 1 {
        // Longer than whatever waits for an answer or for a connection.
        std::thread::sleep(std::time::Duration::from_secs(60));
    }
    let second = overtaken(&rig);
    assert_eq!(fs::read_to_string(second.root.join("removed")).expect("the commit"), "of the commit");
    signal(&first, Signal::SIGCONT);
    // It learns at its next commit.
    let output = rig.run("first", &["flush", &first.root.display().to_string()]);
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    until_safe(&rig, 1, Some(&first));
    assert_eq!(File::open(first.root.join("small")).and_then(|file| file.sync_all()).err().and_then(|e| e.raw_os_error()), Some(libc::EIO));
    assert_eq!(File::create(first.root.join("more")).err().and_then(|e| e.raw_os_error()), Some(libc::EROFS));
    until_told(&rig, "first", &first);
    first.says("branch stored");
    gives_back(&rig, 1, 7);
    unmount_fenced(&rig, "first", first, 1);
    // One history: the second's. The first comes back to it, and its old cache may go.
    rig.unmount("second", second);
    let first = rig.mount("first");
    assert_eq!(fs::read_to_string(first.root.join("other")).expect("read"), "of the second");
    assert!(!first.root.join("small").exists());
    until("the old cache may be deleted", Some(&first), || asides(&rig, ".stored-") == 1);
    assert_eq!(asides(&rig, ".aside-"), 0);
    rig.unmount("first", first);
    assert_eq!(branches(&rig), [(1, "safe".to_owned())]);
}

/// Caches of the first machine whose name has this in it.
fn asides(rig: &Rig, part: &str) -> usize {
    let entries = fs::read_dir(rig.cache("first")).expect("the caches");
    entries.flatten().filter(|entry| entry.file_name().to_string_lossy().contains(part)).count()
}

#[test]
fn each_takeover_leaves_a_branch() {
    let rig = Rig::new();
    let first = rig.mount_with("first", slow(&rig));
    committed(&rig, "first", &first.root);
    tail(&first.root, 21);
    let second = rig.mount_with("second", |command| {
        slow(&rig)(command);
        take_over(command);
    });
    tail(&second.root, 22);
    let third = rig.mount_with("third", take_over);
    synced(&third.root.join("of the third"), b"stays");
    rig.flush("third");
    for (machine, mount, branch) in [("first", first, 1), ("second", second, 2)] {
        let output = rig.run(machine, &["flush", &mount.root.display().to_string()]);
        assert!(!output.status.success(), "{}", said(&output));
        until_safe(&rig, branch, Some(&mount));
        unmount_fenced(&rig, machine, mount, branch);
    }
    gives_back(&rig, 1, 21);
    gives_back(&rig, 2, 22);
    assert_eq!(fs::read_to_string(third.root.join("of the third")).expect("read"), "stays");
    rig.unmount("third", third);
}

#[test]
fn dirty_cache_that_is_set_aside_at_mount() {
    let (rig, second) = lost(31);
    // Refused, and what was dirty is in the store by then: nobody knows when somebody comes here again.
    let refused = rig.refused("first", |_| {});
    assert_eq!(refused.code, 8, "{}", refused.said);
    assert!(refused.said.contains("what this machine had not committed is branch 1"), "{}", refused.said);
    gives_back(&rig, 1, 31);
    rig.unmount("second", second);
    let first = rig.mount("first");
    until("the old cache may be deleted", Some(&first), || asides(&rig, ".stored-") == 1);
    assert_eq!(fs::read_to_string(first.root.join("other")).expect("read"), "of the second");
    rig.unmount("first", first);
    assert_eq!(heads(&rig), 1, "the same branch is not stored twice");
}

/// Heads of branches in the store.
fn heads(rig: &Rig) -> usize {
    objects(rig, |name| name.contains("/branches/") && name.contains("/head"))
}

/// Objects of the store by name.
fn objects(rig: &Rig, wanted: impl Fn(&str) -> bool) -> usize {
    let (mut count, mut pending) = (0, vec![rig.store()]);
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => pending.push(path),
                path => count += usize::from(wanted(&path.display().to_string())),
            }
        }
    }
    count
}

#[test]
fn written_after_the_fence_comes_at_the_end_of_the_mount() {
    let rig = Rig::new();
    let first = rig.mount_with("first", slow(&rig));
    committed(&rig, "first", &first.root);
    tail(&first.root, 41);
    let mut open = File::create(first.root.join("open")).expect("create");
    open.write_all(b"before ").expect("write");
    let second = overtaken(&rig);
    assert!(!rig.run("first", &["flush", &first.root.display().to_string()]).status.success());
    until_safe(&rig, 1, Some(&first));
    // The kernel takes it: no WRITE is refused. Only fsync says that it is nobody's.
    open.write_all(b"and after").expect("write");
    assert_eq!(open.sync_all().err().and_then(|error| error.raw_os_error()), Some(libc::EIO));
    drop(open);
    unmount_fenced(&rig, "first", first, 1);
    assert_eq!(heads(&rig), 2);
    assert_eq!(succeed(&rig, &["cat", &format!("{VOLUME}:open"), "--branch", "1"]), "before and after");
    rig.unmount("second", second);
}

#[test]
fn branch_is_mounted_read_only() {
    let (rig, second) = lost(51);
    assert_eq!(rig.refused("first", |_| {}).code, 8);
    let root = rig.root("third");
    let mut command = rig.prepare("third", &["branch", "mount", VOLUME, "1"]);
    command.arg(&root).arg("--foreground").arg("--recovery-key").arg(rig.key());
    let shown = rig.start_at("third", &root, command).wait().unwrap_or_else(|refused| panic!("{refused:?}"));
    is_tail(&shown.root, 51);
    assert_eq!(File::create(shown.root.join("x")).err().and_then(|error| error.raw_os_error()), Some(libc::EROFS));
    rig.unmount("third", shown);
    rig.unmount("second", second);
}
