//! Every request on a store in memory and a machine that is a list: twice, out of order, side by side, and with a new process of the driver
//! before each. What a real mount and a real socket do is in `csi-sanity/` and `tests/csi.rs`.

mod snapshots;

use super::*;
use crate::controller::Stores;
use crate::env::Env;
use crate::format::marker::Marker;
use crate::format::names;
use crate::format::seal::{Cipher, Sealer};
use crate::log::lookup::Books;
use crate::node::{Binding, Fake, Mounter, Patience};
use crate::rpc::csi::volume_capability::access_mode::Mode as Wire;
use crate::rpc::csi::volume_capability::{AccessMode, AccessType, MountVolume};
use crate::rpc::csi::*;
use crate::store::{Faults, Faulty, Memory, Store};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tonic::{Code, Status};

const NAME: &str = "pvc-0b6c2f7e-4d0c-4c8e-9f53-0d6c8d0a1b2c";
const NEXT: &str = "pvc-1b6c2f7e-4d0c-4c8e-9f53-0d6c8d0a1b2c";
const GIB: i64 = 1 << 30;

#[derive(Debug)]
struct One(Books);

#[async_trait]
impl Stores for One {
    async fn open(&self, _: &str) -> Result<Books, Fault> {
        Ok(self.0.clone())
    }

    fn aliases(&self) -> Result<Vec<String>, Fault> {
        Ok(vec!["main".to_owned()])
    }
}

/// A cluster of one machine.
struct Lab {
    store: Arc<Faulty>,
    books: Books,
    machine: Arc<Fake>,
    dir: tempfile::TempDir,
}

impl Lab {
    async fn new() -> Self {
        let env = Env::real();
        let marker = Marker::clear([7; 16], 0, "test");
        let store = Arc::new(Faulty::new(Arc::new(Memory::new(env.clone())), Faults::default(), 1));
        store.put_if_absent(names::marker(), marker.encode()).await.unwrap();
        let sealer = Sealer::new(Cipher::None, &[0; 32], marker.store, None);
        let books = Books { store: Arc::clone(&store) as Arc<dyn Store>, env, sealer };
        Self { store, books, machine: Arc::default(), dir: tempfile::tempdir().unwrap() }
    }

    /// A process of the driver that has just been started.
    fn driver(&self) -> Service {
        let controller = Arc::new(Controller::new("home", Arc::new(One(self.books.clone()))).unwrap());
        let patience = Patience { stage: Duration::from_secs(1), drain: Duration::from_secs(1) };
        let machine = Arc::clone(&self.machine) as Arc<dyn Mounter>;
        let node = Node::new("node-a", Arc::clone(&controller), machine, self.dir.path(), patience).unwrap();
        Service::new(DRIVER, true, controller, Some(Arc::new(node))).unwrap()
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    async fn create(&self, name: &str, bytes: i64) -> Result<Volume, Status> {
        let parameters = [("csi.storage.k8s.io/pvc/namespace", "media"), ("csi.storage.k8s.io/pvc/name", "photos")];
        let asked = CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
            volume_capabilities: vec![capability(Wire::SingleNodeWriter)],
            parameters: parameters.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            ..CreateVolumeRequest::default()
        };
        Ok(self.driver().create_volume(asked).await?.volume.unwrap())
    }

    async fn delete(&self, id: &str) -> Result<DeleteVolumeResponse, Status> {
        self.driver().delete_volume(DeleteVolumeRequest { volume_id: id.to_owned(), ..Default::default() }).await
    }

