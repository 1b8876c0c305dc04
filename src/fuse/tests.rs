//! Through the kernel.
