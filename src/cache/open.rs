//! Making and opening a cache directory, and its small values.

use super::batch::{Batch, NEXT_SLOTS, WAL_BYTES_MAX};
use super::codec::{Reader, Writer};
use super::compare::SCRATCH;
use super::db::{self, get_number, get_state, put_number, put_state};
use super::distrust::{self, Failures, Trust};
use super::effect::{Effect, InodeRow, Record, decode_reply};
use super::flip::Flip;
use super::meta::{Changed, Meta};
use super::reserve::Reserve;
use super::ring::{Place, Ring, Scan};
use super::slots::{CLASSES, Slots};
use super::space::Totals;
use super::types::{CacheError, CacheOrigin, Head, Intent, Recovered};
use super::{Cache, CacheOptions, Replies, die, health, place, recover};
use crate::env::Env;
use crate::types::{Attr, CacheId, Epoch, Hash, Identity, Incarnation, Ino, Nonce, ROOT, StoreId};
use bytes::Bytes;
use nix::fcntl::{Flock, FlockArg};
use parking_lot::Mutex;
use rusqlite::Connection;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

// The least that one mutation of each kind needs.
const LOG_BYTES_MIN: u64 = 256 << 10;
// A value that is too long for the log goes into meta.db at once.
const STATE_LOGGED_MAX: usize = 64 << 10;

fn boot_id(options: &CacheOptions) -> Result<Vec<u8>, CacheError> {
    match options.boot_id {
        Some(id) => Ok(id.to_vec()),
        None => fs::read("/proc/sys/kernel/random/boot_id").map_err(CacheError::io("/proc/sys/kernel/random/boot_id")),
    }
}

fn saved_replies(db: &Connection) -> Result<Replies, CacheError> {
    let mut replies = Replies::default();
    if let Some(saved) = get_state(db, "replies")? {
        let mut reader = Reader(&saved);
        while let Some((id, reply)) = decode_reply(&mut reader) {
            replies.insert(id, reply);
        }
    }
    Ok(replies)
}

pub(super) fn lock(dir: &Path) -> Result<Flock<File>, CacheError> {
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(dir.join("lock"));
    let file = open.map_err(CacheError::io("lock"))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| CacheError::Locked(dir.display().to_string()))
}

pub(super) fn encode_origin(origin: &CacheOrigin) -> Vec<u8> {
    let mut w = Writer::default();
    w.bytes(origin.store_id.as_bytes());
    w.bytes(origin.incarnation.as_bytes());
    w.bytes(origin.cache_id.as_bytes());
    w.bytes(origin.identity.as_str().as_bytes());
    w.0
}

pub(super) fn decode_origin(bytes: &[u8]) -> Option<CacheOrigin> {
    let mut r = Reader(bytes);
    Some(CacheOrigin {
        store_id: StoreId::from_slice(r.bytes()?)?,
        incarnation: Incarnation::from_slice(r.bytes()?)?,
        cache_id: CacheId::from_slice(r.bytes()?)?,
        identity: Identity::parse(std::str::from_utf8(r.bytes()?).ok()?).ok()?,
    })
}

pub(super) fn encode_head(head: &Head) -> Vec<u8> {
    let mut w = Writer::default();
    w.u64(head.seq);
    w.u64(head.epoch);
    w.bytes(head.hash.as_bytes());
    w.0
}

pub(super) fn decode_head(bytes: &[u8]) -> Option<Head> {
    let mut r = Reader(bytes);
    Some(Head { seq: r.u64()?, epoch: r.u64()?, hash: Hash::from_slice(r.bytes()?)? })
}

fn decode_intent(bytes: &[u8]) -> Option<Intent> {
    let mut r = Reader(bytes);
    Some(Intent {
        seq: r.u64()?,
        epoch: r.u64()?,
        nonce: Nonce::from_slice(r.bytes()?)?,
        hash: Hash::from_slice(r.bytes()?)?,
        bytes: Bytes::copy_from_slice(r.bytes()?),
    })
}

