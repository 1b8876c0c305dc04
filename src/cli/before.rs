//! `--before-change PATH`: the newest commit before the one in which a path last changed. The log is read back from its end, by the deltas
//! of its records; where records between two kept commits are gone, the two trees are looked at.

use super::context::Context;
use super::reader::{Reading, Tree};
use crate::cache::{Cache, Differs};
use crate::history::{self, Entry};
use crate::log::At;
use crate::log::control::Chain;
use crate::rpc::{self, log_record::Kind};
use crate::types::{Fault, FaultKind, Ino, ROOT, Seq, show_name};
use crate::volume::Moment;
use futures::StreamExt;
use std::collections::BTreeSet;

/// Records read side by side.
const READ_AHEAD: usize = 16;

/// What was found.
pub(super) struct Before {
    /// The commit before.
    pub(super) entry: Entry,
    /// The commit that the path changed in, or, where some are gone, the first kept one that shows the change.
    pub(super) changed: Entry,
}

/// What of a tree a path hangs on.
#[derive(Debug, Default, PartialEq, Eq)]
struct Watch {
    /// Its names from the root on, the last one perhaps absent.
    names: BTreeSet<(Ino, Vec<u8>)>,
    /// What it leads to.
    ino: Option<Ino>,
}

impl Watch {
    fn of(cache: &Cache, path: &[u8]) -> Result<Self, Fault> {
        let (mut watch, mut at) = (Self::default(), ROOT);
        for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()) {
            watch.names.insert((at, part.to_vec()));
            match cache.view(|view| view.lookup(at, part))? {
                Some((ino, _)) => at = ino,
                None => return Ok(watch),
            }
        }
        watch.ino = Some(at);
        Ok(watch)
    }

    /// Whether a commit that says this changed the path: where it leads to, the inode there, its content, or, of a directory, its names.
    fn is_touched_by(&self, delta: &rpc::Delta) -> bool {
        let named = |dir: Ino, name: &[u8]| self.ino == Some(dir) || self.names.iter().any(|(of, part)| *of == dir && part == name);
        let ours = |ino: Ino| self.ino == Some(ino);
        delta.removed_names.iter().any(|name| named(name.dir, &name.name))
            || delta.names.iter().any(|name| named(name.dir, &name.name))
            || delta.inodes.iter().any(|inode| ours(inode.ino))
            || delta.extents.iter().any(|file| ours(file.ino))
    }
}

/// A record of the log, as far as it matters here.
enum Step {
    Commit(Vec<rpc::Delta>),
    Other,
    Gone,
}

async fn step(reading: &Reading, seq: Seq) -> Result<(Seq, Step), Fault> {
    let step = match reading.reader.at(seq).await? {
        At::Record(record) => match &record.record.kind {
            Some(Kind::Commit(commit)) => Step::Commit(reading.objects.deltas(commit).await?),
            _ => Step::Other,
        },
        At::Void(_) => Step::Other,
        At::Absent => Step::Gone,
    };
    Ok((seq, step))
}

