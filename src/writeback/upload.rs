//! From a seal to stored extents: frozen content is read, cut into frames, put into packs that are uploaded side by side, or kept
//! inline when it is little. Memory is bounded: at most [`PACKS_IN_FLIGHT`] packs and the one being filled.

use super::plan;
use super::progress::Progress;
use super::reuse::Reuse;
use crate::cache::{Cache, LocalExtent, ObjectId, Seal, SealedFile, Upload, UploadedFrame};
use crate::env::{Env, Waiter};
use crate::format::codec;
use crate::format::limits::INLINE_FRAMES_MAX;
use crate::format::pack::{Builder, PackBytes};
use crate::rpc;
use crate::store::Objects;
use crate::types::{Epoch, Fault, FaultKind, Hash};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Packs of a seal in memory at a time, of some 12 MiB each: one that is being filled, the others on their way.
const PACKS: usize = 3;
/// Files asked for at once from a seal.
const FILES: usize = 512;

/// What a commit says about contents.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// Table that the extents index, from 1. The extents of every changed file are kept with the seal.
    pub(super) objects: Vec<rpc::ObjectRef>,
    /// Why each of them may be named.
    pub(super) origins: Vec<Origin>,
    /// Frames that stand in the commit itself: codec byte and data.
    pub(super) inline: Vec<Bytes>,
    /// Their checksums.
    pub(super) inline_checksums: Vec<u64>,
}

/// Why a commit may name an object (protocol.md 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// This seal has uploaded it, or it was uploaded before and is named by no commit of this cache.
    Own,
    /// Its parent names it.
    Parent,
}

impl Stored {
    /// Adds one to the table; its number there.
    fn add(&mut self, object: rpc::ObjectRef, origin: Origin) -> u32 {
        self.objects.push(object);
        self.origins.push(origin);
        u32::try_from(self.objects.len()).unwrap_or(u32::MAX)
    }

    /// Those of one origin.
    pub(super) fn of(&self, origin: Origin) -> impl Iterator<Item = &rpc::ObjectRef> {
        self.objects.iter().zip(&self.origins).filter(move |(_, of)| **of == origin).map(|(object, _)| object)
    }
}

/// Puts one object, trying again until it is stored or the volume ends.
pub(super) async fn put_until_stored(objects: &Objects, progress: &Progress, name: &str, bytes: &Bytes, hash: Hash) -> Result<(), Fault> {
    let mut failures = 0;
    loop {
        match progress.watched(objects.env(), name, objects.create(name, bytes, hash)).await? {
            Ok(()) => {
                progress.store_answered();
                return Ok(());
            }
            Err(fault) if fault.kind == FaultKind::Damaged => return Err(fault),
            Err(fault) => {
                let pause = plan::backoff(failures);
                progress.store_failed(objects.env(), &fault, pause);
                failures += 1;
                progress.cancelled_or(objects.env().sleep(pause)).await?;
            }
        }
    }
}

/// Where the packs of a seal lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    /// Among those that a commit of this epoch may name.
    Log(Epoch),
    /// Below the branch of this epoch.
    Branch(Epoch),
}

impl Home {
    pub(super) fn epoch(self) -> Epoch {
        match self {
            Self::Log(epoch) | Self::Branch(epoch) => epoch,
        }
    }

    /// A name for a new pack.
    pub(super) fn name(self, objects: &Objects) -> String {
        match self {
            Self::Log(epoch) => objects.new_pack_name(epoch),
            Self::Branch(epoch) => objects.new_branch_pack_name(epoch),
        }
    }
}

/// From work on a thread to the task that stores what it makes, one at a time.
pub(super) struct Feed<T> {
    waiter: Waiter,
    send: mpsc::Sender<T>,
}

impl<T: Send> Feed<T> {
    pub(super) fn new(env: &Env) -> (Self, mpsc::Receiver<T>) {
        let (send, receive) = mpsc::channel(1);
        (Self { waiter: env.waiter(), send }, receive)
    }

