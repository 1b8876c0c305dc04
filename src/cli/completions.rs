//! `holdfast completions SHELL`.

use super::args::Arguments;
use super::exit::Exit;
use crate::types::{Fault, FaultKind};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::io::Write;

/// Which shell.
#[derive(Debug, Args)]
#[command(after_help = "For bash: holdfast completions bash > /usr/share/bash-completion/completions/holdfast")]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> Result<Exit, Fault> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::command(), "holdfast", &mut script);
    match std::io::stdout().write_all(&script) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Fault::with(FaultKind::Local, "the completions cannot be written to standard output", error))
        }
        _ => Ok(Exit::Done),
    }
}
