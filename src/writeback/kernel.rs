//! What the kernel holds of the files in front of a volume.

use crate::types::Ino;

/// What the kernel holds of files that are open for writing, and how to bring it in.
pub trait KernelPages: Send + Sync + std::fmt::Debug {
    /// Whether any file is open for writing, so that the kernel may hold bytes that the driver has not seen.
    fn any(&self) -> bool;
    /// Brings everything in, as of the call. Blocks.
    fn bring_in(&self) -> Brought;
}

/// What came of asking the kernel for its pages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Brought {
    /// For each file whose pages all came, the size that the kernel knew before (protocol.md 6.2): a gap below it is a hole of the file.
    pub sizes: Vec<(Ino, u64)>,
    /// Why not everything came, if so: what programs wrote last may still be in the kernel alone.
    pub missed: Option<String>,
}

/// No kernel in front: everything written has arrived.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoKernel;

impl KernelPages for NoKernel {
    fn any(&self) -> bool {
        false
    }
    fn bring_in(&self) -> Brought {
        Brought::default()
    }
}
