//! The tier `strict` through the kernel: what an fsync acknowledged is in the store. Machines are lost whole (processes and cache), the
//! store stops to answer, drivers die while somebody waits. Needs root and /dev/fuse.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::disallowed_methods, reason = "tests against the real world")]

mod harness;
#[path = "crash/rig.rs"]
mod rig;

use harness::s3::S3Server;
use rig::{Mount, PATIENCE, Rig, content};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

/// Nothing of the other tiers is committed in time.
const POLICY: &str = "/books/ strict\n/tmp/*.db strict\n/tmp/ local\n* continuous 1h\n";

fn under(rig: &Rig, policy: &str) -> impl Fn(&mut Command) + use<> {
    let file = rig.path("policy");
    fs::write(&file, policy).expect("a policy");
    move |command: &mut Command| {
        command.arg("--take-over").arg("--policy").arg(&file);
    }
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Writes and fsyncs a new file by the flags of its open alone.
fn write_with(path: &Path, flags: i32, bytes: &[u8]) {
    let mut file = OpenOptions::new().create(true).append(true).custom_flags(flags).open(path).expect("open");
    file.write_all(bytes).expect("write");
    // The descriptor stays open: a close is no part of the promise.
    std::mem::forget(file);
}

/// One way to have something acknowledged in the strict tier, and what must be found afterwards.
struct Step {
    what: &'static str,
    act: fn(&Path),
    found: fn(&Path) -> bool,
}

fn has(path: &Path, bytes: &[u8]) -> bool {
    fs::read(path).is_ok_and(|read| read == bytes)
}

const STEPS: &[Step] = &[
    Step {
        what: "fsync",
        act: |root| {
            fs::create_dir(root.join("books")).expect("mkdir");
            fs::write(root.join("books/a"), content(1, 300_000)).and_then(|()| sync(&root.join("books/a"))).expect("fsync");
        },
        found: |root| has(&root.join("books/a"), &content(1, 300_000)),
    },
    Step {
        what: "fdatasync of an overwrite",
        act: |root| {
            let file = OpenOptions::new().write(true).open(root.join("books/a")).expect("open");
            file.write_all_at(b"changed", 100_000).and_then(|()| file.sync_data()).expect("fdatasync");
        },
        found: |root| {
            let mut want = content(1, 300_000);
            want[100_000..100_007].copy_from_slice(b"changed");
            has(&root.join("books/a"), &want)
        },
    },
    Step {
        what: "O_SYNC",
        act: |root| write_with(&root.join("books/o_sync"), libc::O_SYNC, b"by its flag"),
        found: |root| has(&root.join("books/o_sync"), b"by its flag"),
    },
    Step {
        what: "O_DSYNC",
        act: |root| write_with(&root.join("books/o_dsync"), libc::O_DSYNC, b"by its flag"),
        found: |root| has(&root.join("books/o_dsync"), b"by its flag"),
    },
    Step {
        what: "fsync of the directory",
        act: |root| {
            fs::create_dir(root.join("books/deep")).and_then(|()| sync(&root.join("books"))).expect("fsync");
            fs::remove_file(root.join("books/o_sync")).and_then(|()| sync(&root.join("books"))).expect("fsync");
        },
        found: |root| root.join("books/deep").is_dir() && !root.join("books/o_sync").exists(),
    },
    Step {
        what: "rename into the tier, fsync of the directory",
        act: |root| {
            fs::write(root.join("new"), b"came in").and_then(|()| sync(&root.join("new"))).expect("fsync");
            fs::rename(root.join("new"), root.join("books/moved")).and_then(|()| sync(&root.join("books"))).expect("fsync");
        },
        found: |root| has(&root.join("books/moved"), b"came in") && !root.join("new").exists(),
    },
    Step {
        what: "rename out of the tier, fsync of the directory it left",
        act: |root| {
            fs::rename(root.join("books/moved"), root.join("out")).and_then(|()| sync(&root.join("books"))).expect("fsync");
        },
        found: |root| has(&root.join("out"), b"came in") && !root.join("books/moved").exists(),
    },
    Step {
        what: "rename of a directory into the tier's name",
        act: |root| {
            fs::rename(root.join("books"), root.join("shelf")).and_then(|()| sync(root)).expect("fsync");
            fs::rename(root.join("shelf"), root.join("books")).and_then(|()| sync(root)).expect("fsync");
            fs::write(root.join("books/a"), b"short").and_then(|()| sync(&root.join("books/a"))).expect("fsync");
        },
        found: |root| has(&root.join("books/a"), b"short") && !root.join("shelf").exists(),
    },
    Step {
        what: "fsync by the name that is not strict",
        act: |root| {
            fs::hard_link(root.join("books/a"), root.join("link")).expect("link");
            fs::write(root.join("link"), b"by its other name").and_then(|()| sync(&root.join("link"))).expect("fsync");
        },
        found: |root| has(&root.join("books/a"), b"by its other name"),
    },
    Step {
        what: "strict in a local directory",
        act: |root| {
            fs::create_dir(root.join("tmp")).expect("mkdir");
            fs::write(root.join("tmp/scratch"), b"of nobody").expect("write");
            fs::write(root.join("tmp/x.db"), b"kept").and_then(|()| sync(&root.join("tmp/x.db"))).expect("fsync");
        },
        found: |root| has(&root.join("tmp/x.db"), b"kept") && !root.join("tmp/scratch").exists(),
    },
];

/// > **S18.** In the tier `strict`, what `fsync`, `fdatasync`, an `O_SYNC` or `O_DSYNC` write, or an `fsync` of the directory reported as
/// > done is in a commit: it survives the loss of the machine with its cache, a rename into the tier or out of it too.
///
/// Each step is the last thing before its machine is lost: no later commit can hide that it was acknowledged too early.
fn acknowledged_survives(rig: &Rig) {
    let policy = under(rig, POLICY);
    let mut mount = rig.mount_with("m0", &policy);
    for (number, Step { what, act, found }) in STEPS.iter().enumerate() {
        act(&mount.root);
        mount.kill();
        fs::remove_dir_all(rig.path(&format!("m{number}"))).expect("the machine goes");
        mount = rig.mount_with(&format!("m{}", number + 1), &policy);
        assert!(found(&mount.root), "{what}: acknowledged and lost");
    }
    rig.unmount(&format!("m{}", STEPS.len()), mount);
}

#[test]
fn acknowledged_survives_the_loss_of_the_machine() {
    acknowledged_survives(&Rig::new());
}

#[test]
fn acknowledged_survives_the_loss_of_the_machine_on_s3() {
    let server = S3Server::start();
    acknowledged_survives(&Rig::on(server.url("strict")));
}

fn all_answered(results: &Receiver<io::Result<()>>, count: usize) {
    (0..count).for_each(|_| results.recv().expect("a result").expect("fsync"));
}

/// Whether each of so many strict files has what was waited for.
fn all_there(root: &Path, count: usize) -> bool {
    names(count).iter().all(|name| has(&root.join(name), b"waited for"))
}

/// Threads that each write a strict file and fsync it, and are all in that call now.
fn waiters(root: &Path, names: &[String]) -> Receiver<io::Result<()>> {
    let (done, results) = channel();
    let mut threads = Vec::new();
    for name in names {
        let (done, path, (say, tid)) = (done.clone(), root.join(name), channel());
        std::thread::spawn(move || {
            let file = File::create(&path).expect("create");
            file.write_all_at(b"waited for", 0).expect("write");
            // SAFETY: takes nothing, returns a number.
            say.send(unsafe { libc::gettid() }).expect("the test waits");
            let synced = file.sync_all();
            drop(done.send(synced));
        });
        threads.push(tid.recv().expect("a thread"));
    }
    for thread in threads {
        until("every thread is in its fsync", || {
            let call = fs::read_to_string(format!("/proc/self/task/{thread}/syscall")).unwrap_or_default();
            call.split(' ').next() == Some(&libc::SYS_fsync.to_string())
        });
    }
    results
}

#[track_caller]
fn until(what: &str, mut ask: impl FnMut() -> bool) {
    let began = Instant::now();
    while !ask() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("books/{n}")).collect()
}

