//! The operations against a cache in a temporary directory, without a kernel: what the kernel would check before, too.

use super::*;
use crate::cache::{CacheOptions, CacheOrigin};
use crate::env::Env;
use crate::types::{CacheId, FaultKind, Identity, Incarnation, ROOT, StoreId};

const FILE: u32 = libc::S_IFREG | 0o666;
const DIR: u32 = libc::S_IFDIR | 0o777;

struct Unreachable;

impl Fetch for Unreachable {
    fn fetch(&self, _ino: Ino, _ranges: &[ByteRange]) -> std::result::Result<(), Fault> {
        Err(Fault::new(FaultKind::Unknown, "no store in this test"))
    }
}

struct Volume {
    dir: tempfile::TempDir,
    posix: Posix,
    next: std::cell::Cell<u64>,
}

fn options(dir: &std::path::Path) -> CacheOptions {
    let mut options = CacheOptions::new(dir.join("cache"));
    (options.log_bytes, options.any_file_system, options.no_sync) = (4 << 20, true, true);
    options
}

fn posix(dir: &std::path::Path, cache: Arc<Cache>, gate: Arc<dyn Gate>, resumed: bool) -> Posix {
    let options = Options { cache, fetch: Arc::new(Unreachable), gate, read_only: false, handles: dir.join("handles"), resumed };
    Posix::new(options).unwrap()
}

fn volume_with(gate: Arc<dyn Gate>) -> Volume {
    let dir = tempfile::tempdir().unwrap();
    let origin = CacheOrigin {
        store_id: StoreId([1; 16]),
        incarnation: Incarnation([2; 16]),
        identity: Identity::parse("test").unwrap(),
        cache_id: CacheId([3; 16]),
    };
    let cache = Cache::create(Env::real(), options(dir.path()), &origin).unwrap();
    cache.set_epoch(1).unwrap();
    let posix = posix(dir.path(), cache, gate, false);
    Volume { dir, posix, next: std::cell::Cell::new(2) }
}

fn volume() -> Volume {
    volume_with(Arc::new(NoLimits))
}

impl Volume {
    // Each call is another request of the kernel.
    fn caller(&self) -> Caller {
        let unique = self.next.replace(self.next.get() + 2);
        Caller { uid: 0, gid: 0, request: Some(RequestId { conn_epoch: 1, unique }), resent: false }
    }

    fn again(caller: &Caller) -> Caller {
        Caller { resent: true, ..*caller }
    }

    fn make(&self, dir: Ino, name: &str, mode: u32) -> Result<Attr> {
        let new = NewEntry { dir, name: name.as_bytes(), mode, umask: 0o022, rdev: 0, target: b"" };
        self.posix.make(&self.caller(), &new)
    }

    fn write(&self, ino: Ino, offset: u64, data: &[u8]) {
        assert_eq!(self.posix.write(&self.caller(), ino, offset, data, false).unwrap(), Written::Done);
    }

    fn read(&self, ino: Ino) -> Vec<u8> {
        let mut out = Vec::new();
        assert_eq!(self.posix.read(ino, 0, 1 << 20, &mut out).unwrap(), Written::Done);
        out
    }

    fn rename(&self, from: (Ino, &str), to: (Ino, &str), mode: RenameMode) -> Result<()> {
        self.posix.rename(&self.caller(), (from.0, from.1.as_bytes()), (to.0, to.1.as_bytes()), mode)
    }

    fn names(&self, dir: Ino) -> Vec<String> {
        let mut names = Vec::new();
        self.posix
            .list(dir, 2, 3, |_, name, _| {
                names.push(String::from_utf8_lossy(name).into_owned());
                false
            })
            .unwrap();
        names.sort();
        names
    }

    fn ino(&self, dir: Ino, name: &str) -> Option<Ino> {
        self.posix.lookup(dir, name.as_bytes()).unwrap().map(|attr| attr.ino)
    }

    fn nlink(&self, ino: Ino) -> u32 {
        self.posix.getattr(ino).unwrap().nlink
    }
}

