//! The deltas since the newest checkpoint, kept small, and laid over it a window of inode numbers at a time: neither a commit of a
//! million new files nor the checkpoint after it is in memory whole.

use super::codec;
use super::tree::{Item, Key, KeyPart, Overlay};
use crate::rpc;
use crate::types::{Fault, FaultKind, Ino, Seq};
use bytes::Bytes;
use prost::Message;
use std::ops::RangeInclusive;

/// About the encoded bytes of changes that are laid out at a time; laid out they take ten times as much.
const WINDOW_BYTES: u64 = 1 << 20;

/// A delta, encoded and compressed: a tenth or less of what it takes when it is laid out. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PackedDelta {
    bytes: Bytes,
    plain: usize,
    inos: RangeInclusive<Ino>,
    /// The least number that no inode ever had, as the delta says.
    pub next_inode: u64,
    /// The same of the entries of directories.
    pub next_cookie: u64,
}

impl PackedDelta {
    /// Of this delta.
    #[must_use]
    pub fn of(delta: &rpc::Delta) -> Self {
        let plain = delta.encode_to_vec();
        let (mut low, mut high) = (Ino::MAX, 0);
        each(delta, &mut |ino, _| (low, high) = (low.min(ino), high.max(ino)));
        let (next_inode, next_cookie) = (delta.next_inode, delta.next_cookie);
        Self { bytes: codec::compress(&plain).into(), plain: plain.len(), inos: low..=high, next_inode, next_cookie }
    }

    /// Bytes before compression.
    #[must_use]
    pub fn plain_length(&self) -> u64 {
        self.plain as u64
    }

    /// The delta.
    ///
    /// # Errors
    /// None but of memory that does not keep what is in it.
    pub fn open(&self) -> Result<rpc::Delta, Fault> {
        let damaged = |why: String| Fault::new(FaultKind::Local, format!("a delta that was just packed cannot be read: {why}"));
        let plain = codec::decompress(&self.bytes, self.plain).map_err(|reason| damaged(reason.to_string()))?;
        rpc::Delta::decode(&plain[..]).map_err(|error| damaged(error.to_string()))
    }
}

/// Names every inode that a delta changes something of (of a name: its directory), with about the bytes of it.
fn each(delta: &rpc::Delta, tell: &mut dyn FnMut(Ino, usize)) {
    delta.removed_names.iter().for_each(|name| tell(name.dir, 20 + name.name.len()));
    delta.removed_inodes.iter().for_each(|ino| tell(*ino, 10));
    delta.inodes.iter().for_each(|inode| tell(inode.ino, inode.encoded_len()));
    delta.names.iter().for_each(|name| tell(name.dir, 40 + name.name.len()));
    delta.extents.iter().for_each(|file| tell(file.ino, 20 + 80 * file.extents.len() + 20 * file.cleared.len()));
}

/// What of a delta concerns these inodes. The table of objects stays as it is: extents index it.
fn only(mut delta: rpc::Delta, within: &dyn Fn(Ino) -> bool) -> rpc::Delta {
    delta.removed_names.retain(|name| within(name.dir));
    delta.removed_inodes.retain(|ino| within(*ino));
    delta.inodes.retain(|inode| within(inode.ino));
    delta.names.retain(|name| within(name.dir));
    delta.extents.retain(|file| within(file.ino));
    delta
}

/// Changes in the order of their commits, as a checkpoint is made from them.
#[derive(Debug)]
pub struct Changes<'a> {
    deltas: &'a [(Seq, PackedDelta)],
    /// Every inode that something changed of, in order.
    touched: Vec<Ino>,
    /// The first inode of each window; the first window begins at 0.
    starts: Vec<Ino>,
    laid: Option<(usize, Overlay)>,
}

impl<'a> Changes<'a> {
    /// Looks through all of them once.
    ///
    /// # Errors
    /// A packed delta cannot be read.
    pub fn new(deltas: &'a [(Seq, PackedDelta)]) -> Result<Self, Fault> {
        Self::with_windows(deltas, WINDOW_BYTES)
    }

