//! What a commit shows, put together from the objects in the store by the rules of docs/format.md alone.

use super::tree::{Node, Tree};
use bytes::Bytes;
use holdfast::format::seal::Sealer;
use holdfast::format::tree::{ExtentMap, Located, Place, locate};
use holdfast::format::{delta, names, pack, record};
use holdfast::rpc::log_record::Kind;
use holdfast::rpc::{Commit, Delta, Inode, ObjectRef};
use holdfast::types::{Incarnation, Ino, Seq};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The bytes of a stored object.
pub type Get<'a> = &'a dyn Fn(&str) -> Option<Bytes>;

/// Where the objects of one life lie, and what opens them.
pub struct Source<'a> {
    pub incarnation: Incarnation,
    pub sealer: &'a Sealer,
    pub get: Get<'a>,
}

#[derive(Clone, Debug, Default)]
pub struct Shown {
    inodes: BTreeMap<Ino, Inode>,
    files: BTreeMap<Ino, ExtentMap>,
    names: BTreeMap<(Ino, Vec<u8>), Ino>,
    pub tree: Arc<Tree>,
}

impl Source<'_> {
    fn object(&self, object: &ObjectRef) -> Result<Bytes, String> {
        let (_, name) = names::absolute(self.incarnation, &object.name).ok_or_else(|| format!("{} is no object's name", object.name))?;
        (self.get)(&name).ok_or_else(|| format!("I5: {name} is named and not there"))
    }

    /// The deltas of a commit, wherever they lie.
    pub fn deltas(&self, commit: &Commit) -> Result<Vec<Delta>, String> {
        let mut deltas: Vec<Delta> = commit.delta.iter().cloned().collect();
        for frame in &commit.delta_frames {
            let Some(object) = &frame.object else { continue };
            let bytes = self.object(object)?;
            let start = frame.stored_offset as usize;
            let stored = bytes.get(start..start + frame.stored_length as usize).ok_or("a frame of a delta is cut off")?;
            let plain = pack::open_frame(self.sealer, frame, stored).map_err(|error| error.to_string())?;
            deltas.push(delta::decode_frame(&object.name, &plain, commit.inline_frames.len()).map_err(|error| error.to_string())?);
        }
        Ok(deltas)
    }

    fn content(&self, located: &Located) -> Result<Bytes, String> {
        let extent = &located.extent;
        let plain = match &located.place {
            Place::Object(object) => {
                let bytes = self.object(object)?;
                let start = extent.stored_offset as usize;
                let stored = bytes.get(start..start + extent.stored_length as usize).ok_or("a frame is cut off")?;
                pack::open_extent(self.sealer, object, extent, stored).map_err(|error| error.to_string())?
            }
            Place::Inline(seq) => {
                let name = names::commit(self.incarnation, *seq);
                let bytes = (self.get)(&name).ok_or_else(|| format!("I5: {name} holds a value inline and is not there"))?;
                let kind = record::decode(&bytes, self.sealer, &name).map_err(|error| error.to_string())?.kind;
                let Some(Kind::Commit(commit)) = kind else { return Err(format!("{name} holds a value inline and is no commit")) };
                record::inline_frame(&commit.inline_frames, &name, extent.frame, extent.plain_length, extent.checksum)
                    .map_err(|e| e.to_string())?
            }
        };
        let start = extent.skip as usize;
        Ok(plain.slice(start..start + extent.length as usize))
    }
}

impl Shown {
    /// With the next commit.
    pub fn next(&self, source: &Source<'_>, seq: Seq, deltas: &[Delta]) -> Result<Self, String> {
        let mut next = self.clone();
        let mut changed = BTreeSet::new();
        for delta in deltas {
            next.lay(seq, delta, &mut changed);
        }
        for ino in changed {
            next.build(source, ino)?;
        }
        for (dir, name) in next.names.keys() {
            if !next.inodes.contains_key(dir) {
                return Err(format!("I4: commit {seq} has a name {} in {dir:x}, which it does not show", String::from_utf8_lossy(name)));
            }
        }
        Ok(next)
    }

    fn lay(&mut self, seq: Seq, delta: &Delta, changed: &mut BTreeSet<Ino>) {
        let objects: Vec<Arc<ObjectRef>> = delta.objects.iter().cloned().map(Arc::new).collect();
        for gone in &delta.removed_names {
            self.names.remove(&(gone.dir, gone.name.to_vec()));
            changed.insert(gone.dir);
        }
        for ino in &delta.removed_inodes {
            self.inodes.remove(ino);
            self.files.remove(ino);
            changed.insert(*ino);
        }
        for inode in &delta.inodes {
            self.inodes.insert(inode.ino, inode.clone());
            changed.insert(inode.ino);
        }
        for name in &delta.names {
            self.names.insert((name.dir, name.name.to_vec()), name.ino);
            changed.insert(name.dir);
        }
        for change in &delta.extents {
            let file = self.files.entry(change.ino).or_default();
            change.cleared.iter().for_each(|range| file.clear(range.offset..range.offset + range.length));
            change.extents.iter().filter_map(|extent| locate(extent, &objects, seq)).for_each(|extent| file.put(extent));
            changed.insert(change.ino);
        }
        for (ino, file) in &mut self.files {
            file.clear(self.inodes.get(ino).map_or(0, |inode| inode.size)..u64::MAX);
        }
    }

    fn build(&mut self, source: &Source<'_>, ino: Ino) -> Result<(), String> {
        let Some(inode) = self.inodes.get(&ino) else {
            Arc::make_mut(&mut self.tree).0.remove(&ino);
            return Ok(());
        };
        let mut node = Node {
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            mtime: inode.mtime,
            ctime: inode.ctime,
            btime: inode.btime,
            target: inode.target.to_vec(),
            xattrs: inode.xattrs.iter().map(|xattr| (xattr.name.to_vec(), xattr.value.to_vec())).collect(),
            ..Node::default()
        };
        let names = self.names.range((ino, Vec::new())..).take_while(|((dir, _), _)| *dir == ino);
        node.entries = names.map(|((_, name), child)| (name.clone(), *child)).collect();
        if node.is_file() {
            let mut bytes = vec![0; inode.size as usize];
            for located in self.files.get(&ino).into_iter().flat_map(ExtentMap::iter) {
                let start = located.extent.offset as usize;
                let content = source.content(located)?;
                bytes[start..start + content.len()].copy_from_slice(&content);
            }
            node.bytes = Arc::new(bytes);
        }
        Arc::make_mut(&mut self.tree).0.insert(ino, Arc::new(node));
        Ok(())
    }

    /// The objects in which contents lie, by their full names.
    pub fn objects(&self, incarnation: Incarnation) -> BTreeSet<String> {
        let all = self.files.values().flat_map(ExtentMap::iter);
        all.filter_map(|located| match &located.place {
            Place::Object(object) => names::absolute(incarnation, &object.name).map(|(_, name)| name),
            Place::Inline(_) => None,
        })
        .collect()
    }
}
