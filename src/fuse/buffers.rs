//! Threads made fit to serve: their memory must not wait for the file system they serve.
//!
//! The buffers that requests are read into are touched and locked in memory (protocol.md 8.2).
//! The kernel copies a request into the buffer of the thread that reads the device. Should that thread be killed while the
//! copy meets a page that is not there yet, the request ends with EIO instead of waiting for a successor. fuser's buffer
//! is 16 MiB per thread, of which the kernel uses the first mebibyte and a header; a request's header lies at its begin.

use super::session::REQUEST_MAX;
use fuser::Request;
use std::cell::Cell;

const PAGE: usize = 4096;
/// Of prctl(2); the libc crate lacks it.
const PR_SET_IO_FLUSHER: i32 = 57;
/// The largest request with its headers.
const USED: usize = REQUEST_MAX as usize + 2 * PAGE;

thread_local! {
    static HELD: Cell<bool> = const { Cell::new(false) };
}

/// Tells the kernel that this thread writes back: its allocations must not wait for pages that it would have to take itself.
pub(super) fn serve_writeback() {
    // SAFETY: plain numbers; without the right to do it, nothing changes.
    unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
}

/// At the first request on a thread: touches and locks that thread's buffer.
pub(super) fn hold(request: &Request) {
    if HELD.replace(true) {
        return;
    }
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
