//! Goal: what the command says, to people and to programs, changes only on purpose. Method: each `tests/cli/*.golden` is a session
//! in a home directory of its own; its commands are run, and what they say must be what the file says. `UPDATE_GOLDEN=1 cargo test
//! --test cli` writes the files anew; read the difference before keeping it.
//!
//! ```text
//! $ COMMAND            run by sh, in the session's directory
//! out                  a line of standard output
//! 2> err               a line of standard error
//! [exit 2]             the exit code, when it is not 0
//! ```
//! What differs from run to run is written `[HOME]`, `[HOST]`, `[ID]`, `[UUID]`, `[SECRET]`, `[PUBLIC]`, `[TIME]`.

#![allow(clippy::unwrap_used, reason = "a session that cannot be played is a failed test")]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Session {
    home: tempfile::TempDir,
    host: String,
}

impl Session {
    fn new() -> Self {
        let host = nix::sys::utsname::uname().unwrap().nodename().to_string_lossy().into_owned();
        // Not below /tmp: a cache refuses to lie in memory.
        Self { home: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(), host }
    }

    fn run(&self, command: &str) -> Output {
        let binary = Path::new(env!("CARGO_BIN_EXE_holdfast")).parent().unwrap();
        let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
        let mut sh = Command::new("sh");
        sh.arg("-c").arg(command).current_dir(self.home.path()).env_clear().env("PATH", path).env("HOME", self.home.path());
        // The mounts of this machine are none of a session's business.
        sh.env("TZ", "Europe/Berlin").env("HOLDFAST_RUN_DIR", self.home.path().join("run")).output().unwrap()
    }

    /// The command's part of the session, as a golden file has it.
    fn play(&self, command: &str) -> String {
        let output = self.run(command);
        let mut text = format!("$ {command}\n");
        for line in self.redact(&String::from_utf8_lossy(&output.stdout)).lines() {
            writeln!(text, "{line}").unwrap();
        }
        for line in self.redact(&String::from_utf8_lossy(&output.stderr)).lines() {
            writeln!(text, "2> {line}").unwrap();
        }
        match output.status.code() {
            Some(0) => {}
            Some(code) => writeln!(text, "[exit {code}]").unwrap(),
            None => writeln!(text, "[{}]", output.status).unwrap(),
        }
        text
    }

    fn redact(&self, text: &str) -> String {
        let text = redact_times(&text.replace(&self.home.path().display().to_string(), "[HOME]"));
        let mut redacted = String::new();
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '-';
            let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
            let (token, after) = rest.split_at(end);
            redacted += self.token(token);
            let next = after.chars().next().map_or(0, char::len_utf8);
            redacted += &after[..next];
            rest = &after[next..];
        }
        redacted
    }

    fn token<'t>(&self, token: &'t str) -> &'t str {
        if token.starts_with("AGE-SECRET-KEY-1") && token.len() == 74 {
            "[SECRET]"
        } else if token.starts_with("age1") && token.len() == 62 {
            "[PUBLIC]"
        } else if token.len() == 32 && token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            "[ID]"
        } else if token == self.host {
            "[HOST]"
        } else if token.len() == 36 && token.bytes().filter(|byte| *byte == b'-').count() == 4 {
            "[UUID]"
        } else {
            token
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Of a session that failed half-way; in the others nothing is mounted any more.
        let _ = Command::new("umount").arg("-lq").arg(self.home.path().join("mnt")).output();
    }
}

/// `2026-11-20 17:34:00 +01:00 (Europe/Berlin)`, the same in UTC without a name, and `2026-11-20T16:34:00.1Z` become `[TIME]`.
fn redact_times(text: &str) -> String {
    const LOCAL: &str = "0000-00-00 00:00:00 +00:00";
    const ZONE: &str = " (Europe/Berlin)";
    const UTC: &str = "0000-00-00T00:00:00";
    let like = |text: &str, form: &str| {
        let same = |(have, want): (u8, u8)| if want == b'0' { have.is_ascii_digit() } else { have == want };
        text.len() >= form.len() && text.bytes().zip(form.bytes()).all(same)
    };
    let (mut redacted, mut rest) = (String::new(), text);
    while let Some(c) = rest.chars().next() {
        let length = if like(rest, LOCAL) {
            LOCAL.len() + if rest[LOCAL.len()..].starts_with(ZONE) { ZONE.len() } else { 0 }
        } else if like(rest, UTC) {
            rest.find('Z').map_or(UTC.len(), |at| at + 1)
        } else {
            redacted.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        redacted += "[TIME]";
        rest = &rest[length..];
    }
    redacted
}

fn golden(name: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cli").join(format!("{name}.golden"));
    let expected = std::fs::read_to_string(&path).unwrap();
    let session = Session::new();
    let mut played = String::new();
    for line in expected.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            played += &session.play(command);
        } else if line.starts_with('#') {
            // A blank line stands before each remark but the first; all others are what a command said.
            writeln!(played, "{}{line}", if played.is_empty() { "" } else { "\n" }).unwrap();
        }
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &played).unwrap();
        return;
    }
    let (mut have, mut want) = (played.lines(), expected.lines());
    let mut number = 0;
    loop {
        number += 1;
        let (have, want) = (have.next(), want.next());
        assert_eq!(have, want, "{}:{number} (left: what was said now)\n\n{played}", path.display());
        if have.is_none() {
            break;
        }
    }
}

