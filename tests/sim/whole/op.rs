//! What applications do, and what it makes of a tree.

use super::tree::{Node, Tree};
use holdfast::types::{Attr, Ino};
use holdfast::volume::RenameMode;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub enum Op {
    Make { dir: Ino, name: Vec<u8>, mode: u32, target: Vec<u8> },
    Link { ino: Ino, dir: Ino, name: Vec<u8> },
    Remove { dir: Ino, name: Vec<u8>, directory: bool },
    Rename { from: (Ino, Vec<u8>), to: (Ino, Vec<u8>), mode: RenameMode },
    Write { ino: Ino, offset: u64, data: Vec<u8> },
    Truncate { ino: Ino, size: u64 },
    Mode { ino: Ino, mode: u32 },
    Xattr { ino: Ino, value: Option<Vec<u8>> },
    Punch { ino: Ino, mode: i32, offset: u64, length: u64 },
    Copy { from: Ino, at: u64, to: Ino, offset: u64, length: u64 },
}

pub const XATTR: &[u8] = b"user.bits";

impl Op {
    /// Whether a file system must carry it out, limits and faults aside.
    pub fn fits(&self, tree: &Tree) -> bool {
        let dir = |ino: Ino| tree.get(ino).is_some_and(Node::is_dir);
        let file = |ino: Ino| tree.get(ino).is_some_and(Node::is_file);
        match self {
            Self::Make { dir: at, name, .. } => dir(*at) && tree.lookup(*at, name).is_none(),
            Self::Link { ino, dir: at, name } => file(*ino) && dir(*at) && tree.lookup(*at, name).is_none(),
            Self::Remove { dir: at, name, directory } => tree
                .lookup(*at, name)
                .and_then(|ino| tree.get(ino))
                .is_some_and(|node| node.is_dir() == *directory && node.entries.is_empty()),
            Self::Rename { from, to, mode } => fits_rename(tree, from, to, *mode),
            Self::Write { ino, .. } | Self::Truncate { ino, .. } | Self::Punch { ino, .. } => file(*ino),
            Self::Mode { ino, .. } => tree.get(*ino).is_some(),
            Self::Xattr { ino, value } => tree.get(*ino).is_some_and(|node| value.is_some() || node.xattrs.contains_key(XATTR)),
            Self::Copy { from, to, length, .. } => from != to && *length > 0 && file(*from) && file(*to),
        }
    }

    /// Carries it out on the model. `attr`: what the engine says of an inode afterwards; `made`: what it answered.
    pub fn apply(&self, tree: &mut Tree, made: Option<&Attr>, copied: u64, attr: &dyn Fn(Ino) -> Option<Attr>) {
        let mut touched = Vec::new();
        match self {
            Self::Make { dir, name, target, .. } => {
                let Some(made) = made else { return };
                tree.change(made.ino, |node| node.target.clone_from(target));
                tree.change(*dir, |node| {
                    node.entries.insert(name.clone(), made.ino);
                });
                touched.extend([*dir, made.ino]);
            }
            Self::Link { ino, dir, name } => {
                tree.change(*dir, |node| {
                    node.entries.insert(name.clone(), *ino);
                });
                touched.extend([*dir, *ino]);
            }
            Self::Remove { dir, name, .. } => {
                touched.extend(unname(tree, *dir, name));
                touched.push(*dir);
            }
            Self::Rename { from, to, mode } => rename(tree, from, to, *mode, &mut touched),
            Self::Write { ino, offset, data } => lay(tree, *ino, *offset, data),
            Self::Truncate { ino, size } => tree.change(*ino, |node| Arc::make_mut(&mut node.bytes).resize(*size as usize, 0)),
            Self::Mode { .. } => {}
            Self::Xattr { ino, value } => tree.change(*ino, |node| match value {
                Some(value) => drop(node.xattrs.insert(XATTR.to_vec(), value.clone())),
                None => drop(node.xattrs.remove(XATTR)),
            }),
            Self::Punch { ino, mode, offset, length } => tree.change(*ino, |node| {
                let bytes = Arc::make_mut(&mut node.bytes);
                let end = (offset + length) as usize;
                if mode & libc::FALLOC_FL_KEEP_SIZE == 0 {
                    bytes.resize(bytes.len().max(end), 0);
                }
                if mode & !libc::FALLOC_FL_KEEP_SIZE != 0 {
                    let (start, end) = ((*offset as usize).min(bytes.len()), end.min(bytes.len()));
                    bytes[start..end].fill(0);
                }
            }),
            Self::Copy { from, at, to, offset, .. } => {
                let source = tree.get(*from).map(|node| Arc::clone(&node.bytes)).unwrap_or_default();
                let end = ((at + copied) as usize).min(source.len());
                lay(tree, *to, *offset, &source[(*at as usize).min(end)..end]);
            }
        }
        touched.extend(self.file());
        for ino in touched {
            if tree.get(ino).is_some()
                && let Some(attr) = attr(ino)
            {
                tree.change(ino, |node| node.take(&attr));
            }
        }
    }

