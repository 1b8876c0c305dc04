//! Seeded worlds around the log's own code: see `world`.

mod bounds;
pub mod bugs;
#[path = "../common/cut.rs"]
mod cut;
pub mod engine;
pub mod exec;
mod fenced;
pub mod janitor;
pub mod life;
pub mod node;
pub mod oracle;
pub mod reading;
pub mod store;
mod strand;
pub mod tree;
pub mod whole;
pub mod world;
pub mod writing;
