//! What the node-side role asks of the machine: one mount per volume, and binds of it. Real: the mount command, its drivers and the kernel
//! (`cli/csi/`); [`Fake`](super::Fake): nothing but a list.

use crate::controller::Handle;
use crate::types::{Fault, Identity};
use async_trait::async_trait;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Whose.
    pub handle: Handle,
    /// The volume.
    pub identity: Identity,
    /// Where: a directory of the driver's own.
    pub dir: PathBuf,
    /// Bytes that the volume may hold; 0: no limit.
    pub capacity: u64,
}

/// How a mount appears at another place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Binding {
    /// Nothing can be changed there.
    pub read_only: bool,
    /// Of the words in [`super::FLAGS`].
    pub flags: Vec<String>,
}

/// What a volume holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of its files.
    pub bytes: u64,
    /// Bytes that it may hold.
    pub bytes_max: u64,
    /// Files, directories and others.
    pub inodes: u64,
}

/// How an unmount ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// Everything is in a commit, and the log closed.
    Done,
    /// The mount is gone; the rest goes on being committed.
    Goes,
}

/// See the head of this file. Each call may be made again, also after the process that made the first one has ended.
#[async_trait]
pub trait Mounter: Send + Sync + fmt::Debug {
    /// Mounts, and waits for that as long as `patience`; it goes on after that, and is waited for by the next call.
    ///
    /// # Errors
    /// [`FaultKind::Busy`](crate::types::FaultKind::Busy): not yet, and what is waited for.
    async fn mount(&self, order: &Order, patience: Duration) -> Result<(), Fault>;
    /// Where live mounts wait, on this machine, for somebody who attends them.
    ///
    /// # Errors
    /// The machine cannot be asked.
    async fn unattended(&self) -> Result<Vec<PathBuf>, Fault>;
    /// Begins to attend such a mount; does not wait for its driver. One that is begun already goes on.
    ///
    /// # Errors
    /// Nothing can be started for it.
    async fn take_up(&self, order: &Order) -> Result<(), Fault>;
    /// Unmounts, and waits for what is in no commit as long as `patience`. A mount that is not there is unmounted.
    ///
    /// # Errors
    /// It is in use.
    async fn unmount(&self, dir: &Path, patience: Duration) -> Result<Drain, Fault>;
    /// Whether it is mounted, by the kernel's table: asks nobody.
    ///
    /// # Errors
    /// The table cannot be read.
    async fn is_mounted(&self, dir: &Path) -> Result<bool, Fault>;
    /// Gives a live mount the order's capacity.
    ///
    /// # Errors
    /// Its driver does not take it.
    async fn resize(&self, order: &Order) -> Result<(), Fault>;
    /// What the volume holds, within a bounded time whatever the store does.
    ///
    /// # Errors
    /// [`FaultKind::Unknown`](crate::types::FaultKind::Unknown): its driver does not answer.
    async fn usage(&self, dir: &Path) -> Result<Usage, Fault>;
    /// Makes the volume's root belong to this group, with all that is made in it; what is there is left alone.
    ///
    /// # Errors
    /// Its driver does not answer.
    async fn give_group(&self, dir: &Path, group: u32) -> Result<(), Fault>;
    /// Lets the mount appear at `target`, made where it is missing, and sees that it is this mount that appears there.
    ///
    /// # Errors
    /// Something else is there; the kernel refuses.
    async fn bind(&self, dir: &Path, target: &Path, binding: &Binding) -> Result<(), Fault>;
    /// Whether the mount appears at `target`.
    ///
    /// # Errors
    /// The kernel's table cannot be read.
    async fn is_bound(&self, dir: &Path, target: &Path) -> Result<bool, Fault>;
    /// Takes away what of ours appears at `target`, also when it is dead, and the directory.
    ///
    /// # Errors
    /// Something else is mounted there, or files lie in the directory itself.
    async fn unbind(&self, target: &Path) -> Result<(), Fault>;
}
