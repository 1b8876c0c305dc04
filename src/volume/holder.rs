//! Who may take a volume over, outside Kubernetes (protocol.md 9): its holder is asked, and where nobody answers a person decides.

use super::open::OpenParams;
use crate::log::{Hint, Phase, Reader, Tip};
use crate::peer::plan::{Asked, Asking, Next, next};
use crate::peer::{self, Answer, Heard};
use crate::rpc::{self, log_record::Kind};
use crate::types::{CacheId, Fault, FaultKind};

/// Whoever else holds the log that ends so: it was not closed, it was not this very cache, and no person said that it is to be taken. Who has
/// no cache has nothing that is in no commit (a restore in place): the log is taken from him, and he is told so.
pub(super) fn held<'a>(params: &OpenParams, tip: &'a Tip, own: Option<CacheId>) -> Option<&'a rpc::Holder> {
    if tip.phase != Phase::Open || params.take_over {
        return None;
    }
    let Kind::Open(open) = tip.open.as_ref()?.record.kind.as_ref()? else { return None };
    open.holder.as_ref().filter(|holder| !holder.cache_id.is_empty() && !is_own(holder, own, &params.installation))
}

/// Waits for whoever holds the volume; `false`: nobody does, `true`: nobody does any more, or somebody else does.
///
/// # Errors
/// [`FaultKind::Busy`]: it is in use there, or nobody knows; the store's faults.
pub(super) async fn waited(params: &OpenParams, reader: &Reader, tip: &Tip, own: Option<CacheId>) -> Result<bool, Fault> {
    let Some(holder) = held(params, tip, own) else { return Ok(false) };
    let record = tip.open.as_ref().map_or(tip.seq, |open| open.seq);
    let (volume, host, address) = (params.identity.as_str(), holder.host.as_str(), holder.address.as_str());
    let asked = Asked { volume, host, address, record, wait: params.wait };
    let (mut asking, mut told, mut end) = (Asking::default(), String::new(), tip.seq);
    loop {
        let heard = peer::ask(holder, reader.site().sealer()).await;
        tracing::info!(volume, host, address, ?heard, "the volume's holder was asked");
        match next(&asked, &heard, asking) {
            Next::Refuse(why) => return Err(Fault::new(FaultKind::Busy, why)),
            Next::Again { tell, pause, look } => {
                if tell != told {
                    (params.tell)(&tell);
                    told = tell;
                }
                params.books.env.sleep(pause).await;
                let answered = matches!(heard, Heard::Said(Answer::InUse | Answer::Draining(_)));
                asking.answered += u32::from(answered);
                if look {
                    let now = reader.tip(Hint::default()).await?;
                    if (now.epoch, now.phase) != (tip.epoch, tip.phase) {
                        return Ok(true);
                    }
                    asking.grown = now.seq > end;
                    asking.looks += u32::from(!answered);
                    end = now.seq;
                }
            }
        }
    }
}

/// Whether the holder is the cache whose lock we hold. A cache directory that was copied to another machine has the same id, and its
/// original may be at work there: only on the machine that opened the log is the id enough.
fn is_own(holder: &rpc::Holder, own: Option<CacheId>, installation: &str) -> bool {
    own.is_some_and(|own| holder.cache_id == own.as_bytes()[..]) && holder.installation == installation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copied_cache_is_not_the_holder_on_another_machine() {
        let holder = |cache: u8, installation: &str| rpc::Holder {
            cache_id: vec![cache; 16].into(),
            installation: installation.to_owned(),
            ..rpc::Holder::default()
        };
        let own = Some(CacheId([7; 16]));
        assert!(is_own(&holder(7, "here"), own, "here"));
        assert!(!is_own(&holder(7, "there"), own, "here"), "a copy");
        assert!(!is_own(&holder(8, "here"), own, "here"));
        assert!(!is_own(&holder(7, "here"), None, "here"));
    }
}
