//! One open volume: POSIX operations, handles, fsync.

mod ops;

pub use ops::{
    Admission, Caller, Counters, Fetch, Gate, NewEntry, NoLimits, Options, Posix, PosixError, RenameMode, Seek, SetAttr, SetTime, Written,
};
