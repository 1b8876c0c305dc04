//! A planned hand-over: the supervisor ends its driver and goes on, in the same process, as another version of the program.
//!
//! The same process, because a unit or a container may watch it. The driver is ended as by a crash (`kill -9`): what makes a crash
//! a pause makes this one, and there is no second way that could rot. The keeper has the mount meanwhile; its line stays open across
//! exec, so that it sees nobody missing, and if the new program dies before it takes the mount, that line ends and the keeper starts
//! the command it has recorded.

use super::Message;
use super::custody::LINE_VARIABLE;
use super::supervisor::Supervisor;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::ffi::{OsStr, OsString};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

impl Supervisor {
    /// Begins it; the answer to whoever asked.
    pub(super) fn upgrade_to(&mut self, program: Vec<u8>) -> Message {
        let program = OsString::from_vec(program);
        if self.held.is_none() {
            return Message::Refused("the volume is not mounted yet: try again when it is".to_owned());
        }
        if self.custodian.line().is_none() {
            return Message::Refused("no keeper has this mount: it cannot be handed over; unmount it and mount it again".to_owned());
        }
        if let Err(error) = std::fs::metadata(&program) {
            return Message::Refused(format!("{} is not there: {error}", program.display()));
        }
        for path in self.needs() {
            if let Err(error) = std::fs::File::open(path) {
                let next = "bring it back, or give this machine a key of its own (`holdfast key add NAME --this-machine`) and mount anew";
                return Message::Refused(format!(
                    "nothing has changed: {} cannot be read ({error}), and the next driver needs it; {next}",
                    path.display()
                ));
            }
        }
        self.upgrade = Some(program);
        self.end_driver();
        Message::Done
    }

    /// Does not return, unless the program cannot be run; then the driver is started again as before.
    pub(super) fn go_on_as(&mut self, program: &OsStr) {
        self.custodian.serves(0, "it is handed over to another program");
        let Some(line) = self.custodian.line() else { return };
        if let Err(error) = fcntl(line, FcntlArg::F_SETFD(FdFlag::empty())) {
            return tracing::error!(%error, "the mount cannot be handed over: it goes on as before");
        }
        let mut words = std::env::args_os();
        let own = words.next().unwrap_or_default();
        let mut arguments: Vec<OsString> = words.collect();
        // In the foreground it was started as `mount`.
        if let Some(word) = arguments.iter_mut().find(|word| ["mount", "hold"].iter().any(|name| *word == name)) {
            *word = "hold".into();
        }
        tracing::warn!(program = %program.display(), "the supervisor goes on as this program");
        let error = Command::new(program).arg0(own).args(arguments).env(LINE_VARIABLE, line.as_raw_fd().to_string()).exec();
        tracing::error!(%error, program = %program.display(), "it cannot be run: the mount goes on as before");
        if let Err(error) = fcntl(line, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
            tracing::warn!(%error, "the driver inherits the line to the keeper");
        }
    }
}
