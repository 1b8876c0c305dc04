//! A disk that forgets: one file, for a loop device, that remembers which writes no flush has followed.
//!
//! `forgetful DIR IMAGE` serves IMAGE under DIR as a file that is named by a number, and obeys lines on its standard input, each with one
//! line as answer; it ends with its input. A write is on the platter when the kernel's FSYNC (a device's flush; loop devices have no
//! other promise, FUA becomes one) has followed it. `freeze`: the power fails; no request is answered any more. `restore SEED SECTOR`:
//! of what no flush had followed, the seed chooses what the platter has: whole writes or sectors of that many bytes, in any order; the
//! rest is as it was at the last flush. The disk is then another file, named by the next number: the old one answers EIO for ever, so
//! nothing that a kernel still holds for it gets to the new one. `fail reads|writes|all|nothing`: a disk that answers EIO.
#![allow(clippy::print_stdout, clippy::expect_used, reason = "this is how it speaks; a test's disk that fails by itself must end the test")]

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner, MountOption, OpenFlags,
    ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, Session, WriteFlags,
};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, Write as _};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// None, all, the first, the last, most, half of the writes; half of the sectors.
const STYLES: u64 = 7;
/// The file's inode number is this and the number of its life.
const FIRST: u64 = 100;

/// A write that no flush has followed.
struct Pending {
    at: u64,
    before: Vec<u8>,
    after: Vec<u8>,
}

/// What the platter has of what no flush had followed.
#[derive(Default)]
struct Fate {
    kept: u64,
    torn: u64,
    lost: u64,
}

struct State {
    image: File,
    size: u64,
    life: u64,
    flushes: u64,
    pending: Vec<Pending>,
    frozen: bool,
    fail_reads: bool,
    fail_writes: bool,
}

#[derive(Clone)]
struct Disk(Arc<(Mutex<State>, Condvar)>);

/// The same numbers for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

impl State {
    fn write(&mut self, at: u64, bytes: &[u8]) -> std::io::Result<()> {
        let mut before = vec![0; bytes.len()];
        self.image.read_exact_at(&mut before, at)?;
        self.image.write_all_at(bytes, at)?;
        self.pending.push(Pending { at, before, after: bytes.to_vec() });
        Ok(())
    }

    /// The image as the power failure left it.
    fn restore(&mut self, seed: u64, sector: usize) -> std::io::Result<Fate> {
        let pending = std::mem::take(&mut self.pending);
        for write in pending.iter().rev() {
            self.image.write_all_at(&write.before, write.at)?;
        }
        let mut chance = Chance(seed);
        let style = chance.below(STYLES);
        let until = chance.below(pending.len() as u64 + 1) as usize;
        let mut fate = Fate::default();
        for (n, write) in pending.iter().enumerate() {
            let sectors = write.after.len().div_ceil(sector);
            // `None`: each sector for itself.
            let whole = match style {
                0 => Some(false),
                1 => Some(true),
                2 | 3 if n == until => None,
                2 => Some(n < until),
                3 => Some(n > until),
                4 => Some(chance.below(10) > 0),
                5 => Some(chance.below(2) == 0),
                _ => None,
            };
            let mut kept = 0;
            for part in 0..sectors {
                let keep = whole.unwrap_or_else(|| chance.below(2) == 0);
                if keep {
                    let (from, to) = (part * sector, ((part + 1) * sector).min(write.after.len()));
                    self.image.write_all_at(&write.after[from..to], write.at + from as u64)?;
                    kept += 1;
                }
            }
            match kept {
                0 => fate.lost += 1,
                _ if kept == sectors => fate.kept += 1,
                _ => fate.torn += 1,
            }
        }
        self.life += 1;
        (self.fail_reads, self.fail_writes) = (false, false);
        Ok(fate)
    }
}

