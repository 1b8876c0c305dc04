//! Trees of files: a source tree with every attribute that tar keeps, very many small files, and a big one.

use crate::harness::command::shell;
use crate::harness::tree::{Tree, hole_bytes};
use crate::harness::{Chance, Mounted, lab};
use crate::{ENOUGH, mounted};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

/// Everything that a tree can have, on the reference file system: names of all kinds, owners, modes, times before 1970 and to the
/// nanosecond, attributes, access and default ACLs, hard and symbolic links, fifos, devices, and a file that is nearly all hole.
const TREE: &str = r#"
mkdir -p plain/deep/er shared private
for i in $(seq 200); do seq $i $((i * 3)) > plain/file-$i; done
printf 'latin-1' > $'plain/caf\xe9'; printf 'newline' > $'plain/a\nb'; printf 'long' > plain/$(printf 'n%.0s' $(seq 255)); printf 'dash' > plain/-rf
: > plain/empty
chown 1001:1002 plain/file-1; chown 65534:65534 plain/deep; chown -h 1003:1003 plain/file-2
chmod 4755 plain/file-3; chmod 2750 plain/file-4; chmod 1777 shared; chmod 0 plain/file-5; chmod 2775 plain/deep
touch -d '1969-12-31 23:59:58.123456789 UTC' plain/file-6; touch -d '2038-01-19 03:14:09.000000001 UTC' plain/file-7; touch -d @0 plain/deep/er
setfattr -n user.comment -v 'a comment' plain/file-8; setfattr -n user.binary -v 0x00ff00 plain/file-8; setfattr -n user.on.a.directory -v yes plain/deep
setfattr -n user.large -v "$(head -c 3000 /dev/zero | tr '\0' x)" plain/file-9; setfattr -n trusted.note -v root plain/file-8
setfacl -m u:1001:rw-,g:1002:r-- plain/file-10; setfacl -m d:u:1001:rwx,d:o::--- private; touch private/inherits; mkdir private/inherits-too
ln plain/file-11 plain/also-file-11; ln plain/file-11 shared/third-name; ln -s ../plain/file-12 shared/soft; ln -s /nowhere/at/all shared/broken
ln -s "$(printf 'x%.0s' $(seq 1000))" shared/long-target; chown -h 1004:1004 shared/soft
mkfifo -m 600 shared/fifo; mknod -m 640 shared/null c 1 3; mknod shared/block b 7 99
truncate -s 64M sparse; printf 'in the middle' | dd of=sparse bs=1 seek=33554432 conv=notrunc status=none; printf 'at the end' | dd of=sparse bs=1 seek=67108854 conv=notrunc status=none
touch -d '2001-02-03 04:05:06.7 UTC' shared private plain
"#;

const PACK: &str = "tar --create --file=\"$1\" --xattrs --xattrs-include='*' --acls --selinux --sparse --format=posix --numeric-owner .";
const UNPACK: &str = "tar --extract --file=\"$1\" --xattrs --xattrs-include='*' --acls --sparse --numeric-owner --same-owner -p";

pub(crate) fn source_tree() {
    let mut chance = Chance::new("source tree");
    let mut mounted = mounted("tree");
    let reference = lab();
    let (original, archive) = (reference.path().join("original"), reference.path().join("tree.tar"));
    std::fs::create_dir(&original).expect("a directory");
    shell(&original, TREE, &[]);
    shell(&original, PACK, &[archive.as_ref()]);
    let unpacked = reference.path().join("unpacked");
    std::fs::create_dir(&unpacked).expect("a directory");
    shell(&unpacked, UNPACK, &[archive.as_ref()]);
    let expected = Tree::scan(&unpacked);
    Tree::scan(&original).assert_same(&expected, "tar itself on the reference file system");

    let place = |mounted: &dyn Mounted| mounted.root().join("tree");
    std::fs::create_dir(place(mounted.as_ref())).expect("a directory");
    shell(&place(mounted.as_ref()), UNPACK, &[archive.as_ref()]);
    expected.assert_same(&Tree::scan(&place(mounted.as_ref())), "through the mount");
    mounted.bounce();
    expected.assert_same(&Tree::scan(&place(mounted.as_ref())), "after the driver was killed");
    mounted.crash();
    expected.assert_same(&Tree::scan(&place(mounted.as_ref())), "after everything was killed");
    let last = mounted.flush();
    // Once more, in as many commits as are to be looked at: which copies are whole in each of them.
    let mut copies = vec![(last, "tree".to_owned())];
    while copies.len() < ENOUGH {
        let name = format!("copy-{}", copies.len());
        std::fs::create_dir(mounted.root().join(&name)).expect("a directory");
        shell(&mounted.root().join(&name), UNPACK, &[archive.as_ref()]);
        copies.push((mounted.flush(), name));
    }
    mounted.lose();
    expected.assert_same(&Tree::scan(&place(mounted.as_ref())), "on the next machine");
    // Made directly, without tar between: the same tree again.
    let direct = mounted.root().join("direct");
    std::fs::create_dir(&direct).expect("a directory");
    shell(&direct, TREE, &[]);
    let made = Tree::scan(&direct);
    mounted.flush();
    mounted.lose();
    made.assert_same(&Tree::scan(&mounted.root().join("direct")), "made directly, on the next machine");

    crate::each_commit("source tree", mounted.as_ref(), &mut chance, |commit, tree| {
        if let Some((_, newest)) = copies.iter().rev().find(|(flushed, _)| *flushed <= commit) {
            expected.assert_same(&Tree::scan(&tree.join(newest)), "exported by the reader");
        }
    });
}

