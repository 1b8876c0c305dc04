//! The control chain: who needs which history, and what was retired, in one order.
//!
//! Create-only and numbered like the log, never thinned. Whoever appends has read everything before: the put of number n + 1 fails when
//! anybody else appended in between, and the decision is taken again on the longer chain. So a claim is either before a retirement (which
//! must then leave it alone) or after it (and fails). Node credentials cannot write here.

use super::inventory::ObjectId;
use super::{Created, LogError, Site};
use crate::format::{control, names, seal};
use crate::rpc::control_record::Kind;
use crate::rpc::{Attach, Claim, ControlRecord, Retire};
use crate::types::{Hash, Seq, SeqSet, UnixNanos};
use std::collections::{BTreeMap, BTreeSet};

/// Why the chain does not allow a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A claim on what retention has retired.
    #[error("commit {0} was retired; it cannot be claimed any more")]
    Retired(Seq),
    /// A retirement of what a claim holds.
    #[error("commit {0} is claimed; it cannot be retired")]
    Claimed(Seq),
    /// No such claim in force.
    #[error("there is no claim {0} in force")]
    NoClaim(u64),
    /// A removal while a claim holds a commit.
    #[error("claim {claim} holds commit {seq} ({kind} {name})")]
    Held {
        /// Its number.
        claim: u64,
        /// The commit.
        seq: Seq,
        /// What for.
        kind: String,
        /// Of whom.
        name: String,
    },
    /// A purge while somebody is attached.
    #[error("claim {0} is attached; nothing is purged while any is")]
    Attached(String),
    /// The purge is done.
    #[error("the volume was purged; a new claim gets a new incarnation")]
    Purged,
    /// A purge is finished only after it was begun and the grace is over.
    #[error("no purge is under way whose grace has ended")]
    NotPurging,
    /// Only a purge can be undone.
    #[error("record {0} is no purge that could be undone")]
    NotUndoable(u64),
    /// A snapshot of a name that there is.
    #[error("there is a snapshot {0} already")]
    Taken(String),
    /// Nothing to do: it is so already.
    #[error("that is so already")]
    Already,
}

/// How far a purge is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Purging {
    /// None is under way.
    #[default]
    No,
    /// Begun by this record at this time; an attach or undo cancels it.
    Begun {
        /// The record's number.
        number: u64,
        /// Its time.
        at: UnixNanos,
    },
    /// Done: the log is to be fenced, then all that is not claimed deleted.
    Done,
}

/// What an attached claim asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attachment {
    /// Bytes that the volume may hold; 0: no limit.
    pub capacity: u64,
    /// It wants the volume purged when it is detached, and is the last.
    pub purge: bool,
    /// The snapshot or volume that it asked for the content of; empty: none.
    pub source: String,
}

impl Attachment {
    fn of(Attach { capacity, purge, source, .. }: &Attach) -> Self {
        Self { capacity: *capacity, purge: *purge, source: source.clone() }
    }
}

/// What the chain says, read to some number.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    /// Records read.
    pub number: u64,
    /// The time of the last one: times never go back along the chain.
    pub time: UnixNanos,
    /// Claims in force by the number of their record. Expired ones are in force until somebody releases them: [`Self::expired`].
    pub claims: BTreeMap<u64, Claim>,
    /// Epochs whose branch was ever claimed: their base needs no grace any more.
    pub branches: BTreeSet<String>,
    /// Numbers of the log that were retired.
    pub retired_seqs: SeqSet,
    /// Objects that were retired; kept by those who delete alone ([`Chain::read_for_gc`]): over the years they are many.
    pub retired_objects: BTreeSet<ObjectId>,
    /// Whether [`Self::retired_objects`] is kept.
    pub for_gc: bool,
    /// Attached claims, by uid, and what they asked for.
    pub attached: BTreeMap<String, Attachment>,
    /// The claim that was detached last, and nobody is attached since, wanted the volume purged.
    pub purge_wanted: bool,
    /// Numbers of the log that are skipped.
    pub voids: BTreeSet<Seq>,
    /// How far a purge is.
    pub purging: Purging,
}