impl Cache {
    /// Makes a cache in an empty or absent directory, with a root directory inode (mode 0755, owner 0:0) unless a loader fills it.
    ///
    /// # Errors
    /// When the directory cannot hold one, holds one already, or the disk fails.
    pub fn create(env: Env, options: CacheOptions, origin: &CacheOrigin) -> Result<Arc<Self>, CacheError> {
        place::make(&options.dir)?;
        place::check_file_system(&options)?;
        let lock = lock(&options.dir)?;
        if options.dir.join("meta.db").exists() {
            return Err(CacheError::NotACache(format!("{} holds a cache already", options.dir.display())));
        }
        let size = options.log_bytes.max(LOG_BYTES_MIN);
        write_log(&options.dir.join("log"), size)?;
        for dir in ["data", "copies"] {
            fs::create_dir_all(options.dir.join(dir)).map_err(CacheError::io(dir))?;
        }
        // Under another name until it is whole: what is called meta.db is a cache.
        let new = options.dir.join("meta.new");
        let _ = fs::remove_file(&new);
        let db = db::open(&new, true, options.no_sync)?;
        db.execute_batch("BEGIN")?;
        put_state(&db, "origin", Some(&encode_origin(origin)))?;
        put_state(&db, "boot", Some(&boot_id(&options)?))?;
        for (key, value) in [("log_bytes", size), ("generation", 1), ("epoch", 1), ("next_inode", 2), ("next_cookie", 1)] {
            put_number(&db, key, value)?;
        }
        for key in NEXT_SLOTS {
            put_number(&db, key, 1)?;
        }
        for key in ["replay_lsn", "replay_at", "meta_lsn", "resolved", "cuts", "boots", "clean"] {
            put_number(&db, key, 0)?;
        }
        let now = env.now();
        let attr = Attr {
            ino: ROOT,
            mode: libc::S_IFDIR | 0o755,
            uid: 0,
            gid: 0,
            nlink: 2,
            rdev: 0,
            size: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
        };
        let row = InodeRow { attr, home: (0, 0), cookies: 0 };
        db::put_inode(&db, &db::Stamped { row, stamp: 1, flags: 0 })?;
        db.execute_batch("COMMIT; PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode=DELETE;")?;
        drop(db);
        env.failpoint("cache.in_creation");
        fs::rename(&new, options.dir.join("meta.db")).map_err(CacheError::io("meta.db"))?;
        File::open(&options.dir).and_then(|dir| dir.sync_all()).map_err(CacheError::io("cache directory"))?;
        Ok(Self::open_locked(env, options, lock)?.0)
    }

    /// Opens a cache and recovers what its log holds.
    ///
    /// # Errors
    /// When there is none, it is in use, it is damaged, or the disk fails.
    pub fn open(env: Env, options: CacheOptions) -> Result<(Arc<Self>, Recovered), CacheError> {
        if !Self::exists(&options.dir) {
            return Err(CacheError::NotACache(format!("{} holds no cache", options.dir.display())));
        }
        place::check_file_system(&options)?;
        place::close_to_others(&options.dir)?;
        let lock = lock(&options.dir)?;
        // Of a scrub that did not come to its end.
        let _ = fs::remove_dir_all(options.dir.join(SCRATCH));
        Self::open_locked(env, options, lock)
    }

