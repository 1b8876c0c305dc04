//! `holdfast branch list|show|mount|restore|drop`: what a fenced writer had not committed.

mod drop;
mod list;
mod mount;
mod restore;
mod show;

use super::args::Flags;
use super::context::Context;
use super::exit::Exit;
use super::reader::VolumeArgs;
use super::unlock::KeyArgs;
use crate::history::Branch;
use crate::log::branch::Claimed;
use crate::types::{Epoch, Fault, Identity};
use clap::{Args, Subcommand};

/// What to do with the branches of a volume.
#[derive(Debug, Subcommand)]
pub enum BranchCommand {
    /// List the branches of a volume
    List(VolumeArgs),
    /// Which paths of a branch differ from the commit it stands on
    Show(BranchArgs),
    /// Mount a branch, read-only
    Mount(mount::BranchMountArgs),
    /// Make a new volume of a branch
    Restore(restore::BranchRestoreArgs),
    /// Delete a branch
    Drop(drop::DropArgs),
}

/// One branch.
#[derive(Debug, Args)]
pub struct BranchArgs {
    /// The volume
    #[arg(value_name = "VOLUME", value_parser = Identity::parse)]
    volume: Identity,
    /// The branch's number
    #[arg(value_name = "BRANCH", value_parser = clap::value_parser!(u64).range(1..))]
    branch: Epoch,
    #[command(flatten)]
    key: KeyArgs,
}

pub(super) fn run(context: &Context, flags: &Flags, command: BranchCommand) -> Result<Exit, Fault> {
    match command {
        BranchCommand::List(args) => list::run(context, &args),
        BranchCommand::Show(args) => show::run(context, &args),
        BranchCommand::Mount(args) => mount::run(context, flags, &args),
        BranchCommand::Restore(args) => restore::run(context, &args),
        BranchCommand::Drop(args) => drop::run(context, &args),
    }
}

/// How a branch stands, in one word.
fn state(branch: &Branch) -> &'static str {
    match (&branch.head, branch.claimed) {
        (_, Claimed::Dropped) => "dropped",
        (None, _) => "unfinished",
        (Some(_), Claimed::By(_)) => "safe",
        (Some(_), Claimed::Never) => "unclaimed",
    }
}
