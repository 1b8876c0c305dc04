//! The kernel's pages: what was written to files that are open for writing, and not sent yet. Pages are sent in any order, and again by a kernel
//! whose driver died; with the machine they are gone.

use super::apps::Apps;
use super::bugs::Bug;
use super::history::History;
use super::machine::{Disk, Machine};
use super::op::Op;
use holdfast::env::Env;
use holdfast::types::{Ino, ROOT};
use holdfast::volume::{Posix, Volume};
use holdfast::writeback::{Brought, KernelPages};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Weak};
use std::time::Duration;

const PAGE: u64 = 4096;
/// How often it is tried to send something before it is given up.
const TURNS: u32 = 1_000;

/// Bytes of one page that are dirty in the kernel.
#[derive(Clone, Debug)]
struct Dirty {
    ino: Ino,
    offset: u64,
    data: Vec<u8>,
    /// Of the first write to it that was not sent.
    serial: u64,
}

#[derive(Debug, Default)]
pub struct Pages {
    dirty: Vec<Dirty>,
    /// The sizes that the kernel knows, of files with dirty pages.
    sizes: BTreeMap<Ino, u64>,
    serial: u64,
    /// Requests with pages that were sent.
    sent: BTreeSet<u64>,
    /// After which state of the volume a write had been answered by the driver.
    arrived: BTreeMap<u64, usize>,
}

impl Pages {
    pub fn clear(&mut self) {
        self.dirty.clear();
        self.sizes.clear();
        self.sent.clear();
        self.arrived.clear();
    }

    /// The size of a file; `driver`: as the driver knows it.
    pub fn size(&self, ino: Ino, driver: u64) -> u64 {
        self.sizes.get(&ino).copied().unwrap_or(0).max(driver)
    }

    pub fn holds(&self, ino: Ino) -> bool {
        self.dirty.iter().any(|page| page.ino == ino)
    }

    /// A write, acknowledged at once.
    pub fn write(&mut self, ino: Ino, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        let size = self.sizes.entry(ino).or_default();
        *size = (*size).max(end);
        let mut at = offset;
        while at < end {
            let next = end.min(at - at % PAGE + PAGE);
            self.serial += 1;
            let part = &data[(at - offset) as usize..(next - offset) as usize];
            let joins =
                |page: &&mut Dirty| page.ino == ino && page.offset / PAGE == at / PAGE && page.offset + page.data.len() as u64 == at;
            match self.dirty.iter_mut().find(joins) {
                Some(page) => page.data.extend_from_slice(part),
                None => self.dirty.push(Dirty { ino, offset: at, data: part.to_vec(), serial: self.serial }),
            }
            at = next;
        }
    }

    /// Takes a page to be sent: of one file, or of any of which nothing is on its way.
    fn take(&mut self, which: &dyn Fn(Ino) -> bool, choose: impl FnOnce(u64) -> u64) -> Option<(Op, u64)> {
        let fit: Vec<usize> = (0..self.dirty.len()).filter(|at| which(self.dirty[*at].ino)).collect();
        if fit.is_empty() {
            return None;
        }
        let Dirty { ino, offset, data, serial } = self.dirty.swap_remove(fit[choose(fit.len() as u64) as usize]);
        Some((Op::Write { ino, offset, data }, serial))
    }

    /// What was written so far and is not known to have arrived.
    pub fn pending(&self) -> Vec<u64> {
        self.dirty.iter().map(|page| page.serial).collect()
    }

    /// The files with dirty pages, and their sizes.
    pub fn ends(&self) -> BTreeMap<Ino, u64> {
        self.dirty.iter().filter_map(|page| Some((page.ino, *self.sizes.get(&page.ino)?))).collect()
    }

    /// After which state all of these had arrived; `None`: they have not.
    pub fn arrival(&self, serials: &[u64]) -> Option<usize> {
        serials.iter().try_fold(0, |last, serial| self.arrived.get(serial).map(|at| last.max(*at)))
    }
}

