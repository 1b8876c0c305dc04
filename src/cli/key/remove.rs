//! `holdfast key remove NAME`.

use super::Change;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::unlock::KeyArgs;
use crate::types::{Fault, FaultKind};
use clap::Args;

/// Who is taken out.
#[derive(Debug, Args)]
#[command(after_help = "\
The store's key stays the same: who could open the store may have kept it, and the older key rings stay. Take its
credentials for the bucket away too.")]
pub struct RemoveArgs {
    /// The recipient's name or public key, as `key list` shows it
    name: String,
    #[command(flatten)]
    key: KeyArgs,
}

pub(super) fn run(context: &Context, args: &RemoveArgs) -> Result<Exit, Fault> {
    let changed = context.run(async {
        let change = Change::begin(context, &args.key).await?;
        let meant = |name: &str, public_key: &str| name == args.name || public_key == args.name;
        let (gone, stay): (Vec<_>, Vec<_>) =
            change.in_force.ring.recipients.iter().cloned().partition(|there| meant(&there.name, &there.public_key));
        let Some(gone) = gone.into_iter().next() else {
            let message = format!("nobody called `{}` can open the store; see `holdfast key list`", args.name.escape_debug());
            return Err(Fault::new(FaultKind::NotFound, message));
        };
        if !stay.iter().any(|recipient| recipient.recovery) {
            let message =
                format!("`{}` is the last recovery key: without one a lost machine takes the store with it; add another first", gone.name);
            return Err(Fault::new(FaultKind::Invalid, message));
        }
        change.store(context, stay, gone, "is no longer among those who open").await
    })?;
    context.answer(&changed)?;
    Ok(Exit::Done)
}
