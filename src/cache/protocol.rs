//! The order that keeps the cache's data safe: rule, crash window, failpoint, test. The numbers are those of the protocol.
//!
//! | rule | crash window | failpoint | test |
//! |---|---|---|---|
//! | 7.1 A mutation is in the log before its reply. | data in the file, nothing logged: the write never happened, the page was absent, a hole or dirty before, or was logged as dirtied | `cache.after_data_before_log` | `kill_between_data_and_log` |
//! | 7.1 A resent request is answered, not repeated. | logged, no reply | `cache.after_log_before_reply` | `replies_survive_the_process` |
//! | 7.1 Room in the ring is reused only when the batch behind it is durable. | files flushed, nothing committed: replayed from the old place | `cache.after_fdatasync_before_commit` | `kill_in_each_window_of_a_batch` |
//! | | committed, ring not trimmed: replay begins at the new place | `cache.after_commit_before_trim` | `kill_in_each_window_of_a_batch` |
//! | 7.2 What fsync promised survives the loss of power, what was not flushed is old or new and never zeros over committed bytes (I8). | any | | `power_loss_keeps_what_was_synced`, `tests/power.rs` |
//! | 7.2 A page counts as durable when meta.db or the log says so, not when its data file was flushed. | files flushed, nothing committed | `cache.after_fdatasync_before_commit` | `an_fsync_between_the_flush_of_a_batch_and_its_commit` |
//! | 7.2 A page counts as clean for its place when meta.db says so. | clean in memory, nothing committed, the file moves | `cache.in_resolve` | `a_file_that_moves_while_its_commit_is_recorded_keeps_its_bytes` |
//! | 7.2 What a failed flush was to make durable is written once more, into new blocks, before a later flush counts. | failed, then the process dies: a file beside `meta.db` says so to the next one of this boot | | `what_only_the_log_has_is_written_once_more_before_the_next_flush`, `a_driver_that_died_after_a_failed_flush_leaves_word_of_it`, `tests/power.rs` |
//! | | the page cache had let it go: as after a loss of power | | `after_pages_were_lost_only_the_log_is_believed` |
//! | 7.2 A log whose flush failed counts for no fsync before `meta.db` has all its records durably. | | | `a_log_whose_flush_failed_is_believed_again_after_a_batch` |
//! | 7.2 A `meta.db` whose flush failed gets new blocks before it is served again; its process ends. | | | `meta_db_gets_new_blocks_after_a_failed_flush` |
//! | 7.4 A fetch fills only pages still absent and still stored there (I10). | | | `fetch_against_write_and_evict` |
//! | 7.4 Eviction is logged before the space goes. | chosen, not logged: nothing happened | `cache.in_evict_before_log` | `kill_in_eviction` |
//! | | logged, the space still there: it has no meaning | `cache.in_evict_before_punch` | `tests/crash.rs` |
//! | A directory is a cache when `meta.db` has its name. | made, and not named: made anew | `cache.in_creation` | `tests/crash.rs` |
//! | Recovery changes nothing that recovery needs before it is applied. | replayed, not applied: replayed again | `cache.in_recovery` | `tests/crash.rs` |
//! | 6.1 A frozen page is copied before it is overwritten. | a seal does not outlive its process: what was frozen is dirty | | `a_seal_is_the_state_at_the_flip` |
//! | 6.2 A file that only grows is a prefix of itself in each commit (I11). | | | `an_append_only_file_is_sealed_as_a_prefix` |
//! | 6.7, I7 Pages are clean only when head, extents and the cleared intent are durable in one commit of `meta.db`. | extents taken over in memory only: the commit is resolved by the intent, its pages are dirty still and go up once more | `cache.in_resolve` | `kill_in_resolve` |
//!
//! Why these are enough:
//!
//! * *One truth for a page.* Present, absent or hole is said by the page sets alone. The data file's other bytes, and its bytes above
//!   the size, have no meaning; whoever makes them count writes them first. So truncate, punch and unlink are true when logged, and
//!   the space goes only after their record is durable: were it lost with the power, the old state would still find its bytes.
//! * *A batch is the state at one record.* Content is encoded at record n under the metadata mutex, its files flushed after that, and
//!   only then committed: `meta.db` never says of content what is not on the disk. Each file remembers its newest record, so replay
//!   repeats nothing; metadata are committed as of a later record, and say which.
//! * *Slots.* A freed data file is emptied and used again only when the record that freed it is durable: else the old owner could
//!   come back after a loss of power, with the new owner's bytes.
//! * *A flush that failed.* The kernel tells of it once, calls the pages clean, and lets the next flush succeed without them (`distrust.rs`).
//!   So its success is believed only of what was written since: the rest is read from the page cache and written anew before it. A full
//!   disk is no such failure: what finds no room at a checkpoint is in SQLite's log, and tried again.
//! * *Logged copies.* A page in a `Data` record is written back at recovery unless a later flush of the file covered it.
//! * *Captured inodes stay captured.* What a commit holds is in every later one until it is removed, whatever tier its path has by
//!   then: a rename into a `local` directory never loses data. (Stricter than protocol 5.5.)