impl Apps {
    /// A program writes to a file that it has open: at its end, mostly. The kernel has it, and the driver hears nothing.
    pub fn write_behind(&self) {
        let (machine, sim) = (&self.machine, &self.machine.sim);
        let mut disk = machine.disk.lock();
        if disk.handles.is_empty() {
            return;
        }
        let ino = disk.handles[sim.below(disk.handles.len() as u64) as usize];
        let mut history = self.history.lock();
        let Some(driver) = history.now().get(ino).map(|node| node.bytes.len() as u64) else { return };
        if disk.inflight.values().any(|op| op.file() == Some(ino)) {
            return;
        }
        let size = disk.pages.size(ino, driver);
        let offset = if sim.permille(800) || disk.pages.holds(ino) { size } else { sim.below(size + 1) };
        let data = super::apps::data(sim.next(), sim.between(1, machine.habits.write.min(30_000)) as usize);
        if offset == size {
            history.appended(ino, size, &data);
        } else {
            history.not_appended(ino);
        }
        disk.pages.write(ino, offset, &data);
        drop((history, disk));
        sim.note(|| format!("{} holds {ino:x} {offset}+{}", machine.id, data.len()));
        machine.count("writes that the kernel holds");
    }

    /// What the kernel has of the files of an operation goes before it (protocol.md 6.3, and the kernel's own order).
    pub async fn pages_first(&self, op: &Op) {
        if !self.machine.habits.kernel {
            return;
        }
        let moved = match op {
            Op::Rename { from, .. } => self.history.lock().now().lookup(from.0, &from.1),
            _ => None,
        };
        for ino in op.inodes().into_iter().chain(moved) {
            self.send_all(Some(ino)).await;
        }
        if let Some(ino) = op.file() {
            let mut disk = self.machine.disk.lock();
            if !disk.pages.holds(ino) {
                disk.pages.sizes.remove(&ino);
            }
            drop(disk);
            self.history.lock().not_appended(ino);
        }
    }

    /// The kernel sends a page when it likes.
    pub async fn send_one(&self) {
        let apps = self.clone();
        let _ = self.env.block(move || apps.send(&|_| true)).await;
    }

    /// The kernel sends all that it has of a file; of all of them. Whoever asked for it waits until everything has arrived, however long that is.
    pub async fn send_all(&self, ino: Option<Ino>) {
        if self.machine.habits.kernel {
            let apps = self.clone();
            let all =
                move || while !apps.machine.sim.is_doomed(apps.machine.id) && !apps.bring(&|of| ino.is_none_or(|ino| ino == of), 0) {};
            let _ = self.env.block(all).await;
        }
    }

    /// Sends one page, on a thread that may wait. `false`: there is none that could be sent now.
    fn send(&self, which: &dyn Fn(Ino) -> bool) -> bool {
        let machine = &self.machine;
        let (op, serial, unique) = {
            let unique = machine.next_unique();
            let mut disk = machine.disk.lock();
            let busy: Vec<Ino> = disk.inflight.values().flat_map(Op::inodes).collect();
            let Some((op, serial)) = disk.pages.take(&|ino| which(ino) && !busy.contains(&ino), |below| machine.sim.below(below)) else {
                return false;
            };
            disk.inflight.insert(unique, op.clone());
            disk.pages.sent.insert(unique);
            (op, serial, unique)
        };
        self.carry_surely(unique, &op, None);
        let at = self.history.lock().index();
        if !machine.sim.is_doomed(machine.id) {
            machine.disk.lock().pages.arrived.insert(serial, at);
        }
        true
    }

