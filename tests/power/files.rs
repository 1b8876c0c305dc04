//! Writers of files with a model of what they were told: what may be found after the power failed, and nothing else.
//!
//! Each writer has a directory of its own. What is durable by its fsyncs must be there; of the rest, names are as after one of its
//! operations (nothing older than what an fsync told), and each byte is as one of the versions since the file's last fsync had it: no
//! zeros, nothing of another file.

use crate::harness::Chance;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Name to inode; 0 for one whose number nobody was told.
pub(crate) type Names = BTreeMap<String, u64>;

const FILE_BYTES_MAX: u64 = 400_000;
const FILES_MAX: usize = 24;
/// More versions than these are not remembered: an fsync comes first.
const VERSIONS_MAX: usize = 12;

/// What a directory shows: names, and contents by inode.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    names: Names,
    contents: BTreeMap<u64, Vec<u8>>,
}

impl Seen {
    /// Reads a writer's directory.
    pub(crate) fn read(directory: &Path) -> io::Result<Self> {
        let mut seen = Self::default();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|name| io::Error::other(format!("the name {name:?}")))?;
            seen.contents.insert(entry.ino(), fs::read(entry.path())?);
            seen.names.insert(name, entry.ino());
        }
        Ok(seen)
    }
}

/// A writer and its model.
#[derive(Debug)]
pub(crate) struct Writer {
    directory: PathBuf,
    chance: Chance,
    next: u64,
    /// States of the names since the last one that is durable; the last is the present one.
    shapes: Vec<Names>,
    /// Number of the first of `shapes` since the beginning.
    first: usize,
    /// The state in which a file's name was last changed, by number.
    named: HashMap<u64, usize>,
    /// Contents since the last fsync; the last is the present one.
    versions: HashMap<u64, Vec<Vec<u8>>>,
    /// What was done to each file, for a message.
    stories: HashMap<u64, Vec<String>>,
    /// Operations that succeeded.
    pub(crate) done: u64,
    /// Those of them that made something durable.
    pub(crate) synced: u64,
}

impl Writer {
    /// A writer in an empty directory that it makes.
    pub(crate) fn new(directory: &Path, seed: u64) -> Self {
        fs::create_dir(directory).expect("a writer's directory");
        File::open(directory).and_then(|file| file.sync_all()).expect("fsync of a directory");
        let (shapes, named, versions, stories) = (vec![Names::new()], HashMap::new(), HashMap::new(), HashMap::new());
        let (directory, chance) = (directory.to_owned(), Chance::of(seed));
        Self { directory, chance, next: 0, shapes, first: 0, named, versions, stories, done: 0, synced: 0 }
    }

