//! The grammar's table, the matcher against a second implementation, and properties of parsing.

use super::*;
use proptest::prelude::*;
use std::time::Duration;

fn untagged(_: &[u8]) -> bool {
    false
}

fn error(text: &str) -> String {
    Policy::parse(text).unwrap_err().to_string()
}

#[test]
fn built_in_is_its_text() {
    let parsed = Policy::parse(BUILT_IN).unwrap();
    let built_in = Policy::built_in();
    assert_eq!(parsed, built_in);
    assert_eq!(parsed.rules().collect::<Vec<_>>(), built_in.rules().collect::<Vec<_>>());
}

#[test]
fn errors_say_line_what_and_allowed() {
    let table = [
        (
            "",
            "policy line 1: the last line does not say what all other paths have; allowed: a last line `* TIER`, such as `* continuous 1s`",
        ),
        ("/a local\n", "policy line 1: the last line does not say"),
        ("*.log\n* local", "policy line 1: `*.log` has no tier; allowed: `PATTERN TIER [parameters]`"),
        (
            "# x\n\n*.db strct\n* local",
            "policy line 3: `strct` is no tier; allowed: `strict`, `continuous [LAG]`, `debounced`, `scheduled TIMES` or `local`",
        ),
        ("*.db strict 5s\n* local", "policy line 1: `5s` is no parameter of strict; allowed: `strict` or `strict wait=30s`"),
        ("*.db strict wait=1\n* local", "`1` is no duration"),
        ("*.db strict wait=1ms\n* local", "a wait of 1ms is out of range; allowed: 100ms to 1d"),
        ("*.db strict wait=1s wait=2s\n* local", "`wait=2s` is no parameter of strict"),
        ("*.db debounced 5s\n* local", "`5s` is no parameter of debounced; allowed: `debounced`, with `quiet=5s` or `max=5min` or both"),
        ("*.db debounced quiet=10min\n* local", "a quiet of 10min is never reached before the max of 5min; allowed: `quiet` at most `max`"),
        ("*.db debounced max=2d\n* local", "a max of 2d is out of range"),
        ("*.iso scheduled\n* local", "policy line 1: `` is no schedule; allowed: `scheduled MINUTE HOUR DAY MONTH WEEKDAY [zone=UTC]`"),
        ("*.iso scheduled 4h\n* local", "`4h` is no schedule"),
        ("*.iso scheduled 0 4 * *\n* local", "`0 4 * *` is no schedule"),
        ("*.iso scheduled 0 0 4 * * *\n* local", "`0 0 4 * * *` is no schedule"),
        ("*.iso scheduled 0 24 * * *\n* local", "`0 24 * * *` is no schedule: "),
        ("*.iso scheduled 0 4 L * *\n* local", "`0 4 L * *` is no schedule"),
        ("*.iso scheduled 0 4 * * 1#2\n* local", "`0 4 * * 1#2` is no schedule"),
        ("*.iso scheduled 0 4 * * MOON\n* local", "`0 4 * * MOON` is no schedule"),
        ("*.iso scheduled @nightly\n* local", "`@nightly` is no schedule"),
        (
            "*.iso scheduled @daily zone=Berlin\n* local",
            "`Berlin` is no time zone that is known here; allowed: a name of the IANA database",
        ),
        ("*.iso scheduled @daily zone=UTC zone=UTC\n* local", "`zone=UTC`: the time zone stands there twice"),
        ("*.iso scheduled @daily lag=1s\n* local", "`lag=1s` is no parameter of scheduled"),
        ("*.iso scheduled @daily max-size=1GiB\n* local", "the parameter `max-size` is not in this version"),
        ("a local\n*.iso scheduled 0 0 30 2 *\n* local", "policy line 2: `0 0 30 2 *` never comes: no month that it names has such a day"),
        ("*.iso scheduled 0 0 31 4,6,9,11 *\n* local", "never comes"),
        ("* continuous 5", "policy line 1: `5` is no duration; allowed: a whole number and ms, s, min, h or d"),
        ("* continuous lag=1.5s", "`1.5s` is no duration"),
        ("* continuous 1ms", "a lag of 1ms is out of range; allowed: 100ms to 1d"),
        ("* continuous quiet=1s", "`quiet=1s` is no parameter of continuous"),
        ("* continuous 1s 2s", "`2s` is no parameter of continuous"),
        ("* continuous max-size=1GiB", "the parameter `max-size` is not in this version"),
        ("* local 1s", "`1s` is no parameter of local"),
        ("* local\n/a local", "policy line 2: a rule after `* local` in line 1 never decides anything"),
        ("!a local\n* local", "`!` is not allowed in a policy"),
        ("/ local\n* local", "it names nothing"),
        ("./a local\n* local", "it can match no path because of the part `.`"),
        ("a/../b local\n* local", "because of the part `..`"),
        ("a//b local\n* local", "because of the part ``"),
        ("a[bc local\n* local", "`a[bc` is no pattern"),
        ("a\\", "`a\\` has no tier"),
    ];
    for (text, expected) in table {
        let have = error(text);
        assert!(have.contains(expected), "{text:?}\nhave {have}\nwant {expected}");
    }
}

