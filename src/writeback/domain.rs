//! To which tier a change belongs: asked for every change at the flip, answered from the current path (protocol.md 5.4, 5.5).
//!
//! An entry is `local` when the policy says so and no commit has held that very name (a file once captured stays captured). A link count
//! above one: the most urgent of its names decides. A `local` directory with an entry of another tier is captured with it, and not what
//! else is in it.

use crate::cache::{Cache, CacheError, Change, Lost, ReadOutcome, View};
use crate::policy::{CACHEDIR_SIGNATURE_LEN, CACHEDIR_TAG, Policy, Standing, Tier, is_cachedir_tag};
use crate::types::{Domain, Ino, ROOT, UnixNanos};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;

/// How deep a path may be before its change is simply captured.
const DEPTH_MAX: usize = 2048;

/// Answers for one volume. Keeps what it learned of CACHEDIR.TAG files between seals, paths only within one.
#[derive(Debug)]
pub struct Classifier {
    policy: Policy,
    /// Tag files looked at: inode and mtime -> valid.
    tags: HashMap<Ino, (UnixNanos, bool)>,
    /// Tag files met at the flip and not looked at yet: what lies beside them is held until they are.
    unread: Vec<(Ino, UnixNanos)>,
    directories: HashMap<Ino, Directory>,
}

#[derive(Debug, Clone)]
struct Directory {
    /// The rule that holds for it.
    standing: Standing,
    /// Path from the root, without a leading slash.
    path: Vec<u8>,
}

