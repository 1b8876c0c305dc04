//! Cache -> store: what is due is sealed at a cut, packed, uploaded, and made a commit.
//!
//! ```text
//! plan        when to seal, how to cut frames                      pure
//! domain      to which tier a change belongs                       asked at the flip
//! survey      how long each tier has been dirty                    asked between seals
//! upload      frozen content -> packs or inline frames             bounded memory
//! reuse       what was uploaded and never committed             found again by content
//! delta       what a seal changed -> the commit, or packs         bounded memory
//! commit      seal -> upload -> durable here -> intent -> put -> resolve
//! checkpoint  the deltas since the last one -> the next one        parts are shared
//! branch      what a fenced writer had not committed -> beside the log
//! clone       the tree of another incarnation's commit -> a first commit
//! turn        the tree of an older commit -> one more commit
//! run         the loop; flush, sync, drain, cancel
//! inbox       who waits for which commit
//! kernel      what the kernel holds of files in front
//! protocol    the order that keeps data safe: window, failpoint, test
//! ```

mod branch;
mod checkpoint;
mod clone;
mod commit;
mod delta;
mod domain;
mod inbox;
mod kernel;
mod plan;
mod progress;
pub mod protocol;
mod reuse;
mod run;
mod survey;
mod turn;
mod upload;

#[cfg(test)]
mod tests;

pub use branch::{BranchNews, BranchPhase, Brancher, Branches, Kept};
pub use checkpoint::Tail;
pub use clone::{Cloned, clone_tree};
pub use domain::{Classifier, paths_of};
pub use kernel::{Brought, KernelPages, NoKernel};
pub use plan::QUIET_MAX;
pub use progress::{LastCommit, Progress, State, Trouble};
pub use run::{Ended, Lag, Loop, Parts, WriteBack};
pub use turn::{Turned, turn_back};