    /// Waits until the one before is taken.
    pub(super) fn hand_on(&self, made: T) -> Result<(), Fault> {
        self.waiter.wait(self.send.send(made)).map_err(|_| given_up())
    }

    /// Waits until one of `rooms` is free.
    fn room(&self, rooms: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Fault> {
        self.waiter.wait(Arc::clone(rooms).acquire_owned()).map_err(|_| given_up())
    }
}

fn given_up() -> Fault {
    Fault::new(FaultKind::Unknown, "the upload was given up")
}

/// A pack, and its place among the [`PACKS`].
type Filled = (PackBytes, OwnedSemaphorePermit);

/// What an upload works with.
pub(super) struct Uploading<'a> {
    pub(super) objects: &'a Objects,
    pub(super) cache: &'a Arc<Cache>,
    pub(super) home: Home,
    pub(super) progress: &'a Progress,
    /// Need not be uploaded again.
    pub(super) reuse: Reuse,
    /// Every pack that is known to be stored, also when the upload fails.
    pub(super) arrived: &'a Mutex<Vec<rpc::ObjectRef>>,
}

/// Uploads the contents of `seal`; every pack is stored when this returns. Ends early with what `stop` says, if it says anything.
pub(super) async fn upload(with: Uploading<'_>, seal: &Arc<Seal>, stop: impl Future<Output = Fault>) -> Result<Stored, Fault> {
    let Uploading { objects, cache, home, progress, reuse, arrived } = with;
    let (send, packs) = Feed::<Filled>::new(objects.env());
    let producer = {
        let (objects, cache, seal, env) = (objects.clone(), cache.clone(), seal.clone(), objects.env());
        env.block(move || Cutter::new((&objects, &cache, &seal), &reuse, home, send).run())
    };
    let uploaded = tokio::select! {
        biased;
        uploaded = put_packs(objects, progress, packs, arrived) => uploaded,
        fault = stop => Err(fault),
    };
    // Whatever became of the packs: the seal is read until the producer ends, and it ends when nobody takes its packs.
    let cut = producer.await.map_err(|error| Fault::with(FaultKind::Local, "reading what was sealed did not end", error))?;
    uploaded.and(cut)
}

/// Stores packs side by side as they come.
async fn put_packs(
    objects: &Objects,
    progress: &Progress,
    mut packs: mpsc::Receiver<Filled>,
    arrived: &Mutex<Vec<rpc::ObjectRef>>,
) -> Result<(), Fault> {
    let mut flying = FuturesUnordered::new();
    let mut open = true;
    while open || !flying.is_empty() {
        tokio::select! {
            biased;
            pack = packs.recv(), if open => match pack {
                Some((pack, room)) => flying.push(async move {
                    put_pack(objects, progress, &pack).await?;
                    let PackBytes { object, bytes, .. } = pack;
                    drop((bytes, room));
                    arrived.lock().push(object);
                    Ok::<(), Fault>(())
                }),
                None => open = false,
            },
            Some(stored) = flying.next(), if !flying.is_empty() => stored?,
        }
    }
    Ok(())
}

/// Stores a pack.
pub(super) async fn put_pack(objects: &Objects, progress: &Progress, pack: &PackBytes) -> Result<(), Fault> {
    let name = crate::format::names::absolute(objects.incarnation(), &pack.object.name)
        .map(|(_, name)| name)
        .ok_or_else(|| Fault::new(FaultKind::Local, format!("`{}` is no pack's name", pack.object.name)))?;
    let hash = Hash::from_slice(&pack.object.hash).ok_or_else(|| Fault::new(FaultKind::Local, format!("{name}: no hash")))?;
    put_until_stored(objects, progress, &name, &pack.bytes, hash).await?;
    progress.uploaded(pack.object.size);
    Ok(())
}

