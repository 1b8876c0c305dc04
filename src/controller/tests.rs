//! Claims come and go on a store in memory: twice, out of order, side by side, after a restart, with the store away.

use super::*;
use crate::env::Env;
use crate::format::marker::Marker;
use crate::format::seal::{Cipher, Sealer};
use crate::log::{Writer, WriterParams};
use crate::rpc::{Claim, Holder};
use crate::store::{Faults, Faulty, Memory, Store};
use crate::types::WriterId;

const UID: &str = "pvc-0b6c2f7e-4d0c-4c8e-9f53-0d6c8d0a1b2c";
const NEXT: &str = "pvc-1b6c2f7e-4d0c-4c8e-9f53-0d6c8d0a1b2c";
const GIB: u64 = 1 << 30;

/// One store, and who answers for it.
#[derive(Debug)]
struct Lab {
    books: Books,
    switch: Arc<Faulty>,
}

#[async_trait]
impl Stores for Lab {
    async fn open(&self, alias: &str) -> Result<Books, Fault> {
        match alias {
            "main" => Ok(self.books.clone()),
            other => Err(Fault::new(FaultKind::Unknown, format!("there is no store {other}"))),
        }
    }

    fn aliases(&self) -> Result<Vec<String>, Fault> {
        Ok(vec!["main".to_owned()])
    }
}

async fn lab() -> Arc<Lab> {
    let env = Env::real();
    let marker = Marker::clear([7; 16], 0, "test");
    let switch = Arc::new(Faulty::new(Arc::new(Memory::new(env.clone())), Faults::default(), 1));
    switch.put_if_absent(names::marker(), marker.encode()).await.unwrap();
    let store = Arc::clone(&switch) as Arc<dyn Store>;
    Arc::new(Lab { books: Books { store, env, sealer: Sealer::new(Cipher::None, &[0; 32], marker.store, None) }, switch })
}

impl Lab {
    /// A controller that has seen nothing: each is one that was started anew.
    fn controller(self: &Arc<Self>) -> Controller {
        Controller::new("home", Arc::clone(self) as Arc<dyn Stores>).unwrap()
    }

    async fn site(&self, volume: &str) -> Site {
        match lookup(&self.books, &Identity::parse(volume).unwrap()).await {
            Lookup::Found(found) => site(&self.books, &found).await.unwrap(),
            other => panic!("{other:?}"),
        }
    }

    async fn state(&self, volume: &str) -> State {
        Chain::read(self.site(volume).await).await.unwrap().state().clone()
    }

    async fn open(&self, volume: &str) -> Writer {
        let holder = Holder { host: "node-a".into(), cache_id: vec![1; 16].into(), ..Holder::default() };
        let params = WriterParams { writer: WriterId(self.books.env.random()), holder, cache: None, hint: Hint::default() };
        Writer::open(self.site(volume).await, params).await.unwrap().0
    }
}

fn claim(uid: &str, name: &str, class: &[(&str, &str)], required: u64) -> Create {
    let of = [("csi.storage.k8s.io/pvc/namespace", "media"), ("csi.storage.k8s.io/pvc/name", name)];
    let parameters = of.iter().chain(class).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Create { name: uid.to_owned(), parameters, range: Range { required, limit: 0 }, origin: None }
}

