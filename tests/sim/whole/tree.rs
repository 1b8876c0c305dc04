//! What a volume shows at one instant: the model's tree, the one that the engine shows, and the one that a commit holds.

use holdfast::types::{Attr, Ino, ROOT};
use holdfast::volume::{Posix, PosixError};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An inode. Times of reading are in nobody's promise; link counts are checked against the names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    pub ctime: i64,
    pub btime: i64,
    pub target: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub bytes: Arc<Vec<u8>>,
    pub entries: BTreeMap<Vec<u8>, Ino>,
}

impl Node {
    pub fn is_dir(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFDIR
    }

    pub fn is_file(&self) -> bool {
        self.mode & libc::S_IFMT == libc::S_IFREG
    }

    pub fn take(&mut self, attr: &Attr) {
        (self.mode, self.uid, self.gid) = (attr.mode, attr.uid, attr.gid);
        (self.mtime, self.ctime, self.btime) = (attr.mtime, attr.ctime, attr.btime);
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<Ino, Arc<Node>>);

impl Tree {
    pub fn get(&self, ino: Ino) -> Option<&Node> {
        self.0.get(&ino).map(|node| &**node)
    }

    pub fn change(&mut self, ino: Ino, change: impl FnOnce(&mut Node)) {
        change(Arc::make_mut(self.0.entry(ino).or_default()));
    }

    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Option<Ino> {
        self.get(dir)?.entries.get(name).copied()
    }

    pub fn links(&self, ino: Ino) -> usize {
        self.0.values().flat_map(|node| node.entries.values()).filter(|entry| **entry == ino).count()
    }

    /// Whether `inner` is `outer` or lies below it.
    pub fn below(&self, inner: Ino, outer: Ino) -> bool {
        inner == outer || self.get(outer).is_some_and(|node| node.entries.values().any(|child| self.below(inner, *child)))
    }

    pub fn all(&self, which: impl Fn(&Node) -> bool) -> Vec<Ino> {
        self.0.iter().filter(|(_, node)| which(node)).map(|(ino, _)| *ino).collect()
    }

    /// The tree without what the loss of power may change of files one by one.
    pub fn shape(&self) -> Self {
        let strip = |node: &Arc<Node>| {
            if !node.is_file() {
                return Arc::clone(node);
            }
            Arc::new(Node { mtime: 0, ctime: 0, bytes: Arc::default(), ..(**node).clone() })
        };
        Self(self.0.iter().map(|(ino, node)| (*ino, strip(node))).collect())
    }

    /// What is different, for a person.
    pub fn differs(&self, other: &Self) -> String {
        let mut said = Vec::new();
        for ino in self.0.keys().chain(other.0.keys()) {
            let (a, b) = (self.get(*ino), other.get(*ino));
            if a != b && said.len() < 6 {
                said.push(format!("inode {ino:x}: {} | {}", tell(a, b), tell(b, a)));
            }
        }
        said.dedup();
        said.join("; ")
    }
}

fn tell(node: Option<&Node>, other: Option<&Node>) -> String {
    let Some(node) = node else { return "absent".into() };
    let names: Vec<String> = node.entries.iter().map(|(name, ino)| format!("{}={ino:x}", String::from_utf8_lossy(name))).collect();
    let at = other.map_or(0, |other| node.bytes.iter().zip(&*other.bytes).take_while(|(a, b)| a == b).count());
    let some = &node.bytes[at.min(node.bytes.len())..(at + 8).min(node.bytes.len())];
    format!(
        "mode {:o} mtime {} ctime {} xattrs {} size {} at {at} {some:x?} names {}",
        node.mode,
        node.mtime,
        node.ctime,
        node.xattrs.len(),
        node.bytes.len(),
        names.join(",")
    )
}

/// What the engine shows now. With `Err` of an operation, nothing is known.
pub fn walk(posix: &Posix) -> Result<Tree, PosixError> {
    let mut tree = Tree::default();
    let mut queue = vec![ROOT];
    let mut links: BTreeMap<Ino, u32> = BTreeMap::new();
    let mut counts: BTreeMap<Ino, u32> = BTreeMap::new();
    while let Some(ino) = queue.pop() {
        let attr = posix.getattr(ino)?;
        let mut node = Node::default();
        node.take(&attr);
        counts.insert(ino, attr.nlink);
        for name in posix.listxattr(ino)?.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            node.xattrs.insert(name.to_vec(), posix.getxattr(ino, name)?);
        }
        if attr.is_dir() {
            *links.entry(ino).or_default() += if ino == ROOT { 2 } else { 1 };
            let mut found = Vec::new();
            posix.list(ino, 2, 7, |_, name, attr| {
                found.push((name.to_vec(), attr.ino, attr.is_dir()));
                false
            })?;
            for (name, child, is_dir) in found {
                *links.entry(child).or_default() += 1;
                *links.entry(ino).or_default() += u32::from(is_dir);
                if node.entries.insert(name, child).is_some() {
                    return Err(PosixError::Exists);
                }
                if !tree.0.contains_key(&child) && !queue.contains(&child) {
                    queue.push(child);
                }
            }
        } else if attr.is_file() {
            let mut bytes = Vec::new();
            posix.read_waiting(ino, 0, attr.size as usize + 10, &mut bytes)?;
            node.bytes = Arc::new(bytes);
        } else {
            node.target = posix.readlink(ino).unwrap_or_default();
        }
        tree.0.insert(ino, Arc::new(node));
    }
    // Links that the names do not explain.
    if counts != links { Err(PosixError::TooManyLinks) } else { Ok(tree) }
}