    /// Where it works.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn names(&self) -> &Names {
        self.shapes.last().expect("never empty")
    }

    /// One operation; an error when the machine is gone.
    pub(crate) fn step(&mut self) -> io::Result<()> {
        let some = self.pick();
        match (self.chance.between(0, 16), some) {
            (0..=2, _) | (_, None) => self.create()?,
            (3..=6, Some(name)) => self.write(&name)?,
            (7, Some(name)) => self.cut(&name)?,
            (8, Some(name)) if self.names().len() > 4 => self.remove(&name)?,
            (9 | 10, Some(name)) => self.rename(&name)?,
            (11, _) => self.sync_directory()?,
            (_, Some(name)) => self.sync(&name)?,
        }
        self.done += 1;
        Ok(())
    }

    fn note(&mut self, ino: u64, what: String) {
        self.stories.entry(ino).or_default().push(what);
    }

    fn pick(&mut self) -> Option<String> {
        let count = self.names().len() as u64;
        if count == 0 {
            return None;
        }
        let at = self.chance.between(0, count) as usize;
        self.names().keys().nth(at).cloned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(OsStr::new(name))
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        self.next += 1;
        crate::rig::content(self.next.wrapping_mul(0x1000_0001), length)
    }

    /// A change of names: the state after it may be found from now on, before anybody was told that it succeeded.
    fn change(&mut self, change: impl FnOnce(&mut Names)) -> usize {
        let mut names = self.names().clone();
        change(&mut names);
        self.shapes.push(names);
        self.first + self.shapes.len() - 1
    }

    fn create(&mut self) -> io::Result<()> {
        if self.names().len() >= FILES_MAX {
            return self.pick().map_or(Ok(()), |name| self.remove(&name));
        }
        self.next += 1;
        let name = format!("f{}", self.next);
        let state = self.change(|names| _ = names.insert(name.clone(), 0));
        let file = File::create_new(self.path(&name))?;
        let ino = file.metadata()?.ino();
        self.shapes.last_mut().expect("never empty").insert(name, ino);
        self.named.insert(ino, state);
        self.versions.insert(ino, vec![Vec::new()]);
        self.note(ino, "create".to_owned());
        let length = self.chance.between(1, 60_000) as usize;
        self.write_at(&file, ino, 0, length)?;
        if self.chance.between(0, 2) == 0 { self.sync_file(&file, ino) } else { Ok(()) }
    }

    fn write_at(&mut self, file: &File, ino: u64, at: u64, length: usize) -> io::Result<()> {
        if self.versions[&ino].len() >= VERSIONS_MAX {
            self.sync_file(file, ino)?;
        }
        let bytes = self.bytes(length);
        let versions = self.versions.get_mut(&ino).expect("a known file");
        let mut version = versions.last().cloned().unwrap_or_default();
        version.resize(version.len().max(at as usize + length), 0);
        version[at as usize..at as usize + length].copy_from_slice(&bytes);
        versions.push(version);
        self.note(ino, format!("write {at}+{length}"));
        file.write_all_at(&bytes, at)
    }

    fn open(&self, name: &str) -> io::Result<(File, u64)> {
        Ok((OpenOptions::new().write(true).open(self.path(name))?, self.names()[name]))
    }

    fn write(&mut self, name: &str) -> io::Result<()> {
        let (file, ino) = self.open(name)?;
        let size = self.versions[&ino].last().map_or(0, Vec::len) as u64;
        let at = match self.chance.between(0, 3) {
            0 => size.min(FILE_BYTES_MAX),
            // Sometimes with a hole before it.
            1 => self.chance.between(0, FILE_BYTES_MAX),
            _ => self.chance.between(0, size + 1),
        };
        let length = [100, 4096, 20_000, 140_000][self.chance.between(0, 4) as usize];
        self.write_at(&file, ino, at, length)?;
        if self.chance.between(0, 3) == 0 { self.sync_file(&file, ino) } else { Ok(()) }
    }

    fn cut(&mut self, name: &str) -> io::Result<()> {
        let (file, ino) = self.open(name)?;
        let size = self.versions[&ino].last().map_or(0, Vec::len) as u64;
        let to = self.chance.between(0, size * 5 / 4 + 1);
        let versions = self.versions.get_mut(&ino).expect("a known file");
        let mut version = versions.last().cloned().unwrap_or_default();
        version.resize(to as usize, 0);
        versions.push(version);
        self.note(ino, format!("cut to {to}"));
        file.set_len(to)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.change(|names| _ = names.remove(name));
        fs::remove_file(self.path(name))
    }

    /// Written beside, made durable, moved over: old or new is found, whole; or just a new name.
    fn rename(&mut self, name: &str) -> io::Result<()> {
        let ino = self.names()[name];
        let target = match self.pick() {
            Some(target) if target != name && self.chance.between(0, 2) == 0 => target,
            _ => {
                self.next += 1;
                format!("r{}", self.next)
            }
        };
        if self.chance.between(0, 2) == 0 {
            let (file, ino) = self.open(name)?;
            self.sync_file(&file, ino)?;
        }
        let state = self.change(|names| {
            names.remove(name);
            names.insert(target.clone(), ino);
        });
        fs::rename(self.path(name), self.path(&target))?;
        self.named.insert(ino, state);
        self.note(ino, format!("rename to {target}"));
        if self.chance.between(0, 3) == 0 { self.sync_directory() } else { Ok(()) }
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let (file, ino) = self.open(name)?;
        self.sync_file(&file, ino)
    }

    fn sync_file(&mut self, file: &File, ino: u64) -> io::Result<()> {
        if self.chance.between(0, 2) == 0 {
            file.sync_all()?
        } else {
            file.sync_data()?
        }
        let versions = self.versions.get_mut(&ino).expect("a known file");
        versions.drain(..versions.len() - 1);
        self.note(ino, "fsync".to_owned());
        let state = self.named.get(&ino).copied().unwrap_or(0);
        self.durable_names(state);
        Ok(())
    }

    fn sync_directory(&mut self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()?;
        self.durable_names(self.first + self.shapes.len() - 1);
        Ok(())
    }

    fn durable_names(&mut self, state: usize) {
        let older = state.saturating_sub(self.first);
        self.shapes.drain(..older);
        self.first += older;
        self.synced += 1;
    }

    /// What is found must be allowed; it is where the writer goes on from.
    pub(crate) fn recover(&mut self, when: &str) {
        let seen = Seen::read(&self.directory).unwrap_or_else(|error| panic!("{when}: {}: {error}", self.directory.display()));
        if let Err(why) = self.allows(&seen) {
            panic!("{when}: {}: {why}", self.directory.display());
        }
        seen.contents.iter().for_each(|(ino, bytes)| self.note(*ino, format!("found with {} bytes after {when}", bytes.len())));
        self.versions = seen.contents.into_iter().map(|(ino, bytes)| (ino, vec![bytes])).collect();
        self.named.clear();
        self.first = 0;
        self.shapes = vec![seen.names];
    }

    fn story(&self, name: &str, ino: u64, why: &str) -> String {
        let story = self.stories.get(&ino).map(|story| story.join("; "));
        format!("{name} (inode {ino}): {why}\nits story: {}", story.unwrap_or_default())
    }

    fn allows(&self, seen: &Seen) -> Result<(), String> {
        let same = |state: &Names| {
            let mut both = state.iter().zip(&seen.names);
            state.len() == seen.names.len() && both.all(|(a, b)| a.0 == b.0 && (*a.1 == 0 || a.1 == b.1))
        };
        if !self.shapes.iter().any(same) {
            let (oldest, newest) = (&self.shapes[0], self.names());
            let missing: Vec<_> = oldest.keys().filter(|name| !seen.names.contains_key(*name) && newest.contains_key(*name)).collect();
            let count = self.shapes.len();
            return Err(format!(
                "these names never were: {:?}\ndurable and gone: {missing:?}\nof {count} states the oldest {oldest:?}\nthe newest {newest:?}",
                seen.names
            ));
        }
        for (name, ino) in &seen.names {
            let bytes = &seen.contents[ino];
            match self.versions.get(ino) {
                Some(versions) => content_is_allowed(bytes, versions).map_err(|why| self.story(name, *ino, &why))?,
                None if self.shapes.iter().any(|state| state.get(name) == Some(&0)) => {}
                None => return Err(format!("{name} has inode {ino}, which never was")),
            }
        }
        Ok(())
    }
}

