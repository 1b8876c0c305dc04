//! Where a cache may lie, and who may look into it: whoever may read the directory reads every file of the volume, whatever its mode.

use super::CacheOptions;
use super::types::CacheError;
use std::fs::{self, DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// Its owner's alone. What lies in it has whatever mode the umask gives: nobody else gets there.
const OWNERS: u32 = 0o700;

/// Refuses file systems that forget (tmpfs), cannot keep what is overwritten in place (overlay), or lie about flushes and locks.
pub(super) fn check_file_system(options: &CacheOptions) -> Result<(), CacheError> {
    if options.any_file_system {
        return Ok(());
    }
    let stat = nix::sys::statfs::statfs(&options.dir).map_err(|e| CacheError::io("cache directory")(e.into()))?;
    let (found, why) = match stat.filesystem_type().0 as u32 {
        0x0102_1994 => ("tmpfs", "it forgets everything when the machine stops"),
        0x8584_58f6 => ("ramfs", "it forgets everything when the machine stops"),
        0x794c_7630 => ("overlayfs", "its files are copies of another layer, and gone with the container"),
        0x6969 => ("NFS", "its locks and flushes are another machine's"),
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => ("SMB", "its locks and flushes are another machine's"),
        0x6573_5546 => ("FUSE", "its flushes are another program's"),
        0x00c3_6400 => ("Ceph", "its locks and flushes are other machines'"),
        0x0102_1997 => ("9p", "its locks and flushes are another machine's"),
        _ => return Ok(()),
    };
    Err(CacheError::Unsuitable { dir: options.dir.display().to_string(), found: found.into(), why })
}

/// Makes the directory of a cache, closed to others from its first moment; one that is there is closed.
pub(super) fn make(dir: &Path) -> Result<(), CacheError> {
    let cannot = CacheError::io("cache directory");
    if let Some(above) = dir.parent() {
        fs::create_dir_all(above).map_err(CacheError::io("cache directory"))?;
    }
    match DirBuilder::new().mode(OWNERS).create(dir) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => close_to_others(dir),
        made => made.map_err(cannot),
    }
}

/// Takes the directory from everybody but its owner: one that an earlier version made was open to all.
pub(super) fn close_to_others(dir: &Path) -> Result<(), CacheError> {
    let mode = fs::metadata(dir).map_err(CacheError::io("cache directory"))?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(dir, Permissions::from_mode(OWNERS)).map_err(CacheError::io("cache directory"))
}

/// Whether it was removed: a cache that nobody needs any more and no process has. One that is being made is let alone.
pub(super) fn remove_unused(dir: &Path) -> Result<bool, CacheError> {
    // The log is made under the lock: before it is there, the lock says nothing.
    if !dir.join("log").exists() {
        return Ok(false);
    }
    match super::open::lock(dir) {
        Ok(_held) => fs::remove_dir_all(dir).map(|()| true).map_err(CacheError::io("cache directory")),
        Err(CacheError::Locked(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Cache, CacheOrigin};
    use crate::env::Env;
    use crate::types::{CacheId, Identity, Incarnation, StoreId};

    fn mode(dir: &Path) -> u32 {
        fs::metadata(dir).unwrap().permissions().mode() & 0o777
    }

    fn options(dir: &Path) -> CacheOptions {
        let mut options = CacheOptions::new(dir);
        options.any_file_system = true;
        options.no_sync = true;
        options.log_bytes = 256 << 10;
        options
    }

    fn origin() -> CacheOrigin {
        CacheOrigin {
            store_id: StoreId([1; 16]),
            incarnation: Incarnation([2; 16]),
            identity: Identity::parse("a/b").unwrap(),
            cache_id: CacheId([3; 16]),
        }
    }

    #[test]
    fn cache_is_its_owners_alone() {
        let root = tempfile::tempdir().unwrap();
        let (new, empty) = (root.path().join("above/new"), root.path().join("empty"));
        drop(Cache::create(Env::real(), options(&new), &origin()).unwrap());
        assert_eq!(mode(&new), 0o700);
        // What lies beside it is none of its business.
        assert_ne!(mode(&root.path().join("above")), 0o700);
        fs::create_dir(&empty).unwrap();
        fs::set_permissions(&empty, Permissions::from_mode(0o755)).unwrap();
        drop(Cache::create(Env::real(), options(&empty), &origin()).unwrap());
        assert_eq!(mode(&empty), 0o700, "a directory that was there");
    }

    #[test]
    fn cache_of_an_earlier_version_is_closed_when_it_is_opened() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("old");
        drop(Cache::create(Env::real(), options(&dir), &origin()).unwrap());
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        drop(Cache::open(Env::real(), options(&dir)).unwrap());
        assert_eq!(mode(&dir), 0o700);
    }

    #[test]
    fn only_what_nobody_has_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("one");
        fs::create_dir(&dir).unwrap();
        assert!(!remove_unused(&dir).unwrap(), "it is being made");
        let cache = Cache::create(Env::real(), options(&dir), &origin()).unwrap();
        assert!(!remove_unused(&dir).unwrap() && dir.exists(), "in use");
        drop(cache);
        assert!(remove_unused(&dir).unwrap() && !dir.exists());
    }
}
