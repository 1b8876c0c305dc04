//! `holdfast branch restore`.

use super::BranchArgs;
use super::show::find;
use crate::cli::at;
use crate::cli::context::{Answer, Context};
use crate::cli::exit::Exit;
use crate::cli::reader::Reading;
use crate::cli::restore::make;
use crate::config::show_size;
use crate::format::names;
use crate::types::{Epoch, Fault, FaultKind, Identity, Seq};
use crate::volume::{Restorable, Restored};
use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::io::{self, Write};

/// Which branch, and the name of the new volume.
#[derive(Debug, Args)]
pub struct BranchRestoreArgs {
    #[command(flatten)]
    of: BranchArgs,
    /// The volume to make
    #[arg(long, value_name = "NEW", value_parser = Identity::parse)]
    to: Identity,
}

#[derive(Serialize)]
struct Made {
    volume: String,
    incarnation: String,
    commit: Seq,
    from: String,
    from_branch: Epoch,
    cut: Timestamp,
    inodes: u64,
    bytes: u64,
    uploaded: u64,
}

impl Answer for Made {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { volume, from, from_branch, inodes, bytes, uploaded, .. } = self;
        writeln!(out, "{volume} is branch {from_branch} of {from}, of {}.", at::show(self.cut, &TimeZone::system()))?;
        let (bytes, uploaded) = (show_size(*bytes), show_size(*uploaded));
        writeln!(out, "{inodes} files and directories, {bytes}; {uploaded} written, the data is shared with {from}.")
    }
}

pub(super) fn run(context: &Context, args: &BranchRestoreArgs) -> Result<Exit, Fault> {
    let BranchArgs { volume, branch, key } = &args.of;
    if *volume == args.to {
        let why = format!("branch {branch} of volume {volume} cannot be restored into {volume}: give the new one another name");
        return Err(Fault::new(FaultKind::Invalid, why));
    }
    let made = context.run(async {
        let reading = Reading::start(context, volume, key).await?;
        find(&reading, *branch).await?;
        let Restored { incarnation, commit, cut, inodes, bytes, uploaded } =
            make(context, &reading, Restorable::Branch(*branch), &args.to).await?;
        let (cut, incarnation) = (at::timestamp(cut), names::uuid(incarnation));
        let (to, from, from_branch) = (args.to.to_string(), volume.to_string(), *branch);
        Ok(Made { volume: to, incarnation, commit, from, from_branch, cut, inodes, bytes, uploaded })
    })?;
    context.answer(&made)?;
    Ok(Exit::Done)
}
