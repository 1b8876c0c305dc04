//! The table of answers: what follows for whoever wants a volume that its log says somebody holds.
//!
//! | heard | without `--wait` | with it |
//! |---|---|---|
//! | in use | refused: unmount it there | asked again, until it is something else |
//! | draining | asked again, with what is left | the same |
//! | closed | the log is read again, which says so; it is not opened on the word of anybody | the same |
//! | not mine; nothing that is proved | the log is read again: it may have been closed meanwhile. Then refused: a person decides | the log is read again and again |
//! | takes no questions | refused: a person decides | the log is read again and again |
//!
//! No answer makes a takeover: only a closed log, or a person's `--take-over`.

use super::{Answer, Heard};
use crate::config::show_size;
use crate::types::Seq;
use std::fmt;
use std::time::Duration;

/// Between two questions.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two looks at a log whose holder says nothing, while somebody waits.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Every so many questions the log is read, whatever is answered: an idle holder does not know that somebody took the volume over.
const QUESTIONS_A_LOOK: u32 = 30;
/// So often is a log read again whose holder says that it has closed it.
const CLOSED_LOOKS: u32 = 10;

/// Who is asked, and for whom.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The volume's name.
    pub volume: &'a str,
    /// The machine that has it, as it calls itself; empty: it does not.
    pub host: &'a str,
    /// Where it takes questions; empty: nowhere.
    pub address: &'a str,
    /// The number of its `open`.
    pub record: Seq,
    /// Whoever asks waits for the volume (`--wait`).
    pub wait: bool,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Wait, then ask again.
    Again {
        /// For the person who waits.
        tell: String,
        /// So long.
        pause: Duration,
        /// Read the log first: its end may be another one.
        look: bool,
    },
    /// The volume is not to be had: why, and the next step.
    Refuse(String),
}

/// How far whoever asks is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asking {
    /// Questions answered *in use* or *draining*.
    pub answered: u32,
    /// Looks at a log that the same process still held, because nobody could be believed.
    pub looks: u32,
    /// The log had more commits of that process at such a look: it is at work.
    pub grown: bool,
}

/// What follows from an answer.
#[must_use]
pub fn next(asked: &Asked<'_>, heard: &Heard, asking: Asking) -> Next {
    let Asked { volume, address, wait, .. } = asked;
    let (host, looks) = (Host(asked.host), asking.looks);
    let look = asking.answered % QUESTIONS_A_LOOK == QUESTIONS_A_LOOK - 1;
    match heard {
        Heard::Said(Answer::Draining(bytes)) => {
            let left =
                if *bytes == 0 { "the log is not closed yet".to_owned() } else { format!("{} are in no commit yet", show_size(*bytes)) };
            again(format!("waiting for {host}, which is unmounting volume {volume}: {left}"), PAUSE, look)
        }
        Heard::Said(Answer::InUse) if *wait => {
            again(format!("waiting for {host}, which has volume {volume} in use: unmount it there"), PAUSE, look)
        }
        Heard::Said(Answer::InUse) => Next::Refuse(format!(
            "volume {volume} is in use on {host}, which says so itself ({address}): unmount it there, or wait for that with --wait"
        )),
        Heard::Said(Answer::Closed) if *wait || looks < CLOSED_LOOKS => {
            again(format!("waiting for the log of volume {volume}, which {host} says it has closed"), pause(looks), true)
        }
        Heard::Said(Answer::Closed) => unknown(asked, "it says that it has closed the log, which does not show that", asking),
        Heard::Said(Answer::NotMine) => unknown(asked, "it says that it does not hold the volume any more", asking),
        Heard::Unknown(why) => unknown(asked, why, asking),
        Heard::Nowhere(why) => unknown(asked, why, Asking { looks: looks.max(1), ..asking }),
    }
}

/// Nothing is known: a person decides, or the log will tell.
fn unknown(asked: &Asked<'_>, why: &str, asking: Asking) -> Next {
    let Asked { volume, address, record, wait, .. } = asked;
    let host = Host(asked.host);
    let at = if address.is_empty() { String::new() } else { format!(" at {address}") };
    let held = format!("volume {volume} is held by {host} (since record {record}) and was not closed there; asked{at}: {why}");
    if !wait && asking.looks == 0 {
        return again(format!("{held}; asking once more"), PAUSE, true);
    }
    let gone = if asking.grown {
        "its log has grown since, so that machine is at work, and this one cannot reach it"
    } else if *wait {
        "if that machine is gone for good, end this and take the volume over with --take-over"
    } else {
        "if that machine is gone for good, take the volume over with --take-over: what it had not committed is lost to this mount"
    };
    if *wait {
        return again(format!("{held}; waiting until it is unmounted there; {gone}"), pause(asking.looks), true);
    }
    Next::Refuse(format!("{held}; unmount it there; {gone}"))
}

