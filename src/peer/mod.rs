//! Who wants a volume asks the process that holds it, and is answered: *in use*, *draining* or *closed* (protocol.md 9).
//!
//! ```text
//! plan     what follows from each answer: pure
//! ask      asks, and believes only who proves the data key in this very session
//! desk     listens and answers: bounded in connections, bytes and time
//! tls      a certificate for each process, pinned by its hash; what a session exports
//! ```
//! gRPC (`proto/peer.proto`) over TLS 1.3. The `open` record names address and certificate, so a driver that was started again is asked with
//! its own `open`. Nothing but an authenticated answer is one: refused, silent, another certificate, a wrong proof are all *unknown*. No
//! answer makes a takeover safe or unsafe, the log alone does; it only says whom to wait for.

mod ask;
mod desk;
mod line;
pub mod plan;
mod tls;

#[cfg(test)]
mod tests;

pub use ask::{Heard, ask};
pub use desk::{Answering, Desk};
pub use line::Line;

use crate::rpc::HolderState;

/// What a holder says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is mounted there.
    InUse,
    /// It is being unmounted there: so many bytes are in no commit yet.
    Draining(u64),
    /// It has let it go: everything is in a commit, and the log closed.
    Closed,
    /// That process does not hold it, or not any more.
    NotMine,
}

impl Answer {
    fn to_wire(self) -> (HolderState, u64) {
        match self {
            Self::InUse => (HolderState::InUse, 0),
            Self::Draining(bytes) => (HolderState::Draining, bytes),
            Self::Closed => (HolderState::Closed, 0),
            Self::NotMine => (HolderState::NotMine, 0),
        }
    }

    fn of_wire(state: HolderState, dirty: u64) -> Option<Self> {
        match state {
            HolderState::InUse => Some(Self::InUse),
            HolderState::Draining => Some(Self::Draining(dirty)),
            HolderState::Closed => Some(Self::Closed),
            HolderState::NotMine => Some(Self::NotMine),
            HolderState::Unspecified => None,
        }
    }
}

/// The one method.
const METHOD: &str = "/holdfast.v1.Holder/Ask";
/// Of a message, either way: it has about 50.
const BYTES_MAX: usize = 1024;
