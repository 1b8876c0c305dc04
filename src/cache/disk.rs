//! Waiting for the disk: the one place, so that tests can see what is durable, and lose the rest.

use std::io;

/// What is made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Synced {
    Log,
    Slot(u64),
    DataFiles,
    Wal,
}

/// See the module's head.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    pub(super) no_sync: bool,
    #[cfg(test)]
    pub(super) hook: Hook,
}

impl Disk {
    pub(super) fn sync(&self, what: Synced, f: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        #[cfg(test)]
        if let Some(hook) = &self.hook.0 {
            hook(what)?;
        }
        let _ = what;
        if self.no_sync { Ok(()) } else { f() }
    }
}

#[cfg(test)]
type OnSync = std::sync::Arc<dyn Fn(Synced) -> io::Result<()> + Send + Sync>;

/// Called before each wait, which fails when it does.
#[cfg(test)]
#[derive(Clone, Default)]
pub(super) struct Hook(pub(super) Option<OnSync>);

#[cfg(test)]
impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}
