//! Wrappers: each is a [`Store`](super::Store) around another one and changes one thing.

mod counting;
mod faulty;
mod limited;
mod retrying;
mod slow;

pub use counting::{Counters, Counting, Snapshot, Verb, VerbResult};
pub use faulty::{Faults, Faulty};
pub use limited::{Limited, Limits};
pub use retrying::{Retries, Retrying};
pub use slow::Slow;
