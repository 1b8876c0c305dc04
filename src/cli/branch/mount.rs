//! `holdfast branch mount`: `mount --branch`, in the words of this command.

use super::BranchArgs;
use super::show::find;
use crate::cli::args::Flags;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::reader::Reading;
use crate::config::KEYS;
use crate::types::Fault;
use clap::Args;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// Which branch, and where.
#[derive(Debug, Args)]
pub struct BranchMountArgs {
    #[command(flatten)]
    of: BranchArgs,
    /// An empty directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Stay in the foreground, for units and containers
    #[arg(long)]
    foreground: bool,
}

/// Becomes that command: the processes of a mount know their arguments by it.
pub(super) fn run(context: &Context, flags: &Flags, args: &BranchMountArgs) -> Result<Exit, Fault> {
    let BranchArgs { volume, branch, key } = &args.of;
    // A branch that is not there is said before anything is started.
    context.run(async { find(&Reading::start(context, volume, key).await?, *branch).await.map(drop) })?;
    let mut command = Command::new(std::env::current_exe()?);
    for (name, value) in &flags.values {
        if let Some(setting) = KEYS.iter().find(|setting| setting.name == *name) {
            command.env(setting.variable, value);
        }
    }
    if let Some(config) = &flags.config {
        command.env("HOLDFAST_CONFIG", config);
    }
    if let Some(file) = &key.recovery_key {
        command.env("HOLDFAST_RECOVERY_KEY_FILE", file);
    }
    if context.json {
        command.env("HOLDFAST_JSON", "1");
    }
    command.arg("mount").arg(volume.as_str()).arg(&args.dir).arg("--branch").arg(branch.to_string());
    command.args(args.foreground.then_some("--foreground"));
    Err(command.exec().into())
}