/// What is in the small file of a number.
fn small(n: u64) -> String {
    format!("{n}\n").repeat((n % 97) as usize)
}

/// Very many small files: all there, on every side; and in each commit those that were there at a flush before it.
pub(crate) fn many_small_files(count: u64) {
    let mut chance = Chance::new("small files");
    let mut mounted = mounted("small-files");
    let place = mounted.root().join("files");
    let mut flushed = Vec::new();
    for n in 0..count {
        let folder = place.join((n / 500).to_string());
        if n.is_multiple_of(500) {
            std::fs::create_dir_all(&folder).expect("a directory");
        }
        std::fs::write(folder.join(n.to_string()), small(n)).expect("a small file");
        if n == count / 2 {
            mounted.bounce();
        }
        if (n + 1).is_multiple_of(count.div_ceil(ENOUGH as u64)) {
            flushed.push((mounted.flush(), n + 1));
        }
    }
    let expected = Tree::scan(&place);
    assert_eq!(expected.len() as u64, count + count.div_ceil(500) + 1);
    mounted.crash();
    expected.assert_same(&Tree::scan(&mounted.root().join("files")), "after everything was killed");
    let last = mounted.flush();
    mounted.lose();
    expected.assert_same(&Tree::scan(&mounted.root().join("files")), "on the next machine");
    crate::each_commit("small files", mounted.as_ref(), &mut chance, |commit, tree| {
        if commit >= last {
            return expected.assert_same(&Tree::scan(&tree.join("files")), "exported by the reader");
        }
        let there = flushed.iter().rev().find(|(number, _)| *number <= commit).map_or(0, |(_, files)| *files);
        for n in 0..there {
            let found = std::fs::read_to_string(tree.join("files").join((n / 500).to_string()).join(n.to_string()));
            assert_eq!(found.ok(), Some(small(n)), "file {n} in commit {commit}, before which {there} files were flushed");
        }
    });
}

/// A file much larger than any buffer: written through, changed in the middle, with a hole at its end. Every commit shows a prefix of what was
/// written.
pub(crate) fn big_file(mib: u64) {
    let mut chance = Chance::new("big file");
    let mut mounted = mounted("big-file");
    let path = |mounted: &dyn Mounted| mounted.root().join("big");
    write_big(mounted.as_mut(), mib);
    let expected = Tree::scan(mounted.root());
    mounted.bounce();
    mounted.crash();
    expected.assert_same(&Tree::scan(mounted.root()), "after everything was killed");
    mounted.flush();
    mounted.lose();
    // Before all is here: reading from the end and the middle fetches what it needs.
    let file = File::open(path(mounted.as_ref())).expect("the file opens");
    let mut middle = [0; 8];
    file.read_exact_at(&mut middle, (mib / 2) << 20).expect("the middle is readable");
    assert_eq!(&middle, REWRITTEN);
    assert!(hole_bytes(&file, (mib + 64) << 20) >= 60 << 20, "the hole at the end is a hole on the next machine");
    expected.assert_same(&Tree::scan(mounted.root()), "on the next machine");
    drop(file);
    crate::each_commit("big file", mounted.as_ref(), &mut chance, |commit, tree| {
        let Ok(file) = File::open(tree.join("big")) else { return };
        check_big(&file, mib, commit);
    });
}

const REWRITTEN: &[u8; 8] = b"rewriten";

/// Neither compressible nor the same anywhere.
fn mebibyte(n: u64, block: &mut [u8]) {
    for (index, word) in block.chunks_exact_mut(8).enumerate() {
        let mixed = (n << 20 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word.copy_from_slice(&mixed.to_le_bytes());
    }
}

fn write_big(mounted: &mut dyn Mounted, mib: u64) {
    let mut file = File::create(mounted.root().join("big")).expect("a file");
    let mut block = vec![0_u8; 1 << 20];
    for n in 0..mib {
        mebibyte(n, &mut block);
        file.write_all(&block).expect("a MiB is written");
        if (n + 1).is_multiple_of(mib.div_ceil(ENOUGH as u64 + 2)) {
            mounted.flush_busy();
        }
    }
    file.write_all_at(REWRITTEN, (mib / 2) << 20).expect("the middle is rewritten");
    file.set_len((mib + 64) << 20).expect("a hole at the end");
    file.sync_all().expect("fsync");
}

/// A prefix of what was written; only when all is there may the middle be rewritten, and the end a hole.
fn check_big(file: &File, mib: u64, commit: u64) {
    let size = file.metadata().expect("its length").len();
    let (mut wanted, mut found) = (vec![0_u8; 1 << 20], vec![0_u8; 1 << 20]);
    for n in 0..size.div_ceil(1 << 20).min(mib) {
        let length = (size - (n << 20)).min(1 << 20) as usize;
        mebibyte(n, &mut wanted);
        file.read_exact_at(&mut found[..length], n << 20).expect("what the file's length says");
        if n == mib / 2 && size >= mib << 20 && found.starts_with(REWRITTEN) {
            wanted[..REWRITTEN.len()].copy_from_slice(REWRITTEN);
        }
        assert!(found[..length] == wanted[..length], "MiB {n} of {size} bytes in commit {commit} is not what was written");
    }
}
