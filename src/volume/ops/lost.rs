//! Bytes that the kernel sent and the cache's disk did not take.
//!
//! The kernel drops such pages and reports the error once, perhaps to our own flush instead of the application. So it is
//! kept here, and fsync and close answer with it until the same bytes have been written again or cut off.

use super::PosixError;
use crate::types::{ByteRange, Ino, RangeSet};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Per file, the ranges that were lost and why.
#[derive(Debug, Default)]
pub(super) struct Lost {
    files: Mutex<HashMap<Ino, (RangeSet, PosixError)>>,
    // So that the usual case, none, costs one load.
    count: AtomicUsize,
}

impl Lost {
    pub(super) fn add(&self, ino: Ino, range: ByteRange, error: PosixError) {
        let mut files = self.files.lock();
        let file = files.entry(ino).or_insert_with(|| (RangeSet::new(), error));
        file.0.insert(range);
        file.1 = error;
        self.count.store(files.len(), Ordering::Release);
    }

    /// These bytes are here now, or are no part of the file any more.
    pub(super) fn cure(&self, ino: Ino, range: ByteRange) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut files = self.files.lock();
        if let Some(file) = files.get_mut(&ino) {
            file.0.remove(range);
            if file.0.is_empty() {
                files.remove(&ino);
            }
        }
        self.count.store(files.len(), Ordering::Release);
    }

    pub(super) fn forget(&self, ino: Ino) {
        self.cure(ino, 0..u64::MAX);
    }

    pub(super) fn check(&self, ino: Ino) -> Result<(), PosixError> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        self.files.lock().get(&ino).map_or(Ok(()), |file| Err(file.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_stays_until_the_bytes_are_there() {
        let lost = Lost::default();
        lost.add(7, 0..8192, PosixError::NoSpace);
        lost.cure(7, 0..4096);
        assert_eq!(lost.check(7), Err(PosixError::NoSpace));
        assert_eq!(lost.check(8), Ok(()));
        lost.cure(7, 4096..8192);
        assert_eq!(lost.check(7), Ok(()));
    }
}
