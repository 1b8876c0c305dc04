//! `holdfast volume list`.

use crate::cli::at;
use crate::cli::context::{Answer, Context};
use crate::cli::exit::Exit;
use crate::cli::unlock::{KeyArgs, Unlocked, connect, list_all, unlock};
use crate::format::{name, names};
use crate::types::{Fault, Identity, Incarnation};
use clap::Args;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// No arguments but the key.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    key: KeyArgs,
}

#[derive(Serialize)]
struct Listed {
    store: String,
    volumes: Vec<ListedVolume>,
}

#[derive(Serialize)]
struct ListedVolume {
    volume: String,
    incarnation: String,
    created: String,
}

impl Answer for Listed {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.volumes.is_empty() {
            return writeln!(out, "There are no volumes in {}.", self.store);
        }
        let width = self.volumes.iter().map(|volume| volume.volume.len()).max().unwrap_or(0);
        let zone = TimeZone::system();
        for ListedVolume { volume, incarnation, created } in &self.volumes {
            let created = created.parse().map_or_else(|_| created.clone(), |time| at::show(time, &zone));
            writeln!(out, "{volume:<width$}  {incarnation}  made {created}")?;
        }
        Ok(())
    }
}

pub(super) fn run(context: &Context, args: &ListArgs) -> Result<Exit, Fault> {
    let listed = context.run(async {
        let connected = connect(&context.settings, &context.env, None).await?;
        let unlocked = unlock(connected, &context.settings, &args.key).await?;
        let volumes = volumes(&unlocked).await?;
        Ok(Listed { store: unlocked.connected.url.to_string(), volumes })
    })?;
    context.answer(&listed)?;
    Ok(Exit::Done)
}

async fn volumes(unlocked: &Unlocked) -> Result<Vec<ListedVolume>, Fault> {
    let store = &unlocked.connected.store;
    // Of several records of a name the greatest number is in force.
    let mut newest: BTreeMap<Identity, u64> = BTreeMap::new();
    for object in list_all(&**store, names::names_prefix()).await? {
        if let Some((identity, number)) = names::parse_name_record(&object.name) {
            let entry = newest.entry(identity).or_insert(number);
            *entry = number.max(*entry);
        }
    }
    let mut volumes = Vec::new();
    for (identity, number) in newest {
        let object = names::name_record(&identity, number);
        // Removed between the listing and now: then there is nothing to list.
        let Some(bytes) = store.get(&object).await? else { continue };
        let record = name::decode(&bytes, &unlocked.sealer, &object)?;
        let incarnation = Incarnation::from_slice(&record.incarnation).map_or_else(String::new, names::uuid);
        volumes.push(ListedVolume { volume: identity.to_string(), incarnation, created: at::timestamp(record.created).to_string() });
    }
    Ok(volumes)
}
