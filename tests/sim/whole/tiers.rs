//! Paths of several tiers in one volume: what of a state a commit shows. `local` is left out, unless a commit has held the inode before, or this
//! very name (another file may have been renamed over it), or something in it is of another tier; all the others are captured at one cut
//! (protocol.md 5).

use super::tree::{Node, Tree};
use holdfast::policy::{Policy, Tier};
use holdfast::types::{Domain, Ino, ROOT};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Names decide, so that a rename or a link takes a file from tier to tier. `n7` in a directory `n6` is of another tier than that.
pub const MIXED: &str = "n7 strict wait=20s\nn6 local\nn5 debounced quiet=2s max=20s\n* continuous 1s";

/// With set times: `n5` waits for the next minute, however little of it there is.
pub const TIMED: &str = "n7 strict wait=20s\nn6 local\nn5 scheduled * * * * *\n* continuous 1s";

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

    /// Whether a tier waits for its time while others are committed.
    pub fn is_timed(&self) -> bool {
        self.policy.schedules_by_name()
    }

    /// Whether a commit that leaves the tier `scheduled` shows this: of that tier what the commit before (`older`) did, of the others what
    /// a full commit of this state would (`whole`), and directories as these need them. Nothing of it may have come from another tier, or be
    /// gone, since then (protocol.md 5.4).
    pub fn leaves(&self, shown: &Tree, state: &Tree, whole: &Tree, older: &Tree) -> bool {
        let names = Self::names(state);
        let domain = |ino: &Ino, name: &Named, node: &Node| match self.tier(&name.path, node).domain() {
            Domain::Local if older.get(*ino).is_some() || older.lookup(name.entry.0, &name.entry.1).is_some() => Domain::Continuous,
            domain => domain,
        };
        let waits = |ino: &Ino| {
            let named = names.get(ino).into_iter().flatten();
            state.get(*ino).is_some_and(|node| named.map(|name| domain(ino, name, node)).min() == Some(Domain::Scheduled))
        };
        let same = |a: Option<&Node>, b: Option<&Node>| match (a, b) {
            (Some(a), Some(b)) => Node { entries: b.entries.clone(), ..a.clone() } == *b,
            (a, b) => a.is_none() && b.is_none(),
        };
        // What was written behind a gap is of a later commit (protocol.md 6.2).
        let behind = |a: Option<&Node>, b: Option<&Node>| match (a, b) {
            (Some(a), Some(b)) => a.is_file() && b.bytes.starts_with(&a.bytes) && Node { bytes: Arc::clone(&b.bytes), ..a.clone() } == *b,
            _ => false,
        };
        // By something of another tier below it, at any depth: what else is new of this one is not shown.
        let needed = |node: &Node| node.entries.values().any(|child| !waits(child) || older.get(*child).is_none());
        let all: BTreeSet<Ino> = [shown, whole, older].into_iter().flat_map(|tree| tree.0.keys().copied()).collect();
        all.iter().all(|ino| {
            let (is, would, was) = (shown.get(*ino), whole.get(*ino), older.get(*ino));
            let attributes = if !waits(ino) {
                same(is, would) || behind(is, would)
            } else if was.is_some() {
                same(is, was) || (is.is_some_and(Node::is_dir) && same(is, would))
            } else {
                is.is_none() || (is.is_some_and(|is| is.is_dir() && needed(is)) && same(is, would))
            };
            let Some(is) = is.filter(|node| node.is_dir()) else { return attributes };
            let now = would.into_iter().flat_map(|node| &node.entries);
            let now = now.filter(|(_, child)| !waits(child) || (older.get(**child).is_none() && shown.get(**child).is_some()));
            let kept: Vec<_> = was.into_iter().flat_map(|node| &node.entries).filter(|(_, child)| waits(child)).collect();
            let stayed = kept.iter().all(|(name, child)| state.lookup(*ino, name) == Some(**child));
            let entries: BTreeMap<_, _> = now.chain(kept).map(|(name, child)| (name.clone(), *child)).collect();
            attributes && stayed && is.entries == entries
        })
    }

    /// Whether an fsync of this inode waits for a commit.
    pub fn is_strict(&self, tree: &Tree, ino: Ino) -> bool {
        let Some(node) = tree.get(ino) else { return false };
        let strict = |name: &Named| matches!(self.tier(&name.path, node), Tier::Strict { .. });
        Self::names(tree).get(&ino).is_some_and(|named| named.iter().any(strict))
    }
}
