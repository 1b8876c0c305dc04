//! A git repository: commits, a clone, garbage collection, and `git fsck` after everything that can happen.

use crate::harness::command::{run, shell};
use crate::harness::{Chance, Mounted, scale};
use crate::mounted;
use std::path::Path;

const IDENTITY: &[&str] =
    &["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "core.fsync=all", "-c", "safe.directory=*", "-c", "gc.auto=0"];

#[track_caller]
fn git(directory: &Path, arguments: &[&str]) -> String {
    let place = directory.to_str().expect("a UTF-8 path");
    run("git", [&["-C", place], IDENTITY, arguments].concat())
}

/// `git fsck` finds nothing, the work tree is what is committed, and the head is a commit that was made; gives how many it has.
#[track_caller]
fn check(repository: &Path, work_tree_too: bool) -> u64 {
    git(repository, &["fsck", "--full", "--strict", "--no-dangling"]);
    if work_tree_too {
        assert_eq!(git(repository, &["status", "--porcelain"]), "", "the work tree of {} is not what was committed", repository.display());
    }
    git(repository, &["rev-list", "--count", "HEAD"]).trim().parse().expect("a number")
}

fn commit(repository: &Path, n: u64) {
    let line =
        "for i in 0 1 2 3 4 5 6 7; do mkdir -p src/$i; seq $(( $1 * 50 + i )) $(( $1 * 51 + 60 )) > src/$i/file-$(( $1 % 20 )).txt; done";
    shell(repository, line, &[n.to_string().as_ref()]);
    git(repository, &["add", "-A"]);
    git(repository, &["commit", "-q", "-m", &format!("commit {n}")]);
}

pub(crate) fn scenario() {
    let mut chance = Chance::new("git");
    let mut mounted = mounted("git");
    let mut commits = 10 * scale().min(10);
    let at = |mounted: &dyn Mounted| mounted.root().join("repository");
    std::fs::create_dir(at(mounted.as_ref())).expect("a directory");
    git(&at(mounted.as_ref()), &["init", "-q", "-b", "main"]);
    for n in 1..=commits {
        commit(&at(mounted.as_ref()), n);
        if n == commits / 2 {
            mounted.bounce();
        }
    }
    while crate::too_few(mounted.as_ref()) {
        commits += 1;
        commit(&at(mounted.as_ref()), commits);
    }
    mounted.crash();
    assert_eq!(check(&at(mounted.as_ref()), true), commits);

    git(mounted.root(), &["clone", "-q", "--no-local", "repository", "clone"]);
    // The place of the mount is another on the next machine.
    git(&mounted.root().join("clone"), &["remote", "set-url", "origin", "../repository"]);
    git(&at(mounted.as_ref()), &["gc", "-q", "--prune=now"]);
    commit(&at(mounted.as_ref()), commits + 1);
    mounted.flush();
    mounted.lose();
    assert_eq!(check(&at(mounted.as_ref()), true), commits + 1);
    assert_eq!(check(&mounted.root().join("clone"), true), commits);
    git(&mounted.root().join("clone"), &["pull", "-q"]);
    assert_eq!(check(&mounted.root().join("clone"), true), commits + 1);
    mounted.flush();

    let mut before = 0;
    crate::each_commit("git", mounted.as_ref(), &mut chance, |number, tree| {
        let repository = tree.join("repository");
        // Between `git init` and the first commit there is no head yet.
        if !repository.join(".git/refs/heads/main").exists() && !repository.join(".git/packed-refs").exists() {
            return;
        }
        let found = check(&repository, false);
        assert!(found >= before, "commit {number} of the volume has {found} git commits, an older one had {before}");
        before = found;
    });
    assert_eq!(before, commits + 1);
}
