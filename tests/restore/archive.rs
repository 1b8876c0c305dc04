//! `cp --tar`: what GNU tar makes of the archive is the tree that was committed, with everything a file has.

use super::{Lab, content};
use crate::harness::command::succeed;
use crate::rig::VOLUME;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn sh(dir: &Path, script: &str) -> String {
    succeed(Command::new("sh").arg("-ec").arg(script).current_dir(dir))
}

/// Everything of a tree that can be listed, but inode numbers and what lies in directories' own times.
fn listed(dir: &Path) -> String {
    let stat = r#"find . -mindepth 1 | LC_ALL=C sort | while IFS= read -r f; do
        if [ -d "$f" ]; then stat -c '%n %F %a %u %g' "$f"; else stat -c '%n %F %a %u %g %h %s %Y %y %t %T' "$f"; fi
        [ -h "$f" ] && readlink "$f"; [ -f "$f" ] && [ ! -h "$f" ] && sha256sum < "$f"; done
        getfattr -R -h -d -m - . 2>/dev/null | LC_ALL=C sort || true"#;
    sh(dir, stat)
}

fn archived(s3: bool) {
    let lab = Lab::empty(s3);
    let mount = lab.rig.mount("first");
    let top = mount.root.join("top");
    let at = |name: &str| top.join(name);
    let long = "a directory whose name is so long that the header of an entry does not hold the whole path of what lies in it";
    fs::create_dir_all(at(long).join("below")).expect("mkdir");
    fs::write(at(long).join("below/file"), content(1, 70_000)).expect("write");
    fs::write(at("empty"), "").expect("write");
    fs::write(at("not ascii: ä\u{1f600}"), "x").expect("write");
    fs::hard_link(at("empty"), at("second name")).expect("link");
    symlink("../".repeat(60) + "far away", at("link")).expect("symlink");
    // Holes: at the beginning, in between, at the end; and nothing but one.
    let sparse = fs::File::create(at("sparse")).expect("create");
    sparse.write_all_at(&content(2, 10_000), 1 << 20).expect("write");
    sparse.write_all_at(b"tail", 5 << 20).expect("write");
    sparse.set_len((64 << 20) + 1).expect("grow");
    drop(sparse);
    fs::File::create(at("all hole")).and_then(|file| file.set_len(3 << 20)).expect("grow");
    let script = "mkfifo fifo; mknod device c 1 3; chown 70000:80000 empty; chmod 4755 empty; chmod 1777 .
        setfattr -n user.key -v value empty; setfattr -n 'user.with=sign' -v '' empty; touch -h -d '2001-02-03 04:05:06.789' link fifo
        setfacl -m u:1000:r,g:2000:rw sparse 2>/dev/null || true; setfacl -d -m u:1000:rwx . 2>/dev/null || true";
    sh(&top, script);
    let want = listed(&mount.root);
    lab.rig.flush("first");
    fs::remove_dir_all(&top).expect("remove");
    lab.rig.unmount("first", mount);

    let archive = lab.rig.path("archive.tar");
    lab.succeed(&["cp", &format!("{VOLUME}:top"), &archive.display().to_string(), "--at", "2", "--tar"]);
    // As large as what is data, whatever the holes.
    assert!(fs::metadata(&archive).expect("stat").len() < 1 << 20);
    let unpacked = |name: &str, from: &str| -> PathBuf {
        let dir = lab.rig.path(name);
        fs::create_dir(&dir).expect("mkdir");
        sh(&dir, &format!("tar --xattrs --xattrs-include='*' --acls --same-owner -p -xf {from}"));
        dir
    };
    let dir = unpacked("unpacked", &archive.display().to_string());
    assert_eq!(listed(&dir), want);
    assert!(fs::metadata(dir.join("top/sparse")).expect("stat").blocks() < 200, "holes are holes");
    assert_eq!(fs::metadata(dir.join("top/empty")).expect("stat").permissions().mode() & 0o7777, 0o4755);

    // The same through a pipe, of the root, and nothing is overwritten.
    let mut command = lab.rig.prepare("first", &["cp", &format!("{VOLUME}:"), "-", "--at", "2", "--tar"]);
    let piped = fs::File::create(lab.rig.path("piped.tar")).expect("create");
    assert!(command.stdout(Stdio::from(piped)).status().expect("holdfast starts").success());
    let dir = unpacked("piped", &lab.rig.path("piped.tar").display().to_string());
    assert_eq!(listed(&dir), want);
    let (code, said) = lab.say(&["cp", &format!("{VOLUME}:top"), &archive.display().to_string(), "--at", "2", "--tar"]);
    assert!(code == 4 && said.contains("nothing is overwritten"), "{code} {said}");
}

#[test]
fn archive_has_everything_a_file_has() {
    archived(false);
}

#[test]
fn archive_has_everything_a_file_has_s3() {
    archived(true);
}
