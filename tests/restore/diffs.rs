//! `diff`: what changed between two commits, beside what the file system itself showed at both.

use super::{Lab, content};
use crate::rig::VOLUME;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

/// One difference in a line: what, where from, where, and what of it.
fn told(difference: &serde_json::Value) -> String {
    let text = |field: &str| difference[field].as_str().unwrap_or_default().to_owned();
    let what: Vec<&str> = difference["what"].as_array().into_iter().flatten().filter_map(|what| what.as_str()).collect();
    let from = difference["from"].as_str().map_or_else(String::new, |from| format!("{from} -> "));
    format!("{} {from}{} {}", text("change"), text("path"), what.join("+")).trim_end().to_owned()
}

fn diff(lab: &Lab, a: &str, b: &str) -> serde_json::Value {
    serde_json::from_str(&lab.succeed(&["diff", VOLUME, a, b, "--json"])).expect("JSON")
}

fn lines(shown: &serde_json::Value) -> Vec<String> {
    shown["differences"].as_array().expect("differences").iter().map(told).collect()
}

fn every_kind(s3: bool) {
    let lab = Lab::empty(s3);
    let mount = lab.rig.mount("first");
    let at = |name: &str| mount.root.join(name);
    for dir in ["dir", "dir/below", "gone", "again"] {
        fs::create_dir(at(dir)).expect("mkdir");
    }
    for (n, file) in ["same", "grown", "rewritten", "owned", "moved", "saved", "over", "under", "dir/below/file", "gone/with it", "again/x"]
        .iter()
        .enumerate()
    {
        fs::write(at(file), content(n as u64, 200_000)).expect("write");
    }
    fs::hard_link(at("same"), at("other name")).expect("link");
    symlink("same", at("link")).expect("symlink");
    let first = lab.rig.flush("first").to_string();
    lab.succeed(&["snapshot", "create", VOLUME, "before"]);

    fs::OpenOptions::new().append(true).open(at("grown")).and_then(|file| file.write_all_at(b"x", 200_000)).expect("append");
    fs::OpenOptions::new().write(true).open(at("rewritten")).and_then(|file| file.write_all_at(b"y", 4096)).expect("overwrite");
    fs::set_permissions(at("owned"), fs::Permissions::from_mode(0o600)).expect("chmod");
    fs::rename(at("moved"), at("dir/moved")).expect("rename");
    fs::write(at("saved.tmp"), "as editors do").expect("write");
    fs::rename(at("saved.tmp"), at("saved")).expect("replace");
    fs::rename(at("over"), at("under")).expect("rename over");
    fs::rename(at("dir"), at("elsewhere")).expect("rename a directory");
    fs::remove_dir_all(at("gone")).expect("remove");
    fs::remove_dir_all(at("again")).expect("remove");
    fs::create_dir(at("again")).expect("mkdir");
    fs::write(at("again/x"), "of another directory").expect("write");
    fs::remove_file(at("other name")).expect("unlink");
    fs::hard_link(at("owned"), at("new name")).expect("link");
    fs::remove_file(at("link")).expect("unlink");
    symlink("grown", at("link")).expect("symlink");
    fs::write(at("new\nline"), "").expect("write");
    let second = lab.rig.flush("first").to_string();
    lab.rig.unmount("first", mount);

    let want = [
        "renamed /dir -> /elsewhere",
        "changed /again replaced",
        "changed /again/x content+replaced",
        "renamed /moved -> /elsewhere/moved",
        "removed /gone",
        "removed /gone/with it",
        "changed /grown content",
        "changed /link content+replaced",
        "added /new name",
        "added /new\\nline",
        "removed /other name",
        "changed /owned metadata",
        "changed /rewritten content",
        "changed /saved content+replaced",
        "renamed /over -> /under replaced",
    ];
    let shown = diff(&lab, "before", &second);
    assert_eq!(lines(&shown).iter().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(want), "{shown:#}");
    let counts =
        |shown: &serde_json::Value| ["added", "changed", "removed", "renamed"].map(|count| shown[count].as_u64().expect("a count"));
    assert_eq!(counts(&shown), [2, 7, 3, 3]);
    // The other way round, and by number; nothing but numbers when asked so; nothing at all between a commit and itself.
    let back = diff(&lab, &second, &first);
    assert_eq!(counts(&back), [4, 7, 2, 3], "{back:#}");
    let stat: serde_json::Value = serde_json::from_str(&lab.succeed(&["diff", VOLUME, &first, "--stat", "--json"])).expect("JSON");
    assert!(counts(&stat) == counts(&shown) && stat.get("differences").is_none(), "{stat}");
    assert_eq!(lines(&diff(&lab, "now", "now")), [""; 0]);
}

