//! The order in which a commit is made, and what a death in each window means. The failpoint of a window is named after it;
//! `tests/crash.rs` kills a real driver there and checks what a successor and another machine see.
//!
//! | step | rule | a death right after it |
//! |---|---|---|
//! | 1 seal | 6.1, 6.2: one instant, after the kernel's pages came in | `writeback.after_seal`: nothing of it is stored; all is dirty, the next seal takes it |
//! | 2 packs are stored | 4: random names; 3: named by nobody yet | `writeback.after_pack_before_commit`: the next `open` of this cache adopts them, and its first seal names what is still the same; else orphans that gc takes once the epoch is old |
//! | 3 the cut is durable here | 6.7: the log is never ahead of the cache | `writeback.after_durable_before_intent`: as 2 |
//! | 4 the intent is durable here | 1.3: only these bytes are tried from now on | `writeback.after_intent_before_put`: the successor's `open` takes the number; the intent never lands |
//! | 5 the commit is put | 1.1 | `writeback.after_put_before_resolve`: the successor finds it landed, moves its head there; what it froze is still dirty and is stored once more |
//! | 6 the cache takes the outcome over | 7.4: clean and evictable only now | `writeback.after_resolve`: nothing is lost, nothing is repeated |
//! | 7 a checkpoint's parts, then its index | 3: parts shared only with the newest | `writeback.after_parts_before_checkpoint`, `writeback.after_checkpoint`: no record names it: the older one counts |

/// Every failpoint of this module, for the test that visits each.
pub const FAILPOINTS: &[&str] = &[
    "writeback.after_seal",
    "writeback.after_pack_before_commit",
    "writeback.after_durable_before_intent",
    "writeback.after_intent_before_put",
    "writeback.after_put_before_resolve",
    "writeback.after_resolve",
    "writeback.after_parts_before_checkpoint",
    "writeback.after_checkpoint",
];
