//! What commits show that leave the tier `scheduled`, against a small model: any operations on a few names of two tiers, in directories of two
//! tiers, and commits of both kinds between them.

use super::super::domain::judge_lost;
use super::*;
use crate::cache::Seal;
use crate::types::{Domain, Hash, Head};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::collections::{BTreeMap, BTreeSet};

/// What begins with `s` waits, and all below it.
const POLICY: &str = "s* scheduled @yearly\n* continuous 1s";
const NAMES: [&str; 4] = ["a", "b", "s1", "s2"];
const DIRS: [&str; 3] = ["d", "e", "sd"];

#[derive(Debug, Clone)]
enum Step {
    Make { dir: usize, name: usize },
    Append { file: usize },
    Cut { file: usize },
    Chmod { file: usize },
    Rename { file: usize, dir: usize, name: usize },
    Link { file: usize, dir: usize, name: usize },
    Unlink { file: usize },
    MoveDirectory { from: usize, to: usize },
    RemoveDirectory { dir: usize },
    MakeDirectory { dir: usize },
    Commit { full: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let (file, dir, name) = (0..8usize, 0..=DIRS.len(), 0..NAMES.len());
    prop_oneof![
        3 => (dir.clone(), name.clone()).prop_map(|(dir, name)| Step::Make { dir, name }),
        3 => file.clone().prop_map(|file| Step::Append { file }),
        1 => file.clone().prop_map(|file| Step::Cut { file }),
        1 => file.clone().prop_map(|file| Step::Chmod { file }),
        3 => (file.clone(), dir.clone(), name.clone()).prop_map(|(file, dir, name)| Step::Rename { file, dir, name }),
        1 => (file.clone(), dir, name).prop_map(|(file, dir, name)| Step::Link { file, dir, name }),
        1 => file.prop_map(|file| Step::Unlink { file }),
        1 => (0..DIRS.len(), 0..DIRS.len()).prop_map(|(from, to)| Step::MoveDirectory { from, to }),
        1 => (0..DIRS.len()).prop_map(|dir| Step::RemoveDirectory { dir }),
        1 => (0..DIRS.len()).prop_map(|dir| Step::MakeDirectory { dir }),
        5 => (0..4).prop_map(|n| Step::Commit { full: n == 0 }),
    ]
}

/// A tree: what an inode is, and where its names are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Shown {
    /// Mode and size.
    inodes: BTreeMap<Ino, (u32, u64)>,
    names: BTreeMap<(Ino, Vec<u8>), Ino>,
}

impl Shown {
    /// With what a seal says of it.
    fn apply(&mut self, seal: &Seal) {
        for name in seal.removed_names(&mut 0, 1000).unwrap() {
            self.names.remove(&(name.dir, name.name.to_vec()));
        }
        for ino in seal.removed_inodes(&mut 0, 1000).unwrap() {
            self.inodes.remove(&ino);
        }
        for inode in seal.inodes(&mut 0, 1000).unwrap() {
            let is_dir = inode.mode & libc::S_IFMT == libc::S_IFDIR;
            self.inodes.insert(inode.ino, (inode.mode, if is_dir { 0 } else { inode.size }));
        }
        for name in seal.names(&mut 0, 1000).unwrap() {
            self.names.insert((name.dir, name.name.to_vec()), name.ino);
        }
    }

    /// What is there now.
    fn of(cache: &Cache) -> Self {
        let mut shown = Self::default();
        let mut left = vec![ROOT];
        while let Some(ino) = left.pop() {
            let (attr, entries) = cache.view(|view| {
                let attr = view.attr(ino).unwrap().unwrap();
                let entries = if attr.is_dir() { view.entries(ino, 0, 1000).unwrap() } else { Vec::new() };
                (attr, entries)
            });
            shown.inodes.insert(ino, (attr.mode, if attr.is_dir() { 0 } else { attr.size }));
            for entry in entries {
                shown.names.insert((ino, entry.name), entry.ino);
                left.push(entry.ino);
            }
        }
        shown
    }

    fn files(&self) -> Vec<Ino> {
        self.inodes.iter().filter(|(_, (mode, _))| mode & libc::S_IFMT == libc::S_IFREG).map(|(ino, _)| *ino).collect()
    }

    fn first_name(&self, ino: Ino) -> Option<(Ino, Vec<u8>)> {
        self.names.iter().find(|(_, named)| **named == ino).map(|(at, _)| at.clone())
    }