    async fn stage(&self, id: &str, capability: VolumeCapability) -> Result<NodeStageVolumeResponse, Status> {
        let asked = NodeStageVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: self.path("staging"),
            volume_capability: Some(capability),
            ..NodeStageVolumeRequest::default()
        };
        self.driver().node_stage_volume(asked).await
    }

    async fn unstage(&self, id: &str) -> Result<NodeUnstageVolumeResponse, Status> {
        let asked = NodeUnstageVolumeRequest { volume_id: id.to_owned(), staging_target_path: self.path("staging") };
        self.driver().node_unstage_volume(asked).await
    }

    async fn publish(&self, id: &str, target: &str, readonly: bool, mode: Wire) -> Result<NodePublishVolumeResponse, Status> {
        let asked = NodePublishVolumeRequest {
            volume_id: id.to_owned(),
            staging_target_path: self.path("staging"),
            target_path: self.path(target),
            volume_capability: Some(capability(mode)),
            readonly,
            ..NodePublishVolumeRequest::default()
        };
        self.driver().node_publish_volume(asked).await
    }

    async fn unpublish(&self, id: &str, target: &str) -> Result<NodeUnpublishVolumeResponse, Status> {
        let asked = NodeUnpublishVolumeRequest { volume_id: id.to_owned(), target_path: self.path(target) };
        self.driver().node_unpublish_volume(asked).await
    }

    async fn stats(&self, id: &str, place: &str) -> Result<NodeGetVolumeStatsResponse, Status> {
        let asked = NodeGetVolumeStatsRequest { volume_id: id.to_owned(), volume_path: self.path(place), ..Default::default() };
        self.driver().node_get_volume_stats(asked).await
    }

    async fn expand(&self, id: &str, bytes: i64) -> Result<ControllerExpandVolumeResponse, Status> {
        let capacity_range = Some(CapacityRange { required_bytes: bytes, limit_bytes: 0 });
        self.driver()
            .controller_expand_volume(ControllerExpandVolumeRequest { volume_id: id.to_owned(), capacity_range, ..Default::default() })
            .await
    }

    async fn node_expand(&self, id: &str, place: &str) -> Result<NodeExpandVolumeResponse, Status> {
        let asked = NodeExpandVolumeRequest { volume_id: id.to_owned(), volume_path: self.path(place), ..Default::default() };
        self.driver().node_expand_volume(asked).await
    }

    fn bound(&self, target: &str) -> Option<Binding> {
        self.machine.bound(Path::new(&self.path(target)))
    }

    fn mounts(&self) -> Vec<(String, u64, PathBuf)> {
        self.machine.mounts().into_iter().map(|order| (order.identity.to_string(), order.capacity, order.dir)).collect()
    }
}

fn capability(mode: Wire) -> VolumeCapability {
    grouped(mode, "")
}

fn grouped(mode: Wire, group: &str) -> VolumeCapability {
    let mount = MountVolume { volume_mount_group: group.to_owned(), ..MountVolume::default() };
    VolumeCapability { access_mode: Some(AccessMode { mode: mode.into() }), access_type: Some(AccessType::Mount(mount)) }
}

#[track_caller]
fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> Code {
    answer.unwrap_err().code()
}

const WRITER: Wire = Wire::SingleNodeWriter;

#[tokio::test]
async fn a_life_with_each_request_twice_and_a_new_process_before_each() {
    let lab = Lab::new().await;
    let volume = lab.create(NAME, GIB).await.unwrap();
    let id = volume.volume_id.as_str();
    assert_eq!(lab.create(NAME, GIB).await.unwrap(), volume);
    assert_eq!((volume.capacity_bytes, volume.volume_context["identity"].as_str()), (GIB, "home/media/photos"));
    for _ in 0..2 {
        lab.stage(id, capability(WRITER)).await.unwrap();
    }
    for target in ["a", "a", "b"] {
        lab.publish(id, target, false, WRITER).await.unwrap();
    }
    let usage = lab.stats(id, "a").await.unwrap().usage;
    assert_eq!((usage[0].total, usage[0].available, usage[1].used), (GIB, GIB, 1));
    for _ in 0..2 {
        let expanded = lab.expand(id, 2 * GIB).await.unwrap();
        assert_eq!((expanded.capacity_bytes, expanded.node_expansion_required), (2 * GIB, true));
        assert_eq!(lab.node_expand(id, "a").await.unwrap().capacity_bytes, 2 * GIB);
    }
    assert_eq!(lab.mounts()[0].1, 2 << 30);
    for target in ["a", "b", "a"] {
        lab.unpublish(id, target).await.unwrap();
        assert!(!Path::new(&lab.path(target)).exists(), "the target goes with it");
    }
    for _ in 0..2 {
        lab.unstage(id).await.unwrap();
    }
    assert_eq!(lab.mounts(), []);
    for _ in 0..2 {
        lab.delete(id).await.unwrap();
    }
    assert_eq!(code(lab.stage(id, capability(WRITER)).await), Code::NotFound, "its claim is gone");
    let again = lab.create(NEXT, 3 * GIB).await.unwrap();
    assert_ne!(again.volume_id, id);
    assert_eq!(again.volume_context, volume.volume_context);
    lab.stage(&again.volume_id, capability(WRITER)).await.unwrap();
    lab.delete(id).await.unwrap();
    assert_eq!((lab.mounts()[0].0.as_str(), lab.mounts()[0].1), ("home/media/photos", 3 << 30), "a late deletion of the old handle");
    lab.publish(&again.volume_id, "a", false, WRITER).await.unwrap();
}

