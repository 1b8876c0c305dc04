//! A driver that is there and does not answer: whoever asks is told so in seconds, and may give the mount up.

use super::{Kept, kill, mounted};
use crate::harness::command::said;
use std::process::Command;

#[test]
fn a_driver_that_is_stopped_is_told_of_and_its_mount_given_up() {
    let kept = Kept::new();
    let root = kept.root().display().to_string();
    let [_, _, driver] = kept.three();
    assert!(Command::new("kill").args(["-STOP", &driver.to_string()]).status().unwrap().success());
    for arguments in [vec!["status", "--json"], vec!["status", "--json", &root], vec!["status", "--json", crate::rig::VOLUME]] {
        let output = kept.rig.run("first", &arguments);
        assert_eq!(output.status.code(), Some(20), "{arguments:?}: {}", said(&output));
        let reports: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(reports.as_array().unwrap().len(), 1, "{reports}");
        let (why, there) = (reports[0]["why"].as_str().unwrap(), &reports[0]["directory"]);
        assert!(why.contains("has not answered for 5 s") && *there == *root, "{reports}");
    }
    let refused = kept.rig.run("first", &["upgrade", "--all"]);
    assert!(said(&refused).contains("nothing has changed"), "{}", said(&refused));
    kept.rig.succeed("first", &["abort", &root]);
    assert!(!mounted(&kept.root()));
    kill(driver);
}
