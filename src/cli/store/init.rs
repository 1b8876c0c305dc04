//! `holdfast store init`: the only maker of markers.
//!
//! The recovery key is kept by a person, or in a file, before anything is stored; then the marker is put if absent, whose id
//! comes from the store's key, so of two at once exactly one wins; then the key ring. Cut short between the two, the store holds
//! nothing and opens for nobody, and says so.

use super::probe::refusal;
use crate::cli::context::{Answer, Context};
use crate::cli::exit::Exit;
use crate::cli::unlock::{self, list_all, make_machine_identity, put_own, write_identity};
use crate::config::Settings;
use crate::env::Env;
use crate::format::keys::{self, Recovery};
use crate::format::marker::Marker;
use crate::format::names;
use crate::rpc::{KeyRing, Recipient};
use crate::store::{Location, OpenOptions, Store, StoreError, StoreUrl, Writers, open, probe_for};
use crate::types::{Fault, FaultKind, StoreId, StoreKey};
use clap::Args;
use serde::Serialize;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

/// How the store is made.
#[derive(Debug, Args)]
#[command(after_help = "\
The recovery key is shown once. Who has it and the bucket has everything; who loses it and this machine has nothing.
Keep it where neither burns with the other: on paper, in a password manager.")]
pub struct InitArgs {
    /// Write the recovery key to this new file (mode 0600) instead of showing and confirming it
    #[arg(long, value_name = "FILE", env = "HOLDFAST_RECOVERY_FILE", conflicts_with = "unencrypted")]
    recovery_file: Option<PathBuf>,
    /// Store everything in the clear, with checksums only
    #[arg(long)]
    unencrypted: bool,
    /// For a store that cannot put if absent: you vouch, in its marker, that no volume in it ever has two writers at once
    #[arg(long)]
    single_writer: bool,
}

/// A store that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Made {
    /// Its URL, with the id pinned.
    pub store: String,
    /// Its id.
    pub store_id: String,
    /// Whether its objects are sealed.
    pub encrypted: bool,
    /// Whether nothing but a person's word keeps two writers apart.
    pub single_writer: bool,
    /// This machine's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_key: Option<String>,
    /// Where the recovery key was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_file: Option<String>,
}

impl Answer for Made {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "Made the store {}", self.store)?;
        match (&self.machine_key, &self.recovery_file) {
            (Some(key), Some(file)) => writeln!(out, "This machine opens it with {key}, any other with the recovery key in {file}."),
            (Some(key), None) => writeln!(out, "This machine opens it with {key}, any other with the recovery key."),
            (None, _) => writeln!(out, "It is NOT encrypted: whoever reads the store reads the files."),
        }?;
        if self.single_writer {
            writeln!(out, "NOTHING in it keeps two writers of one volume apart: that is on you, as you said with --single-writer.")?;
        }
        Ok(())
    }
}

pub(super) fn run(context: &Context, args: &InitArgs) -> Result<Exit, Fault> {
    let url = unlock::url(&context.settings)?;
    if url.location == Location::Memory {
        return Err(Fault::new(FaultKind::Invalid, "a store in memory is gone with the process; name another with --store"));
    }
    if url.store_id.is_some() {
        return Err(Fault::new(
            FaultKind::Invalid,
            "the id of a new store is not known before it is made: leave `store-id` out of the URL",
        ));
    }
    if args.single_writer && matches!(url.location, Location::File(_)) {
        return Err(Fault::new(FaultKind::Invalid, "a directory can put if absent: leave --single-writer out"));
    }
    let (single_writer, writers) = (args.single_writer, if args.single_writer { Writers::One } else { Writers::Many });
    // To look, nothing is made: not even the directory, should nobody confirm the recovery key.
    let looking = open(&url, &context.env, &OpenOptions { single_writer, ..OpenOptions::default() })?;
    context.run(check_place(&*looking, &url, &context.env, writers))?;
    let recovery = if args.unencrypted { None } else { Some(keep_recovery(context, args.recovery_file.as_deref())?) };
    let store = open(&url, &context.env, &OpenOptions { may_create: true, single_writer, ..OpenOptions::default() })?;
    let made = context.run(make(&*store, &url, &context.settings, &context.env, recovery.as_ref(), writers));
    if let (Err(_), Some(path)) = (&made, &args.recovery_file) {
        context.say(&format!("The recovery key in {} may open nothing: see `holdfast key test-recovery`.", path.display()));
    }
    let made = Made { recovery_file: args.recovery_file.as_ref().map(|path| path.display().to_string()), ..made? };
    context.answer(&made)?;
    Ok(Exit::Done)
}