#[tokio::test]
async fn requests_out_of_order_say_what_comes_first() {
    let lab = Lab::new().await;
    let id = lab.create(NAME, 0).await.unwrap().volume_id;
    assert_eq!(code(lab.publish(&id, "a", false, WRITER).await), Code::FailedPrecondition);
    assert_eq!(code(lab.stats(&id, "a").await), Code::NotFound);
    assert_eq!(code(lab.node_expand(&id, "a").await), Code::NotFound);
    lab.unpublish(&id, "a").await.unwrap();
    lab.unstage(&id).await.unwrap();
    lab.stage(&id, capability(WRITER)).await.unwrap();
    assert_eq!(code(lab.stats(&id, "a").await), Code::NotFound, "staged, and not there");
    lab.publish(&id, "a", false, WRITER).await.unwrap();
    assert_eq!(code(lab.unstage(&id).await), Code::FailedPrecondition, "published still");
    lab.unpublish(&id, "a").await.unwrap();
    lab.unstage(&id).await.unwrap();
    // Nothing of it is known: nothing is to be undone.
    lab.unpublish("fake-vol-id", "never").await.unwrap();
    lab.unstage("fake-vol-id").await.unwrap();
    lab.delete("fake-vol-id").await.unwrap();
    for missing in [lab.stage("fake-vol-id", capability(WRITER)).await.map(drop), lab.stats("fake-vol-id", "a").await.map(drop)] {
        assert_eq!(code(missing), Code::NotFound);
    }
    assert_eq!(code(lab.expand("fake-vol-id", GIB).await), Code::NotFound);
}

#[tokio::test]
async fn same_place_in_another_way_exists_already() {
    let lab = Lab::new().await;
    let id = lab.create(NAME, 0).await.unwrap().volume_id;
    lab.stage(&id, grouped(WRITER, "")).await.unwrap();
    assert_eq!(code(lab.stage(&id, grouped(WRITER, "1000")).await), Code::AlreadyExists);
    lab.publish(&id, "a", false, WRITER).await.unwrap();
    assert_eq!(code(lab.publish(&id, "a", true, WRITER).await), Code::AlreadyExists);
    lab.publish(&id, "b", true, WRITER).await.unwrap();
    assert!(lab.bound("b").unwrap().read_only && !lab.bound("a").unwrap().read_only);
    assert_eq!(code(lab.publish(&id, "c", false, Wire::SingleNodeSingleWriter).await), Code::FailedPrecondition);
}

#[tokio::test]
async fn one_pod_is_one_pod_and_readers_only_read() {
    let lab = Lab::new().await;
    let id = lab.create(NAME, 0).await.unwrap().volume_id;
    lab.stage(&id, capability(Wire::SingleNodeSingleWriter)).await.unwrap();
    let publish = |target| lab.publish(&id, target, false, Wire::SingleNodeSingleWriter);
    publish("a").await.unwrap();
    publish("a").await.unwrap();
    assert_eq!(code(publish("b").await), Code::FailedPrecondition);
    lab.unpublish(&id, "a").await.unwrap();
    publish("b").await.unwrap();
    lab.unpublish(&id, "b").await.unwrap();
    lab.unstage(&id).await.unwrap();
    lab.stage(&id, capability(Wire::SingleNodeReaderOnly)).await.unwrap();
    lab.publish(&id, "a", false, Wire::SingleNodeReaderOnly).await.unwrap();
    assert!(lab.bound("a").unwrap().read_only);
}