/// Each byte as one of the versions had it, and a size between theirs.
fn content_is_allowed(bytes: &[u8], versions: &[Vec<u8>]) -> Result<(), String> {
    let sizes = || versions.iter().map(Vec::len);
    let (least, most) = (sizes().min().unwrap_or(0), sizes().max().unwrap_or(0));
    if bytes.len() < least || bytes.len() > most {
        return Err(format!("{} bytes, and since its last fsync it had {least} to {most}", bytes.len()));
    }
    let had = |at: usize, byte: u8| versions.iter().any(|version| version.get(at).copied().unwrap_or(0) == byte);
    let wrong = |at: &usize| !had(*at, bytes[*at]);
    let Some(first) = (0..bytes.len()).find(wrong) else { return Ok(()) };
    let (count, last) = (first..bytes.len()).filter(|at| wrong(at)).fold((0, first), |(count, _), at| (count + 1, at));
    let zeros = (first..=last).filter(|at| wrong(at)).all(|at| bytes[at] == 0);
    let what = if zeros { "zeros where there were none" } else { "bytes that never were" };
    Err(format!("{what}: {count} between {first} and {last} of {} ({} versions since its last fsync)", bytes.len(), versions.len()))
}

#[test]
fn the_model_sees_what_is_wrong() {
    let versions = [vec![1; 5000], [vec![1; 4000], vec![2; 3000]].concat()];
    assert_eq!(content_is_allowed(&[vec![1; 4500], vec![2; 1000]].concat(), &versions), Ok(()));
    assert!(content_is_allowed(&[1; 4999], &versions).is_err_and(|why| why.contains("4999 bytes")));
    assert!(content_is_allowed(&[vec![1; 4000], vec![0; 1000]].concat(), &versions).is_err_and(|why| why.contains("zeros")));
    assert!(content_is_allowed(&[vec![1; 3999], vec![2; 1002]].concat(), &versions).is_err_and(|why| why.contains("1 between 3999")));
    let directory = crate::harness::lab();
    let mut writer = Writer::new(&directory.path().join("w"), 1);
    (0..200).for_each(|_| writer.step().expect("a step on a disk that works"));
    writer.recover("nothing was lost");
    writer.step().and_then(|()| writer.sync_directory()).expect("a step on a disk that works");
    let name = writer.pick().expect("a file");
    fs::remove_file(writer.path(&name)).expect("unlink");
    let seen = Seen::read(writer.directory()).expect("a directory");
    assert!(writer.allows(&seen).is_err_and(|why| why.contains("never were")));
}
