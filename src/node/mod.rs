//! The node-side role: one mount per volume in a directory of the driver's own, and a bind of it for each pod.
//!
//! | file | |
//! |---|---|
//! | `mounter.rs` | what is asked of the machine |
//! | `bind.rs` | binds, by the kernel |
//! | `fake.rs` | a machine that is only a list |
//! | `record.rs` | what is known of a volume here, across restarts |
//!
//! | step | a death right after it |
//! |---|---|
//! | 1 the record of what is to be done is stored | it is done by the same call again, or undone by its opposite |
//! | 2 mount, bind | the same call finds it done |
//! | 3 of an end: the bind, the mount are gone | the same call finds nothing, and goes on |
//! | 4 of an end: the record is gone | nothing is left |

mod bind;
mod fake;
mod mounter;
mod record;

pub use bind::{FLAGS, bind, is_bound, unbind};
pub use fake::Fake;
pub use mounter::{Binding, Drain, Mounter, Order, Usage};

use crate::controller::{Controller, Handle, Locks, Problem};
use crate::types::{Fault, FaultKind, Identity};
use record::{Record, Records, Target};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Who may use a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The pods of one node.
    OneNode,
    /// One pod.
    OnePod,
    /// The pods of one node, to read.
    Readers,
}

/// How a volume is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// By whom.
    pub mode: Mode,
    /// Of the words in [`FLAGS`], in order.
    pub flags: Vec<String>,
    /// The group that its root is given.
    pub group: Option<u32>,
}

/// How long a call waits, in all.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a mount: for the node that has the volume, for the store.
    pub stage: Duration,
    /// For what is in no commit yet.
    pub drain: Duration,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Node {
    id: String,
    controller: Arc<Controller>,
    mounter: Arc<dyn Mounter>,
    mounts: PathBuf,
    records: Records,
    locks: Locks,
    patience: Patience,
}

impl Node {
    /// Of the node that the cluster calls so, with what an earlier process left in `state`.
    ///
    /// # Errors
    /// `state` cannot be used; the name is none.
    pub fn new(id: &str, controller: Arc<Controller>, mounter: Arc<dyn Mounter>, state: &Path, patience: Patience) -> Result<Self, Fault> {
        if id.is_empty() || id.len() > 256 {
            return Err(Fault::new(FaultKind::Invalid, "a node's name has 1 to 256 bytes"));
        }
        let mounts = state.join("mounts");
        std::fs::create_dir_all(&mounts)
            .map_err(|error| Fault::with(FaultKind::Local, format!("{} cannot be made", mounts.display()), error))?;
        let records = Records::new(state)?;
        Ok(Self { id: id.to_owned(), controller, mounter, mounts, records, locks: Locks::default(), patience })
    }

    /// What the cluster calls this node.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Mounts the volume here. Who else has it is waited for, in this call and in the next ones.
    ///
    /// # Errors
    /// [`FaultKind::NotFound`]: no such volume; [`FaultKind::Exists`]: it is staged in another way; [`FaultKind::Busy`]: not yet.
    pub async fn stage(&self, handle: &Handle, staging: &Path, access: &Access) -> Result<(), Problem> {
        let _locked = self.locks.lock(&handle.to_string())?;
        let dir = self.dir(handle);
        let order = match self.records.load(handle)? {
            Some(record) if self.mounter.is_mounted(&dir).await? => {
                if record.access != *access {
                    return Err(Fault::new(FaultKind::Exists, format!("volume {handle} is staged here already, in another way")).into());
                }
                if record.staging != staging {
                    let there = record.staging.display();
                    return Err(Problem::Precondition(format!("volume {handle} is staged to {there} already: unstage it there first")));
                }
                self.order(handle, &record)?
            }
            // Nothing, or of a mount that is gone: of a machine that started anew, mostly.
            _ => {
                let claimed = self.controller.find(handle).await?.ok_or_else(|| unknown(handle))?;
                let record = Record {
                    handle: handle.to_string(),
                    identity: claimed.identity.to_string(),
                    capacity: claimed.capacity,
                    staging: staging.to_owned(),
                    access: access.clone(),
                    targets: std::collections::BTreeMap::new(),
                };
                self.records.store(handle, &record)?;
                self.order(handle, &record)?
            }
        };
        match std::fs::create_dir(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(Fault::from(error).into()),
            _ => {}
        }
        self.mounter.mount(&order, self.patience.stage).await?;
        match access.group {
            // It is mounted by now: of an answer that reads as an end nobody would unstage it.
            Some(group) => self.mounter.give_group(&dir, group).await.map_err(|fault| {
                let why = format!("volume {handle} is mounted, and its root could not be given to group {group} yet: {fault}");
                Fault::new(FaultKind::Unknown, why).into()
            }),
            None => Ok(()),
        }
    }

