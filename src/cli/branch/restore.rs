//! `holdfast branch restore`.

use super::BranchArgs;
use super::show::find;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::reader::Reading;
use crate::cli::restore::make;
use crate::types::{Fault, FaultKind, Identity};
use crate::volume::Restorable;
use clap::Args;

/// Which branch, and the name of the new volume.
#[derive(Debug, Args)]
pub struct BranchRestoreArgs {
    #[command(flatten)]
    of: BranchArgs,
    /// The volume to make
    #[arg(long, value_name = "NEW", value_parser = Identity::parse)]
    to: Identity,
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
        make(context, &reading, Restorable::Branch(*branch), &args.to).await
    })?;
    context.answer(&made)?;
    Ok(Exit::Done)
}
