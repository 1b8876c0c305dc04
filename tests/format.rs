//! The format as a whole: a store made by it is read back by the independent reader, tree by tree.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test's helper fails as the test does"
)]

#[path = "reader/example.rs"]
mod example;
#[path = "reader/mutate.rs"]
mod mutate;
#[path = "reader/objects.rs"]
mod objects;
#[path = "harness/objects.rs"]
#[allow(dead_code, reason = "the reader is all that is used here")]
mod on_disk;
#[path = "reader/world.rs"]
mod world;

use bytes::Bytes;
use holdfast::format::keys::{self, Recovery};
use holdfast::format::marker::Marker;
use holdfast::format::seal::{self, Sealer};
use holdfast::format::{block, limits, names, volume};
use holdfast::rpc::Recipient;
use holdfast::types::StoreKey;
use on_disk::{PYTHON, reader};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use world::{VOLUME, World};

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
    let out = reader(store, key, args).output().unwrap();
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
    let world = example::example(Some((&key, recipients.to_vec())));
    let dir = tempfile::tempdir().unwrap();
    let (store, key) = (dir.path().join("store"), dir.path().join("key"));
    save(&world, &store);
    std::fs::write(&key, format!("# created: today\n{}\n", &*recovery.secret())).unwrap();
    compare(&world, &store, Some(&key));
    // Anybody who may create objects can put this there.
    std::fs::write(store.join(names::key_ring(99_999_999)), b"nonsense").unwrap();
    assert!(!read(&store, Some(&key), &["commits", VOLUME]).unwrap().is_empty());
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
    let world = example::example(None);
    let dir = tempfile::tempdir().unwrap();
    save(&world, dir.path());
    compare(&world, dir.path(), None);
}

/// What `make` calls with `SCALE=` to turn up: 1 shows each property.
fn scale() -> f64 {
    std::env::var("SCALE").ok().and_then(|scale| scale.parse().ok()).unwrap_or(1.0)
}

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

/// The keys of the golden stores.
fn golden_sealers(store: &Path, encrypted: bool) -> (Sealer, Sealer) {
    let marker = Marker::decode(&std::fs::read(store.join("holdfast-store")).unwrap().into()).unwrap();
    let store_key = if encrypted {
        let recovery = Recovery::parse(&std::fs::read_to_string(store.with_file_name("recovery-key")).unwrap()).unwrap();
        let ring = keys::decode(&std::fs::read(store.join(names::key_ring(1))).unwrap().into(), marker.store, &names::key_ring(1)).unwrap();
        keys::unwrap(&ring, marker.store, &[recovery]).unwrap().0
    } else {
        [0; 32]
    };
    let of_store = Sealer::new(marker.cipher, &store_key, marker.store, None);
    let name = names::volume(world::LIFE);
    let record = volume::decode(&std::fs::read(store.join(&name)).unwrap().into(), &of_store, &name).unwrap();
    let data_key = record.data_key.as_ref().try_into().unwrap();
    (of_store, Sealer::new(marker.cipher, data_key, marker.store, Some(world::LIFE)))
}

fn files(dir: &Path, below: &str, into: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir.join(below)).unwrap() {
        let entry = entry.unwrap();
        let name =
            [below, entry.file_name().to_str().unwrap()].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("/");
        if entry.file_type().unwrap().is_dir() { files(dir, &name, into) } else { into.push(name) }
    }
    into.sort();
}

