//! Snapshots and clones: each request twice, in another way, of what is not there, with the volume in use, with the store away.

use super::*;
use crate::controller::Handle;
use crate::log::control::{Chain, Purging};
use crate::log::{Hint, Lookup, Reader, Site, Writer, WriterParams, data_sealer, lookup};
use crate::peer::{Answer, Answering, Desk, Wish};
use crate::rpc::csi::volume_content_source::{SnapshotSource, Type, VolumeSource};
use crate::rpc::{self, Holder};
use crate::types::{Identity, WriterId};
use crate::volume::{Restorable, RestoreParams, restore};

const CUT: &str = "snapshot-2b6c2f7e-4d0c-4c8e-9f53-0d6c8d0a1b2c";

impl Lab {
    async fn snapshot(&self, name: &str, id: &str) -> Result<Snapshot, Status> {
        let asked = CreateSnapshotRequest { source_volume_id: id.to_owned(), name: name.to_owned(), ..Default::default() };
        Ok(self.driver().create_snapshot(asked).await?.snapshot.unwrap())
    }

    async fn unsnapshot(&self, id: &str) -> Result<DeleteSnapshotResponse, Status> {
        self.driver().delete_snapshot(DeleteSnapshotRequest { snapshot_id: id.to_owned(), ..Default::default() }).await
    }

    async fn list(&self, asked: ListSnapshotsRequest) -> Result<(Vec<String>, String), Status> {
        let answer = self.driver().list_snapshots(asked).await?;
        Ok((answer.entries.into_iter().map(|entry| entry.snapshot.unwrap().snapshot_id).collect(), answer.next_token))
    }

    async fn get(&self, id: &str) -> Result<Snapshot, Status> {
        let asked = GetSnapshotRequest { snapshot_id: id.to_owned(), ..Default::default() };
        Ok(self.driver().get_snapshot(asked).await?.snapshot.unwrap())
    }

