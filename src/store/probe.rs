//! Whether this store, at this endpoint, can be what the log stands on: *put if absent* with one winner among many, seen at once by
//! GET and LIST. A store that fails is refused, because two writers could both believe that they hold the volume.

use super::{Put, Store, StoreError};
use crate::env::Env;
use bytes::Bytes;
use std::time::Duration;

/// Creators of one name in one round.
pub const CREATORS: usize = 32;
/// Rounds: a race that is lost one time in three is found in 49 of 50 probes (1 - (2/3)^10).
const ROUNDS: usize = 10;
/// All names of a probe begin with this.
const PREFIX: &str = "probe/";

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every check passed.
    Trusted,
    /// A check failed: no volume may be kept here.
    Refused,
    /// Some checks have no answer: probe again.
    Unknown,
}

/// One property, and whether the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The property.
    pub what: &'static str,
    /// `None`: no answer.
    pub passed: Option<bool>,
    /// What was seen.
    pub seen: String,
}

/// The result of [`probe`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// In one word.
    pub verdict: Verdict,
    /// In the order they were made.
    pub checks: Vec<Check>,
    /// Whether the probe's objects could be removed again; a node's credentials need not allow it.
    pub cleaned: bool,
    /// The median time of a put without others beside it.
    pub put_time: Duration,
}

impl ProbeReport {
    /// Why the verdict is not `Trusted`: the checks that failed or have no answer.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let bad = self.checks.iter().filter(|check| check.passed != Some(true));
        bad.map(|check| format!("{}: {}", check.what, check.seen)).collect()
    }
}

/// Probes the store. Writes a few hundred small objects under `probe/` and removes them where that is allowed.
///
/// # Errors
/// Only when the very first put is refused (credentials, bucket): then nothing is said about the store.
pub async fn probe(store: &dyn Store, env: &Env) -> Result<ProbeReport, StoreError> {
    probe_for(store, env, Writers::Many).await
}

/// How many may write to a volume at once, as far as the store must tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// Several: the store decides who wins.
    Many,
    /// One: somebody else vouches for that, in writing.
    One,
}

/// As [`probe`]; for one writer without the race of many.
///
/// # Errors
/// As [`probe`].
pub async fn probe_for(store: &dyn Store, env: &Env, writers: Writers) -> Result<ProbeReport, StoreError> {
    let mut probe = Probe { store, id: hex::encode(env.random::<8>()), names: Vec::new(), checks: Vec::new() };
    let mut times = Vec::new();
    for _ in 0..5 {
        let (began, name) = (env.monotonic(), probe.name());
        let put = store.put_if_absent(&name, Bytes::from_static(b"probe")).await?;
        times.push(env.monotonic().saturating_sub(began));
        probe.check("a new name is stored", Ok(put == Put::Stored), format!("{put:?}"));
    }
    times.sort_unstable();
    if writers == Writers::Many {
        probe.winners().await;
    }
    probe.late_comer().await;
    probe.listed().await;
    probe.ranges().await;
    probe.absent().await;
    let cleaned = probe.clean().await;
    let any = |passed| probe.checks.iter().any(|check| check.passed == passed);
    let verdict = match (any(Some(false)), any(None)) {
        (true, _) => Verdict::Refused,
        (false, true) => Verdict::Unknown,
        (false, false) => Verdict::Trusted,
    };
    Ok(ProbeReport { verdict, checks: probe.checks, cleaned, put_time: times[times.len() / 2] })
}

struct Probe<'a> {
    store: &'a dyn Store,
    id: String,
    names: Vec<String>,
    checks: Vec<Check>,
}

