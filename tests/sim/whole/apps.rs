//! Applications: each does one thing after the other, and remembers what it was told.

use super::bugs::Bug;
use super::carry::{Answer, carry_out};
use super::history::History;
use super::machine::Machine;
use super::op::Op;
use super::tree::{Node, Tree};
use holdfast::cache::RequestId;
use holdfast::env::Env;
use holdfast::types::{Ino, ROOT};
use holdfast::volume::{Caller, Posix, PosixError, RenameMode, Volume};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// The kernel's connection: one for the life of a machine's mount.
pub const CONNECTION: u64 = 7;

#[derive(Clone)]
pub struct Apps {
    pub machine: Arc<Machine>,
    pub env: Env,
    pub volume: Arc<Volume>,
    pub history: Arc<Mutex<History>>,
    pub stop: Arc<AtomicBool>,
    pub running: Arc<AtomicUsize>,
}

impl Apps {
    pub async fn run(self) {
        let sim = &self.machine.sim;
        while !self.stop.load(Ordering::SeqCst) {
            sim.sleep(sim.below(self.machine.habits.think) + 1).await;
            if self.machine.habits.kernel && self.behind().await {
                continue;
            }
            match sim.below(100) {
                0..12 => self.fsync().await,
                12..20 => self.read().await,
                20..26 => self.handle().await,
                26..29 => self.flush().await,
                29..32 => self.evict().await,
                _ => {
                    let op = self.choose();
                    if let Some(op) = op {
                        self.act(op, None).await;
                    }
                }
            }
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
    }

    /// What programs and their kernel do with the pages of open files, sometimes.
    async fn behind(&self) -> bool {
        match self.machine.sim.below(10) {
            0..3 => self.write_behind(),
            3 | 4 => self.send_one().await,
            5 => self.handle().await,
            _ => return false,
        }
        true
    }

    /// Sends a request, for the first time or again; what was answered is remembered.
    pub async fn act(&self, op: Op, again: Option<(u64, bool)>) {
        let machine = &self.machine;
        if again.is_none() {
            self.pages_first(&op).await;
        }
        let (unique, applied) = again.unwrap_or_else(|| (machine.next_unique(), false));
        {
            let mut disk = machine.disk.lock();
            // A gap in a file that is open for writing is one only when the kernel says so.
            if again.is_none() && op.file().is_some_and(|ino| disk.handles.contains(&ino)) && leaves_gap(&op, self.history.lock().now()) {
                return;
            }
            disk.inflight.insert(unique, op.clone());
        }
        if let Some(delay) = self.volume.posix().write_delay() {
            self.env.sleep(delay).await;
        }
        let apps = self.clone();
        let done = self.env.block(move || {
            if again.is_none() && op.inodes().into_iter().any(|ino| apps.machine.disk.lock().pages.holds(ino)) {
                // The kernel has more of it since.
                apps.machine.disk.lock().inflight.remove(&unique);
                return;
            }
            apps.carry(unique, &op, again.map(|_| applied));
        });
        if done.await.is_err() {
            machine.sim.violate("an operation did not end".into());
        }
    }

    /// Carries a request out, on a thread that may wait. `again`: it was sent before, and perhaps carried out.
    pub fn carry(&self, unique: u64, op: &Op, again: Option<bool>) {
        // What it is about went away since it was chosen.
        if again.is_none() && !self.may_begin(unique, op) {
            self.machine.disk.lock().inflight.remove(&unique);
            return;
        }
        self.carry_surely(unique, op, again);
    }

    /// The same of what the kernel sends by itself: a page that it has goes, whatever begins meanwhile.
    pub fn carry_surely(&self, unique: u64, op: &Op, again: Option<bool>) {
        let machine = &self.machine;
        let request = Some(RequestId { conn_epoch: CONNECTION, unique });
        let caller = Caller { uid: 0, gid: 0, request, resent: again.is_some() && machine.bug != Bug::AnswerTwice };
        let posix = Arc::clone(self.volume.posix());
        machine.before_operation();
        let result = carry_out(&posix, &caller, op);
        self.answered(&posix, unique, op, result, again.unwrap_or(false));
    }

    /// Whether its objects are there, and it removes no file that another operation reads meanwhile.
    fn may_begin(&self, unique: u64, op: &Op) -> bool {
        let history = self.history.lock();
        let tree = history.now();
        let victim = match op {
            Op::Remove { dir, name, .. } => tree.lookup(*dir, name),
            Op::Rename { to, .. } => tree.lookup(to.0, &to.1),
            _ => None,
        };
        // A copy reads at one moment and writes at another: neither side of it may change in between.
        let read = |other: &Op| matches!(other, Op::Copy { from, .. } if Some(*from) == victim || Some(*from) == op.file());
        let written = |other: &Op| matches!(op, Op::Copy { from, .. } if Some(*from) == other.file());
        let disk = self.machine.disk.lock();
        op.fits(tree) && !disk.inflight.iter().any(|(other, op)| *other != unique && (read(op) || written(op)))
    }

    /// At the moment of the answer, before anybody else does anything.
    fn answered(&self, posix: &Posix, unique: u64, op: &Op, result: Result<Answer, PosixError>, applied: bool) {
        let machine = &self.machine;
        let (sim, id) = (&machine.sim, machine.id);
        let attr = |ino: Ino| posix.getattr(ino).ok();
        let mut history = self.history.lock();
        let mut tree = Tree::clone(history.now());
        if sim.is_doomed(id) {
            // It died on the way: the answer never came.
            if let Ok((made, copied)) = result
                && op.file().is_none_or(|ino| tree.get(ino).is_some())
            {
                op.apply(&mut tree, made.as_ref(), copied, &attr);
                history.maybe.push((unique, tree));
            }
            return;
        }
        machine.disk.lock().inflight.remove(&unique);
        sim.note(|| format!("{id} {} {:?}", brief(op), result.as_ref().map(|_| ())));
        match result {
            Ok(_) if applied => machine.world.oracle.lock().count("answered again"),
            // Removed on the way: the kernel still has it, and nobody else sees it.
            Ok(_) if op.file().is_some_and(|ino| tree.get(ino).is_none()) => {}
            Ok((made, copied)) => {
                if !op.fits(&tree) {
                    sim.violate(format!("node {id} did what cannot be done: {op:?}"));
                }
                op.apply(&mut tree, made.as_ref(), copied, &attr);
                history.push(tree);
            }
            Err(error) => {
                if let Some(why) = unexpected(op, error, &tree, applied) {
                    sim.violate(format!("node {id}: {why}"));
                }
            }
        }
    }

    async fn fsync(&self) {
        let Some(ino) = self.any(|_| true) else { return };
        self.send_all(Some(ino)).await;
        let apps = self.clone();
        let (send, answer) = oneshot::channel();
        let synced = self
            .env
            .block(move || {
                let dir = apps.history.lock().now().get(ino).is_some_and(Node::is_dir);
                let posix = apps.volume.posix();
                let result = if dir { posix.fsyncdir(ino) } else { posix.fsync(ino, false) };
                let (sim, id) = (&apps.machine.sim, apps.machine.id);
                if sim.is_doomed(id) {
                    return None;
                }
                sim.note(|| format!("{id} fsync {ino:x} {result:?}"));
                match result {
                    Ok(()) => {
                        let mut history = apps.history.lock();
                        history.fsynced(ino);
                        posix.after_commit(
                            ino,
                            Box::new(|answered| {
                                let _ = send.send(answered);
                            }),
                        );
                        return Some(history.index()).filter(|_| apps.is_strict(history.now(), ino));
                    }
                    // After a fence nothing is promised any more.
                    Err(PosixError::Io | PosixError::NotFound) => {}
                    Err(error) => sim.violate(format!("fsync of {ino:x} failed: {error}")),
                }
                None
            })
            .await;
        if let Ok(Some(at)) = synced
            && let Ok(answered) = answer.await
        {
            self.acknowledged(ino, at, answered);
        }
    }

    fn is_strict(&self, tree: &Tree, ino: Ino) -> bool {
        let habits = &self.machine.habits;
        match &habits.tiers {
            Some(tiers) => tiers.is_strict(tree, ino),
            None => habits.policy.contains("strict"),
        }
    }

    /// An fsync of the tier `strict` has its answer.
    fn acknowledged(&self, ino: Ino, at: usize, answered: Result<(), PosixError>) {
        let machine = &self.machine;
        match answered {
            _ if machine.sim.is_doomed(machine.id) => {}
            Ok(()) => match self.history.lock().acknowledged(ino, at) {
                Ok(()) => machine.count("strict fsyncs"),
                Err(why) => machine.sim.violate(format!("node {}: {why}", machine.id)),
            },
            Err(_) => machine.count("strict fsyncs in vain"),
        }
    }

    async fn read(&self) {
        let Some(ino) = self.any(Node::is_file) else { return };
        let apps = self.clone();
        let sim = &self.machine.sim;
        let (at, len) = (sim.below(50_000), sim.between(1, 20_000) as usize);
        let _ = self
            .env
            .block(move || {
                let mut out = Vec::new();
                let result = apps.volume.posix().read_waiting(ino, at, len, &mut out);
                let (sim, id) = (&apps.machine.sim, apps.machine.id);
                if sim.is_doomed(id) {
                    return;
                }
                sim.note(|| format!("{id} read {ino:x} {at}+{len} {result:?}"));
                let history = apps.history.lock();
                let Some(node) = history.now().get(ino) else { return };
                match result {
                    Ok(()) => {
                        let end = node.bytes.len().min(at as usize + len);
                        let want = node.bytes.get(at as usize..end).unwrap_or_default();
                        if out != want {
                            let first = out.iter().zip(want).position(|(a, b)| a != b);
                            sim.violate(format!(
                                "I10: node {id} read {ino:x} at {at}: {} bytes for {}, first wrong {first:?}",
                                out.len(),
                                want.len()
                            ));
                        }
                    }
                    Err(PosixError::Unreachable) => {}
                    Err(error) => sim.violate(format!("node {id} cannot read {ino:x}: {error}")),
                }
            })
            .await;
    }

    /// Opens a file for writing, or ends a handle.
    async fn handle(&self) {
        let sim = &self.machine.sim;
        let opened = {
            let mut disk = self.machine.disk.lock();
            if !disk.handles.is_empty() && sim.permille(500) {
                let at = sim.below(disk.handles.len() as u64) as usize;
                Some(disk.handles.swap_remove(at))
            } else {
                None
            }
        };
        let caller = Caller { uid: 0, gid: 0, request: None, resent: false };
        if let Some(ino) = opened {
            self.send_all(Some(ino)).await;
            self.volume.posix().release(&caller, ino, libc::O_RDWR);
            return;
        }
        let Some(ino) = self.any(Node::is_file) else { return };
        let mut disk = self.machine.disk.lock();
        if disk.inflight.values().any(|op| op.file() == Some(ino)) {
            return;
        }
        if self.volume.posix().open(&caller, ino, libc::O_RDWR).is_ok() {
            disk.handles.push(ino);
            drop(disk);
            self.history.lock().opened(ino);
        }
    }

    /// `holdfast flush`: when it returns, the log has everything.
    async fn flush(&self) {
        let before = self.history.lock().index();
        let (sim, id) = (&self.machine.sim, self.machine.id);
        let (pending, ends) = {
            let disk = self.machine.disk.lock();
            (disk.pages.pending(), self.history.lock().added(disk.pages.ends()))
        };
        let result = self.volume.flush().await;
        sim.note(|| format!("{id} flush {}", result.is_ok()));
        if result.is_ok() {
            let arrived = self.machine.disk.lock().pages.arrival(&pending);
            let Some(arrived) = arrived else {
                sim.violate(format!("I2: node {id} flushed, and the kernel still has what was written before"));
                return;
            };
            let before = before.max(arrived);
            let history = self.history.lock();
            if let Err(why) = history.flushed(before, &ends) {
                sim.violate(format!("I2: node {id} flushed state {before}: {why}"));
            }
            drop(history);
            self.machine.count("flushes");
        }
    }

    async fn evict(&self) {
        let (cache, most) = (Arc::clone(self.volume.cache()), self.machine.sim.below(200_000));
        let sim = self.machine.sim.clone();
        let _ = self
            .env
            .block(move || {
                if let Err(error) = cache.evict(most) {
                    sim.violate(format!("eviction failed: {error}"));
                }
            })
            .await;
    }

    fn any(&self, which: impl Fn(&Node) -> bool) -> Option<Ino> {
        pick(&self.machine, &self.history.lock().now().all(which))
    }

    fn choose(&self) -> Option<Op> {
        let machine = &self.machine;
        let sim = &machine.sim;
        let tree = Arc::clone(self.history.lock().now());
        let dir = pick(machine, &tree.all(Node::is_dir)).unwrap_or(ROOT);
        let file = pick(machine, &tree.all(Node::is_file));
        let name = format!("n{}", sim.below(8)).into_bytes();
        let entry = |dir: Ino| {
            let entries: Vec<_> = tree.get(dir).into_iter().flat_map(|node| &node.entries).collect();
            (!entries.is_empty()).then(|| entries[sim.below(entries.len() as u64) as usize].0.clone())
        };
        let at = || match sim.below(4) {
            0 => sim.below(10) * 4096,
            1 => sim.below(100_000),
            _ => sim.below(20_000),
        };
        let op = match sim.below(48) {
            0..6 => Op::Make { dir, name, mode: libc::S_IFREG | 0o644, target: Vec::new() },
            6..8 => Op::Make { dir, name, mode: libc::S_IFDIR | 0o755, target: Vec::new() },
            8 => Op::Make { dir, name, mode: libc::S_IFLNK | 0o777, target: b"n0".to_vec() },
            9..11 => Op::Link { ino: file?, dir, name },
            11..14 => {
                let name = entry(dir)?;
                let directory = tree.lookup(dir, &name).and_then(|ino| tree.get(ino)).is_some_and(Node::is_dir);
                Op::Remove { dir, name, directory }
            }
            14..20 => {
                let to = pick(machine, &tree.all(Node::is_dir)).unwrap_or(ROOT);
                let mode = [RenameMode::Replace, RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange][sim.below(4) as usize];
                Op::Rename { from: (dir, entry(dir)?), to: (to, name), mode }
            }
            20..34 => {
                let most = if sim.permille(40) { 150_000 } else { machine.habits.write };
                let length = sim.between(1, most) as usize;
                let ino = file?;
                let end = tree.get(ino).map_or(0, |node| node.bytes.len() as u64);
                Op::Write { ino, offset: if sim.permille(400) { end } else { at() }, data: data(sim.next(), length) }
            }
            34..38 => Op::Truncate { ino: file?, size: at() },
            38..40 => Op::Mode { ino: pick(machine, &tree.all(|_| true))?, mode: sim.below(0o1000) as u32 },
            40..42 => {
                let value = sim.permille(700).then(|| sim.next().to_le_bytes().to_vec());
                Op::Xattr { ino: pick(machine, &tree.all(|_| true))?, value }
            }
            42..45 => {
                let modes = [libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, libc::FALLOC_FL_ZERO_RANGE, 0];
                Op::Punch { ino: file?, mode: modes[sim.below(3) as usize], offset: at(), length: sim.between(1, 20_000) }
            }
            _ => {
                let to = pick(machine, &tree.all(Node::is_file))?;
                let (from, at, offset) = (file?, sim.below(4) * 4096, sim.below(4) * 4096);
                // The kernel asks for no more than there is.
                let size = tree.get(from).map_or(0, |node| node.bytes.len() as u64);
                Op::Copy { from, at, to, offset, length: sim.between(1, 30_000).min(size.saturating_sub(at)) }
            }
        };
        op.fits(&tree).then_some(op)
    }
}

fn pick(machine: &Machine, of: &[Ino]) -> Option<Ino> {
    (!of.is_empty()).then(|| of[machine.sim.below(of.len() as u64) as usize])
}

/// Bytes that no other write writes.
pub fn data(number: u64, length: usize) -> Vec<u8> {
    let number = number.to_le_bytes();
    (0..length).map(|at| (number[at % 8] ^ (at / 8) as u8) | 1).collect()
}

fn leaves_gap(op: &Op, tree: &Tree) -> bool {
    let size = op.file().and_then(|ino| tree.get(ino)).map_or(0, |node| node.bytes.len() as u64);
    match op {
        Op::Write { offset, .. } | Op::Copy { offset, .. } => *offset > size,
        Op::Truncate { size: to, .. } => *to > size,
        Op::Punch { offset, length, .. } => offset + length > size,
        _ => false,
    }
}

/// What is wrong about an operation that was refused; `None`: it may be.
fn unexpected(op: &Op, error: PosixError, tree: &Tree, applied: bool) -> Option<String> {
    let limited = matches!(op, Op::Make { .. } | Op::Link { .. } | Op::Truncate { .. } | Op::Punch { .. } | Op::Copy { .. });
    match error {
        // It has no record of its own: it is repeated, and after a fence it cannot be.
        PosixError::ReadOnly if applied && matches!(op, Op::Copy { .. }) => None,
        _ if applied => Some(format!("a request that was carried out is answered with {error}: {op:?}")),
        _ if !op.fits(tree) => None,
        // At a limit, or after a fence.
        PosixError::NoSpace | PosixError::ReadOnly if limited => None,
        PosixError::Unreachable if matches!(op, Op::Punch { .. } | Op::Copy { .. }) => None,
        error => Some(format!("{} was refused: {error}", brief(op))),
    }
}

pub fn brief(op: &Op) -> String {
    match op {
        Op::Write { ino, offset, data } => format!("write {ino:x} {offset}+{}", data.len()),
        other => format!("{other:?}"),
    }
}

/// How long a check waits before it asks again for what the store did not give.
pub const AGAIN: Duration = Duration::from_secs(5);
