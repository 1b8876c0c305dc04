//! How a volume stands, and the one question first: is it SAFE? The answer is [`judge`]d here from plain data, in one place for
//! the command, the metric `holdfast_volume_safe` and whoever asks the control socket.
//!
//! SAFE: what is in no commit is younger than its lag allows, and nothing stands in the way of the next commit. Anything else,
//! also what is not known, is NOT SAFE.

use super::at;
use super::context::Answer;
use crate::config::show_size;
use crate::types::{Epoch, Seq};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};

/// A commit, as status and history show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitInfo {
    /// Its number.
    pub commit: Seq,
    /// Its cut, by the writer's clock.
    pub cut: Timestamp,
    /// Whether it shows all tiers at that cut.
    pub full: bool,
}

/// What the driver is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Reading the store; the directory is not usable yet.
    Opening,
    /// In use.
    Mounted,
    /// Putting the rest into a commit; ends then.
    Draining,
}

/// Something that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What, and the next step.
    pub what: String,
    /// For so long.
    pub seconds: u64,
}

/// How a mounted volume stands, as its driver tells it. Ages are measured by the driver's monotonic clock: a clock that was set
/// back makes nothing look younger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// The volume's name.
    pub volume: String,
    /// Its incarnation (a uuid).
    pub incarnation: String,
    /// The store's URL.
    pub store: String,
    /// What keeps two writers apart; absent: the store has not answered yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    /// Where other machines are told how it stands; absent: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<String>,
    /// Where it is mounted.
    pub directory: Option<String>,
    /// What the driver is doing.
    pub phase: Phase,
    /// Mounted to be read only.
    pub read_only: bool,
    /// The driver's process.
    pub pid: u32,
    /// The driver's version.
    pub version: String,
    /// The writer's epoch; 0 when it does not write.
    pub epoch: Epoch,
    /// The newest stored commit; absent: there is none.
    pub head: Option<CommitInfo>,
    /// Bytes in the cache that are in no commit.
    pub dirty_bytes: u64,
    /// Age of the oldest change that is in no commit; absent: nothing is dirty.
    pub oldest_dirty_seconds: Option<u64>,
    /// The lag in force, milliseconds.
    pub lag_milliseconds: u64,
    /// Why the lag is wider than the policy's, when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_reason: Option<String>,
    /// At so many dirty bytes writers are slowed.
    pub dirty_limit_bytes: u64,
    /// Bytes of files in the cache.
    pub cache_bytes: u64,
    /// The cache's limit.
    pub cache_limit_bytes: u64,
    /// Bytes of the volume that are not in the cache.
    pub left_bytes: u64,
    /// Files, directories and others.
    pub inodes: u64,
    /// Bytes of its files.
    #[serde(default)]
    pub bytes: u64,
    /// Bytes that it may hold; absent: no limit of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_bytes: Option<u64>,
    /// Whether requests under way when a driver dies are sent to the next one (kernel 6.9 and later).
    #[serde(default = "yes")]
    pub resend: bool,
    /// Its requests crashed the driver again and again: it is read-only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quarantined: bool,
    /// Another writer has taken the volume over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced: Option<Trouble>,
    /// The store does not answer, or refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_trouble: Option<Trouble>,
    /// The local disk or kernel fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_trouble: Option<Trouble>,
    /// The cache of the mount before was damaged and set aside: where it is, and what is known of what it had in no commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged_cache: Option<String>,
    /// And something in it may have been in no commit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub damaged_cache_lost: bool,
    /// Stored bytes that are damaged or missing, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damage: Vec<String>,
    /// Branches that this driver stores or has stored, of this mount and of caches that were set aside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<BranchStatus>,
}

/// What keeps two writers of a volume apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fence {
    /// The store: a number of the log is won by one.
    PutIfAbsent,
    /// Whoever made the store vouched for it.
    SingleWriter,
}

/// A branch that is stored from here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchStatus {
    /// Its number.
    pub branch: Epoch,
    /// How far it is.
    pub state: BranchState,
    /// The cache that it is of.
    pub cache: String,
    /// What became of it, in words.
    pub told: String,
}

/// How far a branch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BranchState {
    /// On its way into the store.
    Storing,
    /// Stored and claimed.
    Safe,
    /// Stored, but what it stands on could not be claimed.
    Unclaimed,
    /// A person has dropped it.
    Dropped,
    /// It cannot be stored.
    Stuck,
}

fn yes() -> bool {
    true
}

