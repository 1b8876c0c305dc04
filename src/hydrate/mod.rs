//! Store -> cache: the metadata at opening, data on demand, and ahead of demand.
//!
//! ```text
//! open      newest checkpoint's parts (side by side) + deltas after it -> Loader        load
//! a read    ranges that are not here -> frames -> few ranged GETs -> install            Fetcher, install
//! freed     an inline frame whose record is gone -> where the newest checkpoint has it   moved
//! beside    the pack around a small file, kept for the file that is read next            blocks
//! ahead     all that is missing, many files of a pack by one request, behind the reads    prefetch
//! ```

mod blocks;
mod fetch;
mod install;
mod load;
mod moved;
mod plan;
mod prefetch;

pub use fetch::{FetchOptions, Fetcher};
pub use load::{Source, load};
pub use prefetch::{Prefetch, prefetch};
