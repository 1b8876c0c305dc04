//! Threads made fit to serve: their memory must not wait for the file system they serve.
//!
//! The buffers that requests are read into are touched and locked in memory (protocol.md 8.2).
//! The kernel copies a request into the buffer of the thread that reads the device. Should that thread be killed while the
//! copy meets a page that is not there yet, the request ends with EIO instead of waiting for a successor; of a WRITE, the
//! next fsync says so. fuser's buffer is 16 MiB per thread, of which the kernel uses the first mebibyte and a header; a
//! request's header lies at its begin. So no thread reads the device before it has been given a made-up request elsewhere
//! (`session.rs`), which shows where its buffer is.

use super::session::REQUEST_MAX;
use fuser::Request;
use parking_lot::{Condvar, Mutex};
use std::time::Duration;

const PAGE: usize = 4096;
/// Of prctl(2); the libc crate lacks it.
const PR_SET_IO_FLUSHER: i32 = 57;
/// The largest request with its headers.
const USED: usize = REQUEST_MAX as usize + 2 * PAGE;

/// Threads that are not ready after so long will not be.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the threads of a session wait for one another before any of them reads the device.
#[derive(Default)]
pub(super) struct Muster {
    state: Mutex<Mustered>,
    changed: Condvar,
}

#[derive(Default)]
struct Mustered {
    ready: usize,
    dismissed: bool,
}

impl Muster {
    /// On one of the threads, with the made-up request in its buffer: makes it ready, and waits until all are dismissed.
    pub(super) fn report(&self, request: &Request) {
        hold(request);
        let mut state = self.state.lock();
        state.ready += 1;
        self.changed.notify_all();
        self.changed.wait_while(&mut state, |state| !state.dismissed);
    }

    /// Waits until so many threads are ready; false: not all are.
    pub(super) fn wait_for(&self, threads: usize) -> bool {
        let mut state = self.state.lock();
        self.changed.wait_while_for(&mut state, |state| state.ready < threads, PATIENCE);
        state.ready >= threads
    }

    /// Lets all threads go on.
    pub(super) fn dismiss(&self) {
        self.state.lock().dismissed = true;
        self.changed.notify_all();
    }
}

/// Tells the kernel that this thread writes back: its allocations must not wait for pages that it would have to take itself.
pub(super) fn serve_writeback() {
    // SAFETY: plain numbers; without the right to do it, nothing changes.
    unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
}

// Touches and locks the buffer that the request lies in.
fn hold(request: &Request) {
    serve_writeback();
    let start = std::ptr::from_ref(request).addr() & !(PAGE - 1);
    let start = start as *mut libc::c_void;
    // SAFETY: the range is within the 16 MiB buffer that the request lies at the begin of; neither call changes its bytes.
    let locked = unsafe { libc::mlock(start, USED) };
    if locked != 0 {
        // No right to lock: present is most of it.
        // SAFETY: as above.
        let touched = unsafe { libc::madvise(start, USED, libc::MADV_POPULATE_WRITE) };
        if touched != 0 {
            tracing::warn!("the receive buffers can be neither locked nor touched: a crash may end a request with EIO");
        }
    }
}