#[tokio::test]
async fn a_group_that_cannot_be_given_yet_is_no_end_of_the_stage() {
    let lab = Lab::new().await;
    let id = lab.create(NAME, GIB).await.unwrap().volume_id;
    lab.machine.refuse_groups(true);
    // A final answer would leave the mount behind: nobody unstages what was never staged.
    assert_eq!(code(lab.stage(&id, grouped(WRITER, "1000")).await), Code::Unavailable);
    assert_eq!(lab.machine.mounts().len(), 1);
    lab.machine.refuse_groups(false);
    lab.stage(&id, grouped(WRITER, "1000")).await.unwrap();
    assert_eq!(lab.machine.group(&lab.mounts()[0].2), Some(1000));
    lab.unstage(&id).await.unwrap();
    assert!(lab.machine.mounts().is_empty());
}

#[tokio::test]
async fn group_is_given_to_the_root_and_shared_by_all_pods() {
    let lab = Lab::new().await;
    let id = lab.create(NAME, 0).await.unwrap().volume_id;
    lab.stage(&id, grouped(WRITER, "1000")).await.unwrap();
    assert_eq!(lab.machine.group(&lab.mounts()[0].2), Some(1000));
    assert_eq!(code(lab.publish(&id, "a", false, WRITER).await), Code::FailedPrecondition, "a pod with another group");
}

#[tokio::test]
async fn machine_that_starts_anew_stages_anew() {
    let lab = Lab::new().await;
    let id = lab.create(NAME, 0).await.unwrap().volume_id;
    lab.stage(&id, capability(WRITER)).await.unwrap();
    lab.publish(&id, "a", false, WRITER).await.unwrap();
    lab.machine.reboot();
    assert_eq!(code(lab.publish(&id, "a", false, WRITER).await), Code::FailedPrecondition, "nothing is mounted any more");
    lab.stage(&id, grouped(WRITER, "7")).await.unwrap();
    lab.unpublish(&id, "a").await.unwrap();
    lab.machine.reboot();
    lab.unstage(&id).await.unwrap();
}

#[tokio::test]
async fn mount_that_nobody_attends_is_taken_up_by_the_next_driver() {
    let lab = Lab::new().await;
    let id = lab.create(NAME, 0).await.unwrap().volume_id;
    lab.stage(&id, capability(WRITER)).await.unwrap();
    lab.driver().node.unwrap().take_up().await;
    assert!(lab.machine.taken_up().is_empty(), "it is attended");
    lab.machine.forsake();
    lab.driver().node.unwrap().take_up().await;
    assert_eq!(lab.machine.taken_up(), lab.machine.mounts());
}

