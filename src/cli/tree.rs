//! `holdfast ls`, `cat`, `cp` and `export`: a commit's files without a mount.

use super::at;
use super::context::{Answer, Context};
use super::copy;
use super::exit::Exit;
use super::reader::{Reading, Tree, When};
use super::tar;
use super::target::Target;
use super::unlock::KeyArgs;
use crate::types::{Attr, Fault, FaultKind, show_name};
use crate::volume::Moment;
use clap::Args;
use jiff::tz::TimeZone;
use serde::Serialize;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What is looked at, and as of when.
#[derive(Debug, Args)]
pub struct TreeArgs {
    /// `VOLUME:PATH`; `VOLUME:` is its root
    #[arg(value_name = "VOLUME:PATH")]
    target: OsString,
    /// An older commit: a number, an RFC 3339 time, `10:00`, `yesterday`, `2h ago`
    #[arg(long, value_name = "WHEN")]
    at: Option<String>,
    /// The newest commit before the path's last change
    #[arg(long, conflicts_with = "at")]
    before_change: bool,
    /// A branch instead of a commit
    #[arg(long, value_name = "BRANCH", conflicts_with_all = ["at", "before_change"])]
    branch: Option<u64>,
    #[command(flatten)]
    key: KeyArgs,
}

/// A copy out of a volume.
#[derive(Debug, Args)]
pub struct CopyArgs {
    #[command(flatten)]
    from: TreeArgs,
    /// Where to: must not exist (`export`: or be an empty directory)
    #[arg(value_name = "DEST")]
    to: PathBuf,
}

/// A copy out of a volume, as files or as an archive.
#[derive(Debug, Args)]
pub struct CpArgs {
    #[command(flatten)]
    copy: CopyArgs,
    /// Write a tar archive (pax, GNU sparse files); DEST `-`: to standard output
    #[arg(long)]
    tar: bool,
}

impl CpArgs {
    /// Whether the archive goes to standard output.
    pub(super) fn to_output(&self) -> bool {
        self.tar && self.copy.to.as_os_str() == "-"
    }
}

/// Bytes of a file read at once.
const CHUNK: usize = 1 << 20;
/// Entries listed at once.
const BATCH: usize = 1024;

/// Opens the commit, does the work on a thread that may wait, and leaves nothing behind.
fn with_tree<T: Send + 'static>(
    context: &Context,
    args: &TreeArgs,
    work: impl FnOnce(&Tree, &Attr) -> Result<T, Fault> + Send + 'static,
) -> Result<(T, Target), Fault> {
    let target = Target::parse(args.target.clone()).map_err(|error| Fault::new(FaultKind::Invalid, error.to_string()))?;
    let path = target.path.clone();
    if let Some(text) = &args.at {
        // What is typed wrong is said before the store is asked.
        at::parse(text, &context.now()).map_err(|error| Fault::new(FaultKind::Invalid, error.to_string()))?;
    }
    let done = context.run(async {
        let reading = Reading::start(context, &target.volume, &args.key).await?;
        let moment = match args.branch {
            Some(epoch) => Moment::Branch(epoch),
            None => {
                let when = if args.before_change { When::BeforeChange(&path) } else { When::At(args.at.as_deref()) };
                Moment::Commit(reading.find(context, when).await?.seq)
            }
        };
        let tree = Tree::open(context, &reading, moment).await?;
        let work = move || {
            let done = tree.find(&path).and_then(|attr| work(&tree, &attr));
            Ok::<_, Fault>((tree, done))
        };
        let (tree, done) = context.env.blocking(work).await?;
        tree.close().await?;
        done
    })?;
    Ok((done, target))
}

#[derive(Serialize)]
struct Listing {
    path: String,
    entries: Vec<ListedEntry>,
}

