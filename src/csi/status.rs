//! What became of a request -> the gRPC status: one table, exhaustive.

use crate::controller::Problem;
use crate::types::{Fault, FaultKind};
use tonic::{Code, Status};

/// The code of a kind. Whatever may heal by itself is one that the caller tries again with, and never reads as an end.
#[must_use]
pub fn code(kind: FaultKind) -> Code {
    match kind {
        FaultKind::Invalid => Code::InvalidArgument,
        FaultKind::NotFound | FaultKind::Stale => Code::NotFound,
        FaultKind::Exists => Code::AlreadyExists,
        // Refused credentials are the store's answer to us, not ours to the caller: nothing is known of the volume.
        FaultKind::Unknown | FaultKind::Denied => Code::Unavailable,
        FaultKind::Damaged => Code::DataLoss,
        FaultKind::Fenced | FaultKind::TooNew => Code::FailedPrecondition,
        FaultKind::Busy => Code::Aborted,
        FaultKind::Full => Code::ResourceExhausted,
        FaultKind::Local => Code::Internal,
    }
}

pub(super) fn of_fault(fault: &Fault) -> Status {
    Status::new(code(fault.kind), fault.to_string())
}

pub(super) fn of(problem: &Problem) -> Status {
    match problem {
        Problem::Fault(fault) => of_fault(fault),
        Problem::OutOfRange(why) => Status::out_of_range(why),
        Problem::Precondition(why) => Status::failed_precondition(why),
    }
}
