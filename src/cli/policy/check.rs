//! `holdfast policy check [FILE]`.

use crate::cli::context::{Answer, Context};
use crate::cli::exit::Exit;
use crate::config::Settings;
use crate::policy::Policy;
use crate::types::Fault;
use clap::Args;
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;

/// Which file.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The policy's file [default: --policy, else the built-in policy]
    file: Option<PathBuf>,
}

#[derive(Serialize)]
struct Checked {
    policy: String,
    rules: Vec<CheckedRule>,
}

#[derive(Serialize)]
struct CheckedRule {
    line: usize,
    rule: String,
    tier: String,
}

impl Answer for Checked {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let rules = if self.rules.len() == 1 { "rule" } else { "rules" };
        writeln!(out, "{}: {} {rules}, understood", self.policy, self.rules.len())?;
        for CheckedRule { line, rule, tier } in &self.rules {
            writeln!(out, "{line:>5}  {rule}  ->  {tier}")?;
        }
        Ok(())
    }
}

/// The name of the policy in force, for people.
pub(super) fn name(settings: &Settings) -> String {
    settings.policy.as_ref().map_or_else(|| "the built-in policy".to_owned(), |path| path.display().to_string())
}

pub(super) fn run(context: &Context, args: CheckArgs) -> Result<Exit, Fault> {
    let mut settings = context.settings.clone();
    settings.policy = args.file.or(settings.policy);
    let policy: Policy = settings.read_policy()?;
    let rules = policy.rules().map(|(line, rule, tier)| CheckedRule { line, rule: rule.to_owned(), tier: tier.to_string() }).collect();
    context.answer(&Checked { policy: name(&settings), rules })?;
    Ok(Exit::Done)
}