#[derive(Serialize)]
struct ListedEntry {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    mode: String,
    uid: u32,
    gid: u32,
    links: u32,
    size: u64,
    modified: String,
    inode: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

pub(super) fn kind(attr: &Attr) -> (char, &'static str) {
    match attr.kind() {
        libc::S_IFDIR => ('d', "directory"),
        libc::S_IFLNK => ('l', "symlink"),
        libc::S_IFIFO => ('p', "fifo"),
        libc::S_IFSOCK => ('s', "socket"),
        libc::S_IFCHR => ('c', "character device"),
        libc::S_IFBLK => ('b', "block device"),
        _ => ('-', "file"),
    }
}

fn mode_text(attr: &Attr) -> String {
    let bit = |mask: u32, set: char| if attr.mode & mask == 0 { '-' } else { set };
    let special = |x: u32, s: u32, both: char, only: char| match (attr.mode & x != 0, attr.mode & s != 0) {
        (true, true) => both,
        (false, true) => only,
        (true, false) => 'x',
        (false, false) => '-',
    };
    [
        kind(attr).0,
        bit(0o400, 'r'),
        bit(0o200, 'w'),
        special(0o100, 0o4000, 's', 'S'),
        bit(0o040, 'r'),
        bit(0o020, 'w'),
        special(0o010, 0o2000, 's', 'S'),
        bit(0o004, 'r'),
        bit(0o002, 'w'),
        special(0o001, 0o1000, 't', 'T'),
    ]
    .into_iter()
    .collect()
}

fn listed(tree: &Tree, name: &[u8], attr: &Attr) -> Result<ListedEntry, Fault> {
    let target = tree.cache().view(|view| view.target(attr.ino))?;
    Ok(ListedEntry {
        name: show_name(name),
        kind: kind(attr).1,
        mode: mode_text(attr),
        uid: attr.uid,
        gid: attr.gid,
        links: attr.nlink,
        size: attr.size,
        modified: at::timestamp(attr.mtime).to_string(),
        inode: attr.ino,
        target: target.map(|target| show_name(&target)),
    })
}

impl Answer for Listing {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let zone = TimeZone::system();
        for entry in &self.entries {
            let modified = entry.modified.parse().map_or_else(|_| entry.modified.clone(), |time| at::show(time, &zone));
            let target = entry.target.as_deref().map_or_else(String::new, |target| format!(" -> {target}"));
            let ListedEntry { mode, links, uid, gid, size, name, .. } = entry;
            writeln!(out, "{mode} {links:>3} {uid:>6} {gid:>6} {size:>12}  {modified}  {name}{target}")?;
        }
        Ok(())
    }
}

