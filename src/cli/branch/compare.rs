//! Which paths of two trees of one volume differ. An inode keeps its number across commits and branches, so what no delta touched and has
//! the same number is the same.

use crate::cache::Cache;
use crate::cli::target::show_name;
use crate::cli::tree::kind;
use crate::types::{Attr, Fault, Ino, ROOT};
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};

/// Entries listed at once.
const BATCH: usize = 1024;

/// A path that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Difference {
    /// From the volume's root, with a slash before it.
    pub(super) path: String,
    /// `added`, `changed` or `removed`.
    pub(super) change: &'static str,
    /// What it is now; of what was removed, what it was.
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) size: u64,
}

impl Difference {
    pub(super) fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { path, change, kind, size } = self;
        let what = if *kind == "file" { format!("{size} bytes") } else { (*kind).to_owned() };
        writeln!(out, "  {change:<8} {path}  ({what})")
    }
}

/// What of `tip` is not as in `base`, in the order of the paths. `touched`: inodes whose attributes may differ; `rewritten`: whose content
/// may. Access and change times alone are no difference, nor is that of a directory whose entries changed.
///
/// # Errors
/// A cache's disk fails.
pub(super) fn compare(base: &Cache, tip: &Cache, touched: &HashSet<Ino>, rewritten: &HashSet<Ino>) -> Result<Vec<Difference>, Fault> {
    let mut found = Vec::new();
    let mut pending = vec![(String::new(), Some(ROOT), Some(ROOT))];
    while let Some((path, was, is)) = pending.pop() {
        if let (Some(was), Some(is)) = (was, is)
            && path.is_empty()
            && differs(base, tip, (was, is), touched, rewritten)?
        {
            found.push(Difference { path: "/".to_owned(), change: "changed", kind: "directory", size: 0 });
        }
        let (before, now) = (entries(base, was)?, entries(tip, is)?);
        let names: std::collections::BTreeSet<&Vec<u8>> = before.keys().chain(now.keys()).collect();
        for name in names {
            let (was, is) = (before.get(name), now.get(name));
            let change = match (was, is) {
                (None, Some(_)) => Some("added"),
                (Some(_), None) => Some("removed"),
                (Some(was), Some(is)) if differs(base, tip, (was.ino, is.ino), touched, rewritten)? => Some("changed"),
                _ => None,
            };
            let path = format!("{path}/{}", show_name(name));
            if let (Some(change), Some(attr)) = (change, is.or(was)) {
                let size = if attr.is_file() { attr.size } else { 0 };
                found.push(Difference { path: path.clone(), change, kind: kind(attr).1, size });
            }
            let directory = |attr: Option<&Attr>| attr.filter(|attr| attr.is_dir()).map(|attr| attr.ino);
            if directory(was).or(directory(is)).is_some() {
                pending.push((path, directory(was), directory(is)));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn entries(cache: &Cache, dir: Option<Ino>) -> Result<BTreeMap<Vec<u8>, Attr>, Fault> {
    let (mut all, mut after) = (BTreeMap::new(), 0);
    let Some(dir) = dir else { return Ok(all) };
    loop {
        let batch = cache.view(|view| view.entries(dir, after, BATCH))?;
        let Some(last) = batch.last() else { return Ok(all) };
        after = last.cookie;
        all.extend(batch.into_iter().map(|entry| (entry.name, entry.attr)));
    }
}

fn differs(base: &Cache, tip: &Cache, inos: (Ino, Ino), touched: &HashSet<Ino>, rewritten: &HashSet<Ino>) -> Result<bool, Fault> {
    let (was, is) = inos;
    if was != is || rewritten.contains(&is) {
        return Ok(true);
    }
    Ok(touched.contains(&is) && facts(base, was)? != facts(tip, is)?)
}

/// Everything of an inode but its times of access and change, and of a directory but what its entries make.
type Facts = (Option<(u32, u32, u32, u64, Option<(u64, i64)>)>, Option<Vec<u8>>, BTreeMap<Vec<u8>, Option<Vec<u8>>>);

fn facts(cache: &Cache, ino: Ino) -> Result<Facts, Fault> {
    let attr = cache.view(|view| view.attr(ino))?;
    let own = attr.map(|attr| {
        let content = (!attr.is_dir()).then_some((attr.size, attr.mtime));
        (attr.mode, attr.uid, attr.gid, attr.rdev, content)
    });
    let mut xattrs = BTreeMap::new();
    for name in cache.view(|view| view.xattrs(ino))? {
        let value = cache.view(|view| view.xattr(ino, &name))?;
        xattrs.insert(name, value);
    }
    Ok((own, cache.view(|view| view.target(ino))?, xattrs))
}
