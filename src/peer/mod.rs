//! Who wants a volume asks the process that holds it, and is answered: *in use*, *draining* or *closed* (protocol.md 9). Who wants a full
//! commit of it wishes for one, and hears when it is stored.
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

pub use ask::{Heard, Wished, ask, wish};
pub use desk::{Answering, Desk};
pub use line::Line;

use crate::rpc::{Fulfilled, HolderAnswer, HolderState};
use crate::types::Seq;

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

/// What became of a wish for a full commit, of an instant after the wish was first heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// It is under way: so many bytes are in no commit yet.
    Pending(u64),
    /// It is stored.
    Made(Seq),
    /// Nothing was changed since the volume was opened there: the newest commit of the log has everything, if there is one.
    Needless,
}

impl Wish {
    fn to_wire(self, answer: HolderAnswer) -> HolderAnswer {
        let (fulfilled, dirty_bytes, commit) = match self {
            Self::Pending(bytes) => (Fulfilled::Pending, bytes, 0),
            Self::Made(commit) => (Fulfilled::Made, 0, commit),
            Self::Needless => (Fulfilled::Needless, 0, 0),
        };
        HolderAnswer { fulfilled: fulfilled.into(), dirty_bytes, commit, ..answer }
    }

    fn of_wire(answer: &HolderAnswer) -> Option<Self> {
        match answer.fulfilled.try_into().ok()? {
            Fulfilled::Pending => Some(Self::Pending(answer.dirty_bytes)),
            Fulfilled::Made => Some(Self::Made(answer.commit)),
            Fulfilled::Needless => Some(Self::Needless),
            Fulfilled::Unspecified => None,
        }
    }
}

/// The one method.
const METHOD: &str = "/holdfast.v1.Holder/Ask";
/// Of a message, either way: it has about 50.
const BYTES_MAX: usize = 1024;
