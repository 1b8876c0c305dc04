//! A volume goes on from an older commit of itself: one more commit whose tree is that one's, its data by reference. History keeps both, so
//! undoing is the same with the number before.
//!
//! | step | a death right after it |
//! |---|---|
//! | 1 nobody has the log; the newest commit is pinned for [`UNDO`], the older one until the end | `volume.turn_after_pins`: pins, which the same command finds again; the second one expires |
//! | 2 `open`, by a holder without a cache: it has nothing that is in no commit, so whoever opens next takes over from it at once | `log.after_open_before_read_back` |
//! | 3 what lay inline in old records is stored in packs | `writeback.turn_after_packs`: they are nobody's, gc takes them |
//! | 4 the commit | `log.after_put_before_resolve`: it is done, but for the `close` |
//! | 5 `close`, the second pin is taken out | `volume.turn_after_close`: one pin too many, which expires |
//!
//! The pins come before the `open`, as what they name may be named by a commit only while a claim holds it (protocol.md 3 iv). The `open` is
//! put only at the end of the log that was looked at: who writes meanwhile is not fenced. What another machine had not committed when this
//! came in between becomes a branch there, as after any takeover: its cache does not agree with the log any more.

//!
//! A person may also ask for it on the next mount: a claim of kind [`ASKED`] in the control chain, which holds the commit and is taken back by a
//! release. A mount that begins (not a driver that takes a live mount over) does steps 1 to 5 before its own `open`, sets its cache aside
//! whatever is in it (`volume.asked_after_commit`), and only then releases the claim (`volume.asked_after_release`): whoever dies in between
//! leaves the claim, and the next mount finds nothing to do but that. So nothing that the cache had in no commit is mixed with the older tree.

use super::live::RunOptions;
use super::reader::{Moment, ReaderDir, reader_cache, reader_of};
use super::restore::AUTHOR;
use super::{HydrateMode, Volume};
use crate::cache::{Cache, CacheOptions};
use crate::history::{self, snapshot};
use crate::log::control::{Chain, Purging, Refused, State};
use crate::log::lookup::Books;
use crate::log::{Hint, LogError, Phase, Reader, Tip, Writer, WriterParams};
use crate::rpc::{self, control_record::Kind as Control, log_record::Kind};
use crate::store::{self, Objects};
use crate::types::{Fault, FaultKind, Identity, Seq, UnixNanos, WriterId};
use crate::writeback::{Turned, turn_back};
use std::path::PathBuf;
use std::sync::Arc;

/// How long the commit before stays pinned, so that retention leaves the way back: 30 days, in nanoseconds.
pub const UNDO: UnixNanos = 30 * DAY;
const DAY: UnixNanos = 86_400 * 1_000_000_000;

/// The kind of claim that asks for a restore on the next mount.
pub const ASKED: &str = "restore";

/// The claim that asks for a restore on the next mount, and the commit.
pub(super) fn asked(state: &State) -> Option<(u64, Seq)> {
    state.claims.iter().find(|(_, claim)| claim.kind == ASKED).map(|(number, claim)| (*number, claim.seq))
}

fn recorded(volume: &Identity, seq: Seq, kind: FaultKind) -> Fault {
    let next = format!("`holdfast restore {volume} --withdraw` takes that back");
    Fault::new(kind, format!("volume {volume} is to go back to commit {seq} when it is next mounted: {next}"))
}

/// Asks for a restore on the next mount. `now` is the store's clock.
///
/// # Errors
/// [`FaultKind::Exists`]: one is asked for already; [`FaultKind::Stale`]: the commit was retired; the store's faults.
pub async fn ask(reader: &Reader, volume: &Identity, seq: Seq, now: UnixNanos) -> Result<(), Fault> {
    let mut chain = Chain::read(reader.site().clone()).await?;
    let (kind, name) = (ASKED.to_owned(), "next mount".to_owned());
    let claim = rpc::Claim { seq, kind, name, reason: "a restore on the next mount".to_owned(), expires: 0 };
    let decide = |state: &State| match asked(state) {
        Some(_) => Err(Refused::Already),
        None => Ok(Control::Claim(claim.clone())),
    };
    match (chain.append(AUTHOR, now, &decide).await, asked(chain.state())) {
        (Err(LogError::Control(Refused::Already)), Some((_, seq))) => Err(recorded(volume, seq, FaultKind::Exists)),
        (Err(LogError::Control(Refused::Retired(seq))), _) => {
            Err(Fault::new(FaultKind::Stale, format!("commit {seq} of volume {volume} was retired meanwhile")))
        }
        (appended, _) => Ok(appended.map(drop)?),
    }
}

