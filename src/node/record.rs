//! What the node-side role knows of a volume: a small file each, written before what it tells of is done. So whoever comes after a restart
//! finds at least what has to be undone; what really is mounted says the kernel's table.

use super::Access;
use crate::controller::Handle;
use crate::types::{Fault, FaultKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// A volume here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Its handle.
    pub(super) handle: String,
    /// Its identity.
    pub(super) identity: String,
    /// Bytes that it may hold; 0: no limit.
    pub(super) capacity: u64,
    /// Where it was staged to.
    pub(super) staging: PathBuf,
    /// How.
    pub(super) access: Access,
    /// Where it is published.
    pub(super) targets: BTreeMap<PathBuf, Target>,
}

/// One place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Target {
    pub(super) read_only: bool,
    pub(super) access: Access,
}

/// The directory of records.
#[derive(Debug)]
pub(super) struct Records(PathBuf);

impl Records {
    pub(super) fn new(state: &Path) -> Result<Self, Fault> {
        let dir = state.join("volumes");
        std::fs::create_dir_all(&dir).map_err(|error| trouble(&dir, error))?;
        Ok(Self(dir))
    }

    fn path(&self, handle: &Handle) -> PathBuf {
        self.named(&handle.file_name())
    }

    fn named(&self, file_name: &str) -> PathBuf {
        self.0.join(format!("{file_name}.json"))
    }

    pub(super) fn load(&self, handle: &Handle) -> Result<Option<Record>, Fault> {
        read(&self.path(handle))
    }

    /// The handle whose file name this is, of what is known here.
    pub(super) fn handle(&self, file_name: &str) -> Result<Option<Handle>, Fault> {
        Ok(read(&self.named(file_name))?.and_then(|record| Handle::parse(&record.handle)))
    }

    /// Whole or not at all, whatever happens meanwhile.
    pub(super) fn store(&self, handle: &Handle, record: &Record) -> Result<(), Fault> {
        let path = self.path(handle);
        let new = path.with_extension("new");
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec_pretty(record)?)?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            File::open(&self.0)?.sync_all()
        };
        write().map_err(|error| trouble(&path, error))
    }

    pub(super) fn remove(&self, handle: &Handle) -> Result<(), Fault> {
        let path = self.path(handle);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(trouble(&path, error)),
            _ => Ok(()),
        }
    }
}

fn read(path: &Path) -> Result<Option<Record>, Fault> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(trouble(path, error)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| trouble(path, error.into()))
}

fn trouble(path: &Path, error: std::io::Error) -> Fault {
    Fault::with(FaultKind::Local, format!("the driver's record {} cannot be used", path.display()), error)
}