    /// Takes up what an earlier process of this driver left mounted, where nobody attends it any more. What cannot be taken up is told in
    /// the log, and is tried by the next call; so is what another call is at.
    pub async fn take_up(&self) {
        let waiting = self.mounter.unattended().await.unwrap_or_else(|fault| {
            tracing::warn!(%fault, "whether a mount waits for a driver is not known");
            Vec::new()
        });
        for dir in waiting.iter().filter(|dir| dir.parent() == Some(self.mounts.as_path())) {
            if let Err(problem) = self.take_up_one(dir).await {
                tracing::error!(%problem, dir = %dir.display(), "a mount waits for a driver, and none can be started");
            }
        }
    }

    async fn take_up_one(&self, dir: &Path) -> Result<(), Problem> {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let Some(handle) = self.records.handle(&name)? else {
            return Err(Fault::new(FaultKind::NotFound, "there is no record of its volume").into());
        };
        // Whoever has it may be about to unmount it: taken up then, it would be mounted again.
        let Ok(_locked) = self.locks.lock(&handle.to_string()) else { return Ok(()) };
        let still = self.mounter.unattended().await?.iter().any(|waiting| waiting == dir);
        match self.records.load(&handle)?.filter(|_| still) {
            Some(record) => {
                tracing::warn!(volume = record.identity, "a mount that nobody attends is taken up");
                Ok(self.mounter.take_up(&self.order(&handle, &record)?).await?)
            }
            None => Ok(()),
        }
    }

    /// Unmounts the volume. It drains for a bounded time; what is left goes on draining, with the log held.
    ///
    /// # Errors
    /// [`Problem::Precondition`]: it is published still; [`FaultKind::Busy`]: in use.
    pub async fn unstage(&self, handle: &Handle) -> Result<(), Problem> {
        let _locked = self.locks.lock(&handle.to_string())?;
        let Some(record) = self.records.load(handle)? else { return Ok(()) };
        let dir = self.dir(handle);
        for target in record.targets.keys() {
            if self.mounter.is_bound(&dir, target).await? {
                return Err(Problem::Precondition(format!("volume {handle} is published at {} still", target.display())));
            }
        }
        if self.mounter.unmount(&dir, self.patience.drain).await? == Drain::Goes {
            tracing::warn!(volume = record.identity, "not everything is in a commit yet: it goes on draining after its unmount");
        }
        self.records.remove(handle)?;
        // In the way of nobody, should it not be empty.
        let _ = std::fs::remove_dir(&dir);
        Ok(())
    }

