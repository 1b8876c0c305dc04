//! The file with the recovery key is away when a driver starts: the mount goes on as while the store is away, and says what it lacks.

use super::{Kept, PATIENCE};
use crate::harness::command::said;
use std::fs::{self, File};
use std::io::Write;
use std::time::Instant;

#[test]
fn a_driver_that_starts_without_its_key_commits_as_soon_as_it_is_back() {
    let kept = Kept::new();
    let root = kept.root().display().to_string();
    fs::write(kept.root().join("before"), "here").unwrap();
    let away = kept.rig.path("away.key");
    fs::rename(kept.rig.key(), &away).unwrap();
    let first = kept.three();
    let refused = kept.rig.run("first", &["upgrade", &root]);
    assert_eq!(refused.status.code(), Some(13), "{}", said(&refused));
    assert!(
        said(&refused).contains("nothing has changed: ") && said(&refused).contains("recovery.key cannot be read"),
        "{}",
        said(&refused)
    );
    assert_eq!(kept.three(), first);
    let _ = kept.lose(&first[2..]);
    let began = Instant::now();
    loop {
        let (code, status) = kept.status();
        let why = status["why"].as_str().unwrap_or_default();
        if why.contains("the log is not open since the mount's driver was restarted") && why.contains("recovery.key") {
            assert_eq!(code, 20, "{status}");
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{status}\n{}", kept.log());
        std::thread::yield_now();
    }
    let mut file = File::create(kept.root().join("after")).unwrap();
    file.write_all(b"late").unwrap();
    file.sync_all().unwrap();
    drop(file);
    fs::rename(&away, kept.rig.key()).unwrap();
    kept.rig.flush("first");
    let (code, status) = kept.status();
    assert_eq!(code, 0, "{status}");
    kept.unmount();
}

#[test]
fn a_mount_does_not_take_its_key_from_standard_input() {
    let rig = crate::rig::Rig::new();
    let mut command = rig.prepare("first", &["mount", crate::rig::VOLUME]);
    let refused = command.arg(rig.root("first")).args(["--recovery-key", "-"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    assert!(said(&refused).contains("name a file for --recovery-key"), "{}", said(&refused));
}
