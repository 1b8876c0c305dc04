//! Whether a directory of this machine holds a valid `CACHEDIR.TAG`.

use crate::policy::{CACHEDIR_SIGNATURE_LEN, CACHEDIR_TAG, is_cachedir_tag};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Unreadable counts as no tag: then nothing becomes `local` by mistake.
pub(super) fn is_tagged(dir: &Path) -> bool {
    let path = dir.join(OsStr::from_bytes(CACHEDIR_TAG));
    // Not through a link: the rule asks for a regular file.
    if !path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
        return false;
    }
    let mut first = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(CACHEDIR_SIGNATURE_LEN as u64).read_to_end(&mut first));
    read.is_ok() && is_cachedir_tag(&first)
}