    /// Of claim `claim`, with a class's parameters beside.
    async fn claim(&self, name: &str, claim: &str, source: Option<Type>, bytes: i64, class: &[(&str, &str)]) -> Result<Volume, Status> {
        let of = [("csi.storage.k8s.io/pvc/namespace", "media"), ("csi.storage.k8s.io/pvc/name", claim)];
        let asked = CreateVolumeRequest {
            name: name.to_owned(),
            capacity_range: Some(CapacityRange { required_bytes: bytes, limit_bytes: 0 }),
            volume_capabilities: vec![capability(WRITER)],
            parameters: of.iter().chain(class).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            volume_content_source: source.map(|source| VolumeContentSource { r#type: Some(source) }),
            ..CreateVolumeRequest::default()
        };
        Ok(self.driver().create_volume(asked).await?.volume.unwrap())
    }

    async fn site(&self, volume: &str) -> Site {
        match lookup(&self.books, &Identity::parse(volume).unwrap()).await {
            Lookup::Found(found) => {
                let sealer = data_sealer(&self.books, &found.volume).await.unwrap();
                Site::new(Arc::clone(&self.books.store), self.books.env.clone(), sealer, found.incarnation)
            }
            other => panic!("{other:?}"),
        }
    }

    /// A node opens the volume.
    async fn open(&self, volume: &str, holder: Holder) -> Writer {
        let holder = Holder { host: "node-b".into(), cache_id: vec![1; 16].into(), ..holder };
        let params = WriterParams { writer: WriterId(self.books.env.random()), holder, cache: None, hint: Hint::default() };
        Writer::open(self.site(volume).await, params).await.unwrap().0
    }
}

/// One more commit of a volume that has so many bytes.
async fn commit(writer: &mut Writer, bytes: u64, full: bool) -> u64 {
    let cut_time = writer.site().env().now();
    let root = rpc::Inode { ino: 1, mode: 0o040_755, ..rpc::Inode::default() };
    let delta = Some(rpc::Delta { inodes: vec![root], next_inode: 2, next_cookie: 1, ..rpc::Delta::default() });
    let totals = Some(rpc::Totals { inodes: 1, bytes, uploaded: 0 });
    let commit = rpc::Commit { cut_time, full, delta, totals, ..rpc::Commit::default() };
    let approved = writer.nameable().approve(commit, &Default::default(), &|_| false).unwrap();
    let prepared = writer.prepare(approved).unwrap();
    writer.put(&prepared).await.unwrap().seq
}

fn of_snapshot(id: &str) -> Option<Type> {
    Some(Type::Snapshot(SnapshotSource { snapshot_id: id.to_owned() }))
}

fn of_volume(id: &str) -> Option<Type> {
    Some(Type::Volume(VolumeSource { volume_id: id.to_owned() }))
}

#[tokio::test]
async fn snapshot_of_an_unheld_volume_is_its_head_and_the_same_name_is_the_same_snapshot() {
    let lab = Lab::new().await;
    let id = lab.create(NAME, GIB).await.unwrap().volume_id;
    // Nobody wrote to it yet: the empty directory is cut.
    let empty = lab.snapshot(CUT, &id).await.unwrap();
    assert!(empty.ready_to_use && empty.size_bytes == 0 && empty.source_volume_id == id);
    assert_eq!(empty.snapshot_id, format!("main/media/photos/{CUT}"));
    assert_eq!(lab.snapshot(CUT, &id).await.unwrap(), empty, "twice");
    let mut writer = lab.open("home/media/photos", Holder::default()).await;
    commit(&mut writer, 7 << 20, true).await;
    writer.close().await.unwrap();
    assert_eq!(lab.snapshot(CUT, &id).await.unwrap(), empty, "a later state is not the same snapshot");
    let later = lab.snapshot("before", &id).await.unwrap();
    assert_eq!(later.size_bytes, 7 << 20);
    let instant = |snapshot: &Snapshot| snapshot.creation_time.map(|time| (time.seconds, time.nanos)).unwrap();
    assert!(instant(&later) > instant(&empty));
    assert_eq!(lab.get(&later.snapshot_id).await.unwrap(), later);
    for _ in 0..2 {
        lab.unsnapshot(&empty.snapshot_id).await.unwrap();
    }
    assert_eq!(code(lab.get(&empty.snapshot_id).await), Code::NotFound);
    let again = lab.snapshot(CUT, &id).await.unwrap();
    assert_eq!(again.size_bytes, 7 << 20, "its name is free again, and it is of now");
}

#[tokio::test]
async fn snapshot_s_name_is_one_source_s_and_missing_fields_are_told() {
    let lab = Lab::new().await;
    let photos = lab.create(NAME, 0).await.unwrap().volume_id;
    let other = lab.claim(NEXT, "other", None, 0, &[]).await.unwrap().volume_id;
    lab.snapshot("before", &photos).await.unwrap();
    assert_eq!(code(lab.snapshot("before", &other).await), Code::AlreadyExists, "of another volume");
    // The same volume by another claim: not the same source.
    lab.delete(&photos).await.unwrap();
    let again = lab.create("pvc-3b6c2f7e-4d0c-4c8e-9f53-0d6c8d0a1b2c", 0).await.unwrap().volume_id;
    assert_eq!(code(lab.snapshot("before", &again).await), Code::AlreadyExists);
    assert_eq!(code(lab.snapshot("new", &photos).await), Code::NotFound, "its claim is gone");
    assert_eq!(code(lab.snapshot("new", "fake-vol-id").await), Code::NotFound);
    assert_eq!(code(lab.snapshot("", &again).await), Code::InvalidArgument);
    assert_eq!(code(lab.snapshot("new", "").await), Code::InvalidArgument);
    assert_eq!(code(lab.snapshot("a\nb", &again).await), Code::InvalidArgument);
    let parameters = [("csi.storage.k8s.io/volumesnapshot/name", "x"), ("keep", "1y")];
    let asked = |parameters: &[(&str, &str)]| CreateSnapshotRequest {
        source_volume_id: again.clone(),
        name: "new".into(),
        parameters: parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..Default::default()
    };
    let refused = lab.driver().create_snapshot(asked(&parameters)).await.unwrap_err();
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("`keep`"), "{refused}");
    lab.driver().create_snapshot(asked(&parameters[..1])).await.unwrap();
    for name in ["now", "2026-11-21", &"x".repeat(128), "ä name"] {
        let made = lab.snapshot(name, &again).await.unwrap();
        assert_eq!(lab.snapshot(name, &again).await.unwrap(), made);
    }
    assert_eq!(code(lab.unsnapshot("").await), Code::InvalidArgument);
    assert_eq!(code(lab.get("").await), Code::InvalidArgument);
    assert_eq!(code(lab.get("none-exist-id").await), Code::NotFound);
    for unknown in ["none-exist-id", "main/media/never/before", "main/media/photos/never"] {
        lab.unsnapshot(unknown).await.unwrap();
    }
}

#[tokio::test]
async fn listing_has_each_snapshot_once_page_by_page() {
    let lab = Lab::new().await;
    assert_eq!(lab.list(ListSnapshotsRequest::default()).await.unwrap(), (Vec::new(), String::new()));
    let (mut all, mut sources) = (Vec::new(), Vec::new());
    for (name, claim) in [(NAME, "a"), (NEXT, "b")] {
        let id = lab.claim(name, claim, None, 0, &[]).await.unwrap().volume_id;
        for cut in ["x", "y", "z"] {
            all.push(lab.snapshot(&format!("{claim}-{cut}"), &id).await.unwrap().snapshot_id);
        }
        sources.push(id);
    }
    // Another cluster's volumes in the same bucket are never met.
    let other = Controller::new("work", Arc::new(One(lab.books.clone()))).unwrap();
    let other = Service::new(DRIVER, true, Arc::new(other), None).unwrap();
    assert!(other.clone().list_snapshots(ListSnapshotsRequest::default()).await.unwrap().entries.is_empty());
    let theirs = GetSnapshotRequest { snapshot_id: all[0].clone(), ..Default::default() };
    assert_eq!(code(other.get_snapshot(theirs).await), Code::NotFound);
    for max_entries in [0, 1, 2, 3, 4, 6, 7] {
        let (mut listed, mut starting_token) = (Vec::new(), String::new());
        loop {
            let asked = ListSnapshotsRequest { max_entries, starting_token, ..Default::default() };
            let (page, next) = lab.list(asked).await.unwrap();
            assert!(max_entries == 0 || page.len() <= usize::try_from(max_entries).unwrap());
            assert!(!page.is_empty(), "no page is empty, not even the last");
            listed.extend(page);
            starting_token = next;
            if starting_token.is_empty() {
                break;
            }
        }
        assert_eq!(listed, all, "{max_entries}");
    }
    let of = |source_volume_id: &str, snapshot_id: &str, max_entries, starting_token: &str| ListSnapshotsRequest {
        source_volume_id: source_volume_id.to_owned(),
        snapshot_id: snapshot_id.to_owned(),
        starting_token: starting_token.to_owned(),
        max_entries,
        ..Default::default()
    };
    assert_eq!(lab.list(of(&sources[1], "", 0, "")).await.unwrap().0, all[3..]);
    let (page, next) = lab.list(of(&sources[1], "", 2, "")).await.unwrap();
    assert_eq!((page, lab.list(of(&sources[1], "", 2, &next)).await.unwrap()), (all[3..5].to_vec(), (all[5..].to_vec(), String::new())));
    assert_eq!(lab.list(of("", &all[2], 0, "")).await.unwrap().0, all[2..3]);
    assert_eq!(lab.list(of(&sources[0], &all[2], 0, "")).await.unwrap().0, all[2..3]);
    for nothing in [of(&sources[1], &all[2], 0, ""), of("fake-vol-id", "", 0, ""), of("", "none-exist-id", 0, ""), of("x", &all[2], 0, "")]
    {
        assert_eq!(lab.list(nothing).await.unwrap(), (Vec::new(), String::new()));
    }
    for token in ["x", "main:home/a/b", "main:work/a/b:1", "../x:home/a/b:1"] {
        assert_eq!(code(lab.list(of("", "", 0, token)).await), Code::Aborted, "{token}");
    }
    assert_eq!(code(lab.list(of("", "", -1, "")).await), Code::InvalidArgument);
}

#[tokio::test]
async fn snapshot_that_a_person_named_is_found_by_the_id_that_a_person_writes() {
    let lab = Lab::new().await;
    let id = lab.create(NAME, 0).await.unwrap().volume_id;
    lab.snapshot(CUT, &id).await.unwrap();
    let reader = Reader::new(lab.site("home/media/photos").await);
    let naming = crate::history::snapshot::Naming { name: "by-hand", seq: 2, wanted: crate::history::snapshot::Wanted::Command };
    crate::history::snapshot::create(&reader, naming, "test", 0).await.unwrap();
    lab.delete(&id).await.unwrap();
    // A new cluster of the same name, before its claims are made.
    let found = lab.get("main/media/photos/by-hand").await.unwrap();
    assert!(found.ready_to_use && Handle::parse(&found.source_volume_id).is_some());
    let clone = lab.claim(NEXT, "photos", of_snapshot("main/media/photos/by-hand"), 0, &[]).await.unwrap();
    assert_eq!(clone.volume_context["identity"], format!("home/media/photos_{}", &NEXT[4..]));
}

#[derive(Debug)]
struct OnNode(parking_lot::Mutex<Vec<Wish>>);

impl Answering for OnNode {
    fn answer(&self) -> Answer {
        Answer::InUse
    }

