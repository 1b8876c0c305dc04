//! One operation on a thing at a time: who comes second is told to come again.

use crate::types::{Fault, FaultKind};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What is being worked on.
#[derive(Debug, Clone, Default)]
pub struct Locks(Arc<Mutex<BTreeSet<String>>>);

/// As long as this lives, nobody else works on it.
#[derive(Debug)]
pub struct Locked {
    locks: Locks,
    name: String,
}

impl Locks {
    /// Takes a name.
    ///
    /// # Errors
    /// [`FaultKind::Busy`]: somebody has it.
    pub fn lock(&self, name: &str) -> Result<Locked, Fault> {
        if self.0.lock().insert(name.to_owned()) {
            return Ok(Locked { locks: self.clone(), name: name.to_owned() });
        }
        Err(Fault::new(FaultKind::Busy, format!("an operation on {name} is under way: ask again when it has ended")))
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.locks.0.lock().remove(&self.name);
    }
}
