//! The bare daemon's metadata: a tree in memory under one lock, and one backing file per regular file.
//!
//! Nothing is persistent and nothing is logged: whatever a file system must do beyond this is what a comparison with it shows.

use fuser::{Errno, FileAttr, FileType, INodeNo};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const SHARDS: usize = 16;
/// The kernel lets 1024 through.
const NAME_BYTES_MAX: usize = 255;

pub(crate) struct Directory {
    pub(crate) parent: u64,
    pub(crate) names: HashMap<Vec<u8>, (u64, u64)>,
    /// By cookie, which is never reused: a listing under way neither skips nor repeats.
    pub(crate) order: BTreeMap<u64, (Vec<u8>, u64)>,
}

impl Directory {
    fn new(parent: u64) -> Self {
        Self { parent, names: HashMap::new(), order: BTreeMap::new() }
    }

    fn insert(&mut self, name: &[u8], ino: u64, cookie: u64) {
        self.names.insert(name.to_vec(), (ino, cookie));
        self.order.insert(cookie, (name.to_vec(), ino));
    }

    fn remove(&mut self, name: &[u8]) {
        if let Some((_, cookie)) = self.names.remove(name) {
            self.order.remove(&cookie);
        }
    }
}

pub(crate) struct Node {
    pub(crate) attr: FileAttr,
    pub(crate) directory: Option<Directory>,
    pub(crate) target: Vec<u8>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Which backing file; 0 for none.
    data: u64,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) nodes: HashMap<u64, Node>,
    last_ino: u64,
    last_cookie: u64,
    last_data: u64,
    /// Emptied backing files: ext4 creates a file slowly soon after many were deleted.
    free_data: Vec<u64>,
}

pub(crate) struct Tree {
    pub(crate) state: RwLock<State>,
    files: [Mutex<HashMap<u64, Opened>>; SHARDS],
    backing: PathBuf,
}

/// A backing file and how many handles hold it open.
struct Opened {
    file: Arc<File>,
    handles: usize,
}

/// What a new node is made of.
pub(crate) struct NewNode<'a> {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u32,
    pub(crate) target: &'a [u8],
}

pub(crate) fn errno(error: std::io::Error) -> Errno {
    Errno::from_i32(error.raw_os_error().unwrap_or(libc::EIO))
}

fn kind(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

impl Tree {
    pub(crate) fn new(backing: PathBuf) -> std::io::Result<Self> {
        std::fs::create_dir_all(&backing)?;
        let tree = Self { state: RwLock::new(State::default()), files: std::array::from_fn(|_| Mutex::default()), backing };
        let root = NewNode { mode: libc::S_IFDIR | 0o755, uid: 0, gid: 0, rdev: 0, target: b"" };
        tree.state.write().allocate(1, &root, 0);
        Ok(tree)
    }

    fn path(&self, data: u64) -> PathBuf {
        self.backing.join(format!("{:03x}/{data:x}", data >> 10))
    }

    fn shard(&self, data: u64) -> &Mutex<HashMap<u64, Opened>> {
        &self.files[data as usize % SHARDS]
    }

    fn open_data(&self, data: u64, handles: usize) -> Result<Arc<File>, Errno> {
        if data == 0 {
            return Err(Errno::EINVAL);
        }
        let mut files = self.shard(data).lock();
        if let Some(opened) = files.get_mut(&data) {
            opened.handles += handles;
            return Ok(Arc::clone(&opened.file));
        }
        let path = self.path(data);
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).clone();
        let file = options.open(&path).or_else(|error| match (error.kind(), path.parent()) {
            (std::io::ErrorKind::NotFound, Some(parent)) => std::fs::create_dir_all(parent).and_then(|()| options.open(&path)),
            _ => Err(error),
        });
        let file = Arc::new(file.map_err(errno)?);
        if handles > 0 {
            files.insert(data, Opened { file: Arc::clone(&file), handles });
        }
        Ok(file)
    }

    /// The backing file of an inode; `handles` is 1 when a handle will hold it.
    pub(crate) fn file(&self, ino: u64, handles: usize) -> Result<Arc<File>, Errno> {
        let data = self.state.read().nodes.get(&ino).ok_or(Errno::ENOENT)?.data;
        self.open_data(data, handles)
    }

    pub(crate) fn release(&self, ino: u64) {
        let Some(data) = self.state.read().nodes.get(&ino).map(|node| node.data) else { return };
        let mut files = self.shard(data).lock();
        if let Some(opened) = files.get_mut(&data) {
            opened.handles -= 1;
            if opened.handles == 0 {
                files.remove(&data);
            }
        }
    }

    /// An inode without names goes when the kernel has forgotten it.
    pub(crate) fn forget(&self, ino: u64) {
        let orphan = |node: &Node| node.attr.nlink == 0;
        if !self.state.read().nodes.get(&ino).is_some_and(orphan) {
            return;
        }
        let Some(node) = self.state.write().nodes.remove(&ino) else { return };
        if node.data != 0 && self.open_data(node.data, 0).and_then(|file| file.set_len(0).map_err(errno)).is_ok() {
            self.shard(node.data).lock().remove(&node.data);
            self.state.write().free_data.push(node.data);
        }
    }

    pub(crate) fn attr(&self, ino: u64) -> Result<FileAttr, Errno> {
        self.state.read().nodes.get(&ino).map(|node| node.attr).ok_or(Errno::ENOENT)
    }

    pub(crate) fn grow(&self, ino: u64, end: u64) {
        if self.state.read().nodes.get(&ino).is_some_and(|node| node.attr.size < end)
            && let Some(node) = self.state.write().nodes.get_mut(&ino)
        {
            node.attr.size = node.attr.size.max(end);
            node.attr.blocks = node.attr.size.div_ceil(512);
        }
    }

    /// Every operation of the state runs under the one lock.
    pub(crate) fn make(&self, parent: u64, name: &[u8], new: &NewNode<'_>, handles: usize) -> Result<FileAttr, Errno> {
        let (attr, data) = self.state.write().make(parent, name, new)?;
        if handles > 0 {
            self.open_data(data, handles)?;
        }
        Ok(attr)
    }
}

