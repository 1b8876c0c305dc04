//! Which inodes have handles open for writing: in memory, and in a file that outlives the process.
//!
//! The kernel can hold bytes only of these, so they are the set to be flushed before a cut (protocol.md 6.2), and a
//! successor of a killed driver must know it: the kernel will not open them again. The file is a list of records, written
//! before the reply, each `ino u64 | request u64 | +1 or -1 as i32 | CRC-32 of the rest`, little-endian. It need not
//! survive the machine: without it there is no kernel that holds anything.

use crate::types::{Fault, FaultKind, Ino};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const RECORD: usize = 24;
/// Above this many records the file is written anew, if most of them are history.
const COMPACT_ABOVE: usize = 64 << 10;
/// More requests than can be carried out and not answered when the process dies.
const RECENT: usize = 256;

#[derive(Debug)]
pub(super) struct Handles {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    open: HashMap<Ino, u32>,
    records: usize,
    // Requests that an earlier process has recorded: a resent one counts once.
    recorded: HashSet<u64>,
    // The newest requests: a shortened record keeps them.
    recent: VecDeque<(Ino, u64)>,
}

impl Handles {
    /// Reads the record of the process before, or begins an empty one.
    pub(super) fn open(path: &Path, resumed: bool) -> Result<Self, Fault> {
        let failed = |error| Fault::with(FaultKind::Local, format!("the record of open handles {} failed", path.display()), error);
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        if resumed {
            file.read_to_end(&mut bytes).map_err(failed)?;
        }
        let mut state = State { file, open: HashMap::new(), records: 0, recorded: HashSet::new(), recent: VecDeque::new() };
        for record in bytes.chunks_exact(RECORD) {
            // A torn record was never answered: its request comes again.
            let Some((ino, request, delta)) = decode(record) else { break };
            state.count(ino, delta);
            state.recorded.insert(request);
            state.remember(ino, request);
            state.records += 1;
        }
        state.file.set_len((state.records * RECORD) as u64).map_err(failed)?;
        Ok(Self { path: path.to_path_buf(), state: Mutex::new(state) })
    }

    /// Notes a handle opened or released for writing, before the reply. `false`: an earlier process has noted it.
    pub(super) fn note(&self, ino: Ino, request: Option<u64>, resent: bool, opened: bool) -> bool {
        let mut state = self.state.lock();
        let request = request.unwrap_or(0);
        if resent && state.recorded.contains(&request) {
            return false;
        }
        let delta = if opened { 1 } else { -1 };
        state.count(ino, delta);
        state.remember(ino, request);
        if let Err(error) = state.append(&encode(ino, request, delta)) {
            // A successor would not flush this file before a cut: later than promised, not lost.
            tracing::warn!(ino, %error, "an open handle could not be recorded");
        }
        if state.records > COMPACT_ABOVE && state.records > 4 * state.open.len() {
            match state.compact(&self.path) {
                Ok(()) => {}
                Err(error) => tracing::warn!(%error, "the record of open handles could not be shortened"),
            }
        }
        true
    }

    pub(super) fn any_open(&self) -> bool {
        !self.state.lock().open.is_empty()
    }

    pub(super) fn is_open(&self, ino: Ino) -> bool {
        self.state.lock().open.contains_key(&ino)
    }

    /// How many writable handles each inode has.
    pub(super) fn open_counts(&self) -> Vec<(Ino, u32)> {
        let mut counts: Vec<(Ino, u32)> = self.state.lock().open.iter().map(|(ino, count)| (*ino, *count)).collect();
        counts.sort_unstable();
        counts
    }

    pub(super) fn open_inodes(&self) -> Vec<Ino> {
        let mut inodes: Vec<Ino> = self.state.lock().open.keys().copied().collect();
        inodes.sort_unstable();
        inodes
    }
}

impl State {
    fn count(&mut self, ino: Ino, delta: i32) {
        let count = self.open.entry(ino).or_insert(0);
        *count = count.saturating_add_signed(delta);
        if *count == 0 {
            self.open.remove(&ino);
        }
    }

