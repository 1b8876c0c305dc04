//! A bare FUSE daemon: the library, the mount options and the thread count of Holdfast, and nothing else behind them.
//!
//! It is the limit of this road: what an application would see if keeping data safe, finding it again and storing it cost nothing.
//! `bare DIR BACKING [--threads N]` mounts on DIR, keeps one file per inode below BACKING, and runs until it is unmounted or ended.
#![allow(clippy::disallowed_methods, clippy::print_stderr, reason = "a program of its own, with no simulated clock")]

#[path = "bare/tree.rs"]
mod tree;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tree::{NewNode, TTL, Tree, errno};

const GENERATION: Generation = Generation(0);
const WRITE_BYTES_MAX: u32 = 1 << 20;

struct Bare(Tree);

fn entry(reply: ReplyEntry, result: Result<FileAttr, Errno>) {
    match result {
        Ok(attr) => reply.entry(&TTL, &attr, GENERATION),
        Err(error) => reply.error(error),
    }
}

fn empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn new<'a>(request: &Request, mode: u32, rdev: u32, target: &'a [u8]) -> NewNode<'a> {
    NewNode { mode, uid: request.uid(), gid: request.gid(), rdev, target }
}

fn instant(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

impl Bare {
    fn truncate(&self, ino: INodeNo, size: u64) -> Result<(), Errno> {
        self.0.file(ino.0, 0)?.set_len(size).map_err(errno)?;
        let mut state = self.0.state.write();
        let node = state.nodes.get_mut(&ino.0).ok_or(Errno::ENOENT)?;
        node.attr.size = size;
        node.attr.blocks = size.div_ceil(512);
        node.attr.mtime = SystemTime::now();
        node.attr.ctime = node.attr.mtime;
        Ok(())
    }
}

impl Filesystem for Bare {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = InitFlags::FUSE_WRITEBACK_CACHE
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_EXPORT_SUPPORT
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_POSIX_ACL;
        let lacking = |missing: InitFlags| std::io::Error::other(format!("the kernel lacks {missing:?}: the comparison would not be fair"));
        config.add_capabilities(wanted).map_err(lacking)?;
        let refused = |limit: u32| std::io::Error::other(format!("the kernel allows {limit}"));
        config.set_max_write(WRITE_BYTES_MAX).map_err(refused)?;
        config.set_max_background(64).map_err(|limit| refused(u32::from(limit)))?;
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = {
            let state = self.0.state.read();
            state.lookup(parent.0, name.as_bytes()).and_then(|ino| match ino {
                Some(ino) => state.nodes.get(&ino).map(|node| node.attr).ok_or(Errno::ENOENT),
                // Inode 0 is a name that is not there, remembered by the kernel.
                None => state.nodes.get(&parent.0).map(|node| FileAttr { ino: INodeNo(0), ..node.attr }).ok_or(Errno::ENOENT),
            })
        };
        entry(reply, found);
    }

    fn forget(&self, _request: &Request, ino: INodeNo, _lookups: u64) {
        self.0.forget(ino.0);
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.attr(ino.0) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
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
        if let Some(Err(error)) = size.map(|size| self.truncate(ino, size)) {
            return reply.error(error);
        }
        let mut state = self.0.state.write();
        let Some(node) = state.nodes.get_mut(&ino.0) else { return reply.error(Errno::ENOENT) };
        let attr = &mut node.attr;
        attr.perm = mode.map_or(attr.perm, |mode| (mode & 0o7777) as u16);
        attr.uid = uid.unwrap_or(attr.uid);
        attr.gid = gid.unwrap_or(attr.gid);
        attr.atime = atime.map_or(attr.atime, instant);
        attr.mtime = mtime.map_or(attr.mtime, instant);
        attr.ctime = ctime.unwrap_or_else(SystemTime::now);
        let attr = *attr;
        drop(state);
        reply.attr(&TTL, &attr);
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.0.state.read().nodes.get(&ino.0) {
            Some(node) => reply.data(&node.target),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn mknod(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, rdev: u32, reply: ReplyEntry) {
        entry(reply, self.0.make(parent.0, name.as_bytes(), &new(request, mode, rdev, b""), 0));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        entry(reply, self.0.make(parent.0, name.as_bytes(), &new(request, mode & 0o7777 | libc::S_IFDIR, 0, b""), 0));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        entry(reply, self.0.make(parent.0, name.as_bytes(), &new(request, libc::S_IFLNK | 0o777, 0, target.as_os_str().as_bytes()), 0));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.0.state.write().remove(parent.0, name.as_bytes(), false);
        empty(reply, removed);
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.0.state.write().remove(parent.0, name.as_bytes(), true);
        empty(reply, removed);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (noreplace, exchange) = (flags.contains(RenameFlags::RENAME_NOREPLACE), flags.contains(RenameFlags::RENAME_EXCHANGE));
        let (from, to) = ((parent.0, name.as_bytes()), (new_parent.0, new_name.as_bytes()));
        let renamed = self.0.state.write().rename(from, to, noreplace, exchange);
        empty(reply, renamed);
    }

    fn link(&self, _request: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let linked = self.0.state.write().link(ino.0, parent.0, name.as_bytes());
        entry(reply, linked);
    }

    fn open(&self, _request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let truncated = if flags.0 & libc::O_TRUNC == 0 { Ok(()) } else { self.truncate(ino, 0) };
        match truncated.and_then(|()| self.0.file(ino.0, 1)) {
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    fn create(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, _flags: i32, reply: ReplyCreate) {
        match self.0.make(parent.0, name.as_bytes(), &new(request, mode & 0o7777 | libc::S_IFREG, 0, b""), 1) {
            Ok(attr) => reply.created(&TTL, &attr, GENERATION, FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        thread_local!(static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) });
        let file = match self.0.file(ino.0, 0) {
            Ok(file) => file,
            Err(error) => return reply.error(error),
        };
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(buffer.len().max(size as usize), 0);
            let mut filled = 0;
            while filled < size as usize {
                match file.read_at(&mut buffer[filled..size as usize], offset + filled as u64) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) => return reply.error(errno(error)),
                }
            }
            reply.data(&buffer[..filled]);
        });
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.0.file(ino.0, 0).and_then(|file| file.write_all_at(data, offset).map_err(errno)) {
            Ok(()) => {
                self.0.grow(ino.0, offset + data.len() as u64);
                reply.written(data.len() as u32);
            }
            Err(error) => reply.error(error),
        }
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        _h: FileHandle,
        _f: OpenFlags,
        _o: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.0.release(ino.0);
        reply.ok();
    }

    fn flush(&self, _request: &Request, _ino: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _request: &Request, ino: INodeNo, _handle: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let sync = |file: std::sync::Arc<std::fs::File>| if datasync { file.sync_data() } else { file.sync_all() };
        empty(reply, self.0.file(ino.0, 0).and_then(|file| sync(file).map_err(errno)));
    }

    fn fsyncdir(&self, _request: &Request, _ino: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // With NO_OPENDIR_SUPPORT: directories need no handle, and the kernel may keep their entries.
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, _request: &Request, ino: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let state = self.0.state.read();
        let Some(directory) = state.nodes.get(&ino.0).and_then(|node| node.directory.as_ref()) else { return reply.error(Errno::ENOTDIR) };
        let dots = [(ino, "."), (INodeNo(directory.parent), "..")];
        for (cookie, (ino, name)) in (1..).zip(dots) {
            if cookie > offset && reply.add(ino, cookie, fuser::FileType::Directory, name) {
                return reply.ok();
            }
        }
        for (cookie, (name, ino)) in directory.order.range(offset.max(2) + 1..) {
            let Some(node) = state.nodes.get(ino) else { continue };
            if reply.add(INodeNo(*ino), *cookie, node.attr.kind, OsStr::from_bytes(name)) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(&self, _request: &Request, ino: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let state = self.0.state.read();
        let Some(directory) = state.nodes.get(&ino.0).and_then(|node| node.directory.as_ref()) else { return reply.error(Errno::ENOTDIR) };
        let dots = [(ino.0, "."), (directory.parent, "..")];
        for (cookie, (ino, name)) in (1..).zip(dots) {
            let Some(node) = state.nodes.get(&ino) else { continue };
            if cookie > offset && reply.add(INodeNo(ino), cookie, name, &TTL, &node.attr, GENERATION) {
                return reply.ok();
            }
        }
        for (cookie, (name, ino)) in directory.order.range(offset.max(2) + 1..) {
            let Some(node) = state.nodes.get(ino) else { continue };
            if reply.add(INodeNo(*ino), *cookie, OsStr::from_bytes(name), &TTL, &node.attr, GENERATION) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 30, 1 << 29, 1 << 29, 1 << 30, 1 << 29, 4096, 255, 4096);
    }

    fn setxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, _position: u32, reply: ReplyEmpty) {
        let mut state = self.0.state.write();
        let Some(node) = state.nodes.get_mut(&ino.0) else { return reply.error(Errno::ENOENT) };
        let exists = node.xattrs.contains_key(name.as_bytes());
        if flags & libc::XATTR_CREATE != 0 && exists {
            return reply.error(Errno::EEXIST);
        }
        if flags & libc::XATTR_REPLACE != 0 && !exists {
            return reply.error(Errno::ENODATA);
        }
        node.xattrs.insert(name.as_bytes().to_vec(), value.to_vec());
        node.attr.ctime = SystemTime::now();
        reply.ok();
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let state = self.0.state.read();
        let Some(value) = state.nodes.get(&ino.0).and_then(|node| node.xattrs.get(name.as_bytes())) else {
            return reply.error(Errno::ENODATA);
        };
        answer(reply, value, size);
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let state = self.0.state.read();
        let Some(node) = state.nodes.get(&ino.0) else { return reply.error(Errno::ENOENT) };
        let names: Vec<u8> = node.xattrs.keys().flat_map(|name| name.iter().copied().chain([0])).collect();
        answer(reply, &names, size);
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut state = self.0.state.write();
        let removed = state.nodes.get_mut(&ino.0).and_then(|node| node.xattrs.remove(name.as_bytes()));
        empty(reply, removed.map(drop).ok_or(Errno::ENODATA));
    }

    fn fallocate(&self, _request: &Request, ino: INodeNo, _handle: FileHandle, offset: u64, length: u64, mode: i32, reply: ReplyEmpty) {
        let allocated = self.0.file(ino.0, 0).and_then(|file| {
            // SAFETY: a system call on a descriptor that lives through it; it touches no memory.
            let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, length as i64) };
            if result == 0 { Ok(()) } else { Err(errno(std::io::Error::last_os_error())) }
        });
        if allocated.is_ok() && mode & libc::FALLOC_FL_KEEP_SIZE == 0 {
            self.0.grow(ino.0, offset + length);
        }
        empty(reply, allocated);
    }

    fn lseek(&self, _request: &Request, ino: INodeNo, _handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let sought = self.0.file(ino.0, 0).and_then(|file| {
            // SAFETY: as above.
            let result = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
            if result >= 0 { Ok(result) } else { Err(errno(std::io::Error::last_os_error())) }
        });
        match sought {
            Ok(offset) => reply.offset(offset),
            Err(error) => reply.error(error),
        }
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _ino_in: INodeNo,
        _handle_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _handle_out: FileHandle,
        _offset_out: u64,
        _length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // The kernel then copies through its cache.
        reply.error(Errno::ENOSYS);
    }
}

