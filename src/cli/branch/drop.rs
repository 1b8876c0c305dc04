//! `holdfast branch drop`.

use super::BranchArgs;
use crate::cli::context::{Answer, Context};
use crate::cli::exit::Exit;
use crate::cli::reader::Reading;
use crate::history::drop_branch;
use crate::store;
use crate::types::{Epoch, Fault, FaultKind};
use crate::volume::AUTHOR;
use clap::Args;
use serde::Serialize;
use std::io::{self, Write};

/// Which branch, and the consent.
#[derive(Debug, Args)]
pub struct DropArgs {
    #[command(flatten)]
    of: BranchArgs,
    /// What is in the branch is in no commit: delete it all the same
    #[arg(long)]
    yes: bool,
}

#[derive(Serialize)]
struct Dropped {
    volume: String,
    branch: Epoch,
    deleted: u64,
}

impl Answer for Dropped {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let Self { volume, branch, deleted } = self;
        writeln!(out, "Branch {branch} of {volume} is gone; {deleted} objects deleted.")
    }
}

pub(super) fn run(context: &Context, args: &DropArgs) -> Result<Exit, Fault> {
    let BranchArgs { volume, branch, key } = &args.of;
    if !args.yes {
        let next = format!("`holdfast branch show {volume} {branch}` tells what; --yes deletes it");
        return Err(Fault::new(FaultKind::Invalid, format!("what is in branch {branch} of volume {volume} is in no commit; {next}")));
    }
    let dropped = context.run(async {
        let reading = Reading::start(context, volume, key).await?;
        let now = store::now(&*reading.books.store, &context.env).await?;
        let deleted = drop_branch(&reading.reader, *branch, AUTHOR, now).await?;
        Ok(Dropped { volume: volume.to_string(), branch: *branch, deleted })
    })?;
    context.answer(&dropped)?;
    Ok(Exit::Done)
}
