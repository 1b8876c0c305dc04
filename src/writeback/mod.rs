//! Cache -> store: what is due is sealed at a cut, packed, uploaded, and made a commit.
//!
//! ```text
//! plan        when to seal, how to cut frames                      pure
//! domain      to which tier a change belongs                       asked at the flip
//! upload      frozen content -> packs or inline frames             bounded memory
//! commit      seal -> upload -> durable here -> intent -> put -> resolve
//! checkpoint  the deltas since the last one -> the next one        parts are shared
//! clone       the tree of another incarnation's commit -> a first commit
//! run         the loop; flush, drain, cancel
//! protocol    the order that keeps data safe: window, failpoint, test
//! ```

mod checkpoint;
mod clone;
mod commit;
mod domain;
mod plan;
mod progress;
pub mod protocol;
mod run;
mod upload;

pub use checkpoint::Tail;
pub use clone::{Cloned, clone_tree};
pub use domain::Classifier;
pub use progress::{LastCommit, Progress, State, Trouble};
pub use run::{Ended, KernelPages, Loop, NoKernel, Parts, WriteBack};
