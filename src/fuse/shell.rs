//! The handlers: decode, one operation of the volume, reply.
//!
//! A handler runs on a thread that reads the device and must not wait for the store, for a flush, or for another handler.
//! What would wait is handed to a pool together with its reply.

use super::attr::{GENERATION, file_type, from_request, from_system, negative, to_fuser};
use super::errno::errno;
use super::session::negotiate;
use super::times::Op;
use super::work::{Work, value};
use crate::cache::RequestId;
use crate::types::{Attr, PAGE};
use crate::volume::{Caller, NewEntry, Posix, PosixError, RenameMode, Seek, SetAttr};
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, INodeNo, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// The kernel's mark on a request that it sends a second time.
const RESENT: u64 = 1 << 63;
/// Handles say nothing: a successor could not know what they meant.
const HANDLE: FileHandle = FileHandle(0);
/// Entries looked up at a time: about what fits the kernel's buffer of a page, without and with attributes.
const LIST_BATCH: usize = 128;
const LIST_PLUS_BATCH: usize = 32;

/// What fuser calls.
#[derive(Debug)]
pub(super) struct Shell {
    work: Arc<Work>,
}

impl Shell {
    pub(super) fn new(work: Arc<Work>) -> Self {
        Self { work }
    }

    fn posix(&self) -> &Posix {
        self.work.posix()
    }

