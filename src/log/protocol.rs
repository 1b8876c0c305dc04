//! The rules that keep the log safe, in the order in which they are obeyed: rule, what a crash at that place leaves, the failpoint that
//! ends the process there, the test that fails without the rule. The rules themselves are prose in `docs/protocol-notes.md` where the
//! simulation changed or sharpened them.

/// One rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// What must hold.
    pub rule: &'static str,
    /// What is left when the process ends there, and who deals with it.
    pub window: &'static str,
    /// The place, if it has a name.
    pub failpoint: Option<&'static str>,
    /// The planted bug of `tests/sim/bugs.rs` that breaks it and must be found, or the test that holds it.
    pub test: &'static str,
}

/// All of them.
pub const RULES: &[Rule] = &[
    Rule {
        rule: "create: the volume record is stored before the name record that points to it",
        window: "a volume record that no name points to; harmless, a listing command shows it",
        failpoint: Some("log.after_volume_before_name"),
        test: "world",
    },
    Rule {
        rule: "open: the record of the next epoch is put only after everything before it was read; adopted packs were seen to exist first",
        window: "nothing was put",
        failpoint: Some("log.before_open"),
        test: "AdoptUnchecked",
    },
    Rule {
        rule: "open: it is read back, and its block has no marker, before anything is written under it",
        window: "an `open` without a writer; the next process appends its own",
        failpoint: Some("log.after_open_before_read_back"),
        test: "OpenUnread, OpenIgnoresMarker",
    },
    Rule {
        rule: "commit: everything in its cut and the intent are durable here before the put; until the outcome is known only those bytes are put",
        window: "an intent that may have landed: the next process finds it at its number, or its `open` takes that number",
        failpoint: Some("log.after_intent_before_put"),
        test: "SkipIntent, Recut, PutBeforeDurable",
    },
    Rule {
        rule: "commit: pages are clean only when the outcome is known and durably recorded here",
        window: "a commit in the log that this cache does not count yet; its intent leads there",
        failpoint: Some("log.after_put_before_resolve"),
        test: "CleanBeforeResolved",
    },
    Rule {
        rule: "checkpoint: the index is stored after its parts; parts are shared only with the checkpoint that this writer's records name",
        window: "parts without an index: garbage below the next checkpoint that a record names",
        failpoint: Some("log.before_checkpoint_index"),
        test: "NewestByListing",
    },
    Rule {
        rule: "control: a record is appended only after everything before it was read, and the decision is taken again when another was faster",
        window: "nothing, or one claim too many",
        failpoint: Some("log.before_control"),
        test: "ClaimIgnored, DeleteBeforeRetire",
    },
    Rule {
        rule: "control: a reader's claim ends by the store's clock, and counts until its `release` is stored",
        window: "an expired claim in force: any janitor releases it later",
        failpoint: Some("log.before_control"),
        test: "ExpireByOwnClock, ExpiredNotReleased",
    },
    Rule {
        rule: "retire: a number is freed only after `retire` and then the marker of its block are stored; blocks are marked in order",
        window: "retired numbers that still lie there: any janitor deletes them later",
        failpoint: Some("log.before_marker"),
        test: "FreeUnmarked",
    },
    Rule {
        rule: "retire: a commit is read through the records after its checkpoint, with the packs of their deltas, the records of its inline \
               extents, and the packs that only its checkpoint names: none of them goes before it is retired",
        window: "objects that nothing needs: any janitor deletes them later",
        failpoint: None,
        test: "InlineForgotten, DeltaForgotten, GatheredForgotten",
    },
    Rule {
        rule: "retire: only what a stored `retire` lists is deleted",
        window: "a marked block with all its records",
        failpoint: Some("log.after_marker_before_delete"),
        test: "DeleteBeforeRetire",
    },
];