fn answer(reply: ReplyXattr, value: &[u8], size: u32) {
    if size == 0 {
        reply.size(value.len() as u32);
    } else if value.len() <= size as usize {
        reply.data(value);
    } else {
        reply.error(Errno::ERANGE);
    }
}

/// The kernel reads ahead 128 KiB by default, whatever a request may carry.
fn raise_read_ahead(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let device = std::fs::metadata(directory)?.dev();
    let knob = format!("/sys/class/bdi/{}:{}/read_ahead_kb", libc::major(device), libc::minor(device));
    std::fs::write(knob, "1024")
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (directory, backing, threads) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [directory, backing] => (PathBuf::from(directory), PathBuf::from(backing), 4),
        [directory, backing, "--threads", threads] => (PathBuf::from(directory), PathBuf::from(backing), threads.parse()?),
        _ => return Err("usage: bare DIR BACKING [--threads N]".into()),
    };
    let mut config = fuser::Config::default();
    config.mount_options =
        vec![MountOption::FSName("bare".to_owned()), MountOption::DefaultPermissions, MountOption::Suid, MountOption::Dev];
    config.acl = SessionACL::All;
    config.n_threads = Some(threads);
    let session = Session::new(Bare(Tree::new(backing)?), &directory, &config)?;
    let session = session.spawn()?;
    raise_read_ahead(&directory)?;
    session.join()?;
    Ok(())
}