impl State {
    fn allocate(&mut self, parent: u64, new: &NewNode<'_>, data: u64) -> FileAttr {
        self.last_ino += 1;
        let now = SystemTime::now();
        let directory = new.mode & libc::S_IFMT == libc::S_IFDIR;
        let attr = FileAttr {
            ino: INodeNo(self.last_ino),
            size: new.target.len() as u64,
            blocks: 0,
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            kind: kind(new.mode),
            perm: (new.mode & 0o7777) as u16,
            nlink: if directory { 2 } else { 1 },
            uid: new.uid,
            gid: new.gid,
            rdev: new.rdev,
            blksize: 4096,
            flags: 0,
        };
        let directory = directory.then(|| Directory::new(parent));
        let node = Node { attr, directory, target: new.target.to_vec(), xattrs: BTreeMap::new(), data };
        self.nodes.insert(self.last_ino, node);
        attr
    }

    fn directory(&mut self, ino: u64) -> Result<&mut Node, Errno> {
        let node = self.nodes.get_mut(&ino).ok_or(Errno::ENOENT)?;
        if node.directory.is_some() { Ok(node) } else { Err(Errno::ENOTDIR) }
    }

    pub(crate) fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<u64>, Errno> {
        if name.len() > NAME_BYTES_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let directory = self.nodes.get(&parent).ok_or(Errno::ENOENT)?.directory.as_ref().ok_or(Errno::ENOTDIR)?;
        Ok(directory.names.get(name).map(|(ino, _)| *ino))
    }

    fn change_directory(&mut self, ino: u64, links: i64, change: impl FnOnce(&mut Directory, u64)) {
        self.last_cookie += 1;
        // Cookies 1 and 2 belong to `.` and `..`.
        let cookie = self.last_cookie + 2;
        let Some(node) = self.nodes.get_mut(&ino) else { return };
        node.attr.mtime = SystemTime::now();
        node.attr.ctime = node.attr.mtime;
        node.attr.nlink = node.attr.nlink.saturating_add_signed(links as i32);
        if let Some(directory) = node.directory.as_mut() {
            change(directory, cookie);
        }
    }

