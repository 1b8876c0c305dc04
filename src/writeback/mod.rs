//! Cache -> store: what is due is sealed at a cut, packed, uploaded, and made a commit.
//!
//! ```text
//! plan      when to seal, how to cut frames                      pure
//! domain    to which tier a change belongs                       asked at the flip
//! upload    frozen content -> packs or inline frames             bounded memory
//! run       seal -> upload -> durable here -> intent -> put -> resolve; checkpoints; drain
//! protocol  the order that keeps data safe: window, failpoint, test
//! ```

mod checkpoint;
mod domain;
mod plan;
mod progress;
mod upload;

pub use checkpoint::Tail;
pub use domain::Classifier;
pub use progress::{LastCommit, Progress, State, Trouble};