/// The embedded default store, made by the first mount where nobody named a store. Its recovery key is written beside this machine's key.
///
/// # Errors
/// As [`check_place`] and [`make`].
pub fn make_embedded(context: &Context) -> Result<(), Fault> {
    let url = unlock::url(&context.settings)?;
    let Location::File(dir) = &url.location else { return Ok(()) };
    if dir.join(names::marker()).exists() {
        return Ok(());
    }
    let store = open(&url, &context.env, &OpenOptions { may_create: true, ..OpenOptions::default() })?;
    context.run(check_place(&*store, &url, &context.env, Writers::Many))?;
    let recovery = Recovery::generate();
    let path = context.settings.keys.join(format!("recovery-{}.key", hex::encode(context.env.random::<4>())));
    write_identity(&path, &recovery, "recovery key of the embedded Holdfast store: opens every volume in it, keep it elsewhere too")?;
    context.run(make(&*store, &url, &context.settings, &context.env, Some(&recovery), Writers::Many))?;
    context.say(&format!("Made the embedded store {url}. Its recovery key is in {}: keep a copy off this machine.", path.display()));
    Ok(())
}

/// Refuses a place that holds a store or something else, or that cannot be trusted. Writes nothing but the probe's objects.
///
/// # Errors
/// Says what is there, or why the place cannot be trusted.
pub async fn check_place(store: &dyn Store, url: &StoreUrl, env: &Env, writers: Writers) -> Result<(), Fault> {
    match store.get(names::marker()).await {
        Ok(None) => {}
        Ok(Some(bytes)) => {
            let which = Marker::decode(&bytes).map_or_else(|error| error.to_string(), |marker| format!("its id is {}", marker.store));
            return Err(Fault::new(FaultKind::Exists, format!("there is a store at {url} already ({which})")));
        }
        // A directory that is missing, or holds no marker yet.
        Err(StoreError::NoBucket { .. }) if matches!(url.location, Location::File(_)) => {}
        Err(error) => return Err(error.into()),
    }
    if let Location::File(dir) = &url.location {
        return check_directory(dir);
    }
    let foreign = list_all(store, "").await?.into_iter().find(|object| !object.name.starts_with("probe/"));
    if let Some(object) = foreign {
        let message = format!("there is no store at {url}, but something else is: `{}`; name an empty prefix", object.name);
        return Err(Fault::new(FaultKind::Exists, message));
    }
    let report = probe_for(store, env, writers).await?;
    refusal(&report, &url.to_string()).map_or(Ok(()), Err)
}

fn check_directory(dir: &Path) -> Result<(), Fault> {
    let mut entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Fault::with(FaultKind::Local, format!("{} cannot be read", dir.display()), error)),
    };
    let foreign = entries.find_map(|entry| entry.ok().map(|entry| entry.file_name()).filter(|name| name != "lost+found"));
    let Some(name) = foreign else { return Ok(()) };
    let message = format!("{} is not empty (`{}` is in it); name an empty directory", dir.display(), Path::new(&name).display());
    Err(Fault::new(FaultKind::Exists, message))
}