/// Finds it.
///
/// # Errors
/// [`FaultKind::NotFound`]: no kept commit shows the path otherwise than the newest one does; the store's faults.
pub(super) async fn before_change(context: &Context, reading: &Reading, path: &[u8]) -> Result<Before, Fault> {
    let newest = history::newest(&reading.reader).await?;
    let chain = Chain::read(reading.reader.site().clone()).await?;
    let retired = &chain.state().retired_seqs;
    let mut watch = watch_at(context, reading, newest.seq, path).await?;
    // The oldest kept commit that was reached; whether a record between it and the one in hand is gone; where the change was seen.
    let (mut kept, mut gap, mut changed) = (newest.seq, false, None);
    let mut steps = futures::stream::iter((1..=newest.seq).rev()).map(|seq| step(reading, seq)).buffered(READ_AHEAD);
    while let Some(read) = steps.next().await {
        let (seq, Step::Commit(deltas)) = read.inspect(|(_, step)| gap |= matches!(step, Step::Gone))? else { continue };
        if seq < kept && !retired.contains(&seq) {
            if gap && changed.is_none() && differs(context, reading, path, (seq, kept)).await? {
                changed = Some(kept);
            }
            if let Some(changed) = changed {
                return Ok(Before { entry: entry(reading, seq).await?, changed: entry(reading, changed).await? });
            }
            if gap {
                watch = watch_at(context, reading, seq, path).await?;
            }
            (kept, gap) = (seq, false);
        }
        if changed.is_none() && deltas.iter().any(|delta| watch.is_touched_by(delta)) {
            // A retired one is not shown any more.
            changed = Some(if retired.contains(&seq) { kept } else { seq });
        }
    }
    let (volume, path) = (&reading.volume, show_name(path));
    let why = match changed {
        Some(changed) => format!("`{path}` last changed in commit {changed}, and no commit before that is kept in volume {volume}"),
        None => format!("`{path}` is the same in every kept commit of volume {volume}"),
    };
    Err(Fault::new(FaultKind::NotFound, why))
}

async fn entry(reading: &Reading, seq: Seq) -> Result<Entry, Fault> {
    let gone = || Fault::new(FaultKind::Stale, format!("commit {seq} was retired meanwhile: try again"));
    history::commit(&reading.reader, seq).await?.ok_or_else(gone)
}

async fn watch_at(context: &Context, reading: &Reading, seq: Seq, path: &[u8]) -> Result<Watch, Fault> {
    let tree = Tree::open(context, reading, Moment::Commit(seq)).await?;
    let watch = Watch::of(tree.cache(), path);
    tree.close().await?;
    watch
}

/// Whether two commits show a path differently.
async fn differs(context: &Context, reading: &Reading, path: &[u8], (older, newer): (Seq, Seq)) -> Result<bool, Fault> {
    let before = Tree::open(context, reading, Moment::Commit(older)).await?;
    let after = Tree::open(context, reading, Moment::Commit(newer)).await?;
    let (was, is) = (Watch::of(before.cache(), path), Watch::of(after.cache(), path));
    let differs = match (was?, is?) {
        (Watch { ino: Some(was), .. }, Watch { ino: Some(is), .. }) if was == is => {
            before.cache().differs(was, after.cache(), is)? != Differs::default()
        }
        (was, is) => was != is,
    };
    before.close().await?;
    after.close().await?;
    Ok(differs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_touched_by_its_names_and_its_inode() {
        let names = BTreeSet::from([(1, b"d".to_vec()), (5, b"f".to_vec())]);
        let watch = Watch { names, ino: Some(9) };
        let name = |dir: Ino, name: &'static str| rpc::Name { dir, name: name.into(), ino: 7, cookie: 1 };
        let gone = |dir: Ino, name: &'static str| rpc::NameRef { dir, name: name.into() };
        let inode = |ino: Ino| rpc::Inode { ino, ..Default::default() };
        let file = |ino: Ino| rpc::ExtentChange { ino, ..Default::default() };
        for (delta, touched) in [
            (rpc::Delta { names: vec![name(5, "f")], ..Default::default() }, true),
            (rpc::Delta { names: vec![name(5, "g"), name(1, "f")], ..Default::default() }, false),
            (rpc::Delta { removed_names: vec![gone(1, "d")], ..Default::default() }, true),
            (rpc::Delta { names: vec![name(9, "any")], ..Default::default() }, true),
            (rpc::Delta { inodes: vec![inode(5)], extents: vec![file(8)], ..Default::default() }, false),
            (rpc::Delta { inodes: vec![inode(9)], ..Default::default() }, true),
            (rpc::Delta { extents: vec![file(9)], ..Default::default() }, true),
        ] {
            assert_eq!(watch.is_touched_by(&delta), touched, "{delta:?}");
        }
    }
}
