//! Bytes <-> structs for each object in the store, and object names. Pure: no I/O, no clock, no chance (salts are passed in).
//!
//! ```text
//!  rpc message --protobuf--> bytes --codec--> 0 | 1, data --seal--> header, sealed frames, table --> object
//!  file extents ------------------- codec --> ...         --seal--> one pack of many frames
//! ```
//! [`names`] says where an object lies, [`seal`] draws its bytes, [`codec`] its frames, [`limits`] what a decoder takes, one module
//! each for the messages. `docs/format.md` is the prose, enough to write a reader from; `tests/reader` is one that was.

pub mod block;
pub mod branch;
pub mod changes;
pub mod checkpoint;
pub mod codec;
pub mod control;
pub mod delta;
mod error;
pub mod fuzz;
pub mod keys;
mod kind;
pub mod limits;
pub mod marker;
mod message;
pub mod name;
pub mod names;
pub mod pack;
pub mod proof;
pub mod record;
pub mod seal;
pub mod tree;
mod valid;
pub mod volume;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use error::{FormatError, Reason};

/// What this version writes and understands. A store's marker that says more is refused.
pub const FEATURE_LEVEL: u32 = 1;
