//! Contents: open and release, read and write, allocation, holes, copies, fsync.

use super::attrs::without_privileges;
use super::{Admission, Answer, Caller, Counters, Posix, PosixError, Result};
use crate::cache::{CopyOutcome, ReadOutcome, SavedReply, Whence, WriteOutcome};
use crate::types::{Attr, ByteRange, FILE_SIZE_MAX, FaultKind, Ino};

/// How often a read tries again after a fetch: eviction may take the bytes away in between.
const FETCHES_MAX: usize = 16;
/// Bytes that `copy` moves by one read and write.
const COPY_STEP: u64 = 1 << 20;
/// Bytes that one copy moves at most, so that it is no endless request; the caller asks again.
const COPY_MAX: u64 = 64 << 20;

/// `SEEK_DATA` or `SEEK_HOLE`.
pub type Seek = Whence;

/// What became of an operation that must not wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// Done.
    Done,
    /// Nothing was done: these bytes must be fetched first, on a thread that may wait.
    Absent(Vec<ByteRange>),
}

impl Posix {
    /// Opens a file; with `O_TRUNC` in the flags empties it first.
    ///
    /// # Errors
    /// `NoSpace` for writing at a limit, `ReadOnly`.
    pub fn open(&self, caller: &Caller, ino: Ino, flags: i32) -> Result<()> {
        if is_writable(flags) {
            if self.read_only {
                return Err(PosixError::ReadOnly);
            }
            self.gate.admit(Admission::OpenForWriting)?;
        }
        if flags & libc::O_TRUNC != 0 {
            self.empty(caller, ino)?;
        } else {
            self.getattr(ino)?;
        }
        self.note_open(caller, ino, flags);
        Ok(())
    }

    fn empty(&self, caller: &Caller, ino: Ino) -> Result<Attr> {
        let set = super::SetAttr { size: Some(0), ..super::SetAttr::default() };
        self.setattr(caller, ino, &set)
    }

    pub(super) fn note_open(&self, caller: &Caller, ino: Ino, flags: i32) {
        let writable = is_writable(flags);
        let request = caller.request.map(|request| request.unique);
        if !writable || self.handles.note(ino, request, caller.resent, true) {
            self.cache.opened(ino, writable);
        }
    }

    /// Ends a handle that was opened with these flags.
    pub fn release(&self, caller: &Caller, ino: Ino, flags: i32) {
        let writable = is_writable(flags);
        let request = caller.request.map(|request| request.unique);
        if !writable || self.handles.note(ino, request, caller.resent, false) {
            self.cache.released(ino, writable);
        }
    }

