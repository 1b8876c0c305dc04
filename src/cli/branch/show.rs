//! `holdfast branch show`.

use super::BranchArgs;
use super::list::ListedBranch;
use crate::cli::context::{Answer, Context};
use crate::cli::diff::{Counts, Difference, compare};
use crate::cli::exit::Exit;
use crate::cli::reader::{Reading, Tree};
use crate::history::{Branch, branches};
use crate::types::{Epoch, Fault, FaultKind};
use crate::volume::Moment;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::io::{self, Write};

#[derive(Serialize)]
struct Shown {
    volume: String,
    #[serde(flatten)]
    branch: ListedBranch,
    differences: Vec<Difference>,
}

impl Answer for Shown {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.branch.line(&TimeZone::system()).trim_start())?;
        self.differences.iter().try_for_each(|difference| difference.text(out))?;
        Counts::of(&self.differences).text(out)
    }
}

/// A stored branch of this number.
pub(super) async fn find(reading: &Reading, epoch: Epoch) -> Result<Branch, Fault> {
    let found = branches(&reading.reader).await?.into_iter().find(|branch| branch.epoch == epoch);
    let volume = &reading.volume;
    match found {
        Some(branch) if branch.head.is_some() => Ok(branch),
        Some(_) => Err(Fault::new(
            FaultKind::NotFound,
            format!(
                "branch {epoch} of volume {volume} is not stored yet: its machine is at it, or goes on when the volume is mounted there"
            ),
        )),
        None => {
            let next = format!("`holdfast branch list {volume}` lists them");
            Err(Fault::new(FaultKind::NotFound, format!("volume {volume} has no branch {epoch}; {next}")))
        }
    }
}

pub(super) fn run(context: &Context, args: &BranchArgs) -> Result<Exit, Fault> {
    let shown = context.run(async {
        let reading = Reading::start(context, &args.volume, &args.key).await?;
        let branch = find(&reading, args.branch).await?;
        let head = branch.head.clone().unwrap_or_default();
        let base = Tree::open(context, &reading, Moment::Commit(head.base_seq)).await?;
        let tip = Tree::open(context, &reading, Moment::Branch(args.branch)).await?;
        let differences = compare(&context.env, base, tip).await?;
        Ok(Shown { volume: args.volume.to_string(), branch: ListedBranch::new(&branch), differences })
    })?;
    context.answer(&shown)?;
    Ok(Exit::Done)
}
