//! One application, as a process of its own: it works in a directory until it is killed, or checks what another run left there.
//!
//! `worker run NAME DIR` does numbered steps for ever, beginning after the last one found, and says `seen N` when the application was told
//! that step N succeeded, `kept N` when it was told so in a way that must outlive it (fsync, commit). `worker check NAME DIR` says `found N` when
//! what is there is exactly the state after step N, and fails otherwise. A process of its own, because a mapped file of a dead mount is SIGBUS.
#![allow(clippy::print_stdout, reason = "this is how it speaks")]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// An application whose state is determined by the number of steps it has done.
trait Application: Sized {
    /// Opens its files, creating them when there are none, and gives the last step found.
    fn open(directory: &Path) -> Outcome<(Self, u64)>;
    /// Does one step, and says what it was told.
    fn step(&mut self, n: u64) -> Outcome<()>;
    /// The number of the step after which the files look as they do.
    fn check(directory: &Path) -> Outcome<u64>;
}

fn seen(n: u64) {
    println!("seen {n}");
}

fn kept(n: u64) {
    println!("kept {n}");
}

/// Content that belongs to a step and to no other.
fn content(n: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 16);
    let mut round = 0_u64;
    while bytes.len() < length {
        bytes.extend_from_slice(&xxhash_rust::xxh3::xxh3_128_with_seed(&round.to_le_bytes(), n).to_le_bytes());
        round += 1;
    }
    bytes.truncate(length);
    bytes
}

fn digest(n: u64) -> String {
    hex::encode(content(n, 16))
}

const ACCOUNTS: u64 = 10;

/// SQLite: a row and a transfer between two accounts in each transaction; the connection is never closed.
struct Sqlite<const WAL: bool>(rusqlite::Connection);

impl<const WAL: bool> Sqlite<WAL> {
    fn connect(directory: &Path) -> Outcome<rusqlite::Connection> {
        let connection = rusqlite::Connection::open(directory.join("ledger.db"))?;
        connection.busy_timeout(std::time::Duration::from_secs(60))?;
        connection.pragma_update(None, "journal_mode", if WAL { "wal" } else { "delete" })?;
        // A rollback journal's transaction is ended by an unlink, which only `extra` follows by a flush: by SQLite's documentation it may
        // be rolled back by a loss of power otherwise.
        connection.pragma_update(None, "synchronous", if WAL { "full" } else { "extra" })?;
        Ok(connection)
    }
}

fn transfer(n: u64) -> (u64, u64) {
    (n % ACCOUNTS, (n / 7 + 3) % ACCOUNTS)
}

impl<const WAL: bool> Application for Sqlite<WAL> {
    fn open(directory: &Path) -> Outcome<(Self, u64)> {
        let connection = Self::connect(directory)?;
        connection.execute_batch(
            "BEGIN IMMEDIATE;
             CREATE TABLE IF NOT EXISTS event (n INTEGER PRIMARY KEY, digest TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
             INSERT OR IGNORE INTO account SELECT value, 1000 FROM (WITH RECURSIVE i(value) AS (SELECT 0 UNION ALL SELECT value + 1 FROM i WHERE value < 9) SELECT value FROM i);
             COMMIT;",
        )?;
        let last: i64 = connection.query_row("SELECT coalesce(max(n), 0) FROM event", [], |row| row.get(0))?;
        Ok((Self(connection), last as u64))
    }

    fn step(&mut self, n: u64) -> Outcome<()> {
        let (from, to) = transfer(n);
        let transaction = self.0.transaction()?;
        transaction.execute("INSERT INTO event VALUES (?1, ?2)", (n as i64, digest(n)))?;
        transaction.execute("UPDATE account SET balance = balance - 1 WHERE id = ?1", [from as i64])?;
        transaction.execute("UPDATE account SET balance = balance + 1 WHERE id = ?1", [to as i64])?;
        transaction.commit()?;
        kept(n);
        Ok(())
    }

    fn check(directory: &Path) -> Outcome<u64> {
        if !directory.join("ledger.db").exists() {
            return Ok(0);
        }
        let connection = Self::connect(directory)?;
        let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(format!("integrity_check: {verdict}").into());
        }
        let tables: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_schema WHERE name IN ('event', 'account')", [], |row| row.get(0))?;
        if tables == 0 {
            return Ok(0);
        }
        let mut balances = [1000_i64; ACCOUNTS as usize];
        let mut last = 0;
        let mut statement = connection.prepare("SELECT n, digest FROM event ORDER BY n")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
        for row in rows {
            let (n, text) = row?;
            let n = n as u64;
            if n != last + 1 || text != digest(n) {
                return Err(format!("row {n} after {last} says {text}").into());
            }
            let (from, to) = transfer(n);
            balances[from as usize] -= 1;
            balances[to as usize] += 1;
            last = n;
        }
        let mut statement = connection.prepare("SELECT balance FROM account ORDER BY id")?;
        let found: Vec<i64> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        if found != balances {
            return Err(format!("after {last} transfers the accounts are {found:?}, not {balances:?}").into());
        }
        Ok(last)
    }
}

