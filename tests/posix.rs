//! The POSIX suites through a mount: pjdfstest (398 cases) and fsx (100,000 operations, with mmap), also while the driver is killed.
//!
//! `tests/posix/exclusions.txt` names what cannot pass, with a reason; a case named there that begins to pass fails the test.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::disallowed_methods, reason = "tests against the real world")]

mod harness;

use harness::command::said;
use harness::{Chance, mounted, scale};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How many cases version 0.2.2 has: fewer means that it did not run to its end.
const PJDFSTEST_CASES: usize = 398;

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn tool(name: &str) -> PathBuf {
    let path = package().join("target/test-tools/bin").join(name);
    assert!(path.exists(), "{} is not there: run tests/setup.sh", path.display());
    path
}

/// What a case came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    Skipped,
}

/// The verdicts in a run's output: lines of a name and one word.
fn verdicts(output: &str) -> BTreeMap<String, Verdict> {
    let mut found = BTreeMap::new();
    for line in output.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, word] = words[..] else { continue };
        let verdict = match word {
            "ok" => Verdict::Passed,
            "FAILED" => Verdict::Failed,
            "skipped" => Verdict::Skipped,
            _ => continue,
        };
        if name.contains("::") && !line.starts_with(char::is_whitespace) {
            found.insert(name.to_owned(), verdict);
        }
    }
    found
}

/// Cases of a suite that are known not to pass: pattern and reason.
fn exclusions(text: &str, suite: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let parsed = lines.map(|line| {
        let parts: Vec<&str> = line.splitn(3, ' ').collect();
        assert!(parts.len() == 3 && parts[2].split(' ').count() >= 3, "tests/posix/exclusions.txt: no suite, case and reason in: {line}");
        (parts[0].to_owned(), parts[1].to_owned(), parts[2].to_owned())
    });
    parsed.filter(|(of, _, _)| of == suite).map(|(_, case, reason)| (case, reason)).collect()
}

fn matches(pattern: &str, case: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == case,
        Some((before, after)) => {
            let Some(rest) = case.strip_prefix(before) else { return false };
            (0..=rest.len()).any(|start| rest.is_char_boundary(start) && matches(after, &rest[start..]))
        }
    }
}

/// Where verdicts and exclusions disagree.
fn disagreements(verdicts: &BTreeMap<String, Verdict>, exclusions: &[(String, String)]) -> Vec<String> {
    let mut lines = Vec::new();
    for (case, verdict) in verdicts {
        let excluded = exclusions.iter().any(|(pattern, _)| matches(pattern, case));
        match (verdict, excluded) {
            (Verdict::Passed, true) => lines.push(format!("{case} passes now: take it out of tests/posix/exclusions.txt")),
            (Verdict::Failed | Verdict::Skipped, false) => lines.push(format!("{case}: {verdict:?}")),
            _ => {}
        }
    }
    for (pattern, _) in exclusions {
        if !verdicts.keys().any(|case| matches(pattern, case)) {
            lines.push(format!("{pattern}: no such case"));
        }
    }
    lines
}

#[test]
fn pjdfstest_passes() {
    let mounted = mounted("pjdfstest");
    // Short names: the path of a socket has at most 107 bytes.
    let place = mounted.root().join("p");
    std::fs::create_dir(&place).expect("a directory");
    let mut command = Command::new(tool("pjdfstest"));
    command.arg("--configuration-file").arg(package().join("tests/posix/pjdfstest.toml")).arg("--path").arg(&place);
    // For EXDEV: any other file system.
    command.args(["--secondary-fs", "/dev/shm"]).stdin(Stdio::null());
    let text = said(&command.output().expect("pjdfstest starts"));
    let verdicts = verdicts(&text);
    let excluded = std::fs::read_to_string(package().join("tests/posix/exclusions.txt")).expect("the exclusions");
    let mut exclusions = exclusions(&excluded, "pjdfstest");
    if harness::is_fuse() {
        exclusions.extend(self::exclusions(&excluded, "pjdfstest-fuse"));
    }
    let lines = disagreements(&verdicts, &exclusions);
    let failed: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with('\t') || line.trim_start().starts_with("left") || line.trim_start().starts_with("right"))
        .collect();
    assert!(
        lines.is_empty(),
        "{} of {} cases:\n  {}\nits own words:\n{}",
        lines.len(),
        verdicts.len(),
        lines.join("\n  "),
        failed.join("\n")
    );
    assert_eq!(verdicts.len(), PJDFSTEST_CASES, "pjdfstest did not run all its cases:\n{text}");
    let passed = verdicts.values().filter(|verdict| **verdict == Verdict::Passed).count();
    println!("pjdfstest: {passed} of {} cases pass", verdicts.len());
}

