//! One open volume: POSIX operations, handles, fsync, and its life from opening to close.
//!
//! ```text
//! ops      one method per operation over the cache, without the kernel
//! open     whose volume it is; whether the cache goes on; what a fresh one is filled with
//! live     the tasks of a volume: write-back, prefetch, upkeep; flush and close
//! resume   a live mount is taken over: its cache first, the log later
//! late     the part that needs the store, which a resumed mount has only later
//! holder   who else may have the volume, and how long he is waited for
//! limits   what is refused or slowed, and when
//! strict   fsyncs that wait for a commit
//! branch   what a cache had not committed when another writer took the volume
//! reader   a moment of a volume, to be read only
//! restore  a new volume that begins with a commit of another
//! first    the first commit of a volume that nobody wrote to
//! in_place a volume that goes on from an older commit of itself
//! next     what was asked for on the next mount
//! scrub    the cache against the newest commit and the checksums
//! source   from the log to what hydrate and write-back begin with
//! upkeep   the cache's background work; a cache that is found damaged
//! ```

mod branch;
mod first;
mod holder;
mod in_place;
mod late;
mod limits;
mod live;
mod next;
mod open;
mod ops;
mod reader;
mod restore;
mod resume;
mod scrub;
mod source;
mod strict;
mod upkeep;

pub use first::first_commit;
pub use in_place::{ASKED, InPlace, InPlaceParams, UNDO, ask, restore_in_place, withdraw};
pub use limits::Sizes;
pub use live::{HydrateMode, RunOptions, Volume};
pub use open::{OpenParams, Report, Waiting};
pub use ops::{
    Admission, Answer, Caller, Counters, Fetch, Gate, NewEntry, NoLimits, Options, Posix, PosixError, RenameMode, Seek, SetAttr, SetTime,
    Written, is_state,
};
pub use reader::{Moment, ReaderDir, mounted_reader_cache, reader_cache, reader_of};
pub use restore::{AUTHOR, CLONE, Restorable, RestoreParams, Restored, release, restore};
pub use scrub::{BadData, Outdated, ScrubReport, Scrubs, TellKernel};