/// A log that is appended to and never closed: whatever is found is a prefix of what was written.
struct Append(File);

const LINES_PER_FSYNC: u64 = 32;

fn line(n: u64) -> String {
    format!("{n:010} {}\n", digest(n))
}

impl Application for Append {
    fn open(directory: &Path) -> Outcome<(Self, u64)> {
        let last = Self::check(directory)?;
        let file = OpenOptions::new().create(true).append(true).open(directory.join("events.log"))?;
        // A torn last line is what a power failure leaves; every log's owner cuts it off.
        file.set_len(last * line(0).len() as u64)?;
        Ok((Self(file), last))
    }

    fn step(&mut self, n: u64) -> Outcome<()> {
        self.0.write_all(line(n).as_bytes())?;
        seen(n);
        if n.is_multiple_of(LINES_PER_FSYNC) {
            self.0.sync_data()?;
            kept(n);
        }
        Ok(())
    }

    fn check(directory: &Path) -> Outcome<u64> {
        let Ok(mut file) = File::open(directory.join("events.log")) else { return Ok(0) };
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let mut n = 0;
        for found in text.chunks(line(0).len()) {
            n += 1;
            if !line(n).as_bytes().starts_with(found) {
                return Err(format!("line {n} is {:?}", String::from_utf8_lossy(found)).into());
            }
        }
        Ok((text.len() / line(0).len()) as u64)
    }
}

/// Write new, rename over: whoever looks finds one whole version.
struct Replace(std::path::PathBuf);

fn version(n: u64) -> Vec<u8> {
    let mut text = format!("{n:010}\n").into_bytes();
    text.extend(content(n, 1000 + (n as usize * 7919) % 60_000));
    text
}

impl Application for Replace {
    fn open(directory: &Path) -> Outcome<(Self, u64)> {
        Ok((Self(directory.to_owned()), Self::check(directory)?))
    }

    fn step(&mut self, n: u64) -> Outcome<()> {
        fs::write(self.0.join("config.new"), version(n))?;
        fs::rename(self.0.join("config.new"), self.0.join("config"))?;
        kept(n);
        Ok(())
    }

    fn check(directory: &Path) -> Outcome<u64> {
        let Ok(text) = fs::read(directory.join("config")) else { return Ok(0) };
        let n = text.get(..10).and_then(|number| std::str::from_utf8(number).ok()).and_then(|number| number.parse().ok());
        match n {
            Some(n) if version(n) == text => Ok(n),
            _ => Err(format!(
                "config is no version: {} bytes, beginning {:?}",
                text.len(),
                String::from_utf8_lossy(&text[..text.len().min(16)])
            )
            .into()),
        }
    }
}

/// A row that names a file written before it: there is no instant with the row and without the file.
struct Reference(Sqlite<true>, std::path::PathBuf);

fn picture(directory: &Path, n: u64) -> std::path::PathBuf {
    directory.join(format!("pictures/{:03}/{n}.raw", n % 100))
}

impl Application for Reference {
    fn open(directory: &Path) -> Outcome<(Self, u64)> {
        let (ledger, last) = Sqlite::open(directory)?;
        Ok((Self(ledger, directory.to_owned()), last))
    }

    fn step(&mut self, n: u64) -> Outcome<()> {
        let path = picture(&self.1, n);
        fs::create_dir_all(path.parent().ok_or("no parent")?)?;
        fs::write(path, content(n, 100 + (n as usize * 31) % 20_000))?;
        self.0.step(n)
    }

    fn check(directory: &Path) -> Outcome<u64> {
        let last = Sqlite::<true>::check(directory)?;
        for n in 1..=last {
            let found = fs::read(picture(directory, n)).map_err(|error| format!("row {n} has no file: {error}"))?;
            if found != content(n, 100 + (n as usize * 31) % 20_000) {
                return Err(format!("the file of row {n} is not what was written").into());
            }
        }
        Ok(last)
    }
}

/// A bank without a database: each transfer is a line in the file of debits, then one in the file of credits, each closed, then a chain of
/// renames takes its next step and the directory is fsynced. No instant has a credit without its debit, or a step without its credit.
struct Bank(std::path::PathBuf);

impl Bank {
    const FILES: [&str; 2] = ["debits", "credits"];

    fn lines(directory: &Path, name: &str) -> Outcome<u64> {
        let text = fs::read(directory.join(name)).unwrap_or_default();
        for (found, n) in text.chunks(line(0).len()).zip(1..) {
            if found != line(n).as_bytes() {
                return Err(format!("line {n} of {name} is {:?}", String::from_utf8_lossy(found)).into());
            }
        }
        Ok((text.len() / line(0).len()) as u64)
    }

    fn link(&self, n: u64) -> std::path::PathBuf {
        self.0.join(format!("chain/{n}"))
    }

