//! `kill -9` of the driver under load is a pause: a second holder keeps the mount, and starts a successor that takes it over.
//!
//! The holder and the drivers are this test binary again, told by the environment to be one.

use super::open_volume;
use holdfast::env::Env;
use holdfast::fuse::{HoldOptions, Holder, Mount, MountOptions, hold};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};

const BASE: &str = "HOLDFAST_TEST_BASE";
const READY: &str = "HOLDFAST_TEST_READY";
const CALM: &str = "HOLDFAST_TEST_CALM";

fn base() -> Option<PathBuf> {
    std::env::var_os(BASE).map(PathBuf::from)
}

// Not a test: the holder's process.
#[test]
#[ignore = "run by the tests of takeover as a process of its own"]
fn holder_process() {
    let Some(base) = base() else { return };
    let ready = std::env::var(READY).unwrap().parse().unwrap();
    // SAFETY: the parent has made this descriptor for us.
    let ready = unsafe { fs::File::from_raw_fd(ready) };
    let calm = std::time::Duration::from_secs(std::env::var(CALM).unwrap().parse().unwrap());
    let command = std::env::current_exe().unwrap();
    let command = [command.into_os_string(), "takeover::driver_process".into(), "--exact".into(), "--ignored".into(), "--nocapture".into()];
    let options =
        HoldOptions { socket: base.join("holder"), command: command.to_vec(), needs: Vec::new(), ready: Some(ready), calm, custody: None };
    let code = hold(&Env::real(), options).unwrap();
    std::process::exit(code);
}

// Not a test: the driver's process.
#[test]
#[ignore = "run by the tests of takeover as a process of its own"]
fn driver_process() {
    let Some(base) = base() else { return };
    let holder = Holder::from_environment().unwrap();
    fs::write(base.join("driver.next"), std::process::id().to_string()).unwrap();
    fs::rename(base.join("driver.next"), base.join("driver")).unwrap();
    let held = holder.take().unwrap();
    if held.is_some() {
        // What killed the one before shall not kill this one.
        // SAFETY: nobody else reads the environment now.
        unsafe { std::env::remove_var("HOLDFAST_FAILPOINTS") };
    }
    let posix = open_volume(&base, held.is_some());
    let options = MountOptions::new(base.join("mnt"), "test/takeover");
    let mount = match held {
        Some(held) => Mount::resume(&Env::real(), &posix, &options, &held).unwrap(),
        None => Mount::start(&Env::real(), &posix, &options, Some(&holder)).unwrap(),
    };
    // As before each cut, and more often: a driver that is killed while it has the kernel's pages brought in must end too.
    let (pages, ended) = (mount.kernel_pages(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                pages.bring_in();
                std::thread::park_timeout(std::time::Duration::from_millis(10));
            }
        });
        mount.wait().unwrap();
        ended.store(true, Ordering::Relaxed);
    });
    posix.cache().close().unwrap();
    let mut log = fs::OpenOptions::new().create(true).append(true).open(base.join("counters")).unwrap();
    let counters = posix.counters();
    writeln!(log, "resent {:?} replayed {:?}", counters.resent, counters.replayed).unwrap();
    holder.let_go().unwrap();
    std::process::exit(0);
}

struct Supervised {
    base: tempfile::TempDir,
    holder: Child,
}

impl Supervised {
    fn start(failpoints: &str) -> Self {
        Self::start_calm(failpoints, 0)
    }

    fn start_calm(failpoints: &str, calm: u64) -> Self {
        Self::start_with(failpoints, calm, None)
    }

    fn start_with(failpoints: &str, calm: u64, variable: Option<&str>) -> Self {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("mnt")).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        // SAFETY: an open descriptor; it shall be inherited.
        unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFD, 0) };
        let holder = Command::new(std::env::current_exe().unwrap())
            .args(["takeover::holder_process", "--exact", "--ignored", "--nocapture"])
            .env(BASE, base.path())
            .env(READY, writer.as_raw_fd().to_string())
            .env(CALM, calm.to_string())
            .env("HOLDFAST_FAILPOINTS", failpoints)
            .envs(variable.map(|name| (name, "1")))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        drop(writer);
        let mut byte = [0];
        std::io::Read::read_exact(&mut &reader, &mut byte).expect("the mount is there");
        Self { base, holder }
    }

    fn dir(&self) -> PathBuf {
        self.base.path().join("mnt")
    }

    fn driver(&self) -> Pid {
        Pid::from_raw(fs::read_to_string(self.base.path().join("driver")).unwrap().parse().unwrap())
    }

    // Kills the driver and waits until the mount answers again.
    fn kill(&self) {
        let old = self.driver();
        kill(old, Signal::SIGKILL).unwrap();
        fs::metadata(self.dir().join(format!("no-such-name-{old}"))).unwrap_err();
    }

    fn end(&mut self) {
        holdfast::fuse::unmount(&self.dir(), false).unwrap();
        assert!(self.holder.wait().unwrap().success());
    }

    // Requests answered from the record by the drivers that ended in order.
    fn replayed(&self) -> u64 {
        let log = fs::read_to_string(self.base.path().join("counters")).unwrap();
        log.lines().filter_map(|line| line.split("replayed ").nth(1)?.parse::<u64>().ok()).sum()
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if holdfast::fuse::find(&self.dir()).is_ok_and(|found| found.is_some()) {
            holdfast::fuse::unmount(&self.dir(), true).ok();
            self.holder.kill().ok();
            kill(self.driver(), Signal::SIGKILL).ok();
        }
        self.holder.wait().ok();
    }
}

