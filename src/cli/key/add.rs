//! `holdfast key add NAME [PUBLIC_KEY]`.

use super::Change;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::unlock::{KeyArgs, make_machine_identity};
use crate::rpc::Recipient;
use crate::types::{Fault, FaultKind};
use clap::Args;

/// Who is let in.
#[derive(Debug, Args)]
#[command(after_help = "\
On a new machine:       holdfast key add NAME --this-machine --recovery-key FILE
A second recovery key:  age-keygen -o FILE, then holdfast key add NAME age1... --recovery")]
pub struct AddArgs {
    /// What the recipient is called in `key list`
    name: String,
    /// Its public key, age1...
    #[arg(required_unless_present = "this_machine", conflicts_with = "this_machine")]
    public_key: Option<String>,
    /// Make a key for this machine and let it in
    #[arg(long)]
    this_machine: bool,
    /// It is a recovery key: the last one of these is never removed
    #[arg(long, conflicts_with = "this_machine")]
    recovery: bool,
    #[command(flatten)]
    key: KeyArgs,
}

pub(super) fn run(context: &Context, args: &AddArgs) -> Result<Exit, Fault> {
    if args.name.trim().is_empty() || args.name.chars().any(char::is_control) {
        return Err(Fault::new(FaultKind::Invalid, format!("`{}` is no name for a recipient", args.name.escape_debug())));
    }
    let changed = context.run(async {
        let change = Change::begin(context, &args.key).await?;
        let public_key = match &args.public_key {
            Some(key) => key.clone(),
            None => make_machine_identity(&context.settings, change.connected.marker.store)?.recipient(),
        };
        let there = change.in_force.ring.recipients.iter().find(|there| there.name == args.name || there.public_key == public_key);
        if let Some(there) = there {
            return Err(Fault::new(FaultKind::Exists, format!("`{}` ({}) can open the store already", there.name, there.public_key)));
        }
        let added = Recipient { name: args.name.clone(), public_key, recovery: args.recovery };
        let recipients = change.in_force.ring.recipients.iter().cloned().chain([added.clone()]).collect();
        change.store(context, recipients, added, "can now open").await
    })?;
    context.answer(&changed)?;
    Ok(Exit::Done)
}
