//! How long requests take, by their kind.

use crate::env::Env;
use crate::telemetry::Histogram;
use std::time::Duration;

/// The requests that are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Lookup,
    Getattr,
    Setattr,
    Readlink,
    Mknod,
    Mkdir,
    Symlink,
    Create,
    Unlink,
    Rmdir,
    Rename,
    Link,
    Open,
    Read,
    Write,
    Flush,
    Release,
    Fsync,
    Fsyncdir,
    Opendir,
    Readdir,
    Readdirplus,
    Statfs,
    Setxattr,
    Getxattr,
    Listxattr,
    Removexattr,
    Access,
    Fallocate,
    Lseek,
    Ioctl,
    CopyFileRange,
}

impl Op {
    /// All, in the order of the enumeration.
    pub(super) const ALL: [Self; 32] = [
        Self::Lookup,
        Self::Getattr,
        Self::Setattr,
        Self::Readlink,
        Self::Mknod,
        Self::Mkdir,
        Self::Symlink,
        Self::Create,
        Self::Unlink,
        Self::Rmdir,
        Self::Rename,
        Self::Link,
        Self::Open,
        Self::Read,
        Self::Write,
        Self::Flush,
        Self::Release,
        Self::Fsync,
        Self::Fsyncdir,
        Self::Opendir,
        Self::Readdir,
        Self::Readdirplus,
        Self::Statfs,
        Self::Setxattr,
        Self::Getxattr,
        Self::Listxattr,
        Self::Removexattr,
        Self::Access,
        Self::Fallocate,
        Self::Lseek,
        Self::Ioctl,
        Self::CopyFileRange,
    ];

    /// As in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::Getattr => "getattr",
            Self::Setattr => "setattr",
            Self::Readlink => "readlink",
            Self::Mknod => "mknod",
            Self::Mkdir => "mkdir",
            Self::Symlink => "symlink",
            Self::Create => "create",
            Self::Unlink => "unlink",
            Self::Rmdir => "rmdir",
            Self::Rename => "rename",
            Self::Link => "link",
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Release => "release",
            Self::Fsync => "fsync",
            Self::Fsyncdir => "fsyncdir",
            Self::Opendir => "opendir",
            Self::Readdir => "readdir",
            Self::Readdirplus => "readdirplus",
            Self::Statfs => "statfs",
            Self::Setxattr => "setxattr",
            Self::Getxattr => "getxattr",
            Self::Listxattr => "listxattr",
            Self::Removexattr => "removexattr",
            Self::Access => "access",
            Self::Fallocate => "fallocate",
            Self::Lseek => "lseek",
            Self::Ioctl => "ioctl",
            Self::CopyFileRange => "copy_file_range",
        }
    }
}

/// One connection's.
#[derive(Debug, Default)]
pub(super) struct Times {
    requests: [Histogram; Op::ALL.len()],
    syncs: Histogram,
}

impl Times {
    pub(super) fn of(&self, op: Op) -> &Histogram {
        &self.requests[op as usize]
    }

    /// From an fsync to its answer.
    pub(super) fn syncs(&self) -> &Histogram {
        &self.syncs
    }
}

/// Records the time from its making to its end.
#[derive(Debug)]
pub(super) struct Timed<'a> {
    histogram: &'a Histogram,
    env: &'a Env,
    began: Duration,
}

impl<'a> Timed<'a> {
    pub(super) fn new(histogram: &'a Histogram, env: &'a Env) -> Self {
        Self { histogram, env, began: env.monotonic() }
    }
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.histogram.record(self.env.monotonic().saturating_sub(self.began));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_place() {
        for (at, op) in Op::ALL.into_iter().enumerate() {
            assert_eq!(op as usize, at, "{}", op.name());
        }
    }
}
