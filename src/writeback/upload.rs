//! From a seal to stored extents: frozen content is read, cut into frames, put into packs that are uploaded side by side, or kept
//! inline when it is little. Memory is bounded: at most [`PACKS_IN_FLIGHT`] packs and the one being filled.

use super::plan;
use super::progress::Progress;
use super::reuse::Reuse;
use crate::cache::{Cache, LocalExtent, Seal, SealedFile, Upload, UploadedFrame};
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
use tokio::sync::mpsc;

/// Packs that are uploaded at the same time.
const PACKS_IN_FLIGHT: usize = 4;

/// What a commit says about contents.
#[derive(Debug, Default)]
pub(super) struct Stored {
    /// Table that the extents index, from 1.
    pub(super) objects: Vec<rpc::ObjectRef>,
    /// Extents of every changed file.
    pub(super) files: Vec<rpc::ExtentChange>,
    /// Frames that stand in the commit itself: codec byte and data.
    pub(super) inline: Vec<Bytes>,
    /// Their checksums.
    pub(super) inline_checksums: Vec<u64>,
    /// How many of `objects` this seal has uploaded itself, at the front of the table.
    pub(super) uploaded: usize,
    /// How many after them were uploaded before, and are named by no commit of this cache.
    pub(super) adopted: usize,
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

/// What an upload works with.
pub(super) struct Uploading<'a> {
    pub(super) objects: &'a Objects,
    pub(super) cache: &'a Arc<Cache>,
    pub(super) epoch: Epoch,
    pub(super) progress: &'a Progress,
    /// Need not be uploaded again.
    pub(super) reuse: Reuse,
    /// Every pack that is known to be stored, also when the upload fails.
    pub(super) arrived: &'a Mutex<Vec<rpc::ObjectRef>>,
}

