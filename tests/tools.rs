//! The tools that people move and back up trees with, into a mount and out of it again: everything that they keep is kept, compared name by
//! name (content, owner, mode, times, extended attributes, ACLs, links, devices, holes), and again on a machine that has the store alone.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::disallowed_methods, reason = "tests against the real world")]

mod harness;

use harness::command::shell;
use harness::tree::Tree;
use std::path::Path;

/// A tree with one of each: `$1` is where.
const MAKE: &str = r#"
mkdir "$1"; cd "$1"
for d in 0 1 2 3 4 5; do
    mkdir -p "d$d/e é/x y"
    for size in 0 1 100 4095 4096 4097 70000; do head -c $size /dev/urandom > "d$d/f$size"; done
done
head -c 3000000 /dev/urandom > large; truncate -s 9M large
ln -s d0/f1 soft; ln -s /no/where dangling; ln d1/f100 d2/hard; ln d1/f100 hard
mkfifo fifo; mknod device c 1 3
echo > $'new\nline'; echo > $'\xff\xfe'; echo > "$(printf 'n%.0s' $(seq 255))"
chown 1001:2001 d0/f1 d0; chown -h 1002:2002 soft
chmod 4755 d1/f4095; chmod 2711 d2/f4095; chmod 0 d3/f4095; chmod 2775 d3; chmod 1777 d4
setfattr -n user.small -v text d0/f100; setfattr -n user.large -v "$(printf 'x%.0s' $(seq 3000))" d1/f1; setfattr -n user.dir -v 0x0001 d5
setfattr -n trusted.one -v t d0/f4096; setfattr -n security.one -v s d0/f4096
setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 d2/f1
setfacl -m u:1234:rwx,g:55:r d3/f1; setfacl -d -m u:99:rx d5; setfacl -m m::r d3/f1
find . -depth -print0 | while IFS= read -r -d '' name; do touch -h -d "@$((RANDOM * 50000)).$((RANDOM * 30000))" "$name"; done
"#;

/// A program, and how it copies the content of `$1` into the new directory `$2`.
const TOOLS: &[(&str, &str)] = &[
    ("rsync", r#"rsync -aHAXS "$1/" "$2/""#),
    ("cp", r#"cp -a "$1" "$2""#),
    (
        "tar",
        r#"mkdir "$2"; tar -C "$1" --xattrs --xattrs-include='*' --acls -S -cf - . | tar -C "$2" --xattrs --xattrs-include='*' --acls --same-owner -xpf -"#,
    ),
];

const RESTIC: &str = r#"
export RESTIC_PASSWORD=x RESTIC_CACHE_DIR="$2"
restic -q init -r "$1/repository"
cd "$1"; restic -q -r repository backup tree
restic -q -r "$1/repository" check
restic -q -r "$1/repository" restore latest --target "$1/restored"
"#;

fn copy(line: &str, from: &Path, to: &Path) {
    shell(Path::new("/"), line, &[from.as_os_str(), to.as_os_str()]);
}

#[test]
fn trees_go_in_and_out_unchanged() {
    let lab = harness::lab();
    let source = lab.path().join("source");
    shell(Path::new("/"), MAKE, &[source.as_os_str()]);
    let wanted = Tree::scan(&source);
    let mut mounted = harness::mounted("tools");
    for (tool, line) in TOOLS {
        let (inside, outside) = (mounted.root().join(tool), lab.path().join(tool));
        copy(line, &source, &inside);
        wanted.assert_same(&Tree::scan(&inside), &format!("{tool} into the mount"));
        copy(line, &inside, &outside);
        wanted.assert_same(&Tree::scan(&outside), &format!("{tool} out of the mount"));
    }
    mounted.flush();
    mounted.lose();
    for (tool, _) in TOOLS {
        wanted.assert_same(&Tree::scan(&mounted.root().join(tool)), &format!("what {tool} brought, on another machine"));
    }
}

#[test]
fn restic_keeps_its_repository_in_a_mount_and_backs_one_up() {
    let lab = harness::lab();
    let source = lab.path().join("source");
    shell(Path::new("/"), MAKE, &[source.as_os_str()]);
    // restic 0.14 writes holes out: none for it.
    shell(&source, "truncate -s 3000000 large; touch -d @1000000000 large .", &[]);
    let mut mounted = harness::mounted("restic");
    let wanted = Tree::scan(&source);
    copy(TOOLS[0].1, &source, &mounted.root().join("tree"));
    let cache = lab.path().join("restic");
    shell(Path::new("/"), RESTIC, &[mounted.root().as_os_str(), cache.as_os_str()]);
    wanted.assert_same(&Tree::scan(&mounted.root().join("restored/tree")), "what restic restored");
    mounted.flush();
    mounted.lose();
    let again = r#"RESTIC_PASSWORD=x RESTIC_CACHE_DIR="$2" restic -q -r "$1/repository" check --read-data"#;
    shell(Path::new("/"), again, &[mounted.root().as_os_str(), cache.as_os_str()]);
}
