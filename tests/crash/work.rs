//! What applications do, and what they were told: every operation that succeeded is in the model, and must be in the directory.

use crate::rig::content;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A writer with its model.
#[derive(Debug)]
pub(crate) struct Work {
    root: PathBuf,
    files: BTreeMap<String, Vec<u8>>,
    rows: u64,
    turn: u64,
}

impl Work {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), files: BTreeMap::new(), rows: 0, turn: 0 }
    }

    /// The same tree somewhere else.
    pub(crate) fn moved(&mut self, root: &Path) {
        root.clone_into(&mut self.root);
    }

    /// One round of operations. None may fail, whatever happens to the driver.
    pub(crate) fn turn(&mut self) {
        self.turn += 1;
        let n = self.turn;
        let name = format!("f{n}");
        let bytes = content(n, (n as usize * 977) % 30_000 + 1);
        let mut file = File::create_new(self.root.join(&name)).expect("create");
        file.write_all(&bytes).expect("write");
        if n.is_multiple_of(2) {
            file.sync_all().expect("fsync");
        }
        drop(file);
        self.files.insert(name, bytes);
        self.append(n);
        self.overwrite(n);
        if let Some(old) = n.checked_sub(2).map(|old| format!("f{old}")).filter(|old| n.is_multiple_of(3) && self.files.contains_key(old)) {
            let new = format!("renamed-{n}");
            fs::rename(self.root.join(&old), self.root.join(&new)).expect("rename");
            let bytes = self.files.remove(&old).expect("in the model");
            self.files.insert(new, bytes);
        }
        if let Some(old) = n.checked_sub(4).map(|old| format!("f{old}")).filter(|old| self.files.contains_key(old)) {
            fs::remove_file(self.root.join(&old)).expect("unlink");
            self.files.remove(&old);
        }
        if n % 4 == 1 {
            self.insert();
        }
    }

    fn append(&mut self, n: u64) {
        let line = format!("line {n}\n");
        let mut log = OpenOptions::new().create(true).append(true).open(self.root.join("log")).expect("open the log");
        log.write_all(line.as_bytes()).expect("append");
        log.sync_data().expect("fdatasync");
        self.files.entry("log".to_owned()).or_default().extend_from_slice(line.as_bytes());
    }

    fn overwrite(&mut self, n: u64) {
        const SIZE: usize = 600_000;
        let whole = self.files.entry("big".to_owned()).or_default();
        let at = (n as usize * 37_117) % SIZE;
        let bytes = content(n + 1_000_000, 9_000);
        let mut big = OpenOptions::new().create(true).truncate(false).write(true).open(self.root.join("big")).expect("open big");
        big.seek(SeekFrom::Start(at as u64)).expect("seek");
        big.write_all(&bytes).expect("overwrite");
        whole.resize(whole.len().max(at + bytes.len()), 0);
        whole[at..at + bytes.len()].copy_from_slice(&bytes);
    }

    fn insert(&mut self) {
        let database = rusqlite::Connection::open(self.root.join("rows.sqlite")).expect("open the database");
        database.execute_batch("CREATE TABLE IF NOT EXISTS rows(n INTEGER PRIMARY KEY, bytes BLOB)").expect("the table");
        self.rows += 1;
        database.execute("INSERT INTO rows VALUES(?1, ?2)", rusqlite::params![self.rows as i64, content(self.rows, 3000)]).expect("insert");
        database.close().expect("close the database");
    }

    /// Many attributes: metadata that fills a checkpoint's measure quickly.
    pub(crate) fn attributes(&mut self, files: u64) {
        for n in 0..files {
            let name = format!("attributed-{}-{n}", self.turn);
            let bytes = content(n, 100);
            fs::write(self.root.join(&name), &bytes).expect("write");
            let path = std::ffi::CString::new(self.root.join(&name).to_str().expect("UTF-8")).expect("no NUL");
            let value = content(self.turn * 1000 + n, 60_000);
            // SAFETY: two C strings, and pointer and length of one buffer.
            let set = unsafe { libc::setxattr(path.as_ptr(), c"user.big".as_ptr(), value.as_ptr().cast(), value.len(), 0) };
            assert_eq!(set, 0, "setxattr: {}", std::io::Error::last_os_error());
            self.files.insert(name, bytes);
        }
    }

    /// Everything acknowledged is there, and nothing else.
    #[track_caller]
    pub(crate) fn check(&self, when: &str) {
        let mut found: Vec<String> = fs::read_dir(&self.root)
            .unwrap_or_else(|error| panic!("{when}: {error}"))
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .filter(|name| !name.starts_with("rows.sqlite"))
            .collect();
        found.sort();
        let wanted: Vec<&String> = self.files.keys().collect();
        assert_eq!(found.iter().collect::<Vec<_>>(), wanted, "{when}: names");
        for (name, bytes) in &self.files {
            let read = fs::read(self.root.join(name)).unwrap_or_else(|error| panic!("{when}: {name}: {error}"));
            let first = read.iter().zip(bytes).position(|(a, b)| a != b);
            assert!(read == *bytes, "{when}: {name}: {} bytes of {}, first difference at {first:?}", read.len(), bytes.len());
        }
        if self.rows > 0 {
            let database = rusqlite::Connection::open(self.root.join("rows.sqlite")).expect("open the database");
            let verdict: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("integrity_check");
            assert_eq!(verdict, "ok", "{when}");
            let rows: i64 = database.query_row("SELECT count(*) FROM rows", [], |row| row.get(0)).expect("count");
            assert_eq!(rows as u64, self.rows, "{when}: rows");
        }
    }
}