    fn make(&mut self, parent: u64, name: &[u8], new: &NewNode<'_>) -> Result<(FileAttr, u64), Errno> {
        let node = self.directory(parent)?;
        if node.attr.nlink == 0 {
            return Err(Errno::ENOENT);
        }
        let (directory_gid, inherits) = (node.attr.gid, u32::from(node.attr.perm) & libc::S_ISGID != 0);
        if self.lookup(parent, name)?.is_some() {
            return Err(Errno::EEXIST);
        }
        let directory = new.mode & libc::S_IFMT == libc::S_IFDIR;
        let mode = if inherits && directory { new.mode | libc::S_ISGID } else { new.mode };
        let gid = if inherits { directory_gid } else { new.gid };
        let mut data = 0;
        if mode & libc::S_IFMT == libc::S_IFREG {
            data = self.free_data.pop().unwrap_or_else(|| {
                self.last_data += 1;
                self.last_data
            });
        }
        let attr = self.allocate(parent, &NewNode { mode, gid, ..*new }, data);
        self.change_directory(parent, i64::from(directory), |directory, cookie| directory.insert(name, attr.ino.0, cookie));
        Ok((attr, data))
    }

    fn drop_name_of(&mut self, ino: u64) {
        let Some(node) = self.nodes.get_mut(&ino) else { return };
        node.attr.ctime = SystemTime::now();
        node.attr.nlink = if node.directory.is_some() { 0 } else { node.attr.nlink.saturating_sub(1) };
    }

    pub(crate) fn remove(&mut self, parent: u64, name: &[u8], directory: bool) -> Result<(), Errno> {
        let ino = self.lookup(parent, name)?.ok_or(Errno::ENOENT)?;
        match (directory, self.nodes.get(&ino).and_then(|node| node.directory.as_ref())) {
            (true, None) => return Err(Errno::ENOTDIR),
            (false, Some(_)) => return Err(Errno::EISDIR),
            (true, Some(inner)) if !inner.names.is_empty() => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        self.change_directory(parent, -i64::from(directory), |directory, _| directory.remove(name));
        self.drop_name_of(ino);
        Ok(())
    }

    pub(crate) fn link(&mut self, ino: u64, parent: u64, name: &[u8]) -> Result<FileAttr, Errno> {
        if self.lookup(parent, name)?.is_some() {
            return Err(Errno::EEXIST);
        }
        let node = self.nodes.get_mut(&ino).ok_or(Errno::ENOENT)?;
        node.attr.nlink += 1;
        node.attr.ctime = SystemTime::now();
        let attr = node.attr;
        self.change_directory(parent, 0, |directory, cookie| directory.insert(name, ino, cookie));
        Ok(attr)
    }

    pub(crate) fn rename(&mut self, from: (u64, &[u8]), to: (u64, &[u8]), noreplace: bool, exchange: bool) -> Result<(), Errno> {
        let ino = self.lookup(from.0, from.1)?.ok_or(Errno::ENOENT)?;
        let target = self.lookup(to.0, to.1)?;
        let is_directory = |state: &Self, ino: u64| state.nodes.get(&ino).is_some_and(|node| node.directory.is_some());
        if exchange {
            let target = target.ok_or(Errno::ENOENT)?;
            self.replace(from, target);
            self.replace(to, ino);
            return Ok(());
        }
        if let Some(target) = target {
            if noreplace {
                return Err(Errno::EEXIST);
            }
            if target == ino {
                return Ok(());
            }
            match (is_directory(self, ino), is_directory(self, target)) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                (true, true) => self.remove(to.0, to.1, true)?,
                (false, false) => self.remove(to.0, to.1, false)?,
            }
        }
        let links = i64::from(is_directory(self, ino));
        self.change_directory(from.0, -links, |directory, _| directory.remove(from.1));
        self.change_directory(to.0, links, |directory, cookie| directory.insert(to.1, ino, cookie));
        self.moved(ino, to.0);
        Ok(())
    }

    fn replace(&mut self, (parent, name): (u64, &[u8]), ino: u64) {
        self.change_directory(parent, 0, |directory, cookie| {
            directory.remove(name);
            directory.insert(name, ino, cookie);
        });
        self.moved(ino, parent);
    }

    fn moved(&mut self, ino: u64, parent: u64) {
        let Some(node) = self.nodes.get_mut(&ino) else { return };
        node.attr.ctime = SystemTime::now();
        if let Some(directory) = node.directory.as_mut() {
            directory.parent = parent;
        }
    }
}

/// For ever: nobody else changes this tree.
pub(crate) const TTL: Duration = Duration::from_secs(1 << 30);
