//! Holdfast: an ordinary POSIX directory at local-disk speed whose every write streams to an object store as a log of
//! consistent commits. ARCHITECTURE.md is the map of the modules; they depend only downwards (`tests/tidy.rs`).

pub mod cache;
pub mod env;
pub mod format;
pub mod log;
pub mod rpc;
pub mod store;
pub mod types;
