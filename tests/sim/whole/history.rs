//! What applications of one machine have seen happen: every state since its volume was opened there, and which of them must survive what.

use super::tiers::{self, Tiers};
use super::tree::{Node, Tree};
use holdfast::types::{CacheId, Ino};
use std::collections::{BTreeMap, BTreeSet};
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
    /// Where commits do not show everything.
    tiers: Option<Arc<Tiers>>,
    /// The state that was found after the newest loss of power: what came before it may never have been.
    powered: usize,
    /// What a commit showed since the power failed.
    glimpsed: Option<Arc<Tree>>,
    /// Files that programs have only added to, since a state: from where on, and what.
    appends: BTreeMap<Ino, (usize, u64, Vec<u8>)>,
    /// Files that were ever open for writing: only of these a commit may show less than the driver has.
    opened: BTreeSet<Ino>,
}

impl History {
    /// Begins with a state that a commit shows.
    pub fn new(tree: Tree, cache: CacheId, tiers: Option<Arc<Tiers>>) -> Self {
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
            tiers,
            powered: 0,
            glimpsed: None,
            appends: BTreeMap::new(),
            opened: BTreeSet::new(),
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

    /// A program has a file open for writing.
    pub fn opened(&mut self, ino: Ino) {
        self.opened.insert(ino);
    }

    /// A program added to a file that ended there.
    pub fn appended(&mut self, ino: Ino, end: u64, data: &[u8]) {
        let now = self.index();
        let append = self.appends.entry(ino).or_insert((now, end, Vec::new()));
        if append.1 + append.2.len() as u64 != end {
            *append = (now, end, Vec::new());
        }
        append.2.extend_from_slice(data);
    }

    /// It changed in another way.
    pub fn not_appended(&mut self, ino: Ino) {
        self.appends.remove(&ino);
    }

    /// What the kernel had is gone with its mount: files are as the driver has them, with gaps where nothing came (docs/protocol-notes.md 40).
    pub fn unmounted(&mut self) {
        self.appends.clear();
    }

    /// I11: of files that were only added to, a commit shows the beginning of what was added.
    fn check_appends(&self, shown: &Tree) -> Result<(), String> {
        for (ino, (since, from, data)) in self.appends.iter().filter(|(_, (since, ..))| *since <= self.committed) {
            let Some(node) = shown.get(*ino) else { continue };
            let added = node.bytes.get(*from as usize..).unwrap_or_default();
            if !data.starts_with(added) {
                let at = added.iter().zip(data).take_while(|(a, b)| a == b).count();
                let len = node.bytes.len();
                return Err(format!("I11: inode {ino:x} of {len} bytes is no prefix of its writes at {at} after {from} (state {since})"));
            }
        }
        Ok(())
    }

    /// What a commit of now would show.
    fn seen(&self) -> Arc<Tree> {
        self.seen_since(&self.logged).pop().unwrap_or_default()
    }

    /// What commits of the states since the newest commit would show, each right after one that showed `captured`.
    fn seen_since(&self, captured: &Tree) -> Vec<Arc<Tree>> {
        self.seen_with(captured, self.powered)
    }

    fn seen_with(&self, captured: &Tree, powered: usize) -> Vec<Arc<Tree>> {
        let since = &self.states[self.committed..];
        let Some(tiers) = &self.tiers else { return since.to_vec() };
        let mut held = tiers::entries(captured);
        let seen = |(at, state): (usize, &Arc<Tree>)| {
            if self.committed + at == powered {
                held = tiers::entries(captured);
            }
            held.retain(|(dir, name)| state.lookup(*dir, name).is_some());
            Arc::new(tiers.shown(state, captured, &held))
        };
        since.iter().enumerate().map(seen).collect()
    }

    /// The same, if a name that went and was made anew before the power failed counts as another one. The driver cannot always tell: its log
    /// has what the name means, and not always what became of it meanwhile.
    fn other_seen(&self) -> Vec<Arc<Tree>> {
        if self.tiers.is_none() || self.powered < self.committed {
            return Vec::new();
        }
        self.seen_with(&self.logged, 0)
    }

    /// What commits would show after each operation that was not answered.
    fn seen_maybe(&self, captured: &Tree) -> Vec<Arc<Tree>> {
        let Some(tiers) = &self.tiers else { return self.maybe.iter().map(|(_, after)| Arc::new(after.clone())).collect() };
        let mut held = tiers::entries(captured);
        let from = self.committed.max(self.powered);
        held.retain(|(dir, name)| self.states[from..].iter().all(|state| state.lookup(*dir, name).is_some()));
        let of = |after: &Tree| {
            let held = held.iter().filter(|(dir, name)| after.lookup(*dir, name).is_some()).cloned().collect();
            Arc::new(tiers.shown(after, captured, &held))
        };
        self.maybe.iter().map(|(_, after)| of(after)).collect()
    }

    /// An fsync was answered.
    pub fn fsynced(&mut self, ino: Ino) {
        self.synced = self.index();
        self.files.insert(ino, self.index());
    }

    /// An fsync of the tier `strict`, made when the last state was this one, was answered: a commit shows that one or a later one.
    pub fn acknowledged(&self, ino: Ino, at: usize) -> Result<(), String> {
        let shown = |state: &Arc<Tree>| *state == self.logged || self.is_behind(&self.logged, state);
        let seen = self.seen_since(&self.logged);
        let later = &seen[at.saturating_sub(self.committed)..];
        let left = |(number, whole): (usize, &Arc<Tree>)| self.is_left(&self.logged, &self.states[at.max(self.committed) + number], whole);
        // It is there, or such a state has it no more: it was removed, or moved to where nothing is captured before it ever was.
        if later.iter().any(shown) {
            return Ok(());
        }
        if later.iter().enumerate().any(left) {
            // Wherever it was moved since.
            let gone = self.now().get(ino).is_none() || self.states[at].get(ino).is_none();
            if gone || self.logged.get(ino).is_some() {
                return Ok(());
            }
        }
        let there = self.logged.get(ino).is_some();
        let why = self.logged.differs(&later[0]);
        Err(format!("I2: an fsync of {ino:x} was answered, and no commit holds it (there: {there}): logged | then: {why}"))
    }

    /// Of files that have this size, those that were only added to, and since when.
    pub fn added(&self, sizes: BTreeMap<Ino, u64>) -> Vec<(Ino, usize, u64)> {
        sizes.into_iter().filter_map(|(ino, size)| self.appends.get(&ino).map(|(since, ..)| (ino, *since, size))).collect()
    }

    /// A flush was answered that was asked for in a state, with `added` files: the log shows that one or a later one.
    pub fn flushed(&self, before: usize, added: &[(Ino, usize, u64)]) -> Result<(), String> {
        let seen = self.seen_since(&self.logged);
        let timed = self.tiers.as_ref().is_some_and(|tiers| tiers.is_timed());
        if timed && self.full < before && !seen[before.saturating_sub(self.committed)..].contains(&self.logged) {
            return Err(format!("the newest full commit shows state {}", self.full));
        }
        if self.committed < before && seen[0] != seen[before - self.committed] {
            let behind = |state: &Arc<Tree>| !self.appends.is_empty() && self.is_behind(&self.logged, state);
            if !seen[before - self.committed..].iter().any(behind) {
                return Err(format!("the log shows state {}", self.committed));
            }
        }
        for (ino, since, size) in added.iter().filter(|(ino, since, _)| self.appends.get(ino).is_some_and(|append| append.0 == *since)) {
            let shown = self.logged.get(*ino).map(|node| node.bytes.len() as u64);
            if shown.is_some_and(|shown| shown < *size) {
                return Err(format!("inode {ino:x} had {size} bytes since state {since}, and the log shows {shown:?}"));
            }
        }
        Ok(())
    }

    /// The log was closed that shows this: there is nothing else.
    pub fn closed(&self, logged: &Tree) -> Result<(), String> {
        let now = self.seen();
        if *now == *logged { Ok(()) } else { Err(logged.differs(&now)) }
    }

    /// Everything is durable, as after a clean close.
    pub fn settled(&mut self) {
        self.synced = self.index();
        let files: Vec<Ino> = self.now().0.keys().copied().collect();
        self.files = files.into_iter().map(|ino| (ino, self.index())).collect();
    }

    /// A commit was stored that shows this: one of the states, not older than the commit before.
    pub fn commit(&mut self, shown: &Arc<Tree>, full: bool) -> Result<(), String> {
        self.committed = self.place(shown, full)?;
        self.check_appends(shown)?;
        self.logged = Arc::clone(shown);
        if full {
            self.full = self.committed;
        }
        Ok(())
    }

    fn place(&mut self, shown: &Arc<Tree>, full: bool) -> Result<usize, String> {
        let since = self.seen_since(&self.logged);
        if let Some(at) = since.iter().position(|state| state == shown) {
            return Ok(self.committed + at);
        }
        if let Some(at) = self.other_seen().iter().position(|state| state == shown) {
            self.powered = 0;
            return Ok(self.committed + at);
        }
        if self.dark {
            // Cut before the power failed, its put resolved after it: it says nothing of what survived here.
            if self.tiers.is_some() {
                self.check_powered(shown, true)?;
                self.glimpsed = Some(Arc::clone(shown));
                return Ok(self.committed);
            }
            self.powered(Tree::clone(shown))?;
            return Ok(self.index());
        }
        // What was written behind a gap after the kernel had been asked is of a later commit, a full one or not (protocol.md 6.2).
        if let Some(at) = since.iter().position(|state| self.is_behind(shown, state)) {
            return Ok(self.committed + at);
        }
        if let Some(at) = (0..since.len()).find(|at| !full && self.is_left(shown, &self.states[self.committed + at], &since[*at])) {
            return Ok(self.committed + at);
        }
        if let Some(whole) = self.unanswered(shown) {
            self.survived(whole).map(|request| self.shown = request)?;
            return Ok(self.index());
        }
        Err(match self.states.iter().rposition(|state| state == shown) {
            Some(older) => format!("shows state {older}, and the commit before it showed state {}", self.committed),
            None => {
                let last = self.seen();
                format!("shows no state that was ever seen; of {} the last: {}", self.states.len(), shown.differs(&last))
            }
        })
    }

    /// Whether a commit shows this that leaves a tier to its time.
    fn is_left(&self, shown: &Tree, state: &Tree, whole: &Tree) -> bool {
        self.tiers.as_ref().is_some_and(|tiers| tiers.is_timed() && tiers.leaves(shown, state, whole, &self.logged))
    }

    /// The state of which a commit shows this, when an operation that was not answered has been carried out, or in part.
    fn unanswered(&self, shown: &Tree) -> Option<Tree> {
        let now = self.seen();
        self.maybe.iter().zip(self.seen_maybe(&self.logged)).find_map(|((_, after), seen)| {
            if *seen == *shown || self.is_left(shown, after, &seen) {
                return Some(after.clone());
            }
            is_torn(shown, &now, &seen).then(|| {
                let mut whole = Tree::clone(self.now());
                for (ino, node) in shown.0.iter().filter(|(_, node)| node.is_file()) {
                    whole.change(*ino, |file| file.bytes = Arc::clone(&node.bytes));
                }
                whole
            })
        })
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

    /// Whether a branch may show this that stands on a commit of `base`: a state not older than the newest commit.
    pub fn may_show(&self, shown: &Tree, base: &Tree) -> bool {
        let after = |captured: &Tree| {
            let since = self.seen_since(captured);
            let now = since.last().cloned().unwrap_or_default();
            since.iter().any(|state| **state == *shown || self.is_behind(shown, state))
                || self.seen_maybe(captured).iter().any(|after| **after == *shown || is_torn(shown, &now, after))
        };
        after(base) || (self.tiers.is_some() && after(&self.logged)) || (self.dark && self.check_powered(shown, true).is_ok())
    }

    /// Whether it is this state, but for bytes behind a gap in files that are open for writing (protocol.md 6.2), or were when it was sealed.
    fn is_behind(&self, shown: &Tree, state: &Tree) -> bool {
        shown.0.len() == state.0.len()
            && shown.0.iter().zip(&state.0).all(|((ino, node), (other, now))| {
                let whole = || Node { bytes: Arc::clone(&now.bytes), ..(**node).clone() };
                let less = || self.opened.contains(ino) && whole() == **now && now.bytes.starts_with(&node.bytes);
                ino == other && (node == now || less())
            })
    }

    fn powered(&mut self, found: Tree) -> Result<(), String> {
        self.check_powered(&found, false)?;
        self.maybe.clear();
        self.push(found);
        self.powered = self.index();
        let seen = self.seen();
        let glimpsed = self.glimpsed.take();
        if glimpsed.as_ref().is_some_and(|glimpsed| *glimpsed != seen && self.other_seen().last() == Some(glimpsed)) {
            self.powered = 0;
        } else if let Some(glimpsed) = glimpsed.as_ref().filter(|glimpsed| ***glimpsed != *seen && !self.is_behind(glimpsed, &seen)) {
            return Err(format!("I8: after a loss of power a commit shows something else than is found: {}", glimpsed.differs(&seen)));
        }
        if glimpsed.is_some() {
            self.committed = self.index();
        }
        self.settled();
        self.appends.clear();
        self.dark = false;
        Ok(())
    }

    /// What is found after the power failed: names and attributes as at one instant since the last fsync told; each byte of a file as at some
    /// instant since the file's own; and nothing older than the newest commit, of what that shows. `commit`: it is what a commit shows of it.
    fn check_powered(&self, found: &Tree, commit: bool) -> Result<(), String> {
        let maybe = self.maybe.iter().map(|(_, tree)| Arc::new(tree.clone()));
        let states: Vec<Arc<Tree>> = self.states.iter().cloned().chain(maybe).collect();
        let from = self.synced.max(self.committed);
        let shape = found.shape();
        let shapes: Vec<Tree> = if commit {
            let seen = self.seen_since(&self.logged).into_iter().chain(self.seen_maybe(&self.logged));
            seen.skip(from - self.committed).map(|state| state.shape()).collect()
        } else {
            states[from..].iter().map(|state| state.shape()).collect()
        };
        if !shapes.contains(&shape) {
            return Err(format!("I8: after a loss of power no state since the last fsync: {}", shape.differs(&shapes[0])));
        }
        for (ino, node) in found.0.iter().filter(|(_, node)| node.is_file()) {
            let full = if self.logged.get(*ino).is_some() { self.full } else { 0 };
            let from = self.files.get(ino).copied().unwrap_or(0).max(full);
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
