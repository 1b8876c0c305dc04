//! `holdfast policy check|explain|estimate`.

mod check;
mod estimate;
mod explain;
mod next;
mod tags;

use super::context::Context;
use super::exit::Exit;
use crate::types::Fault;
use clap::Subcommand;

/// What to do with a policy. Which one: `--policy FILE`, else the built-in one.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Check a policy and show its rules as they are understood
    Check(check::CheckArgs),
    /// Show which rule decides for a path
    Explain(explain::ExplainArgs),
    /// Count what each rule would decide in a directory
    Estimate(estimate::EstimateArgs),
}

pub(super) fn run(context: &Context, command: PolicyCommand) -> Result<Exit, Fault> {
    match command {
        PolicyCommand::Check(args) => check::run(context, args),
        PolicyCommand::Explain(args) => explain::run(context, &args),
        PolicyCommand::Estimate(args) => estimate::run(context, &args),
    }
}