/// The answer to the one question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// SAFE or NOT SAFE.
    pub safe: bool,
    /// Restorable to this instant if the machine is lost now; absent: there is no commit.
    pub restorable_to: Option<Timestamp>,
    /// Why.
    pub why: String,
}

impl Verdict {
    /// The lines of the answer about the newest commit.
    pub(super) fn show_newest(&self, head: Option<&CommitInfo>, zone: &TimeZone, out: &mut dyn Write) -> io::Result<()> {
        match self.restorable_to {
            Some(cut) => writeln!(out, "  restorable to   {}", at::show(cut, zone))?,
            None => writeln!(out, "  restorable to   nothing: there is no commit yet")?,
        }
        match head {
            Some(head) => writeln!(out, "  newest commit   {}{}", head.commit, if head.full { "" } else { " (not all tiers)" }),
            None => Ok(()),
        }
    }
}

/// A commit takes a moment by itself; only what is older than the lag and this is late.
const COMMIT_SECONDS: u64 = 5;

/// Whether a volume is safe.
#[must_use]
pub fn judge(status: &VolumeStatus) -> Verdict {
    let restorable_to = status.head.as_ref().map(|head| head.cut);
    let verdict = |safe, why: String| Verdict { safe, restorable_to, why };
    let dirty = || format!("{} in the cache are in no commit", show_size(status.dirty_bytes));
    let trouble = |what: &Trouble| format!("{} (for {})", what.what, at::show_age(what.seconds));
    if let Some(fence) = &status.fenced {
        let own = status.branches.iter().rev().find(|branch| branch.branch == status.epoch);
        let what = own.map_or_else(dirty, |branch| format!("what was not committed {}", branch.told));
        return verdict(false, format!("another writer has taken the volume over: {}; {what}", trouble(fence)));
    }
    if status.quarantined {
        let what = "the volume is in quarantine, read-only: its requests crashed the driver twice within a minute (the log says where)";
        let next = "mount it again, or `holdfast upgrade` it, when the cause is gone";
        return verdict(false, format!("{what}; {next}; {}", dirty()));
    }
    if let Some(local) = &status.local_trouble {
        return verdict(false, trouble(local));
    }
    if let Some(lost) = status.damaged_cache.as_ref().filter(|_| status.damaged_cache_lost) {
        return verdict(false, lost.clone());
    }
    if let Some(first) = status.damage.first() {
        return verdict(false, format!("{} stored objects are damaged or missing, the first is {first}", status.damage.len()));
    }
    if status.phase == Phase::Opening {
        let why = status.store_trouble.as_ref().map_or_else(|| "it reads the store".to_owned(), trouble);
        return verdict(false, format!("the volume is not open yet: {why}"));
    }
    let Some(age) = status.oldest_dirty_seconds else {
        let what = status
            .head
            .as_ref()
            .map_or_else(|| "nothing was written yet".to_owned(), |head| format!("everything is in commit {}", head.commit));
        // Nothing is at risk now, but a store that is gone is told before it matters.
        let but = status.store_trouble.as_ref().map_or_else(String::new, |store| format!("; but {}", trouble(store)));
        return verdict(true, what + &but);
    };
    let late = age > status.lag_milliseconds.div_ceil(1000) + COMMIT_SECONDS;
    match (&status.store_trouble, late) {
        (Some(store), true) => verdict(false, format!("{}, the oldest change for {}: {}", dirty(), at::show_age(age), trouble(store))),
        (None, true) => verdict(false, format!("{}, the oldest change for {}: commits are late", dirty(), at::show_age(age))),
        (_, false) => verdict(true, format!("{}, the oldest change for {}, which its lag allows", dirty(), at::show_age(age))),
    }
}

/// One volume's status with its verdict: what `--json` shows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The answer.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What it was judged from.
    pub status: VolumeStatus,
    /// Who holds the connection while no driver runs; absent: only the mount's own supervisor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keeper: Option<u32>,
    #[serde(skip)]
    zone: Option<TimeZone>,
}

impl Report {
    /// Judges a status; times are shown in `zone`.
    #[must_use]
    pub fn new(status: VolumeStatus, zone: TimeZone) -> Self {
        Self { verdict: judge(&status), status, keeper: None, zone: Some(zone) }
    }

    /// Held by the keeper of that process too.
    #[must_use]
    pub fn kept_by(self, keeper: Option<u32>) -> Self {
        Self { keeper, ..self }
    }
}

