//! Little memory: a driver in a cgroup of 128 MiB, under many files, many open writers, a huge sparse file and an upload over a slow line.

use super::content;
use super::way::{Way, Weather};
use crate::harness::s3::S3Server;
use crate::harness::scale;
use crate::rig::{Mount, Rig};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const LIMIT: u64 = 128 << 20;
const WRITERS: u64 = 200;
const SPARSE: u64 = 50 << 30;

/// A cgroup with that much memory.
struct Cgroup {
    dir: PathBuf,
    second: bool,
}

impl Cgroup {
    /// None where this process may make none; why is printed.
    fn new() -> Option<Self> {
        let second = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let above = if second { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/memory" };
        let dir = Path::new(above).join(format!("holdfast-test-{}", std::process::id()));
        let limit = dir.join(if second { "memory.max" } else { "memory.limit_in_bytes" });
        if let Err(error) = fs::create_dir(&dir).and_then(|()| fs::write(limit, LIMIT.to_string())) {
            println!("not shown: no cgroup with a limit of memory can be made at {}: {error}", dir.display());
            fs::remove_dir(&dir).ok();
            return None;
        }
        Some(Self { dir, second })
    }

    /// The command, and all that it starts, lives in it.
    fn confine(&self, command: &mut Command) {
        let list = self.dir.join("cgroup.procs");
        // SAFETY: between fork and exec: one open, one write and one close, of a path that is made before.
        unsafe { command.pre_exec(move || fs::write(&list, "0")) };
    }

    fn number(&self, file: &str, key: &str) -> u64 {
        let text = fs::read_to_string(self.dir.join(file)).expect("the cgroup tells");
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key} in {file}:\n{text}"));
        line.trim().parse().expect("a number")
    }

    /// How many processes the kernel has ended for want of memory.
    fn killed(&self) -> u64 {
        if self.second { self.number("memory.events", "oom_kill ") } else { self.number("memory.oom_control", "oom_kill ") }
    }

    /// What cannot be given back to the kernel, in MiB.
    fn anonymous(&self) -> u64 {
        self.number("memory.stat", if self.second { "anon " } else { "total_rss " }) >> 20
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.dir).ok();
    }
}

fn name(root: &Path, n: u64) -> PathBuf {
    root.join(format!("many/{}/{n}", n / 1000))
}

fn write_all(root: &Path, files: u64, length: usize) {
    for n in 0..files {
        if n.is_multiple_of(1000) {
            fs::create_dir_all(name(root, n).parent().expect("its directory")).expect("mkdir");
        }
        fs::write(name(root, n), content(n, 10)).expect("write");
    }
    let open = |n: u64| File::create(root.join(format!("open{n}"))).expect("create");
    let writers: Vec<File> = (0..WRITERS).map(open).collect();
    for part in 0..4 {
        for (n, file) in writers.iter().enumerate() {
            file.write_all_at(&content(n as u64 + (part << 32), length), part * length as u64).expect("write");
        }
    }
    let sparse = File::create(root.join("sparse")).expect("create");
    sparse.set_len(SPARSE).expect("truncate up");
    for n in 0..1000 {
        sparse.write_all_at(&content(n, 10), n * (SPARSE / 1000)).expect("write");
    }
    for file in writers.iter().chain([&sparse]) {
        file.sync_all().expect("fsync");
    }
}

fn check_all(root: &Path, files: u64, length: usize) {
    for n in 0..files {
        assert_eq!(fs::read(name(root, n)).expect("read"), content(n, 10), "{n}");
    }
    for n in 0..WRITERS {
        let all: Vec<u8> = (0..4).flat_map(|part| content(n + (part << 32), length)).collect();
        assert!(fs::read(root.join(format!("open{n}"))).expect("read") == all, "open{n}");
    }
    let sparse = File::open(root.join("sparse")).expect("open");
    assert_eq!(sparse.metadata().expect("stat").size(), SPARSE);
    for n in 0..1000 {
        let mut bytes = [0; 10];
        sparse.read_exact_at(&mut bytes, n * (SPARSE / 1000)).expect("read");
        assert_eq!(bytes, content(n, 10)[..], "{n}");
    }
}

/// 20,000 files at SCALE=1, a million from SCALE=50: that takes minutes.
#[test]
fn a_driver_lives_in_128_mib() {
    let Some(cgroup) = Cgroup::new() else { return };
    let (files, length) = ((20_000 * scale()).min(1_000_000), 64 << 10);
    let server = S3Server::start();
    let rig = Rig::on(server.url("memory"));
    // 80 Mbit/s: the files of the writers alone take five seconds.
    let way = Way::to(&server, Weather { bytes_a_second: 10_000_000, ..Weather::default() });
    let url = way.url(&rig.url);
    let mount = |machine: &str| {
        rig.mount_with(machine, |command| {
            cgroup.confine(command.env("HOLDFAST_STORE", &url));
        })
    };
    // The keeper may join them later.
    let alive = |mount: &Mount, before: &[u32]| {
        let now = mount.family();
        assert!(cgroup.killed() == 0 && before.iter().all(|process| now.contains(process)), "somebody died: {before:?}, now {now:?}");
    };
    let first = mount("first");
    let family = first.family();
    write_all(&first.root, files, length);
    rig.flush("first");
    println!("{files} files written and stored: {} MiB", cgroup.anonymous());
    alive(&first, &family);
    check_all(&first.root, files, length);
    rig.unmount("first", first);
    let second = mount("second");
    let family = second.family();
    check_all(&second.root, files, length);
    println!("all of it read on another machine: {} MiB", cgroup.anonymous());
    alive(&second, &family);
    rig.unmount("second", second);
}