    /// By the definition: every name of it lies in the tier.
    fn waits(&self, ino: Ino) -> bool {
        let mut named = self.names.iter().filter(|(_, named)| **named == ino).peekable();
        let in_tier = |(dir, name): &(Ino, Vec<u8>)| name.starts_with(b"s") || (*dir != ROOT && self.waits(*dir));
        named.peek().is_some() && named.all(|(at, _)| in_tier(at))
    }

    /// What a commit of this state shows that leaves the tier as `older` has it.
    fn left(&self, older: &Self) -> Self {
        let mut left = Self::default();
        // A directory that is new is shown where something of the rest needs it.
        let mut needed: BTreeSet<Ino> = self.names.iter().filter(|(_, ino)| !self.waits(**ino)).map(|((dir, _), _)| *dir).collect();
        for _ in 0..4 {
            needed.extend(self.names.iter().filter(|(_, ino)| needed.contains(ino)).map(|((dir, _), _)| *dir).collect::<Vec<_>>());
        }
        let own = |ino: &Ino| !self.waits(*ino) || (needed.contains(ino) && !older.inodes.contains_key(ino));
        left.inodes.extend(self.inodes.iter().filter(|(ino, _)| own(ino)));
        left.inodes.extend(older.inodes.iter().filter(|(ino, _)| self.waits(**ino)));
        left.names.extend(self.names.iter().filter(|(_, ino)| own(ino)).map(|(at, ino)| (at.clone(), *ino)));
        left.names.extend(older.names.iter().filter(|(_, ino)| self.waits(**ino)).map(|(at, ino)| (at.clone(), *ino)));
        left
    }
}