    fn with_windows(deltas: &'a [(Seq, PackedDelta)], window: u64) -> Result<Self, Fault> {
        let mut weights: Vec<(Ino, u64)> = Vec::new();
        for (_, delta) in deltas {
            each(&delta.open()?, &mut |ino, bytes| match weights.last_mut() {
                Some((last, sum)) if *last == ino => *sum += bytes as u64,
                _ => weights.push((ino, bytes as u64)),
            });
        }
        weights.sort_unstable();
        let (mut starts, mut sum) = (vec![0], 0);
        let mut touched: Vec<Ino> = Vec::new();
        for (ino, bytes) in weights {
            if touched.last() != Some(&ino) {
                if sum >= window {
                    starts.push(ino);
                    sum = 0;
                }
                touched.push(ino);
            }
            sum += bytes;
        }
        Ok(Self { deltas, touched, starts, laid: None })
    }

    /// Whether anything changed at or above `from` and below `to` (`None`: no end). By inode is enough: too much is rewritten at most
    /// at a part's edges.
    #[must_use]
    pub fn touches(&self, from: &Key, to: Option<&Key>) -> bool {
        let first = self.touched.partition_point(|ino| *ino < from.ino);
        self.touched.get(first).is_some_and(|ino| to.is_none_or(|to| *ino <= to.ino))
    }

    /// Merges the sorted items of a base, all within `from..to`, with what changed there, and hands them on in order, a window at a time.
    ///
    /// # Errors
    /// A packed delta cannot be read.
    pub fn merge(&mut self, base: Vec<Item>, from: &Key, to: Option<&Key>) -> Result<Merge, Fault> {
        let window = self.window_of(from.ino);
        let end = self.starts.get(window + 1).map(|ino| Key { ino: *ino, part: KeyPart::Inode });
        let end = end.filter(|end| to.is_none_or(|to| end < to));
        let mut base = base;
        let rest = match &end {
            Some(end) => base.split_off(base.partition_point(|item| item.key() < *end)),
            None => Vec::new(),
        };
        let items = self.overlay(window)?.merge(base, from, end.as_ref().or(to));
        Ok(Merge { items, rest: end.map(|end| (end, rest)) })
    }

    fn window_of(&self, ino: Ino) -> usize {
        self.starts.partition_point(|start| *start <= ino).saturating_sub(1)
    }

    fn overlay(&mut self, window: usize) -> Result<&Overlay, Fault> {
        if self.laid.as_ref().is_none_or(|(laid, _)| *laid != window) {
            let low = self.starts[window];
            let high = self.starts.get(window + 1).map_or(Ino::MAX, |next| next - 1);
            // The one before goes first.
            self.laid = None;
            let mut overlay = Overlay::default();
            for (seq, delta) in self.deltas.iter().filter(|(_, delta)| *delta.inos.start() <= high && *delta.inos.end() >= low) {
                overlay.apply(*seq, &only(delta.open()?, &|ino| (low..=high).contains(&ino)));
            }
            self.laid = Some((window, overlay));
        }
        self.laid.as_ref().map(|(_, overlay)| overlay).ok_or_else(|| Fault::new(FaultKind::Local, "a window of no changes"))
    }
}

/// A window's items, and what of the base comes after it.
#[derive(Debug)]
pub struct Merge {
    /// Sorted.
    pub items: Vec<Item>,
    /// Where the next window begins, and the items of the base from there on.
    pub rest: Option<(Key, Vec<Item>)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tree::{first_key, items_of, part_of};

    fn name(dir: Ino, ino: Ino) -> rpc::Name {
        rpc::Name { dir, name: format!("n{ino}").into(), ino, cookie: ino }
    }

    fn file(ino: Ino, size: u64) -> rpc::Inode {
        rpc::Inode { ino, mode: libc::S_IFREG | 0o644, size, ..Default::default() }
    }

    fn extents(ino: Ino, frame: u32) -> rpc::ExtentChange {
        let extent = rpc::Extent { length: 4096, plain_length: 4096, frame, ..Default::default() };
        rpc::ExtentChange { ino, cleared: Vec::new(), extents: vec![extent] }
    }