impl State {
    /// Whether the chain allows this record next.
    ///
    /// # Errors
    /// Why not.
    pub fn allows(&self, kind: &Kind) -> Result<(), Refused> {
        let done = self.purging == Purging::Done;
        match kind {
            Kind::Claim(claim) if self.retired_seqs.contains(&claim.seq) => Err(Refused::Retired(claim.seq)),
            Kind::Claim(_) | Kind::Attach(_) | Kind::Undo(_) | Kind::Purge(_) if done => Err(Refused::Purged),
            Kind::Claim(_) | Kind::Void(_) => Ok(()),
            Kind::Release(release) if !self.claims.contains_key(&release.claim) => Err(Refused::NoClaim(release.claim)),
            Kind::Release(_) => Ok(()),
            Kind::Retire(retire) => {
                let claimed = self.claims.values().find(|claim| retire.seqs.contains(&claim.seq));
                claimed.map_or(Ok(()), |claim| Err(Refused::Claimed(claim.seq)))
            }
            Kind::Attach(attach) if self.attached.get(&attach.claim_uid).is_some_and(|now| attach.capacity <= now.capacity) => {
                Err(Refused::Already)
            }
            Kind::Detach(detach) if !self.attached.contains_key(&detach.claim_uid) => Err(Refused::Already),
            Kind::Attach(_) | Kind::Detach(_) => Ok(()),
            Kind::Purge(purge) => match (self.attached.first_key_value(), self.purging, purge.done) {
                (Some((uid, _)), _, _) => Err(Refused::Attached(uid.clone())),
                (None, Purging::No, true) => Err(Refused::NotPurging),
                (None, Purging::Begun { .. }, false) => Err(Refused::Already),
                _ => Ok(()),
            },
            Kind::Undo(undo) => match self.purging {
                Purging::Begun { number, .. } if number == undo.number => Ok(()),
                _ => Err(Refused::NotUndoable(undo.number)),
            },
        }
    }

    /// Takes a record in.
    pub fn apply(&mut self, record: &ControlRecord) {
        self.number = record.number;
        self.time = self.time.max(record.time);
        match &record.kind {
            Some(Kind::Claim(claim)) => {
                if claim.kind == "branch" {
                    self.branches.insert(claim.name.clone());
                }
                self.claims.insert(record.number, claim.clone());
            }
            Some(Kind::Release(release)) => {
                self.claims.remove(&release.claim);
            }
            Some(Kind::Retire(Retire { seqs, objects, .. })) => {
                self.retired_seqs.extend(seqs);
                if self.for_gc {
                    self.retired_objects.extend(objects.iter().filter_map(|name| ObjectId::parse(name)).map(|(_, id)| id));
                }
            }
            Some(Kind::Purge(purge)) if purge.done => self.purging = Purging::Done,
            Some(Kind::Purge(_)) => self.purging = Purging::Begun { number: record.number, at: self.time },
            Some(Kind::Undo(_)) => (self.purging, self.purge_wanted) = (Purging::No, false),
            Some(Kind::Attach(attach)) => {
                self.attached.insert(attach.claim_uid.clone(), Attachment::of(attach));
                self.purge_wanted = false;
                if self.purging != Purging::Done {
                    self.purging = Purging::No;
                }
            }
            Some(Kind::Detach(detach)) => {
                let gone = self.attached.remove(&detach.claim_uid);
                self.purge_wanted = self.attached.is_empty() && gone.is_some_and(|gone| gone.purge);
            }
            Some(Kind::Void(void)) => {
                self.voids.insert(void.seq);
            }
            None => {}
        }
    }