impl Disk {
    /// The state, when the power is on.
    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.0.0.lock().expect("no panic meanwhile");
        self.0.1.wait_while(state, |state| state.frozen).expect("no panic meanwhile")
    }

    /// The same for a request to the file, if it is the present one.
    fn of(&self, ino: INodeNo) -> Result<MutexGuard<'_, State>, Errno> {
        let state = self.state();
        if ino.0 == FIRST + state.life { Ok(state) } else { Err(Errno::EIO) }
    }

    fn obey(&self, line: &str) -> Outcome<String> {
        let mut state = self.0.0.lock().map_err(|_| "a panic meanwhile")?;
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["freeze"] => state.frozen = true,
            ["restore", seed, sector] => {
                let fate = state.restore(seed.parse()?, sector.parse()?)?;
                state.frozen = false;
                self.0.1.notify_all();
                return Ok(format!("{} {} {} {} {}", state.life, state.flushes, fate.kept, fate.torn, fate.lost));
            }
            ["fail", what] => {
                state.fail_reads = matches!(what, "reads" | "all");
                state.fail_writes = matches!(what, "writes" | "all");
            }
            _ => return Err(format!("no such command: {line}").into()),
        }
        Ok("done".to_owned())
    }
}

fn attributes(ino: INodeNo, size: u64, kind: FileType) -> FileAttr {
    let (atime, mtime, ctime, crtime) = (UNIX_EPOCH, UNIX_EPOCH, UNIX_EPOCH, UNIX_EPOCH);
    let (perm, nlink, uid, gid, rdev, flags) = (0o700, 1, 0, 0, 0, 0);
    FileAttr { ino, size, blocks: size / 512, atime, mtime, ctime, crtime, kind, perm, nlink, uid, gid, rdev, blksize: 4096, flags }
}

impl Filesystem for Disk {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        config.set_max_write(REQUEST_BYTES_MAX).map_err(|limit| std::io::Error::other(format!("the kernel allows {limit}")))?;
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let state = self.state();
        if parent == INodeNo::ROOT && name.to_str() == Some(&state.life.to_string()) {
            let attributes = attributes(INodeNo(FIRST + state.life), state.size, FileType::RegularFile);
            reply.entry(&Duration::ZERO, &attributes, Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let size = self.state().size;
        let (size, kind) = if ino == INodeNo::ROOT { (0, FileType::Directory) } else { (size, FileType::RegularFile) };
        reply.attr(&Duration::ZERO, &attributes(ino, size, kind));
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Else this file would have a cache of its own, which no flush of the device empties.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
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
        let state = match self.of(ino) {
            Ok(state) if !state.fail_reads => state,
            _ => return reply.error(Errno::EIO),
        };
        let mut bytes = vec![0; u64::from(size).min(state.size.saturating_sub(offset)) as usize];
        match state.image.read_exact_at(&mut bytes, offset) {
            Ok(()) => reply.data(&bytes),
            Err(_) => reply.error(Errno::EIO),
        }
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
        let written = self.of(ino).map(|mut state| !state.fail_writes && state.write(offset, data).is_ok());
        match written {
            Ok(true) => reply.written(data.len() as u32),
            _ => reply.error(Errno::EIO),
        }
    }

    fn fsync(&self, _request: &Request, ino: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        match self.of(ino) {
            Ok(mut state) if !state.fail_writes => {
                state.pending.clear();
                state.flushes += 1;
                drop(state);
                reply.ok();
            }
            _ => reply.error(Errno::EIO),
        }
    }
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, image] = &arguments[..] else { return Err("usage: forgetful DIR IMAGE".into()) };
    let image = File::options().read(true).write(true).open(image)?;
    let size = image.metadata()?.len();
    let state = State { image, size, life: 0, flushes: 0, pending: Vec::new(), frozen: false, fail_reads: false, fail_writes: false };
    let disk = Disk(Arc::new((Mutex::new(state), Condvar::new())));
    let mut config = fuser::Config::default();
    config.mount_options = vec![MountOption::FSName("forgetful".to_owned())];
    let _session = Session::new(disk.clone(), Path::new(directory), &config)?.spawn()?;
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        println!("{}", disk.obey(&line?)?);
        std::io::stdout().flush()?;
    }
    // The last who uses the mount ends it; a frozen request would wait for ever.
    std::process::exit(0);
}
