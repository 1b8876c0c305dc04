//! A commit whose tree is that of an older commit of the same volume: what differs, said as the delta of one more commit. Data stays where
//! it lies; only what lay inline in old records is gathered into packs, as those records may go when nothing else needs them.

use super::commit::blocking;
use super::delta::{FRAME, Placed, collect};
use super::plan;
use super::progress::Progress;
use super::upload::{Home, put_pack};
use crate::cache::{Cache, CacheError, LocalExtent, Turn};
use crate::format::codec;
use crate::format::delta::Builder as Deltas;
use crate::format::pack::Builder;
use crate::log::Framed;
use crate::rpc;
use crate::store::Objects;
use crate::types::{Epoch, Fault, FaultKind, Seq};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Rows read at once.
const ROWS: usize = 1024;

/// A frame of an old record, and where it is now: its pack's reference, its number there, its place and its stored length.
type Gathered = HashMap<(Seq, u32), (Arc<rpc::ObjectRef>, u32, u64, u32)>;

/// What a commit that turns a tree back has beside itself.
#[derive(Debug, Default)]
pub struct Turned {
    /// Packs that were stored for it.
    pub packs: Vec<rpc::ObjectRef>,
    /// Objects of the older commit that it names.
    pub older: Vec<rpc::ObjectRef>,
    /// All that its deltas name.
    pub framed: Framed,
}

/// Puts into `commit` what makes the tree of `head` that of `older`: caches that were filled with the two commits, of which `turn` says what
/// differs. `epoch` is the one that makes the commit.
///
/// # Errors
/// The store's faults; damage by name; a cache's disk.
pub async fn turn_back(
    objects: &Objects,
    epoch: Epoch,
    (head, older): (&Arc<Cache>, &Arc<Cache>),
    turn: Turn,
    commit: &mut rpc::Commit,
) -> Result<Turned, Fault> {
    let progress = Progress::default();
    let mut turning = Turning { objects, epoch, head, older, turn: Arc::new(turn), packs: Vec::new(), named: BTreeMap::new() };
    let gathered = turning.gather(&progress).await?;
    objects.env().failpoint("writeback.turn_after_packs");
    let (send, mut made) = mpsc::channel(1);
    let collected = collect(objects, &progress, Home::Log(epoch), &mut made, commit);
    let (said, placed) = futures::join!(turning.say(gathered, send), collected);
    let Placed { packs, .. } = placed?;
    said?;
    let Turning { packs: own, named, .. } = turning;
    let mine: BTreeSet<&str> = own.iter().map(|pack| pack.name.as_str()).collect();
    let older = named.values().filter(|object| !mine.contains(object.name.as_str())).cloned().collect();
    let framed = Framed { objects: named.into_values().collect(), records: Vec::new() };
    Ok(Turned { older, framed, packs: own.into_iter().chain(packs).collect() })
}

struct Turning<'a> {
    objects: &'a Objects,
    epoch: Epoch,
    head: &'a Arc<Cache>,
    older: &'a Arc<Cache>,
    turn: Arc<Turn>,
    packs: Vec<rpc::ObjectRef>,
    /// Every object that an extent lies in.
    named: BTreeMap<String, rpc::ObjectRef>,
}

