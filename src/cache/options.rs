//! How a cache is made and opened.

use super::disk::{Disk, Hook};
use std::path::PathBuf;

/// How a cache is made and opened.
#[derive(Debug, Clone)]
pub struct CacheOptions {
    /// Its directory.
    pub dir: PathBuf,
    /// Bytes of the mutation log; in force when the cache is created.
    pub log_bytes: u64,
    /// Inodes kept in memory.
    pub hot_inodes: usize,
    /// Names kept in memory.
    pub hot_names: usize,
    /// The volume's limit on the sum of file sizes, as `statfs` shows it and creates meet it.
    pub bytes_max: u64,
    /// The volume's limit on inodes.
    pub inodes_max: u64,
    /// The machine's boot id; `None`: `/proc/sys/kernel/random/boot_id`.
    pub boot_id: Option<[u8; 16]>,
    /// Take any file system, also one that forgets (tmpfs) or lies (network). For tests.
    pub any_file_system: bool,
    /// Do not wait for the disk at all. For tests that do not lose power.
    pub no_sync: bool,
    /// Look at `meta.db` before it is used: not by a driver that takes a live mount over, for which applications wait.
    pub check: bool,
    /// Sees what is made durable. For tests that lose power.
    pub on_sync: Hook,
}

impl CacheOptions {
    /// The defaults, in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            log_bytes: 64 << 20,
            hot_inodes: 16 << 10,
            hot_names: 32 << 10,
            bytes_max: 1 << 50,
            inodes_max: 1 << 40,
            boot_id: None,
            any_file_system: false,
            no_sync: false,
            check: false,
            on_sync: Hook::default(),
        }
    }

    pub(super) fn disk(&self) -> Disk {
        Disk { no_sync: self.no_sync, hook: self.on_sync.clone() }
    }
}