#[test]
fn making_names() {
    let v = volume();
    let file = v.make(ROOT, "file", FILE).unwrap();
    assert_eq!((file.mode, file.nlink, file.size), (libc::S_IFREG | 0o644, 1, 0));
    let dir = v.make(ROOT, "dir", DIR).unwrap();
    assert_eq!((dir.mode, dir.nlink), (libc::S_IFDIR | 0o755, 2));
    assert_eq!(v.nlink(ROOT), 3);
    let root = v.posix.getattr(ROOT).unwrap();
    assert!(root.mtime >= dir.mtime && root.ctime == root.mtime);
    assert_eq!(v.make(ROOT, "file", FILE), Err(PosixError::Exists));
    assert_eq!(v.make(file.ino, "x", FILE), Err(PosixError::NotDirectory));
    assert_eq!(v.make(999_999, "x", FILE), Err(PosixError::NotFound));
    assert!(v.make(ROOT, &"n".repeat(255), FILE).is_ok());
    assert_eq!(v.make(ROOT, &"n".repeat(256), FILE), Err(PosixError::NameTooLong));
    assert_eq!(v.posix.lookup(ROOT, &[b'n'; 256]), Err(PosixError::NameTooLong));
    assert_eq!(v.posix.lookup(ROOT, b"absent"), Ok(None));
    assert_eq!(v.ino(dir.ino, "."), Some(dir.ino));
    assert_eq!(v.ino(dir.ino, ".."), Some(ROOT));
    let link = NewEntry { dir: ROOT, name: b"link", mode: libc::S_IFLNK | 0o777, umask: 0o077, rdev: 0, target: b"a/b" };
    let link = v.posix.make(&v.caller(), &link).unwrap();
    assert_eq!((link.mode, link.size), (libc::S_IFLNK | 0o777, 3));
    assert_eq!(v.posix.readlink(link.ino).unwrap(), b"a/b");
}

#[test]
fn a_group_directory_hands_its_group_down() {
    let v = volume();
    let dir = v.make(ROOT, "dir", DIR).unwrap();
    let set = SetAttr { mode: Some(0o2775), gid: Some(50), ..SetAttr::default() };
    v.posix.setattr(&v.caller(), dir.ino, &set).unwrap();
    let sub = v.make(dir.ino, "sub", DIR).unwrap();
    assert_eq!((sub.gid, sub.mode & 0o7777), (50, 0o2755));
    let file = v.make(dir.ino, "file", FILE).unwrap();
    assert_eq!((file.gid, file.mode & 0o7777), (50, 0o644));
}

#[test]
fn removing_names() {
    let v = volume();
    let dir = v.make(ROOT, "dir", DIR).unwrap().ino;
    let file = v.make(dir, "file", FILE).unwrap().ino;
    assert_eq!(v.posix.unlink(&v.caller(), ROOT, b"dir"), Err(PosixError::IsDirectory));
    assert_eq!(v.posix.rmdir(&v.caller(), ROOT, b"dir"), Err(PosixError::NotEmpty));
    assert_eq!(v.posix.rmdir(&v.caller(), dir, b"file"), Err(PosixError::NotDirectory));
    assert_eq!(v.posix.unlink(&v.caller(), dir, b"absent"), Err(PosixError::NotFound));
    v.write(file, 0, b"still here");
    v.posix.unlink(&v.caller(), dir, b"file").unwrap();
    // Open files outlive their name; the kernel's FORGET ends them.
    assert_eq!(v.nlink(file), 0);
    assert_eq!(v.read(file), b"still here");
    v.write(file, 10, b"!");
    v.posix.forget([ROOT, dir, file]);
    assert_eq!(v.posix.getattr(file), Err(PosixError::NotFound));
    v.posix.rmdir(&v.caller(), ROOT, b"dir").unwrap();
    assert_eq!(v.nlink(ROOT), 2);
    assert_eq!(v.make(dir, "late", FILE), Err(PosixError::NotFound), "nothing begins in a removed directory");
}

