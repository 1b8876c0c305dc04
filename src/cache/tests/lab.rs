//! A cache, the model of what it must hold, and a store in memory with what was committed.

use super::cut::copy_dir;
use crate::cache::{
    Cache, CacheError, CacheOptions, CacheOrigin, Change, Head, Hook, LocalExtent, Missing, NewInode, ReadOutcome, Recovered, SavedReply,
    Seal, Update,
};
use crate::env::Env;
use crate::rpc;
use crate::types::{CacheId, Domain, Hash, Identity, Incarnation, Ino, ROOT, StoreId};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    File(Vec<u8>),
    Dir(BTreeMap<Vec<u8>, Ino>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) mode: u32,
    pub(super) xattr: Option<Vec<u8>>,
    pub(super) body: Body,
}

pub(super) type Tree = BTreeMap<Ino, Node>;

/// What the store's newest commit says.
#[derive(Debug, Clone, Default)]
pub(super) struct Committed {
    pub(super) inodes: BTreeMap<Ino, rpc::Inode>,
    pub(super) names: BTreeMap<(Ino, Vec<u8>), rpc::Name>,
    pub(super) content: BTreeMap<Ino, Vec<u8>>,
    pub(super) seq: u64,
}

pub(super) struct Lab {
    pub(super) dir: PathBuf,
    _root: Arc<tempfile::TempDir>,
    pub(super) cache: Arc<Cache>,
    pub(super) tree: Tree,
    pub(super) committed: Committed,
    pub(super) packs: HashMap<String, Vec<Vec<u8>>>,
    /// What the commits say, one after the other.
    pub(super) deltas: Vec<rpc::Delta>,
    pub(super) boot: u8,
    copies: u32,
    pub(super) hook: Hook,
    pub(super) env: Env,
    pub(super) tweak: fn(&mut CacheOptions),
}

pub(super) struct Sealing {
    pub(super) seal: Seal,
    pub(super) at_flip: Tree,
}

pub(super) fn options(dir: &Path, boot: u8) -> CacheOptions {
    let mut options = CacheOptions::new(dir);
    options.log_bytes = 256 << 10;
    options.boot_id = Some([boot; 16]);
    options.any_file_system = true;
    options.no_sync = true;
    options.hot_inodes = 16;
    options.hot_names = 16;
    options
}

pub(super) fn origin() -> CacheOrigin {
    CacheOrigin {
        store_id: StoreId([1; 16]),
        incarnation: Incarnation([2; 16]),
        identity: Identity::parse("a/b").unwrap(),
        cache_id: CacheId([3; 16]),
    }
}

pub(super) fn everything(_: &mut crate::cache::View<'_>, _: &Change) -> Domain {
    Domain::Continuous
}

impl Lab {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(tweak: fn(&mut CacheOptions)) -> Self {
        let root = Arc::new(tempfile::tempdir().unwrap());
        let dir = root.path().join("0");
        let mut options = options(&dir, 1);
        tweak(&mut options);
        let cache = Cache::create(Env::real(), options, &origin()).unwrap();
        let root_node = Node { mode: libc::S_IFDIR | 0o755, xattr: None, body: Body::Dir(BTreeMap::new()) };
        Self {
            dir,
            _root: root,
            cache,
            tree: BTreeMap::from([(ROOT, root_node)]),
            committed: Committed::default(),
            packs: HashMap::new(),
            deltas: Vec::new(),
            boot: 1,
            copies: 0,
            hook: Hook::default(),
            env: Env::real(),
            tweak,
        }
    }

    pub(super) fn fresh_dir(&mut self) -> PathBuf {
        self.copies += 1;
        self._root.path().join(format!("{}", self.copies))
    }

    /// Goes on with the directory as it is now, as after a `kill -9`.
    pub(super) fn crash(&mut self) -> Recovered {
        let to = self.fresh_dir();
        copy_dir(&self.dir, &to);
        self.reopen(to)
    }

    pub(super) fn reopen(&mut self, dir: PathBuf) -> Recovered {
        let mut options = options(&dir, self.boot);
        (self.tweak)(&mut options);
        options.on_sync = self.hook.clone();
        let (cache, recovered) = Cache::open(self.env.clone(), options).unwrap();
        self.cache = cache;
        self.dir = dir;
        recovered
    }

