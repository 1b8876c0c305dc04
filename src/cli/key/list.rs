//! `holdfast key list`.

use super::encrypted;
use crate::cli::context::{Answer, Context};
use crate::cli::exit::Exit;
use crate::cli::rings;
use crate::cli::unlock::machine_identity;
use crate::types::Fault;
use clap::Args;
use serde::Serialize;
use std::io::{self, Write};

/// No arguments of its own; needs no key.
#[derive(Debug, Args)]
pub struct ListArgs {}

#[derive(Serialize)]
struct Listed {
    store: String,
    ring: u64,
    recipients: Vec<ListedRecipient>,
}

#[derive(Serialize)]
struct ListedRecipient {
    name: String,
    public_key: String,
    recovery: bool,
    this_machine: bool,
}

impl Answer for Listed {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{} is opened by (key ring {}):", self.store, self.ring)?;
        let width = self.recipients.iter().map(|recipient| recipient.name.chars().count()).max().unwrap_or(0);
        for ListedRecipient { name, public_key, recovery, this_machine } in &self.recipients {
            let note = match (recovery, this_machine) {
                (true, _) => "  recovery key",
                (false, true) => "  this machine",
                (false, false) => "",
            };
            writeln!(out, "  {name:<width$}  {public_key}{note}")?;
        }
        Ok(())
    }
}

pub(super) fn run(context: &Context, _args: &ListArgs) -> Result<Exit, Fault> {
    let listed = context.run(async {
        let connected = encrypted(context).await?;
        let own = machine_identity(&context.settings, connected.marker.store).ok();
        let ring = rings::to_show(&connected, own.as_ref()).await?;
        let own = own.map(|identity| identity.recipient());
        let recipients = ring.recipients.into_iter().map(|recipient| ListedRecipient {
            this_machine: own.as_ref() == Some(&recipient.public_key),
            name: recipient.name,
            public_key: recipient.public_key,
            recovery: recipient.recovery,
        });
        Ok(Listed { store: connected.url.to_string(), ring: ring.number, recipients: recipients.collect() })
    })?;
    context.answer(&listed)?;
    Ok(Exit::Done)
}