    fn remember(&mut self, ino: Ino, request: u64) {
        self.recent.push_back((ino, request));
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }

    fn append(&mut self, record: &[u8]) -> std::io::Result<()> {
        if let Err(error) = self.file.write_all(record) {
            // A part of it would put every later one out of its place.
            self.file.set_len((self.records * RECORD) as u64)?;
            return Err(error);
        }
        self.records += 1;
        Ok(())
    }

    fn compact(&mut self, path: &Path) -> std::io::Result<()> {
        let next = path.with_extension("next");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&next)?;
        let mut bytes = Vec::with_capacity(self.open.len() * RECORD);
        let mut records = 0;
        for (&ino, &count) in &self.open {
            for _ in 0..count {
                bytes.extend(encode(ino, 0, 1));
                records += 1;
            }
        }
        for &(ino, request) in &self.recent {
            bytes.extend(encode(ino, request, 0));
            records += 1;
        }
        file.write_all(&bytes)?;
        drop(file);
        std::fs::rename(&next, path)?;
        self.file = OpenOptions::new().append(true).open(path)?;
        self.records = records;
        Ok(())
    }
}

fn encode(ino: Ino, request: u64, delta: i32) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..8].copy_from_slice(&ino.to_le_bytes());
    record[8..16].copy_from_slice(&request.to_le_bytes());
    record[16..20].copy_from_slice(&delta.to_le_bytes());
    let check = crc32fast::hash(&record[..20]);
    record[20..].copy_from_slice(&check.to_le_bytes());
    record
}

fn decode(record: &[u8]) -> Option<(Ino, u64, i32)> {
    let word = |range: std::ops::Range<usize>| record.get(range);
    let check = u32::from_le_bytes(word(20..24)?.try_into().ok()?);
    if crc32fast::hash(word(0..20)?) != check {
        return None;
    }
    Some((
        u64::from_le_bytes(word(0..8)?.try_into().ok()?),
        u64::from_le_bytes(word(8..16)?.try_into().ok()?),
        i32::from_le_bytes(word(16..20)?.try_into().ok()?),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handles");
        (dir, path)
    }

    #[test]
    fn a_successor_knows_what_is_open() {
        let (_dir, path) = path();
        let handles = Handles::open(&path, false).unwrap();
        handles.note(5, Some(10), false, true);
        handles.note(5, Some(12), false, true);
        handles.note(6, Some(14), false, true);
        handles.note(6, Some(16), false, false);
        let torn = OpenOptions::new().append(true).open(&path).unwrap().write_all(&[1, 2, 3]);
        torn.unwrap();

        let next = Handles::open(&path, true).unwrap();
        assert_eq!(next.open_inodes(), [5]);
        // The RELEASE that the dead driver had recorded and not answered comes again.
        assert!(!next.note(6, Some(16), true, false));
        assert!(next.note(5, Some(18), true, false));
        assert!(next.is_open(5));
        next.note(5, Some(20), false, false);
        assert!(!next.is_open(5));
        assert!(Handles::open(&path, true).unwrap().open_inodes().is_empty());
    }

    #[test]
    fn a_fresh_mount_has_no_handles() {
        let (_dir, path) = path();
        Handles::open(&path, false).unwrap().note(5, None, false, true);
        assert!(Handles::open(&path, false).unwrap().open_inodes().is_empty());
        assert!(Handles::open(&path, true).unwrap().open_inodes().is_empty());
    }

    #[test]
    fn the_record_does_not_grow_for_ever() {
        let (_dir, path) = path();
        let handles = Handles::open(&path, false).unwrap();
        handles.note(9, Some(1), false, true);
        let last = COMPACT_ABOVE as u64 - 1;
        for n in 0..=last {
            handles.note(5, Some(n), false, n % 2 == 0);
        }
        assert!(std::fs::metadata(&path).unwrap().len() < 10_000);
        let next = Handles::open(&path, true).unwrap();
        assert_eq!(next.open_inodes(), [9]);
        assert!(!next.note(5, Some(last), true, false), "the newest requests are known");
    }
}
