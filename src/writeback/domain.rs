//! To which tier a change belongs: asked for every change at the flip, answered from the current path (protocol.md 5.4, 5.5).
//!
//! Top down: what lies in a held directory is held; else an entry is `local` when the policy says so and no commit has held that
//! very name (a file once captured stays captured). A link count above one: the most urgent of its names decides.

use crate::cache::{Cache, CacheError, Change, ReadOutcome, View};
use crate::policy::{CACHEDIR_SIGNATURE_LEN, CACHEDIR_TAG, Policy, Standing, is_cachedir_tag};
use crate::types::{Domain, Ino, ROOT, UnixNanos};
use std::collections::HashMap;

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
    /// Everything below is held.
    held: bool,
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
        let local = match change {
            Change::Inode(ino) => self.inode_is_local(view, *ino),
            Change::Name { dir, name, ino } => self.entry_is_local(view, *dir, name, *ino),
        };
        if local.unwrap_or(false) { Domain::Local } else { Domain::Continuous }
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

    fn inode_is_local(&mut self, view: &mut View<'_>, ino: Ino) -> Result<bool, CacheError> {
        if ino == ROOT {
            return Ok(false);
        }
        let names = view.names_of(ino)?;
        if names.is_empty() {
            return Ok(false);
        }
        for (dir, name) in names {
            if !self.entry_is_local(view, dir, &name, ino)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn entry_is_local(&mut self, view: &mut View<'_>, dir: Ino, name: &[u8], ino: Ino) -> Result<bool, CacheError> {
        let above = self.directory(view, dir)?;
        if above.held {
            return Ok(true);
        }
        let is_dir = view.attr(ino)?.is_some_and(|attr| attr.is_dir());
        let tagged = is_dir && self.has_tag(view, ino)?;
        let standing = self.policy.enter(above.standing, &join(&above.path, name), is_dir, || tagged);
        Ok(self.is_local(standing) && !view.name_captured(dir, name)?)
    }

    fn is_local(&self, standing: Standing) -> bool {
        self.policy.tier(standing).domain() == Domain::Local
    }

    fn directory(&mut self, view: &mut View<'_>, dir: Ino) -> Result<Directory, CacheError> {
        // Up to the nearest directory that is known, then down again: no recursion, paths may be deep.
        let root = Directory { held: false, standing: self.policy.root(), path: Vec::new() };
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
            chain.push((at, parent, name));
            at = parent;
        };
        while let Some((ino, parent, name)) = chain.pop() {
            let path = join(&known.path, &name);
            let tagged = self.has_tag(view, ino)?;
            let standing = self.policy.enter(known.standing, &path, true, || tagged);
            let held = known.held || (self.is_local(standing) && !view.name_captured(parent, &name)?);
            known = Directory { held, standing, path };
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

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(path.len() + 1 + name.len());
    joined.extend_from_slice(path);
    if !path.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name);
    joined
}