    fn wished(&self, _: [u8; 16]) -> Wish {
        let mut told = self.0.lock();
        if told.len() > 1 { told.remove(0) } else { told[0] }
    }
}

#[tokio::test]
async fn volume_in_use_is_cut_by_its_holder_or_not_at_all() {
    let lab = Lab::new().await;
    let id = lab.create(NAME, 0).await.unwrap().volume_id;
    let mut writer = lab.open("home/media/photos", Holder::default()).await;
    commit(&mut writer, 1, true).await;
    let refused = lab.snapshot("before", &id).await.unwrap_err();
    assert!(refused.code() == Code::FailedPrecondition && refused.message().contains("node.peerListen"), "{refused}");
    assert_eq!(code(lab.claim(NEXT, "copy", of_volume(&id), 0, &[]).await), Code::FailedPrecondition, "nor is an older state cloned");
    writer.close().await.unwrap();
    let desk = Desk::start(([127, 0, 0, 1], 0).into()).await.unwrap();
    let told = Arc::new(OnNode(parking_lot::Mutex::new(vec![Wish::Pending(5)])));
    desk.holds(lab.site("home/media/photos").await.sealer());
    desk.asks(Arc::clone(&told) as _);
    let certificate = desk.certificate().as_bytes().to_vec().into();
    let holder = Holder { address: desk.address().to_string(), certificate, ..Holder::default() };
    let mut writer = lab.open("home/media/photos", holder).await;
    let waits = lab.snapshot("before", &id).await.unwrap_err();
    assert!(waits.code() == Code::Unavailable && waits.message().contains("5 bytes are in no commit yet"), "{waits}");
    let (partial, full) = (commit(&mut writer, 2, false).await, commit(&mut writer, 3, true).await);
    *told.0.lock() = vec![Wish::Made(partial)];
    assert_eq!(code(lab.snapshot("before", &id).await), Code::Unavailable, "a commit of some tiers alone is none");
    *told.0.lock() = vec![Wish::Pending(1), Wish::Made(full)];
    let made = lab.snapshot("before", &id).await.unwrap();
    assert_eq!(made.size_bytes, 3);
    *told.0.lock() = vec![Wish::Needless];
    assert_eq!(lab.snapshot("after", &id).await.unwrap().size_bytes, 3);
    drop(desk);
    assert_eq!(lab.snapshot("before", &id).await.unwrap(), made, "one that is there needs nobody");
    assert_eq!(code(lab.snapshot("third", &id).await), Code::Unavailable, "its holder is silent");
}

#[tokio::test]
async fn clone_is_its_own_volume_and_the_same_request_gives_the_same() {
    let lab = Lab::new().await;
    let id = lab.create(NAME, GIB).await.unwrap().volume_id;
    let mut writer = lab.open("home/media/photos", Holder::default()).await;
    commit(&mut writer, 1 << 20, true).await;
    writer.close().await.unwrap();
    let cut = lab.snapshot(CUT, &id).await.unwrap().snapshot_id;
    for (name, source) in [("pvc-4b6c2f7e-4d0c-4c8e-9f53-0d6c8d0a1b2c", of_snapshot(&cut)), (NEXT, of_volume(&id))] {
        // Under the name of a claim that has a history of its own, which is left alone.
        let clone = lab.claim(name, "photos", source.clone(), GIB, &[]).await.unwrap();
        assert_eq!(clone.content_source, source.clone().map(|of| VolumeContentSource { r#type: Some(of) }));
        assert_eq!(clone.volume_context["identity"], format!("home/media/photos_{}", &name[4..]));
        assert_eq!(lab.claim(name, "photos", source.clone(), GIB, &[]).await.unwrap(), clone, "twice");
        lab.expand(&clone.volume_id, 2 * GIB).await.unwrap();
        assert_eq!(lab.claim(name, "photos", source.clone(), GIB, &[]).await.unwrap().capacity_bytes, 2 * GIB, "after it has grown");
        let other = if matches!(source, Some(Type::Volume(_))) { of_snapshot(&cut) } else { of_volume(&id) };
        assert_eq!(code(lab.claim(name, "photos", other, GIB, &[]).await), Code::AlreadyExists);
        assert_eq!(code(lab.claim(name, "photos", None, GIB, &[]).await), Code::AlreadyExists);
        lab.stage(&clone.volume_id, capability(WRITER)).await.unwrap();
        lab.unstage(&clone.volume_id).await.unwrap();
    }
    assert_eq!(code(lab.claim(NAME, "photos", of_snapshot(&cut), GIB, &[]).await), Code::AlreadyExists, "made without a source");
    // Of what is gone the same request still gives what it made, and another gives nothing.
    lab.unsnapshot(&cut).await.unwrap();
    lab.claim("pvc-4b6c2f7e-4d0c-4c8e-9f53-0d6c8d0a1b2c", "photos", of_snapshot(&cut), GIB, &[]).await.unwrap();
    assert_eq!(code(lab.claim("pvc-5b6c2f7e-4d0c-4c8e-9f53-0d6c8d0a1b2c", "new", of_snapshot(&cut), GIB, &[]).await), Code::NotFound);
    let head = Reader::new(lab.site("home/media/photos").await).tip(Hint::default()).await.unwrap();
    assert_eq!(head.seq, 3, "the origin's log has open, commit, close, and nothing of its clones");
}

#[tokio::test]
async fn clone_of_what_cannot_be_is_refused_by_its_reason() {
    let lab = Lab::new().await;
    let id = lab.create(NAME, GIB).await.unwrap().volume_id;
    let mut writer = lab.open("home/media/photos", Holder::default()).await;
    commit(&mut writer, 1 << 20, true).await;
    writer.close().await.unwrap();
    let cut = lab.snapshot(CUT, &id).await.unwrap().snapshot_id;
    for gone in ["non-existing-snapshot-id", "main/media/photos/never", "main/media/never/x"] {
        assert_eq!(code(lab.claim(NEXT, "new", of_snapshot(gone), 0, &[]).await), Code::NotFound, "{gone}");
    }
    let never = id.replace('0', "1");
    for gone in ["fake-vol-id", &never] {
        assert_eq!(code(lab.claim(NEXT, "new", of_volume(gone), 0, &[]).await), Code::NotFound, "{gone}");
    }
    assert_eq!(code(lab.claim(NEXT, "new", of_snapshot(""), 0, &[]).await), Code::InvalidArgument);
    for source in [of_snapshot(&cut), of_volume(&id)] {
        assert_eq!(code(lab.claim(NEXT, "new", source, 1 << 10, &[]).await), Code::OutOfRange);
    }
    let elsewhere = lab.claim(NEXT, "new", of_snapshot(&cut), 0, &[("store", "second")]).await.unwrap_err();
    assert!(elsewhere.code() == Code::InvalidArgument && elsewhere.message().contains("store `main`"), "{elsewhere}");
    lab.store.set_down(true);
    for refused in [lab.claim(NEXT, "new", of_snapshot(&cut), 0, &[]).await.map(drop), lab.snapshot("x", &id).await.map(drop)] {
        assert_eq!(code(refused), Code::Unavailable, "nothing is known");
    }
    assert_eq!(code(lab.list(ListSnapshotsRequest::default()).await), Code::Unavailable, "and nothing is not an empty list");
    assert_eq!(code(lab.get(&cut).await), Code::Unavailable);
    assert_eq!(code(lab.unsnapshot(&cut).await), Code::Unavailable);
    lab.store.set_down(false);
    lab.claim(NEXT, "new", of_snapshot(&cut), 0, &[]).await.unwrap();
    assert_eq!(code(lab.claim(NEXT, "new", of_volume(&never), 0, &[]).await), Code::AlreadyExists);
}

#[tokio::test]
async fn volume_that_is_to_be_purged_stays_as_long_as_its_snapshot() {
    let lab = Lab::new().await;
    let id = lab.claim(NAME, "photos", None, 0, &[("onDelete", "purge")]).await.unwrap().volume_id;
    let cut = lab.snapshot(CUT, &id).await.unwrap().snapshot_id;
    lab.delete(&id).await.unwrap();
    let purging = || async { Chain::read(lab.site("home/media/photos").await).await.unwrap().state().purging };
    assert_eq!(purging().await, Purging::No);
    let clone = lab.claim(NEXT, "new", of_snapshot(&cut), 0, &[]).await.unwrap();
    lab.unsnapshot(&cut).await.unwrap();
    assert_eq!(purging().await, Purging::No, "its clone needs it");
    lab.stage(&clone.volume_id, capability(WRITER)).await.unwrap();
    let other = lab.claim(NAME, "other", None, 0, &[("onDelete", "purge")]).await.unwrap().volume_id;
    let cut = lab.snapshot(CUT, &other).await.unwrap().snapshot_id;
    lab.delete(&other).await.unwrap();
    lab.unsnapshot(&cut).await.unwrap();
    let begun = Chain::read(lab.site("home/media/other").await).await.unwrap().state().purging;
    assert!(matches!(begun, Purging::Begun { .. }), "with the end of the last snapshot");
}

#[tokio::test]
async fn many_at_once_make_one_snapshot_and_one_clone() {
    let lab = Arc::new(Lab::new().await);
    let id = lab.create(NAME, 0).await.unwrap().volume_id;
    // Each a process of its own.
    let cuts = (0..6).map(|_| {
        let (lab, id) = (Arc::clone(&lab), id.clone());
        tokio::spawn(async move { lab.snapshot(CUT, &id).await.unwrap() })
    });
    let cuts: Vec<Snapshot> = futures::future::join_all(cuts).await.into_iter().map(Result::unwrap).collect();
    assert!(cuts.iter().all(|cut| *cut == cuts[0]));
    assert_eq!(lab.list(ListSnapshotsRequest::default()).await.unwrap().0.len(), 1);
    let clones = (0..6).map(|_| {
        let (lab, source) = (Arc::clone(&lab), of_snapshot(&cuts[0].snapshot_id));
        tokio::spawn(async move { lab.claim(NEXT, "new", source, 0, &[]).await.unwrap().volume_id })
    });
    let clones: Vec<String> = futures::future::join_all(clones).await.into_iter().map(Result::unwrap).collect();
    assert!(clones.iter().all(|clone| *clone == clones[0]));
    // One process: its locks tell the others to come again.
    let driver = lab.driver();
    let asked = CreateSnapshotRequest { source_volume_id: id, name: "again".into(), ..Default::default() };
    let calls = (0..6).map(|_| tokio::spawn(driver.clone().create_snapshot(asked.clone())));
    for answer in futures::future::join_all(calls).await {
        assert!(answer.unwrap().map_or_else(|status| status.code() == Code::Aborted, |_| true));
    }
}

#[tokio::test]
async fn clone_that_was_made_and_not_attached_is_attached_by_the_same_request_alone() {
    let lab = Lab::new().await;
    let id = lab.create(NAME, 0).await.unwrap().volume_id;
    let cut = lab.snapshot(CUT, &id).await.unwrap().snapshot_id;
    let other = lab.claim("pvc-4b6c2f7e-4d0c-4c8e-9f53-0d6c8d0a1b2c", "other", None, 0, &[]).await.unwrap().volume_id;
    let to = format!("home/media/new_{}", &NEXT[4..]);
    // As when the driver died between the two.
    let params = RestoreParams {
        books: lab.books.clone(),
        from: Identity::parse("home/media/photos").unwrap(),
        what: Restorable::Commit(2),
        to: Identity::parse(&to).unwrap(),
        holder: Holder::default(),
    };
    let made = restore(&params, &|_| {}).await.unwrap();
    for source in [of_volume(&other), of_snapshot("main/media/photos/never")] {
        let refused = code(lab.claim(NEXT, "new", source, 0, &[]).await);
        assert!(matches!(refused, Code::AlreadyExists | Code::NotFound), "{refused:?}");
    }
    let volume = lab.claim(NEXT, "new", of_snapshot(&cut), 0, &[]).await.unwrap();
    assert_eq!(volume.volume_context["identity"], to);
    assert_eq!(lab.site(&to).await.incarnation(), made.incarnation, "and not made once more");
}
