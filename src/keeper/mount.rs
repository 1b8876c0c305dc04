//! One mount of the keeper's: its descriptor, its record, who attends it, and when a successor is started.

use super::line::is_gone;
use super::say;
use super::wire::{Record, Restart, Standing};
use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The longest pause between two starts, and how long an attendant must have stayed to be no failure.
const PAUSE_MAX: u64 = 60;

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Mount {
    pub(super) device: OwnedFd,
    pub(super) record: Record,
    /// The line and the process that attend it.
    pub(super) attendant: Option<(u64, u32)>,
    driver: u32,
    note: Vec<u8>,
    // Since when `driver` is what it is.
    since: u64,
    attended_since: u64,
    starts: u32,
    // Starts in a row that came to nothing.
    failures: u32,
    next_start: u64,
    /// The newest supervisor that was started for it, while its end is not known.
    pub(super) started: Option<Child>,
}

impl Mount {
    pub(super) fn new(device: OwnedFd, record: Record, line: (u64, u32), now: u64) -> Self {
        Self {
            device,
            record,
            attendant: Some(line),
            driver: 0,
            note: Vec::new(),
            since: now,
            attended_since: now,
            starts: 0,
            failures: 0,
            next_start: 0,
            started: None,
        }
    }

    /// Handed over again: by its new attendant with that one's own command, or after it was mounted anew. What is known of starts stays.
    pub(super) fn again(&mut self, device: OwnedFd, record: Record, line: (u64, u32), now: u64) {
        (self.device, self.record) = (device, record);
        self.attend(line, now);
    }

    pub(super) fn dir(&self) -> String {
        String::from_utf8_lossy(&self.record.dir).into_owned()
    }

    pub(super) fn driver(&self) -> u32 {
        self.driver
    }

    pub(super) fn attend(&mut self, line: (u64, u32), now: u64) {
        self.attendant = Some(line);
        self.attended_since = now;
    }

    pub(super) fn serves(&mut self, driver: u32, note: Vec<u8>, now: u64) {
        if (self.driver == 0) != (driver == 0) {
            self.since = now;
        }
        self.driver = driver;
        self.note = note;
    }

    /// Its attendant is gone. The driver may live on; the successor sees to it.
    pub(super) fn forsaken(&mut self, now: u64) {
        self.attendant = None;
        self.since = now;
        if now.saturating_sub(self.attended_since) >= PAUSE_MAX {
            self.failures = 0;
        }
        self.next_start = now + pause(self.failures);
    }

    /// Starts a successor, if it is time.
    pub(super) fn look(&mut self, now: u64) {
        if let Some(child) = &mut self.started {
            match child.try_wait() {
                // It is on its way, or attends.
                Ok(None) => return,
                Ok(Some(status)) => say(&format!("{}: its supervisor ended ({status})", self.dir())),
                Err(error) => say(&format!("{}: its supervisor: {error}", self.dir())),
            }
            self.started = None;
        }
        if self.attendant.is_some() || now < self.next_start {
            return;
        }
        let Some(restart) = &self.record.restart else { return };
        self.failures = self.failures.saturating_add(1);
        self.next_start = now + pause(self.failures);
        match start(restart) {
            Ok(child) => {
                self.starts = self.starts.saturating_add(1);
                say(&format!("{}: nobody attended it: process {} is to", self.dir(), child.id()));
                self.started = Some(child);
            }
            Err(error) => say(&format!("{}: a supervisor cannot be started: {error}", self.dir())),
        }
    }

    /// Whether the kernel has ended it. Asked only while nobody attends it.
    pub(super) fn is_gone(&self) -> bool {
        is_gone(self.device.as_fd())
    }

    pub(super) fn standing(&self, now: u64) -> Standing {
        Standing {
            dir: self.record.dir.clone(),
            volume: self.record.volume.clone(),
            cache: self.record.cache.clone(),
            attendant: self.attendant.map_or(0, |(_, process)| process),
            driver: self.driver,
            seconds: now.saturating_sub(self.since),
            starts: self.starts,
            note: self.note.clone(),
        }
    }
}

/// Seconds before the next start: none before the first, then 1, 2, 4 ... [`PAUSE_MAX`].
fn pause(failures: u32) -> u64 {
    match failures {
        0 => 0,
        n => 1u64.checked_shl(n - 1).unwrap_or(PAUSE_MAX).min(PAUSE_MAX),
    }
}

// By exec of what was recorded, word for word: no shell, and nothing of our own environment.
fn start(restart: &Restart) -> io::Result<Child> {
    let word = |bytes: &Vec<u8>| OsString::from_vec(bytes.clone());
    let (program, arguments) = restart.arguments.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(OsStr::from_bytes(&restart.log))?;
    let mut command = Command::new(word(program));
    command.args(arguments.iter().map(word)).env_clear().current_dir(Path::new(OsStr::from_bytes(&restart.cwd)));
    for variable in &restart.environment {
        let mut halves = variable.splitn(2, |byte| *byte == b'=');
        if let (Some(name), Some(value)) = (halves.next(), halves.next()) {
            command.env(OsStr::from_bytes(name), OsStr::from_bytes(value));
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // SAFETY: setsid, open, write and close are async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            // Not as hard to kill as we are: the OOM killer must have somebody. Where it cannot be written it was not lowered either.
            let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            if file >= 0 {
                libc::write(file, c"0".as_ptr().cast(), 1);
                libc::close(file);
            }
            Ok(())
        });
    }
    command.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute() {
        assert_eq!([0, 1, 2, 3, 6, 7, 8, 65, u32::MAX].map(pause), [0, 1, 2, 4, 32, 60, 60, 60, 60]);
    }
}