fn kind(problem: &Problem) -> FaultKind {
    match problem {
        Problem::Fault(fault) => fault.kind,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn claim_made_again_has_the_same_volume_and_a_late_deletion_leaves_it_alone() {
    let lab = lab().await;
    let first = lab.controller().create(&claim(UID, "photos", &[], GIB)).await.unwrap();
    assert_eq!(lab.controller().create(&claim(UID, "photos", &[], GIB)).await.unwrap(), first, "twice");
    let life = lab.site("home/media/photos").await.incarnation();
    lab.controller().delete(&first.handle).await.unwrap();
    assert_eq!(lab.controller().find(&first.handle).await.unwrap(), None);
    // Smaller, with another class: still the same volume.
    let second = lab.controller().create(&claim(NEXT, "photos", &[("onDelete", "retain")], GIB / 2)).await.unwrap();
    assert_eq!(lab.site("home/media/photos").await.incarnation(), life);
    assert_ne!(first.handle, second.handle);
    lab.controller().delete(&first.handle).await.unwrap();
    assert_eq!(lab.controller().find(&second.handle).await.unwrap(), Some(second.clone()));
    assert_eq!(second.capacity, GIB / 2);
}

#[tokio::test]
async fn name_with_another_size_is_refused_and_the_same_one_after_an_expansion_is_not() {
    let lab = lab().await;
    let volume = lab.controller().create(&claim(UID, "photos", &[], GIB)).await.unwrap();
    let larger = lab.controller().create(&claim(UID, "photos", &[], 2 * GIB)).await.unwrap_err();
    assert_eq!(kind(&larger), FaultKind::Exists);
    let expand = |required, limit| {
        let (controller, handle) = (lab.controller(), volume.handle.clone());
        async move { controller.expand(&handle, Range { required, limit }).await }
    };
    assert_eq!(expand(2 * GIB, 0).await.unwrap(), 2 * GIB);
    assert_eq!(expand(2 * GIB, 0).await.unwrap(), 2 * GIB, "twice");
    assert_eq!(expand(GIB, 0).await.unwrap(), 2 * GIB, "late: never smaller");
    assert!(matches!(expand(GIB, GIB).await, Err(Problem::OutOfRange(_))));
    assert!(matches!(expand(CAPACITY_MAX + 1, 0).await, Err(Problem::OutOfRange(_))));
    assert_eq!(lab.controller().create(&claim(UID, "photos", &[], GIB)).await.unwrap().capacity, 2 * GIB);
    lab.controller().delete(&volume.handle).await.unwrap();
    assert_eq!(kind(&expand(3 * GIB, 0).await.unwrap_err()), FaultKind::NotFound);
    let both = Create { range: Range { required: 2, limit: 1 }, ..claim(NEXT, "x", &[], 0) };
    assert!(matches!(lab.controller().create(&both).await, Err(Problem::OutOfRange(_))));
}

#[tokio::test]
async fn store_that_does_not_answer_is_never_an_absent_volume() {
    let lab = lab().await;
    let volume = lab.controller().create(&claim(UID, "photos", &[], 0)).await.unwrap();
    lab.switch.set_down(true);
    let controller = lab.controller();
    assert_eq!(kind(&controller.create(&claim(NEXT, "photos", &[], 0)).await.unwrap_err()), FaultKind::Unknown);
    assert_eq!(kind(&controller.create(&claim(NEXT, "other", &[], 0)).await.unwrap_err()), FaultKind::Unknown);
    assert_eq!(kind(&controller.delete(&volume.handle).await.unwrap_err()), FaultKind::Unknown);
    assert_eq!(controller.find(&volume.handle).await.unwrap_err().kind, FaultKind::Unknown);
    lab.switch.set_down(false);
    assert_eq!(lab.state("home/media/photos").await.attached.len(), 1, "nothing was decided");
    assert!(matches!(lookup(&lab.books, &Identity::parse("home/media/other").unwrap()).await, Lookup::Absent(_)));
    controller.delete(&volume.handle).await.unwrap();
    let elsewhere = controller.create(&claim(NEXT, "photos", &[("store", "second")], 0)).await.unwrap_err();
    assert_eq!(kind(&elsewhere), FaultKind::Unknown, "a Secret that comes later");
}

#[tokio::test]
async fn many_controllers_at_once_make_one_volume() {
    let lab = lab().await;
    let volumes = (0..8).map(|_| {
        let lab = Arc::clone(&lab);
        tokio::spawn(async move { lab.controller().create(&claim(UID, "photos", &[], GIB)).await.unwrap().handle })
    });
    let handles: Vec<Handle> = futures::future::join_all(volumes).await.into_iter().map(Result::unwrap).collect();
    assert!(handles.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(lab.state("home/media/photos").await.attached.len(), 1);
    let controller = lab.controller();
    let locked = controller.locks.lock(&handles[0].to_string()).unwrap();
    assert_eq!(kind(&controller.create(&claim(UID, "photos", &[], GIB)).await.unwrap_err()), FaultKind::Busy, "one at a time");
    drop(locked);
    let deleted = (0..4).map(|_| lab.controller()).map(|controller| {
        let handle = handles[0].clone();
        tokio::spawn(async move { controller.delete(&handle).await })
    });
    futures::future::join_all(deleted).await.into_iter().for_each(|deleted| deleted.unwrap().unwrap());
    assert!(lab.state("home/media/photos").await.attached.is_empty());
}

#[tokio::test]
async fn purge_begins_with_the_last_claim_alone_and_a_new_claim_ends_it() {
    let lab = lab().await;
    let class = [("onDelete", "purge")];
    let first = lab.controller().create(&claim(UID, "photos", &class, 0)).await.unwrap();
    let second = lab.controller().create(&claim(NEXT, "photos", &class, 0)).await.unwrap();
    let purging = || async { lab.state("home/media/photos").await.purging };
    lab.controller().delete(&first.handle).await.unwrap();
    assert_eq!(purging().await, Purging::No, "another claim is attached");
    let mut writer = lab.open("home/media/photos").await;
    let held = lab.controller().delete(&second.handle).await.unwrap_err();
    assert!(matches!(&held, Problem::Precondition(why) if why.contains("node-a")), "{held:?}");
    writer.close().await.unwrap();
    // Deleted already; what the claim asked for is still known.
    lab.controller().delete(&second.handle).await.unwrap();
    assert!(matches!(purging().await, Purging::Begun { .. }));
    lab.controller().delete(&second.handle).await.unwrap();
    lab.controller().create(&claim(UID, "photos", &[], 0)).await.unwrap();
    assert_eq!(purging().await, Purging::No, "undone by the claim that came back");
    lab.controller().delete(&first.handle).await.unwrap();
    assert_eq!(purging().await, Purging::No, "its class says retain now");
}

#[tokio::test]
async fn what_needs_the_volume_holds_its_purge_up_and_after_the_end_comes_a_new_life() {
    let lab = lab().await;
    let class = [("onDelete", "purge")];
    let volume = lab.controller().create(&claim(UID, "photos", &class, 0)).await.unwrap();
    let site = lab.site("home/media/photos").await;
    let mut chain = Chain::read(site.clone()).await.unwrap();
    let snapshot = Claim { seq: 1, kind: "snapshot".into(), name: "before".into(), ..Claim::default() };
    let number = chain.append("test", 0, &|_| Ok(Control::Claim(snapshot.clone()))).await.unwrap();
    lab.controller().delete(&volume.handle).await.unwrap();
    assert_eq!(lab.state("home/media/photos").await.purging, Purging::No, "the snapshot outlives the claim");
    chain.append("test", 0, &|_| Ok(Control::Release(crate::rpc::Release { claim: number }))).await.unwrap();
    lab.controller().delete(&volume.handle).await.unwrap();
    let reader = Reader::new(site.clone());
    history::end(&reader, "test", lab.books.env.now(), 0).await.unwrap();
    lab.controller().delete(&volume.handle).await.unwrap();
    let again = lab.controller().create(&claim(NEXT, "photos", &[], 0)).await.unwrap();
    assert_eq!(again.identity, volume.identity);
    assert_ne!(lab.site("home/media/photos").await.incarnation(), site.incarnation());
    lab.controller().delete(&volume.handle).await.unwrap();
    assert_eq!(lab.state("home/media/photos").await.attached.len(), 1, "the old claim is not of this life");
}

#[tokio::test]
async fn handle_nobody_made_and_damage_are_told_apart() {
    let lab = lab().await;
    let stranger = Handle::new("main", &Identity::parse("home/media/never").unwrap(), UID);
    lab.controller().delete(&stranger).await.unwrap();
    assert_eq!(lab.controller().find(&stranger).await.unwrap(), None);
    let volume = lab.controller().create(&claim(UID, "photos", &[], 0)).await.unwrap();
    let record = names::volume(lab.site("home/media/photos").await.incarnation());
    assert!(lab.books.store.delete(&record).await.is_ok());
    let damaged = lab.controller().create(&claim(NEXT, "photos", &[], 0)).await.unwrap_err();
    assert_eq!(kind(&damaged), FaultKind::Damaged);
    assert_eq!(kind(&lab.controller().delete(&volume.handle).await.unwrap_err()), FaultKind::Damaged);
}
