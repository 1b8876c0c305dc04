//! `holdfast key test-recovery [FILE]`.

use super::encrypted;
use crate::cli::context::{Answer, Context};
use crate::cli::exit::Exit;
use crate::cli::rings::{self, InForce};
use crate::cli::unlock::read_identity;
use crate::types::Fault;
use clap::Args;
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;

/// Which key.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// The file with the recovery key; `-`: typed or piped into standard input
    #[arg(default_value = "-", env = "HOLDFAST_RECOVERY_KEY_FILE", hide_env_values = true)]
    file: PathBuf,
}

#[derive(Serialize)]
struct Tested {
    store: String,
    opens: bool,
    name: String,
    public_key: String,
}

impl Answer for Tested {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "The key `{}` ({}) opens {}.", self.name, self.public_key, self.store)
    }
}

pub(super) fn run(context: &Context, args: &TestArgs) -> Result<Exit, Fault> {
    let identity = read_identity(&args.file)?;
    let tested = context.run(async {
        let connected = encrypted(context).await?;
        let public_key = identity.recipient();
        let InForce { ring, .. } = rings::in_force(&connected, &identity).await?.map_err(|error| {
            let kind = error.kind();
            Fault::with(kind, format!("the key ({public_key}) does NOT open {}", connected.url), error)
        })?;
        let name = ring.recipients.into_iter().find(|recipient| recipient.public_key == public_key).map(|recipient| recipient.name);
        // The list in the ring is for people; what opens is the age file.
        let name = name.unwrap_or_else(|| "not in the list".to_owned());
        Ok(Tested { store: connected.url.to_string(), opens: true, name, public_key })
    })?;
    context.answer(&tested)?;
    Ok(Exit::Done)
}
