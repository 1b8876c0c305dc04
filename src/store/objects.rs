//! Sealed objects of one incarnation: what hydrate, write-back and readers of history ask of the store.

use super::{Put, Store};
use crate::env::Env;
use crate::format::seal::{Kind, Opened, Sealer, hash};
use crate::format::{checkpoint, delta, names, pack, record};
use crate::rpc;
use crate::types::{Epoch, Fault, FaultKind, Hash, Incarnation, Seq};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// The store, the key and the incarnation together. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Objects {
    store: Arc<dyn Store>,
    sealer: Sealer,
    incarnation: Incarnation,
    env: Env,
}

impl Objects {
    /// Objects of `incarnation`, sealed by `sealer` (its data key).
    #[must_use]
    pub fn new(store: Arc<dyn Store>, sealer: Sealer, incarnation: Incarnation, env: Env) -> Self {
        Self { store, sealer, incarnation, env }
    }

    /// The same objects, reached by another way to the same store.
    #[must_use]
    pub fn with_store(&self, store: Arc<dyn Store>) -> Self {
        Self { store, ..self.clone() }
    }

    /// The store below.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The incarnation.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Seals with the data key.
    #[must_use]
    pub fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// Clock and chance.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// The whole object `name` (relative to the store), opened; `None`: the store says that there is none.
    ///
    /// # Errors
    /// [`FaultKind::Damaged`] names the object; the store's own faults.
    pub async fn read(&self, kind: Kind, name: &str) -> Result<Option<Opened>, Fault> {
        let Some(bytes) = self.store.get(name).await? else { return Ok(None) };
        Ok(Some(self.sealer.open(kind, name, None, &bytes)?))
    }

    /// As [`Self::read`] for an object that something stored names: its absence is damage.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_named(&self, kind: Kind, name: &str) -> Result<Opened, Fault> {
        self.read(kind, name).await?.ok_or_else(|| missing(name))
    }

    /// Stores a sealed object under a name that was never used. One that exists already is fine only if it has the same
    /// bytes: an earlier attempt whose reply was lost (protocol.md 4).
    ///
    /// # Errors
    /// The store's faults; then the outcome is unknown and the same bytes may be put again.
    pub async fn create(&self, name: &str, bytes: &Bytes, whole: Hash) -> Result<(), Fault> {
        match self.store.put_if_absent(name, bytes.clone()).await? {
            Put::Stored => Ok(()),
            Put::Exists => match self.store.get(name).await? {
                Some(there) if there.len() == bytes.len() && hash(&there) == whole => Ok(()),
                Some(_) => Err(Fault::new(
                    FaultKind::Damaged,
                    format!("{name} exists with other bytes, though its name is random: check what else writes to this store"),
                )),
                None => Err(Fault::new(FaultKind::Unknown, format!("{name} was said to exist, then to be absent"))),
            },
        }
    }

    /// A run of stored bytes of an object that an extent or delta names.
    ///
    /// # Errors
    /// The store's faults; [`FaultKind::Damaged`] when the object or part of the range is not there.
    pub async fn range(&self, object: &rpc::ObjectRef, range: Range<u64>) -> Result<Bytes, Fault> {
        let Some((_, name)) = names::absolute(self.incarnation, &object.name) else {
            return Err(Fault::new(FaultKind::Damaged, format!("`{}` is no object's name", object.name.escape_debug())));
        };
        let wanted = range.end - range.start;
        let bytes = self.store.get_range(&name, range).await?.ok_or_else(|| missing(&name))?;
        if bytes.len() as u64 != wanted {
            return Err(Fault::new(FaultKind::Damaged, format!("{name} is truncated: {} bytes where {wanted} were named", bytes.len())));
        }
        Ok(bytes)
    }

    /// A part of a checkpoint.
    ///
    /// # Errors
    /// As [`Self::read_named`].
    pub async fn checkpoint_part(&self, part: &rpc::PartRef) -> Result<rpc::CheckpointPart, Fault> {
        let name = checkpoint::part_name(&self.sealer, part)?;
        let bytes = self.store.get(&name).await?.ok_or_else(|| missing(&name))?;
        Ok(checkpoint::decode_part(&bytes, &self.sealer, part)?)
    }

    /// The commit of a number.
    ///
    /// # Errors
    /// As [`Self::read_named`]; [`FaultKind::Damaged`] when the record is no commit.
    pub async fn commit(&self, seq: Seq) -> Result<rpc::Commit, Fault> {
        let name = names::commit(self.incarnation, seq);
        let bytes = self.store.get(&name).await?.ok_or_else(|| missing(&name))?;
        match record::decode(&bytes, &self.sealer, &name)?.kind {
            Some(rpc::log_record::Kind::Commit(commit)) => Ok(commit),
            _ => Err(Fault::new(FaultKind::Damaged, format!("{name} is no commit, though an extent names it"))),
        }
    }

    /// The deltas of a commit, in order, wherever they are stored.
    ///
    /// # Errors
    /// As [`Self::range`].
    pub async fn deltas(&self, commit: &rpc::Commit) -> Result<Vec<rpc::Delta>, Fault> {
        if let Some(delta) = &commit.delta {
            return Ok(vec![delta.clone()]);
        }
        let mut deltas = Vec::new();
        for frame in &commit.delta_frames {
            let Some(object) = &frame.object else { continue };
            let stored = self.range(object, frame.stored_offset..frame.stored_offset + u64::from(frame.stored_length)).await?;
            let plain = pack::open_frame(&self.sealer, frame, &stored)?;
            deltas.push(delta::decode_frame(&object.name, &plain, commit.inline_frames.len())?);
        }
        Ok(deltas)
    }

    /// A new salt.
    #[must_use]
    pub fn salt(&self) -> [u8; 32] {
        self.env.random()
    }

    /// A name for a new pack of the branch of `epoch`.
    #[must_use]
    pub fn new_branch_pack_name(&self, epoch: Epoch) -> String {
        names::branch_pack(self.incarnation, epoch, self.env.random())
    }

    /// A name for a new pack of `epoch`.
    #[must_use]
    pub fn new_pack_name(&self, epoch: Epoch) -> String {
        names::pack(self.incarnation, epoch, self.env.random())
    }
}

fn missing(name: &str) -> Fault {
    Fault::new(FaultKind::Damaged, format!("{name} is missing from the store, though a commit or checkpoint names it"))
}