/// Uploads the contents of `seal`; every pack is stored when this returns. Ends early with what `stop` says, if it says anything.
pub(super) async fn upload(with: Uploading<'_>, seal: &Arc<Seal>, stop: impl Future<Output = Fault>) -> Result<Stored, Fault> {
    let Uploading { objects, cache, epoch, progress, reuse, arrived } = with;
    let (send, packs) = mpsc::channel::<PackBytes>(1);
    let producer = {
        let (objects, cache, seal) = (objects.clone(), cache.clone(), seal.clone());
        tokio::task::spawn_blocking(move || Cutter::new(&objects, &cache, &reuse, epoch, send).run(&seal))
    };
    let uploaded = tokio::select! {
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
    mut packs: mpsc::Receiver<PackBytes>,
    arrived: &Mutex<Vec<rpc::ObjectRef>>,
) -> Result<(), Fault> {
    let mut flying = FuturesUnordered::new();
    let mut open = true;
    while open || !flying.is_empty() {
        tokio::select! {
            pack = packs.recv(), if open && flying.len() < PACKS_IN_FLIGHT => match pack {
                Some(pack) => flying.push(async move {
                    put_pack(objects, progress, &pack).await?;
                    arrived.lock().push(pack.object);
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
    reuse: &'a Reuse,
    epoch: Epoch,
    send: mpsc::Sender<PackBytes>,
    builder: Builder,
    /// Extents whose pack is not finished: (file index, extent index, what tells their content apart) by frame.
    open: Vec<(usize, usize, u128)>,
    /// Extents in packs uploaded before: (file index, extent index, number of the pack in `reuse`).
    found: Vec<(usize, usize, u32)>,
    out: Stored,
    shared: Vec<(usize, LocalExtent)>,
    inline: bool,
}

impl<'a> Cutter<'a> {
    fn new(objects: &'a Objects, cache: &'a Cache, reuse: &'a Reuse, epoch: Epoch, send: mpsc::Sender<PackBytes>) -> Self {
        let (builder, out) = (Builder::default(), Stored::default());
        let (open, found, shared) = (Vec::new(), Vec::new(), Vec::new());
        Self { objects, cache, reuse, epoch, send, builder, open, found, out, shared, inline: false }
    }

    fn run(mut self, seal: &Seal) -> Result<Stored, Fault> {
        self.inline = seal.dirty_bytes() <= plan::INLINE_BYTES_MAX;
        let mut cursor = 0;
        loop {
            let files = seal.files(&mut cursor, 512)?;
            if files.is_empty() {
                break;
            }
            for file in files {
                self.file(seal, file)?;
            }
        }
        self.finish_pack()?;
        self.out.uploaded = self.out.objects.len();
        self.take_over_found()?;
        self.out.adopted = self.out.objects.len() - self.out.uploaded;
        self.take_over_shared()?;
        Ok(self.out)
    }

    fn file(&mut self, seal: &Seal, file: SealedFile) -> Result<(), Fault> {
        let cleared = file.cleared.iter().map(|r| rpc::Range { offset: r.start, length: r.end - r.start }).collect();
        let index = self.out.files.len();
        let frames = plan::frames(&file.dirty);
        // Exactly as many: there may be a million files of one extent.
        let extents = Vec::with_capacity(frames.len() + file.shared.len());
        self.out.files.push(rpc::ExtentChange { ino: file.ino, cleared, extents });
        let mut content = Vec::new();
        for range in frames {
            let length = range.end - range.start;
            content.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
            seal.read(file.ino, range.start, &mut content)?;
            self.frame(index, range.start, &content)?;
        }
        self.shared.extend(file.shared.into_iter().map(|extent| (index, extent)));
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
            self.out.files[file].extents.push(extent);
            return Ok(());
        }
        let (ino, at) = (self.out.files[file].ino, self.out.files[file].extents.len());
        let fingerprint = self.reuse.fingerprint(content);
        if let Some((pack, found)) = self.reuse.find(ino, offset, length, fingerprint) {
            place(&mut extent, found.frame, found.stored_offset, found.stored_length, found.checksum);
            self.out.files[file].extents.push(extent);
            self.found.push((file, at, pack));
            return Ok(());
        }
        self.out.files[file].extents.push(extent);
        self.open.push((file, at, fingerprint));
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
        let builder = std::mem::take(&mut self.builder);
        let name = self.objects.new_pack_name(self.epoch);
        let pack = builder.finish(&name, self.epoch, self.objects.salt(), self.objects.sealer())?;
        self.out.objects.push(pack.object.clone());
        let object = u32::try_from(self.out.objects.len()).unwrap_or(u32::MAX);
        let mut upload = Upload { object: pack.object.clone(), frames: Vec::with_capacity(self.open.len()) };
        for ((file, at, content), (number, frame)) in self.open.drain(..).zip((0..).zip(&pack.frames)) {
            let change = &mut self.out.files[file];
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
        self.send.blocking_send(pack).map_err(|_| Fault::new(FaultKind::Unknown, "the upload was given up"))
    }

    /// Extents that were uploaded before name the packs that they lie in.
    fn take_over_found(&mut self) -> Result<(), Fault> {
        let mut known: HashMap<u32, u32> = HashMap::new();
        for (file, at, pack) in std::mem::take(&mut self.found) {
            let object = match known.get(&pack) {
                Some(index) => *index,
                None => {
                    let object = self.reuse.object(pack).ok_or_else(|| Fault::new(FaultKind::Local, "a frame of no pack"))?;
                    self.out.objects.push(object.clone());
                    let index = u32::try_from(self.out.objects.len()).unwrap_or(u32::MAX);
                    known.insert(pack, index);
                    index
                }
            };
            self.out.files[file].extents[at].object = object;
        }
        if !known.is_empty() {
            tracing::info!(packs = known.len(), "what was uploaded before and is the same is not uploaded again");
        }
        Ok(())
    }

    /// Extents that files took over from others name their old objects again.
    fn take_over_shared(&mut self) -> Result<(), Fault> {
        let mut known: HashMap<u64, u32> = HashMap::new();
        for (file, shared) in std::mem::take(&mut self.shared) {
            let object = match (shared.object, known.get(&shared.object)) {
                (0, _) => 0,
                (_, Some(index)) => *index,
                (id, None) => {
                    self.out.objects.push(self.cache.object(id)?);
                    let index = u32::try_from(self.out.objects.len()).unwrap_or(u32::MAX);
                    known.insert(id, index);
                    index
                }
            };
            self.out.files[file].extents.push(rpc::Extent {
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
            });
        }
        for file in &mut self.out.files {
            file.extents.sort_by_key(|extent| extent.offset);
        }
        Ok(())
    }
}

fn place(extent: &mut rpc::Extent, frame: u32, stored_offset: u64, stored_length: u32, checksum: u64) {
    (extent.frame, extent.stored_offset) = (frame, stored_offset);
    (extent.stored_length, extent.checksum) = (stored_length, checksum);
}