#[test]
fn first_rule_of_the_list_decides_over_path_and_parents() {
    let policy = Policy::parse(
        "/keep/cache/ continuous 5s\ncache/ local\n*.db continuous 100ms\nMy\\ Files/*.tmp local\n/logs local\n\\@cachedir-tag local\n* continuous 1s",
    )
    .unwrap();
    let table = [
        ("cache", false, 7, "cache"),
        ("cache", true, 2, "cache"),
        ("a/cache/x/y.db", false, 2, "a/cache"),
        ("keep/cache/y.db", false, 1, "keep/cache"),
        ("b/keep/cache/y", false, 2, "b/keep/cache"),
        ("y.db/inside", false, 3, "y.db"),
        ("My Files/a.tmp", false, 4, "My Files/a.tmp"),
        ("My Files/deep/a.tmp", false, 7, "My Files/deep/a.tmp"),
        ("logs/x", false, 5, "logs"),
        ("x/logs", false, 7, "x/logs"),
        ("x/@cachedir-tag", false, 6, "x/@cachedir-tag"),
        ("", true, 7, ""),
        ("name\nwith newline.db", false, 3, "name\nwith newline.db"),
    ];
    for (path, is_dir, line, matched) in table {
        let explained = policy.explain(path.as_bytes(), is_dir, &mut untagged);
        assert_eq!((explained.line, explained.matched.as_slice()), (line, matched.as_bytes()), "{path}");
    }
    assert_eq!(policy.explain(b"a/\xff\xfe.db", false, &mut untagged).line, 3, "a name that is not UTF-8");
    assert_eq!(*policy.tier_of(b"x.db", false, &mut untagged), Tier::Continuous { lag: Duration::from_millis(100) });
}

#[test]
fn built_in_makes_tagged_directories_local_and_no_other() {
    let policy = Policy::built_in();
    let mut tagged = |dir: &[u8]| dir == b"a/target";
    for (path, is_dir, tier) in [
        ("a/target", true, Tier::Local),
        ("a/target/debug/x.o", false, Tier::Local),
        ("a/target.rs", false, Tier::DEFAULT),
        ("a", true, Tier::DEFAULT),
        ("000003.log", false, Tier::DEFAULT),
        ("cache/tmp/x.tmp", false, Tier::DEFAULT),
    ] {
        assert_eq!(*policy.tier_of(path.as_bytes(), is_dir, &mut tagged), tier, "{path}");
    }
    assert!(policy.needs_tags() && !Policy::parse("* local").unwrap().needs_tags());
    assert!(is_cachedir_tag(b"Signature: 8a477f597d28d172789f06886806bc55\n# made by x"));
    assert!(!is_cachedir_tag(b"Signature: 8a477f597d28d172789f06886806bc5"));
    assert!(!is_cachedir_tag(b" Signature: 8a477f597d28d172789f06886806bc55"));
}

#[test]
fn tag_is_asked_only_when_it_matters() {
    let policy = Policy::parse("/a/ continuous 5s\n@cachedir-tag local\n* continuous 1s").unwrap();
    let mut asked = Vec::new();
    let _ = policy.tier_of(b"a/b/c", false, &mut |dir| {
        asked.push(dir.to_vec());
        true
    });
    assert!(asked.is_empty(), "below /a/ an earlier rule holds: {asked:?}");
}

#[test]
fn parameters_come_in_any_order_and_have_defaults() {
    let policy = "/a strict\n/b strict wait=5s\n/c debounced\n/d debounced max=1min quiet=2s\n/e scheduled 0  4 * * *
/f scheduled zone=Europe/Berlin @daily\n* debounced quiet=1s";
    let policy = Policy::parse(policy).unwrap();
    let tiers: Vec<String> = policy.rules().map(|(_, _, tier)| tier.to_string()).collect();
    let expected = [
        "strict wait=30s",
        "strict wait=5s",
        "debounced quiet=5s max=5min",
        "debounced quiet=2s max=1min",
        "scheduled 0 4 * * * zone=UTC",
        "scheduled @daily zone=Europe/Berlin",
        "debounced quiet=1s max=5min",
    ];
    assert_eq!(tiers, expected);
}

#[test]
fn the_lag_is_that_of_the_most_urgent_tier() {
    for (policy, lag) in [
        ("* continuous 5s", 5),
        ("/a strict\n* continuous 5s", 1),
        ("/a debounced quiet=2s\n* continuous 5s", 5),
        ("/a debounced quiet=2s\n* local", 2),
        ("* local", 1),
        ("/a scheduled @daily\n* continuous 5s", 5),
    ] {
        assert_eq!(Policy::parse(policy).unwrap().lag(), Duration::from_secs(lag), "{policy}");
    }
}