/// Makes the golden stores of this version. Never over old ones: what was once written must stay readable.
#[test]
#[ignore = "run once for each feature level, by hand"]
fn write_golden_stores() {
    for encrypted in [true, false] {
        let dir = Path::new(GOLDEN).join(if encrypted { "level-1-encrypted" } else { "level-1-clear" });
        std::fs::create_dir(&dir).unwrap();
        let (recovery, key) = (Recovery::generate(), StoreKey([0x77; 32]));
        let recipient = Recipient { name: "paper".into(), public_key: recovery.recipient(), recovery: true };
        let world = example::example(encrypted.then(|| (&key, vec![recipient])));
        let store = dir.join("store");
        save(&world, &store);
        if encrypted {
            std::fs::write(dir.join("recovery-key"), &*recovery.secret()).unwrap();
        }
        for (seq, rows) in &world.trees {
            let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
            std::fs::write(dir.join(format!("tree-{seq}.jsonl")), lines).unwrap();
        }
        for (name, bytes, _) in objects::samples(&world.sealer) {
            let path = dir.join("objects").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let (of_store, sealer) = golden_sealers(&store, encrypted);
        let mut lines = String::new();
        for (name, bytes) in &world.objects {
            let plain = objects::plain(name, bytes, &of_store, &sealer).unwrap();
            lines += &format!("{} {name}\n", hex::encode(Sha256::digest(plain)));
        }
        std::fs::write(dir.join("plain.sha256"), lines).unwrap();
    }
}

#[test]
fn golden_objects_decode_to_what_they_always_did() {
    for (level, encrypted) in [("level-1-encrypted", true), ("level-1-clear", false)] {
        let dir = Path::new(GOLDEN).join(level);
        let (of_store, sealer) = golden_sealers(&dir.join("store"), encrypted);
        let mut found = Vec::new();
        files(&dir.join("store"), "", &mut found);
        let want = std::fs::read_to_string(dir.join("plain.sha256")).unwrap();
        assert_eq!(want.lines().count(), found.len());
        for line in want.lines() {
            let (hash, name) = line.split_once(' ').unwrap();
            let bytes: Bytes = std::fs::read(dir.join("store").join(name)).unwrap().into();
            let plain = objects::plain(name, &bytes, &of_store, &sealer).unwrap();
            assert_eq!(hex::encode(Sha256::digest(plain)), hash, "{level}: {name}");
        }
        let mut singles = 0;
        for (name, _, message) in objects::samples(&sealer) {
            let bytes: Bytes = std::fs::read(dir.join("objects").join(&name)).unwrap().into();
            assert_eq!(objects::plain(&name, &bytes, &of_store, &sealer).unwrap(), message, "{level}: {name}");
            singles += 1;
        }
        assert_eq!(singles, 11);
    }
}

#[test]
fn golden_stores_are_read_by_the_independent_reader() {
    if !reader_runs() {
        return;
    }
    for (level, key) in [("level-1-encrypted", Some("recovery-key")), ("level-1-clear", None)] {
        let dir = Path::new(GOLDEN).join(level);
        let key = key.map(|key| dir.join(key));
        let mut trees = Vec::new();
        files(&dir, "", &mut trees);
        trees.retain(|name| name.starts_with("tree-"));
        assert_eq!(trees.len(), 7);
        for name in trees {
            let want: Vec<Value> =
                std::fs::read_to_string(dir.join(&name)).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let at = name.trim_start_matches("tree-").trim_end_matches(".jsonl");
            assert_eq!(read(&dir.join("store"), key.as_deref(), &["tree", VOLUME, "--at", at]).unwrap(), want, "{level} {name}");
        }
    }
}

#[test]
fn the_documents_limits_are_the_codes() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/format.md")).unwrap();
    let mut said: Vec<(&str, u64)> = Vec::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        if let [_, name, value, _, _] = cells[..]
            && let Ok(value) = value.parse()
        {
            said.push((name, value));
        }
    }
    assert_eq!(said, limits::ALL);
}