fn fsx(file: &Path, artifacts: &Path, seed: u64, operations: u64) -> Command {
    let mut command = Command::new(tool("fsx"));
    command.arg("-q").arg("-f").arg(package().join("tests/posix/fsx.toml")).arg("-P").arg(artifacts);
    command.args(["-S", &seed.to_string(), "-N", &operations.to_string()]).arg(file);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn fsx_passes() {
    let mut chance = Chance::new("fsx");
    let mounted = mounted("fsx");
    let artifacts = harness::lab();
    let output =
        fsx(&mounted.root().join("fsx"), artifacts.path(), chance.between(1, 1 << 30), 100_000 * scale()).output().expect("fsx starts");
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn fsx_does_not_notice_a_killed_driver() {
    let mut chance = Chance::new("fsx under kills");
    let mut mounted = mounted("fsx-kills");
    let artifacts = harness::lab();
    // Into a file: a pipe that nobody reads meanwhile would stop it where it tells what it found.
    let log = artifacts.path().join("fsx.log");
    let said = std::fs::File::create(&log).expect("a log");
    let mut child = fsx(&mounted.root().join("fsx"), artifacts.path(), chance.between(1, 1 << 30), 20_000 * scale())
        .stdout(said.try_clone().expect("a descriptor"))
        .stderr(said)
        .spawn()
        .expect("fsx starts");
    let mut kills = 0;
    while child.try_wait().expect("a child's status").is_none() {
        // A random moment is what is wanted here, not an event.
        std::thread::sleep(Duration::from_millis(chance.between(20, 500)));
        mounted.bounce();
        kills += 1;
    }
    let status = child.wait().expect("fsx ends");
    assert!(status.success(), "after {kills} kills of the driver: {}", std::fs::read_to_string(&log).unwrap_or_default());
    println!("fsx: {} operations over {kills} kills of the driver", 20_000 * scale());
}

#[test]
fn verdicts_and_exclusions_are_compared_both_ways() {
    let output =
        "chmod::a   ok\nlink::b  FAILED\n\tassertion failed\n  left: Ok\nopen::erofs_c skipped\n\tno remount\nat frame::x ok then\n";
    let verdicts = verdicts(output);
    assert_eq!(verdicts.len(), 3);
    let known = |text: &str| exclusions(text, "pjdfstest");
    assert_eq!(
        disagreements(&verdicts, &known("pjdfstest link::b for a good reason\npjdfstest *::erofs_* cannot be remounted here\n")),
        [""; 0]
    );
    assert_eq!(disagreements(&verdicts, &known("pjdfstest *::erofs_* cannot be remounted here\n")), ["link::b: Failed"]);
    assert_eq!(
        disagreements(&verdicts, &known("pjdfstest *::* for a good reason\n")),
        ["chmod::a passes now: take it out of tests/posix/exclusions.txt"]
    );
    let gone = "pjdfstest link::b for a good reason\npjdfstest open::* cannot be remounted here\npjdfstest gone::x was a good reason\nfsx y is another suite\n";
    assert_eq!(disagreements(&verdicts, &known(gone)), ["gone::x: no such case"]);
}
