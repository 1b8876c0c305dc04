//! A machine that is only a list: for tests, and for runs without privileges. Targets are made and removed, nothing is mounted.

use super::mounter::{Binding, Drain, Mounter, Order, Usage};
use crate::types::{Fault, FaultKind};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// See the head of this file.
#[derive(Debug, Default)]
pub struct Fake(Mutex<Machine>);

#[derive(Debug, Default)]
struct Machine {
    mounts: BTreeMap<PathBuf, Order>,
    binds: BTreeMap<PathBuf, (PathBuf, Binding)>,
    groups: BTreeMap<PathBuf, u32>,
    held: bool,
    drains: bool,
    silent: bool,
    no_groups: bool,
    forsaken: bool,
    taken_up: Vec<Order>,
}

impl Fake {
    /// Another node has every volume, or none.
    pub fn hold(&self, held: bool) {
        self.0.lock().held = held;
    }

    /// No unmount ends its drain in time, or each does.
    pub fn drain(&self, drains: bool) {
        self.0.lock().drains = drains;
    }

    /// No driver answers, or each does.
    pub fn silence(&self, silent: bool) {
        self.0.lock().silent = silent;
    }

    /// No mount can be given a group, or each can.
    pub fn refuse_groups(&self, refuse: bool) {
        self.0.lock().no_groups = refuse;
    }

    /// Nobody attends the mounts any more.
    pub fn forsake(&self) {
        self.0.lock().forsaken = true;
    }

    /// What was taken up.
    #[must_use]
    pub fn taken_up(&self) -> Vec<Order> {
        self.0.lock().taken_up.clone()
    }

    /// The machine starts anew: nothing is mounted any more.
    pub fn reboot(&self) {
        *self.0.lock() = Machine::default();
    }

    /// What is mounted, in order of the directories.
    #[must_use]
    pub fn mounts(&self) -> Vec<Order> {
        self.0.lock().mounts.values().cloned().collect()
    }

    /// How a mount appears there.
    #[must_use]
    pub fn bound(&self, target: &Path) -> Option<Binding> {
        self.0.lock().binds.get(target).map(|(_, binding)| binding.clone())
    }

    /// The group that a mount was given.
    #[must_use]
    pub fn group(&self, dir: &Path) -> Option<u32> {
        self.0.lock().groups.get(dir).copied()
    }
}

fn made(target: &Path) -> Result<(), Fault> {
    match std::fs::create_dir(target) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error.into()),
        _ => Ok(()),
    }
}

fn removed(target: &Path) -> Result<(), Fault> {
    match std::fs::remove_dir(target) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

#[async_trait]
impl Mounter for Fake {
    async fn mount(&self, order: &Order, _: Duration) -> Result<(), Fault> {
        let mut machine = self.0.lock();
        if machine.held {
            return Err(Fault::new(FaultKind::Busy, "another node has the volume"));
        }
        machine.mounts.insert(order.dir.clone(), order.clone());
        Ok(())
    }

    async fn unattended(&self) -> Result<Vec<PathBuf>, Fault> {
        let machine = self.0.lock();
        Ok(machine.mounts.keys().filter(|_| machine.forsaken).cloned().collect())
    }

    async fn take_up(&self, order: &Order) -> Result<(), Fault> {
        self.0.lock().taken_up.push(order.clone());
        Ok(())
    }

    async fn unmount(&self, dir: &Path, _: Duration) -> Result<Drain, Fault> {
        let mut machine = self.0.lock();
        machine.mounts.remove(dir);
        Ok(if machine.drains { Drain::Goes } else { Drain::Done })
    }

    async fn is_mounted(&self, dir: &Path) -> Result<bool, Fault> {
        Ok(self.0.lock().mounts.contains_key(dir))
    }

    async fn resize(&self, order: &Order) -> Result<(), Fault> {
        self.0.lock().mounts.insert(order.dir.clone(), order.clone());
        Ok(())
    }

    async fn usage(&self, dir: &Path) -> Result<Usage, Fault> {
        let machine = self.0.lock();
        if machine.silent {
            return Err(Fault::new(FaultKind::Unknown, "the driver does not answer"));
        }
        let capacity = machine.mounts.get(dir).map_or(0, |order| order.capacity);
        Ok(Usage { bytes: 0, bytes_max: capacity, inodes: 1 })
    }

    async fn give_group(&self, dir: &Path, group: u32) -> Result<(), Fault> {
        let mut machine = self.0.lock();
        if machine.no_groups {
            return Err(Fault::new(FaultKind::Local, "Read-only file system"));
        }
        machine.groups.insert(dir.to_owned(), group);
        Ok(())
    }

    async fn bind(&self, dir: &Path, target: &Path, binding: &Binding) -> Result<(), Fault> {
        made(target)?;
        self.0.lock().binds.insert(target.to_owned(), (dir.to_owned(), binding.clone()));
        Ok(())
    }

    async fn is_bound(&self, dir: &Path, target: &Path) -> Result<bool, Fault> {
        Ok(self.0.lock().binds.get(target).is_some_and(|(of, _)| of == dir))
    }

    async fn unbind(&self, target: &Path) -> Result<(), Fault> {
        self.0.lock().binds.remove(target);
        removed(target)
    }
}