// Eight operations that are not idempotent, and one read back: an error or a wrong byte panics.
fn probe(dir: &Path, n: u64) {
    let (one, two, sub) = (dir.join(format!("f{}", n % 16)), dir.join(format!("g{}", n % 16)), dir.join(format!("d{}", n % 16)));
    let text = n.to_string();
    fs::write(&one, &text).unwrap();
    fs::rename(&one, &two).unwrap();
    fs::hard_link(&two, &one).unwrap();
    fs::remove_file(&two).unwrap();
    fs::create_dir(&sub).unwrap();
    std::os::unix::fs::symlink(&text, sub.join("link")).unwrap();
    assert_eq!(fs::read_link(sub.join("link")).unwrap(), Path::new(&text));
    fs::remove_file(sub.join("link")).unwrap();
    fs::remove_dir(&sub).unwrap();
    assert_eq!(fs::read_to_string(&one).unwrap(), text);
    fs::remove_file(&one).unwrap();
}

#[test]
fn a_killed_driver_is_a_pause() {
    let mut supervised = Supervised::start("");
    let (dir, stop) = (supervised.dir(), AtomicBool::new(false));
    // Open across all of it.
    let log = fs::File::options().read(true).append(true).create(true).open(dir.join("log")).unwrap();
    let rounds = std::thread::scope(|scope| {
        let names = scope.spawn(|| {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                probe(&dir, n);
                n += 1;
            }
            n
        });
        let appended = scope.spawn(|| {
            let mut n = 0u64;
            while !stop.load(Ordering::Relaxed) {
                (&log).write_all(&n.to_le_bytes()).unwrap();
                if n.is_multiple_of(8) {
                    log.sync_data().unwrap();
                }
                n += 1;
            }
            n
        });
        for kill in 0..3 {
            // In the midst of the work: it goes on before and after each kill.
            for n in 0..200 {
                fs::metadata(dir.join(format!("absent-{kill}-{n}"))).unwrap_err();
            }
            supervised.kill();
        }
        for n in 0..200 {
            fs::metadata(dir.join(format!("absent-{n}"))).unwrap_err();
        }
        stop.store(true, Ordering::Relaxed);
        (names.join().unwrap(), appended.join().unwrap())
    });
    assert!(rounds.0 > 0);
    let mut bytes = vec![0; rounds.1 as usize * 8];
    log.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.chunks_exact(8).enumerate().all(|(n, bytes)| bytes == (n as u64).to_le_bytes()));
    assert_eq!(log.metadata().unwrap().len(), rounds.1 * 8);
    drop(log);
    supervised.end();
}

