//! The repair of what differs from a commit (`compare.rs`).
//!
//! Which of two is right? The commit is authenticated and has checksums, `meta.db` has none: a row that differs is what the disk made of
//! it, and becomes what the commit says. But not when its change time is newer than the commit's: then the application changed it, and the
//! mark that it must be committed was lost. Such a row is kept, as is an inode that the commit does not have at all: nothing that the
//! application sees is taken away. A name stays when its inode knows it for its own. Either way the row counts as changed, so the next
//! commit says how it is: the repair is in the log.
//!
//! A repair holds the batch's mutex, so no commit is taken over meanwhile; the metadata mutex, so no row changes; and the file's lock from
//! the look at its content to its end, so no write comes between. It is not logged: the batch that says all of it is applied before the
//! first mutex is given back. Until then a crash leaves what was there, to be found again.

use super::Cache;
use super::batch::Begun;
use super::compare::{Basis, Shown, differs, xattrs};
use super::db::{self, CAPTURED, Stamped};
use super::effect::{Effect, InodeRow};
use super::file::{Content, DataFile};
use super::meta::Meta;
use super::resolve::object_id;
use super::types::{CacheError, Difference, LocalExtent, ObjectId, Odd};
use super::update::{put_target, put_xattr};
use super::view::View;
use crate::rpc::ObjectRef;
use crate::types::{Attr, Ino, RangeSet, show_name};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What became of something odd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// Another commit was taken over meanwhile, and nothing was done: look at the deltas since, and come again.
    Moved,
    /// Those that differed still; the others were changed or removed since.
    Done(Vec<Difference>),
}

impl Cache {
    /// Looks at what was odd once more, and repairs what is so still; durable on return. Inodes come before names, which need them.
    ///
    /// # Errors
    /// When either database or the cache's disk fails.
    pub fn repair(&self, basis: &Basis, commit: &Self, odd: &[Odd]) -> Result<Repair, CacheError> {
        let mut batch = self.batch.lock();
        if batch.closed {
            return Ok(Repair::Done(Vec::new()));
        }
        // Numbers of objects are given here that meta.db has only with the batch below: nobody shares these extents before.
        self.touches.seams.meet();
        self.seal.resolving.store(true, Ordering::SeqCst);
        let done = self.repair_all(basis, commit, odd);
        let applied = match &done {
            Ok(Repair::Moved) => Ok(()),
            Ok(Repair::Done(done)) if done.is_empty() => Ok(()),
            _ => self.apply_locked(&mut batch, Begun::new(self)),
        };
        self.seal.resolving.store(false, Ordering::SeqCst);
        applied.and(done)
    }

    fn repair_all(&self, basis: &Basis, commit: &Self, odd: &[Odd]) -> Result<Repair, CacheError> {
        let mut done = Vec::new();
        for odd in odd {
            let mut meta = self.meta.lock();
            if meta.resolved != basis.resolved {
                return Ok(Repair::Moved);
            }
            meta.flush()?;
            let kept = match odd {
                Odd::Inode(ino) => self.repair_inode(&mut meta, basis, commit, *ino)?,
                Odd::Name { dir, name } => self.repair_name(&mut meta, basis, commit, *dir, name)?,
            };
            let Some(kept) = kept else { continue };
            if self.totals.changed(&self.env) {
                self.stir();
            }
            self.totals.rows.store(meta.changed.bytes(), Ordering::Relaxed);
            done.push(self.difference(&mut meta, odd, kept));
        }
        Ok(Repair::Done(done))
    }

    fn difference(&self, meta: &mut Meta, odd: &Odd, kept: bool) -> Difference {
        let mut view = View { cache: self, meta };
        match odd {
            Odd::Inode(ino) => Difference { path: view.show_path(*ino), ino: *ino, name: None, kept },
            Odd::Name { dir, name } => {
                let path = view.path_of(&(*dir, name.clone())).ok().flatten();
                let path = path.map_or_else(|| format!("inode {dir}/{}", show_name(name)), |path| show_name(&path));
                Difference { path, ino: *dir, name: Some(name.clone()), kept }
            }
        }
    }