fn again(tell: String, pause: Duration, look: bool) -> Next {
    Next::Again { tell, pause, look }
}

fn pause(looks: u32) -> Duration {
    PAUSE.saturating_mul(1 << looks.min(5)).min(PAUSE_MAX)
}

struct Host<'a>(&'a str);

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {}", if self.0.is_empty() { "unknown" } else { self.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(wait: bool) -> Asked<'static> {
        Asked { volume: "g/a", host: "b", address: "10.0.0.5:7433", record: 12, wait }
    }

    /// What is done, whether the log is read, what is said.
    fn row(heard: &Heard, looks: u32, wait: bool) -> (&'static str, bool, String) {
        match next(&asked(wait), heard, Asking { looks, ..Asking::default() }) {
            Next::Again { tell, look, .. } => ("again", look, tell),
            Next::Refuse(why) => ("refuse", false, why),
        }
    }

    #[test]
    fn answers() {
        let said = Heard::Said;
        let silent = || Heard::Unknown("Connection refused".to_owned());
        let table = [
            (said(Answer::InUse), 0, false, "refuse", false, "is in use on host b, which says so itself (10.0.0.5:7433)"),
            (said(Answer::InUse), 0, true, "again", false, "waiting for host b, which has volume g/a in use"),
            (said(Answer::Draining(3 << 20)), 0, false, "again", false, "which is unmounting volume g/a: 3.00 MiB are in no commit yet"),
            (said(Answer::Draining(0)), 99, true, "again", false, "the log is not closed yet"),
            (said(Answer::Closed), 0, false, "again", true, "which host b says it has closed"),
            (said(Answer::Closed), 10, false, "refuse", false, "does not show that; unmount it there; if that machine is gone for good"),
            (said(Answer::Closed), 10, true, "again", true, "which host b says it has closed"),
            (said(Answer::NotMine), 0, false, "again", true, "asking once more"),
            (said(Answer::NotMine), 1, false, "refuse", false, "does not hold the volume any more; unmount it there"),
            (said(Answer::NotMine), 1, true, "again", true, "waiting until it is unmounted there"),
            (silent(), 0, false, "again", true, "asked at 10.0.0.5:7433: Connection refused; asking once more"),
            (silent(), 1, false, "refuse", false, "--take-over: what it had not committed is lost to this mount"),
            (silent(), 1, true, "again", true, "end this and take the volume over with --take-over"),
            (Heard::Nowhere("no"), 0, false, "refuse", false, "(since record 12) and was not closed there; asked at 10.0.0.5:7433: no;"),
            (Heard::Nowhere("no"), 0, true, "again", true, "waiting until it is unmounted there"),
        ];
        for (heard, looks, wait, does, look, says) in table {
            let row = row(&heard, looks, wait);
            assert_eq!((row.0, row.1), (does, look), "{heard:?} {looks} {wait}");
            assert!(row.2.contains(says), "{heard:?} {looks} {wait}: {}", row.2);
        }
    }

    #[test]
    fn whoever_is_at_work_is_not_called_gone() {
        for wait in [false, true] {
            let asking = Asking { looks: 1, grown: true, ..Asking::default() };
            let next = next(&asked(wait), &Heard::Unknown("No route to host".to_owned()), asking);
            let (Next::Again { tell: said, .. } | Next::Refuse(said)) = next;
            assert!(said.contains("so that machine is at work") && !said.contains("--take-over"), "{said}");
        }
    }

    #[test]
    fn whoever_waits_asks_the_store_ever_less() {
        let pauses: Vec<u64> = (0..8)
            .filter_map(|looks| match next(&asked(true), &Heard::Unknown(String::new()), Asking { looks, ..Asking::default() }) {
                Next::Again { pause, .. } => Some(pause.as_secs()),
                Next::Refuse(_) => None,
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        let reads = |answered| {
            let next = next(&asked(true), &Heard::Said(Answer::InUse), Asking { answered, ..Asking::default() });
            matches!(next, Next::Again { look: true, .. })
        };
        assert_eq!((0..90).filter(|answered| reads(*answered)).collect::<Vec<_>>(), [29, 59, 89]);
    }
}