#[test]
fn every_kind_of_difference_is_told() {
    every_kind(false);
}

#[test]
fn every_kind_of_difference_is_told_s3() {
    every_kind(true);
}

/// What the file system shows: inode, bytes, mode.
type Seen = BTreeMap<String, (u64, Vec<u8>, u32)>;

fn seen(root: &Path) -> Seen {
    let mut found = Seen::new();
    for dir in ["a", "b"] {
        for entry in fs::read_dir(root.join(dir)).expect("list") {
            let path = entry.expect("an entry").path();
            let meta = fs::metadata(&path).expect("stat");
            let name = format!("/{dir}/{}", path.file_name().expect("a name").to_string_lossy());
            found.insert(name, (meta.ino(), fs::read(&path).expect("read"), meta.mode()));
        }
    }
    found
}

/// A few hundred changes drawn by a seed.
pub(super) fn change(root: &Path, seed: &mut u64, count: usize) {
    let mut draw = |most: u64| {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) % most
    };
    for _ in 0..count {
        let mut path = || root.join(if draw(2) == 0 { "a" } else { "b" }).join(draw(30).to_string());
        let (one, other) = (path(), path());
        // What a call finds nothing to do for changes nothing.
        let _ = match draw(7) {
            0 | 1 => fs::write(&one, content(draw(1000), 1 + draw(20_000) as usize)),
            2 => fs::remove_file(&one),
            3 => fs::rename(&one, &other),
            4 => fs::hard_link(&one, &other),
            5 => fs::set_permissions(&one, fs::Permissions::from_mode(0o600 + draw(64) as u32)),
            _ => fs::OpenOptions::new().write(true).open(&one).and_then(|file| file.write_all_at(&content(draw(9), 10), draw(9000))),
        };
    }
}

#[test]
fn drawn_changes_are_those_that_the_file_system_shows() {
    let lab = Lab::empty(false);
    let mount = lab.rig.mount("first");
    for dir in ["a", "b"] {
        fs::create_dir(mount.root.join(dir)).expect("mkdir");
    }
    let mut seed = 20_261_121;
    change(&mount.root, &mut seed, 200);
    let (mut commit, mut before) = (lab.rig.flush("first").to_string(), seen(&mount.root));
    for round in 0..6 {
        change(&mount.root, &mut seed, 5 + 20 * round);
        let (next, after) = (lab.rig.flush("first").to_string(), seen(&mount.root));
        let shown = diff(&lab, &commit, &next);
        let all = shown["differences"].as_array().expect("differences");
        let of = |changes: &[&str], field: &str| -> BTreeSet<String> {
            let wanted = all.iter().filter(|difference| changes.contains(&difference["change"].as_str().unwrap_or_default()));
            wanted.filter_map(|difference| difference[field].as_str()).map(str::to_owned).collect()
        };
        let (came, went) = (of(&["added", "renamed"], "path"), &of(&["removed"], "path") | &of(&["renamed"], "from"));
        for path in after.keys().filter(|path| !before.contains_key(*path)) {
            assert!(came.contains(path), "round {round}: {path} came: {shown:#}");
        }
        for path in before.keys().filter(|path| !after.contains_key(*path)) {
            assert!(went.contains(path), "round {round}: {path} went: {shown:#}");
        }
        for (path, is) in &after {
            let Some(was) = before.get(path) else { continue };
            // An inode with several names is told by one of them.
            let told = |path: &String| of(&["changed", "renamed", "added"], "path").contains(path);
            let inode_told = after.iter().any(|(name, (ino, ..))| *ino == is.0 && told(name));
            assert!(was == is || inode_told, "round {round}: {path} changed: {shown:#}");
            if was.0 != is.0 {
                assert!(told(path), "round {round}: another inode at {path}: {shown:#}");
            }
        }
        for difference in all {
            let path = difference["path"].as_str().expect("a path").to_owned();
            let differs = match difference["change"].as_str() {
                Some("added") => !before.contains_key(&path) || before[&path].0 != after[&path].0,
                Some("removed") => !after.contains_key(&path) || before[&path].0 != after[&path].0,
                Some("renamed") => before[difference["from"].as_str().expect("from where")].0 == after[&path].0,
                _ => before.contains_key(&path) && after.contains_key(&path),
            };
            assert!(differs, "round {round}: {difference}");
        }
        (commit, before) = (next, after);
    }
    lab.rig.unmount("first", mount);
}