impl Answer for Report {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { verdict, status, keeper, zone } = self;
        let zone = zone.clone().unwrap_or(TimeZone::UTC);
        let place = status.directory.as_deref().map_or_else(String::new, |dir| format!(" at {dir}"));
        writeln!(out, "{}  {}{place}", if verdict.safe { "SAFE" } else { "NOT SAFE" }, status.volume)?;
        writeln!(out, "  {}", verdict.why)?;
        verdict.show_newest(status.head.as_ref(), &zone, out)?;
        writeln!(out, "  dirty           {} of at most {}", show_size(status.dirty_bytes), show_size(status.dirty_limit_bytes))?;
        let why = status.lag_reason.as_deref().map_or_else(String::new, |why| format!(" ({why})"));
        writeln!(out, "  lag             {} ms{why}", status.lag_milliseconds)?;
        let left = if status.left_bytes == 0 { String::new() } else { format!(", {} not here", show_size(status.left_bytes)) };
        writeln!(out, "  cache           {} of at most {}{left}", show_size(status.cache_bytes), show_size(status.cache_limit_bytes))?;
        let mode = match (status.phase, status.read_only) {
            (Phase::Opening, _) => "opening",
            (Phase::Draining, _) => "draining",
            (Phase::Mounted, true) => "mounted, read-only",
            (Phase::Mounted, false) => "mounted",
        };
        writeln!(out, "  driver          {mode}, epoch {}, process {}, version {}", status.epoch, status.pid, status.version)?;
        let held =
            keeper.map_or_else(|| "its supervisor alone".to_owned(), |process| format!("its supervisor and the keeper, process {process}"));
        let flight = if status.resend { "" } else { "; requests under way when the driver dies end with EIO (kernel before 6.9)" };
        writeln!(out, "  held by         {held}{flight}")?;
        writeln!(out, "  store           {}", status.store)?;
        match status.fence {
            Some(Fence::PutIfAbsent) => writeln!(out, "  fence           the store's put if absent")?,
            Some(Fence::SingleWriter) => writeln!(out, "  fence           NONE but the word of whoever made the store (single-writer)")?,
            None => {}
        }
        if !status.read_only {
            let nowhere = "nobody: who wants the volume elsewhere must ask a person (peer-listen)";
            writeln!(out, "  answers         {}", status.answers.as_deref().unwrap_or(nowhere))?;
        }
        if let Some(damaged) = status.damaged_cache.as_ref().filter(|damaged| !verdict.why.contains(*damaged)) {
            writeln!(out, "  damaged         {damaged}")?;
        }
        let what = |branch: &BranchStatus| format!("what a cache here had not committed {}", branch.told);
        status.branches.iter().try_for_each(|branch| writeln!(out, "  branch {:<8} {}", branch.branch, what(branch)))
    }
}

/// `holdfast status [VOLUME|DIR]`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exits with 0 when every volume asked about is SAFE, with 20 when one is NOT SAFE.")]
pub struct StatusArgs {
    /// A volume (not mounted here: as the store tells it), or the directory where it is mounted (beginning with `/` or `.`) [default:
    /// all that are mounted here]
    pub which: Option<std::ffi::OsString>,
    /// Show it again every so many seconds, until interrupted
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub watch: Option<u64>,
    /// For a volume that is not mounted here.
    #[command(flatten)]
    pub key: super::unlock::KeyArgs,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn healthy() -> VolumeStatus {
        VolumeStatus {
            volume: "g/a".to_owned(),
            incarnation: "6f1c".to_owned(),
            store: "file:///s".to_owned(),
            fence: Some(Fence::PutIfAbsent),
            answers: Some("10.0.0.5:7433".to_owned()),
            directory: Some("/mnt/a".to_owned()),
            phase: Phase::Mounted,
            read_only: false,
            pid: 7,
            version: "0.1.0".to_owned(),
            epoch: 3,
            head: Some(CommitInfo { commit: 17, cut: "2026-11-20T09:00:00Z".parse().unwrap(), full: true }),
            dirty_bytes: 0,
            oldest_dirty_seconds: None,
            lag_milliseconds: 1000,
            lag_reason: None,
            dirty_limit_bytes: 5 << 30,
            cache_bytes: 3 << 20,
            cache_limit_bytes: 10 << 30,
            left_bytes: 0,
            inodes: 12,
            bytes: 4096,
            capacity_bytes: None,
            resend: true,
            quarantined: false,
            fenced: None,
            store_trouble: None,
            local_trouble: None,
            damaged_cache: None,
            damaged_cache_lost: false,
            damage: Vec::new(),
            branches: Vec::new(),
        }
    }

    fn trouble(what: &str, seconds: u64) -> Option<Trouble> {
        Some(Trouble { what: what.to_owned(), seconds })
    }

