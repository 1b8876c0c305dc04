//! A machine: a disk that outlives its processes, and what applications on it are waiting for.

use super::super::cut::{copy_dir, keep, lose_power};
use super::super::exec::Sim;
use super::super::store::World;
use super::bugs::{Bug, Sent};
use super::history::History;
use super::judge::Log;
use super::kernel::Pages;
use super::op::Op;
use super::tiers::Tiers;
use holdfast::cache::{CacheOptions, Hook, Synced};
use holdfast::types::Ino;
use holdfast::volume::{Sizes, Volume};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// In a cache whose durable part is known: one that was set aside is followed by another without it.
const MARK: &str = "of-this-world";

/// What is on the disk of a machine, and in its kernel.
#[derive(Default)]
pub struct Disk {
    /// The directory that the process works in; its cache is `cache` in it.
    pub dir: PathBuf,
    serial: u32,
    pub boot: u8,
    /// Requests of the kernel so far.
    unique: u64,
    /// Not answered yet.
    pub inflight: BTreeMap<u64, Op>,
    /// Handles open for writing.
    pub handles: Vec<Ino>,
    /// What the kernel has of them and did not send yet.
    pub pages: Pages,
    /// A mount that can be taken over by another process is there.
    pub mounted: bool,
    pub history: Option<Arc<Mutex<History>>>,
}

/// How a world's machines behave.
#[derive(Clone, Debug)]
pub struct Habits {
    /// The longest time that an application thinks, in nanoseconds.
    pub think: u64,
    /// Applications on a machine.
    pub apps: u64,
    /// Permille of polls that kill a process.
    pub crash: u64,
    /// Permille of lives in which a failpoint kills it.
    pub failpoints: u64,
    /// Permille of crashes that are a loss of power.
    pub power: u64,
    /// Permille of refusals that a person answers with `--take-over`.
    pub take_over: u64,
    /// Bytes of an ordinary write at most.
    pub write: u64,
    pub sizes: Sizes,
    /// The longest life of a process, in nanoseconds.
    pub life: u64,
    /// The policy of the volume.
    pub policy: &'static str,
    /// Commits after which a checkpoint is due, where not by the engine's own rule.
    pub checkpoint_every: Option<u64>,
    /// The kernel holds writes back.
    pub kernel: bool,
    /// Permille of mounts before which a person asks for a restore.
    pub restores: u64,
    /// What commits show by it, where that is not everything.
    pub tiers: Option<Arc<Tiers>>,
}

pub struct Machine {
    pub id: usize,
    pub host: String,
    pub sim: Sim,
    pub world: World<Log>,
    pub habits: Habits,
    pub skew: i64,
    pub bug: Bug,
    pub sent: Sent,
    root: PathBuf,
    /// Which directory is the disk's: a process that was killed still works in its own for a moment.
    current: Arc<AtomicU32>,
    pub disk: Mutex<Disk>,
}

impl Machine {
    /// How often its volume is checkpointed, and what of a tier waits, where not by the engine's own rules.
    pub async fn set_up(&self, volume: &Volume) {
        if let Some(commits) = self.habits.checkpoint_every {
            volume.checkpoint_every(commits).await;
        }
        if self.habits.tiers.as_ref().is_some_and(|tiers| tiers.is_timed()) {
            volume.waits_from(0).await;
        }
    }

    pub fn new(world: &World<Log>, id: usize, habits: &Habits, root: &Path, skew: i64, bug: Bug) -> Arc<Self> {
        let machine = Self {
            id,
            host: format!("node{id}"),
            sim: world.sim.clone(),
            world: world.clone(),
            habits: habits.clone(),
            skew,
            bug,
            sent: Sent::new(world),
            root: root.join(format!("{id}")),
            current: Arc::default(),
            disk: Mutex::default(),
        };
        machine.lose_disk();
        Arc::new(machine)
    }

    fn next_dir(&self, disk: &mut Disk) -> PathBuf {
        disk.serial += 1;
        self.current.store(disk.serial, Ordering::SeqCst);
        self.root.join(disk.serial.to_string())
    }

    /// The disk is gone, with everything on it.
    pub fn lose_disk(&self) {
        let mut disk = self.disk.lock();
        let dir = self.next_dir(&mut disk);
        std::fs::create_dir_all(&dir).expect("a directory for a machine");
        let old = std::mem::replace(&mut disk.dir, dir);
        if old.exists() {
            let _ = std::fs::remove_dir_all(old);
        }
        let _ = std::fs::remove_dir_all(self.durable());
        (disk.mounted, disk.history) = (false, None);
        disk.inflight.clear();
        disk.handles.clear();
        disk.pages.clear();
        disk.boot += 1;
    }