    #[test]
    fn windows_of_any_size_give_what_one_overlay_gives() {
        let made: Vec<Ino> = (2..40).collect();
        let first = rpc::Delta {
            inodes: made.iter().map(|ino| file(*ino, 4096)).collect(),
            names: made.iter().map(|ino| name(1 + ino % 3, *ino)).collect(),
            extents: made.iter().map(|ino| extents(*ino, 0)).collect(),
            ..Default::default()
        };
        let second = rpc::Delta {
            removed_names: vec![rpc::NameRef { dir: 1, name: "n9".into() }],
            removed_inodes: vec![9],
            inodes: vec![file(7, 100), file(60, 4096)],
            names: vec![name(1, 60)],
            extents: vec![extents(7, 1), extents(60, 2)],
            ..Default::default()
        };
        let mut whole = Overlay::default();
        whole.apply(5, &first);
        let base = whole.merge(Vec::new(), &first_key(), None);
        let mut later = Overlay::default();
        later.apply(6, &second);
        let wanted = later.merge(base.clone(), &first_key(), None);
        for window in [1, 100, 1000, 1 << 20] {
            for (deltas, base) in [(vec![(5, &first), (6, &second)], Vec::new()), (vec![(6, &second)], base.clone())] {
                let deltas: Vec<(Seq, PackedDelta)> = deltas.into_iter().map(|(seq, delta)| (seq, PackedDelta::of(delta))).collect();
                let mut changes = Changes::with_windows(&deltas, window).unwrap();
                let (mut found, mut from, mut left) = (Vec::new(), first_key(), base);
                loop {
                    let merge = changes.merge(std::mem::take(&mut left), &from, None).unwrap();
                    found.extend(merge.items);
                    match merge.rest {
                        Some((key, rest)) => (from, left) = (key, rest),
                        None => break,
                    }
                }
                assert_eq!(found, wanted, "windows of {window} bytes");
            }
        }
        assert_eq!(items_of(part_of(wanted.clone())).len(), wanted.len());
    }

    #[test]
    fn a_file_that_comes_back_has_nothing_of_the_one_that_went() {
        let at = |offset, frame| rpc::Extent { offset, length: 4096, plain_length: 4096, frame, ..Default::default() };
        let with = |extents| vec![rpc::ExtentChange { ino: 5, cleared: Vec::new(), extents }];
        let base = rpc::Delta { inodes: vec![file(5, 12288)], extents: with(vec![at(0, 0), at(8192, 1)]), ..Default::default() };
        let gone = rpc::Delta { removed_inodes: vec![5], ..Default::default() };
        // As a restore in place says it: the head does not have the file, so there is nothing to clear.
        let back = rpc::Delta { inodes: vec![file(5, 12288)], extents: with(vec![at(8192, 2)]), ..Default::default() };
        let alone = {
            let mut overlay = Overlay::default();
            overlay.apply(8, &back);
            overlay.merge(Vec::new(), &first_key(), None)
        };
        let below = {
            let mut overlay = Overlay::default();
            overlay.apply(6, &base);
            overlay.merge(Vec::new(), &first_key(), None)
        };
        let deltas = [(7, PackedDelta::of(&gone)), (8, PackedDelta::of(&back))];
        let merged = Changes::new(&deltas).unwrap().merge(below, &first_key(), None).unwrap().items;
        assert_eq!(merged, alone);
    }

    #[test]
    fn parts_that_nothing_touched_are_shared() {
        let delta = PackedDelta::of(&rpc::Delta { inodes: vec![file(10, 0), file(20, 0)], ..Default::default() });
        let deltas = [(1, delta)];
        let changes = Changes::new(&deltas).unwrap();
        let key = |ino| Key { ino, part: KeyPart::Inode };
        for (from, to, touched) in [(0, Some(5), false), (5, Some(11), true), (11, Some(19), false), (11, None, true), (21, None, false)] {
            assert_eq!(changes.touches(&key(from), to.map(key).as_ref()), touched, "{from} to {to:?}");
        }
    }
}