    /// Reads into `out` what is here.
    ///
    /// # Errors
    /// The cache failed.
    pub fn read(&self, ino: Ino, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<Written> {
        match self.cache.read(ino, offset, len, out)? {
            ReadOutcome::Done => {
                Counters::add(&self.counters.reads, 1);
                Counters::add(&self.counters.bytes_read, out.len() as u64);
                Ok(Written::Done)
            }
            ReadOutcome::Absent(ranges) => Ok(Written::Absent(ranges)),
        }
    }

    /// Reads, and waits for what is not here.
    ///
    /// # Errors
    /// `Io` when it cannot be had.
    pub fn read_waiting(&self, ino: Ino, offset: u64, len: usize, out: &mut Vec<u8>) -> Result<()> {
        self.waiting(ino, || self.read(ino, offset, len, out))
    }

    /// Takes a WRITE. `drop_privileges`: the kernel says that set-user-id and set-group-id end with it.
    ///
    /// # Errors
    /// Only when the cache's disk refuses; fsync and close then say so until the bytes are there.
    pub fn write(&self, caller: &Caller, ino: Ino, offset: u64, data: &[u8], drop_privileges: bool) -> Result<Written> {
        self.try_write(caller, ino, offset, data, drop_privileges).inspect_err(|error| self.lose(ino, offset, data.len(), *error))
    }

    /// Takes a WRITE, and waits for what it needs of the store.
    ///
    /// # Errors
    /// As `write`; `Io` when the rest of its page cannot be had.
    pub fn write_waiting(&self, caller: &Caller, ino: Ino, offset: u64, data: &[u8], drop_privileges: bool) -> Result<()> {
        // The application was told long ago that this write succeeded: a store that is away delays it and never fails it.
        let outcome = loop {
            match self.waiting(ino, || self.try_write(caller, ino, offset, data, drop_privileges)) {
                Err(PosixError::Unreachable) if !self.gate.is_closing() => {}
                Err(PosixError::Unreachable) => break Err(PosixError::Io),
                outcome => break outcome,
            }
        };
        outcome.inspect_err(|error| self.lose(ino, offset, data.len(), *error))
    }

    fn try_write(&self, caller: &Caller, ino: Ino, offset: u64, data: &[u8], drop_privileges: bool) -> Result<Written> {
        if self.answered(caller).is_some() {
            return Ok(Written::Done);
        }
        if drop_privileges {
            self.drop_privileges(ino)?;
        }
        match self.cache.write(caller.request, ino, offset, data)? {
            WriteOutcome::Absent(ranges) => return Ok(Written::Absent(ranges)),
            WriteOutcome::Done => {}
        }
        Counters::add(&self.counters.writes, 1);
        Counters::add(&self.counters.bytes_written, data.len() as u64);
        self.lost.cure(ino, offset..offset.saturating_add(data.len() as u64));
        Ok(Written::Done)
    }

    fn lose(&self, ino: Ino, offset: u64, length: usize, error: PosixError) {
        Counters::add(&self.counters.lost_writes, 1);
        tracing::error!(ino, offset, length, %error, "a write could not be kept");
        self.lost.add(ino, offset..offset.saturating_add(length as u64), error);
    }

    fn drop_privileges(&self, ino: Ino) -> Result<()> {
        let attr = self.getattr(ino)?;
        if without_privileges(attr.mode) == attr.mode {
            return Ok(());
        }
        self.cache.update(None, |update| {
            let mut attr = update.attr(ino)?.ok_or(PosixError::NotFound)?;
            attr.mode = without_privileges(attr.mode);
            attr.ctime = update.now();
            update.set_attr(&attr)?;
            Ok(((), SavedReply::Empty))
        })
    }

    /// Allocates, punches or zeroes; `mode` as of fallocate(2).
    ///
    /// # Errors
    /// `NotSupported` for other modes, `NoSpace` at a limit.
    pub fn fallocate(&self, caller: &Caller, ino: Ino, mode: i32, offset: u64, length: u64) -> Result<Written> {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        const ZERO_KEEP: i32 = ZERO | KEEP;
        if self.answered(caller).is_some() {
            return Ok(Written::Done);
        }
        self.change()?;
        let end = offset.checked_add(length).filter(|end| *end <= FILE_SIZE_MAX).ok_or(PosixError::FileTooLarge)?;
        match mode {
            0 | ZERO => self.gate.admit(Admission::Grow)?,
            KEEP | ZERO_KEEP | PUNCH => {}
            _ => return Err(PosixError::NotSupported),
        }
        let attr = self.getattr(ino)?;
        if !attr.is_file() {
            return Err(if attr.is_dir() { PosixError::IsDirectory } else { PosixError::NoData });
        }
        match self.cache.fallocate(caller.request, ino, mode, offset, length)? {
            WriteOutcome::Absent(ranges) => return Ok(Written::Absent(ranges)),
            WriteOutcome::Done => {}
        }
        if mode & !KEEP != 0 {
            self.lost.cure(ino, offset..end);
        }
        Ok(Written::Done)
    }

    /// As `fallocate`, and waits for what it needs of the store.
    ///
    /// # Errors
    /// As `fallocate`; `Io` when a page cannot be had.
    pub fn fallocate_waiting(&self, caller: &Caller, ino: Ino, mode: i32, offset: u64, length: u64) -> Result<()> {
        self.waiting(ino, || self.fallocate(caller, ino, mode, offset, length))
    }

    /// The next data or hole at or after `offset`.
    ///
    /// # Errors
    /// `NoData` beyond the end.
    pub fn seek(&self, ino: Ino, offset: u64, whence: Seek) -> Result<u64> {
        self.cache.seek(ino, offset, whence)?.ok_or(PosixError::NoData)
    }

    /// Copies within the volume: shares what is stored, else reads and writes. May wait for the store. Returns how much was
    /// copied, possibly less than asked.
    ///
    /// # Errors
    /// `NoSpace` at a limit, `Io` when the source cannot be had.
    pub fn copy(&self, caller: &Caller, from: (Ino, u64), to: (Ino, u64), length: u64) -> Result<u32> {
        if let Some(SavedReply::Size(copied)) = self.answered(caller) {
            return Ok(copied);
        }
        self.change()?;
        self.gate.admit(Admission::Grow)?;
        let length = length.min(COPY_MAX);
        to.1.checked_add(length).filter(|end| *end <= FILE_SIZE_MAX).ok_or(PosixError::FileTooLarge)?;
        let mut copied = 0;
        let mut buffer = Vec::new();
        while copied < length {
            let (at, target) = (from.1 + copied, to.1 + copied);
            // A record of a part would answer a resent request with that part: only the bytes are idempotent, so no id.
            let step = match self.cache.copy_range(None, from.0, at, to.0, target, length - copied)? {
                CopyOutcome::Shared(shared) => shared,
                CopyOutcome::Copy => self.copy_bytes(from.0, at, (to.0, target), COPY_STEP.min(length - copied), &mut buffer)?,
            };
            if step == 0 {
                break;
            }
            self.lost.cure(to.0, target..target + step);
            copied += step;
        }
        Ok(copied as u32)
    }

    fn copy_bytes(&self, from: Ino, at: u64, to: (Ino, u64), length: u64, buffer: &mut Vec<u8>) -> Result<u64> {
        self.read_waiting(from, at, length as usize, buffer)?;
        if buffer.is_empty() {
            return Ok(0);
        }
        let nobody = Caller { uid: 0, gid: 0, request: None, resent: false };
        self.write_waiting(&nobody, to.0, to.1, buffer, false)?;
        Ok(buffer.len() as u64)
    }

    /// What a close must say: whether bytes of this file were lost.
    ///
    /// # Errors
    /// The error of the write that was lost.
    pub fn flush(&self, ino: Ino) -> Result<()> {
        self.lost.check(ino)
    }

    /// Makes a file survive the loss of power. May take as long as the disk does. What more an fsync means in its tier is in
    /// [`Posix::after_commit`].
    ///
    /// # Errors
    /// Bytes were lost, the disk failed, or the volume makes no promises any more.
    pub fn fsync(&self, ino: Ino, datasync: bool) -> Result<()> {
        self.lost.check(ino)?;
        self.gate.admit(Admission::Sync)?;
        Ok(self.cache.fsync(ino, datasync)?)
    }

    /// Makes the entries of a directory survive the loss of power.
    ///
    /// # Errors
    /// As `fsync`.
    pub fn fsyncdir(&self, ino: Ino) -> Result<()> {
        self.gate.admit(Admission::Sync)?;
        Ok(self.cache.fsyncdir(ino)?)
    }

    /// After `fsync` or `fsyncdir` of this inode: answers now, or, where its tier is `strict`, when a commit holds it. Does not wait itself.
    pub fn after_commit(&self, ino: Ino, answer: Answer) {
        self.gate.after_commit(ino, answer);
    }

    fn waiting(&self, ino: Ino, mut attempt: impl FnMut() -> Result<Written>) -> Result<()> {
        for _ in 0..FETCHES_MAX {
            match attempt()? {
                Written::Done => return Ok(()),
                Written::Absent(ranges) => {
                    Counters::add(&self.counters.fetches, 1);
                    self.fetch.fetch(ino, &ranges).map_err(|error| {
                        tracing::warn!(ino, ?ranges, error = &error as &dyn std::error::Error, "bytes could not be fetched");
                        if error.kind == FaultKind::Unknown { PosixError::Unreachable } else { PosixError::Io }
                    })?;
                }
            }
        }
        tracing::error!(ino, "fetched bytes are evicted before they can be used: the cache is too small for its load");
        Err(PosixError::Io)
    }
}

fn is_writable(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}