    // `Some`: it differs; whether what is here is kept.
    fn repair_inode(&self, meta: &mut Meta, basis: &Basis, commit: &Self, ino: Ino) -> Result<Option<bool>, CacheError> {
        let ours = db::get_inode(&meta.db, ino)?;
        let theirs = Committed::read(commit, ino)?;
        // What a seal has frozen of the row is kept before the file's lock is taken.
        meta.keep(self, ino)?;
        let file = if meta.row(ino)?.is_some_and(|row| row.row.attr.is_file()) { Some(self.load_file(meta, ino)?) } else { None };
        let mut held = file.as_ref().map(|file| (file, file.inner.lock()));
        let unsettled = held.as_ref().is_some_and(|(_, content)| content.is_unsettled());
        if unsettled || !differs(meta, basis, ours.as_ref(), theirs.as_ref().map(|theirs| &theirs.shown), ino)? {
            return Ok(None);
        }
        let Some(theirs) = theirs.filter(|theirs| !ours.as_ref().is_some_and(|ours| theirs.is_older(&ours.row.attr))) else {
            meta.change(self, ino)?;
            if let Some((file, content)) = &mut held {
                self.freeze_for(file, content, meta.epoch)?;
                content.dirty_all(ino);
                self.pend(file, content);
                self.list(file, content, meta.epoch);
                self.tell(file, content);
            }
            return Ok(Some(true));
        };
        let was = ours.map(|ours| Shown::read(meta, &ours.row)).transpose()?;
        self.put_row(meta, &theirs)?;
        let content_differs = |was: Shown| was.pieces != theirs.shown.pieces || was.attr.size != theirs.row.attr.size;
        if theirs.row.attr.is_file() && was.is_none_or(content_differs) {
            match &mut held {
                Some((file, content)) => self.put_content(meta, file, content, theirs)?,
                // It was no file here: nobody has it. What it has in no commit stays.
                None => {
                    let file = self.load_file(meta, ino)?;
                    let mut content = file.inner.lock();
                    if !content.is_unsettled() {
                        self.put_content(meta, &file, &mut content, theirs)?;
                    }
                }
            }
        }
        Ok(Some(false))
    }

    // The row and what belongs to it as a commit has them. Its cookies never go back, and a directory's links are counted here.
    fn put_row(&self, meta: &mut Meta, theirs: &Committed) -> Result<(), CacheError> {
        let ino = theirs.row.attr.ino;
        if meta.row(ino)?.is_some() {
            let row = &mut meta.change(self, ino)?.inode.row;
            let nlink = if row.attr.is_dir() && theirs.row.attr.is_dir() { row.attr.nlink } else { 0 };
            let nlink = if nlink > 0 { nlink } else { theirs.row.attr.nlink };
            let cookies = row.cookies.max(theirs.row.cookies);
            *row = InodeRow { attr: Attr { nlink, ..theirs.row.attr.clone() }, home: theirs.row.home, cookies };
        } else {
            meta.put_back(theirs.row.clone())?;
        }
        if let Some(target) = &theirs.shown.target {
            put_target(meta, ino, target)?;
        }
        let had = xattrs(meta, ino)?;
        for name in had.keys().filter(|name| !theirs.shown.xattrs.contains_key(*name)) {
            put_xattr(meta, ino, name, None)?;
        }
        for (name, value) in theirs.shown.xattrs.iter().filter(|(name, value)| had.get(*name) != Some(value)) {
            put_xattr(meta, ino, name, Some(value))?;
        }
        Ok(())
    }

    // Settled content becomes what a commit says. A seal that reads meanwhile has not got it: it need not be frozen.
    fn put_content(&self, meta: &mut Meta, file: &Arc<DataFile>, content: &mut Content, theirs: Committed) -> Result<(), CacheError> {
        let db = meta.write()?;
        let mut ids = BTreeMap::new();
        for (id, object) in &theirs.objects {
            ids.insert(*id, object_id(db, object)?);
        }
        let numbered = |e: LocalExtent| LocalExtent { object: ids.get(&e.object).copied().unwrap_or(0), ..e };
        content.become_committed(theirs.row.attr.size, theirs.extents.into_iter().map(numbered));
        self.pend(file, content);
        self.tell(file, content);
        Ok(())
    }