#[test]
fn syncs_wait_where_something_may_be_strict() {
    let policy = "/tmp/ local\n/books/ strict wait=9s\n/app/*/db/*.wal strict wait=7s\n/app/x/ continuous 1s\n* continuous 1s";
    let policy = Policy::parse(policy).unwrap();
    for (path, is_dir, wait) in [
        ("books/a", false, Some(9)),
        ("books", true, Some(9)),
        ("books/deep/er", true, Some(9)),
        ("", true, Some(9)),
        ("a", false, None),
        ("a", true, None),
        ("tmp", true, None),
        ("app", true, Some(7)),
        ("app/x", true, Some(7)),
        ("app/x/db", true, Some(7)),
        ("app/x/log", true, None),
        ("app/x/db/sub", true, None),
        ("app/x/db/a.wal", false, Some(7)),
        ("app/x/db/a", false, None),
    ] {
        assert_eq!(policy.sync_wait(path.as_bytes(), is_dir), wait.map(Duration::from_secs), "{path}");
    }
    for policy in ["*.db strict\n* local", "a/**/b strict\n* local", "/x/a\\ b strict\n* local", "@cachedir-tag strict\n* local"] {
        assert!(Policy::parse(policy).unwrap().sync_wait(b"some/dir", true).is_some(), "{policy}");
    }
    assert_eq!(Policy::parse("/tmp/ local\n*.db strict\n* local").unwrap().sync_wait(b"tmp/dir", true), None);
    assert_eq!(Policy::built_in().sync_wait(b"a", true), None);
}

#[test]
fn estimate_counts_by_rule_and_bounds_the_commits() {
    let policy = Policy::parse("*.o local\n* continuous 10s").unwrap();
    let mut estimate = Estimate::new(policy.clone());
    for (path, bytes) in [("a.o", 5), ("b.o", 6), ("c", 100)] {
        estimate.add(policy.enter(policy.root(), path.as_bytes(), false, || false), bytes);
    }
    let counts: Vec<_> = estimate.rules().into_iter().map(|rule| (rule.line, rule.files, rule.bytes)).collect();
    assert_eq!(counts, [(1, 2, 11), (2, 1, 100)]);
    assert_eq!(estimate.commits_per_day_max(), 8640);
    let policy = Policy::parse("*.iso scheduled 0 4,16 * * *\n* continuous 10s").unwrap();
    let mut estimate = Estimate::new(policy.clone());
    estimate.add(policy.enter(policy.root(), b"a.iso", false, || false), 1);
    assert_eq!(estimate.commits_per_day_max(), 2, "nothing is `continuous`");
}

/// A second, naive implementation of what the head of `mod.rs` says: rule by rule over all prefixes. (The crate's own
/// `matched_path_or_any_parents` asks about the root too, so that `*/` matches every file; git does not.)
fn reference(patterns: &[String], path: &str, is_dir: bool) -> usize {
    let parts: Vec<&str> = path.split('/').collect();
    let hit = patterns.iter().position(|pattern| {
        let mut builder = ignore::gitignore::GitignoreBuilder::new("");
        builder.add_line(None, pattern).unwrap();
        let matcher = builder.build().unwrap();
        (1..=parts.len()).any(|n| matcher.matched(parts[..n].join("/"), is_dir || n < parts.len()).is_ignore())
    });
    hit.unwrap_or(patterns.len())
}

proptest! {
    #[test]
    fn any_text_parses_or_names_a_line_of_it(text in "(?s).{0,80}") {
        if let Err(error) = Policy::parse(&text) {
            prop_assert!(error.line >= 1 && error.line <= text.lines().count().max(1));
        }
    }

    #[test]
    fn first_match_equals_the_reference(
        patterns in proptest::collection::vec("/?([ab*]{1,2}|\\*\\*)(/[abc*]{1,2}){0,2}/?", 0..4),
        path in "[abc]{1,2}(/[abc]{1,2}){0,3}",
        is_dir: bool,
    ) {
        let patterns: Vec<String> = patterns.into_iter().filter(|pattern| pattern != "*").collect();
        let text: String = patterns.iter().map(|pattern| format!("{pattern} local\n")).collect::<String>() + "* continuous 1s";
        let policy = Policy::parse(&text).unwrap();
        let explained = policy.explain(path.as_bytes(), is_dir, &mut untagged);
        prop_assert_eq!(explained.line - 1, reference(&patterns, &path, is_dir));
    }

    #[test]
    fn tiers_and_durations_read_back(millis in 100u64..=86_400_000) {
        let time = Duration::from_millis(millis);
        let tiers = [Tier::Continuous { lag: time }, Tier::Strict { wait: time }, Tier::Debounced { quiet: time, max: time }];
        for tier in tiers {
            let policy = Policy::parse(&format!("* {tier}")).unwrap();
            prop_assert_eq!(policy.tier(policy.root()), &tier);
        }
        prop_assert_eq!(parse_duration(&show_duration(Duration::from_millis(millis))), Some(Duration::from_millis(millis)));
    }
}