#[test]
fn linking() {
    let v = volume();
    let file = v.make(ROOT, "a", FILE).unwrap().ino;
    let dir = v.make(ROOT, "dir", DIR).unwrap().ino;
    assert_eq!(v.posix.link(&v.caller(), file, dir, b"b").unwrap().nlink, 2);
    assert_eq!(v.posix.link(&v.caller(), file, ROOT, b"a"), Err(PosixError::Exists));
    assert_eq!(v.posix.link(&v.caller(), dir, ROOT, b"c"), Err(PosixError::NotPermitted));
    v.posix.unlink(&v.caller(), ROOT, b"a").unwrap();
    assert_eq!(v.nlink(file), 1);
    assert_eq!(v.ino(dir, "b"), Some(file));
}

#[test]
fn renaming() {
    use RenameMode::{Exchange, NoReplace, Replace};
    let v = volume();
    let file = v.make(ROOT, "file", FILE).unwrap().ino;
    let other = v.make(ROOT, "other", FILE).unwrap().ino;
    let (one, two) = (v.make(ROOT, "one", DIR).unwrap().ino, v.make(ROOT, "two", DIR).unwrap().ino);
    let sub = v.make(one, "sub", DIR).unwrap().ino;
    assert_eq!(v.rename((ROOT, "absent"), (ROOT, "x"), Replace), Err(PosixError::NotFound));
    assert_eq!(v.rename((ROOT, "file"), (ROOT, "other"), NoReplace), Err(PosixError::Exists));
    assert_eq!(v.rename((ROOT, "file"), (ROOT, "one"), Replace), Err(PosixError::IsDirectory));
    assert_eq!(v.rename((ROOT, "one"), (ROOT, "file"), Replace), Err(PosixError::NotDirectory));
    assert_eq!(v.rename((ROOT, "two"), (ROOT, "one"), Replace), Err(PosixError::NotEmpty));
    assert_eq!(v.rename((ROOT, "one"), (sub, "x"), Replace), Err(PosixError::Invalid));
    assert_eq!(v.rename((ROOT, "one"), (one, "sub"), Exchange), Err(PosixError::Invalid));

    v.rename((ROOT, "file"), (ROOT, "other"), Replace).unwrap();
    assert_eq!((v.ino(ROOT, "other"), v.ino(ROOT, "file"), v.nlink(other)), (Some(file), None, 0));
    // A directory between parents: `..` and the parents' counts follow.
    assert_eq!((v.nlink(one), v.nlink(two), v.nlink(ROOT)), (3, 2, 4));
    v.rename((one, "sub"), (two, "sub"), Replace).unwrap();
    assert_eq!((v.nlink(one), v.nlink(two), v.nlink(sub)), (2, 3, 2));
    assert_eq!(v.ino(sub, ".."), Some(two));
    // Over an empty directory.
    v.rename((two, "sub"), (ROOT, "one"), Replace).unwrap();
    assert_eq!((v.ino(ROOT, "one"), v.nlink(one), v.nlink(two), v.nlink(ROOT)), (Some(sub), 0, 2, 4));
    // A file and a directory change places.
    v.rename((ROOT, "other"), (ROOT, "one"), Exchange).unwrap();
    assert_eq!((v.ino(ROOT, "other"), v.ino(ROOT, "one")), (Some(sub), Some(file)));
    assert_eq!((v.nlink(sub), v.nlink(file), v.nlink(ROOT)), (2, 1, 4));
    v.rename((ROOT, "one"), (two, "moved"), Replace).unwrap();
    v.rename((ROOT, "other"), (two, "moved"), Exchange).unwrap();
    assert_eq!((v.ino(two, "moved"), v.ino(ROOT, "other")), (Some(sub), Some(file)));
    assert_eq!((v.nlink(two), v.nlink(ROOT), v.ino(sub, "..")), (3, 3, Some(two)));
    // Two names of one inode: both stay.
    v.posix.link(&v.caller(), file, ROOT, b"twin").unwrap();
    v.rename((ROOT, "other"), (ROOT, "twin"), Replace).unwrap();
    assert_eq!((v.ino(ROOT, "other"), v.ino(ROOT, "twin"), v.nlink(file)), (Some(file), Some(file), 2));
    assert_eq!(v.names(ROOT), ["other", "twin", "two"]);
}

