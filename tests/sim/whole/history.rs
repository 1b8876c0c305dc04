//! What applications of one machine have seen happen: every state since its volume was opened there, and which of them must survive what.

use super::tree::{Node, Tree};
use holdfast::types::{CacheId, Ino};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Pages are lost one by one with the power.
const PAGE: usize = 4096;

#[derive(Debug)]
pub struct History {
    /// In order; the last one is now.
    pub states: Vec<Arc<Tree>>,
    /// The newest that a commit in the log shows.
    pub committed: usize,
    /// What that commit shows: of files that were open for writing perhaps less.
    pub logged: Arc<Tree>,
    /// The newest that a commit shows in full.
    full: usize,
    /// The newest that survives the loss of power, but for contents.
    synced: usize,
    /// The same for the content of one file.
    files: BTreeMap<Ino, usize>,
    /// What an operation that was not answered when its process died would have made of the last state, with its request.
    pub maybe: Vec<(u64, Tree)>,
    /// The request of those that a commit has shown to be carried out.
    shown: Option<u64>,
    /// The power failed, and nobody has looked since.
    pub dark: bool,
    /// The cache in which it all happened.
    pub cache: CacheId,
}

impl History {
    /// Begins with a state that a commit shows.
    pub fn new(tree: Tree, cache: CacheId) -> Self {
        let tree = Arc::new(tree);
        Self {
            states: vec![Arc::clone(&tree)],
            committed: 0,
            logged: tree,
            full: 0,
            synced: 0,
            files: BTreeMap::new(),
            maybe: Vec::new(),
            shown: None,
            dark: false,
            cache,
        }
    }

    pub fn now(&self) -> &Arc<Tree> {
        &self.states[self.states.len() - 1]
    }

    pub fn index(&self) -> usize {
        self.states.len() - 1
    }

    pub fn push(&mut self, tree: Tree) {
        if **self.now() != tree {
            self.states.push(Arc::new(tree));
        }
    }

    /// An fsync was answered.
    pub fn fsynced(&mut self, ino: Ino) {
        self.synced = self.index();
        self.files.insert(ino, self.index());
    }

    /// An fsync of the tier `strict`, made when the last state was this one, was answered: a commit shows that one or a later one.
    pub fn acknowledged(&self, at: usize) -> Result<(), String> {
        let shown = |state: &Arc<Tree>| **state == *self.logged || is_behind(&self.logged, state);
        if self.states[at..].iter().any(shown) {
            return Ok(());
        }
        Err(format!("I2: an fsync was answered, and no commit holds it: logged | then: {}", self.logged.differs(&self.states[at])))
    }

    /// Everything is durable, as after a clean close.
    pub fn settled(&mut self) {
        self.synced = self.index();
        let files: Vec<Ino> = self.now().0.keys().copied().collect();
        self.files = files.into_iter().map(|ino| (ino, self.index())).collect();
    }

    /// A commit was stored that shows this: one of the states, not older than the commit before.
    pub fn commit(&mut self, shown: &Arc<Tree>, full: bool) -> Result<(), String> {
        self.committed = self.place(shown)?;
        self.logged = Arc::clone(shown);
        if full {
            self.full = self.committed;
        }
        Ok(())
    }

    fn place(&mut self, shown: &Tree) -> Result<usize, String> {
        let since = &self.states[self.committed..];
        if self.dark {
            // Cut before the power failed, its put resolved after it: it says nothing of what survived here.
            if let Some(at) = since.iter().position(|state| **state == *shown) {
                return Ok(self.committed + at);
            }
            self.powered(shown.clone())?;
            return Ok(self.index());
        }
        match since.iter().position(|state| **state == *shown) {
            Some(at) => Ok(self.committed + at),
            // What was written behind a gap after the kernel had been asked is of a later commit, a full one or not (protocol.md 6.2).
            None if since.iter().any(|state| is_behind(shown, state)) => {
                Ok(self.committed + since.iter().position(|state| is_behind(shown, state)).unwrap_or(0))
            }
            None if self.maybe.iter().any(|(_, after)| after == shown || is_torn(shown, self.now(), after)) => {
                self.survived(shown.clone()).map(|request| self.shown = request)?;
                Ok(self.index())
            }
            None => {
                let told = self.states.iter().rposition(|state| **state == *shown);
                Err(match told {
                    Some(older) => format!("shows state {older}, and the commit before it showed state {}", self.committed),
                    None => format!("shows no state that was ever seen; of {} the last: {}", self.states.len(), shown.differs(self.now())),
                })
            }
        }
    }