    fn branch() -> BranchStatus {
        BranchStatus { branch: 3, state: BranchState::Safe, cache: "/c".to_owned(), told: "is branch 3".to_owned() }
    }

    #[test]
    fn verdicts() {
        let gone = || trouble("the store does not answer", 200);
        let dirty = |age| VolumeStatus { dirty_bytes: 4096, oldest_dirty_seconds: Some(age), ..healthy() };
        let fenced = || VolumeStatus { fenced: trouble("epoch 4 of host b", 1), ..healthy() };
        let rotten = || VolumeStatus { damaged_cache: Some("the cache was damaged".to_owned()), ..healthy() };
        let table = [
            (healthy(), true, "everything is in commit 17"),
            (VolumeStatus { head: None, ..healthy() }, true, "nothing was written yet"),
            (dirty(6), true, "4.00 KiB in the cache are in no commit, the oldest change for 6 s, which its lag allows"),
            (dirty(7), false, "4.00 KiB in the cache are in no commit, the oldest change for 7 s: commits are late"),
            (
                VolumeStatus { lag_milliseconds: 10_000, ..dirty(7) },
                true,
                "4.00 KiB in the cache are in no commit, the oldest change for 7 s, which its lag allows",
            ),
            (
                VolumeStatus { store_trouble: gone(), ..healthy() },
                true,
                "everything is in commit 17; but the store does not answer (for 3 min 20 s)",
            ),
            (
                VolumeStatus { store_trouble: gone(), ..dirty(100) },
                false,
                "4.00 KiB in the cache are in no commit, the oldest change for 1 min 40 s: the store does not answer (for 3 min 20 s)",
            ),
            (fenced(), false, "another writer has taken the volume over: epoch 4 of host b (for 1 s); 0 B in the cache are in no commit"),
            (
                VolumeStatus { branches: vec![branch()], ..fenced() },
                false,
                "another writer has taken the volume over: epoch 4 of host b (for 1 s); what was not committed is branch 3",
            ),
            (VolumeStatus { local_trouble: trouble("the disk is full", 1), ..healthy() }, false, "the disk is full (for 1 s)"),
            (rotten(), true, "everything is in commit 17"),
            (VolumeStatus { damaged_cache_lost: true, ..rotten() }, false, "the cache was damaged"),
            (
                VolumeStatus { damage: vec!["packs/1-ab".to_owned()], ..healthy() },
                false,
                "1 stored objects are damaged or missing, the first is packs/1-ab",
            ),
            (
                VolumeStatus { quarantined: true, ..healthy() },
                false,
                "the volume is in quarantine, read-only: its requests crashed the driver twice within a minute (the log says where); \
                 mount it again, or `holdfast upgrade` it, when the cause is gone; 0 B in the cache are in no commit",
            ),
            (
                VolumeStatus { phase: Phase::Opening, store_trouble: gone(), ..healthy() },
                false,
                "the volume is not open yet: the store does not answer (for 3 min 20 s)",
            ),
        ];
        for (status, safe, why) in table {
            let verdict = judge(&status);
            assert_eq!((verdict.safe, verdict.why.as_str()), (safe, why));
            assert_eq!(verdict.restorable_to, status.head.map(|head| head.cut));
        }
    }

    #[test]
    fn text_answers_the_question_first() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let mut out = Vec::new();
        let status = VolumeStatus {
            left_bytes: 1 << 30,
            lag_milliseconds: 10_000,
            lag_reason: Some("request budget".to_owned()),
            branches: vec![branch()],
            ..healthy()
        };
        Report::new(status, zone).text(&mut out).unwrap();
        let expected = "\
SAFE  g/a at /mnt/a
  everything is in commit 17
  restorable to   2026-11-20 10:00:00 +01:00 (Europe/Berlin)
  newest commit   17
  dirty           0 B of at most 5.00 GiB
  lag             10000 ms (request budget)
  cache           3.00 MiB of at most 10.0 GiB, 1.00 GiB not here
  driver          mounted, epoch 3, process 7, version 0.1.0
  held by         its supervisor alone
  store           file:///s
  fence           the store's put if absent
  answers         10.0.0.5:7433
  branch 3        what a cache here had not committed is branch 3
";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn json_has_verdict_and_status_and_reads_back() {
        let report = Report::new(healthy(), TimeZone::UTC);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["safe"], true);
        assert_eq!(json["restorable_to"], "2026-11-20T09:00:00Z");
        assert_eq!(json["status"]["head"]["commit"], 17);
        assert!(json.get("zone").is_none());
        let back: VolumeStatus = serde_json::from_value(json["status"].clone()).unwrap();
        assert_eq!(back, healthy());
    }
}
