//! The command line: global settings, made from the list of `config`, and the tree of commands.

use super::{
    branch, completions, csi, diff, doctor, exit, gc, handover, history, janitor, key, live, mount, pin, policy, restore, retention,
    snapshot,
};
use super::{scrub, status, store, tree, volume};
use crate::config::KEYS;
use clap::builder::FalseyValueParser;
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand};
use std::path::PathBuf;

/// A directory at local-disk speed whose every write streams to an object store as a log of consistent commits.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, after_help = exit::HELP, disable_help_subcommand = true, max_term_width = 100)]
pub struct Arguments {
    /// Settings given as flags.
    #[command(flatten)]
    pub flags: Flags,
    /// Answer with one JSON document on standard output.
    #[arg(long, global = true, env = "HOLDFAST_JSON", hide_env_values = true, value_parser = FalseyValueParser::new(), help_heading = "Output")]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount a volume at a directory
    Mount(mount::MountArgs),
    /// Put everything written so far into a commit, drain, and take the mount away
    #[command(visible_alias = "umount")]
    Unmount(live::DirArgs),
    /// Put everything written so far into a commit, and say which
    Flush(live::DirArgs),
    /// Compare a mount's cache with its checksums and the newest commit, and mend it
    Scrub(scrub::ScrubArgs),
    /// Is it SAFE? Restorable to when, and why
    Status(status::StatusArgs),
    /// Hand live mounts over to this version of the program: a pause, no error
    Upgrade(handover::UpgradeArgs),
    /// End a mount that no driver serves: whoever waits for it gets an error
    Abort(live::DirArgs),
    /// See whether this version can go on with a cache
    #[command(hide = true)]
    Fits(handover::FitsArgs),
    /// The commits of a volume, newest first
    History(history::HistoryArgs),
    /// What changed between two moments of a volume
    Diff(diff::DiffArgs),
    /// List a directory of a commit, without a mount
    Ls(tree::TreeArgs),
    /// Print a file of a commit, without a mount
    Cat(tree::TreeArgs),
    /// Copy a file or directory out of a commit, with everything it has
    Cp(tree::CpArgs),
    /// Copy the content of a directory of a commit into a new or empty one
    Export(tree::CopyArgs),
    /// Make a new volume from a commit of another
    Restore(restore::RestoreArgs),
    /// What a fenced writer had not committed
    #[command(subcommand)]
    Branch(branch::BranchCommand),
    /// Names for commits, which then stay
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Commits that stay for a reason, or for a time
    #[command(subcommand)]
    Pin(pin::PinCommand),
    /// Which commits the rules keep, and an end to the others
    #[command(subcommand)]
    Retention(retention::RetentionCommand),
    /// Delete what no kept commit needs
    Gc(gc::GcArgs),
    /// Snapshots that are due, retention and gc, in one command for cron
    #[command(subcommand)]
    Janitor(janitor::JanitorCommand),
    /// Hold a mount's descriptor and start its driver
    #[command(hide = true)]
    Hold(mount::InnerArgs),
    /// Drive a mount
    #[command(hide = true)]
    Drive(mount::InnerArgs),
    /// Make a store, or see whether one can be trusted
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Who can open a store
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// The volumes of a store
    #[command(subcommand)]
    Volume(volume::VolumeCommand),
    /// Which tier a path has, and why
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Answer Kubernetes: the driver of its volumes
    Csi(csi::CsiArgs),
    /// See whether this machine has what a mount needs
    Doctor(doctor::DoctorArgs),
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
}

/// Settings given as flags, one for each of [`KEYS`], and the file.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// By key.
    pub values: Vec<(&'static str, String)>,
    /// The settings' file.
    pub config: Option<PathBuf>,
}

const HEADING: &str = "Settings";

impl Args for Flags {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("The settings' file (TOML) [env: HOLDFAST_CONFIG]");
        let keys = KEYS
            .iter()
            .map(|key| Arg::new(key.name).long(key.name).value_name(key.value).help(format!("{} [env: {}]", key.help, key.variable)));
        // Every command has them all; `-h` would be buried under them.
        let shape = |arg: Arg| arg.action(ArgAction::Set).global(true).hide_short_help(true).help_heading(HEADING);
        command.args([file].into_iter().chain(keys).map(shape))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let value = |key: &crate::config::Key| Some((key.name, matches.get_one::<String>(key.name)?.clone()));
        Ok(Self { values: KEYS.iter().filter_map(value).collect(), config: matches.get_one::<PathBuf>("config").cloned() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn tree_is_well_formed_and_every_command_has_help() {
        fn walk(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
            command.get_subcommands().for_each(walk);
        }
        Arguments::command().debug_assert();
        walk(&Arguments::command());
    }

    #[test]
    fn setting_is_taken_before_and_behind_the_command() {
        for line in [["holdfast", "--store", "memory:", "doctor"], ["holdfast", "doctor", "--store", "memory:"]] {
            let arguments = Arguments::try_parse_from(line).unwrap();
            assert_eq!(arguments.flags.values, [("store", "memory:".to_owned())]);
        }
    }
}