#[test]
fn listing_goes_on_where_it_was() {
    let v = volume();
    for n in 0..20 {
        v.make(ROOT, &format!("f{n}"), FILE).unwrap();
    }
    let mut seen = Vec::new();
    let mut position = 0;
    loop {
        // A buffer with room for three.
        let mut batch = Vec::new();
        v.posix
            .list(ROOT, position, 4, |at, name, attr| {
                let full = batch.len() == 3;
                if !full {
                    assert!(attr.ino != 0);
                    batch.push((at, String::from_utf8_lossy(name).into_owned()));
                }
                full
            })
            .unwrap();
        let Some(last) = batch.last() else { break };
        position = last.0;
        seen.extend(batch.into_iter().map(|(_, name)| name));
        // Entries that come and go meanwhile move nobody else.
        v.posix.unlink(&v.caller(), ROOT, b"f0").ok();
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 22, "{seen:?}");
}

#[test]
fn changing_attributes() {
    let v = volume();
    let file = v.make(ROOT, "file", FILE).unwrap().ino;
    let set = |set: SetAttr| v.posix.setattr(&v.caller(), file, &set).unwrap();
    set(SetAttr { mode: Some(0o6755), ..SetAttr::default() });
    assert_eq!(set(SetAttr { uid: Some(7), ..SetAttr::default() }).mode & 0o7777, 0o755, "chown takes set-user-id");
    set(SetAttr { mode: Some(0o6745), ..SetAttr::default() });
    let user = Caller { uid: 7, ..v.caller() };
    let cut = v.posix.setattr(&user, file, &SetAttr { size: Some(10), ..SetAttr::default() }).unwrap();
    assert_eq!((cut.mode & 0o7777, cut.size), (0o2745, 10), "without group execution set-group-id stays");
    let times = set(SetAttr { atime: Some(SetTime::At(-5)), mtime: Some(SetTime::At(6)), ctime: Some(7), ..SetAttr::default() });
    assert_eq!((times.atime, times.mtime, times.ctime), (-5, 6, 7));
    assert_eq!(v.posix.getattr(file).unwrap(), times);
    let too_large = SetAttr { size: Some(crate::types::FILE_SIZE_MAX + 1), ..SetAttr::default() };
    assert_eq!(v.posix.setattr(&v.caller(), file, &too_large), Err(PosixError::FileTooLarge));
    let cut_root = SetAttr { size: Some(0), ..SetAttr::default() };
    assert_eq!(v.posix.setattr(&v.caller(), ROOT, &cut_root), Err(PosixError::IsDirectory));
}

#[test]
fn contents() {
    let v = volume();
    let file = v.make(ROOT, "file", FILE).unwrap().ino;
    v.write(file, 0, b"hello");
    v.write(file, 8192, b"far");
    assert_eq!(v.posix.getattr(file).unwrap().size, 8195);
    assert_eq!(v.posix.seek(file, 0, Seek::Hole).unwrap(), 4096);
    assert_eq!(v.posix.seek(file, 4096, Seek::Data).unwrap(), 8192);
    assert_eq!(v.posix.seek(file, 8195, Seek::Data), Err(PosixError::NoData));
    v.posix.setattr(&v.caller(), file, &SetAttr { size: Some(3), ..SetAttr::default() }).unwrap();
    assert_eq!(v.read(file), b"hel");
    v.posix.setattr(&v.caller(), file, &SetAttr { size: Some(6), ..SetAttr::default() }).unwrap();
    assert_eq!(v.read(file), b"hel\0\0\0", "what was cut off does not come back");
    let copy = v.make(ROOT, "copy", FILE).unwrap().ino;
    assert_eq!(v.posix.copy(&v.caller(), (file, 1), (copy, 2), 100).unwrap(), 5);
    assert_eq!(v.read(copy), b"\0\0el\0\0\0");
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    assert_eq!(v.posix.fallocate(&v.caller(), copy, punch, 2, 1).unwrap(), Written::Done);
    assert_eq!(v.read(copy), b"\0\0\0l\0\0\0");
    assert_eq!(v.posix.fallocate(&v.caller(), copy, 0, 0, 5000).unwrap(), Written::Done);
    assert_eq!(v.posix.getattr(copy).unwrap().size, 5000);
    assert_eq!(v.posix.fallocate(&v.caller(), copy, libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096), Err(PosixError::NotSupported));
    assert_eq!(v.posix.fallocate(&v.caller(), ROOT, 0, 0, 4096), Err(PosixError::IsDirectory));
    v.posix.fsync(file, true).unwrap();
    v.posix.fsyncdir(ROOT).unwrap();
}

