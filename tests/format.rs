//! The format as a whole: a store made by it is read back by the independent reader, tree by tree.

#[path = "reader/world.rs"]
mod world;

use holdfast::format::keys::Recovery;
use holdfast::rpc::Recipient;
use holdfast::types::StoreKey;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use world::{VOLUME, World};

/// Debian's interpreter, which sees Debian's packages.
const PYTHON: &str = "/usr/bin/python3";
const READER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reader/holdfast_reader.py");

/// Whether the reader can run; installs its packages when they are missing and we may.
fn reader_runs() -> bool {
    let probe =
        || Command::new(PYTHON).args(["-c", "import cryptography, zstandard, xxhash"]).output().is_ok_and(|out| out.status.success());
    if probe() {
        return true;
    }
    let packages = ["install", "-y", "-q", "python3-cryptography", "python3-zstandard", "python3-xxhash"];
    let _ = Command::new("apt-get").args(packages).env("DEBIAN_FRONTEND", "noninteractive").output();
    let runs = probe();
    if !runs {
        eprintln!(
            "SKIPPED: the independent reader needs python3-cryptography, python3-zstandard and python3-xxhash, and apt-get could not install them"
        );
    }
    runs
}

fn read(store: &Path, key: Option<&Path>, args: &[&str]) -> Result<Vec<Value>, String> {
    let mut command = Command::new(PYTHON);
    command.arg(READER).arg("--store").arg(store).args(args);
    if let Some(key) = key {
        command.arg("--recovery-key").arg(key);
    }
    let out = command.output().unwrap();
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned());
    }
    Ok(String::from_utf8(out.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn save(world: &World, into: &Path) {
    for (name, bytes) in &world.objects {
        let path = into.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// Every tree, the newest exported, and the check, against what the world meant.
fn compare(world: &World, store: &Path, key: Option<&Path>) {
    for (seq, rows) in &world.trees {
        let read = read(store, key, &["tree", VOLUME, "--at", &seq.to_string()]).unwrap();
        assert_eq!(&read, rows, "the tree at {seq}");
    }
    let checked = read(store, key, &["check", VOLUME]).unwrap();
    assert_eq!(checked[0]["records"], world.record_names.len());
    assert_eq!(checked[0]["commit"], world.trees.len());
    assert_eq!(checked[0]["checkpoints"], 2);
}

#[test]
fn the_independent_reader_finds_every_tree_of_an_encrypted_store() {
    if !reader_runs() {
        return;
    }
    let (recovery, key) = (Recovery::generate(), StoreKey([0x77; 32]));
    let other = Recovery::generate();
    let recipients = [&other, &recovery].map(|r| Recipient { name: "one".into(), public_key: r.recipient(), recovery: true });
    let world = world::example(Some((&key, recipients.to_vec())));
    let dir = tempfile::tempdir().unwrap();
    let (store, key) = (dir.path().join("store"), dir.path().join("key"));
    save(&world, &store);
    std::fs::write(&key, format!("# created: today\n{}\n", &*recovery.secret())).unwrap();
    compare(&world, &store, Some(&key));
    let without = read(&store, None, &["check", VOLUME]).unwrap_err();
    assert!(without.contains("--recovery-key"), "{without}");
    std::fs::write(&key, &*Recovery::generate().secret()).unwrap();
    let wrong = read(&store, Some(&key), &["check", VOLUME]).unwrap_err();
    assert!(wrong.contains("opens no stanza"), "{wrong}");
}

#[test]
fn the_independent_reader_finds_every_tree_of_a_store_in_the_clear() {
    if !reader_runs() {
        return;
    }
    let world = world::example(None);
    let dir = tempfile::tempdir().unwrap();
    save(&world, dir.path());
    compare(&world, dir.path(), None);
}
