//! `holdfast branch show`.

use super::BranchArgs;
use super::compare::{Difference, compare};
use super::list::ListedBranch;
use crate::cli::context::{Answer, Context};
use crate::cli::exit::Exit;
use crate::cli::reader::{Reading, Tree};
use crate::history::{Branch, branches};
use crate::store::Objects;
use crate::types::{Epoch, Fault, FaultKind, Ino};
use crate::volume::{Moment, reader_of};
use jiff::tz::TimeZone;
use serde::Serialize;
use std::collections::HashSet;
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
        let count = |change: &str| self.differences.iter().filter(|difference| difference.change == change).count();
        writeln!(out, "{} added, {} changed, {} removed", count("added"), count("changed"), count("removed"))
    }
}

/// A stored branch of this number, and where its volume's objects lie.
pub(super) async fn find(reading: &Reading, epoch: Epoch) -> Result<(Branch, Objects), Fault> {
    let (objects, _) = reader_of(&reading.books, &reading.volume, &|_| {}).await?;
    let found = branches(&reading.reader).await?.into_iter().find(|branch| branch.epoch == epoch);
    let volume = &reading.volume;
    match found {
        Some(branch) if branch.head.is_some() => Ok((branch, objects)),
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
        let (branch, objects) = find(&reading, args.branch).await?;
        let head = branch.head.clone().unwrap_or_default();
        let deltas = objects.deltas(&head.state.unwrap_or_default()).await?;
        let inodes = deltas.iter().flat_map(|delta| delta.inodes.iter().map(|inode| inode.ino));
        let touched: HashSet<Ino> = inodes.collect();
        let rewritten: HashSet<Ino> = deltas.iter().flat_map(|delta| delta.extents.iter().map(|file| file.ino)).collect();
        let base = Tree::open(context, &reading, Moment::Commit(head.base_seq)).await?;
        let tip = Tree::open(context, &reading, Moment::Branch(args.branch)).await?;
        let (base, tip, differences) = tokio::task::spawn_blocking(move || {
            let differences = compare(base.cache(), tip.cache(), &touched, &rewritten);
            (base, tip, differences)
        })
        .await
        .map_err(|error| Fault::with(FaultKind::Local, "the work did not end", error))?;
        base.close().await?;
        tip.close().await?;
        Ok(Shown { volume: args.volume.to_string(), branch: ListedBranch::new(&branch), differences: differences? })
    })?;
    context.answer(&shown)?;
    Ok(Exit::Done)
}