    /// Whether `dir` holds a cache.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        dir.join("meta.db").exists()
    }

    /// Removes a cache that is not needed any more, where no process has it; `false`: one has, or makes it.
    ///
    /// # Errors
    /// When the directory cannot be removed.
    pub fn remove_unused(dir: &Path) -> Result<bool, CacheError> {
        place::remove_unused(dir)
    }

    /// Whether this version could open the cache in `dir`; nothing is opened for it, and a driver may be using it.
    ///
    /// # Errors
    /// There is none, or it has another schema.
    pub fn fits(dir: &Path) -> Result<(), CacheError> {
        db::fits(&dir.join("meta.db"))
    }

    fn open_locked(env: Env, options: CacheOptions, lock: Flock<File>) -> Result<(Arc<Self>, Recovered), CacheError> {
        let dir = options.dir.clone();
        let reserve = Reserve::at_open(&dir, options.log_bytes.max(LOG_BYTES_MIN));
        if let Some(why) = health::mark(&dir).filter(|_| options.check) {
            return Err(CacheError::Damaged(why));
        }
        let trust = distrust::renew(&dir, &options.disk())?;
        let db = db::open(&dir.join("meta.db"), false, options.no_sync)?;
        if options.check {
            health::check(&db, false)?;
        }
        let damaged = |what: &str| CacheError::Damaged(format!("{} in {}", what, dir.display()));
        let origin = get_state(&db, "origin")?.and_then(|b| decode_origin(&b)).ok_or_else(|| damaged("no origin"))?;
        health::keep_origin(&dir, &origin)?;
        let boot = boot_id(&options)?;
        let same_boot = get_state(&db, "boot")?.as_deref() == Some(&boot);
        let clean = get_number(&db, "clean")? == 1;
        let power_lost = !clean && (!same_boot || trust == Trust::Nothing);
        let boots = get_number(&db, "boots")? + u64::from(power_lost || trust != Trust::All);
        let generation = get_number(&db, "generation")? as u32;
        let log = OpenOptions::new().read(true).write(true).open(dir.join("log")).map_err(CacheError::io("log"))?;
        let size = get_number(&db, "log_bytes")?;
        let start = Place { lsn: get_number(&db, "replay_lsn")?, at: get_number(&db, "replay_at")? };
        let scan = || Scan { file: &log, size, generation, place: start };
        let end = scan().end()?;
        let ring = Ring::new(log.try_clone().map_err(CacheError::io("log"))?, size, generation.wrapping_add(1), start, end, options.disk());
        let cache = Self::assemble(env, options, (lock, reserve), origin, db, ring, boots)?;
        let (replayed, lost_bytes) = recover::replay(&cache, scan(), power_lost, same_boot && trust != Trust::All)?;
        cache.env.failpoint("cache.in_recovery");
        {
            let mut meta = cache.meta.lock();
            let db = meta.write()?;
            put_number(db, "generation", u64::from(generation.wrapping_add(1)))?;
            put_number(db, "boots", boots)?;
            put_number(db, "clean", 0)?;
            put_state(db, "boot", Some(&boot))?;
        }
        cache.apply_batch()?;
        cache.find_changes()?;
        cache.reserve.look();
        Ok((cache, Recovered { clean, same_boot, replayed, lost_bytes }))
    }

    fn assemble(
        env: Env,
        options: CacheOptions,
        (lock, reserve): (Flock<File>, Reserve),
        origin: CacheOrigin,
        db: Connection,
        ring: Ring,
        boots: u64,
    ) -> Result<Arc<Self>, CacheError> {
        let dir = options.dir.clone();
        // Old content of frozen pages has no meaning for another process.
        for entry in fs::read_dir(dir.join("copies")).map_err(CacheError::io("copies"))?.flatten() {
            let _ = fs::remove_file(entry.path());
        }
        let free = {
            let mut statement = db.prepare("SELECT slot FROM free_slots")?;
            statement.query_map([], |row| Ok(row.get::<_, i64>(0)? as u64))?.collect::<Result<Vec<_>, _>>()?
        };
        let slots = Slots::new(&dir.join("data"), free, next_slots(&db)?);
        let checkpointer = Connection::open(dir.join("meta.db"))?;
        let batch = Batch {
            checkpointer,
            wal_path: dir.join("meta.db-wal"),
            wal: None,
            wal_max: WAL_BYTES_MAX,
            last: env.monotonic(),
            durable: 0,
            closed: false,
        };
        let head = get_state(&db, "head")?.and_then(|bytes| decode_head(&bytes));
        let replies = saved_replies(&db)?;
        let totals = sums(&db)?;
        let flip = Flip::default();
        flip.cuts.store(get_number(&db, "cuts")?, Ordering::SeqCst);
        let hot = options.hot_inodes;
        let meta = Meta::read(db, hot, options.hot_names)?;
        flip.epoch.store(meta.epoch, Ordering::SeqCst);
        Ok(Arc::new(Self {
            env,
            origin,
            lock,
            meta: Mutex::new(meta),
            ring,
            slots,
            reserve,
            files: Mutex::new(HashMap::new()),
            cool_at: AtomicUsize::new(hot),
            pending_files: Mutex::new(Vec::new()),
            seal: flip,
            totals,
            batch: Mutex::new(batch),
            replies: Mutex::new(replies),
            handles: Mutex::new(HashMap::new()),
            head: Mutex::new(head),
            boots,
            stir: super::Stir::default(),
            touches: super::touched::Touches::default(),
            spoils: super::spoiled::Spoils::default(),
            suspicions: AtomicU64::new(health::suspicions()),
            disk: options.disk(),
            failures: Failures::default(),
            dir,
            options,
        }))
    }

    // The lists of what is in no commit, from what the rows say.
    fn find_changes(&self) -> Result<(), CacheError> {
        let mut meta = self.meta.lock();
        let resolved = meta.resolved as i64;
        let mut changed = Changed::default();
        {
            let mut statement = meta.db.prepare("SELECT ino FROM inodes WHERE stamp>?1")?;
            changed.inodes = statement.query_map([resolved], |row| Ok(row.get::<_, i64>(0)? as u64))?.collect::<Result<_, _>>()?;
            let mut statement = meta.db.prepare("SELECT dir,name FROM names WHERE stamp>?1")?;
            let mut rows = statement.query([resolved])?;
            while let Some(row) = rows.next()? {
                changed.names.push(super::meta::key(row.get::<_, i64>(0)? as u64, &row.get::<_, Vec<u8>>(1)?));
            }
            let gone = "SELECT EXISTS(SELECT 1 FROM gone_names) OR EXISTS(SELECT 1 FROM gone_inodes)";
            changed.gone = meta.db.query_row(gone, [], |row| row.get(0))?;
            let mut statement = meta.db.prepare("SELECT ino FROM files WHERE changed<>0")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                self.seal.list(meta.epoch, row.get::<_, i64>(0)? as u64);
            }
        }
        self.totals.rows.store(changed.bytes(), Ordering::Relaxed);
        meta.changed = changed;
        let orphans = {
            let mut statement = meta.db.prepare("SELECT ino FROM inodes WHERE nlink=0 AND (mode & 61440)=32768")?;
            statement.query_map([], |row| Ok(row.get::<_, i64>(0)? as u64))?.collect::<Result<Vec<Ino>, _>>()?
        };
        for ino in orphans {
            self.name_content(&mut meta, ino, true, None)?;
        }
        drop(meta);
        if self.changed() {
            self.totals.inherit(&self.env);
        }
        Ok(())
    }

    /// Applies and flushes everything and marks the cache as closed in order. It must not be changed afterwards.
    ///
    /// # Errors
    /// When the cache's disk fails.
    pub fn close(&self) -> Result<(), CacheError> {
        self.apply_batch()?;
        self.batch.lock().closed = true;
        put_number(self.meta.lock().write()?, "clean", 1)?;
        self.apply_batch()
    }

    /// The newest record of the log that this cache contains; `None` before the first.
    #[must_use]
    pub fn head(&self) -> Option<Head> {
        *self.head.lock()
    }

    /// Moves the head without a commit of this cache (the `open` and `close` records; durable on return).
    ///
    /// # Errors
    /// When the cache's disk fails.
    pub fn set_head(&self, head: Head) -> Result<(), CacheError> {
        self.put_state("head", Some(&encode_head(&head)))?;
        *self.head.lock() = Some(head);
        Ok(())
    }

    /// What was about to be put and is not known to be resolved.
    ///
    /// # Errors
    /// When meta.db fails.
    pub fn intent(&self) -> Result<Option<Intent>, CacheError> {
        match self.view(|view| view.state("intent"))? {
            None => Ok(None),
            Some(bytes) => decode_intent(&bytes).map(Some).ok_or_else(|| CacheError::Damaged("its intent".into())),
        }
    }

    /// Makes an intent durable, or clears it. After a crash: clear it when it did not land, `set_head` and clear when it did;
    /// what it had frozen is dirty still and goes into the next commit once more.
    ///
    /// # Errors
    /// When the cache's disk fails.
    pub fn set_intent(&self, intent: Option<&Intent>) -> Result<(), CacheError> {
        let bytes = intent.map(|intent| {
            let mut w = Writer::default();
            w.u64(intent.seq);
            w.u64(intent.epoch);
            w.bytes(intent.nonce.as_bytes());
            w.bytes(intent.hash.as_bytes());
            w.bytes(&intent.bytes);
            w.0
        });
        self.put_state("intent", bytes.as_deref())
    }

    /// A small value kept under a key.
    ///
    /// # Errors
    /// When meta.db fails.
    pub fn get_state(&self, key: &str) -> Result<Option<Vec<u8>>, CacheError> {
        self.view(|view| view.state(&format!("user.{key}")))
    }

    /// Keeps a value under a key; durable on return.
    ///
    /// # Errors
    /// When the cache's disk fails.
    pub fn set_state(&self, key: &str, value: &[u8]) -> Result<(), CacheError> {
        self.put_state(&format!("user.{key}"), Some(value))
    }

    /// Keeps a value that survives the process, and the power with the next batch.
    pub(super) fn note_state(&self, key: &str, value: &[u8]) -> Result<(), CacheError> {
        let effect = Effect::State { key: key.to_owned(), value: Some(value.to_vec()) };
        let payload = Record { request: None, effects: vec![effect] }.encode();
        let _permit = self.admit(payload.len() as u64)?;
        let mut meta = self.meta.lock();
        put_state(meta.write()?, key, Some(value))?;
        meta.lsn = self.ring.append(&payload).unwrap_or_else(|error| die("the mutation log cannot be written", &error));
        Ok(())
    }

    fn put_state(&self, key: &str, value: Option<&[u8]>) -> Result<(), CacheError> {
        let small = value.is_none_or(|value| value.len() <= STATE_LOGGED_MAX);
        let effect = Effect::State { key: key.to_owned(), value: value.map(<[u8]>::to_vec) };
        let payload = Record { request: None, effects: vec![effect] }.encode();
        let permit = if small { Some(self.admit(payload.len() as u64)?) } else { None };
        let mut meta = self.meta.lock();
        put_state(meta.write()?, key, value)?;
        if permit.is_some() {
            let lsn = self.ring.append(&payload).unwrap_or_else(|error| die("the mutation log cannot be written", &error));
            meta.lsn = lsn;
            drop(meta);
            return self.ring.flush(lsn);
        }
        drop(meta);
        self.apply_batch()
    }

    /// The writer's epoch: new inodes get numbers from `epoch << 40`. Set by whoever opens the log, before the first create.
    ///
    /// # Errors
    /// `Invalid` for an epoch that inode numbers have no room for.
    pub fn set_epoch(&self, epoch: Epoch) -> Result<(), CacheError> {
        if epoch == 0 || epoch >= 1 << 23 {
            return Err(CacheError::Invalid("an epoch lies between 1 and 2^23"));
        }
        let mut meta = self.meta.lock();
        meta.next_inode = meta.next_inode.max(epoch << 40);
        Ok(())
    }
}