impl Turning<'_> {
    /// Stores what lies inline in old records anew. Such records are few: those after the checkpoint of the older commit.
    async fn gather(&mut self, progress: &Progress) -> Result<Gathered, Fault> {
        let (turn, older) = (Arc::clone(&self.turn), Arc::clone(self.older));
        let wanted = blocking(self.objects.env(), move || {
            let mut wanted: BTreeMap<(Seq, u32), (u32, u64)> = BTreeMap::new();
            for (ino, _) in &turn.files {
                let inline = older.extents_at(*ino)?.into_iter().filter(|extent| extent.object == 0);
                wanted.extend(inline.map(|extent| ((extent.inline_seq, extent.frame), (extent.plain_length, extent.checksum))));
            }
            Ok::<_, CacheError>(wanted)
        })
        .await?;
        let (mut gathered, mut builder, mut waiting) = (Gathered::new(), Builder::default(), Vec::new());
        let mut record: Option<(Seq, rpc::Commit)> = None;
        for ((seq, frame), (plain_length, checksum)) in wanted {
            let commit = match record.take() {
                Some((of, commit)) if of == seq => commit,
                _ => self.objects.commit(seq).await?,
            };
            let plain = commit.inline_frames.get(frame as usize).map(|stored| codec::decompress(stored, plain_length as usize));
            let plain = match plain {
                Some(Ok(plain)) if codec::checksum(&plain) == checksum => plain,
                _ => return Err(Fault::new(FaultKind::Damaged, format!("inline frame {frame} of commit {seq} is not what a file names"))),
            };
            builder.push(&plain)?;
            waiting.push((seq, frame));
            record = Some((seq, commit));
            if plan::pack_is_full(builder.size(), builder.frames()) {
                self.close(progress, std::mem::take(&mut builder), std::mem::take(&mut waiting), &mut gathered).await?;
            }
        }
        self.close(progress, builder, waiting, &mut gathered).await?;
        Ok(gathered)
    }

    async fn close(
        &mut self,
        progress: &Progress,
        builder: Builder,
        waiting: Vec<(Seq, u32)>,
        gathered: &mut Gathered,
    ) -> Result<(), Fault> {
        if builder.is_empty() {
            return Ok(());
        }
        let name = self.objects.new_pack_name(self.epoch);
        let pack = builder.finish(&name, self.epoch, self.objects.salt(), self.objects.sealer())?;
        put_pack(self.objects, progress, &pack).await?;
        let object = Arc::new(pack.object.clone());
        for (at, place) in (0u32..).zip(waiting) {
            if let Some(frame) = pack.frame_ref(at) {
                gathered.insert(place, (Arc::clone(&object), at, frame.stored_offset, frame.stored_length));
            }
        }
        self.packs.push(pack.object);
        Ok(())
    }

    /// Says all of it, in the order in which a delta is applied.
    async fn say(&mut self, gathered: Gathered, send: mpsc::Sender<rpc::Delta>) -> Result<(), Fault> {
        let mut deltas = Deltas::new(FRAME);
        let turn = Arc::clone(&self.turn);
        for places in turn.gone_names.chunks(ROWS) {
            for rpc::Name { dir, name, .. } in self.read(self.head, places, Cache::names_at).await? {
                deltas.removed_name(rpc::NameRef { dir, name });
            }
            hand_on(&mut deltas, &send).await?;
        }
        for inos in turn.gone_inodes.chunks(ROWS) {
            inos.iter().for_each(|ino| deltas.removed_inode(*ino));
            hand_on(&mut deltas, &send).await?;
        }
        for inos in turn.inodes.chunks(ROWS) {
            self.read(self.older, inos, Cache::inodes_at).await?.into_iter().for_each(|inode| deltas.inode(inode));
            hand_on(&mut deltas, &send).await?;
        }
        for places in turn.names.chunks(ROWS) {
            self.read(self.older, places, Cache::names_at).await?.into_iter().for_each(|name| deltas.name(name));
            hand_on(&mut deltas, &send).await?;
        }
        for (ino, there) in &turn.files {
            if *there {
                deltas.cleared(*ino, Turn::WHOLE);
            }
            for extent in self.read(self.older, std::slice::from_ref(ino), |cache, inos| cache.extents_at(inos[0])).await? {
                let (object, extent) = self.placed(extent, &gathered)?;
                deltas.extent(*ino, extent, Some(&object));
                self.named.entry(object.name.clone()).or_insert(object);
            }
            hand_on(&mut deltas, &send).await?;
        }
        let (inode, cookie) = self.head.next_numbers();
        for delta in deltas.finish(inode, cookie) {
            send.send(delta).await.map_err(|_| given_up())?;
        }
        Ok(())
    }

    async fn read<K: Copy + Send + 'static, T: Send + 'static>(
        &self,
        cache: &Arc<Cache>,
        keys: &[K],
        read: impl FnOnce(&Cache, &[K]) -> Result<Vec<T>, CacheError> + Send + 'static,
    ) -> Result<Vec<T>, Fault> {
        let (cache, keys) = (Arc::clone(cache), keys.to_vec());
        blocking(self.objects.env(), move || read(&cache, &keys)).await
    }

    /// An extent as a commit says it, and where it lies.
    fn placed(&self, extent: LocalExtent, gathered: &Gathered) -> Result<(rpc::ObjectRef, rpc::Extent), Fault> {
        let LocalExtent { offset, length, object, frame, stored_offset, stored_length, plain_length, skip, checksum, inline_seq } = extent;
        let (object, frame, stored_offset, stored_length) = match object {
            0 => match gathered.get(&(inline_seq, frame)) {
                Some((object, frame, offset, length)) => (object.as_ref().clone(), *frame, *offset, *length),
                None => return Err(Fault::new(FaultKind::Local, format!("inline frame {frame} of commit {inline_seq} was not gathered"))),
            },
            id => (self.older.object(id)?, frame, stored_offset, stored_length),
        };
        let said =
            rpc::Extent { offset, length, object: 0, frame, stored_offset, stored_length, plain_length, skip, checksum, inline_seq: 0 };
        Ok((object, said))
    }
}

async fn hand_on(deltas: &mut Deltas, send: &mpsc::Sender<rpc::Delta>) -> Result<(), Fault> {
    while let Some(delta) = deltas.ready() {
        send.send(delta).await.map_err(|_| given_up())?;
    }
    Ok(())
}

fn given_up() -> Fault {
    Fault::new(FaultKind::Unknown, "storing what differs was given up")
}