#[test]
fn the_reader_exports_files_and_notices_damage() {
    if !reader_runs() {
        return;
    }
    let world = example::example(None);
    let dir = tempfile::tempdir().unwrap();
    let (store, out) = (dir.path().join("store"), dir.path().join("out"));
    save(&world, &store);
    read(&store, None, &["export", VOLUME, out.to_str().unwrap(), "--at", &world.trees[2].0.to_string()]).unwrap();
    for row in &world.trees[2].1 {
        let (path, kind) = (out.join(row["path"].as_str().unwrap()), row["type"].as_str().unwrap());
        if kind == "file" {
            let content = std::fs::read(&path).unwrap();
            assert_eq!(hex::encode(Sha256::digest(&content)), row["sha256"], "{}", path.display());
            let modified = std::fs::metadata(&path).unwrap().modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
            assert_eq!(modified.as_nanos() as i64, row["mtime"].as_i64().unwrap());
        } else {
            assert!(path.is_dir());
        }
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o1777;
        assert_eq!(u64::from(mode), row["mode"].as_u64().unwrap() & 0o1777, "{}", path.display());
    }
    // Each object in turn: one bit of it wrong, or all of it gone.
    let every = ((world.objects.len() as f64 / (6.0 * scale())) as usize).max(1);
    for (name, bytes) in world.objects.iter().step_by(every) {
        let mut rotten = bytes.to_vec();
        // Of a pack nobody reads the header: what opens a frame is in the reference to it.
        let at = if name.contains("/packs/") { 60 } else { rotten.len() / 2 };
        rotten[at] ^= 1;
        std::fs::write(store.join(name), &rotten).unwrap();
        read(&store, None, &["check", VOLUME]).expect_err(name);
        // A log without its beginning is one that retention has been at: the checkpoints stand for it.
        if *name != world.record_names[0] {
            std::fs::remove_file(store.join(name)).unwrap();
            read(&store, None, &["check", VOLUME]).expect_err(name);
        }
        std::fs::write(store.join(name), bytes).unwrap();
    }
    read(&store, None, &["check", VOLUME]).unwrap();
}

#[test]
fn the_reader_believes_no_record_that_its_blocks_marker_lacks() {
    if !reader_runs() {
        return;
    }
    let mut world = example::example(None);
    let dir = tempfile::tempdir().unwrap();
    let hashes =
        |world: &World| world.record_names.iter().map(|name| Bytes::copy_from_slice(&seal::hash(&world.objects[name]).0)).collect();
    let mut marker = holdfast::rpc::BlockMarker { block: 0, record_hashes: hashes(&world) };
    marker.record_hashes.insert(0, Bytes::new());
    let name = names::block(world::LIFE, 0);
    for (records, accepted) in [(world.record_names.len() + 1, true), (world.record_names.len(), false)] {
        marker.record_hashes.truncate(records);
        world.objects.insert(name.clone(), block::encode(&marker, &world.sealer, &name, [9; 32]).unwrap().0);
        save(&world, dir.path());
        let checked = read(dir.path(), None, &["check", VOLUME]);
        assert_eq!(checked.is_ok(), accepted, "{checked:?}");
        let commits = read(dir.path(), None, &["commits", VOLUME]).unwrap();
        assert_eq!(commits.last().unwrap()["kind"] == "void", !accepted);
    }
}

/// What the reader costs on a volume of `FILES` files, and one of many commits.
#[test]
#[ignore = "prints times"]
fn reader_rates() {
    let env = holdfast::env::Env::real();
    let files: u32 = std::env::var("FILES").ok().and_then(|files| files.parse().ok()).unwrap_or(20_000);
    let mut world = World::new(None);
    world.open();
    for number in 0..files / 100 {
        let dir = world.mkdir(1, format!("dir {number}").as_bytes());
        for file in 0..100 {
            world.create(dir, format!("file {file}").as_bytes(), format!("content {file} of {dir}").as_bytes());
        }
        if number.is_multiple_of(7) {
            world.commit(world::Style::Packed);
        }
    }
    world.commit(world::Style::Packed);
    let dir = tempfile::tempdir().unwrap();
    save(&world, dir.path());
    for args in [["check", VOLUME], ["tree", VOLUME]] {
        let begin = env.monotonic();
        let lines = read(dir.path(), None, &args).unwrap().len();
        println!("{} of {files} files in {} commits: {lines} lines in {:?}", args[0], world.trees.len(), env.monotonic() - begin);
    }
}
