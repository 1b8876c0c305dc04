//! `holdfast store init|probe`.

pub mod init;
mod probe;

use super::context::Context;
use super::exit::Exit;
use crate::types::Fault;
use clap::Subcommand;

/// What to do with a store. Which one: `--store URL`, else the embedded one.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Make a new store: its marker, its key, and the one recovery key that opens it anywhere
    Init(init::InitArgs),
    /// See whether a store can be trusted with a log of commits
    Probe(probe::ProbeArgs),
}

pub(super) fn run(context: &Context, command: StoreCommand) -> Result<Exit, Fault> {
    match command {
        StoreCommand::Init(args) => init::run(context, &args),
        StoreCommand::Probe(args) => probe::run(context, &args),
    }
}