    /// The only name in the chain.
    fn turn(directory: &Path) -> Outcome<u64> {
        let Ok(entries) = fs::read_dir(directory.join("chain")) else { return Ok(0) };
        let names: Vec<_> = entries.collect::<Result<Vec<_>, _>>()?.into_iter().map(|entry| entry.file_name()).collect();
        match &names[..] {
            [] => Ok(0),
            [name] => Ok(name.to_str().and_then(|name| name.parse().ok()).ok_or("a name that is no number")?),
            _ => Err(format!("a chain of renames has these names at once: {names:?}").into()),
        }
    }
}

impl Application for Bank {
    fn open(directory: &Path) -> Outcome<(Self, u64)> {
        let last = Self::check(directory)?;
        let bank = Self(directory.to_owned());
        fs::create_dir_all(directory.join("chain"))?;
        if last == 0 {
            File::create(bank.link(0))?;
        }
        for name in Self::FILES.into_iter().rev() {
            // A transfer that was not ended is begun anew; the credit goes before its debit.
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(directory.join(name))?;
            file.set_len(last * line(0).len() as u64)?;
        }
        Ok((bank, last))
    }

    fn step(&mut self, n: u64) -> Outcome<()> {
        for name in Self::FILES {
            let mut file = OpenOptions::new().append(true).open(self.0.join(name))?;
            file.write_all(line(n).as_bytes())?;
        }
        fs::rename(self.link(n - 1), self.link(n))?;
        File::open(self.0.join("chain"))?.sync_all()?;
        kept(n);
        Ok(())
    }

    fn check(directory: &Path) -> Outcome<u64> {
        let [debits, credits] = Self::FILES.map(|name| Self::lines(directory, name));
        let (debits, credits, turn) = (debits?, credits?, Self::turn(directory)?);
        if debits < credits || credits < turn || debits > turn + 1 {
            return Err(format!("{debits} debits, {credits} credits, {turn} steps of the chain").into());
        }
        Ok(turn)
    }
}

/// LMDB, by its own C library: a memory map of the data file, and a lock file shared by mmap.
struct Lmdb(&'static heed::Env, heed::Database<'static, heed::types::U64<heed::byteorder::BE>, heed::types::Bytes>);

impl Lmdb {
    fn last(&self) -> Outcome<u64> {
        let transaction = self.0.read_txn()?;
        Ok(self.1.last(&transaction)?.map_or(0, |(n, _)| n))
    }
}

impl Application for Lmdb {
    fn open(directory: &Path) -> Outcome<(Self, u64)> {
        let path = directory.join("lmdb");
        fs::create_dir_all(&path)?;
        // SAFETY: nobody but this process opens the environment meanwhile.
        let environment = unsafe { heed::EnvOpenOptions::new().map_size(256 << 20).open(path)? };
        // For as long as the process lives: a database borrows its environment.
        let environment: &'static heed::Env = Box::leak(Box::new(environment));
        let transaction = environment.write_txn()?;
        let database = environment.create_databases_and_commit(transaction, |options, transaction| {
            options.create_database(transaction, None).map(heed::CommitOrAbort::<_, ()>::Commit)
        })?;
        let database = database.unwrap_commit();
        let opened = Self(environment, database);
        let last = opened.last()?;
        Ok((opened, last))
    }

    fn step(&mut self, n: u64) -> Outcome<()> {
        let mut transaction = self.0.write_txn()?;
        self.1.put(&mut transaction, &n, &content(n, 200 + (n as usize * 131) % 5000))?;
        transaction.commit()?;
        kept(n);
        Ok(())
    }

    fn check(directory: &Path) -> Outcome<u64> {
        if !directory.join("lmdb/data.mdb").exists() {
            return Ok(0);
        }
        let (opened, last) = Self::open(directory)?;
        let transaction = opened.0.read_txn()?;
        let mut expected = 0;
        for pair in opened.1.iter(&transaction)? {
            let (n, value) = pair?;
            expected += 1;
            if n != expected || value != content(n, 200 + (n as usize * 131) % 5000) {
                return Err(format!("key {n} in place {expected} is not what was put").into());
            }
        }
        Ok(last)
    }
}

fn work<A: Application>(verb: &str, directory: &Path) -> Outcome<()> {
    if verb == "check" {
        println!("found {}", A::check(directory)?);
        return Ok(());
    }
    let (mut application, last) = A::open(directory)?;
    println!("ready {last}");
    for n in last + 1.. {
        application.step(n)?;
    }
    Ok(())
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [verb, name, directory] = &arguments[..] else { return Err("usage: worker run|check NAME DIR".into()) };
    let directory = Path::new(directory);
    match name.as_str() {
        "sqlite-wal" => work::<Sqlite<true>>(verb, directory),
        "sqlite-journal" => work::<Sqlite<false>>(verb, directory),
        "append" => work::<Append>(verb, directory),
        "replace" => work::<Replace>(verb, directory),
        "reference" => work::<Reference>(verb, directory),
        "bank" => work::<Bank>(verb, directory),
        "lmdb" => work::<Lmdb>(verb, directory),
        unknown => Err(format!("no application {unknown}").into()),
    }
}
