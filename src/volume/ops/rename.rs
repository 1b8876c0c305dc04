//! rename, with NOREPLACE and EXCHANGE.

use super::names::{check_new_name, directory, named, touch_directory, unnamed};
use super::{Caller, Posix, PosixError, Result};
use crate::cache::{SavedReply, Update};
use crate::types::{Attr, Ino, ROOT};

/// What becomes of the new name's present meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// It is replaced.
    Replace,
    /// There must be none.
    NoReplace,
    /// It gets the old name.
    Exchange,
}

impl Posix {
    /// What a rename of this name would move, and what it would exchange it with: the inodes whose bytes must have come in
    /// before (protocol.md 6.3).
    #[must_use]
    pub fn rename_moves(&self, from: (Ino, &[u8]), to: (Ino, &[u8]), mode: RenameMode) -> Vec<Ino> {
        self.cache.view(|view| {
            let mut moved = |name: (Ino, &[u8])| view.lookup(name.0, name.1).ok().flatten().map(|(ino, _)| ino);
            let other = if mode == RenameMode::Exchange { moved(to) } else { None };
            moved(from).into_iter().chain(other).collect()
        })
    }

    /// Gives what `from` names the name `to`, in one step.
    ///
    /// # Errors
    /// As POSIX says.
    pub fn rename(&self, caller: &Caller, from: (Ino, &[u8]), to: (Ino, &[u8]), mode: RenameMode) -> Result<()> {
        if self.answered(caller).is_some() {
            return Ok(());
        }
        self.change()?;
        check_new_name(from.1)?;
        check_new_name(to.1)?;
        let orphan = self.cache.update(caller.request, |update| {
            let orphan = match mode {
                RenameMode::Exchange => exchange(update, from, to)?,
                RenameMode::Replace | RenameMode::NoReplace => replace(update, from, to, mode)?,
            };
            Ok::<_, PosixError>((orphan, SavedReply::Empty))
        })?;
        if let Some(ino) = orphan {
            self.orphaned(ino);
        }
        Ok(())
    }
}

fn replace(update: &mut Update<'_>, from: (Ino, &[u8]), to: (Ino, &[u8]), mode: RenameMode) -> Result<Option<Ino>> {
    let (ino, attr) = named(update, from.0, from.1)?.ok_or(PosixError::NotFound)?;
    directory(update, to.0)?;
    check_not_inside(update, ino, &attr, to.0)?;
    let target = named(update, to.0, to.1)?;
    if let Some((replaced, old)) = &target {
        if mode == RenameMode::NoReplace {
            return Err(PosixError::Exists);
        }
        if *replaced == ino {
            return Ok(None); // two names of one inode: POSIX has both stay
        }
        match (attr.is_dir(), old.is_dir()) {
            (true, false) => return Err(PosixError::NotDirectory),
            (false, true) => return Err(PosixError::IsDirectory),
            (true, true) if !update.is_empty(*replaced)? => return Err(PosixError::NotEmpty),
            (true, true) | (false, false) => {}
        }
    }
    // The old name first: a directory has one name at a time.
    update.remove_name(from.0, from.1)?;
    update.set_name(to.0, to.1, ino)?;
    stamp(update, ino)?;
    let orphan = target.map(|(replaced, _)| unnamed(update, replaced)).transpose()?.flatten();
    touch_both(update, from.0, to.0)?;
    Ok(orphan)
}

fn exchange(update: &mut Update<'_>, from: (Ino, &[u8]), to: (Ino, &[u8])) -> Result<Option<Ino>> {
    let (one, one_attr) = named(update, from.0, from.1)?.ok_or(PosixError::NotFound)?;
    let (other, other_attr) = named(update, to.0, to.1)?.ok_or(PosixError::NotFound)?;
    check_not_inside(update, one, &one_attr, to.0)?;
    check_not_inside(update, other, &other_attr, from.0)?;
    if one == other {
        return Ok(None);
    }
    // Neither name goes: a commit that holds it holds what it means next.
    update.set_name(to.0, to.1, one)?;
    update.set_name(from.0, from.1, other)?;
    stamp(update, one)?;
    stamp(update, other)?;
    touch_both(update, from.0, to.0)?;
    Ok(None)
}

// A directory below itself would be lost with all it holds.
fn check_not_inside(update: &mut Update<'_>, moved: Ino, attr: &Attr, dir: Ino) -> Result<()> {
    if !attr.is_dir() {
        return Ok(());
    }
    let mut at = dir;
    loop {
        if at == moved {
            return Err(PosixError::Invalid);
        }
        if at == ROOT {
            return Ok(());
        }
        at = update.parent(at)?.ok_or(PosixError::NotFound)?;
    }
}

fn stamp(update: &mut Update<'_>, ino: Ino) -> Result<()> {
    let mut attr = update.attr(ino)?.ok_or(PosixError::Io)?;
    attr.ctime = update.now();
    update.set_attr(&attr)?;
    Ok(())
}

fn touch_both(update: &mut Update<'_>, one: Ino, other: Ino) -> Result<()> {
    touch_directory(update, one)?;
    if other != one {
        touch_directory(update, other)?;
    }
    Ok(())
}
