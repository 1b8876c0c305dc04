//! A mount is in three hands: its driver, its supervisor, the machine's keeper. Any of them may die, by kill -9, and be brought back by
//! another; two may die at once; the program may be replaced under it. Applications feel a pause and no error. Needs root and /dev/fuse.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "tests against the real world"
)]

mod harness;
#[path = "crash/rig.rs"]
mod rig;

use harness::process::{kill, wait_until_gone};
use holdfast::keeper::wire::Standing;
use holdfast::keeper::{Holding, Line};
use rig::{PATIENCE, Rig, VOLUME, mounted};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tempfile::TempDir;

#[path = "keeper/key.rs"]
mod key;
#[path = "keeper/readers.rs"]
mod readers;
#[path = "keeper/show.rs"]
mod show;
#[path = "keeper/silent.rs"]
mod silent;

/// A volume mounted in the background, as a person does it.
pub(crate) struct Kept {
    rig: Rig,
}

impl Kept {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(add: impl FnOnce(&mut Command)) -> Self {
        let kept = Self { rig: Rig::new() };
        let mut command = kept.mount_command();
        add(&mut command);
        harness::command::succeed(&mut command);
        kept
    }

    fn mount_command(&self) -> Command {
        let mut command = self.rig.prepare("first", &["mount", VOLUME]);
        command.arg(self.root()).arg("--cache").arg(self.rig.cache("first")).arg("--recovery-key").arg(self.rig.key());
        // Deaths are many here; what they lead to has a test of its own.
        command.env("HOLDFAST_CALM", "0s");
        command
    }

    fn root(&self) -> PathBuf {
        self.rig.root("first")
    }

    fn run_dir(&self) -> PathBuf {
        self.rig.path("first").join("run")
    }

    fn log(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.run_dir().join(name)).unwrap_or_default();
        format!("{}\n{}", read(&format!("{}.log", VOLUME.replace('/', "~"))), read("keeper.log"))
    }

    fn holding(&self) -> Option<Holding> {
        Line::connect(&self.run_dir()).ok()??.list().ok()
    }

    /// Waits until the keeper's word about the mount is such.
    #[track_caller]
    fn until(&self, what: &str, mut so: impl FnMut(u32, &Standing) -> bool) -> (u32, Standing) {
        let began = Instant::now();
        loop {
            if let Some(Holding { process, mounts }) = self.holding()
                && let Some(standing) = mounts.into_iter().next()
                && so(process, &standing)
            {
                return (process, standing);
            }
            assert!(began.elapsed() < PATIENCE, "never: {what}; {:?}\n{}", self.holding(), self.log());
            std::thread::yield_now();
        }
    }

    /// Keeper, supervisor and driver.
    #[track_caller]
    fn three(&self) -> [u32; 3] {
        let (keeper, standing) = self.until("in three hands", |_, mount| mount.attendant != 0 && mount.driver != 0);
        [keeper, standing.attendant, standing.driver]
    }

    /// Kills these and waits until all three are there, none of those.
    fn lose(&self, dead: &[u32]) -> [u32; 3] {
        dead.iter().for_each(|pid| kill(*pid));
        dead.iter().for_each(|pid| wait_until_gone(*pid));
        self.replaced(dead)
    }

    /// Waits until all three are there, none of those.
    fn replaced(&self, dead: &[u32]) -> [u32; 3] {
        let (keeper, standing) = self.until("another in their place", |keeper, mount| {
            let now = [keeper, mount.attendant, mount.driver];
            now.iter().all(|pid| *pid != 0 && !dead.contains(pid))
        });
        // And it answers: a name that the kernel has not been told of yet.
        let asked = fs::metadata(self.root().join(format!("no such name {dead:?}")));
        assert_eq!(asked.unwrap_err().raw_os_error(), Some(libc::ENOENT));
        [keeper, standing.attendant, standing.driver]
    }

    /// Operations that are not idempotent, and their results, until `work` has ended: an error or a wrong byte panics.
    fn under_load(&self, work: impl FnOnce()) {
        let (root, stop) = (self.root(), AtomicBool::new(false));
        let mut log = File::options().append(true).create(true).open(root.join("log")).unwrap();
        let before = log.metadata().unwrap().len();
        let rounds = std::thread::scope(|scope| {
            let names = scope.spawn(|| until_stopped(&stop, |n| probe(&root, n)));
            let appended = scope.spawn(|| {
                let writes = until_stopped(&stop, |n| {
                    log.write_all(&n.to_le_bytes()).unwrap();
                    if n % 8 == 0 {
                        log.sync_data().unwrap();
                    }
                });
                let bytes = fs::read(root.join("log")).unwrap();
                let mine = &bytes[before as usize..];
                assert_eq!(mine.len() as u64, writes * 8);
                assert!(mine.chunks_exact(8).enumerate().all(|(n, word)| word == (n as u64).to_le_bytes()));
                writes
            });
            // Also when it panics: the writers would go on for ever.
            let stopped = Stop(&stop);
            work();
            drop(stopped);
            (names.join().unwrap(), appended.join().unwrap())
        });
        assert!(rounds.0 > 0 && rounds.1 > 0);
    }

    fn status(&self) -> (i32, serde_json::Value) {
        self.rig.status("first")
    }

    #[track_caller]
    fn unmount(&self) {
        self.rig.succeed("first", &["unmount", &self.root().display().to_string()]);
        assert!(!mounted(&self.root()));
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.log());
        }
        if mounted(&self.root()) {
            let _ = holdfast::fuse::abort(&self.root());
        }
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn until_stopped(stop: &AtomicBool, mut round: impl FnMut(u64)) -> u64 {
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        round(n);
        n += 1;
    }
    n
}