    /// Sends everything that is there now; `false`: not all of it went. `more`: in permille of turns a program writes on meanwhile, and of that
    /// any part is sent too.
    fn bring(&self, which: &dyn Fn(Ino) -> bool, more: u64) -> bool {
        let under_way = |disk: &Disk| -> BTreeSet<u64> {
            let of = |unique: &&u64| disk.inflight.get(unique).and_then(Op::file).is_some_and(which);
            disk.pages.sent.iter().filter(of).copied().collect()
        };
        let (first, mut sent) = {
            let mut disk = self.machine.disk.lock();
            let Disk { inflight, pages, .. } = &mut *disk;
            pages.sent.retain(|unique| inflight.contains_key(unique));
            let first: BTreeSet<u64> = pages.dirty.iter().filter(|page| which(page.ino)).map(|page| page.serial).collect();
            (first, under_way(&disk))
        };
        let mut dirty = true;
        for _ in 0..TURNS {
            {
                let disk = self.machine.disk.lock();
                let now = under_way(&disk);
                // Also what somebody else has sent of it since the last look.
                if dirty {
                    sent.extend(&now);
                }
                dirty = disk.pages.dirty.iter().any(|page| first.contains(&page.serial));
                if !dirty && sent.is_disjoint(&now) {
                    return true;
                }
            }
            if self.machine.sim.permille(more) {
                self.write_behind();
            }
            if !self.send(which) {
                self.env.waiter().wait(self.env.sleep(Duration::from_millis(20)));
            }
        }
        false
    }
}

/// The kernel of a machine, in front of one process.
pub struct Kernel {
    pub posix: Weak<Posix>,
    pub volume: Weak<Volume>,
    pub machine: Arc<Machine>,
    pub env: Env,
    /// From when on applications work.
    pub history: Arc<Mutex<Option<Arc<Mutex<History>>>>>,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kernel")
    }
}

impl Kernel {
    fn apps(&self) -> Option<Apps> {
        Some(Apps {
            machine: Arc::clone(&self.machine),
            env: self.env.clone(),
            volume: self.volume.upgrade()?,
            history: self.history.lock().clone()?,
            stop: Arc::new(AtomicBool::new(false)),
            running: Arc::new(AtomicUsize::new(0)),
        })
    }
}

impl KernelPages for Kernel {
    fn any(&self) -> bool {
        self.posix.upgrade().is_some_and(|posix| posix.any_writable_open())
    }

    fn bring_in(&self) -> Brought {
        let Some(posix) = self.posix.upgrade() else { return Brought::default() };
        let (machine, sim) = (&self.machine, &self.machine.sim);
        let driver = |ino: Ino| posix.getattr(ino).ok().map(|attr| attr.size);
        let open: BTreeSet<Ino> = posix.writable_open().into_iter().filter(|ino| *ino != ROOT).collect();
        if !machine.habits.kernel {
            return Brought { sizes: open.into_iter().filter_map(|ino| Some((ino, driver(ino)?))).collect(), missed: None };
        }
        // A new driver asks when it serves.
        let apps = loop {
            let apps = self.apps();
            if apps.is_some() || self.volume.upgrade().is_none() {
                break apps;
            }
            self.env.waiter().wait(self.env.sleep(Duration::from_millis(20)));
        };
        let mut brought = Brought::default();
        for ino in open {
            let Some(size) = driver(ino).map(|size| machine.disk.lock().pages.size(ino, size)) else { continue };
            // Without a descriptor nothing can be asked for. (Often, where that is what the planted bug is about.)
            let refused = sim.permille(if machine.bug == Bug::SizesOfMissed { 500 } else { 100 });
            let came = match &apps {
                Some(apps) if !refused => machine.bug == Bug::NotBrought || apps.bring(&|of| of == ino, 200),
                _ => false,
            };
            match (came, machine.bug) {
                (true, Bug::SizeTooLarge) => brought.sizes.push((ino, size + (64 << 10))),
                (true, _) => brought.sizes.push((ino, size)),
                (false, bug) => {
                    brought.sizes.extend((bug == Bug::SizesOfMissed).then_some((ino, size)));
                    brought.missed = Some(format!("not all pages of {ino:x} came"));
                }
            }
        }
        brought
    }
}