/// `holdfast ls`.
pub(super) fn ls(context: &Context, args: &TreeArgs) -> Result<Exit, Fault> {
    let (entries, target) = with_tree(context, args, |tree, attr| {
        if !attr.is_dir() {
            return Ok(vec![listed(tree, b"", attr)?]);
        }
        let mut all = Vec::new();
        let mut after = 0;
        loop {
            let batch = tree.cache().view(|view| view.entries(attr.ino, after, BATCH))?;
            let Some(last) = batch.last() else { break };
            after = last.cookie;
            for entry in &batch {
                all.push(listed(tree, &entry.name, &entry.attr)?);
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    })?;
    let mut listing = Listing { path: target.to_string(), entries };
    if let [only] = listing.entries.as_mut_slice()
        && only.name.is_empty()
    {
        only.name = show_name(target.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default());
    }
    context.answer(&listing)?;
    Ok(Exit::Done)
}

/// `holdfast cat`.
pub(super) fn cat(context: &Context, args: &TreeArgs) -> Result<Exit, Fault> {
    with_tree(context, args, |tree, attr| {
        if !attr.is_file() {
            return Err(Fault::new(FaultKind::Invalid, format!("this is a {}, not a file", kind(attr).1)));
        }
        let mut out = io::stdout().lock();
        let (mut at, mut bytes) = (0, Vec::new());
        loop {
            tree.read(attr.ino, at, CHUNK, &mut bytes)?;
            if bytes.is_empty() {
                return Ok(());
            }
            at += bytes.len() as u64;
            match out.write_all(&bytes) {
                // Who stopped reading has what was wanted.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                written => written?,
            }
        }
    })?;
    Ok(Exit::Done)
}

#[derive(Serialize)]
struct Copied {
    to: String,
    #[serde(flatten)]
    what: copy::Copied,
}

impl Answer for Copied {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let copy::Copied { inodes, bytes, not_owned } = &self.what;
        writeln!(out, "{inodes} files and directories, {} in {}", crate::config::show_size(*bytes), self.to)?;
        if *not_owned > 0 {
            writeln!(out, "{not_owned} of them belong to you instead of their owner: only root may give files away.")?;
        }
        Ok(())
    }
}

/// `holdfast cp`: a file or a whole directory, with owners, modes, times, xattrs, ACLs, links and holes.
pub(super) fn cp(context: &Context, args: &CpArgs) -> Result<Exit, Fault> {
    let CopyArgs { from, to } = &args.copy;
    let out = args.to_output();
    if !out && std::fs::symlink_metadata(to).is_ok() {
        return Err(Fault::new(FaultKind::Exists, format!("{} is there already; nothing is overwritten", to.display())));
    }
    if args.tar { archive(context, from, (!out).then_some(to)) } else { copy_out(context, &args.copy) }
}

/// A tar archive, into a file or to standard output.
fn archive(context: &Context, from: &TreeArgs, to: Option<&PathBuf>) -> Result<Exit, Fault> {
    let target = Target::parse(from.target.clone()).map_err(|error| Fault::new(FaultKind::Invalid, error.to_string()))?;
    let name = target.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default().to_vec();
    let path = to.cloned();
    let ((what, sockets), _) = with_tree(context, from, move |tree, attr| {
        // Made when there is something to write into it.
        let file = path.as_ref().map(|path| std::fs::OpenOptions::new().write(true).create_new(true).open(path)).transpose();
        let file = file.map_err(|error| Fault::with(FaultKind::Local, "the archive cannot be made", error))?;
        match file {
            Some(file) => tar::write(tree, attr, &name, &mut io::BufWriter::with_capacity(CHUNK, file)),
            None => tar::write(tree, attr, &name, &mut io::BufWriter::with_capacity(CHUNK, io::stdout().lock())),
        }
    })?;
    if sockets > 0 {
        context.say(&format!("{sockets} sockets are not in it: no archive holds them"));
    }
    if let Some(to) = to {
        context.answer(&Copied { to: to.display().to_string(), what })?;
    }
    Ok(Exit::Done)
}

/// `holdfast export`: the content of a directory into a new or empty one.
pub(super) fn export(context: &Context, args: &CopyArgs) -> Result<Exit, Fault> {
    let refuse = |why: &str| Err(Fault::new(FaultKind::Exists, format!("{} {why}; nothing is overwritten", args.to.display())));
    // A mount point cannot be removed and made anew, nor a directory that is given back when nothing can be exported: it is copied into.
    let there = match std::fs::read_dir(&args.to).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Some(std::fs::canonicalize(&args.to)?),
        Ok(false) => return refuse("is not empty"),
        Err(_) if std::fs::symlink_metadata(&args.to).is_ok() => return refuse("is no directory that can be read"),
        Err(_) => None,
    };
    let (into, dest) = (there.is_some(), there.unwrap_or_else(|| args.to.clone()));
    let (what, _) = with_tree(context, &args.from, move |tree, attr| {
        if !attr.is_dir() {
            let why = format!("this is a {}, not a directory: `holdfast cp` copies it", kind(attr).1);
            return Err(Fault::new(FaultKind::Invalid, why));
        }
        copy::copy_out(tree, attr, &dest, into)
    })?;
    context.answer(&Copied { to: args.to.display().to_string(), what })?;
    Ok(Exit::Done)
}

fn copy_out(context: &Context, args: &CopyArgs) -> Result<Exit, Fault> {
    let to: &Path = &args.to;
    let dest = to.to_path_buf();
    let (what, _) = with_tree(context, &args.from, move |tree, attr| copy::copy_out(tree, attr, &dest, false))?;
    context.answer(&Copied { to: to.display().to_string(), what })?;
    Ok(Exit::Done)
}
