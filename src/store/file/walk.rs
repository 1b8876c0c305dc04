//! Listing a directory tree in the byte order of whole names, as the clouds list: `a-b` comes before `a/b`.

use super::Failed;
use super::root::{Root, is_file, meta};
use crate::store::ObjectMeta;
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fstatat};

struct Walk<'a> {
    root: &'a Root,
    prefix: &'a str,
    start_after: Option<&'a str>,
    limit: usize,
    found: Vec<ObjectMeta>,
}

pub(super) fn list(root: &Root, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, Failed> {
    let mut walk = Walk { root, prefix, start_after, limit, found: Vec::new() };
    // Everything that can match lies in the directory that the prefix names up to its last `/`.
    let directory = prefix.rsplit_once('/').map_or("", |(directory, _)| directory);
    walk.directory(directory)?;
    Ok(walk.found)
}

impl Walk<'_> {
    fn directory(&mut self, path: &str) -> Result<(), Failed> {
        for name in self.entries(path)? {
            if self.found.len() >= self.limit {
                break;
            }
            if let Some(directory) = name.strip_suffix('/') {
                self.directory(directory)?;
                continue;
            }
            match fstatat(self.root, name.as_str(), AtFlags::empty()) {
                Ok(stat) if is_file(&stat) => self.found.push(meta(&name, &stat)),
                // Deleted in between, or no object.
                Ok(_) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Whole names of what matters in one directory, in order; a directory's name ends with `/`.
    fn entries(&self, path: &str) -> Result<Vec<String>, Failed> {
        let open = if path.is_empty() { "." } else { path };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut directory = match Dir::openat(self.root, open, flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        };
        let mut names = Vec::new();
        for entry in directory.iter() {
            let entry = entry?;
            // No object's name begins with a dot or has other bytes than ASCII; mkfs makes `lost+found`.
            let Ok(leaf) = entry.file_name().to_str() else { continue };
            if leaf.starts_with('.') || (path.is_empty() && leaf == "lost+found") {
                continue;
            }
            let mut name = if path.is_empty() { leaf.to_owned() } else { format!("{path}/{leaf}") };
            if self.is_directory(&entry, &name)? {
                name.push('/');
            }
            if self.matters(&name) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn is_directory(&self, entry: &nix::dir::Entry, name: &str) -> Result<bool, Failed> {
        match entry.file_type() {
            Some(Type::Directory) => Ok(true),
            Some(Type::File) => Ok(false),
            // A link to another disk, or a file system that does not say.
            _ => match fstatat(self.root, name, AtFlags::empty()) {
                Ok(stat) => Ok(stat.st_mode & libc::S_IFMT == libc::S_IFDIR),
                Err(Errno::ENOENT | Errno::ELOOP) => Ok(false),
                Err(errno) => Err(errno.into()),
            },
        }
    }

    fn matters(&self, name: &str) -> bool {
        let below = name.ends_with('/');
        let in_prefix = name.starts_with(self.prefix) || (below && self.prefix.starts_with(name));
        // A directory may hold later names unless all of its names, which begin with its own, are earlier.
        let later = self.start_after.is_none_or(|after| name > after || (below && after.starts_with(name)));
        in_prefix && later
    }
}