#[tokio::test]
async fn nothing_waits_for_a_store_or_a_driver_that_is_away() {
    let lab = Lab::new().await;
    let id = lab.create(NAME, 0).await.unwrap().volume_id;
    lab.machine.hold(true);
    assert_eq!(code(lab.stage(&id, capability(WRITER)).await), Code::Aborted, "another node has it");
    lab.unstage(&id).await.unwrap();
    lab.machine.hold(false);
    lab.stage(&id, capability(WRITER)).await.unwrap();
    lab.store.set_down(true);
    // A live mount needs no store: neither do stage, publish and their ends.
    lab.stage(&id, capability(WRITER)).await.unwrap();
    lab.publish(&id, "a", false, WRITER).await.unwrap();
    lab.stats(&id, "a").await.unwrap();
    lab.machine.silence(true);
    assert_eq!(code(lab.stats(&id, "a").await), Code::Unavailable);
    assert_eq!(code(lab.create(NEXT, 0).await), Code::Unavailable);
    assert_eq!(code(lab.delete(&id).await), Code::Unavailable);
    assert_eq!(code(lab.expand(&id, GIB).await), Code::Unavailable);
    lab.unpublish(&id, "a").await.unwrap();
    lab.machine.drain(true);
    lab.unstage(&id).await.unwrap();
    assert_eq!(code(lab.stage(&id, capability(WRITER)).await), Code::Unavailable, "it may be anywhere");
    assert!(lab.driver().probe(ProbeRequest {}).await.unwrap().ready.unwrap(), "an outage restarts nobody");
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_by_name() {
    let lab = Lab::new().await;
    let asked = CreateVolumeRequest { name: NAME.into(), volume_capabilities: vec![capability(WRITER)], ..Default::default() };
    let with = |change: fn(&mut CreateVolumeRequest)| {
        let (mut asked, driver) = (asked.clone(), lab.driver());
        change(&mut asked);
        async move { driver.create_volume(asked).await.unwrap_err() }
    };
    let key = with(|asked| drop(asked.parameters.insert("polcy".into(), "x".into()))).await;
    assert!(key.code() == Code::InvalidArgument && key.message().contains("no parameter `polcy` (parameters: store, "), "{key}");
    assert!(with(|_| {}).await.message().contains("--extra-create-metadata"));
    let nothing = with(|asked| asked.volume_content_source = Some(VolumeContentSource::default())).await;
    assert!(nothing.code() == Code::InvalidArgument && nothing.message().contains("content_source"), "{nothing}");
    assert!(with(|asked| drop(asked.mutable_parameters.insert("a".into(), "b".into()))).await.message().contains("mutable"));
    assert!(with(|asked| asked.volume_capabilities.push(capability(Wire::MultiNodeMultiWriter))).await.message().contains("MULTI_WRITER"));
    let huge = with(|asked| {
        asked.name = "x".into();
        asked.capacity_range = Some(CapacityRange { required_bytes: i64::MAX, limit_bytes: 0 });
    });
    assert_eq!(huge.await.code(), Code::OutOfRange);
    for name in ["", "csi.holdfast.dev.", "a_b", &"a".repeat(64)] {
        assert!(Service::new(name, true, lab.driver().controller, None).is_err(), "{name}");
    }
}

#[tokio::test]
async fn capabilities_are_confirmed_for_volumes_that_are() {
    let lab = Lab::new().await;
    let id = lab.create(NAME, 0).await.unwrap().volume_id;
    let ask = |id: &str, mode, context: &str| {
        let asked = ValidateVolumeCapabilitiesRequest {
            volume_id: id.to_owned(),
            volume_capabilities: vec![capability(mode)],
            volume_context: BTreeMap::from([("identity".to_owned(), context.to_owned())]),
            ..Default::default()
        };
        let driver = lab.driver();
        async move { driver.validate_volume_capabilities(asked).await }
    };
    assert!(ask(&id, WRITER, "home/media/photos").await.unwrap().confirmed.is_some());
    let refused = [ask(&id, Wire::MultiNodeMultiWriter, "home/media/photos").await, ask(&id, WRITER, "home/media/other").await];
    assert!(refused.into_iter().all(|answer| answer.is_ok_and(|answer| answer.confirmed.is_none() && !answer.message.is_empty())));
    lab.delete(&id).await.unwrap();
    assert_eq!(code(ask(&id, WRITER, "home/media/photos").await), Code::NotFound);
}

#[tokio::test]
async fn side_by_side_each_is_done_or_told_to_come_again() {
    let lab = Arc::new(Lab::new().await);
    let id = lab.create(NAME, 0).await.unwrap().volume_id;
    lab.stage(&id, capability(WRITER)).await.unwrap();
    // One process: its locks are what is looked at.
    let driver = lab.driver();
    let calls = (0..24).map(|number: usize| {
        let (driver, id, lab) = (driver.clone(), id.clone(), Arc::clone(&lab));
        tokio::spawn(async move {
            let target_path = lab.path(["a", "b"][number % 2]);
            let asked = NodePublishVolumeRequest {
                volume_id: id.clone(),
                staging_target_path: lab.path("staging"),
                target_path: target_path.clone(),
                volume_capability: Some(capability(WRITER)),
                ..Default::default()
            };
            match number % 3 {
                0 => driver.node_unpublish_volume(NodeUnpublishVolumeRequest { volume_id: id, target_path }).await.map(drop),
                _ => driver.node_publish_volume(asked).await.map(drop),
            }
        })
    });
    for answer in futures::future::join_all(calls).await {
        assert!(answer.unwrap().map_or_else(|status| status.code() == Code::Aborted, |()| true));
    }
    for target in ["a", "b"] {
        lab.unpublish(&id, target).await.unwrap();
    }
    lab.unstage(&id).await.unwrap();
}
