//! Seeded worlds around the whole engine: volume, cache, hydrate, write-back and log as they are, several machines fighting for one volume
//! on the simulated store. See `world`.

mod apps;
pub mod bugs;
mod carry;
mod history;
pub mod janitor;
mod judge;
mod kept;
mod kernel;
pub mod life;
mod machine;
mod op;
pub mod person;
mod shown;
mod tiers;
mod tree;
pub mod world;
