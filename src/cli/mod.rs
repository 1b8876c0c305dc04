//! The command: one file per command; wires everything.
//!
//! `args` is the tree, `exit` the table of exit codes, `at` and `target` read what people write, `context` answers, `control` is
//! how a command reaches the driver of a running mount.

pub mod args;
pub mod at;
mod before;
pub mod branch;
pub mod completions;
pub mod context;
pub mod control;
mod copy;
pub mod csi;
pub mod diff;
pub mod doctor;
mod drive;
pub mod exit;
pub mod gc;
pub mod handover;
pub mod history;
pub mod janitor;
pub mod key;
pub mod live;
pub mod mount;
pub mod pin;
pub mod policy;
mod reader;
pub mod restore;
pub mod retention;
pub mod rings;
pub mod scrub;
mod serve;
pub mod snapshot;
pub mod status;
pub mod store;
pub mod stored;
mod tar;
pub mod target;
pub mod tree;
pub mod unlock;
pub mod volume;
mod wishes;

use crate::config::{Dirs, Given, Settings};
use crate::env::Env;
use crate::telemetry::{init_logs, names};
use crate::types::{Fault, FaultKind};
use args::{Arguments, Command, Flags};
use clap::Parser;
use context::{Context, Documents};
use exit::Exit;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    crate::env::memory::bound();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are answers, the rest is wrong usage.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::code(FaultKind::Invalid) } else { 0 });
        }
    };
    let documents = match &arguments.command {
        _ if !arguments.json => Documents::No,
        Command::Cat(_) => Documents::Errors,
        Command::Cp(args) if args.to_output() => Documents::Errors,
        _ => Documents::Output,
    };
    match run(arguments) {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(fault) => {
            context::report(&fault, documents);
            ExitCode::from(exit::code(fault.kind))
        }
    }
}

fn run(arguments: Arguments) -> Result<Exit, Fault> {
    let flags = arguments.flags.clone();
    let settings = settings(arguments.flags)?;
    init_logs(settings.log_format, &settings.log_level)?;
    let _span = tracing::info_span!(names::SPAN_COMMAND).entered();
    let context = Context { settings, env: Env::real(), json: arguments.json };
    match arguments.command {
        Command::Mount(args) => mount::run(&context, &args),
        Command::Unmount(args) => live::unmount(&context, &args),
        Command::Flush(args) => live::flush(&context, &args),
        Command::Scrub(args) => scrub::run(&context, &args),
        Command::Status(args) => live::status(&context, &args),
        Command::Upgrade(args) => handover::upgrade(&context, &args),
        Command::Abort(args) => handover::abort(&context, &args),
        Command::Fits(args) => handover::fits(&args),
        Command::History(args) => history::run(&context, &args),
        Command::Diff(args) => diff::run(&context, &args),
        Command::Ls(args) => tree::ls(&context, &args),
        Command::Cat(args) => tree::cat(&context, &args),
        Command::Cp(args) => tree::cp(&context, &args),
        Command::Export(args) => tree::export(&context, &args),
        Command::Restore(args) => restore::run(&context, &args),
        Command::Branch(command) => branch::run(&context, &flags, command),
        Command::Snapshot(command) => snapshot::run(&context, command),
        Command::Pin(command) => pin::run(&context, command),
        Command::Retention(command) => retention::run(&context, command),
        Command::Gc(args) => gc::run(&context, &args),
        Command::Janitor(command) => janitor::run(&context, command),
        Command::Hold(args) => mount::run_hold(&context, &args.mount),
        Command::Drive(args) => mount::run_drive(&context, &args.mount),
        Command::Store(command) => store::run(&context, command),
        Command::Key(command) => key::run(&context, command),
        Command::Volume(command) => volume::run(&context, command),
        Command::Policy(command) => policy::run(&context, command),
        Command::Csi(args) => csi::run(&context, &flags, &args),
        Command::Doctor(args) => doctor::run(&context, &args),
        Command::Completions(args) => completions::run(&args),
    }
}

fn settings(flags: Flags) -> Result<Settings, Fault> {
    let environment = |name: &str| std::env::var(name).ok();
    let dirs = Dirs::new(&environment, nix::unistd::geteuid().is_root());
    let named = flags.config.or_else(|| environment("HOLDFAST_CONFIG").filter(|text| !text.is_empty()).map(PathBuf::from));
    let file = match named {
        Some(path) => Some((path.clone(), read_config(&path)?)),
        None => match dirs.config_files().into_iter().find(|path| path.exists()) {
            Some(path) => Some((path.clone(), read_config(&path)?)),
            None => None,
        },
    };
    let given = Given::new(flags.values, &environment, file.as_ref().map(|(path, text)| (path.as_path(), text.as_str())))?;
    Settings::resolve(&given, &dirs)
}

fn read_config(path: &Path) -> Result<String, Fault> {
    std::fs::read_to_string(path)
        .map_err(|error| Fault::with(FaultKind::Invalid, format!("the settings' file {} cannot be read", path.display()), error))
}
