//! `holdfast volume list`.

mod list;

use super::context::Context;
use super::exit::Exit;
use crate::types::Fault;
use clap::Subcommand;

/// What to do with the volumes of a store. Which store: `--store URL`, else the embedded one.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// List the volumes of the store
    List(list::ListArgs),
}

pub(super) fn run(context: &Context, command: VolumeCommand) -> Result<Exit, Fault> {
    match command {
        VolumeCommand::List(args) => list::run(context, &args),
    }
}