#[test]
fn attributes_of_the_extended_kind() {
    let v = volume();
    let file = v.make(ROOT, "file", FILE).unwrap().ino;
    let set = |name: &[u8], value: &[u8], flags| v.posix.setxattr(&v.caller(), file, name, value, flags);
    set(b"user.a", b"1", libc::XATTR_CREATE).unwrap();
    assert_eq!(set(b"user.a", b"1", libc::XATTR_CREATE), Err(PosixError::Exists));
    assert_eq!(set(b"user.b", b"1", libc::XATTR_REPLACE), Err(PosixError::NoAttribute));
    set(b"user.b", b"", 0).unwrap();
    assert_eq!(v.posix.getxattr(file, b"user.b").unwrap(), b"");
    assert_eq!(v.posix.listxattr(file).unwrap(), b"user.a\0user.b\0");
    v.posix.removexattr(&v.caller(), file, b"user.b").unwrap();
    assert_eq!(v.posix.removexattr(&v.caller(), file, b"user.b"), Err(PosixError::NoAttribute));
    assert_eq!(set(b"system.other", b"1", 0), Err(PosixError::NotSupported));
    assert_eq!(set(b"user.holdfast.state", b"1", 0), Err(PosixError::NotPermitted));
    assert_eq!(set(b"user.big", &vec![0; 65537], 0), Err(PosixError::AttributeTooLarge));
    assert_eq!(set(acl::ACCESS, b"rubbish", 0), Err(PosixError::Invalid));
    // A list that says no more than the mode is the mode.
    let minimal =
        [&[2, 0, 0, 0][..], &[1, 0, 6, 0, 255, 255, 255, 255], &[4, 0, 4, 0, 255, 255, 255, 255], &[32, 0, 0, 0, 255, 255, 255, 255]]
            .concat();
    set(acl::ACCESS, &minimal, 0).unwrap();
    assert_eq!(v.posix.getattr(file).unwrap().mode & 0o777, 0o640);
    assert_eq!(v.posix.getxattr(file, acl::ACCESS), Err(PosixError::NoAttribute));
    // In a directory with a default list, it is inherited and the umask has no say.
    let dir = v.make(ROOT, "dir", DIR).unwrap().ino;
    let wide =
        [&[2, 0, 0, 0][..], &[1, 0, 7, 0, 255, 255, 255, 255], &[4, 0, 7, 0, 255, 255, 255, 255], &[32, 0, 6, 0, 255, 255, 255, 255]]
            .concat();
    v.posix.setxattr(&v.caller(), dir, acl::DEFAULT, &wide, 0).unwrap();
    assert_eq!(v.make(dir, "file", FILE).unwrap().mode & 0o777, 0o666);
    let sub = v.make(dir, "sub", DIR).unwrap();
    assert_eq!(sub.mode & 0o777, 0o776);
    assert_eq!(v.posix.getxattr(sub.ino, acl::DEFAULT).unwrap(), wide);
}

