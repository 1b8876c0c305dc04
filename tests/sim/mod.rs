//! Seeded worlds around the log's own code: see `world`.

mod bounds;
pub mod bugs;
pub mod engine;
pub mod exec;
mod fenced;
pub mod janitor;
pub mod life;
pub mod node;
pub mod oracle;
pub mod reading;
pub mod store;
pub mod tree;
pub mod world;
pub mod writing;