fn probe(dir: &Path, n: u64) {
    let (one, two, sub) = (dir.join(format!("f{}", n % 16)), dir.join(format!("g{}", n % 16)), dir.join(format!("d{}", n % 16)));
    fs::write(&one, n.to_string()).unwrap();
    fs::rename(&one, &two).unwrap();
    fs::hard_link(&two, &one).unwrap();
    fs::remove_file(&two).unwrap();
    fs::create_dir(&sub).unwrap();
    std::os::unix::fs::symlink("x", sub.join("link")).unwrap();
    fs::remove_file(sub.join("link")).unwrap();
    fs::remove_dir(&sub).unwrap();
    assert_eq!(fs::read_to_string(&one).unwrap(), n.to_string());
    fs::remove_file(&one).unwrap();
}

#[test]
fn whoever_dies_is_brought_back_by_the_others() {
    let kept = Kept::new();
    let first = kept.three();
    kept.under_load(|| {
        let [keeper, supervisor, _] = kept.lose(&first[2..]);
        assert_eq!([keeper, supervisor], first[..2], "a driver is its supervisor's business");
        let [after, _, _] = kept.lose(&[supervisor]);
        assert_eq!(after, keeper);
        let now = kept.lose(&[keeper]);
        let now = kept.lose(&now[1..]);
        let now = kept.lose(&now[..2]);
        let now = kept.lose(&now[2..]);
        // Driver and keeper, one after the other, as the OOM killer might.
        let now = kept.lose(&now[2..]);
        kept.lose(&now[..1]);
    });
    let (code, status) = kept.status();
    assert_eq!((code, status["keeper"].as_u64()), (0, Some(u64::from(kept.three()[0]))), "{status}");
    kept.unmount();
    // Nothing is left: no driver, no supervisor, and a keeper that holds nothing.
    assert!(kept.holding().is_none_or(|holding| holding.mounts.is_empty()));
}

/// A mount whose driver serves, and has not said so to anybody yet; it goes on when the file is removed.
fn held_before_it_watches() -> (Kept, TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let held = dir.path().join("held");
    let kept = Kept::with(|command| {
        command.env("HOLDFAST_FAILPOINTS", "cli.after_mount_before_watch:1:wait").env("HOLDFAST_FAILPOINTS_ONCE", &held);
    });
    let began = Instant::now();
    while !held.exists() {
        assert!(began.elapsed() < PATIENCE, "never held\n{}", kept.log());
        std::thread::yield_now();
    }
    (kept, dir, held)
}

#[test]
fn keeper_and_supervisor_die_before_a_new_driver_watches() {
    let (kept, _dir, held) = held_before_it_watches();
    let [keeper, supervisor, driver] = kept.three();
    [keeper, supervisor].into_iter().for_each(kill);
    [keeper, supervisor].into_iter().for_each(wait_until_gone);
    fs::remove_file(held).unwrap();
    // Nobody but that driver has the mount now, and its parent is gone already.
    let first = kept.replaced(&[keeper, supervisor, driver]);
    kept.under_load(|| _ = kept.lose(&first[2..]));
    kept.unmount();
}