    /// The inodes whose pages the kernel sends before it: those it is about by their number.
    pub fn inodes(&self) -> Vec<Ino> {
        match self {
            Self::Copy { from, to, .. } => vec![*from, *to],
            Self::Link { ino, .. } => vec![*ino],
            other => other.file().into_iter().collect(),
        }
    }

    /// The inode whose content or attributes it changes.
    pub fn file(&self) -> Option<Ino> {
        match self {
            Self::Write { ino, .. }
            | Self::Truncate { ino, .. }
            | Self::Mode { ino, .. }
            | Self::Xattr { ino, .. }
            | Self::Punch { ino, .. }
            | Self::Copy { to: ino, .. } => Some(*ino),
            Self::Make { .. } | Self::Link { .. } | Self::Remove { .. } | Self::Rename { .. } => None,
        }
    }
}

fn fits_rename(tree: &Tree, from: &(Ino, Vec<u8>), to: &(Ino, Vec<u8>), mode: RenameMode) -> bool {
    let Some(moved) = tree.lookup(from.0, &from.1) else { return false };
    let Some(node) = tree.get(moved) else { return false };
    if !tree.get(to.0).is_some_and(Node::is_dir) || (node.is_dir() && tree.below(to.0, moved)) {
        return false;
    }
    match (mode, tree.lookup(to.0, &to.1)) {
        (RenameMode::NoReplace | RenameMode::Replace, None) => true,
        (RenameMode::Exchange, None) | (RenameMode::NoReplace, Some(_)) => false,
        (RenameMode::Exchange, Some(other)) => !(tree.get(other).is_some_and(Node::is_dir) && tree.below(from.0, other)),
        (RenameMode::Replace, Some(other)) => {
            tree.get(other).is_some_and(|old| other == moved || (old.is_dir() == node.is_dir() && old.entries.is_empty()))
        }
    }
}

fn rename(tree: &mut Tree, from: &(Ino, Vec<u8>), to: &(Ino, Vec<u8>), mode: RenameMode, touched: &mut Vec<Ino>) {
    let Some(moved) = tree.lookup(from.0, &from.1) else { return };
    let there = tree.lookup(to.0, &to.1);
    touched.extend([from.0, to.0, moved]);
    if there == Some(moved) {
        return;
    }
    tree.change(from.0, |node| {
        node.entries.remove(&from.1);
    });
    if mode == RenameMode::Exchange {
        let Some(other) = there else { return };
        tree.change(from.0, |node| {
            node.entries.insert(from.1.clone(), other);
        });
        touched.push(other);
    } else if there.is_some() {
        touched.extend(unname(tree, to.0, &to.1));
    }
    tree.change(to.0, |node| {
        node.entries.insert(to.1.clone(), moved);
    });
}

/// Takes a name away, and the inode with its last one.
fn unname(tree: &mut Tree, dir: Ino, name: &[u8]) -> Option<Ino> {
    let ino = tree.lookup(dir, name)?;
    tree.change(dir, |node| {
        node.entries.remove(name);
    });
    if tree.links(ino) == 0 {
        tree.0.remove(&ino);
    }
    Some(ino)
}

fn lay(tree: &mut Tree, ino: Ino, offset: u64, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    tree.change(ino, |node| {
        let (bytes, start) = (Arc::make_mut(&mut node.bytes), offset as usize);
        let end = start + data.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[start..end].copy_from_slice(data);
    });
}
