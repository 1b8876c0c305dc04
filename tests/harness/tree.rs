//! Compares two directory trees in everything an application can see: content, kind, mode, owner, times, extended attributes and
//! ACLs, which names are links to one file, targets, device numbers, and where the holes are.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Everything seen of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    device: u64,
    size: u64,
    changed: (i64, i64),
    content: String,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name, in order, of the file this name is a link to.
    same_as: Option<PathBuf>,
    links: u64,
    /// Whole MiB of holes: file systems round holes differently, a hole of a MiB is one everywhere.
    hole_mib: u64,
}

/// A tree as it was seen, by path relative to its root; the root itself is the empty path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree(BTreeMap<PathBuf, Seen>);

impl Tree {
    pub(crate) fn scan(root: &Path) -> Self {
        let mut tree = BTreeMap::new();
        let mut firsts = BTreeMap::new();
        let mut pending = vec![PathBuf::new()];
        while let Some(relative) = pending.pop() {
            let path = root.join(&relative);
            let seen = see(&path, &relative, &mut firsts);
            if seen.kind == "directory" {
                let entries = fs::read_dir(&path).unwrap_or_else(|error| panic!("cannot list {}: {error}", path.display()));
                pending.extend(entries.map(|entry| relative.join(entry.expect("an entry").file_name())));
                // In order, so that "the first name of a file" is the same name in both trees.
                pending.sort_by(|a, b| b.cmp(a));
            }
            tree.insert(relative, seen);
        }
        Self(tree)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// What differs, one line each; empty when nothing does.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, seen) in &self.0 {
            match other.0.get(path) {
                None => lines.push(format!("{}: missing", path.display())),
                Some(others) if seen != others => lines.push(format!("{}: {}", path.display(), difference(seen, others))),
                Some(_) => {}
            }
        }
        lines.extend(other.0.keys().filter(|path| !self.0.contains_key(*path)).map(|path| format!("{}: not expected", path.display())));
        lines
    }

    #[track_caller]
    pub(crate) fn assert_same(&self, other: &Self, what: &str) {
        let lines = self.differences(other);
        let shown = lines.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("\n  ");
        assert!(lines.is_empty(), "{what}: {} differences of {} names:\n  {shown}", lines.len(), self.len());
    }
}

fn difference(a: &Seen, b: &Seen) -> String {
    let mut parts = Vec::new();
    let mut part = |name: &str, differs: bool, a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| {
        if differs {
            parts.push(format!("{name} {a:?} is now {b:?}"));
        }
    };
    part("kind", a.kind != b.kind, &a.kind, &b.kind);
    part("mode", a.mode != b.mode, &format_args!("{:o}", a.mode), &format_args!("{:o}", b.mode));
    part("owner", a.owner != b.owner, &a.owner, &b.owner);
    part("device", a.device != b.device, &a.device, &b.device);
    part("size", a.size != b.size, &a.size, &b.size);
    part("mtime", a.changed != b.changed, &a.changed, &b.changed);
    part("content", a.content != b.content, &a.content, &b.content);
    part("xattrs", a.xattrs != b.xattrs, &readable(&a.xattrs), &readable(&b.xattrs));
    part("link", a.same_as != b.same_as, &a.same_as, &b.same_as);
    part("links", a.links != b.links, &a.links, &b.links);
    part("MiB of holes", a.hole_mib != b.hole_mib, &a.hole_mib, &b.hole_mib);
    parts.join(", ")
}

fn readable(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> BTreeMap<String, String> {
    xattrs.iter().map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), hex::encode(&value[..value.len().min(60)]))).collect()
}

fn see(path: &Path, relative: &Path, firsts: &mut BTreeMap<(u64, u64), PathBuf>) -> Seen {
    let meta = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("cannot stat {}: {error}", path.display()));
    let kind = meta.file_type();
    let mut content = String::new();
    let mut hole_mib = 0;
    if kind.is_symlink() {
        content = format!("{:?}", fs::read_link(path).expect("a link's target"));
    } else if kind.is_file() {
        let mut file = File::open(path).unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
        hole_mib = hole_bytes(&file, meta.size()) >> 20;
        content = hash(&mut file).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    }
    let first = firsts.entry((meta.dev(), meta.ino())).or_insert_with(|| relative.to_owned());
    Seen {
        kind: match kind {
            _ if kind.is_dir() => "directory",
            _ if kind.is_symlink() => "symlink",
            _ if kind.is_file() => "file",
            _ if kind.is_fifo() => "fifo",
            _ if kind.is_socket() => "socket",
            _ if kind.is_char_device() => "character device",
            _ => "block device",
        },
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        device: if kind.is_char_device() || kind.is_block_device() { meta.rdev() } else { 0 },
        // The size of a directory is the file system's own affair.
        size: if kind.is_dir() { 0 } else { meta.size() },
        changed: (meta.mtime(), meta.mtime_nsec()),
        content,
        xattrs: xattrs(path),
        same_as: (*first != relative).then(|| first.clone()),
        links: if kind.is_dir() { 0 } else { meta.nlink() },
        hole_mib,
    }
}

fn hash(file: &mut File) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

/// How many bytes of a file are holes.
pub(crate) fn hole_bytes(file: &File, size: u64) -> u64 {
    let seek = |offset: u64, whence: i32| {
        // SAFETY: a system call on a descriptor that outlives it.
        let found = unsafe { libc::lseek(file.as_raw_fd(), offset as i64, whence) };
        u64::try_from(found).ok()
    };
    let (mut offset, mut holes) = (0, 0);
    while offset < size {
        let data = seek(offset, libc::SEEK_DATA).unwrap_or(size);
        holes += data - offset;
        offset = if data < size { seek(data, libc::SEEK_HOLE).unwrap_or(size) } else { size };
    }
    seek(0, libc::SEEK_SET);
    holes
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let c_path = CString::new(path.as_os_str().as_bytes()).expect("a path has no NUL");
    let mut names = vec![0_u8; 64 << 10];
    // SAFETY: pointer and length are of one buffer, the path ends in NUL.
    let count = unsafe { libc::llistxattr(c_path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(usize::try_from(count).unwrap_or(0));
    let mut found = BTreeMap::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        // What a security module or the file system itself keeps there is not the application's.
        if OsStr::from_bytes(name) == "security.selinux" || name.starts_with(b"user.holdfast.") {
            continue;
        }
        let c_name = CString::new(name).expect("split at NUL");
        let mut value = vec![0_u8; 64 << 10];
        // SAFETY: as above.
        let length = unsafe { libc::lgetxattr(c_path.as_ptr(), c_name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        value.truncate(usize::try_from(length).unwrap_or(0));
        found.insert(name.to_vec(), value);
    }
    found
}
