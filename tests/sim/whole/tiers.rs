//! Paths of several tiers in one volume: what of a state a commit shows. `local` is left out, unless a commit has held the inode before, or this
//! very name (another file may have been renamed over it), or something in it is of another tier; all the others are captured at one cut
//! (protocol.md 5).

use super::tree::{Node, Tree};
use holdfast::policy::{Policy, Tier};
use holdfast::types::{Ino, ROOT};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Names decide, so that a rename or a link takes a file from tier to tier. `n7` in a directory `n6` is of another tier than that.
pub const MIXED: &str = "n7 strict wait=20s\nn6 local\nn5 debounced quiet=2s max=20s\n* continuous 1s";

#[derive(Debug)]
pub struct Tiers {
    policy: Policy,
}

/// Entries, by directory and name.
pub type Entries = BTreeSet<(Ino, Vec<u8>)>;

/// Those of a tree.
pub fn entries(tree: &Tree) -> Entries {
    tree.0.iter().flat_map(|(dir, node)| node.entries.keys().map(|name| (*dir, name.clone()))).collect()
}

/// A name of an inode: where, and the path.
struct Named {
    entry: (Ino, Vec<u8>),
    path: Vec<u8>,
}

type Names = BTreeMap<Ino, Vec<Named>>;

impl Tiers {
    pub fn new(policy: &str) -> Self {
        Self { policy: Policy::parse(policy).expect("a policy") }
    }

    fn tier(&self, path: &[u8], node: &Node) -> &Tier {
        self.policy.tier_of(path, node.is_dir(), &mut |_| false)
    }

    /// The directories and paths of each inode.
    fn names(tree: &Tree) -> Names {
        let (mut names, mut queue) = (Names::new(), vec![(ROOT, Vec::new())]);
        while let Some((dir, path)) = queue.pop() {
            for (name, child) in tree.get(dir).into_iter().flat_map(|node| &node.entries) {
                let path = [path.as_slice(), name.as_slice()].join(if path.is_empty() { &b""[..] } else { &b"/"[..] });
                if tree.get(*child).is_some_and(Node::is_dir) {
                    queue.push((*child, path.clone()));
                }
                names.entry(*child).or_default().push(Named { entry: (dir, name.clone()), path });
            }
        }
        names
    }

    /// What a commit of this state shows, where the one before it held `captured`, and `held` of its names were there ever since.
    pub fn shown(&self, tree: &Tree, captured: &Tree, held: &Entries) -> Tree {
        let names = Self::names(tree);
        let own = |(ino, named): (&Ino, &Vec<Named>)| {
            let node = tree.get(*ino)?;
            let taken = |name: &Named| held.contains(&name.entry) || *self.tier(&name.path, node) != Tier::Local;
            named.iter().any(taken).then_some(*ino)
        };
        let captured = captured.0.keys().copied().filter(|ino| tree.get(*ino).is_some());
        let mut queue: Vec<Ino> = names.iter().filter_map(own).chain(captured).chain([ROOT]).collect();
        let mut taken = BTreeSet::new();
        while let Some(ino) = queue.pop() {
            if taken.insert(ino) {
                queue.extend(names.get(&ino).into_iter().flatten().map(|name| name.entry.0));
            }
        }
        let strip = |node: &Arc<Node>| {
            if node.entries.values().all(|child| taken.contains(child)) {
                return Arc::clone(node);
            }
            let mut node = Node::clone(node);
            node.entries.retain(|_, child| taken.contains(child));
            Arc::new(node)
        };
        Tree(tree.0.iter().filter(|(ino, _)| taken.contains(ino)).map(|(ino, node)| (*ino, strip(node))).collect())
    }

    /// Whether an fsync of this inode waits for a commit.
    pub fn is_strict(&self, tree: &Tree, ino: Ino) -> bool {
        let Some(node) = tree.get(ino) else { return false };
        let strict = |name: &Named| matches!(self.tier(&name.path, node), Tier::Strict { .. });
        Self::names(tree).get(&ino).is_some_and(|named| named.iter().any(strict))
    }
}