    fn empty(&self, done: Result<(), PosixError>, reply: ReplyEmpty) {
        self.work.before_reply();
        match done {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn caller(&self, request: &Request) -> Caller {
        self.work.received(request);
        let unique = request.unique().0;
        Caller {
            uid: request.uid(),
            gid: request.gid(),
            request: Some(RequestId { conn_epoch: self.work.connection(), unique: unique & !RESENT }),
            resent: unique & RESENT != 0,
        }
    }

    fn attributes(&self, attr: &Attr) -> FileAttr {
        to_fuser(attr, self.posix().allocated(attr))
    }

    // Between a change and its answer: a crash here is what the record of answers is for.
    fn entry(&self, made: Result<Attr, PosixError>, reply: ReplyEntry) {
        self.work.before_reply();
        match made {
            Ok(attr) => reply.entry(&self.work.believed(), &self.attributes(&attr), GENERATION),
            Err(error) => reply.error(errno(error)),
        }
    }
}

// An attribute's value or list, or its length when that was asked for.
fn rename_mode(flags: RenameFlags) -> Option<RenameMode> {
    if flags.is_empty() {
        Some(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Some(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Some(RenameMode::Exchange)
    } else {
        None // whiteouts are for overlays
    }
}

impl Filesystem for Shell {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        if self.work.init().is_none() {
            self.work.set_init(negotiate(config)?);
        }
        Ok(())
    }

    /// Not the kernel's: the first request of each thread (see `session`).
    fn bmap(&self, request: &Request, _ino: INodeNo, _blocksize: u32, _index: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
        self.work.muster().report(request);
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _timed = self.work.timed(Op::Lookup);
        self.work.received(request);
        match self.posix().lookup(parent.0, name.as_bytes()) {
            Ok(Some(attr)) => reply.entry(&self.work.believed(), &self.attributes(&attr), GENERATION),
            Ok(None) => reply.entry(&self.work.believed(), &negative(), GENERATION),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn forget(&self, _request: &Request, ino: INodeNo, _lookups: u64) {
        self.posix().forget([ino.0]);
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let _timed = self.work.timed(Op::Getattr);
        self.work.received(request);
        match self.posix().getattr(ino.0) {
            Ok(attr) => reply.attr(&self.work.believed(), &self.attributes(&attr)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let _timed = self.work.timed(Op::Setattr);
        let (atime, mtime) = (atime.map(from_request), mtime.map(from_request));
        let set = SetAttr { mode, uid, gid, size, atime, mtime, ctime: ctime.map(from_system) };
        let changed = self.posix().setattr(&self.caller(request), ino.0, &set);
        self.work.before_reply();
        match changed {
            Ok(attr) => reply.attr(&self.work.believed(), &self.attributes(&attr)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let _timed = self.work.timed(Op::Readlink);
        self.work.received(request);
        match self.posix().readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn mknod(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32, reply: ReplyEntry) {
        let _timed = self.work.timed(Op::Mknod);
        let new = NewEntry { dir: parent.0, name: name.as_bytes(), mode, umask, rdev: u64::from(rdev), target: b"" };
        self.entry(self.posix().make(&self.caller(request), &new), reply);
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let _timed = self.work.timed(Op::Mkdir);
        let mode = libc::S_IFDIR | mode & 0o7777;
        let new = NewEntry { dir: parent.0, name: name.as_bytes(), mode, umask, rdev: 0, target: b"" };
        self.entry(self.posix().make(&self.caller(request), &new), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let _timed = self.work.timed(Op::Symlink);
        let (mode, target) = (libc::S_IFLNK | 0o777, target.as_os_str().as_bytes());
        let new = NewEntry { dir: parent.0, name: name.as_bytes(), mode, umask: 0, rdev: 0, target };
        self.entry(self.posix().make(&self.caller(request), &new), reply);
    }

    fn create(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, flags: i32, reply: ReplyCreate) {
        let _timed = self.work.timed(Op::Create);
        let mode = libc::S_IFREG | mode & 0o7777;
        let new = NewEntry { dir: parent.0, name: name.as_bytes(), mode, umask, rdev: 0, target: b"" };
        let created = self.posix().create(&self.caller(request), &new, flags);
        self.work.before_reply();
        match created {
            Ok(attr) => reply.created(&self.work.believed(), &self.attributes(&attr), GENERATION, HANDLE, FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _timed = self.work.timed(Op::Unlink);
        self.empty(self.posix().unlink(&self.caller(request), parent.0, name.as_bytes()), reply);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _timed = self.work.timed(Op::Rmdir);
        self.empty(self.posix().rmdir(&self.caller(request), parent.0, name.as_bytes()), reply);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let _timed = self.work.timed(Op::Rename);
        let Some(mode) = rename_mode(flags) else { return reply.error(Errno::EINVAL) };
        let (from, to) = ((parent.0, name.as_bytes()), (newparent.0, newname.as_bytes()));
        self.work.rename(self.caller(request), from, to, mode, reply);
    }

    fn link(&self, request: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let _timed = self.work.timed(Op::Link);
        self.work.link(self.caller(request), ino.0, newparent.0, newname.as_bytes(), reply);
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _timed = self.work.timed(Op::Open);
        let opened = self.posix().open(&self.caller(request), ino.0, flags.0);
        self.work.before_reply();
        match opened {
            Ok(()) => reply.opened(HANDLE, FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _timed = self.work.timed(Op::Read);
        self.work.received(request);
        self.work.read(ino.0, offset, size as usize, reply);
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let _timed = self.work.timed(Op::Write);
        let drop_privileges = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        self.work.write(self.caller(request), ino.0, offset, data, drop_privileges, reply);
    }

    fn flush(&self, request: &Request, ino: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let _timed = self.work.timed(Op::Flush);
        self.work.received(request);
        self.empty(self.posix().flush(ino.0), reply);
    }

    fn release(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _timed = self.work.timed(Op::Release);
        self.posix().release(&self.caller(request), ino.0, flags.0);
        reply.ok();
    }

    fn fsync(&self, request: &Request, ino: INodeNo, _handle: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let _timed = self.work.timed(Op::Fsync);
        self.work.received(request);
        self.work.sync(ino.0, move |posix| posix.fsync(ino.0, datasync), reply);
    }

    fn fsyncdir(&self, request: &Request, ino: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let _timed = self.work.timed(Op::Fsyncdir);
        self.work.received(request);
        self.work.sync(ino.0, move |posix| posix.fsyncdir(ino.0), reply);
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _timed = self.work.timed(Op::Opendir);
        // Asked once: with NO_OPENDIR_SUPPORT this means that directories need no handle, and that the kernel may cache them.
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, request: &Request, ino: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let _timed = self.work.timed(Op::Readdir);
        self.work.received(request);
        let listed = self.posix().list(ino.0, offset, LIST_BATCH, |position, name, attr| {
            reply.add(INodeNo(attr.ino), position, file_type(attr.mode), OsStr::from_bytes(name))
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdirplus(&self, request: &Request, ino: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let _timed = self.work.timed(Op::Readdirplus);
        self.work.received(request);
        let listed = self.posix().list(ino.0, offset, LIST_PLUS_BATCH, |position, name, attr| {
            let attributes = self.attributes(attr);
            reply.add(INodeNo(attr.ino), position, OsStr::from_bytes(name), &self.work.believed(), &attributes, GENERATION)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn statfs(&self, request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let _timed = self.work.timed(Op::Statfs);
        self.work.received(request);
        let space = self.posix().statfs();
        let pages = space.bytes_max / PAGE;
        let free = pages.saturating_sub(space.bytes.div_ceil(PAGE));
        let free_inodes = space.inodes_max.saturating_sub(space.inodes);
        let page = PAGE as u32;
        reply.statfs(pages, free, free, space.inodes_max, free_inodes, page, crate::types::NAME_MAX as u32, page);
    }

    fn setxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, _position: u32, reply: ReplyEmpty) {
        let _timed = self.work.timed(Op::Setxattr);
        self.empty(self.posix().setxattr(&self.caller(request), ino.0, name.as_bytes(), value, flags), reply);
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _timed = self.work.timed(Op::Getxattr);
        self.work.received(request);
        if crate::volume::is_state(name.as_bytes()) {
            return self.work.state(ino.0, name.as_bytes(), size, reply);
        }
        value(self.posix().getxattr(ino.0, name.as_bytes()), size, reply);
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let _timed = self.work.timed(Op::Listxattr);
        self.work.received(request);
        value(self.posix().listxattr(ino.0), size, reply);
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _timed = self.work.timed(Op::Removexattr);
        self.empty(self.posix().removexattr(&self.caller(request), ino.0, name.as_bytes()), reply);
    }

    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        let _timed = self.work.timed(Op::Access);
        // The kernel decides (default_permissions) and does not ask again.
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(&self, request: &Request, ino: INodeNo, _handle: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        let _timed = self.work.timed(Op::Fallocate);
        self.work.fallocate(self.caller(request), ino.0, mode, offset..offset.saturating_add(length), reply);
    }

    fn lseek(&self, request: &Request, ino: INodeNo, _handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let _timed = self.work.timed(Op::Lseek);
        self.work.received(request);
        let whence = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        match u64::try_from(offset) {
            Ok(offset) => self.work.seek(ino.0, offset, whence, reply),
            Err(_) => reply.error(errno(PosixError::NoData)),
        }
    }

    // `isatty` asks it of every file.
    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: fuser::IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output: u32,
        reply: fuser::ReplyIoctl,
    ) {
        let _timed = self.work.timed(Op::Ioctl);
        reply.error(Errno::ENOTTY);
    }

    fn copy_file_range(
        &self,
        request: &Request,
        from: INodeNo,
        _from_handle: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _to_handle: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let _timed = self.work.timed(Op::CopyFileRange);
        self.work.copy(self.caller(request), (from.0, from_offset), (to.0, to_offset), length, reply);
    }
}
