//! `status` of a volume that is not mounted here: what the store tells, and that no answer is none.

use super::Lab;
use crate::rig::VOLUME;
use std::fs;

#[test]
fn volume_that_is_not_mounted_here() {
    let lab = Lab::new(false);
    let (code, said) = lab.say(&["status", VOLUME, "--json"]);
    let status: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((code, status[0]["safe"].as_bool(), status[0]["status"]["phase"].as_str()), (0, Some(true), Some("closed")));
    assert_eq!(status[0]["restorable_to"], status[0]["status"]["head"]["cut"]);
    let mount = lab.rig.mount("first");
    let (code, said) = lab.say(&["status", VOLUME, "--json"]);
    let status: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!((code, status[0]["status"]["phase"].as_str()), (20, Some("open")), "{status}");
    assert!(status[0]["status"]["held_by"]["host"].is_string() && status[0]["why"].to_string().contains("not closed"), "{status}");
    lab.rig.unmount("first", mount);
    assert_eq!(lab.say(&["status", VOLUME]).0, 0);
    let (code, said) = lab.say(&["status", "test/none"]);
    assert!(code == 3 && said.contains("there is none in the store"), "{said}");
}

#[test]
fn store_away_or_damaged_is_never_safe_nor_absent() {
    let lab = Lab::new(false);
    let (store, away) = (lab.rig.store(), lab.rig.path("away"));
    fs::rename(&store, &away).expect("the disk goes");
    let (code, said) = lab.say(&["status", VOLUME]);
    assert!(code == 5 && !said.contains("SAFE"), "{code} {said}");
    fs::create_dir(&store).expect("an empty place");
    let (code, said) = lab.say(&["status", VOLUME]);
    assert!(code == 5 && said.contains("there is no store at"), "{code} {said}");
    fs::remove_dir(&store).expect("no place");
    fs::rename(&away, &store).expect("the disk comes back");
    let life = fs::read_dir(store.join("volumes")).expect("list").next().expect("a life").expect("an entry").path();
    let newest = fs::read_dir(life.join("commits")).expect("list").map(|entry| entry.expect("an entry").path()).max().expect("a record");
    let mut bytes = fs::read(&newest).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&newest, bytes).expect("damage");
    let (code, said) = lab.say(&["status", VOLUME]);
    assert!(code == 6 && said.contains("is damaged"), "{code} {said}");
}