fn sums(db: &Connection) -> Result<Totals, CacheError> {
    let sql = "SELECT COALESCE(SUM(size),0) FROM inodes WHERE (mode & 61440)=32768";
    let bytes: i64 = db.query_row(sql, [], |row| row.get(0))?;
    let sql = "SELECT COALESCE(SUM(present),0),COALESCE(SUM(dirty),0) FROM files";
    let (cached, dirty): (i64, i64) = db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Totals {
        cached: AtomicU64::new(cached as u64),
        dirty: AtomicU64::new(dirty as u64),
        bytes: AtomicU64::new(bytes as u64),
        ..Totals::default()
    })
}

fn next_slots(db: &Connection) -> Result<[u64; CLASSES], CacheError> {
    let mut next = [0; CLASSES];
    for (next, key) in next.iter_mut().zip(NEXT_SLOTS) {
        *next = get_number(db, key)?;
    }
    Ok(next)
}

// In full, so that no flush of it ever allocates.
fn write_log(path: &Path, size: u64) -> Result<(), CacheError> {
    let mut file = File::create(path).map_err(CacheError::io("log"))?;
    let zeros = vec![0; 1 << 20];
    let mut left = size;
    while left > 0 {
        let n = left.min(zeros.len() as u64);
        file.write_all(&zeros[..n as usize]).map_err(CacheError::io("log"))?;
        left -= n;
    }
    file.sync_all().map_err(CacheError::io("log"))
}