    fn repair_name(&self, meta: &mut Meta, basis: &Basis, commit: &Self, dir: Ino, name: &[u8]) -> Result<Option<bool>, CacheError> {
        let theirs = db::get_name(&commit.meta.lock().db, dir, name)?;
        let ours = db::get_name(&meta.db, dir, name)?;
        let touched = ours.as_ref().is_some_and(|ours| ours.stamp > basis.resolved);
        if touched || meta.is_gone(&Odd::Name { dir, name: name.to_vec() })? {
            return Ok(None);
        }
        match (ours, theirs) {
            (None, None) => Ok(None),
            (Some(ours), Some(theirs)) if ours.row == theirs.row => Ok(None),
            (Some(ours), None) => {
                let own = View { cache: self, meta }.names_of(ours.row.ino)?.contains(&(dir, name.to_vec()));
                // In the commit another name has its place: then that one is the truth, and this one was given by nobody.
                if !own || commit.meta.lock().name_at(dir, ours.row.cookie)?.is_some() {
                    drop_name(meta, dir, name)?;
                    return Ok(Some(false));
                }
                meta.set_name(dir, name, Some(ours.row))?;
                meta.change(self, ours.row.ino)?;
                Ok(Some(true))
            }
            (_, Some(theirs)) => {
                let is_named = |row: Option<&Stamped<InodeRow>>| row.is_some_and(|row| row.row.attr.nlink > 0);
                if !is_named(meta.row(dir)?) || !is_named(meta.row(theirs.row.ino)?) {
                    return Ok(None);
                }
                // Whatever else has its place goes first, but for what the application put there.
                match meta.name_at(dir, theirs.row.cookie)?.filter(|(other, _)| other != name) {
                    Some((_, stamp)) if stamp > basis.resolved => return Ok(None),
                    Some((other, _)) => drop_name(meta, dir, &other)?,
                    None => {}
                }
                meta.set_name(dir, name, Some(theirs.row))?;
                meta.amend_name(dir, name, |row| row.flags |= CAPTURED)?;
                // A name and its inode are said together.
                meta.change(self, theirs.row.ino)?;
                Ok(Some(false))
            }
        }
    }
}

/// An inode as a commit has it.
struct Committed {
    row: InodeRow,
    shown: Shown,
    /// With the numbers of objects in the other cache.
    extents: Vec<LocalExtent>,
    objects: BTreeMap<ObjectId, ObjectRef>,
}

impl Committed {
    fn read(commit: &Cache, ino: Ino) -> Result<Option<Self>, CacheError> {
        let (row, shown, extents) = {
            let meta = commit.meta.lock();
            let Some(found) = db::get_inode(&meta.db, ino)? else { return Ok(None) };
            let shown = Shown::read(&meta, &found.row)?;
            (found.row, shown, db::get_extents(&meta.db, ino)?)
        };
        let ids = extents.iter().map(|e| e.object).filter(|id| *id != 0);
        let objects = ids.map(|id| Ok((id, commit.object(id)?))).collect::<Result<_, CacheError>>()?;
        Ok(Some(Self { row, shown, extents, objects }))
    }

    fn is_older(&self, ours: &Attr) -> bool {
        ours.ctime > self.row.attr.ctime && ours.kind() == self.row.attr.kind()
    }
}

impl Content {
    /// Whether anything of it is in no commit, or in one whose outcome is open.
    pub(super) fn is_unsettled(&self) -> bool {
        self.is_changed() || self.frozen.is_some()
    }

    // All that is here goes into the next commit once more.
    fn dirty_all(&mut self, ino: Ino) {
        let here: RangeSet = self.present.set().clone();
        for range in here.iter() {
            self.apply(&Effect::Dirtied { ino, range });
        }
    }

    // All of it is what a commit says, and nothing of it is here.
    fn become_committed(&mut self, size: u64, extents: impl Iterator<Item = LocalExtent>) {
        let here: RangeSet = self.present.set().clone();
        self.evict(&here);
        self.extents.clear(0..u64::MAX);
        // Also rows that are not in memory.
        self.extents.touched.insert(0..i64::MAX as u64);
        extents.for_each(|extent| self.extents.put(extent));
        self.size = size;
        self.synced_size = size;
        self.settled = size;
    }
}

fn drop_name(meta: &mut Meta, dir: Ino, name: &[u8]) -> Result<(), CacheError> {
    meta.set_name(dir, name, None)?;
    // Also when it is known in memory for not there.
    db::drop_name(meta.write()?, dir, name)
}
