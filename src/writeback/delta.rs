//! The metadata of a seal as deltas, in bounded memory: rows are read from the seal's table a few thousand at a time, and a delta
//! that is complete goes into a pack before the next one is made.

use super::plan;
use super::progress::Progress;
use super::upload::{self, Feed, Home, Stored};
use crate::cache::{CacheError, Seal};
use crate::format::changes::PackedDelta;
use crate::format::delta::Builder as Deltas;
use crate::format::pack::Builder;
use crate::rpc;
use crate::store::Objects;
use crate::types::{Fault, FaultKind};
use prost::Message;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A delta of at most so many plain bytes stands in the commit itself, whose object may have 4 MiB.
const INLINE_MAX: usize = 2 << 20;
/// Plain bytes of one frame of a larger one.
pub(super) const FRAME: usize = 2 << 20;
/// Rows asked for at once from a seal.
const ROWS: usize = 4096;

/// What became of the deltas.
#[derive(Debug, Default)]
pub(super) struct Placed {
    /// In order, for the next checkpoint.
    pub(super) deltas: Vec<PackedDelta>,
    /// The packs that hold them; none when there is one small delta, which stands in the commit.
    pub(super) packs: Vec<rpc::ObjectRef>,
}

/// Puts what `seal` changed, with the extents that `stored` says, into `commit`, or into packs of its own when it is much. Ends early with
/// what `stop` says, if it says anything.
pub(super) async fn place(
    objects: &Objects,
    progress: &Progress,
    home: Home,
    (seal, stored): (&Arc<Seal>, &Arc<Stored>),
    commit: &mut rpc::Commit,
    stop: impl Future<Output = Fault>,
) -> Result<Placed, Fault> {
    let (send, mut made) = Feed::new(objects.env());
    let (rows, extents) = (Arc::clone(seal), Arc::clone(stored));
    let producer = objects.env().block(move || make(&rows, &extents, &send));
    let placed = collect(objects, progress, home, &mut made, commit);
    let placed = tokio::select! {
        placed = placed => placed,
        fault = stop => Err(fault),
    };
    drop(made);
    // The seal is read until it ends.
    let ended = producer.await.map_err(|error| Fault::with(FaultKind::Local, "reading what was sealed did not end", error))?;
    placed.and_then(|placed| ended.map(|()| placed))
}

/// Puts deltas, as they are made, into `commit`, or into packs of their own when they are much.
pub(super) async fn collect(
    objects: &Objects,
    progress: &Progress,
    home: Home,
    made: &mut mpsc::Receiver<rpc::Delta>,
    commit: &mut rpc::Commit,
) -> Result<Placed, Fault> {
    let mut placed = Placed::default();
    let mut framing = Framing { objects, progress, home, builder: Builder::default(), packs: Vec::new() };
    let mut first: Option<rpc::Delta> = None;
    while let Some(delta) = made.recv().await {
        placed.deltas.push(PackedDelta::of(&delta));
        if placed.deltas.len() == 1 {
            first = Some(delta);
            continue;
        }
        if let Some(first) = first.take() {
            framing.push(&first, commit).await?;
        }
        framing.push(&delta, commit).await?;
    }
    match first {
        Some(delta) if delta.encoded_len() <= INLINE_MAX => commit.delta = Some(delta),
        Some(delta) => framing.push(&delta, commit).await?,
        None => {}
    }
    framing.close(commit).await?;
    placed.packs = framing.packs;
    Ok(placed)
}

/// Deltas on their way into packs.
struct Framing<'a> {
    objects: &'a Objects,
    progress: &'a Progress,
    home: Home,
    builder: Builder,
    packs: Vec<rpc::ObjectRef>,
}

impl Framing<'_> {
    async fn push(&mut self, delta: &rpc::Delta, commit: &mut rpc::Commit) -> Result<(), Fault> {
        self.builder.push(&crate::format::delta::encode_frame(delta, commit.inline_frames.len())?)?;
        if plan::pack_is_full(self.builder.size(), self.builder.frames()) { self.close(commit).await } else { Ok(()) }
    }

    async fn close(&mut self, commit: &mut rpc::Commit) -> Result<(), Fault> {
        if self.builder.is_empty() {
            return Ok(());
        }
        let name = self.home.name(self.objects);
        let pack = std::mem::take(&mut self.builder).finish(&name, self.home.epoch(), self.objects.salt(), self.objects.sealer())?;
        upload::put_pack(self.objects, self.progress, &pack).await?;
        commit.delta_frames.extend((0u32..).zip(&pack.frames).filter_map(|(frame, _)| pack.frame_ref(frame)));
        self.packs.push(pack.object);
        Ok(())
    }
}

/// Makes the deltas in the order of their application; runs on a blocking thread.
fn make(seal: &Seal, stored: &Stored, send: &Feed<rpc::Delta>) -> Result<(), Fault> {
    let mut maker = Maker { deltas: Deltas::new(FRAME), send };
    maker.rows(|cursor| seal.removed_names(cursor, ROWS), Deltas::removed_name)?;
    maker.rows(|cursor| seal.removed_inodes(cursor, ROWS), Deltas::removed_inode)?;
    maker.rows(|cursor| seal.inodes(cursor, ROWS), Deltas::inode)?;
    maker.rows(|cursor| seal.names(cursor, ROWS), Deltas::name)?;
    maker.rows(
        |cursor| seal.stored(cursor, ROWS),
        |deltas, rpc::ExtentChange { ino, cleared, extents }| {
            for range in cleared {
                deltas.cleared(ino, range.offset..range.offset.saturating_add(range.length));
            }
            for extent in extents {
                let object = extent.object.checked_sub(1).and_then(|index| stored.objects.get(index as usize));
                deltas.extent(ino, extent, object);
            }
        },
    )?;
    let Maker { deltas, send } = maker;
    deltas.finish(seal.next_inode(), seal.next_cookie()).into_iter().try_for_each(|delta| send.hand_on(delta))
}

struct Maker<'a> {
    deltas: Deltas,
    send: &'a Feed<rpc::Delta>,
}

impl Maker<'_> {
    fn rows<T>(&mut self, mut next: impl FnMut(&mut u64) -> Result<Vec<T>, CacheError>, add: impl Fn(&mut Deltas, T)) -> Result<(), Fault> {
        let mut cursor = 0;
        loop {
            let rows = next(&mut cursor)?;
            if rows.is_empty() {
                return Ok(());
            }
            rows.into_iter().for_each(|row| add(&mut self.deltas, row));
            self.send()?;
        }
    }

    fn send(&mut self) -> Result<(), Fault> {
        while let Some(delta) = self.deltas.ready() {
            self.send.hand_on(delta)?;
        }
        Ok(())
    }
}
