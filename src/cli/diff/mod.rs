//! `holdfast diff VOLUME A B`: what changed between two moments of a volume. Only metadata is read.

mod compose;

pub(super) use compose::{Counts, Difference, differences};

use super::at;
use super::context::{Answer, Context};
use super::exit::Exit;
use super::reader::{Reading, Tree};
use super::unlock::KeyArgs;
use crate::env::Env;
use crate::types::{Fault, FaultKind, Identity, Seq};
use crate::volume::Moment;
use clap::Args;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::io::{self, Write};

/// Two moments of a volume.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The volume
    #[arg(value_name = "VOLUME", value_parser = Identity::parse)]
    volume: Identity,
    /// The first moment: a commit's number, a time, `yesterday`, `2h ago`, a snapshot
    #[arg(value_name = "A")]
    a: String,
    /// The second one
    #[arg(value_name = "B", default_value = "now")]
    b: String,
    /// Only how much
    #[arg(long)]
    stat: bool,
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Serialize)]
struct Shown {
    volume: String,
    from: Side,
    to: Side,
    #[serde(flatten)]
    counts: Counts,
    #[serde(skip_serializing_if = "Option::is_none")]
    differences: Option<Vec<Difference>>,
}

#[derive(Serialize)]
struct Side {
    commit: Seq,
    cut: String,
}

impl Answer for Shown {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        self.differences.iter().flatten().try_for_each(|difference| difference.text(out))?;
        self.counts.text(out)
    }
}

/// What differs between two trees of a volume; both are closed.
pub(super) async fn compare(env: &Env, before: Tree, now: Tree) -> Result<Vec<Difference>, Fault> {
    let work = move || {
        let found = differences(before.cache(), now.cache());
        Ok::<_, Fault>((before, now, found))
    };
    let (before, now, found) = env.blocking(work).await?;
    before.close().await?;
    now.close().await?;
    found
}

/// `holdfast diff`.
pub(super) fn run(context: &Context, args: &DiffArgs) -> Result<Exit, Fault> {
    for text in [&args.a, &args.b] {
        // What is typed wrong is said before the store is asked.
        at::parse(text, &context.now()).map_err(|error| Fault::new(FaultKind::Invalid, error.to_string()))?;
    }
    let shown = context.run(async {
        let reading = Reading::start(context, &args.volume, &args.key).await?;
        let (first, from) = reading.resolve(context, Some(&args.a)).await?;
        let (second, to) = reading.resolve(context, Some(&args.b)).await?;
        for (name, resolved) in [("A", &from), ("B", &to)] {
            context.say(&format!("{name}, {}", resolved.line(&TimeZone::system())));
        }
        let found = if first.seq == second.seq {
            Vec::new()
        } else {
            let before = Tree::open(context, &reading, Moment::Commit(first.seq)).await?;
            let now = Tree::open(context, &reading, Moment::Commit(second.seq)).await?;
            compare(&context.env, before, now).await?
        };
        let side = |seq, cut| Side { commit: seq, cut };
        Ok(Shown {
            volume: args.volume.to_string(),
            from: side(first.seq, from.cut),
            to: side(second.seq, to.cut),
            counts: Counts::of(&found),
            differences: (!args.stat).then_some(found),
        })
    })?;
    context.answer(&shown)?;
    Ok(Exit::Done)
}