macro_rules! golden {
    ($($name:ident)*) => {
        $(#[test] fn $name() { golden(stringify!($name)); })*

        #[test]
        fn every_golden_file_is_played() {
            let known = [$(stringify!($name)),*];
            for entry in std::fs::read_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cli")).unwrap() {
                let path = entry.unwrap().path();
                assert!(known.contains(&path.file_stem().unwrap().to_str().unwrap()), "{}", path.display());
            }
        }
    };
}

golden! { branches help history keys mounted policy restored settings store usage volumes }

#[test]
fn doctor_answers_one_document_and_its_exit_code_follows_it() {
    let session = Session::new();
    let output = session.run("holdfast --json doctor");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let bad = json["checks"].as_array().unwrap().iter().any(|check| check["verdict"] == "bad");
    assert_eq!(json["usable"], !bad);
    assert_eq!(output.status.code(), Some(if bad { 13 } else { 0 }));
}

#[test]
fn secret_files_are_readable_by_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let session = Session::new();
    assert!(session.run("umask 000; holdfast store init --recovery-file deep/rec").status.success());
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&session.home.path().join("deep/rec")), 0o600);
    let keys = session.home.path().join(".config/holdfast/keys");
    assert_eq!(mode(&keys), 0o700);
    for entry in std::fs::read_dir(&keys).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
}

#[test]
fn recovery_key_typed_in_is_enough_and_shown_nowhere_else() {
    let session = Session::new();
    // A person reads the key from the terminal and types its end: here a script does.
    let script = "mkfifo in; (holdfast store init < in 2> err; echo $? > code) & exec 3> in; \
                  until grep -q 'last 6' err; do :; done; grep -o 'AGE-SECRET-KEY-1[A-Z0-9]*' err > key; tail -c 7 key >&3; wait; cat code";
    let output = session.run(script);
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().last(), Some("0"), "{output:?}");
    let tested = session.run("holdfast key test-recovery < key");
    assert!(tested.status.success(), "{tested:?}");
    let secret = std::fs::read_to_string(session.home.path().join("key")).unwrap();
    let shown = session.run("holdfast key list; holdfast --json key list; holdfast --log-level trace key test-recovery key");
    let all = format!("{}{}", String::from_utf8_lossy(&shown.stdout), String::from_utf8_lossy(&shown.stderr));
    assert!(!all.contains(secret.trim()), "{all}");
    let found = session.run(&format!("grep -rl {} .config .local", secret.trim()));
    assert!(found.stdout.is_empty(), "{found:?}");
}

#[test]
fn log_lines_are_json_when_asked_and_never_on_standard_output() {
    let session = Session::new();
    assert!(session.run("holdfast store init --recovery-file rec").status.success());
    let output = session.run("HOLDFAST_LOG_FORMAT=json holdfast --log-level trace --json store probe");
    serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap();
    let text = session.run("holdfast --log-format json --log-level info --metrics 127.0.0.1:0 key list");
    for line in String::from_utf8(output.stderr).unwrap().lines().chain(String::from_utf8(text.stderr).unwrap().lines()) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
    }
}

/// What scripts rely on is written down: docs/command.md names every command, setting, variable, exit code and metric.
#[test]
fn page_about_the_command_is_whole() {
    let page = include_str!("../docs/command.md");
    for key in holdfast::config::KEYS {
        assert!(page.contains(&format!("| `{}` | `{}` |", key.name, key.variable)), "{}", key.name);
    }
    for kind in holdfast::cli::exit::KINDS {
        let (code, word) = (holdfast::cli::exit::code(kind), holdfast::cli::exit::word(kind));
        assert!(page.contains(&format!("| {code} | `{word}` |")), "{word}");
    }
    for metric in holdfast::telemetry::names::ALL {
        assert!(page.contains(&format!("| `{}` |", metric.name)), "{}", metric.name);
    }
    fn commands(command: &clap::Command, path: &str, page: &str) {
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let path = format!("{path} {}", sub.get_name());
            if sub.has_subcommands() {
                commands(sub, &path, page);
            } else {
                assert!(page.contains(&format!("`{}`", path.trim())), "docs/command.md does not say what `{}` answers", path.trim());
            }
        }
    }
    commands(&<holdfast::cli::args::Arguments as clap::CommandFactory>::command(), "", page);
}
