//! Snapshots and clones of claims with real mounts: of a volume in use, of one that nobody has, and what a pod of the clone finds.

use super::*;
use std::os::unix::fs::FileExt;
use volume_content_source::{SnapshotSource, Type, VolumeSource};

const CUT: &str = "snapshot-2b6c2f7e-4d0c-4c8e-9f53-0d6c8d0a1b2c";
const PEERS: &[&str] = &["--peer-listen", "127.0.0.1:0"];

/// Asks again while it is told to, as the sidecar does.
fn snapshot(machine: &Machine<'_>, name: &str, id: &str) -> Snapshot {
    for _ in 0..10 {
        let asked = CreateSnapshotRequest { source_volume_id: id.to_owned(), name: name.to_owned(), ..Default::default() };
        match machine.ask(asked) {
            Ok(made) => return made.snapshot.expect("a snapshot"),
            Err(status) => assert!(matches!(status.code(), Code::Aborted | Code::Unavailable), "{status}\n{}", machine.log()),
        }
    }
    panic!("no snapshot\n{}", machine.log());
}

fn clone(machine: &Machine<'_>, name: &str, source: Type) -> Result<Volume, Status> {
    let parameters = [("csi.storage.k8s.io/pvc/namespace", "media"), ("csi.storage.k8s.io/pvc/name", "copy")];
    let asked = CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: Some(CapacityRange { required_bytes: GIB, limit_bytes: 0 }),
        volume_capabilities: vec![capability("")],
        parameters: parameters.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        volume_content_source: Some(VolumeContentSource { r#type: Some(source) }),
        ..Default::default()
    };
    Ok(machine.ask(asked)?.volume.expect("a volume"))
}

/// The files of a volume, by a pod that reads it and changes it.
fn seen(machine: &Machine<'_>, id: &str) -> Vec<(String, Vec<u8>)> {
    machine.stage_at_last(id);
    let pod = machine.publish(id, "pod", false, "");
    let files = std::fs::read_dir(&pod).expect("a directory").map(|entry| entry.expect("an entry"));
    let mut files: Vec<(String, Vec<u8>)> =
        files.map(|entry| (entry.file_name().into_string().expect("a name"), std::fs::read(entry.path()).expect("its bytes"))).collect();
    files.sort();
    std::fs::write(pod.join("own"), "of the clone").expect("a clone is written to");
    machine.unpublish(id, "pod");
    machine.unstage(id);
    files
}

#[test]
fn snapshot_of_a_volume_in_use_has_what_was_written_before() {
    let cluster = Cluster::new();
    let mut machine = cluster.machine_with("node-a", PEERS);
    let other = cluster.machine("node-b");
    let id = machine.create(NAME, GIB).volume_id;
    machine.stage(&id, "").expect("staged");
    let pod = machine.publish(&id, "pod", false, "");
    // Open, never flushed, and larger than what is taken along in a record.
    let database = std::fs::File::create(pod.join("database")).expect("a file");
    database.write_all_at(&vec![7; 20 << 20], 0).expect("write");
    std::fs::write(pod.join("small"), "before").expect("write");
    machine.restart();
    let cut = snapshot(&machine, CUT, &id);
    assert!(cut.ready_to_use && cut.size_bytes >= 20 << 20, "{cut:?}");
    database.write_all_at(&[8; 4096], 0).expect("write");
    std::fs::write(pod.join("small"), "after").expect("write");
    machine.restart();
    assert_eq!(snapshot(&machine, CUT, &id), cut, "twice, with what was written in between");
    let of_cut = Type::Snapshot(SnapshotSource { snapshot_id: cut.snapshot_id.clone() });
    let copy = clone(&other, NEXT, of_cut.clone()).expect("a clone");
    machine.restart();
    assert_eq!(clone(&machine, NEXT, of_cut).expect("the same clone"), copy);
    assert_eq!(seen(&other, &copy.volume_id), [("database".to_owned(), vec![7; 20 << 20]), ("small".to_owned(), b"before".to_vec())]);
    // A claim as a source: its state of now, though it is in use.
    let of_now = "pvc-4b6c2f7e-4d0c-4c8e-9f53-0d6c8d0a1b2c";
    let now = loop {
        match clone(&other, of_now, Type::Volume(VolumeSource { volume_id: id.clone() })) {
            Ok(made) => break made,
            Err(status) => assert!(matches!(status.code(), Code::Aborted | Code::Unavailable), "{status}"),
        }
    };
    let files = seen(&other, &now.volume_id);
    assert_eq!(files[1], ("small".to_owned(), b"after".to_vec()));
    assert!(files[0].1[..4096] == [8; 4096] && files[0].1[4096..] == vec![7; (20 << 20) - 4096]);
    assert!(!pod.join("own").exists(), "a clone's changes are its own");
    machine.unpublish(&id, "pod");
    machine.unstage(&id);
    // The snapshot outlives its claim, and its clone outlives both.
    machine.delete(&id);
    let got = machine.ask(GetSnapshotRequest { snapshot_id: cut.snapshot_id.clone(), ..Default::default() }).expect("it is there");
    assert_eq!(got.snapshot, Some(cut.clone()));
    machine.ask(DeleteSnapshotRequest { snapshot_id: cut.snapshot_id.clone(), ..Default::default() }).expect("deleted");
    let gone = machine.ask(GetSnapshotRequest { snapshot_id: cut.snapshot_id, ..Default::default() }).expect_err("it is gone");
    assert_eq!(gone.code(), Code::NotFound);
    assert_eq!(seen(&other, &copy.volume_id).len(), 3);
}

#[test]
fn volume_whose_node_takes_no_questions_is_cut_when_it_is_let_go() {
    let cluster = Cluster::new();
    let machine = cluster.machine("node-a");
    let id = machine.create(NAME, GIB).volume_id;
    let empty = snapshot(&machine, "empty", &id);
    machine.stage(&id, "").expect("staged");
    let pod = machine.publish(&id, "pod", false, "");
    std::fs::write(pod.join("file"), "x").expect("write");
    let asked = CreateSnapshotRequest { source_volume_id: id.clone(), name: CUT.to_owned(), ..Default::default() };
    let refused = machine.ask(asked).expect_err("its state of now cannot be had");
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("node.peerListen"), "{refused}");
    machine.unpublish(&id, "pod");
    machine.unstage(&id);
    let cut = snapshot(&machine, CUT, &id);
    let listed = machine.ask(ListSnapshotsRequest { source_volume_id: id, ..Default::default() }).expect("a list").entries;
    assert_eq!(listed.into_iter().filter_map(|entry| entry.snapshot).collect::<Vec<_>>(), [empty.clone(), cut.clone()]);
    // As a person sees it, and the other way about.
    let mut shown = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    at_home(&mut shown, &machine.at("admin"));
    let url = format!("file://{}", cluster.lab.path().join("store").display());
    shown
        .args(["--store", &url, "snapshot", "list", "home/media/photos", "--recovery-key"])
        .arg(cluster.lab.path().join("stores/main/key"));
    let said = String::from_utf8(shown.output().expect("a list").stdout).expect("text");
    assert!(said.contains(&format!("{CUT}: commit")) && said.contains("empty: commit"), "{said}");
    for (of, files) in [(&empty, 0), (&cut, 1)] {
        let name = if files == 0 { NEXT } else { "pvc-4b6c2f7e-4d0c-4c8e-9f53-0d6c8d0a1b2c" };
        let copy = clone(&machine, name, Type::Snapshot(SnapshotSource { snapshot_id: of.snapshot_id.clone() })).expect("a clone");
        assert_eq!(seen(&machine, &copy.volume_id).len(), files);
    }
}

#[test]
fn driver_s_container_that_was_replaced_is_asked_where_it_is_now() {
    let cluster = Cluster::new();
    let name = "node-a";
    std::fs::create_dir_all(cluster.lab.path().join(name)).expect("a directory");
    let arguments = &["--keeper-apart", "--peer-listen", "127.0.0.1:0"];
    let mut machine = Machine { cluster: &cluster, name, arguments, contained: true, keeper: None, driver: None };
    machine.start_keeper();
    machine.start();
    let id = machine.create(NAME, GIB).volume_id;
    machine.stage(&id, "").expect("staged");
    let pod = machine.publish(&id, "pod", false, "");
    std::fs::write(pod.join("file"), "before").expect("write");
    machine.restart();
    std::fs::write(pod.join("file"), "after the restart").expect("write");
    let cut = snapshot(&machine, CUT, &id);
    machine.unpublish(&id, "pod");
    machine.unstage(&id);
    let copy = clone(&machine, NEXT, Type::Snapshot(SnapshotSource { snapshot_id: cut.snapshot_id })).expect("a clone");
    assert_eq!(seen(&machine, &copy.volume_id), [("file".to_owned(), b"after the restart".to_vec())]);
}