    /// The claims whose time is over at `now`, the store's clock. They hold what they hold until a `release` of them is stored: only then
    /// may anybody plan without them, since until then whoever made one may claim the same commit again (protocol.md 2).
    #[must_use]
    pub fn expired(&self, now: UnixNanos) -> Vec<u64> {
        let over = |claim: &Claim| claim.expires != 0 && claim.expires <= now;
        self.claims.iter().filter(|(_, claim)| over(claim)).map(|(number, _)| *number).collect()
    }

    /// Whether a purge was begun, nothing cancelled it, and the grace is over.
    #[must_use]
    pub fn purge_due(&self, now: UnixNanos, grace_nanos: i64) -> bool {
        matches!(self.purging, Purging::Begun { at, .. } if now.saturating_sub(at) >= grace_nanos)
    }
}

/// One incarnation's control chain, read to its end as of some moment.
#[derive(Debug, Clone)]
pub struct Chain {
    site: Site,
    state: State,
    hash: Hash,
}

impl Chain {
    /// Reads the whole chain: it is never thinned, and whoever decides anything by it must have read all of it.
    ///
    /// # Errors
    /// The store does not answer, or a record is damaged.
    pub async fn read(site: Site) -> Result<Self, LogError> {
        Self::read_into(site, State::default()).await
    }

    /// The same with the objects that were retired, for who deletes.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_for_gc(site: Site) -> Result<Self, LogError> {
        Self::read_into(site, State { for_gc: true, ..State::default() }).await
    }

    async fn read_into(site: Site, state: State) -> Result<Self, LogError> {
        let mut chain = Self { site, state, hash: Hash([0; 32]) };
        chain.refresh().await?;
        Ok(chain)
    }

    /// Where it lies.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// What it says.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Reads what was appended since.
    ///
    /// # Errors
    /// The store does not answer, or a record is damaged.
    pub async fn refresh(&mut self) -> Result<(), LogError> {
        loop {
            let name = names::control(self.site.incarnation(), self.state.number + 1);
            let Some(bytes) = self.site.get(&name).await? else { return Ok(()) };
            let record = control::decode(&bytes, self.site.sealer(), &name).map_err(LogError::undecodable)?;
            self.take(&name, &record, seal::hash(&bytes))?;
        }
    }

    fn take(&mut self, name: &str, record: &ControlRecord, hash: Hash) -> Result<(), LogError> {
        let follows = record.number == self.state.number + 1
            && (self.state.number == 0 && record.parent_hash.is_empty() || record.parent_hash == self.hash.as_bytes());
        if !follows {
            return Err(LogError::damaged(name, "it is not the child of the record before it"));
        }
        self.state.apply(record);
        self.hash = hash;
        Ok(())
    }

    /// Appends a record. `decide` says which, from everything before it; when another appender was faster it is asked again. `now` is the
    /// store's clock. Returns the record's number.
    ///
    /// An unknown outcome can only end in this record or in none; whoever gives up on it may leave one claim too many, never one too few.
    ///
    /// # Errors
    /// The chain does not allow it, `decide` refuses, or the store does not answer.
    pub async fn append(
        &mut self,
        author: &str,
        now: UnixNanos,
        decide: &(dyn Fn(&State) -> Result<Kind, Refused> + Sync),
    ) -> Result<u64, LogError> {
        loop {
            self.refresh().await?;
            let kind = decide(&self.state)?;
            self.state.allows(&kind)?;
            let number = self.state.number + 1;
            let record = ControlRecord {
                number,
                parent_hash: if number == 1 { Vec::new().into() } else { self.hash.as_bytes().to_vec().into() },
                nonce: self.site.env().random::<16>().to_vec().into(),
                time: now.max(self.state.time),
                author: author.to_owned(),
                kind: Some(kind),
            };
            let name = names::control(self.site.incarnation(), number);
            let (bytes, hash) = control::encode(&record, self.site.sealer(), &name, self.site.env().random())?;
            self.site.env().failpoint("log.before_control");
            if self.site.create(&name, &bytes).await? == Created::Ours {
                self.take(&name, &record, hash)?;
                return Ok(number);
            }
        }
    }
}