/// A mount with `/books/` strict, on a server that can be frozen.
fn on_a_server(policy: &str) -> (Rig, S3Server, Mount) {
    let server = S3Server::start();
    let rig = Rig::on(server.url("strict"));
    let mount = rig.mount_with("first", under(&rig, policy));
    fs::create_dir(mount.root.join("books")).and_then(|()| sync(&mount.root.join("books"))).expect("mkdir");
    (rig, server, mount)
}

/// On another machine, as the first one is gone.
fn elsewhere(rig: &Rig, mount: Mount, policy: &str) -> Mount {
    mount.kill();
    fs::remove_dir_all(rig.path("first")).expect("the machine goes");
    rig.mount_with("second", under(rig, policy))
}

#[test]
fn fifty_waiters_share_commits_and_nobody_else_waits() {
    let (rig, server, mount) = on_a_server(POLICY);
    let before = rig.history("first").len();
    server.freeze(true);
    let results = waiters(&mount.root, &names(50));
    // Of another tier: durable here, at once.
    fs::write(mount.root.join("other"), "of this machine").and_then(|()| sync(&mount.root.join("other"))).expect("fsync");
    assert!(results.try_recv().is_err(), "acknowledged, and the store has not answered");
    server.freeze(false);
    all_answered(&results, 50);
    let commits = rig.history("first").len() - before;
    println!("{commits} commits for 50 fsyncs");
    assert!(commits <= 4, "{commits} commits for 50 fsyncs at once");
    let mount = elsewhere(&rig, mount, POLICY);
    assert!(all_there(&mount.root, 50));
    rig.unmount("second", mount);
}

