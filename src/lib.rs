//! Holdfast: an ordinary POSIX directory at local-disk speed whose every write streams to an object store as a log of
//! consistent commits. ARCHITECTURE.md is the map of the modules; they depend only downwards (`tests/tidy.rs`).

pub mod cache;
pub mod cli;
pub mod config;
pub mod controller;
pub mod csi;
pub mod env;
pub mod format;
pub mod fuse;
pub mod history;
pub mod hydrate;
pub mod keeper;
pub mod log;
pub mod node;
pub mod peer;
pub mod policy;
pub mod rpc;
pub mod store;
pub mod telemetry;
pub mod types;
pub mod volume;
pub mod writeback;
