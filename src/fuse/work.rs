//! What may have to wait: done at once when nothing is missing, else on a pool with its reply.
//!
//! Three pools, so that none waits for another: *fetches* wait for the store, *flushes* wait for WRITEs that the handlers
//! answer, *syncs* wait for the disk.

use super::attr::{FOREVER, GENERATION, to_fuser};
use super::buffers::Muster;
use super::errno::errno;
use super::holder::Holder;
use super::journal::Journal;
use super::outside::{Open, Outside};
use super::pool::Pool;
use super::session::Init;
use super::times::{Op, Timed, Times};
use crate::env::Env;
use crate::types::{ByteRange, Fault, Ino};
use crate::volume::{Caller, Posix, PosixError, RenameMode, Seek, Written};
use crate::writeback::Brought;
use fuser::{ReplyData, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyWrite, ReplyXattr, Request};
use nix::errno::Errno;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const FETCH_THREADS: usize = 32;
const FLUSH_THREADS: usize = 8;
const SYNC_THREADS: usize = 16;
const DELAY_THREADS: usize = 64;

/// How long names and attributes are believed by a kernel that cannot send requests again.
const SOON: Duration = Duration::from_secs(1);

thread_local! {
    // A READ's bytes: as large as the largest READ, for as long as the thread lives.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One connection's volume, pools and state.
pub(super) struct Work {
    posix: Arc<Posix>,
    hands: Hands,
    env: Env,
    connection: u64,
    init: Mutex<Option<Init>>,
    ended: AtomicBool,
    muster: Muster,
    fetches: Pool,
    flushes: Pool,
    syncs: Pool,
    delays: Pool,
    // Handlers that are in an fsync; at most half of them, the others must answer READs and WRITEs.
    syncing: AtomicUsize,
    syncing_max: usize,
    times: Times,
    // Only where the kernel cannot send requests again.
    journal: OnceLock<Journal>,
}

impl Work {
    pub(super) fn new(posix: Arc<Posix>, env: Env, hands: Hands, connection: u64, init: Option<Init>, threads: usize) -> Self {
        Self {
            posix,
            hands,
            env,
            connection,
            init: Mutex::new(init),
            ended: AtomicBool::new(false),
            muster: Muster::default(),
            fetches: Pool::new("fuse-fetch", FETCH_THREADS),
            flushes: Pool::new("fuse-flush", FLUSH_THREADS),
            syncs: Pool::new("fuse-sync", SYNC_THREADS),
            delays: Pool::new("fuse-delay", DELAY_THREADS),
            syncing: AtomicUsize::new(0),
            syncing_max: threads / 2,
            times: Times::default(),
            journal: OnceLock::new(),
        }
    }

    pub(super) fn posix(&self) -> &Posix {
        &self.posix
    }

    /// From now until it is dropped.
    pub(super) fn timed(&self, op: Op) -> Timed<'_> {
        Timed::new(self.times.of(op), &self.env)
    }

    pub(super) fn times(&self) -> &Times {
        &self.times
    }

    pub(super) fn connection(&self) -> u64 {
        self.connection
    }

    pub(super) fn init(&self) -> Option<Init> {
        *self.init.lock()
    }

    pub(super) fn set_init(&self, init: Init) {
        *self.init.lock() = Some(init);
    }

    /// From now on requests are written down when they are read.
    pub(super) fn keep_journal(&self, journal: Journal) {
        if self.journal.set(journal).is_err() {
            tracing::warn!("there is a journal of requests already");
        }
    }

    /// Where the threads that read the device wait for one another at first.
    pub(super) fn muster(&self) -> &Muster {
        &self.muster
    }

    /// First of all, on the thread that has read it.
    pub(super) fn received(&self, request: &Request) {
        if let Some(journal) = self.journal.get() {
            journal.note(request.unique().0);
        }
    }

    /// How long the kernel may believe names and attributes: for ever, since it makes all changes itself. One that it was told has
    /// failed (see `journal`) may have been made: there it must ask again soon.
    pub(super) fn believed(&self) -> Duration {
        if self.journal.get().is_some() { SOON } else { FOREVER }
    }

    /// A failpoint between a change and its answer.
    pub(super) fn before_reply(&self) {
        self.env.failpoint("fuse.after_change_before_reply");
    }

    /// The connection is gone: nothing more comes from the kernel, whatever was open when it ended.
    pub(super) fn close(&self) {
        self.ended.store(true, Ordering::Release);
        for pool in [&self.fetches, &self.flushes, &self.syncs, &self.delays] {
            pool.close();
        }
    }

    pub(super) fn any_writable(&self) -> bool {
        self.posix.any_writable_open() && !self.ended.load(Ordering::Acquire)
    }

    /// Brings in what the kernel holds of every file open for writing, with the size it had before (protocol.md 6.2).
    pub(super) fn bring_in(&self) -> Brought {
        let open = self.posix.writable_open();
        if open.is_empty() || self.ended.load(Ordering::Acquire) {
            return Brought::default();
        }
        let brought = match &self.hands {
            Hands::Own(outside) => outside.bring_in(&open).map_err(Fault::from),
            Hands::Holder(holder) => holder.bring_in(&open),
        };
        let brought = match brought {
            Ok(brought) => brought,
            Err(error) => {
                tracing::warn!(%error, "what the kernel holds cannot be brought in: it comes when the kernel sends it, within half a minute");
                return Brought { missed: Some(error.to_string()), ..Brought::default() };
            }
        };
        let mut missed = None;
        for file in brought.iter().filter(|file| file.errno != 0 && self.is_missed(file.ino)) {
            // A WRITE that failed is known by its own error too, kept for fsync.
            tracing::warn!(ino = file.ino, errno = file.errno, "the kernel's bytes of a file could not all be brought in");
            missed = Some(format!("inode {}: {}", file.ino, std::io::Error::from_raw_os_error(file.errno)));
        }
        // Below the size of a file whose pages did not all come, a gap may be one that they fill.
        let came = brought.iter().filter(|file| file.errno == 0);
        Brought { sizes: came.filter_map(|file| file.size.map(|size| (file.ino, size))).collect(), missed }
    }

    // A file that was closed meanwhile has sent everything; one without a name is in no commit.
    fn is_missed(&self, ino: Ino) -> bool {
        self.posix.is_writable_open(ino) && self.posix.getattr(ino).is_ok_and(|attr| attr.nlink > 0)
    }

    pub(super) fn unmount(&self, lazy: bool) -> Result<Result<(), Errno>, Fault> {
        match &self.hands {
            Hands::Own(outside) => Ok(outside.unmount(lazy)),
            Hands::Holder(holder) => holder.unmount(lazy),
        }
    }

    pub(super) fn read(self: &Arc<Self>, ino: Ino, offset: u64, len: usize, reply: ReplyData) {
        let mut reply = Some(reply);
        BUFFER.with_borrow_mut(|buffer| match self.posix.read(ino, offset, len, buffer) {
            Ok(Written::Done) => {
                if let Some(reply) = reply.take() {
                    reply.data(buffer);
                }
            }
            Ok(Written::Absent(_)) => {}
            Err(error) => {
                if let Some(reply) = reply.take() {
                    reply.error(errno(error));
                }
            }
        });
        let Some(reply) = reply else { return };
        let work = Arc::clone(self);
        self.fetches.run(move || {
            let mut buffer = Vec::new();
            match work.posix.read_waiting(ino, offset, len, &mut buffer) {
                Ok(()) => reply.data(&buffer),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    pub(super) fn write(self: &Arc<Self>, caller: Caller, ino: Ino, offset: u64, data: &[u8], drop_privileges: bool, reply: ReplyWrite) {
        let delay = self.posix.write_delay();
        if delay.is_none() {
            match self.posix.write(&caller, ino, offset, data, drop_privileges) {
                Ok(Written::Done) => {
                    self.before_reply();
                    return reply.written(data.len() as u32);
                }
                Ok(Written::Absent(_)) => {}
                Err(error) => return reply.error(errno(error)),
            }
        }
        let (work, data) = (Arc::clone(self), data.to_vec());
        let job = move || match work.posix.write_waiting(&caller, ino, offset, &data, drop_privileges) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(errno(error)),
        };
        match delay {
            None => self.fetches.run(job),
            Some(delay) => self.delays.run_after(delay, job),
        }
    }

    pub(super) fn fallocate(self: &Arc<Self>, caller: Caller, ino: Ino, mode: i32, range: ByteRange, reply: ReplyEmpty) {
        let (offset, length) = (range.start, range.end - range.start);
        match self.posix.fallocate(&caller, ino, mode, offset, length) {
            Ok(Written::Done) => {
                self.before_reply();
                return reply.ok();
            }
            Ok(Written::Absent(_)) => {}
            Err(error) => return reply.error(errno(error)),
        }
        let work = Arc::clone(self);
        self.fetches.run(move || done(work.posix.fallocate_waiting(&caller, ino, mode, offset, length), reply));
    }

    pub(super) fn copy(self: &Arc<Self>, caller: Caller, from: (Ino, u64), to: (Ino, u64), length: u64, reply: ReplyWrite) {
        let work = Arc::clone(self);
        self.fetches.run(move || match work.posix.copy(&caller, from, to, length) {
            Ok(copied) => reply.written(copied),
            Err(error) => reply.error(errno(error)),
        });
    }

    /// fsync or fsyncdir: on the handler's own thread (a hand-over costs as much as a fast disk's flush) unless half of the
    /// handlers do so already. One that waits for a commit keeps its reply and no thread.
    pub(super) fn sync(
        self: &Arc<Self>,
        ino: Ino,
        sync: impl FnOnce(&Posix) -> Result<(), PosixError> + Send + 'static,
        reply: ReplyEmpty,
    ) {
        let (work, began) = (Arc::clone(self), self.env.monotonic());
        let answer = move |synced| {
            work.times.syncs().record(work.env.monotonic().saturating_sub(began));
            done(synced, reply);
        };
        if self.syncing.fetch_add(1, Ordering::AcqRel) < self.syncing_max {
            let synced = sync(&self.posix);
            self.syncing.fetch_sub(1, Ordering::AcqRel);
            return self.synced(ino, synced, answer);
        }
        self.syncing.fetch_sub(1, Ordering::AcqRel);
        let work = Arc::clone(self);
        self.syncs.run(move || {
            let synced = sync(&work.posix);
            work.synced(ino, synced, answer);
        });
    }

    fn synced(&self, ino: Ino, synced: Result<(), PosixError>, answer: impl FnOnce(Result<(), PosixError>) + Send + 'static) {
        match synced {
            Ok(()) => self.posix.after_commit(ino, Box::new(answer)),
            Err(_) => answer(synced),
        }
    }

    /// What the kernel holds of a file that is about to get another name comes in before (protocol.md 6.3). The kernel has
    /// this file locked until the reply; closing the descriptor of the flush may want that lock: after the reply.
    pub(super) fn rename(self: &Arc<Self>, caller: Caller, from: (Ino, &[u8]), to: (Ino, &[u8]), mode: RenameMode, reply: ReplyEmpty) {
        let mut moved = self.posix.rename_moves(from, to, mode);
        moved.retain(|ino| self.posix.is_writable_open(*ino));
        if moved.is_empty() {
            let renamed = self.posix.rename(&caller, from, to, mode);
            self.before_reply();
            return done(renamed, reply);
        }
        let work = Arc::clone(self);
        let (from, to) = ((from.0, from.1.to_vec()), (to.0, to.1.to_vec()));
        self.flushes.run(move || {
            let flushed = work.flush_before(&moved);
            let renamed = work.posix.rename(&caller, (from.0, &from.1), (to.0, &to.1), mode);
            work.before_reply();
            done(renamed, reply);
            drop(flushed);
        });
    }

    pub(super) fn link(self: &Arc<Self>, caller: Caller, ino: Ino, dir: Ino, name: &[u8], reply: ReplyEntry) {
        if !self.posix.is_writable_open(ino) {
            return self.link_now(&caller, ino, dir, name, reply);
        }
        let (work, name) = (Arc::clone(self), name.to_vec());
        self.flushes.run(move || {
            let flushed = work.flush_before(&[ino]);
            work.link_now(&caller, ino, dir, &name, reply);
            drop(flushed);
        });
    }

    fn link_now(&self, caller: &Caller, ino: Ino, dir: Ino, name: &[u8], reply: ReplyEntry) {
        let linked = self.posix.link(caller, ino, dir, name);
        self.before_reply();
        match linked {
            Ok(attr) => reply.entry(&self.believed(), &to_fuser(&attr, self.posix.allocated(&attr)), GENERATION),
            Err(error) => reply.error(errno(error)),
        }
    }

    /// The kernel asks without sending what it holds: bytes not yet sent would be shown as a hole, and be left out by tools
    /// that copy only data. So they come in first.
    pub(super) fn seek(self: &Arc<Self>, ino: Ino, offset: u64, whence: Seek, reply: ReplyLseek) {
        if !self.posix.is_writable_open(ino) {
            return self.seek_now(ino, offset, whence, reply);
        }
        let work = Arc::clone(self);
        self.flushes.run(move || {
            let flushed = work.flush_before(&[ino]);
            work.seek_now(ino, offset, whence, reply);
            drop(flushed);
        });
    }

    fn seek_now(&self, ino: Ino, offset: u64, whence: Seek, reply: ReplyLseek) {
        match self.posix.seek(ino, offset, whence) {
            Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
            Err(error) => reply.error(errno(error)),
        }
    }

    /// Where a file stands. What the kernel holds of it comes in before, and counts: to us it would be as if it were not there.
    pub(super) fn state(self: &Arc<Self>, ino: Ino, name: &[u8], size: u32, reply: ReplyXattr) {
        if !self.posix.is_writable_open(ino) {
            return value(self.posix.getxattr(ino, name), size, reply);
        }
        let (work, name) = (Arc::clone(self), name.to_vec());
        self.flushes.run(move || {
            let mut open = Vec::new();
            match work.flush(ino, &mut open) {
                // Closed meanwhile, it has sent everything.
                Err(error) if work.posix.is_writable_open(ino) => {
                    tracing::warn!(ino, %error, "what the kernel holds of a file could not be brought in, so nobody knows where it stands");
                    reply.error(errno(PosixError::Io));
                }
                Ok(()) | Err(_) => value(work.posix.getxattr(ino, &name), size, reply),
            }
            drop(open);
        });
    }

    // Returns what is to be closed after the reply. A file closed meanwhile holds nothing back.
    fn flush_before(&self, inodes: &[Ino]) -> Vec<Flushed<'_>> {
        let mut open = Vec::new();
        for ino in inodes.iter().filter(|ino| self.posix.is_writable_open(**ino)) {
            if let Err(error) = self.flush(*ino, &mut open) {
                tracing::warn!(ino, %error, "the kernel's bytes of a file could not all be brought in before an operation on it");
            }
        }
        open
    }

    fn flush<'a>(&'a self, ino: Ino, open: &mut Vec<Flushed<'a>>) -> Result<(), Fault> {
        match &self.hands {
            Hands::Own(outside) => {
                let (flushed, file) = outside.flush(ino);
                open.push(Flushed::Own { _file: file });
                flushed.map_err(Fault::from)
            }
            Hands::Holder(holder) => holder.flush(ino).map(|line| open.push(Flushed::Line { _line: line })),
        }
    }
}

/// Whose thread uses the mount from outside.
#[derive(Debug)]
pub(super) enum Hands {
    /// This process's, as there is no holder. Killed meanwhile, it could not end before somebody aborts the connection.
    Own(Outside),
    /// The holder's.
    Holder(Holder),
}

enum Flushed<'a> {
    Own { _file: Open<'a> },
    Line { _line: OwnedFd },
}

/// An extended attribute, or its length.
pub(super) fn value(found: Result<Vec<u8>, PosixError>, room: u32, reply: ReplyXattr) {
    match found {
        Ok(value) if room == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > room as usize => reply.error(errno(PosixError::BufferTooSmall)),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(error)),
    }
}

fn done(result: Result<(), PosixError>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work").field("connection", &self.connection).finish_non_exhaustive()
    }
}