// What a process has locked in memory, in KiB.
fn locked(process: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

// A request that is being copied to a thread which is killed ends with EIO where a page of its buffer is not there yet.
#[test]
fn no_thread_reads_the_device_before_its_buffer_is_there() {
    const LARGEST_WRITE: u64 = 1 << 10;
    let mut supervised = Supervised::start("");
    let threads = MountOptions::new("", "").threads as u64;
    fs::metadata(supervised.dir().join("no such name")).unwrap_err();
    assert!(locked(supervised.driver()) > threads * LARGEST_WRITE, "at first");
    supervised.kill();
    assert!(locked(supervised.driver()) > threads * LARGEST_WRITE, "in the next driver");
    supervised.end();
}

#[test]
fn what_was_done_and_not_answered_is_answered_and_not_done_again() {
    let mut replayed = 0;
    // The driver kills itself after its n-th change, before the answer: every kind of operation of the probe.
    for n in 1..=12 {
        let mut supervised = Supervised::start(&format!("fuse.after_change_before_reply:{n}"));
        let first = supervised.driver();
        for round in 0..2 {
            probe(&supervised.dir(), round);
        }
        assert_ne!(supervised.driver(), first, "the failpoint was passed");
        supervised.end();
        replayed += supervised.replayed();
    }
    assert!(replayed >= 6, "{replayed}");
}

/// One operation on a new volume: whether it is one whose answer is kept, and what is done and seen.
type Case = (&'static str, bool, fn(&Path));

const CASES: &[Case] = &[
    ("create", true, |dir| {
        fs::File::create_new(dir.join("a")).unwrap();
        assert!(fs::File::create_new(dir.join("a")).is_err());
    }),
    ("mkdir", true, |dir| fs::create_dir(dir.join("a")).unwrap()),
    ("mknod", true, |dir| super::mkfifo(&dir.join("a"), 0o600).unwrap()),
    ("symlink", true, |dir| std::os::unix::fs::symlink("x", dir.join("a")).unwrap()),
    ("link", true, |dir| {
        fs::write(dir.join("a"), "a").unwrap();
        fs::hard_link(dir.join("a"), dir.join("b")).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::nlink(&fs::metadata(dir.join("b")).unwrap()), 2);
    }),
    ("rename", true, |dir| {
        fs::write(dir.join("a"), "a").unwrap();
        fs::rename(dir.join("a"), dir.join("b")).unwrap();
        assert!(fs::metadata(dir.join("a")).is_err());
    }),
    ("exchange", true, |dir| {
        fs::write(dir.join("a"), "a").unwrap();
        fs::write(dir.join("b"), "b").unwrap();
        // Done twice, it would be as if it had not been done.
        super::rename2(&dir.join("a"), &dir.join("b"), libc::RENAME_EXCHANGE).unwrap();
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "b");
    }),
    ("unlink", true, |dir| {
        fs::write(dir.join("a"), "a").unwrap();
        fs::remove_file(dir.join("a")).unwrap();
    }),
    ("rmdir", true, |dir| {
        fs::create_dir(dir.join("a")).unwrap();
        fs::remove_dir(dir.join("a")).unwrap();
    }),
    ("append", false, |dir| {
        let mut file = fs::File::options().append(true).create(true).open(dir.join("a")).unwrap();
        for word in ["one ", "two ", "three"] {
            file.write_all(word.as_bytes()).unwrap();
            file.sync_all().unwrap();
        }
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "one two three");
    }),
    ("setattr", true, |dir| {
        fs::write(dir.join("a"), "longer").unwrap();
        fs::set_permissions(dir.join("a"), std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
        fs::File::options().write(true).open(dir.join("a")).unwrap().set_len(4).unwrap();
        std::os::unix::fs::chown(dir.join("a"), Some(7), Some(8)).unwrap();
        let meta = fs::metadata(dir.join("a")).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!((meta.mode() & 0o7777, meta.len(), meta.uid(), meta.gid()), (0o640, 4, 7, 8));
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "long");
    }),
    ("xattr", true, |dir| {
        fs::write(dir.join("a"), "").unwrap();
        super::set_xattr(&dir.join("a"), c"user.one", b"1", libc::XATTR_CREATE).unwrap();
        assert_eq!(super::get_xattr(&dir.join("a"), c"user.one").unwrap(), b"1");
        // SAFETY: two C strings.
        super::check(unsafe { libc::removexattr(super::c(&dir.join("a")).as_ptr(), c"user.one".as_ptr()) }).unwrap();
    }),
    ("truncating open", false, |dir| {
        fs::write(dir.join("a"), "what was there").unwrap();
        let mut file = fs::File::create(dir.join("a")).unwrap();
        file.write_all(b"new").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "new");
    }),
    ("fallocate", false, |dir| {
        let file = fs::File::create(dir.join("a")).unwrap();
        // SAFETY: an open descriptor and plain numbers.
        super::check(unsafe { libc::fallocate(std::os::fd::AsRawFd::as_raw_fd(&file), 0, 0, 8192) }).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 8192);
    }),
];

#[test]
fn each_operation_survives_a_death_between_its_effect_and_its_answer() {
    for (name, kept, run) in CASES {
        let (mut replayed, mut n) = (0, 0);
        // At its first passage, its second, ... until there is none.
        loop {
            n += 1;
            let mut supervised = Supervised::start(&format!("fuse.after_change_before_reply:{n}"));
            let first = supervised.driver();
            run(&supervised.dir());
            let died = supervised.driver() != first;
            supervised.end();
            if !died {
                break;
            }
            replayed += supervised.replayed();
        }
        println!("{name}: {} deaths, {replayed} answers from the record", n - 1);
        assert!(n > 1, "{name}: no death");
        assert!(!kept || replayed > 0, "{name}: nothing was answered from the record");
    }
}

#[test]
fn a_kernel_that_cannot_resend_gets_errors_for_what_was_under_way() {
    let mut supervised = Supervised::start_with("fuse.after_change_before_reply:1", 0, Some("HOLDFAST_PRETEND_OLD_KERNEL"));
    let first = supervised.driver();
    let made = fs::create_dir(supervised.dir().join("a"));
    assert_eq!(made.unwrap_err().raw_os_error(), Some(libc::EIO), "not for ever, and not a lie");
    assert_ne!(supervised.driver(), first);
    // It was carried out. The kernel believes for a second that there is no such name.
    while !supervised.dir().join("a").is_dir() {
        std::thread::yield_now();
    }
    for n in 0..32 {
        probe(&supervised.dir(), n);
    }
    supervised.end();
    assert_eq!(supervised.replayed(), 0);
}

#[test]
fn a_volume_whose_driver_dies_again_and_again_waits() {
    let mut supervised = Supervised::start_calm("", 3600);
    supervised.kill();
    // The third is in quarantine.
    supervised.kill();
    let third = supervised.driver();
    kill(third, Signal::SIGKILL).unwrap();
    // Nobody serves, and nobody is started; the holder keeps the mount until a person takes it away.
    holdfast::fuse::unmount(&supervised.dir(), true).unwrap();
    assert!(!supervised.holder.wait().unwrap().success());
    assert_eq!(supervised.driver(), third);
}