    /// What a process finds that was killed here: all that was answered, and what was not answered, or not.
    pub fn survived(&mut self, found: Tree) -> Result<Option<u64>, String> {
        if self.dark {
            return self.powered(found).map(|()| None);
        }
        let maybe = std::mem::take(&mut self.maybe);
        if **self.now() == found {
            return Ok(self.shown.take());
        }
        match maybe.iter().find(|(_, tree)| *tree == found) {
            Some((request, _)) => {
                self.push(found);
                Ok(Some(*request))
            }
            None if maybe.iter().any(|(_, after)| is_torn(&found, self.now(), after)) => {
                self.push(found);
                Ok(None)
            }
            None => Err(format!("I8: after a crash: found | expected: {}", found.differs(self.now()))),
        }
    }

    /// Whether a branch may show this: a state not older than the newest commit.
    pub fn may_show(&self, shown: &Tree) -> bool {
        let since = self.states[self.committed..].iter().any(|state| **state == *shown);
        since
            || self.maybe.iter().any(|(_, after)| after == shown || is_torn(shown, self.now(), after))
            || (self.dark && self.check_powered(shown).is_ok())
    }

    fn powered(&mut self, found: Tree) -> Result<(), String> {
        self.check_powered(&found)?;
        self.maybe.clear();
        self.push(found);
        self.settled();
        self.dark = false;
        Ok(())
    }

    /// What is found after the power failed: names and attributes as at one instant since the last fsync told; each byte of a file as at some
    /// instant since the file's own; and nothing older than the newest commit.
    fn check_powered(&self, found: &Tree) -> Result<(), String> {
        let maybe = self.maybe.iter().map(|(_, tree)| tree);
        let states: Vec<&Tree> = self.states.iter().map(|state| &**state).chain(maybe).collect();
        let from = self.synced.max(self.committed);
        let shape = found.shape();
        if !states[from..].iter().any(|state| state.shape() == shape) {
            return Err(format!("I8: after a loss of power no state since the last fsync: {}", shape.differs(&states[from].shape())));
        }
        for (ino, node) in found.0.iter().filter(|(_, node)| node.is_file()) {
            let from = self.files.get(ino).copied().unwrap_or(0).max(self.full);
            let mut versions: Vec<&Arc<Vec<u8>>> = Vec::new();
            for version in states[from..].iter().filter_map(|state| state.get(*ino)).map(|node| &node.bytes) {
                if versions.last().is_none_or(|last| *last != version) {
                    versions.push(version);
                }
            }
            check_file(*ino, node, &versions)?;
        }
        Ok(())
    }
}

/// Whether it is this state, but for bytes behind a gap in files that are open for writing (protocol.md 6.2).
fn is_behind(shown: &Tree, state: &Tree) -> bool {
    shown.0.len() == state.0.len()
        && shown.0.iter().zip(&state.0).all(|((ino, node), (other, now))| {
            let whole = Node { bytes: Arc::clone(&now.bytes), ..(**node).clone() };
            ino == other && whole == **now && now.bytes.starts_with(&node.bytes)
        })
}

/// Whether of an operation that was not answered no more is there than some of its bytes.
fn is_torn(found: &Tree, before: &Tree, after: &Tree) -> bool {
    found.0.len() == before.0.len()
        && found.0.iter().zip(&before.0).all(|((ino, node), (other, old))| {
            let Some(new) = after.get(*ino) else { return ino == other && node == old };
            let byte = |(at, byte): (usize, &u8)| old.bytes.get(at) == Some(byte) || new.bytes.get(at) == Some(byte);
            let whole = Node { bytes: Arc::clone(&node.bytes), ..(**old).clone() };
            ino == other && whole == **node && node.bytes.len() == old.bytes.len() && node.bytes.iter().enumerate().all(byte)
        })
}

fn check_file(ino: Ino, node: &Node, versions: &[&Arc<Vec<u8>>]) -> Result<(), String> {
    if !versions.iter().any(|version| version.len() == node.bytes.len()) {
        let had: Vec<usize> = versions.iter().map(|version| version.len()).collect();
        return Err(format!("I8: after a loss of power inode {ino:x} has {} bytes, it had {had:?}", node.bytes.len()));
    }
    for (page, bytes) in node.bytes.chunks(PAGE).enumerate() {
        let was = |at: usize, byte: &u8| versions.iter().any(|v| v.get(page * PAGE + at).copied().unwrap_or(0) == *byte);
        if let Some(at) = bytes.iter().enumerate().position(|(at, byte)| !was(at, byte)) {
            return Err(format!("I8: after a loss of power byte {} of inode {ino:x} never was {:02x}", page * PAGE + at, bytes[at]));
        }
    }
    Ok(())
}