impl Probe<'_> {
    fn name(&mut self) -> String {
        let name = format!("{PREFIX}{}-{:04}", self.id, self.names.len());
        self.names.push(name.clone());
        name
    }

    fn check(&mut self, what: &'static str, passed: Result<bool, StoreError>, seen: String) {
        let check = match passed {
            Ok(passed) => Check { what, passed: Some(passed), seen },
            Err(error) => Check { what, passed: None, seen: error.to_string() },
        };
        self.checks.push(check);
    }

    /// Many creators of one name at once: exactly one may be told that it won, and its bytes are the ones that stay.
    async fn winners(&mut self) {
        for round in 0..ROUNDS {
            let name = self.name();
            let bodies: Vec<Bytes> = (0..CREATORS).map(|k| body(round, k)).collect();
            let puts = bodies.iter().map(|body| self.store.put_if_absent(&name, body.clone()));
            let outcomes = futures::future::join_all(puts).await;
            let stored: Vec<usize> = (0..CREATORS).filter(|k| matches!(outcomes[*k], Ok(Put::Stored))).collect();
            let failed = outcomes.into_iter().find_map(Result::err);
            // More than one is damning whatever the others heard; none is only so when nobody's answer was lost.
            let one = match failed {
                Some(error) if stored.len() < 2 => Err(error),
                _ => Ok(stored.len() == 1),
            };
            self.check("one of 32 concurrent creators wins", one, format!("{} of {CREATORS} were told that they won", stored.len()));
            let read = self.store.get(&name).await;
            let seen = match (&read, stored.as_slice()) {
                (Ok(Some(bytes)), [winner]) => Some(*bytes == bodies[*winner]),
                (Ok(Some(bytes)), _) => Some(bodies.contains(bytes)),
                (Ok(None), _) => Some(false),
                (Err(_), _) => None,
            };
            let seen_text = if matches!(read, Ok(None)) { "no object" } else { "the object's bytes" };
            self.check("the winner's bytes are read back", read.map(|_| seen == Some(true)), seen_text.to_owned());
        }
    }

    async fn late_comer(&mut self) {
        let name = self.names[0].clone();
        let put = self.store.put_if_absent(&name, Bytes::from_static(b"late")).await;
        let seen = format!("{put:?}");
        self.check("a put to a taken name is refused", put.map(|put| put == Put::Exists), seen);
        let kept = self.store.get(&name).await;
        self.check("and changes nothing", kept.map(|bytes| bytes.as_deref() == Some(b"probe")), "other bytes".to_owned());
    }

    async fn listed(&mut self) {
        let name = self.name();
        if let Err(error) = self.store.put_if_absent(&name, Bytes::from_static(b"listed")).await {
            self.check("a listing shows what was just put", Err(error), String::new());
            return;
        }
        let prefix = format!("{PREFIX}{}-", self.id);
        let listed = self.store.list(&prefix, None, self.names.len() + 1).await;
        let names: Result<Vec<String>, StoreError> = listed.map(|metas| metas.into_iter().map(|meta| meta.name).collect());
        let seen = format!("{} of {} names", names.as_ref().map_or(0, Vec::len), self.names.len());
        let all = names.map(|names| names == self.names);
        self.check("a listing shows what was just put, in byte order", all, seen);
        let rest = self.store.list(&prefix, Some(&self.names[self.names.len() - 2]), 9).await;
        let seen = format!("{} names", rest.as_ref().map_or(0, Vec::len));
        self.check("a listing begins after a given name", rest.map(|rest| rest.len() == 1 && rest[0].name == name), seen);
    }

    async fn ranges(&mut self) {
        let name = self.names[0].clone();
        for (range, want) in [(1..3, &b"ro"[..]), (3..9, b"be"), (7..9, b"")] {
            let got = self.store.get_range(&name, range).await;
            let seen = format!("{got:?}");
            self.check("a range of bytes is read", got.map(|got| got.as_deref() == Some(want)), seen);
        }
        let head = self.store.head(&name).await;
        let seen = format!("{head:?}");
        self.check("size is told", head.map(|meta| meta.is_some_and(|meta| meta.size == 5)), seen);
    }

    async fn absent(&mut self) {
        // Not in `names`: never put, so nothing is to be removed.
        let name = format!("{PREFIX}{}-never", self.id);
        let got = self.store.get(&name).await;
        let seen = format!("{got:?}");
        self.check("what was never put is absent", got.map(|got| got.is_none()), seen);
    }

    async fn clean(&mut self) -> bool {
        let mut cleaned = true;
        for name in &self.names {
            match self.store.delete(name).await {
                Ok(()) => {}
                Err(StoreError::Denied { .. }) => return false,
                Err(_) => cleaned = false,
            }
        }
        cleaned
    }
}

/// Different for each creator, also in length: a mixture of two would be seen.
fn body(round: usize, creator: usize) -> Bytes {
    format!("round {round} creator {creator:02} ").repeat(8 + creator).into()
}
