//! A mount that is only read lives as long as any other: its next driver shows the same moment, from the same cache.

use super::Kept;
use crate::harness::command::succeed;
use crate::rig::content;
use std::fs::{self, File};
use std::io::Read;

const LENGTH: usize = 3 << 20;

#[test]
fn a_mount_that_is_only_read_outlives_its_driver() {
    let kept = Kept::new();
    let root = kept.root();
    for name in ["read", "later"] {
        fs::write(root.join(name), content(1, LENGTH)).unwrap();
    }
    let shown = kept.rig.flush("first");
    kept.unmount();
    let mut command = kept.mount_command();
    succeed(command.arg("--read-only"));
    let mut open = File::open(root.join("read")).unwrap();
    let mut bytes = vec![0; LENGTH / 2];
    open.read_exact(&mut bytes).unwrap();
    // The volume goes on elsewhere: what is newest is another commit now.
    let writer = kept.rig.mount("second");
    let there = kept.rig.root("second");
    for name in ["read", "later", "new"] {
        fs::write(there.join(name), content(2, LENGTH)).unwrap();
    }
    kept.rig.flush("second");
    let same = |code: i32, status: &serde_json::Value| {
        assert_eq!((code, status["status"]["head"]["commit"].as_u64()), (0, Some(shown)), "{status}");
        assert_eq!(status["status"]["read_only"], true, "{status}");
        assert!(fs::metadata(root.join("new")).is_err());
        assert_eq!(fs::metadata(root.join("read")).unwrap().len(), LENGTH as u64);
    };
    // It needs no store to be taken over, and what only the store has comes when that is back.
    let away = kept.rig.path("away");
    fs::rename(kept.rig.store(), &away).unwrap();
    let _ = kept.lose(&kept.three()[2..]);
    assert!(fs::metadata(root.join("new")).is_err());
    fs::rename(&away, kept.rig.store()).unwrap();
    assert!(fs::read(root.join("later")).unwrap() == content(1, LENGTH));
    open.read_to_end(&mut bytes).unwrap();
    drop(open);
    assert!(bytes == content(1, LENGTH));
    let (code, status) = kept.status();
    same(code, &status);
    // So is an upgrade, and the death of two.
    kept.rig.succeed("first", &["upgrade", &root.display().to_string()]);
    let now = kept.three();
    let _ = kept.lose(&now[1..]);
    let (code, status) = kept.status();
    same(code, &status);
    kept.unmount();
    kept.rig.unmount("second", writer);
    let left =
        fs::read_dir(kept.rig.cache("first")).unwrap().flatten().filter(|entry| entry.file_name().to_string_lossy().contains("reader"));
    assert_eq!(left.count(), 0, "its cache ends with it");
}

#[test]
fn a_moment_is_not_found_anew_by_the_next_driver() {
    let kept = Kept::new();
    fs::write(kept.root().join("file"), "old").unwrap();
    kept.rig.flush("first");
    kept.unmount();
    let mut command = kept.mount_command();
    // A later driver would find another commit for it.
    succeed(command.args(["--at", "0s ago"]));
    let writer = kept.rig.mount("second");
    fs::write(kept.rig.root("second").join("file"), "newer").unwrap();
    kept.rig.flush("second");
    let _ = kept.lose(&kept.three()[2..]);
    assert_eq!(fs::read_to_string(kept.root().join("file")).unwrap(), "old");
    kept.unmount();
    kept.rig.unmount("second", writer);
}