struct Lab {
    _dir: tempfile::TempDir,
    cache: Arc<Cache>,
    classifier: Classifier,
    shown: Shown,
    commits: u64,
    left: u64,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let env = Env::new(Stepped::new(), Stepped::new(), Failpoints::none());
        let identity = Identity::parse("a/b").unwrap();
        let origin = CacheOrigin { store_id: StoreId([1; 16]), incarnation: LIFE, identity, cache_id: CACHE };
        let mut options = CacheOptions::new(dir.path().join("cache"));
        (options.log_bytes, options.any_file_system, options.no_sync) = (4 << 20, true, true);
        let cache = Cache::create(env, options, &origin).unwrap();
        let policy = Policy::parse(POLICY).unwrap();
        judge_lost(&cache, &policy);
        Self { _dir: dir, cache, classifier: Classifier::new(policy), shown: Shown::default(), commits: 0, left: 0 }
    }

    /// Changes names; what is refused changes nothing.
    fn change(&self, change: impl FnOnce(&mut Update<'_>) -> Result<(), CacheError>) {
        self.cache.update(None, |update| change(update).map(|()| ((), SavedReply::Empty))).unwrap();
    }

    fn take(&mut self, step: &Step) {
        let now = Shown::of(&self.cache);
        let dir = |number: usize| match number.checked_sub(1) {
            None => Some(ROOT),
            Some(number) => now.names.get(&(ROOT, DIRS[number].into())).copied(),
        };
        let file = |number: usize| now.files().get(number).copied();
        let place = |at: usize, name: usize| {
            let dir = dir(at)?;
            let old = now.names.get(&(dir, NAMES[name].into())).copied();
            Some((dir, NAMES[name].as_bytes(), old))
        };
        match *step {
            Step::Make { dir, name } => {
                let Some((dir, name, None)) = place(dir, name) else { return };
                self.make(dir, name, libc::S_IFREG);
            }
            Step::Append { file: number } => {
                let Some(ino) = file(number) else { return };
                write(&self.cache, ino, now.inodes[&ino].1, b"more");
            }
            Step::Cut { file: number } => {
                let Some(ino) = file(number) else { return };
                self.change(|update| update.set_size(ino, now.inodes[&ino].1 / 2));
            }
            Step::Chmod { file: number } => {
                let Some(ino) = file(number) else { return };
                self.change(|update| {
                    let mut attr = update.attr(ino)?.unwrap();
                    attr.mode ^= 0o111;
                    update.set_attr(&attr)
                });
            }
            Step::Rename { file: number, dir, name } | Step::Link { file: number, dir, name } => {
                let (Some(ino), Some((dir, name, old))) = (file(number), place(dir, name)) else { return };
                let Some((from, called)) = now.first_name(ino).filter(|_| old != Some(ino)) else { return };
                let rename = matches!(step, Step::Rename { .. });
                if !rename && old.is_some() {
                    return;
                }
                self.change(|update| {
                    if rename {
                        update.remove_name(from, &called)?;
                    }
                    update.set_name(dir, name, ino)?;
                    old.map_or(Ok(()), |old| update.forget_orphan(old))
                });
            }
            Step::Unlink { file: number } => {
                let Some((dir, name)) = file(number).and_then(|ino| now.first_name(ino)) else { return };
                self.change(|update| {
                    update.remove_name(dir, &name)?;
                    update.forget_orphan(now.names[&(dir, name.clone())])
                });
            }
            Step::MoveDirectory { from, to } => self.directory(&now, DIRS[from].as_bytes(), Some(DIRS[to].as_bytes())),
            Step::RemoveDirectory { dir } => self.directory(&now, DIRS[dir].as_bytes(), None),
            Step::MakeDirectory { dir: number } if dir(number + 1).is_none() => self.make(ROOT, DIRS[number].as_bytes(), libc::S_IFDIR),
            Step::MakeDirectory { .. } => {}
            Step::Commit { full } => self.commit(&now, full),
        }
    }

    /// Moves a directory, or removes it when it is empty.
    fn directory(&self, now: &Shown, name: &[u8], to: Option<&[u8]>) {
        let at = |name: &[u8]| now.names.get(&(ROOT, name.into())).copied();
        let Some(ino) = at(name) else { return };
        let may = match to {
            Some(to) => at(to).is_none(),
            None => !now.names.keys().any(|(dir, _)| *dir == ino),
        };
        if may {
            self.change(|update| {
                update.remove_name(ROOT, name)?;
                match to {
                    Some(to) => update.set_name(ROOT, to, ino),
                    None => update.forget_orphan(ino),
                }
            });
        }
    }

    fn make(&self, dir: Ino, name: &[u8], kind: u32) {
        self.change(|update| {
            let ino = update.new_inode(&NewInode { mode: kind | 0o644, ..NewInode::default() })?.ino;
            update.set_name(dir, name, ino)
        });
    }

    fn commit(&mut self, now: &Shown, full: bool) {
        let Self { cache, classifier, .. } = self;
        classifier.begin();
        let seal = cache.seal_urgent((!full).then_some(0), &mut |view, change| classifier.classify(view, change)).unwrap();
        let older = self.shown.clone();
        self.shown.apply(&seal);
        let want = if seal.is_full() { now.clone() } else { now.left(&older) };
        assert!(seal.is_full() || !full);
        assert_eq!(self.shown, want, "{}", if seal.is_full() { "full" } else { "leaves the tier" });
        // Nothing that waits came from elsewhere, or went, since.
        let gone = |(at, ino): (&(Ino, Vec<u8>), &Ino)| now.waits(*ino) && now.names.get(at) != Some(ino);
        assert!(seal.is_full() || !older.names.iter().any(gone));
        self.left += u64::from(!seal.is_full());
        self.commits += 1;
        let head = Head { seq: self.commits, hash: Hash([1; 32]), epoch: 1 };
        if seal.is_empty() { cache.abandon(seal).unwrap() } else { cache.resolve(seal, head, &[]).unwrap() }
    }
}

#[test]
fn what_waits_is_in_the_domain_of_its_tier() {
    let policy = Policy::parse(POLICY).unwrap();
    assert_eq!(policy.tier_of(b"sd/a", false, &mut |_| false).domain(), Domain::Scheduled);
    assert_eq!(policy.tier_of(b"d/a", false, &mut |_| false).domain(), Domain::Continuous);
}

#[test]
fn commits_show_what_the_model_says() {
    let left = AtomicU64::new(0);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(200));
    let world = |steps: Vec<Step>| {
        let mut lab = Lab::new();
        for step in &steps {
            lab.take(step);
        }
        lab.take(&Step::Commit { full: true });
        prop_assert_eq!(&lab.shown, &Shown::of(&lab.cache));
        left.fetch_add(lab.left, Ordering::Relaxed);
        Ok(())
    };
    runner.run(&proptest::collection::vec(step(), 5..60), world).unwrap();
    let left = left.into_inner();
    println!("{left} commits left the tier");
    assert!(left > 100, "a test of nothing: {left}");
}