#[test]
fn unmount_right_after_mount_is_not_too_early() {
    let (kept, _dir, held) = held_before_it_watches();
    let root = kept.root();
    std::thread::scope(|scope| {
        let unmounted = scope.spawn(|| kept.rig.run("first", &["unmount", &root.display().to_string()]));
        // Time for it to be refused: the driver answers these meanwhile.
        for _ in 0..20 {
            let (_, status) = kept.status();
            assert_eq!(status["status"]["phase"], "opening", "{status}");
        }
        fs::remove_file(held).unwrap();
        let unmounted = unmounted.join().unwrap();
        assert!(unmounted.status.success(), "{}", harness::command::said(&unmounted));
    });
    assert!(!mounted(&root));
}

/// A program that is this version, or says that it is the next.
fn version(kept: &Kept, name: &str, environment: &str) -> String {
    let path = kept.rig.path(name);
    fs::write(&path, format!("#!/bin/sh\n{environment} exec {} \"$@\"\n", env!("CARGO_BIN_EXE_holdfast"))).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[test]
fn upgraded_there_and_back_under_a_live_mount() {
    let kept = Kept::new();
    let (next, back) = (version(&kept, "next", "HOLDFAST_PRETEND_NEXT=1"), version(&kept, "back", "unset HOLDFAST_PRETEND_NEXT;"));
    let root = kept.root().display().to_string();
    let first = kept.three();
    kept.under_load(|| {
        let upgraded = |arguments: &[&str]| {
            let said = kept.rig.succeed("first", &[&["upgrade", "--json"], arguments].concat());
            let said: serde_json::Value = serde_json::from_str(&said).unwrap();
            (said[0]["from"].as_str().unwrap().to_owned(), said[0]["to"].as_str().unwrap().to_owned())
        };
        let (old, new) = upgraded(&[&root, "--to", &next]);
        assert_eq!(new, format!("{old}+next"));
        let [_, supervisor, driver] = kept.three();
        assert_eq!(supervisor, first[1], "who watches its process sees no end");
        assert_ne!(driver, first[2]);
        assert_eq!(upgraded(&[&root, "--to", &back]), (new, old.clone()));
        // All of them, and the keeper.
        assert_eq!(upgraded(&["--all"]), (old.clone(), old));
        kept.until("another keeper", |keeper, mount| keeper != first[0] && mount.attendant == first[1]);
    });
    // A program that does not go on with the cache is refused before anything is ended.
    let before = kept.three();
    let no = kept.rig.path("no");
    fs::write(&no, "#!/bin/sh\necho 'holdfast: no such schema' >&2; exit 6\n").unwrap();
    fs::set_permissions(&no, fs::Permissions::from_mode(0o755)).unwrap();
    let refused = kept.rig.run("first", &["upgrade", &root, "--to", &no.display().to_string()]);
    assert_eq!(refused.status.code(), Some(13));
    assert!(harness::command::said(&refused).contains("nothing has changed: holdfast: no such schema"));
    assert_eq!(kept.three(), before);
    kept.unmount();
}

#[test]
fn a_volume_that_crashes_its_driver_is_quarantined_and_let_out() {
    let kept = Kept::with(|command| {
        command.env("HOLDFAST_CALM", "3600s");
    });
    fs::write(kept.root().join("before"), "here").unwrap();
    let open = File::options().append(true).create(true).open(kept.root().join("open")).unwrap();
    let now = kept.lose(&kept.three()[2..]);
    kept.lose(&now[2..]);
    let refused = |result: std::io::Result<()>| assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS));
    refused(fs::write(kept.root().join("new"), "x"));
    refused(fs::rename(kept.root().join("before"), kept.root().join("after")));
    refused(fs::remove_file(kept.root().join("before")));
    refused(fs::set_permissions(kept.root().join("before"), fs::Permissions::from_mode(0o600)));
    assert_eq!(fs::read_to_string(kept.root().join("before")).unwrap(), "here");
    // What was acknowledged, or may be by a file that was open already, is never refused.
    (&open).write_all(b"late").unwrap();
    open.sync_all().unwrap();
    drop(open);
    let (code, status) = kept.status();
    assert_eq!((code, status["status"]["quarantined"].as_bool()), (20, Some(true)), "{status}");
    assert!(status["why"].as_str().unwrap().contains("in quarantine, read-only"), "{status}");
    // It dies once more: nobody serves, and a person is told.
    let third = kept.three()[2];
    kill(third);
    kept.until("nobody serves", |_, mount| mount.driver == 0 && mount.note.starts_with(b"its driver died in quarantine"));
    let (code, status) = kept.status();
    let why = status["why"].as_str().unwrap();
    assert!(code == 20 && why.contains("died in quarantine too") && why.contains("holdfast abort"), "{status}");
    // The way out: the holder goes on anew, the volume is as it was.
    kept.rig.succeed("first", &["upgrade", &kept.root().display().to_string()]);
    kept.until("served again", |_, mount| mount.driver != 0 && mount.driver != third);
    fs::write(kept.root().join("new"), "x").unwrap();
    assert_eq!(fs::read_to_string(kept.root().join("open")).unwrap(), "late");
    assert!(kept.status().1["status"]["quarantined"].is_null());
    kept.unmount();
}