impl Classifier {
    /// By this policy.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy, tags: HashMap::new(), unread: Vec::new(), directories: HashMap::new() }
    }

    /// By the built-in policy.
    #[must_use]
    pub fn built_in() -> Self {
        Self::new(Policy::built_in())
    }

    /// The policy.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Before each seal: paths may have changed.
    pub fn begin(&mut self) {
        self.directories.clear();
    }

    /// The tier's domain of a change. Errors of the cache classify as `Continuous`: what is not known is captured.
    pub fn classify(&mut self, view: &mut View<'_>, change: &Change) -> Domain {
        self.tier(view, change).map_or(Domain::Continuous, |tier| tier.map_or(Domain::Continuous, |tier| tier.domain()))
    }

    /// The tier of a change; `None`: of an inode that has no name any more.
    ///
    /// # Errors
    /// Only when meta.db fails.
    pub(super) fn tier(&mut self, view: &mut View<'_>, change: &Change) -> Result<Option<Tier>, CacheError> {
        match change {
            Change::Inode(ino) => self.inode_tier(view, *ino),
            Change::Name { dir, name, ino } => self.entry_tier(view, *dir, name, *ino).map(Some),
        }
    }

    /// After each seal, without any lock: looks at the tag files it met. Tells whether there were any, so that what was held for
    /// them is classified again at once.
    pub fn read_tags(&mut self, cache: &Cache) -> bool {
        let unread = std::mem::take(&mut self.unread);
        let any = !unread.is_empty();
        for (ino, mtime) in unread {
            let mut head = Vec::new();
            let valid = match cache.read(ino, 0, CACHEDIR_SIGNATURE_LEN, &mut head) {
                Ok(ReadOutcome::Done) => is_cachedir_tag(&head),
                // Not here: it was committed, and so was what lies beside it.
                Ok(ReadOutcome::Absent(_)) | Err(_) => false,
            };
            self.tags.insert(ino, (mtime, valid));
        }
        any
    }

    /// Whether a name that was just lost ties what is `scheduled` to another tier, or to what a commit holds of it (protocol.md 5.4): then it
    /// does not wait while others are committed. What is not known is a seam.
    pub(super) fn is_seam(&mut self, view: &mut View<'_>, lost: &Lost) -> bool {
        self.begin();
        let seam = self.ties(view, lost).unwrap_or(true);
        // A directory whose tag nobody has looked at may have any tier.
        let unread = !std::mem::take(&mut self.unread).is_empty();
        seam || unread
    }

    fn ties(&mut self, view: &mut View<'_>, lost: &Lost) -> Result<bool, CacheError> {
        let lives_on = view.attr(lost.ino)?.is_some_and(|attr| attr.nlink > 0);
        let above = self.directory(view, lost.dir)?;
        let path = join(&above.path, &lost.name);
        if lost.is_dir && lives_on {
            // It takes with it what lies below.
            let now = self.directory(view, lost.ino)?;
            return Ok([&path, &now.path].into_iter().any(|path| self.policy.may_be_scheduled(path, true)));
        }
        let standing = self.policy.enter(above.standing, &path, lost.is_dir, || false);
        if matches!(self.policy.tier(standing), Tier::Scheduled(_)) {
            return Ok(lost.said);
        }
        Ok(lives_on && matches!(self.inode_tier(view, lost.ino)?, Some(Tier::Scheduled(_))))
    }

    fn inode_tier(&mut self, view: &mut View<'_>, ino: Ino) -> Result<Option<Tier>, CacheError> {
        if ino == ROOT {
            let tier = self.policy.tier(self.policy.root());
            return Ok(Some(if tier.domain() == Domain::Local { Tier::DEFAULT } else { tier.clone() }));
        }
        let mut most_urgent: Option<Tier> = None;
        for (dir, name) in view.names_of(ino)? {
            let tier = self.entry_tier(view, dir, &name, ino)?;
            if most_urgent.as_ref().is_none_or(|known| urgency(&tier) < urgency(known)) {
                most_urgent = Some(tier);
            }
        }
        Ok(most_urgent)
    }

    fn entry_tier(&mut self, view: &mut View<'_>, dir: Ino, name: &[u8], ino: Ino) -> Result<Tier, CacheError> {
        let above = self.directory(view, dir)?;
        let is_dir = view.attr(ino)?.is_some_and(|attr| attr.is_dir());
        let tagged = is_dir && self.has_tag(view, ino)?;
        let standing = self.policy.enter(above.standing, &join(&above.path, name), is_dir, || tagged);
        match self.policy.tier(standing) {
            // A name that a commit has held, or a file that one has, stays captured (protocol.md 5.5).
            Tier::Local if view.name_captured(dir, name)? || view.inode_captured(ino)? => Ok(Tier::DEFAULT),
            tier => Ok(tier.clone()),
        }
    }

    fn directory(&mut self, view: &mut View<'_>, dir: Ino) -> Result<Directory, CacheError> {
        // Up to the nearest directory that is known, then down again: no recursion, paths may be deep.
        let root = Directory { standing: self.policy.root(), path: Vec::new() };
        let mut chain = Vec::new();
        let mut at = dir;
        let mut known = loop {
            if at == ROOT || chain.len() > DEPTH_MAX {
                break root;
            }
            if let Some(known) = self.directories.get(&at) {
                break known.clone();
            }
            // A directory without a name was removed while open: nothing below it can be shown.
            let Some((parent, name)) = view.names_of(at)?.into_iter().next() else { break root };
            chain.push((at, name));
            at = parent;
        };
        while let Some((ino, name)) = chain.pop() {
            let path = join(&known.path, &name);
            let tagged = self.has_tag(view, ino)?;
            let standing = self.policy.enter(known.standing, &path, true, || tagged);
            known = Directory { standing, path };
            self.directories.insert(ino, known.clone());
        }
        Ok(known)
    }

    fn has_tag(&mut self, view: &mut View<'_>, dir: Ino) -> Result<bool, CacheError> {
        if !self.policy.needs_tags() {
            return Ok(false);
        }
        let Some((tag, _)) = view.lookup(dir, CACHEDIR_TAG)? else { return Ok(false) };
        let Some(attr) = view.attr(tag)?.filter(|attr| attr.is_file()) else { return Ok(false) };
        match self.tags.get(&tag) {
            Some((mtime, valid)) if *mtime == attr.mtime => Ok(*valid),
            _ => {
                self.unread.push((tag, attr.mtime));
                Ok(true)
            }
        }
    }
}

/// From now on it is known what ties the tier `scheduled` to others, so that it may wait while these are committed.
pub(super) fn judge_lost(cache: &Cache, policy: &Policy) {
    if policy.schedules_by_name() {
        let classifier = Mutex::new(Classifier::new(policy.clone()));
        cache.on_lost(move |view, lost| classifier.lock().is_seam(view, lost));
    }
}

// The smaller, the sooner.
fn urgency(tier: &Tier) -> (Domain, Duration) {
    (tier.domain(), tier.lag().unwrap_or(Duration::MAX))
}

/// A path of an inode from the volume's root, for every name that it has; none: it has no name.
///
/// # Errors
/// Only when meta.db fails.
pub fn paths_of(view: &mut View<'_>, ino: Ino) -> Result<Vec<Vec<u8>>, CacheError> {
    if ino == ROOT {
        return Ok(vec![Vec::new()]);
    }
    let mut paths = Vec::new();
    for (mut dir, name) in view.names_of(ino)? {
        let mut path = name;
        for _ in 0..DEPTH_MAX {
            let Some((parent, name)) = view.names_of(dir)?.into_iter().next() else { break };
            path = join(&name, &path);
            dir = parent;
        }
        paths.push(path);
    }
    Ok(paths)
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(path.len() + 1 + name.len());
    joined.extend_from_slice(path);
    if !path.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name);
    joined
}