    pub(super) fn update<R>(&self, f: impl FnOnce(&mut Update<'_>) -> Result<R, CacheError>) -> Result<R, CacheError> {
        self.cache.update(None, |u| Ok((f(u)?, SavedReply::Empty)))
    }

    pub(super) fn entries(&mut self, dir: Ino) -> &mut BTreeMap<Vec<u8>, Ino> {
        match &mut self.tree.get_mut(&dir).unwrap().body {
            Body::Dir(entries) => entries,
            Body::File(_) => panic!("{dir} is a file"),
        }
    }

    pub(super) fn bytes(&mut self, ino: Ino) -> &mut Vec<u8> {
        match &mut self.tree.get_mut(&ino).unwrap().body {
            Body::File(bytes) => bytes,
            Body::Dir(_) => panic!("{ino} is a directory"),
        }
    }

    pub(super) fn make(&mut self, dir: Ino, name: &[u8], is_dir: bool) -> Ino {
        let mode = if is_dir { libc::S_IFDIR | 0o755 } else { libc::S_IFREG | 0o644 };
        let ino = self
            .update(|u| {
                let attr = u.new_inode(&NewInode { mode, ..NewInode::default() })?;
                u.set_name(dir, name, attr.ino)?;
                Ok(attr.ino)
            })
            .unwrap();
        let body = if is_dir { Body::Dir(BTreeMap::new()) } else { Body::File(Vec::new()) };
        self.tree.insert(ino, Node { mode, xattr: None, body });
        self.entries(dir).insert(name.to_vec(), ino);
        ino
    }

    pub(super) fn file(&mut self, name: &[u8]) -> Ino {
        self.make(ROOT, name, false)
    }

    fn links(&self, ino: Ino) -> usize {
        self.tree
            .values()
            .filter_map(|n| if let Body::Dir(d) = &n.body { Some(d) } else { None })
            .flat_map(BTreeMap::values)
            .filter(|i| **i == ino)
            .count()
    }

    fn forget_if_unlinked(&mut self, ino: Ino) {
        if self.links(ino) == 0 {
            self.tree.remove(&ino);
        }
    }

    pub(super) fn remove(&mut self, dir: Ino, name: &[u8]) {
        let ino = self.entries(dir).remove(name).unwrap();
        self.update(|u| {
            u.remove_name(dir, name)?;
            u.forget_orphan(ino)
        })
        .unwrap();
        self.forget_if_unlinked(ino);
    }

    pub(super) fn rename(&mut self, dir: Ino, name: &[u8], to: Ino, new: &[u8]) {
        let ino = self.entries(dir).remove(name).unwrap();
        let old = self.entries(to).insert(new.to_vec(), ino);
        self.update(|u| {
            u.remove_name(dir, name)?;
            u.set_name(to, new, ino)?;
            match old {
                Some(old) if old != ino => u.forget_orphan(old),
                _ => Ok(()),
            }
        })
        .unwrap();
        if let Some(old) = old {
            self.forget_if_unlinked(old);
        }
    }

    pub(super) fn link(&mut self, ino: Ino, dir: Ino, name: &[u8]) {
        self.entries(dir).insert(name.to_vec(), ino);
        self.update(|u| u.set_name(dir, name, ino)).unwrap();
    }

    pub(super) fn chmod(&mut self, ino: Ino, bits: u32) {
        let node = self.tree.get_mut(&ino).unwrap();
        node.mode = node.mode & libc::S_IFMT | bits;
        node.xattr = Some(bits.to_le_bytes().to_vec());
        let (mode, xattr) = (node.mode, node.xattr.clone().unwrap());
        self.update(|u| {
            let mut attr = u.attr(ino)?.unwrap();
            attr.mode = mode;
            u.set_attr(&attr)?;
            u.set_xattr(ino, b"user.bits", &xattr)
        })
        .unwrap();
    }

    /// Writes through the cache, fetching what must be here.
    pub(super) fn put(&self, ino: Ino, offset: u64, data: &[u8]) {
        while let crate::cache::WriteOutcome::Absent(ranges) = self.cache.write(None, ino, offset, data).unwrap() {
            self.fetch(ino, &ranges);
        }
    }

    pub(super) fn write(&mut self, ino: Ino, offset: u64, data: &[u8]) {
        self.put(ino, offset, data);
        let bytes = self.bytes(ino);
        let end = offset as usize + data.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[offset as usize..end].copy_from_slice(data);
    }

    pub(super) fn truncate(&mut self, ino: Ino, size: u64) {
        self.update(|u| u.set_size(ino, size)).unwrap();
        self.bytes(ino).resize(size as usize, 0);
    }

    pub(super) fn punch(&mut self, ino: Ino, offset: u64, len: u64) {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        while let crate::cache::WriteOutcome::Absent(ranges) = self.cache.fallocate(None, ino, mode, offset, len).unwrap() {
            self.fetch(ino, &ranges);
        }
        let bytes = self.bytes(ino);
        let (start, end) = ((offset as usize).min(bytes.len()), ((offset + len) as usize).min(bytes.len()));
        bytes[start..end].fill(0);
    }

    pub(super) fn stored(&self, missing: &Missing) -> Vec<u8> {
        let e = &missing.extent;
        let object = self.cache.object(e.object).unwrap();
        let frame = &self.packs[&object.name][e.frame as usize];
        frame[e.skip as usize..e.skip as usize + e.length as usize].to_vec()
    }

    pub(super) fn fetch(&self, ino: Ino, ranges: &[std::ops::Range<u64>]) {
        for range in ranges {
            for missing in self.cache.missing(ino, range.clone()).unwrap() {
                let bytes = self.stored(&missing);
                self.cache.install(ino, &missing, &bytes).unwrap();
            }
        }
    }

    pub(super) fn content(&self, ino: Ino) -> Vec<u8> {
        let size = self.cache.view(|v| v.attr(ino)).unwrap().unwrap().size;
        let mut out = Vec::new();
        while let ReadOutcome::Absent(ranges) = self.cache.read(ino, 0, size as usize + 10, &mut out).unwrap() {
            self.fetch(ino, &ranges);
        }
        out
    }

    /// Everything, as the cache says it.
    pub(super) fn seen(&self) -> Tree {
        let mut tree = BTreeMap::new();
        let mut queue = vec![ROOT];
        let mut links: HashMap<Ino, u32> = HashMap::new();
        let mut attrs = HashMap::new();
        while let Some(ino) = queue.pop() {
            let (attr, xattr) = self.cache.view(|v| (v.attr(ino).unwrap().unwrap(), v.xattr(ino, b"user.bits").unwrap()));
            let body = if attr.is_dir() {
                let mut entries = BTreeMap::new();
                let mut after = 0;
                loop {
                    let chunk = self.cache.view(|v| v.entries(ino, after, 3)).unwrap();
                    let Some(last) = chunk.last() else { break };
                    after = last.cookie;
                    for entry in chunk {
                        assert_eq!(self.cache.view(|v| v.lookup(ino, &entry.name)).unwrap(), Some((entry.ino, entry.cookie)));
                        assert!(self.cache.view(|v| v.names_of(entry.ino)).unwrap().contains(&(ino, entry.name.clone())));
                        *links.entry(entry.ino).or_default() += 1;
                        if entry.attr.is_dir() {
                            *links.entry(ino).or_default() += 1;
                        }
                        if !tree.contains_key(&entry.ino) && !queue.contains(&entry.ino) {
                            queue.push(entry.ino);
                        }
                        assert!(entries.insert(entry.name, entry.ino).is_none());
                    }
                }
                Body::Dir(entries)
            } else {
                Body::File(self.content(ino))
            };
            tree.insert(ino, Node { mode: attr.mode, xattr, body });
            attrs.insert(ino, attr);
        }
        for (ino, attr) in attrs {
            let more = if ino == ROOT { 2 } else { u32::from(attr.is_dir()) };
            assert_eq!(attr.nlink, links.get(&ino).copied().unwrap_or(0) + more, "links of {ino}");
        }
        tree
    }

    pub(super) fn check(&self) {
        assert_eq!(self.seen(), self.tree);
        assert!(self.cache.view(|v| v.orphans()).unwrap().is_empty());
    }

    pub(super) fn begin_seal(&self) -> Sealing {
        Sealing { seal: self.cache.seal(&mut everything).unwrap(), at_flip: self.tree.clone() }
    }

    /// Stores what a seal froze, checks that it is the state at the flip, and resolves it.
    pub(super) fn commit(&mut self, sealing: Sealing) {
        let Sealing { seal, at_flip } = sealing;
        self.committed.seq += 1;
        let seq = self.committed.seq;
        let name = format!("packs/{seq}");
        let (frames, files) = self.collect(&seal, &name);
        assert_eq!(self.committed.tree(), at_flip, "the commit is the state at the flip");
        let object = rpc::ObjectRef { name: name.clone(), ..rpc::ObjectRef::default() };
        self.packs.insert(name, frames);
        self.cache.make_durable(&seal).unwrap();
        let head = Head { seq, hash: Hash([seq as u8; 32]), epoch: 1 };
        seal.keep_stored(&files).unwrap();
        self.cache.resolve(seal, head, &[object]).unwrap();
        assert_eq!(self.cache.head(), Some(head));
    }

    /// Commits what has changed.
    pub(super) fn commit_all(&mut self) {
        let sealing = self.begin_seal();
        self.commit(sealing);
    }

    /// A file with this content, in a commit.
    pub(super) fn committed(&mut self, name: &[u8], content: &[u8]) -> Ino {
        let ino = self.file(name);
        self.write(ino, 0, content);
        self.commit_all();
        ino
    }

    pub(super) fn collect(&mut self, seal: &Seal, pack: &str) -> (Vec<Vec<u8>>, Vec<rpc::ExtentChange>) {
        let committed = &mut self.committed;
        let object = rpc::ObjectRef { name: pack.to_owned(), ..rpc::ObjectRef::default() };
        let mut delta = rpc::Delta { objects: vec![object], ..rpc::Delta::default() };
        let mut cursor = 0;
        loop {
            let chunk = seal.removed_names(&mut cursor, 2).unwrap();
            if chunk.is_empty() {
                break;
            }
            chunk.iter().for_each(|n| drop(committed.names.remove(&(n.dir, n.name.to_vec()))));
            delta.removed_names.extend(chunk);
        }
        cursor = 0;
        loop {
            let chunk = seal.removed_inodes(&mut cursor, 2).unwrap();
            if chunk.is_empty() {
                break;
            }
            for ino in &chunk {
                committed.inodes.remove(ino);
                committed.content.remove(ino);
            }
            delta.removed_inodes.extend(chunk);
        }
        cursor = 0;
        loop {
            let chunk = seal.inodes(&mut cursor, 2).unwrap();
            if chunk.is_empty() {
                break;
            }
            for inode in chunk {
                if inode.mode & libc::S_IFMT == libc::S_IFREG {
                    committed.content.entry(inode.ino).or_default().resize(inode.size as usize, 0);
                }
                delta.inodes.push(inode.clone());
                committed.inodes.insert(inode.ino, inode);
            }
        }
        cursor = 0;
        loop {
            let chunk = seal.names(&mut cursor, 2).unwrap();
            if chunk.is_empty() {
                break;
            }
            delta.names.extend(chunk.iter().cloned());
            chunk.into_iter().for_each(|n| drop(committed.names.insert((n.dir, n.name.to_vec()), n)));
        }
        self.deltas.push(delta);
        self.collect_content(seal)
    }

    fn collect_content(&mut self, seal: &Seal) -> (Vec<Vec<u8>>, Vec<rpc::ExtentChange>) {
        let (mut frames, mut changes, mut cursor) = (Vec::new(), Vec::new(), 0);
        loop {
            let chunk = seal.files(&mut cursor, 2).unwrap();
            if chunk.is_empty() {
                return (frames, changes);
            }
            for file in chunk {
                let content = self.committed.content.get_mut(&file.ino).unwrap();
                assert_eq!(content.len() as u64, file.size);
                for range in &file.cleared {
                    content[range.start as usize..range.end as usize].fill(0);
                }
                for e in &file.shared {
                    let object = self.cache.object(e.object).unwrap();
                    let frame = &self.packs[&object.name][e.frame as usize];
                    let bytes = &frame[e.skip as usize..e.skip as usize + e.length as usize];
                    content[e.offset as usize..(e.offset + e.length) as usize].copy_from_slice(bytes);
                }
                let mut change = rpc::ExtentChange { ino: file.ino, ..rpc::ExtentChange::default() };
                let cleared = file.cleared.iter().map(|range| rpc::Range { offset: range.start, length: range.end - range.start });
                change.cleared.extend(cleared);
                for range in &file.dirty {
                    // Small frames: extents of several pages, each with its own checksum.
                    let mut at = range.start;
                    while at < range.end {
                        let length = (range.end - at).min(8192);
                        let mut bytes = vec![0; length as usize];
                        seal.read(file.ino, at, &mut bytes).unwrap();
                        content[at as usize..(at + length) as usize].copy_from_slice(&bytes);
                        change.extents.push(rpc::Extent {
                            offset: at,
                            length,
                            object: 1,
                            frame: frames.len() as u32,
                            plain_length: length as u32,
                            checksum: xxh3_64(&bytes),
                            ..rpc::Extent::default()
                        });
                        frames.push(bytes);
                        at += length;
                    }
                }
                let mut told = change.clone();
                if let Some(delta) = self.deltas.last_mut() {
                    for e in &file.shared {
                        delta.objects.push(self.cache.object(e.object).unwrap());
                        told.extents.push(shared_extent(e, delta.objects.len() as u32));
                    }
                    delta.extents.push(told);
                }
                changes.push(change);
            }
        }
    }
}

/// As a commit says it, whose table has the object under this number.
fn shared_extent(e: &LocalExtent, object: u32) -> rpc::Extent {
    let LocalExtent { offset, length, frame, stored_offset, stored_length, plain_length, skip, checksum, .. } = *e;
    rpc::Extent { offset, length, object, frame, stored_offset, stored_length, plain_length, skip, checksum, ..rpc::Extent::default() }
}

impl Committed {
    /// The tree that a reader of the newest commit sees.
    pub(super) fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        for (ino, inode) in &self.inodes {
            let body = match self.content.get(ino) {
                Some(content) => Body::File(content.clone()),
                None => Body::Dir(self.names.values().filter(|n| n.dir == *ino).map(|n| (n.name.to_vec(), n.ino)).collect()),
            };
            let xattr = inode.xattrs.first().map(|x| x.value.to_vec());
            tree.insert(*ino, Node { mode: inode.mode, xattr, body });
        }
        tree
    }
}