#[test]
fn a_mount_that_nobody_serves_is_given_up_by_a_person() {
    // In the foreground the next is started by whoever started the first: here, nobody.
    let rig = Rig::new();
    let mut command = rig.mount_command("first");
    let mut holder = command.spawn().unwrap();
    let kept = Kept { rig };
    let three = kept.three();
    kill(three[1]);
    holder.wait().unwrap();
    kill(three[2]);
    wait_until_gone(three[2]);
    let (_, standing) = kept.until("nobody attends it", |_, mount| mount.attendant == 0);
    assert_eq!(standing.starts, 0);
    let root = kept.root().display().to_string();
    let (code, status) = kept.status();
    assert!(code == 20 && status["why"].as_str().unwrap().contains("no driver has served the mount"), "{status}");
    let waiting = {
        let root = kept.root();
        std::thread::spawn(move || fs::metadata(root.join("a")).map(drop).map_err(|error| error.raw_os_error()))
    };
    // A person starts the unit again: it is the successor, and nothing was lost.
    let mut holder = command.spawn().unwrap();
    assert_eq!(waiting.join().unwrap(), Err(Some(libc::ENOENT)));
    let refused = kept.rig.run("first", &["abort", &root]);
    assert_eq!(refused.status.code(), Some(8), "served: {}", harness::command::said(&refused));
    let again = kept.three();
    kill(again[1]);
    holder.wait().unwrap();
    kill(again[2]);
    kept.until("nobody attends it", |_, mount| mount.attendant == 0);
    wait_until_gone(again[2]);
    let waiting = {
        let root = kept.root();
        std::thread::spawn(move || fs::metadata(root.join("b")).is_err())
    };
    kept.rig.succeed("first", &["abort", &root]);
    assert!(waiting.join().unwrap() && !mounted(&kept.root()));
}

#[test]
fn without_its_program_a_mount_says_so_and_goes_on() {
    let rig = Rig::new();
    let alone = rig.path("alone");
    fs::create_dir(&alone).unwrap();
    let program = alone.join("holdfast");
    fs::copy(env!("CARGO_BIN_EXE_holdfast"), &program).unwrap();
    let kept = Kept { rig };
    let with = |extra: &[&str]| {
        let from = kept.mount_command();
        let mut command = Command::new(&program);
        command.args(from.get_args()).args(extra).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        for (name, value) in from.get_envs() {
            command.env(name, value.unwrap());
        }
        command.output().unwrap()
    };
    for (extra, warned) in [(vec![], true), (vec!["--no-keeper"], false)] {
        let output = with(&extra);
        let said = harness::command::said(&output);
        assert!(output.status.success(), "{said}");
        assert_eq!(said.contains("no keeper, so this mount ends should its own two processes die at once"), warned, "{said}");
        let status = kept.status().1;
        assert!(status["keeper"].is_null(), "{status}");
        kill(u32::try_from(status["status"]["pid"].as_u64().unwrap()).unwrap());
        fs::write(kept.root().join("after"), "a pause").unwrap();
        let refused = kept.rig.run("first", &["upgrade", &kept.root().display().to_string()]);
        assert_eq!(refused.status.code(), Some(13), "{}", harness::command::said(&refused));
        kept.unmount();
    }
}