    /// What is durable of the cache.
    fn durable(&self) -> PathBuf {
        self.root.join("durable")
    }

    /// The power fails: what was not flushed is there or not, page by page.
    pub fn lose_power(&self) {
        let mut disk = self.disk.lock();
        let (live, durable) = (disk.dir.join("cache"), self.durable());
        if !durable.join(MARK).exists() || !live.join(MARK).exists() {
            return;
        }
        let dir = self.next_dir(&mut disk);
        // Caches that were set aside are durable.
        for entry in std::fs::read_dir(&disk.dir).into_iter().flatten().flatten().filter(|entry| entry.file_name() != "cache") {
            keep(&disk.dir, &dir, Path::new(&entry.file_name()));
        }
        lose_power(&live, &durable, &dir.join("cache"), &mut |below| self.sim.below(below));
        keep(&live, &dir.join("cache"), Path::new(MARK));
        let _ = std::fs::remove_dir_all(&durable);
        copy_dir(&dir.join("cache"), &durable);
        disk.dir = dir;
        disk.mounted = false;
        if let Some(history) = &disk.history {
            history.lock().dark = true;
        }
        disk.boot += 1;
    }

    /// All of the cache is durable as it is now.
    pub fn all_durable(&self) {
        // Nothing is known of one that is not marked yet.
        let live = self.disk.lock().dir.join("cache");
        let _ = std::fs::remove_dir_all(self.durable());
        if live.join(MARK).exists() {
            copy_dir(&live, &self.durable());
        }
    }

    /// A cache was opened: a new one was made durable by whoever made it.
    pub fn opened(&self) {
        let mark = self.disk.lock().dir.join("cache").join(MARK);
        if !mark.exists() {
            std::fs::write(mark, b"").expect("a mark in a cache");
            self.all_durable();
        }
    }

    fn hook(&self, live: PathBuf, serial: u32) -> Hook {
        let (durable, bug, current) = (self.durable(), self.bug, Arc::clone(&self.current));
        Hook::new(move |what: Synced| {
            let lies = match bug {
                Bug::DropFsync => what == Synced::Log,
                Bug::DropDataSync => matches!(what, Synced::Slot(_) | Synced::DataFiles),
                _ => false,
            };
            if !lies && current.load(Ordering::SeqCst) == serial && live.join(MARK).exists() {
                keep(&live, &durable, &what.path());
            }
            Ok(())
        })
    }

    /// The process ends at this moment: what it did to files is there, and what it does from now on is not.
    pub fn cut(&self) {
        let mut disk = self.disk.lock();
        let to = self.next_dir(&mut disk);
        copy_dir(&disk.dir, &to);
        let before = to.join("log.before");
        if before.exists() {
            let _ = std::fs::copy(before, to.join("cache/log"));
        }
        disk.dir = to;
    }

    /// For [`Bug::AckBeforeLog`]: what is logged from here on may be lost.
    pub fn before_operation(&self) {
        if self.bug == Bug::AckBeforeLog {
            let dir = self.disk.lock().dir.clone();
            let _ = std::fs::copy(dir.join("cache/log"), dir.join("log.before"));
        }
    }

    /// Directories of processes that have ended.
    pub fn sweep(&self) {
        let now = self.disk.lock().dir.clone();
        for entry in std::fs::read_dir(&self.root).into_iter().flatten().flatten() {
            if entry.path() != now && entry.path() != self.durable() {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }

    pub fn next_unique(&self) -> u64 {
        let mut disk = self.disk.lock();
        disk.unique += 2;
        disk.unique
    }

    pub fn cache(&self) -> CacheOptions {
        let disk = self.disk.lock();
        let mut options = CacheOptions::new(disk.dir.join("cache"));
        options.log_bytes = 256 << 10;
        options.boot_id = Some([disk.boot; 16]);
        options.any_file_system = true;
        options.no_sync = true;
        options.hot_inodes = 16;
        options.hot_names = 16;
        options.on_sync = self.hook(disk.dir.join("cache"), disk.serial);
        options
    }

    pub fn count(&self, what: &'static str) {
        self.world.oracle.lock().count(what);
    }
}
