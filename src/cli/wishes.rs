//! Wishes for full commits, of whoever asks the holder of a volume for one (`proto/peer.proto`). A wish that is heard again is the same wish
//! until its commit was told: that is of an instant after it was first heard, however long it takes to be stored.

use crate::env::Env;
use crate::peer::Wish;
use crate::types::{Fault, Seq};
use crate::volume::Volume;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// So many wishes are known; of older ones a new commit is made when they are heard again.
const KNOWN_MAX: usize = 256;
/// Full commits that are asked for until the newest commit is one.
const TRIES: usize = 8;

/// What is known of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    UnderWay,
    Made(Seq),
    Needless,
}

type Known = VecDeque<([u8; 16], State)>;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Wishes {
    env: Env,
    known: Arc<Mutex<Known>>,
}

impl Wishes {
    pub(super) fn new(env: Env) -> Self {
        Self { env, known: Arc::default() }
    }

    /// What became of a wish; a new one is begun to be fulfilled.
    pub(super) fn heard(&self, wish: [u8; 16], volume: &Arc<Volume>) -> Wish {
        let pending = || Wish::Pending(volume.cache().dirty_bytes());
        let mut known = self.known.lock();
        if let Some(at) = known.iter().position(|(of, _)| *of == wish) {
            let told = match known[at].1 {
                State::UnderWay => return pending(),
                State::Made(seq) => Wish::Made(seq),
                State::Needless => Wish::Needless,
            };
            // Told once: under a name that is used again nobody is given an older commit.
            known.remove(at);
            return told;
        }
        if known.len() >= KNOWN_MAX {
            // Whoever is under way is kept: its commit comes.
            let Some(over) = known.iter().position(|(_, state)| *state != State::UnderWay) else { return pending() };
            known.remove(over);
        }
        known.push_back((wish, State::UnderWay));
        drop(known);
        let (volume, known) = (Arc::clone(volume), Arc::clone(&self.known));
        drop(self.env.spawn(async move {
            let made = full_commit(&volume).await;
            let mut known = known.lock();
            let Some(at) = known.iter().position(|(of, _)| *of == wish) else { return };
            match made {
                Ok(state) => known[at].1 = state,
                Err(fault) => {
                    // Heard again, it is begun again.
                    tracing::warn!(%fault, "a full commit that another machine wished for was not made");
                    known.remove(at);
                }
            }
        }));
        pending()
    }
}

/// A full commit that has everything that was written before the call.
async fn full_commit(volume: &Volume) -> Result<State, Fault> {
    for _ in 0..TRIES {
        match volume.flush().await? {
            None => return Ok(State::Needless),
            Some(last) if last.full => return Ok(State::Made(last.seq)),
            // A tier was committed alone right after it.
            Some(_) => {}
        }
    }
    Err(Fault::new(crate::types::FaultKind::Busy, "each time another commit came right after the full one"))
}