/// A recovery key that a person has confirmed, or that is in its file.
fn keep_recovery(context: &Context, file: Option<&Path>) -> Result<Recovery, Fault> {
    let recovery = Recovery::generate();
    if let Some(path) = file {
        write_identity(path, &recovery, "recovery key of a Holdfast store: opens every volume in it, keep it safe")?;
        return Ok(recovery);
    }
    if context.json {
        return Err(Fault::new(FaultKind::Invalid, "--json cannot show a recovery key: name a file for it with --recovery-file"));
    }
    let secret = recovery.secret();
    let tail = secret.get(secret.len().saturating_sub(6)..).unwrap_or_default();
    context.say("The recovery key of the new store, shown this once:\n");
    context.say(&format!("    {}\n", *secret));
    context.say("It opens every volume of the store on any machine. Keep it safe, then type its last 6 characters:");
    let mut line = String::new();
    let read = io::stdin().lock().read_line(&mut line);
    read.map_err(|error| Fault::with(FaultKind::Local, "standard input cannot be read", error))?;
    if line.trim().eq_ignore_ascii_case(tail) || line.trim().eq_ignore_ascii_case(&secret) {
        return Ok(recovery);
    }
    let what = if line.is_empty() { "nobody typed the end of the recovery key" } else { "that is not the end of the recovery key" };
    Err(Fault::new(FaultKind::Invalid, format!("{what}: nothing was made; run it again, or name a file with --recovery-file")))
}

/// Makes the store in a place that [`check_place`] has let through. `recovery`: `None` for one in the clear.
///
/// # Errors
/// Somebody else made one there at the same moment, or the store fails; then what is there opens for nobody.
pub async fn make(
    store: &dyn Store,
    url: &StoreUrl,
    settings: &Settings,
    env: &Env,
    recovery: Option<&Recovery>,
    writers: Writers,
) -> Result<Made, Fault> {
    let program = concat!("holdfast ", env!("CARGO_PKG_VERSION"));
    let key = recovery.map(|_| StoreKey(env.random()));
    let mut marker = match &key {
        Some(key) => Marker::encrypted(key, env.now(), program),
        None => Marker::clear(env.random(), env.now(), program),
    };
    marker.single_writer = writers == Writers::One;
    let ring = match (&key, recovery) {
        (Some(key), Some(recovery)) => Some(first_ring(key, marker.store, recovery, settings)?),
        _ => None,
    };
    if !put_own(store, names::marker(), &marker.encode()).await? {
        return Err(Fault::new(FaultKind::Exists, format!("somebody else made a store at {url} at this moment")));
    }
    if let Some(ring) = &ring {
        let (bytes, _) = keys::encode(ring, marker.store, env.random())?;
        if !put_own(store, &names::key_ring(ring.number), &bytes).await? {
            return Err(Fault::new(FaultKind::Damaged, format!("{url} holds a key ring of another store; name an empty place")));
        }
    }
    Ok(Made {
        store: url.clone().pinned(marker.store).to_string(),
        store_id: marker.store.to_string(),
        encrypted: key.is_some(),
        single_writer: marker.single_writer,
        machine_key: key.map(|_| unlock::machine_file(settings, marker.store).display().to_string()),
        recovery_file: None,
    })
}

fn first_ring(key: &StoreKey, store: StoreId, recovery: &Recovery, settings: &Settings) -> Result<KeyRing, Fault> {
    let machine = make_machine_identity(settings, store)?;
    let recipients = vec![
        Recipient { name: "recovery".to_owned(), public_key: recovery.recipient(), recovery: true },
        Recipient { name: machine_name(), public_key: machine.recipient(), recovery: false },
    ];
    keys::wrap(key, 1, recipients).map_err(|error| Fault::with(FaultKind::Local, "the store's key cannot be wrapped", error))
}

/// What this machine is called in the list of keys.
fn machine_name() -> String {
    let name = nix::sys::utsname::uname().map(|names| names.nodename().to_string_lossy().into_owned()).unwrap_or_default();
    if name.is_empty() || name == "recovery" { "this-machine".to_owned() } else { name }
}