/// > **S19.** When the store does not take it within the tier's `wait`, such an `fsync` fails with EIO; what was written can be read here as
/// > before, and is committed when the store is back.
#[test]
fn store_gone_is_eio_after_the_wait_and_committed_later() {
    let policy = "/books/ strict wait=1s\n* continuous 1h\n";
    let (rig, server, mount) = on_a_server(policy);
    server.freeze(true);
    let results = waiters(&mount.root, &names(3));
    for _ in 0..3 {
        let error = results.recv().expect("a result").expect_err("the store is gone");
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }
    assert!(mount.said().contains("no commit within 1s"), "{}", mount.said());
    assert!(has(&mount.root.join("books/0"), b"waited for"));
    server.freeze(false);
    // Nobody asks for it any more.
    until("everything is committed", || rig.status("first").1["safe"] == true);
    let mount = elsewhere(&rig, mount, policy);
    assert!(all_there(&mount.root, 3));
    rig.unmount("second", mount);
}

/// > **S20.** Such an `fsync` that waits while the driver is killed is answered by the next driver, after the commit.
#[test]
fn driver_killed_while_somebody_waits() {
    let (rig, server, mount) = on_a_server(POLICY);
    server.freeze(true);
    let results = waiters(&mount.root, &names(5));
    mount.kill_driver();
    // The successor has the requests again, and no log yet.
    until("a new driver answers", || has(&mount.root.join("books/0"), b"waited for"));
    assert!(results.try_recv().is_err(), "acknowledged, and the store has not answered");
    server.freeze(false);
    all_answered(&results, 5);
    let mount = elsewhere(&rig, mount, POLICY);
    assert!(all_there(&mount.root, 5));
    rig.unmount("second", mount);
}

#[test]
fn mount_that_is_taken_away_answers_its_waiters_first() {
    let (rig, server, mount) = on_a_server(POLICY);
    server.freeze(true);
    let results = waiters(&mount.root, &names(5));
    let lazily = Command::new("umount").arg("-l").arg(&mount.root).status().expect("umount starts");
    assert!(lazily.success());
    server.freeze(false);
    all_answered(&results, 5);
    // Its last user is gone: it drains and ends.
    let mut mount = mount;
    until("the driver ends", || mount.ended() == Some(0));
    fs::remove_dir_all(rig.path("first")).expect("the machine goes");
    let second = rig.mount("second");
    assert!(all_there(&second.root, 5));
    rig.unmount("second", second);
}

#[test]
fn fenced_mount_says_eio_at_once() {
    let rig = Rig::new();
    let policy = "/books/ strict wait=1h\n* continuous 1h\n";
    let first = rig.mount_with("first", under(&rig, policy));
    fs::create_dir(first.root.join("books")).expect("mkdir");
    fs::write(first.root.join("books/a"), b"of the first").and_then(|()| sync(&first.root.join("books/a"))).expect("fsync");
    let second = rig.mount_with("second", under(&rig, policy));
    let file = OpenOptions::new().write(true).open(first.root.join("books/a")).expect("open");
    // It learns of the fence by this very commit, and the next one asks nobody.
    for _ in 0..2 {
        file.write_all_at(b"too late", 0).expect("write");
        assert_eq!(file.sync_all().expect_err("fenced").raw_os_error(), Some(libc::EIO));
    }
    assert!(has(&second.root.join("books/a"), b"of the first"));
    drop(file);
    rig.unmount("second", second);
    first.kill();
}
