//! The state of a volume now, as a commit: the head where nobody holds it, else a full commit that its holder makes for us. An older state is
//! never taken for it.

use super::{AUTHOR, Problem};
use crate::history::{self, Entry, What};
use crate::log::{Hint, Phase, Reader, Tip};
use crate::peer::{self, Answer, Heard, Wish, Wished};
use crate::rpc::Holder;
use crate::rpc::log_record::Kind;
use crate::types::{Fault, FaultKind, Identity};
use crate::volume::first_commit;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// One request waits so long for its commit at most; asked again, it is the same wish.
const PATIENCE: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(7) };
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Who has the log open and may have what is in no commit. Who opened it without a cache has nothing.
fn holder(tip: &Tip) -> Option<&Holder> {
    if tip.phase != Phase::Open {
        return None;
    }
    let Some(Kind::Open(open)) = &tip.open.as_ref()?.record.kind else { return None };
    open.holder.as_ref().filter(|holder| !holder.cache_id.is_empty())
}

/// A commit of an instant after this call began. `wanted` names the request: the same one that is made again is answered by the commit that
/// it began.
///
/// # Errors
/// [`FaultKind::Unknown`]: not yet, or its holder is silent: ask again; [`Problem::Precondition`]: its holder cannot be asked.
pub(super) async fn cut(reader: &Reader, identity: &Identity, wanted: &str) -> Result<Entry, Problem> {
    let env = reader.site().env().clone();
    let end = env.monotonic() + PATIENCE;
    let wish = wish_of(wanted);
    let mut pause = PAUSE;
    loop {
        let tip = reader.tip(Hint::default()).await?;
        if tip.phase == Phase::Fenced {
            return Err(Fault::new(FaultKind::NotFound, format!("volume {identity} was removed")).into());
        }
        let Some(holder) = holder(&tip) else {
            match history::newest(reader).await {
                Err(fault) if fault.kind == FaultKind::NotFound => {}
                newest => return Ok(newest?),
            }
            let holder = Holder { host: AUTHOR.to_owned(), ..Holder::default() };
            first_commit(reader.site(), &tip, holder).await?;
            continue;
        };
        let waits = match asked(reader, identity, holder, wish).await? {
            Asked::Made(entry) => return Ok(entry),
            Asked::Waits(why) => why,
        };
        if env.monotonic() >= end {
            return Err(Fault::new(FaultKind::Unknown, format!("{waits}; ask again")).into());
        }
        env.sleep(pause).await;
        pause = PAUSE_MAX.min(pause * 2);
    }
}

enum Asked {
    Made(Entry),
    /// Why it is asked again.
    Waits(String),
}

async fn asked(reader: &Reader, identity: &Identity, holder: &Holder, wish: [u8; 16]) -> Result<Asked, Problem> {
    let host = &holder.host;
    let in_use = format!("volume {identity} is in use on {host}");
    Ok(Asked::Waits(match peer::wish(holder, reader.site().sealer(), wish).await {
        Wished::Became(Wish::Made(seq)) => match full(history::commit(reader, seq).await?) {
            Some(entry) => return Ok(Asked::Made(entry)),
            None => format!("{in_use}, whose commit {seq} is not one of all its tiers in this store"),
        },
        // Everything is in a commit there; what the log has newest is that.
        Wished::Became(Wish::Needless) => match history::newest(reader).await {
            Ok(entry) => match full(Some(entry)) {
                Some(entry) => return Ok(Asked::Made(entry)),
                None => format!("{in_use}, and its newest commit is not one of all its tiers"),
            },
            Err(fault) if fault.kind == FaultKind::NotFound => {
                let next = "it can be cut when something was written, or when it is unmounted there";
                return Err(Problem::Precondition(format!("{in_use} and nothing was ever written to it: {next}")));
            }
            Err(fault) => return Err(fault.into()),
        },
        Wished::Became(Wish::Pending(bytes)) => format!("{in_use}, which is making a full commit: {bytes} bytes are in no commit yet"),
        Wished::Not(Heard::Said(Answer::Draining(bytes))) => {
            format!("volume {identity} is being unmounted on {host}: {bytes} bytes are in no commit yet")
        }
        Wished::Not(Heard::Said(Answer::InUse)) => format!("{in_use}, whose driver is of another version"),
        Wished::Not(Heard::Said(Answer::Closed | Answer::NotMine)) => format!("volume {identity} is changing hands on {host}"),
        Wished::Not(Heard::Nowhere(why)) => {
            let next = "let its driver be asked (node.peerListen of the chart), or stop the pods that use it";
            return Err(Problem::Precondition(format!("{in_use}, and {why}, so that its state of now cannot be had: {next}")));
        }
        Wished::Not(Heard::Unknown(why)) => format!("volume {identity} is held by {host}, asked at {}: {why}", holder.address),
    }))
}

fn full(entry: Option<Entry>) -> Option<Entry> {
    entry.filter(|entry| matches!(entry.what, What::Commit { full: true, .. }))
}

fn wish_of(wanted: &str) -> [u8; 16] {
    let mut wish = [0; 16];
    wish.iter_mut().zip(Sha256::digest(wanted.as_bytes())).for_each(|(to, from)| *to = from);
    wish
}

/// Bytes of the files that a commit shows.
pub(super) fn bytes_of(entry: &Entry) -> u64 {
    match entry.what {
        What::Commit { bytes, .. } => bytes,
        _ => 0,
    }
}
