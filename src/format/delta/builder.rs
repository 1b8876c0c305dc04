//! Builds deltas in bounded memory.

use crate::rpc;
use crate::types::{ByteRange, Ino};
use std::collections::{HashMap, VecDeque};

/// Builds the deltas of one commit, each of about a given size, to be applied one after the other. Their fields must be given in
/// the order of application (removed names, removed inodes, inodes, names, then file by file what is cleared and its extents): so
/// the sequence means what one large delta would. Take what is [`ready`](Builder::ready) as it comes.
#[derive(Debug)]
pub struct Builder {
    ready: VecDeque<rpc::Delta>,
    now: rpc::Delta,
    table: Table,
    bytes: usize,
    target: usize,
}

impl Builder {
    /// Deltas of about `plain_target` bytes before compression; each must stay below
    /// [`limits::MESSAGE_PLAIN_MAX`](crate::format::limits::MESSAGE_PLAIN_MAX), of which at most half is taken.
    #[must_use]
    pub fn new(plain_target: usize) -> Self {
        let target = plain_target.clamp(1, crate::format::limits::MESSAGE_PLAIN_MAX / 2);
        Self { ready: VecDeque::new(), now: rpc::Delta::default(), table: Table::default(), bytes: 0, target }
    }

    /// A name that goes.
    pub fn removed_name(&mut self, name: rpc::NameRef) {
        self.room(name.name.len() + 16);
        self.now.removed_names.push(name);
    }

    /// An inode that goes; its names are among those removed.
    pub fn removed_inode(&mut self, ino: Ino) {
        self.room(10);
        self.now.removed_inodes.push(ino);
    }

    /// An inode that is new or changed.
    pub fn inode(&mut self, inode: rpc::Inode) {
        self.room(inode_bytes(&inode));
        self.now.inodes.push(inode);
    }

    /// A name that is new or leads elsewhere.
    pub fn name(&mut self, name: rpc::Name) {
        self.room(name.name.len() + 40);
        self.now.names.push(name);
    }

    /// A range of a file that becomes a hole: before the extents of that file.
    pub fn cleared(&mut self, ino: Ino, range: ByteRange) {
        self.room(36);
        let range = rpc::Range { offset: range.start, length: range.end.saturating_sub(range.start) };
        change_of(&mut self.now.extents, ino).cleared.push(range);
    }

    /// The next extent of a file, by offset. `object` is where it lies; without one it is inline in this commit, or in
    /// `inline_seq`.
    pub fn extent(&mut self, ino: Ino, mut extent: rpc::Extent, object: Option<&rpc::ObjectRef>) {
        self.room(84 + self.table.cost(object));
        extent.object = self.table.index(object, &mut self.now.objects);
        change_of(&mut self.now.extents, ino).extents.push(extent);
    }

    /// A delta that is complete, if there is one.
    pub fn ready(&mut self) -> Option<rpc::Delta> {
        self.ready.pop_front()
    }

    /// The deltas that are left, at least one. The numbers go into the last.
    #[must_use]
    pub fn finish(mut self, next_inode: Ino, next_cookie: u64) -> Vec<rpc::Delta> {
        (self.now.next_inode, self.now.next_cookie) = (next_inode, next_cookie);
        self.ready.push_back(self.now);
        self.ready.into()
    }

    fn room(&mut self, bytes: usize) {
        if self.bytes > 0 && self.bytes + bytes > self.target {
            self.ready.push_back(std::mem::take(&mut self.now));
            self.table = Table::default();
            self.bytes = 0;
        }
        self.bytes += bytes;
    }
}

/// A delta as a sequence of deltas of about `plain_target` bytes each.
#[must_use]
pub fn split(delta: rpc::Delta, plain_target: usize) -> Vec<rpc::Delta> {
    let rpc::Delta { objects, removed_names, removed_inodes, inodes, names, extents, next_inode, next_cookie } = delta;
    let mut builder = Builder::new(plain_target);
    removed_names.into_iter().for_each(|name| builder.removed_name(name));
    removed_inodes.into_iter().for_each(|ino| builder.removed_inode(ino));
    inodes.into_iter().for_each(|inode| builder.inode(inode));
    names.into_iter().for_each(|name| builder.name(name));
    for rpc::ExtentChange { ino, cleared, extents } in extents {
        cleared.into_iter().for_each(|range| builder.cleared(ino, range.offset..range.offset.saturating_add(range.length)));
        for extent in extents {
            let object = extent.object.checked_sub(1).and_then(|index| objects.get(index as usize));
            builder.extent(ino, extent, object);
        }
    }
    builder.finish(next_inode, next_cookie)
}

/// The objects that one message points to.
#[derive(Debug, Default)]
pub(in crate::format) struct Table {
    by_name: HashMap<String, u32>,
}

impl Table {
    /// About the bytes that naming the object will add.
    pub(in crate::format) fn cost(&self, object: Option<&rpc::ObjectRef>) -> usize {
        object.filter(|object| !self.by_name.contains_key(&object.name)).map_or(0, |object| object.name.len() + 100)
    }

    /// Its index in `objects`, from 1; added when it is new. 0 for none.
    pub(in crate::format) fn index(&mut self, object: Option<&rpc::ObjectRef>, objects: &mut Vec<rpc::ObjectRef>) -> u32 {
        let Some(object) = object else { return 0 };
        if let Some(index) = self.by_name.get(&object.name) {
            return *index;
        }
        objects.push(object.clone());
        let index = objects.len() as u32;
        self.by_name.insert(object.name.clone(), index);
        index
    }
}

/// About the bytes of an inode in a message.
pub(in crate::format) fn inode_bytes(inode: &rpc::Inode) -> usize {
    let xattrs: usize = inode.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len() + 12).sum();
    100 + inode.target.len() + xattrs
}

/// The change of the file that came last.
pub(in crate::format) fn change_of(changes: &mut Vec<rpc::ExtentChange>, ino: Ino) -> &mut rpc::ExtentChange {
    if changes.last().is_none_or(|change| change.ino != ino) {
        changes.push(rpc::ExtentChange { ino, ..Default::default() });
    }
    let last = changes.len() - 1;
    &mut changes[last]
}
