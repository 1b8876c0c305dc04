//! One store, several machines, and the real command on each: what a person would do, and how it ended.
#![allow(dead_code, reason = "each test binary uses a part of this")]

use crate::harness::lab;
pub(crate) use crate::harness::process::in_mount_table as mounted;
use crate::harness::process::{at_home, children_of, kill, kill_family, strike_family, wait_until_gone};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Only a bound: a test that waits longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// The one volume.
pub(crate) const VOLUME: &str = "test/days";

/// A store and the machines that use it.
pub(crate) struct Rig {
    lab: TempDir,
    /// The store's URL.
    pub(crate) url: String,
}

impl Rig {
    /// A new store in a directory of its own.
    pub(crate) fn new() -> Self {
        let lab = lab();
        let url = format!("file://{}", lab.path().join("store").display());
        Self::with(lab, url)
    }

    /// A new store of this URL.
    pub(crate) fn on(url: String) -> Self {
        Self::with(lab(), url)
    }

    fn with(lab: TempDir, url: String) -> Self {
        let rig = Self { lab, url };
        rig.succeed("first", &["store", "init", "--recovery-file", &rig.key().display().to_string()]);
        rig
    }

    /// Where everything of this test lies.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.lab.path().join(name)
    }

    /// The directory of the `file://` store.
    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// The recovery key.
    pub(crate) fn key(&self) -> PathBuf {
        self.path("recovery.key")
    }

    /// The cache of the volume on a machine.
    pub(crate) fn cache(&self, machine: &str) -> PathBuf {
        self.path(machine).join("volumes")
    }

    /// Where a machine mounts.
    pub(crate) fn root(&self, machine: &str) -> PathBuf {
        self.path(machine).join("mounted")
    }

    /// A command on a machine.
    pub(crate) fn prepare(&self, machine: &str, arguments: &[&str]) -> Command {
        let home = self.path(machine);
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(arguments).env("HOLDFAST_STORE", &self.url).stdin(Stdio::null());
        at_home(&mut command, &home);
        // A mount that nobody serves must not be asked for its own directory.
        if !mounted(&self.root(machine)) {
            std::fs::create_dir_all(self.root(machine)).expect("a mount point");
        }
        command
    }

    /// Runs a command and gives how it ended.
    pub(crate) fn run(&self, machine: &str, arguments: &[&str]) -> Output {
        self.prepare(machine, arguments).output().expect("holdfast starts")
    }

    /// Runs a command that must succeed; its standard output.
    #[track_caller]
    pub(crate) fn succeed(&self, machine: &str, arguments: &[&str]) -> String {
        crate::harness::command::succeed(&mut self.prepare(machine, arguments))
    }

    /// The `mount` command of a machine, ready to be given more arguments.
    pub(crate) fn mount_command(&self, machine: &str) -> Command {
        let mut command = self.prepare(machine, &["mount", VOLUME]);
        command.arg(self.root(machine)).arg("--foreground").arg("--cache").arg(self.cache(machine));
        command.arg("--recovery-key").arg(self.key());
        command
    }

    /// Mounts on a machine; must succeed.
    #[track_caller]
    pub(crate) fn mount(&self, machine: &str) -> Mount {
        self.mount_with(machine, |_| {})
    }

    /// The same with something added to the command.
    #[track_caller]
    pub(crate) fn mount_with(&self, machine: &str, add: impl FnOnce(&mut Command)) -> Mount {
        let mut command = self.mount_command(machine);
        add(&mut command);
        match self.start(machine, command).wait() {
            Ok(mount) => mount,
            Err(refused) => panic!("mount ended with {}\n{}", refused.code, refused.said),
        }
    }

    /// Mounts on a machine; must be refused.
    #[track_caller]
    pub(crate) fn refused(&self, machine: &str, add: impl FnOnce(&mut Command)) -> Refused {
        let mut command = self.mount_command(machine);
        add(&mut command);
        match self.start(machine, command).wait() {
            Ok(_) => panic!("mounted, though it must not be"),
            Err(refused) => refused,
        }
    }

    /// Starts a mount and does not wait for it.
    pub(crate) fn start(&self, machine: &str, command: Command) -> Mount {
        self.start_at(machine, &self.root(machine), command)
    }

    /// The same for a command that names another directory.
    pub(crate) fn start_at(&self, machine: &str, root: &Path, mut command: Command) -> Mount {
        let path = self.path(machine).join("log");
        let log = File::options().create(true).append(true).open(&path).expect("a log file");
        let begins = log.metadata().expect("its length").len();
        let holder = command.stdout(Stdio::null()).stderr(log).spawn().expect("holdfast starts");
        Mount { root: root.to_owned(), log: path, begins, holder: Some(holder) }
    }

    /// `status --json` of a machine's mount: exit code and answer.
    pub(crate) fn status(&self, machine: &str) -> (i32, serde_json::Value) {
        let output = self.run(machine, &["status", &self.root(machine).display().to_string(), "--json"]);
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code().unwrap_or(-1), value[0].clone())
    }

    /// Flushes, again when the driver dies meanwhile; the commit.
    #[track_caller]
    pub(crate) fn flush(&self, machine: &str) -> u64 {
        let began = Instant::now();
        loop {
            let output = self.run(machine, &["flush", &self.root(machine).display().to_string(), "--json"]);
            if output.status.success() {
                let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("flush answers with JSON");
                return value["commit"].as_u64().expect("a commit's number");
            }
            let said = crate::harness::command::said(&output);
            let log = std::fs::read_to_string(self.path(machine).join("log")).unwrap_or_default();
            assert!(began.elapsed() < PATIENCE, "flush: {said}\nthe log:\n{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Unmounts; must succeed, and drains.
    #[track_caller]
    pub(crate) fn unmount(&self, machine: &str, mut mount: Mount) {
        self.succeed(machine, &["unmount", &self.root(machine).display().to_string()]);
        if let Some(mut holder) = mount.holder.take() {
            let _ = holder.wait();
        }
    }

    /// numbers of all records as the command tells them, newest first.
    pub(crate) fn history(&self, machine: &str) -> Vec<u64> {
        let text = self.succeed(machine, &["history", VOLUME, "--json", "--recovery-key", &self.key().display().to_string()]);
        let value: serde_json::Value = serde_json::from_str(&text).expect("history answers with JSON");
        let list = value["records"].as_array().unwrap_or_else(|| panic!("no records in {text}"));
        list.iter().filter_map(|entry| entry["record"].as_u64()).collect()
    }
}

/// How a mount was refused.
#[derive(Debug)]
pub(crate) struct Refused {
    /// Exit code.
    pub(crate) code: i32,
    /// What it said.
    pub(crate) said: String,
}

/// A mount in the foreground of its holder.
pub(crate) struct Mount {
    /// The directory.
    pub(crate) root: PathBuf,
    log: PathBuf,
    begins: u64,
    holder: Option<Child>,
}

impl Mount {
    /// Until it is usable, or it ended.
    pub(crate) fn wait(mut self) -> Result<Self, Refused> {
        let began = Instant::now();
        while !mounted(&self.root) {
            if let Some(code) = self.ended() {
                return Err(Refused { code, said: self.said() });
            }
            assert!(began.elapsed() < PATIENCE, "not mounted after {PATIENCE:?}\n{}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
        // Two mounts at one place: the older one would answer for one that is refused a moment later.
        std::thread::sleep(Duration::from_millis(20));
        match self.ended() {
            Some(code) => Err(Refused { code, said: self.said() }),
            None => Ok(self),
        }
    }

    /// The exit code, when the holder ended.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let status = self.holder.as_mut()?.try_wait().expect("a child's status")?;
        use std::os::unix::process::ExitStatusExt;
        Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
    }

    /// Its log since it was started.
    pub(crate) fn said(&self) -> String {
        let all = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&all[usize::try_from(self.begins).unwrap_or(0).min(all.len())..]).into_owned()
    }

    /// Waits until the log has a line.
    #[track_caller]
    pub(crate) fn says(&self, what: &str) {
        let began = Instant::now();
        while !self.said().contains(what) {
            assert!(began.elapsed() < PATIENCE, "never said {what:?}:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Holder and driver.
    pub(crate) fn family(&self) -> Vec<u32> {
        let holder = self.holder.as_ref().map(Child::id).expect("a holder");
        std::iter::once(holder).chain(children_of(holder)).collect()
    }

    /// `kill -9` of holder and driver: the machine's processes are gone, the disk stays.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// Sends `kill -9` to holder, keeper and driver and waits for none, as they may be in a disk's hands; returns whom to wait for.
    pub(crate) fn strike(&self) -> Vec<u32> {
        strike_family(self.holder.as_ref().map(Child::id).expect("a holder"))
    }

    fn end(&mut self) {
        self.holder.take().into_iter().for_each(kill_family);
        let _ = Command::new("umount").arg("-l").arg(&self.root).stderr(Stdio::null()).status();
    }

    /// `kill -9` of the driver alone; the holder starts another.
    pub(crate) fn kill_driver(&self) {
        let holder = self.holder.as_ref().map(Child::id).expect("a holder");
        for pid in children_of(holder) {
            kill(pid);
            wait_until_gone(pid);
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = self.said();
            let lines: Vec<&str> = said.lines().collect();
            println!("the end of the mount's log:\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
        self.end();
    }
}

/// Content that only this counter gives, and that no compressor shortens.
pub(crate) fn content(n: u64, length: usize) -> Vec<u8> {
    let mut state = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
