//! `holdfast volume list|rm`.

mod list;
mod rm;

pub(super) use list::live_volumes;

use super::context::Context;
use super::exit::Exit;
use crate::types::Fault;
use clap::Subcommand;

/// What to do with the volumes of a store. Which store: `--store URL`, else the embedded one.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// List the volumes of the store
    List(list::ListArgs),
    /// Remove a volume and all its commits, after a grace
    Rm(rm::RmArgs),
}

pub(super) fn run(context: &Context, command: VolumeCommand) -> Result<Exit, Fault> {
    match command {
        VolumeCommand::List(args) => list::run(context, &args),
        VolumeCommand::Rm(args) => rm::run(context, &args),
    }
}
