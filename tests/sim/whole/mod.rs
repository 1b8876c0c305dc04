//! Seeded worlds around the whole engine: volume, cache, hydrate, write-back and log as they are, several machines fighting for one volume
//! on the simulated store. See `world`.

mod apps;
pub mod bugs;
mod carry;
mod history;
mod judge;
pub mod life;
mod machine;
mod op;
mod shown;
mod tree;
pub mod world;
