//! `holdfast volume list`.

use crate::cli::at;
use crate::cli::context::{Answer, Context};
use crate::cli::exit::Exit;
use crate::cli::unlock::{KeyArgs, Unlocked, connect, list_all, unlock};
use crate::env::Env;
use crate::format::{name, names, volume};
use crate::log::control::{Chain, Purging};
use crate::log::lookup::Books;
use crate::log::{self, Site};
use crate::types::{Fault, FaultKind, Identity, Incarnation};
use clap::Args;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

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
    /// `live`, `removing` or `removed`.
    state: &'static str,
}

impl Answer for Listed {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.volumes.is_empty() {
            return writeln!(out, "There are no volumes in {}.", self.store);
        }
        let width = self.volumes.iter().map(|volume| volume.volume.len()).max().unwrap_or(0);
        let zone = TimeZone::system();
        for ListedVolume { volume, incarnation, created, state } in &self.volumes {
            let created = created.parse().map_or_else(|_| created.clone(), |time| at::show(time, &zone));
            let state = if *state == "live" { String::new() } else { format!(", {state}") };
            writeln!(out, "{volume:<width$}  {incarnation}  made {created}{state}")?;
        }
        Ok(())
    }
}

pub(super) fn run(context: &Context, args: &ListArgs) -> Result<Exit, Fault> {
    let listed = context.run(async {
        let connected = connect(&context.settings, &context.env, None).await?;
        let unlocked = unlock(connected, &context.settings, &args.key).await?;
        let volumes = volumes(&unlocked, &context.env).await?;
        Ok(Listed { store: unlocked.connected.url.to_string(), volumes })
    })?;
    context.answer(&listed)?;
    Ok(Exit::Done)
}

/// The volumes of the store whose removal has not begun, by name.
pub(in crate::cli) async fn live_volumes(context: &Context, key: &KeyArgs) -> Result<Vec<Identity>, Fault> {
    let connected = connect(&context.settings, &context.env, None).await?;
    let unlocked = unlock(connected, &context.settings, key).await?;
    let all = volumes(&unlocked, &context.env).await?;
    let live = all.into_iter().filter(|volume| volume.state == "live");
    live.map(|volume| Identity::parse(&volume.volume).map_err(|error| Fault::new(FaultKind::Damaged, error.to_string()))).collect()
}

async fn volumes(unlocked: &Unlocked, env: &Env) -> Result<Vec<ListedVolume>, Fault> {
    let store = &unlocked.connected.store;
    let books = Books { store: Arc::clone(store), env: env.clone(), sealer: unlocked.sealer.clone() };
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
        let Some(incarnation) = Incarnation::from_slice(&record.incarnation) else { continue };
        let created = at::timestamp(record.created).to_string();
        let state = state(&books, incarnation).await?;
        volumes.push(ListedVolume { volume: identity.to_string(), incarnation: names::uuid(incarnation), created, state });
    }
    Ok(volumes)
}

/// What the control chain makes of a life.
async fn state(books: &Books, incarnation: Incarnation) -> Result<&'static str, Fault> {
    let name = names::volume(incarnation);
    let Some(bytes) = books.store.get(&name).await? else {
        return Err(Fault::new(FaultKind::Damaged, format!("{name} is missing, though a name points to it")));
    };
    let record = volume::decode(&bytes, &books.sealer, &name)?;
    let sealer = log::data_sealer(books, &record).await?;
    let chain = Chain::read(Site::new(Arc::clone(&books.store), books.env.clone(), sealer, incarnation)).await?;
    Ok(match chain.state().purging {
        Purging::No => "live",
        Purging::Begun { .. } => "removing",
        Purging::Done => "removed",
    })
}