    /// Lets a staged volume appear at `target`.
    ///
    /// # Errors
    /// [`FaultKind::Exists`]: it is there in another way; [`Problem::Precondition`]: it is not staged so, or another pod has it.
    pub async fn publish(&self, handle: &Handle, staging: &Path, target: &Path, read_only: bool, access: &Access) -> Result<(), Problem> {
        let _locked = self.locks.lock(&handle.to_string())?;
        let dir = self.dir(handle);
        let refuse = |why: String| Err(Problem::Precondition(format!("volume {handle} {why}")));
        let mut record = match self.records.load(handle)? {
            Some(record) if record.staging == staging && self.mounter.is_mounted(&dir).await? => record,
            _ => return refuse(format!("is not staged to {}", staging.display())),
        };
        if (record.access.mode, record.access.group) != (access.mode, access.group) {
            return refuse("was staged for another mode or group: all pods of a node share one".to_owned());
        }
        let wanted = Target { read_only, access: access.clone() };
        let mut others = Vec::new();
        for (place, there) in &record.targets {
            if !self.mounter.is_bound(&dir, place).await? {
                continue;
            }
            if place != target {
                others.push(place.clone());
            } else if *there != wanted {
                return Err(
                    Fault::new(FaultKind::Exists, format!("volume {handle} is at {} already, in another way", place.display())).into()
                );
            }
        }
        if let Some(other) = others.first().filter(|_| access.mode == Mode::OnePod) {
            return refuse(format!("is for one pod, and published at {}", other.display()));
        }
        record.targets.insert(target.to_owned(), wanted);
        self.records.store(handle, &record)?;
        let binding = Binding { read_only: read_only || access.mode == Mode::Readers, flags: access.flags.clone() };
        Ok(self.mounter.bind(&dir, target, &binding).await?)
    }

    /// Takes the volume away from `target`, also what is dead, and also when nothing is known of it.
    ///
    /// # Errors
    /// Something that is not ours is in the way.
    pub async fn unpublish(&self, handle: &Handle, target: &Path) -> Result<(), Problem> {
        let _locked = self.locks.lock(&handle.to_string())?;
        self.mounter.unbind(target).await?;
        if let Some(mut record) = self.records.load(handle)?
            && record.targets.remove(target).is_some()
        {
            self.records.store(handle, &record)?;
        }
        Ok(())
    }

    /// What a volume holds; asks its driver alone, for a bounded time.
    ///
    /// # Errors
    /// [`FaultKind::NotFound`]: it is not there; [`FaultKind::Unknown`]: its driver does not answer.
    pub async fn usage(&self, handle: &Handle, path: &Path) -> Result<Usage, Problem> {
        self.placed(handle, path)?;
        Ok(self.mounter.usage(&self.dir(handle)).await?)
    }

    /// Gives a live volume the size that the control chain says; gives that size, 0: no limit.
    ///
    /// # Errors
    /// As [`Self::usage`]; the store's.
    pub async fn expand(&self, handle: &Handle, path: &Path) -> Result<u64, Problem> {
        let _locked = self.locks.lock(&handle.to_string())?;
        let mut record = self.placed(handle, path)?;
        let claimed = self.controller.find(handle).await?.ok_or_else(|| unknown(handle))?;
        record.capacity = claimed.capacity;
        self.records.store(handle, &record)?;
        self.mounter.resize(&self.order(handle, &record)?).await?;
        Ok(claimed.capacity)
    }

    /// The record of a volume that is at this place.
    fn placed(&self, handle: &Handle, path: &Path) -> Result<Record, Fault> {
        let record = self.records.load(handle)?.filter(|record| record.staging == path || record.targets.contains_key(path));
        record.ok_or_else(|| Fault::new(FaultKind::NotFound, format!("volume {handle} is not at {}", path.display())))
    }

    fn order(&self, handle: &Handle, record: &Record) -> Result<Order, Fault> {
        let identity = Identity::parse(&record.identity).map_err(|error| Fault::new(FaultKind::Local, error.to_string()))?;
        Ok(Order { handle: handle.clone(), identity, dir: self.dir(handle), capacity: record.capacity })
    }

    fn dir(&self, handle: &Handle) -> PathBuf {
        self.mounts.join(handle.file_name())
    }
}

fn unknown(handle: &Handle) -> Fault {
    Fault::new(FaultKind::NotFound, format!("there is no volume {handle}, or its claim was deleted"))
}