/// Reads files in order and fills packs; runs on a blocking thread.
struct Cutter<'a> {
    objects: &'a Objects,
    cache: &'a Cache,
    seal: &'a Seal,
    reuse: &'a Reuse,
    home: Home,
    send: Feed<Filled>,
    rooms: Arc<Semaphore>,
    /// Of the pack that is being filled, once it has anything.
    room: Option<OwnedSemaphorePermit>,
    builder: Builder,
    /// Files with extents whose place is not known yet, and the one being cut.
    files: Vec<rpc::ExtentChange>,
    /// Extents whose pack is not finished: (file index, extent index, what tells their content apart) by frame.
    open: Vec<(usize, usize, u128)>,
    /// Packs uploaded before, by their number in `reuse`, and objects that the parent names, by theirs in the cache: in the table.
    found: HashMap<u32, u32>,
    shared: HashMap<ObjectId, u32>,
    out: Stored,
    inline: bool,
}

impl<'a> Cutter<'a> {
    fn new((objects, cache, seal): (&'a Objects, &'a Cache, &'a Seal), reuse: &'a Reuse, home: Home, send: Feed<Filled>) -> Self {
        let (builder, out) = (Builder::default(), Stored::default());
        let (files, open, found, shared) = (Vec::new(), Vec::new(), HashMap::new(), HashMap::new());
        let (rooms, room) = (Arc::new(Semaphore::new(PACKS)), None);
        Self { objects, cache, seal, reuse, home, send, rooms, room, builder, files, open, found, shared, out, inline: false }
    }

    fn run(mut self) -> Result<Stored, Fault> {
        // A branch has no record that inline frames could stand in.
        self.inline = self.seal.dirty_bytes() <= plan::INLINE_BYTES_MAX && matches!(self.home, Home::Log(_));
        let mut cursor = 0;
        loop {
            let files = self.seal.files(&mut cursor, FILES)?;
            if files.is_empty() {
                break;
            }
            for file in files {
                self.file(file)?;
            }
            if self.open.is_empty() {
                self.keep()?;
            }
        }
        self.finish_pack()?;
        self.keep()?;
        if !self.found.is_empty() {
            tracing::info!(packs = self.found.len(), "what was uploaded before and is the same is not uploaded again");
        }
        Ok(self.out)
    }

    /// Every extent of these files has its place.
    fn keep(&mut self) -> Result<(), Fault> {
        for file in &mut self.files {
            file.extents.sort_by_key(|extent| extent.offset);
        }
        self.seal.keep_stored(&self.files)?;
        self.files.clear();
        Ok(())
    }

    fn file(&mut self, file: SealedFile) -> Result<(), Fault> {
        if self.open.is_empty() && self.files.len() >= FILES {
            self.keep()?;
        }
        let cleared = file.cleared.iter().map(|r| rpc::Range { offset: r.start, length: r.end - r.start }).collect();
        let index = self.files.len();
        let frames = plan::frames(&file.dirty);
        self.files.push(rpc::ExtentChange { ino: file.ino, cleared, extents: Vec::with_capacity(frames.len() + file.shared.len()) });
        let mut content = Vec::new();
        for range in frames {
            let length = range.end - range.start;
            content.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
            self.seal.read(file.ino, range.start, &mut content)?;
            self.frame(index, range.start, &content)?;
        }
        for extent in file.shared {
            let extent = self.shared(extent)?;
            self.files[index].extents.push(extent);
        }
        Ok(())
    }

    fn frame(&mut self, file: usize, offset: u64, content: &[u8]) -> Result<(), Fault> {
        let length = content.len();
        let mut extent = rpc::Extent {
            offset,
            length: length as u64,
            // Frames have at most FRAME_BYTES_MAX bytes.
            plain_length: u32::try_from(length).unwrap_or(u32::MAX),
            ..Default::default()
        };
        if self.inline && self.out.inline.len() < INLINE_FRAMES_MAX {
            extent.frame = u32::try_from(self.out.inline.len()).unwrap_or(u32::MAX);
            extent.checksum = codec::checksum(content);
            self.out.inline_checksums.push(extent.checksum);
            self.out.inline.push(codec::compress(content).into());
            self.files[file].extents.push(extent);
            return Ok(());
        }
        let (ino, at) = (self.files[file].ino, self.files[file].extents.len());
        let fingerprint = self.reuse.fingerprint(content);
        if let Some((pack, found)) = self.reuse.find(ino, offset, length, fingerprint) {
            place(&mut extent, found.frame, found.stored_offset, found.stored_length, found.checksum);
            extent.object = self.found(pack)?;
            self.files[file].extents.push(extent);
            return Ok(());
        }
        self.files[file].extents.push(extent);
        self.open.push((file, at, fingerprint));
        if self.room.is_none() {
            self.room = Some(self.send.room(&self.rooms)?);
        }
        self.builder.push(content)?;
        if plan::pack_is_full(self.builder.size(), self.builder.frames()) {
            self.finish_pack()?;
        }
        Ok(())
    }

    fn finish_pack(&mut self) -> Result<(), Fault> {
        if self.open.is_empty() {
            return Ok(());
        }
        let (builder, room) = (std::mem::take(&mut self.builder), self.room.take());
        let name = self.home.name(self.objects);
        let pack = builder.finish(&name, self.home.epoch(), self.objects.salt(), self.objects.sealer())?;
        let object = self.out.add(pack.object.clone(), Origin::Own);
        let mut upload = Upload { object: pack.object.clone(), frames: Vec::with_capacity(self.open.len()) };
        for ((file, at, content), (number, frame)) in self.open.drain(..).zip((0..).zip(&pack.frames)) {
            let change = &mut self.files[file];
            let extent = &mut change.extents[at];
            extent.object = object;
            place(extent, number, frame.stored_offset, frame.stored_length, frame.checksum);
            upload.frames.push(UploadedFrame {
                ino: change.ino,
                offset: extent.offset,
                frame: number,
                stored_offset: frame.stored_offset,
                stored_length: frame.stored_length,
                plain_length: extent.plain_length,
                checksum: frame.checksum,
                content,
            });
        }
        // Before its first byte is sent: whoever comes after this process asks the store whether it arrived.
        self.cache.note_upload(&upload)?;
        room.map_or(Ok(()), |room| self.send.hand_on((pack, room)))
    }

    /// The number of a pack uploaded before.
    fn found(&mut self, pack: u32) -> Result<u32, Fault> {
        if let Some(index) = self.found.get(&pack) {
            return Ok(*index);
        }
        let object = self.reuse.object(pack).ok_or_else(|| Fault::new(FaultKind::Local, "a frame of no pack"))?;
        let index = self.out.add(object.clone(), Origin::Own);
        self.found.insert(pack, index);
        Ok(index)
    }

    /// An extent that a file took over from another names its old object again.
    fn shared(&mut self, shared: LocalExtent) -> Result<rpc::Extent, Fault> {
        let object = match (shared.object, self.shared.get(&shared.object)) {
            (0, _) => 0,
            (_, Some(index)) => *index,
            (id, None) => {
                let index = self.out.add(self.cache.object(id)?, Origin::Parent);
                self.shared.insert(id, index);
                index
            }
        };
        Ok(rpc::Extent {
            offset: shared.offset,
            length: shared.length,
            object,
            frame: shared.frame,
            stored_offset: shared.stored_offset,
            stored_length: shared.stored_length,
            plain_length: shared.plain_length,
            skip: shared.skip,
            checksum: shared.checksum,
            inline_seq: if object == 0 { shared.inline_seq } else { 0 },
        })
    }
}

fn place(extent: &mut rpc::Extent, frame: u32, stored_offset: u64, stored_length: u32, checksum: u64) {
    (extent.frame, extent.stored_offset) = (frame, stored_offset);
    (extent.stored_length, extent.checksum) = (stored_length, checksum);
}
