//! Seeded worlds around the log's own code: see `world`.

pub mod bugs;
pub mod engine;
pub mod exec;
pub mod janitor;
pub mod node;
pub mod oracle;
pub mod store;
pub mod world;
