//! `holdfast key list|add|remove|test-recovery`.

mod add;
mod list;
mod remove;
mod test_recovery;

use super::context::{Answer, Context};
use super::exit::Exit;
use super::rings::InForce;
use super::unlock::{Connected, KeyArgs, connect, put_ring, unlock_ring};
use crate::format::keys;
use crate::format::seal::Cipher;
use crate::rpc::Recipient;
use crate::types::{Fault, FaultKind};
use clap::Subcommand;
use serde::Serialize;
use std::io::{self, Write};

/// What to do with a store's keys. Which store: `--store URL`, else the embedded one.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List who can open the store
    List(list::ListArgs),
    /// Let somebody open the store: another recovery key, another machine, or this one
    Add(add::AddArgs),
    /// Take a recipient out, so that it opens no key ring that is made later
    Remove(remove::RemoveArgs),
    /// See whether a recovery key opens the store
    TestRecovery(test_recovery::TestArgs),
}

pub(super) fn run(context: &Context, command: KeyCommand) -> Result<Exit, Fault> {
    match command {
        KeyCommand::List(args) => list::run(context, &args),
        KeyCommand::Add(args) => add::run(context, &args),
        KeyCommand::Remove(args) => remove::run(context, &args),
        KeyCommand::TestRecovery(args) => test_recovery::run(context, &args),
    }
}

/// Connects, and refuses a store in the clear.
async fn encrypted(context: &Context) -> Result<Connected, Fault> {
    let connected = connect(&context.settings, &context.env, None).await?;
    match connected.marker.cipher {
        Cipher::ChaCha20Poly1305 => Ok(connected),
        Cipher::None => Err(no_keys(&connected)),
    }
}

fn no_keys(connected: &Connected) -> Fault {
    Fault::new(FaultKind::Invalid, format!("the store {} is not encrypted: it has no keys", connected.url))
}

/// A key ring about to be changed by who can open it.
struct Change {
    connected: Connected,
    in_force: InForce,
}

impl Change {
    async fn begin(context: &Context, args: &KeyArgs) -> Result<Self, Fault> {
        let connected = encrypted(context).await?;
        let in_force = unlock_ring(&connected, &context.settings, args).await?;
        Ok(Self { connected, in_force })
    }

    /// Stores the next ring, for these recipients.
    async fn store(&self, context: &Context, recipients: Vec<Recipient>, about: Recipient, what: &'static str) -> Result<Changed, Fault> {
        let wrapped = keys::wrap(&self.in_force.key, self.in_force.next, recipients);
        let next = wrapped.map_err(|error| Fault::new(FaultKind::Invalid, error.to_string()))?;
        put_ring(&self.connected, &next, &context.env).await?;
        Ok(Changed { store: self.connected.url.to_string(), ring: next.number, name: about.name, public_key: about.public_key, what })
    }
}

/// A changed key ring.
#[derive(Serialize)]
struct Changed {
    store: String,
    ring: u64,
    name: String,
    public_key: String,
    #[serde(skip)]
    what: &'static str,
}

impl Answer for Changed {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "`{}` ({}) {} {} (key ring {}).", self.name, self.public_key, self.what, self.store, self.ring)
    }
}
