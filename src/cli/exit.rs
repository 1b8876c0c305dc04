//! The exit codes: one table, exhaustive over the kinds of fault, and the same words in `--json`.
//!
//! | code | means |
//! |---|---|
//! | 0 | done; `status`: SAFE |
//! | 2 | the command line, a setting or a file that was named is wrong (`invalid`) |
//! | 3 | proven not there (`not-found`) |
//! | 4 | there already (`exists`) |
//! | 5 | the store or the driver does not answer; nothing is known (`unknown`) |
//! | 6 | stored bytes are not what they must be (`damaged`) |
//! | 7 | another writer has taken the volume over (`fenced`) |
//! | 8 | in use here or elsewhere (`busy`) |
//! | 9 | a limit is reached (`full`) |
//! | 10 | credentials or permissions do not allow it (`denied`) |
//! | 11 | stored by a newer version (`too-new`) |
//! | 12 | a history that was retired (`stale`) |
//! | 13 | the local disk or kernel failed or lacks something (`local`) |
//! | 20 | `status`: NOT SAFE |
//!
//! The numbers never change their meaning; new ones may come.

use crate::types::FaultKind;

/// How a command that did its work ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// `status` answered NOT SAFE.
    NotSafe,
    /// `doctor` found something missing.
    Lacking,
    /// As the process that did the work ended.
    Code(u8),
}

impl Exit {
    /// The process's exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::NotSafe => 20,
            Self::Lacking => code(FaultKind::Local),
            Self::Code(code) => code,
        }
    }
}

/// The exit code of a fault.
#[must_use]
pub fn code(kind: FaultKind) -> u8 {
    match kind {
        FaultKind::Invalid => 2,
        FaultKind::NotFound => 3,
        FaultKind::Exists => 4,
        FaultKind::Unknown => 5,
        FaultKind::Damaged => 6,
        FaultKind::Fenced => 7,
        FaultKind::Busy => 8,
        FaultKind::Full => 9,
        FaultKind::Denied => 10,
        FaultKind::TooNew => 11,
        FaultKind::Stale => 12,
        FaultKind::Local => 13,
    }
}

/// The kind's word in `--json` and on the control socket.
#[must_use]
pub fn word(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Invalid => "invalid",
        FaultKind::NotFound => "not-found",
        FaultKind::Exists => "exists",
        FaultKind::Unknown => "unknown",
        FaultKind::Damaged => "damaged",
        FaultKind::Fenced => "fenced",
        FaultKind::Busy => "busy",
        FaultKind::Full => "full",
        FaultKind::Denied => "denied",
        FaultKind::TooNew => "too-new",
        FaultKind::Stale => "stale",
        FaultKind::Local => "local",
    }
}

/// Every kind, in the order of its code.
pub const KINDS: [FaultKind; 12] = [
    FaultKind::Invalid,
    FaultKind::NotFound,
    FaultKind::Exists,
    FaultKind::Unknown,
    FaultKind::Damaged,
    FaultKind::Fenced,
    FaultKind::Busy,
    FaultKind::Full,
    FaultKind::Denied,
    FaultKind::TooNew,
    FaultKind::Stale,
    FaultKind::Local,
];

/// The kind of a word; one that a newer driver may say is `Unknown`.
#[must_use]
pub fn kind(word: &str) -> FaultKind {
    KINDS.into_iter().find(|kind| self::word(*kind) == word).unwrap_or(FaultKind::Unknown)
}

/// The kind of an exit code; one that a newer program may end with is `Unknown`.
#[must_use]
pub fn kind_of(code: u8) -> FaultKind {
    KINDS.into_iter().find(|kind| self::code(*kind) == code).unwrap_or(FaultKind::Unknown)
}

/// For the end of `--help`.
pub(super) const HELP: &str = "\
Exit codes:
  0 done; status: SAFE      2 wrong usage, setting or file   3 not found
  4 exists already          5 no answer: nothing is known    6 damaged
  7 taken over (fenced)     8 in use (busy)                  9 a limit is reached
 10 denied                 11 stored by a newer version     12 history was retired
 13 this machine lacks or fails something                   20 status: NOT SAFE

Settings come from flags, the environment, a file and defaults, the first that has one.
The file: --config, else ~/.config/holdfast/config.toml, else /etc/holdfast/config.toml.
`--help` lists the settings, `-h` leaves them out.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_in_the_head_is_the_code() {
        let head = include_str!("exit.rs");
        for kind in KINDS {
            assert!(
                head.lines()
                    .any(|line| line.starts_with(&format!("//! | {} |", code(kind))) && line.contains(&format!("`{}`", word(kind)))),
                "{kind:?}"
            );
            assert_eq!((super::kind(word(kind)), kind_of(code(kind))), (kind, kind));
            assert!(HELP.contains(&format!("{} ", code(kind))));
        }
        let mut codes: Vec<u8> = KINDS.map(code).into_iter().chain([Exit::Done.code(), Exit::NotSafe.code()]).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), KINDS.len() + 2);
    }
}
