//! What the C library keeps of freed memory. By itself it has an arena for each few threads and gives almost nothing back: on a tree
//! of 100,000 files that was more than what the driver used.

/// So many arenas at most: two cores seldom wait for each other, and each keeps what was freed in it.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;
/// Larger pieces (buffers of packs and parts) are mapped by themselves and go back to the system when they are freed.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: libc::c_int = 256 << 10;

/// Bounds what is kept; to be called before the first thread starts.
pub fn bound() {
    #[cfg(target_env = "gnu")]
    // SAFETY: calls without memory of ours; the allocator locks itself.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, MAPPED_BYTES);
    }
}

/// After work on very many small things: gives back what was freed between what is still used.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: a call without memory of ours; the allocator locks itself.
    unsafe {
        libc::malloc_trim(0);
    }
}