/// Takes back what [`ask`] asked for, or what was carried out. Gives the commit.
///
/// # Errors
/// [`FaultKind::NotFound`]: nothing is asked for; the store's faults.
pub async fn withdraw(reader: &Reader, volume: &Identity, now: UnixNanos) -> Result<Seq, Fault> {
    let mut chain = Chain::read(reader.site().clone()).await?;
    let none = || Fault::new(FaultKind::NotFound, format!("no restore of volume {volume} is recorded for its next mount"));
    let (claim, seq) = asked(chain.state()).ok_or_else(none)?;
    match chain.append(AUTHOR, now, &|_| Ok(Control::Release(rpc::Release { claim }))).await {
        Err(LogError::Control(Refused::NoClaim(_))) => Err(none()),
        released => Ok(released.map(|_| seq)?),
    }
}

/// What to turn back, and to which commit.
#[derive(Debug, Clone)]
pub struct InPlaceParams {
    /// The store, and the key of its own objects.
    pub books: Books,
    /// The volume.
    pub volume: Identity,
    /// The commit.
    pub seq: Seq,
    /// Who does it: stands in the `open`. Without a cache.
    pub holder: rpc::Holder,
    /// A host that has the volume open and is gone for good, as a person said.
    pub even_if_held_by: Option<String>,
    /// The caller has seen to it that nobody else has the volume, and carries out what was asked for on the next mount.
    pub admitted: bool,
    /// Beside this directory two trees are laid out while they are compared.
    pub scratch: PathBuf,
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InPlace {
    /// The newest commit now; the one before, when it had that tree already.
    pub commit: Seq,
    /// The newest commit before.
    pub before: Seq,
    /// The pin that keeps that one; `None`: it is the commit that was asked for, and nothing was done.
    pub pin: Option<u64>,
    /// The instant that the older commit shows.
    pub cut: UnixNanos,
    /// Files, directories and others.
    pub inodes: u64,
    /// Bytes of its files, all of them by reference.
    pub bytes: u64,
    /// Bytes that were written for it.
    pub uploaded: u64,
}

/// Makes the commit. Only metadata is read and written.
///
/// # Errors
/// [`FaultKind::Busy`]: somebody has the volume, or it is being removed; [`FaultKind::NotFound`]: no such volume or commit;
/// [`FaultKind::Stale`]: the commit was retired; [`FaultKind::Fenced`]: somebody opened the volume meanwhile, nothing was changed; the
/// store's faults. After any of them the same call may be made again.
pub async fn restore_in_place(params: &InPlaceParams, waiting: &(dyn Fn(&str) + Sync)) -> Result<InPlace, Fault> {
    let InPlaceParams { books, volume, seq, .. } = params;
    let (objects, reader) = reader_of(books, volume, waiting).await?;
    let tip = reader.tip(Hint::default()).await?;
    free(params, &reader, &tip).await?;
    let older = objects.commit(*seq).await?;
    let before = history::newest(&reader).await?;
    let rpc::Totals { inodes, bytes, .. } = older.totals.unwrap_or_default();
    let told = |commit, pin, uploaded| InPlace { commit, before: before.seq, pin, cut: older.cut_time, inodes, bytes, uploaded };
    if before.seq == *seq && tip.phase == Phase::Closed {
        return Ok(told(before.seq, None, 0));
    }
    let now = store::now(&*books.store, &books.env).await?;
    let pin = pinned(&reader, before.seq, &format!("before the restore in place of commit {seq}"), now + UNDO, now).await?;
    let held = pinned(&reader, *seq, "a restore in place is under way", now + DAY, now).await?;
    books.env.failpoint("volume.turn_after_pins");
    let (commit, uploaded) = write(params, &objects, &reader, &tip, &older).await?;
    books.env.failpoint("volume.turn_after_close");
    snapshot::unclaim(&reader, held, AUTHOR, now).await?;
    Ok(told(commit.unwrap_or(before.seq), Some(pin), uploaded))
}

/// Refuses while somebody has the volume, by name.
async fn free(params: &InPlaceParams, reader: &Reader, tip: &Tip) -> Result<(), Fault> {
    let volume = &params.volume;
    let chain = Chain::read(reader.site().clone()).await?;
    if let Some((_, seq)) = asked(chain.state()).filter(|_| !params.admitted) {
        return Err(recorded(volume, seq, FaultKind::Busy));
    }
    match (chain.state().purging, tip.phase) {
        (Purging::Done, _) | (_, Phase::Fenced) => {
            return Err(Fault::new(FaultKind::NotFound, format!("there is no volume {volume}: it was removed")));
        }
        (Purging::Begun { .. }, _) => {
            let why = format!("volume {volume} is being removed: `holdfast volume rm {volume} --undo` keeps it");
            return Err(Fault::new(FaultKind::Busy, why));
        }
        (Purging::No, Phase::Open) => {}
        (Purging::No, Phase::Closed | Phase::Empty) => return Ok(()),
    }
    let Some((record, holder)) = tip.open.as_ref().and_then(|record| match &record.record.kind {
        Some(Kind::Open(open)) => Some((record.seq, open.holder.clone().unwrap_or_default())),
        _ => None,
    }) else {
        return Ok(());
    };
    let host = &holder.host;
    if params.admitted || holder.cache_id.is_empty() || params.even_if_held_by.as_ref() == Some(host) {
        return Ok(());
    }
    Err(Fault::new(
        FaultKind::Busy,
        format!(
            "volume {volume} is held by host {host} (since record {record}) and was not closed there; unmount it there, or, if that machine \
             is gone for good, say so with --even-if-held-by {host}: what it had not committed becomes a branch if it comes back"
        ),
    ))
}

/// The pin of an earlier attempt, or a new one.
async fn pinned(reader: &Reader, seq: Seq, reason: &str, expires: UnixNanos, now: UnixNanos) -> Result<u64, Fault> {
    let chain = Chain::read(reader.site().clone()).await?;
    let over = chain.state().expired(now);
    let same = |(number, claim): &(&u64, &rpc::Claim)| claim.seq == seq && claim.reason == reason && !over.contains(number);
    match chain.state().claims.iter().filter(|(_, claim)| claim.kind == snapshot::PIN).find(same) {
        Some((number, _)) => Ok(*number),
        None => snapshot::pin(reader, seq, reason, expires, AUTHOR, now).await,
    }
}

/// `open`, the commit if anything differs, `close`.
async fn write(
    params: &InPlaceParams,
    objects: &Objects,
    reader: &Reader,
    seen: &Tip,
    older: &rpc::Commit,
) -> Result<(Option<Seq>, u64), Fault> {
    let InPlaceParams { books, volume, seq, holder, .. } = params;
    let id = WriterId(books.env.random());
    let writer_params = WriterParams { writer: id, holder: holder.clone(), cache: None, hint: Hint { seq: seen.seq, open: 0 } };
    let (mut writer, _) = match Writer::open_if(reader.site().clone(), writer_params, &|tip| tip.seq == seen.seq).await {
        Err(LogError::Held { .. }) => {
            return Err(Fault::new(FaultKind::Busy, format!("somebody wrote to volume {volume} meanwhile: nothing was changed")));
        }
        opened => opened?,
    };
    let head = Laid::out(params, Moment::Newest).await?;
    let then = Laid::out(params, Moment::Commit(*seq)).await?;
    let (one, other) = (Arc::clone(head.cache()), Arc::clone(then.cache()));
    let turn = books.env.blocking(move || one.turn_into(&other)).await?;
    let mut made = (None, 0);
    if !turn.is_empty() {
        let number = writer.head().seq + 1;
        let mut commit = rpc::Commit {
            // The instant of the restore: times grow along a log. The older one's is in the note.
            cut_time: books.env.now(),
            full: older.full,
            note: format!("restored in place: commit {seq}"),
            ..rpc::Commit::default()
        };
        let caches = (head.cache(), then.cache());
        let Turned { packs, older: named, framed } = turn_back(objects, writer.epoch(), caches, turn, &mut commit).await?;
        let uploaded = packs.iter().map(|pack| pack.size).sum();
        commit.totals = Some(rpc::Totals { uploaded, ..older.totals.unwrap_or_default() });
        let domains = older.domains.iter().map(|of| rpc::DomainInstant { domain: of.domain, seq: number, cut_time: commit.cut_time });
        commit.domains = domains.collect();
        packs.into_iter().try_for_each(|pack| writer.nameable().uploaded(pack))?;
        writer.nameable().claimed(named.into_iter().map(|object| object.name));
        let approved = writer.nameable().approve(commit, &framed, &|_| false)?;
        let prepared = writer.prepare(approved)?;
        made = (Some(writer.put(&prepared).await?.seq), uploaded);
    }
    head.close().await?;
    then.close().await?;
    writer.close().await?;
    Ok(made)
}

/// A tree in a cache of its own, which ends with it.
struct Laid {
    volume: Arc<Volume>,
    _dir: ReaderDir,
}

impl Laid {
    async fn out(params: &InPlaceParams, moment: Moment) -> Result<Self, Fault> {
        let InPlaceParams { books, volume, scratch, .. } = params;
        let dir = reader_cache(scratch, books.env.random());
        let run = RunOptions { hydrate: HydrateMode::Metadata, ..RunOptions::default() };
        let volume = Volume::open_reader(books, volume, CacheOptions::new(&dir), moment, run, &|_| {}).await?;
        Ok(Self { volume, _dir: ReaderDir::at(&dir) })
    }

    fn cache(&self) -> &Arc<Cache> {
        self.volume.cache()
    }

    async fn close(&self) -> Result<(), Fault> {
        self.volume.close().await
    }
}
