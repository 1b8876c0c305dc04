//! From inodes that differ to paths that differ, as a person tells them: what has another name was renamed, and what another inode
//! stands in for was changed (so most editors save a file).

use crate::cache::{Cache, Changed, Differs, Named};
use crate::cli::tree::kind;
use crate::types::{Attr, Fault, FaultKind, show_name};
use serde::Serialize;
use std::collections::HashMap;
use std::io::{self, Write};

/// Inodes looked at at once.
const BATCH: usize = 1024;

/// A path that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct Difference {
    /// From the volume's root, with a slash before it; of what was removed, where it was.
    pub(in crate::cli) path: String,
    /// `added`, `changed`, `removed` or `renamed`.
    pub(in crate::cli) change: &'static str,
    /// Of what was renamed: where it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) from: Option<String>,
    /// What it is now; of what was removed, what it was.
    #[serde(rename = "type")]
    pub(in crate::cli) kind: &'static str,
    pub(in crate::cli) size: u64,
    /// Of what was changed or renamed: `content`, `metadata`; `replaced`: by another inode.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(in crate::cli) what: Vec<&'static str>,
}

impl Difference {
    pub(in crate::cli) fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { path, change, from, kind, size, what } = self;
        let mut told = if *kind == "file" { format!("{size} bytes") } else { (*kind).to_owned() };
        if !what.is_empty() {
            told = format!("{told}: {}", what.join(", "));
        }
        let from = from.as_ref().map_or_else(String::new, |from| format!("{from} -> "));
        writeln!(out, "  {change:<8} {from}{path}  ({told})")
    }
}

/// How many of each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct Counts {
    added: usize,
    changed: usize,
    removed: usize,
    renamed: usize,
}

impl Counts {
    pub(in crate::cli) fn of(differences: &[Difference]) -> Self {
        let count = |change: &str| differences.iter().filter(|difference| difference.change == change).count();
        Self { added: count("added"), changed: count("changed"), removed: count("removed"), renamed: count("renamed") }
    }

    pub(in crate::cli) fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { added, changed, removed, renamed } = self;
        writeln!(out, "{added} added, {changed} changed, {removed} removed, {renamed} renamed")
    }
}

/// What of `now` is not as in `before`, in the order of the paths. In memory is what differs, and nothing of what is the same.
///
/// # Errors
/// A cache's disk fails.
pub(in crate::cli) fn differences(before: &Cache, now: &Cache) -> Result<Vec<Difference>, Fault> {
    let (mut telling, mut after) = (Telling { before, now, found: Vec::new(), gone: Vec::new(), new: Vec::new(), renamed: Vec::new() }, 0);
    while let Some(changed) = before.diff(now, &mut after, BATCH)? {
        changed.into_iter().try_for_each(|change| telling.one(change))?;
    }
    telling.end()
}

/// A name of an inode, on one side.
struct Side {
    at: Named,
    path: Vec<u8>,
    attr: Attr,
}

struct Telling<'a> {
    before: &'a Cache,
    now: &'a Cache,
    found: Vec<Difference>,
    /// Names whose inode has no other one in exchange.
    gone: Vec<Side>,
    new: Vec<Side>,
    /// Where something was renamed to: the name, and which of `found` it is.
    renamed: Vec<(Named, usize)>,
}

impl Telling<'_> {
    fn one(&mut self, change: Changed) -> Result<(), Fault> {
        let Changed { was, is, differs, gone, new, kept, .. } = change;
        let (mut gone, mut new) = (gone.into_iter(), new.into_iter());
        let mut what = parts(differs);
        if let (Some(_), Some(is)) = (&was, &is) {
            while gone.len() > 0
                && let Some(to) = new.next()
                && let Some(from) = gone.next()
            {
                self.renamed.push((to.clone(), self.found.len()));
                let from = Some(shown(self.before, &from)?);
                self.found.push(Difference { from, ..difference(shown(self.now, &to)?, "renamed", is, std::mem::take(&mut what)) });
            }
            if !what.is_empty() {
                let path = match &kept {
                    Some(name) => shown(self.now, name)?,
                    None => "/".to_owned(),
                };
                self.found.push(difference(path, "changed", is, what));
            }
        }
        for at in gone {
            if let Some(attr) = was.clone() {
                self.gone.push(Side { path: path(self.before, &at)?, at, attr });
            }
        }
        for at in new {
            if let Some(attr) = is.clone() {
                self.new.push(Side { path: path(self.now, &at)?, at, attr });
            }
        }
        Ok(())
    }

    /// Whose name went and who came in its place: by the name in its directory, then by the path.
    fn end(mut self) -> Result<Vec<Difference>, Fault> {
        let new = std::mem::take(&mut self.new);
        let mut gone: Vec<Option<Side>> = std::mem::take(&mut self.gone).into_iter().map(Some).collect();
        let by_name: HashMap<Named, usize> = index(&gone, |side| side.at.clone());
        let mut rest = Vec::new();
        for side in new {
            match by_name.get(&side.at).and_then(|at| gone[*at].take()) {
                Some(old) => self.replaced(&old, &side)?,
                None => rest.push(side),
            }
        }
        for (name, found) in std::mem::take(&mut self.renamed) {
            if by_name.get(&name).and_then(|at| gone[*at].take()).is_some() {
                self.found[found].what.push("replaced");
            }
        }
        let by_path: HashMap<Vec<u8>, usize> = index(&gone, |side| side.path.clone());
        for side in rest {
            match by_path.get(&side.path).and_then(|at| gone[*at].take()) {
                Some(old) => self.replaced(&old, &side)?,
                None => self.found.push(difference(show_name(&side.path), "added", &side.attr, Vec::new())),
            }
        }
        for side in gone.into_iter().flatten() {
            self.found.push(difference(show_name(&side.path), "removed", &side.attr, Vec::new()));
        }
        self.found.sort_by(|a, b| (&a.path, a.change).cmp(&(&b.path, b.change)));
        Ok(self.found)
    }

    fn replaced(&mut self, old: &Side, new: &Side) -> Result<(), Fault> {
        let mut what = parts(self.before.differs(old.attr.ino, self.now, new.attr.ino)?);
        what.push("replaced");
        self.found.push(difference(show_name(&new.path), "changed", &new.attr, what));
        Ok(())
    }
}

fn index<K: std::hash::Hash + Eq>(sides: &[Option<Side>], key: impl Fn(&Side) -> K) -> HashMap<K, usize> {
    let keyed = |(at, side): (usize, &Option<Side>)| side.as_ref().map(|side| (key(side), at));
    sides.iter().enumerate().filter_map(keyed).collect()
}

fn parts(differs: Differs) -> Vec<&'static str> {
    let each = [(differs.content, "content"), (differs.metadata, "metadata")];
    each.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect()
}

fn difference(path: String, change: &'static str, attr: &Attr, what: Vec<&'static str>) -> Difference {
    let size = if attr.is_file() { attr.size } else { 0 };
    Difference { path, change, from: None, kind: kind(attr).1, size, what }
}

fn path(cache: &Cache, name: &Named) -> Result<Vec<u8>, Fault> {
    let found = cache.view(|view| view.path_of(name))?;
    let path = found.ok_or_else(|| Fault::new(FaultKind::Damaged, format!("no names lead to directory {}", name.0)))?;
    Ok([b"/", &path[..]].concat())
}

fn shown(cache: &Cache, name: &Named) -> Result<String, Fault> {
    Ok(show_name(&path(cache, name)?))
}