#[test]
fn a_resent_request_is_answered_and_not_repeated() {
    let v = volume();
    let asked = v.caller();
    let new = NewEntry { dir: ROOT, name: b"once", mode: FILE, umask: 0, rdev: 0, target: b"" };
    let made = v.posix.create(&asked, &new, libc::O_RDWR).unwrap();
    assert_eq!(v.posix.create(&Volume::again(&asked), &new, libc::O_RDWR).unwrap().ino, made.ino);
    let renaming = v.caller();
    v.posix.rename(&renaming, (ROOT, b"once"), (ROOT, b"moved"), RenameMode::Replace).unwrap();
    v.posix.rename(&Volume::again(&renaming), (ROOT, b"once"), (ROOT, b"moved"), RenameMode::Replace).unwrap();
    let linking = v.caller();
    v.posix.link(&linking, made.ino, ROOT, b"twin").unwrap();
    assert_eq!(v.posix.link(&Volume::again(&linking), made.ino, ROOT, b"twin").unwrap().nlink, 2);
    v.write(made.ino, 0, b"content");
    let emptying = v.caller();
    v.posix.open(&emptying, made.ino, libc::O_WRONLY | libc::O_TRUNC).unwrap();
    v.write(made.ino, 0, b"new");
    v.posix.open(&Volume::again(&emptying), made.ino, libc::O_WRONLY | libc::O_TRUNC).unwrap();
    assert_eq!(v.read(made.ino), b"new");
    let removing = v.caller();
    v.posix.unlink(&removing, ROOT, b"twin").unwrap();
    v.posix.unlink(&Volume::again(&removing), ROOT, b"twin").unwrap();
    assert_eq!(v.nlink(made.ino), 1);
    // One that was never carried out is carried out now.
    let lost = Volume::again(&v.caller());
    assert!(v.posix.make(&lost, &NewEntry { name: b"late", ..new }).is_ok());
    assert!(v.posix.counters().replayed.load(Ordering::Relaxed) >= 5);
}

#[test]
fn a_successor_knows_handles_and_orphans() {
    let v = volume();
    let file = v.make(ROOT, "file", FILE).unwrap().ino;
    let gone = v.make(ROOT, "gone", FILE).unwrap().ino;
    v.posix.open(&v.caller(), file, libc::O_RDWR).unwrap();
    v.posix.open(&v.caller(), file, libc::O_RDONLY).unwrap();
    v.posix.unlink(&v.caller(), ROOT, b"gone").unwrap();
    assert_eq!(v.posix.writable_open(), [file]);

    let cache = Arc::clone(v.posix.cache());
    let next = posix(v.dir.path(), Arc::clone(&cache), Arc::new(NoLimits), true);
    assert_eq!(next.writable_open(), [file]);
    assert!(next.getattr(gone).is_ok(), "the kernel may have it open still");
    next.forget([gone]);
    assert_eq!(next.getattr(gone), Err(PosixError::NotFound));
    let fresh = posix(v.dir.path(), cache, Arc::new(NoLimits), false);
    assert!(fresh.writable_open().is_empty());
}

#[derive(Debug)]
struct Closed;

impl Gate for Closed {
    fn admit(&self, _what: Admission) -> Result<()> {
        Err(PosixError::NoSpace)
    }
}

#[test]
fn at_a_limit_writes_are_taken_and_the_rest_is_refused() {
    let v = volume();
    let file = v.make(ROOT, "file", FILE).unwrap().ino;
    let full = posix(v.dir.path(), Arc::clone(v.posix.cache()), Arc::new(Closed), true);
    assert_eq!(full.write(&v.caller(), file, 0, b"acknowledged", false), Ok(Written::Done));
    let grow = SetAttr { size: Some(1 << 20), ..SetAttr::default() };
    assert_eq!(full.setattr(&v.caller(), file, &grow), Err(PosixError::NoSpace));
    assert!(full.setattr(&v.caller(), file, &SetAttr { size: Some(1), ..grow }).is_ok());
    assert_eq!(full.open(&v.caller(), file, libc::O_WRONLY), Err(PosixError::NoSpace));
    assert_eq!(full.open(&v.caller(), file, libc::O_RDONLY), Ok(()));
    assert_eq!(full.fsync(file, false), Err(PosixError::NoSpace));
    assert_eq!(full.fallocate(&v.caller(), file, 0, 0, 9), Err(PosixError::NoSpace));
    v.posix.setxattr(&v.caller(), file, b"user.a", b"1", 0).unwrap();
    assert_eq!(full.setxattr(&v.caller(), file, b"user.a", b"2", 0), Err(PosixError::NoSpace));
    assert_eq!(full.removexattr(&v.caller(), file, b"user.a"), Ok(()), "what frees is let in");
    assert_eq!(full.unlink(&v.caller(), ROOT, b"file"), Ok(()), "what frees is let in");
}
