//! How many requests things take, counted on a log of 100,000 records.

use super::bugs::Bug;
use super::engine::{Kit, commit_of, init};
use super::exec::Sim;
use super::oracle::Oracle;
use super::store::{Counts, Faults, World};
use bytes::Bytes;
use holdfast::format::{checkpoint, names, record};
use holdfast::log::{Hint, Reader, Writer, WriterParams};
use holdfast::rpc::log_record::Kind;
use holdfast::rpc::{Checkpoint, Commit, Holder, LogRecord, Open};
use holdfast::types::{Hash, Incarnation, Seq, WriterId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

const RECORDS: Seq = 100_000;
const LIFE: Incarnation = Incarnation([3; 16]);
const CHECKPOINT_EVERY: Seq = 500;

fn kit() -> Kit {
    let sim = Sim::new(1, false);
    let oracle = Arc::new(Mutex::new(Oracle::new(Kit::store_sealer())));
    let world = World::new(sim, Faults { latency_max: 2, ..Faults::default() }, oracle);
    init(&world);
    Kit::new(&world, 1, 0, 1024, Bug::None)
}

/// A log with a new epoch every 10,000 records, and a checkpoint every 500.
fn log() -> Vec<(String, Bytes)> {
    let site = kit().site_of(LIFE, &[9; 32]);
    let mut objects = Vec::new();
    let (mut parent, mut epoch, mut opens) = (Bytes::new(), 0, Vec::new());
    for seq in 1..=RECORDS {
        let checkpoint = (seq - 1) / CHECKPOINT_EVERY * CHECKPOINT_EVERY;
        let kind = if seq % 10_000 == 1 {
            epoch += 1;
            opens.push(seq);
            Kind::Open(Open { previous_epoch: epoch - 1, checkpoint, ..Open::default() })
        } else {
            Kind::Commit(Commit { checkpoint, ..commit_of(&BTreeMap::new(), "").commit })
        };
        let (writer, nonce) = (vec![epoch as u8; 16].into(), seq.to_le_bytes().repeat(2).into());
        let message = LogRecord { seq, parent_hash: parent, epoch, writer, nonce, time: 0, kind: Some(kind) };
        let name = site.record_name(seq);
        let (bytes, hash) = record::encode(&message, site.sealer(), &name, [seq as u8; 32]).unwrap();
        objects.push((name, bytes));
        parent = hash.0.to_vec().into();
        if seq % CHECKPOINT_EVERY == 0 {
            let index = Checkpoint { seq, commit_hash: parent.clone(), epoch, opens: opens.clone(), ..Checkpoint::default() };
            let name = names::checkpoint_index(LIFE, seq);
            let (bytes, _) = checkpoint::encode_index(&index, site.sealer(), &name, [1; 32]).unwrap();
            objects.push((name, bytes));
        }
    }
    objects
}

fn measure(log: &[(String, Bytes)], hint: Hint, write: bool) -> Counts {
    let kit = kit();
    for (name, bytes) in log {
        kit.world.plant(name, bytes.clone());
    }
    let done = Arc::new(Mutex::new(None));
    let (result, task) = (Arc::clone(&done), kit.clone());
    kit.sim.spawn(1, async move {
        let site = task.site_of(LIFE, &[9; 32]);
        let found = if write {
            // The planted log is nothing that the oracle saw grow: only requests are counted here.
            let params = WriterParams { writer: WriterId([1; 16]), holder: Holder::default(), cache: None, hint };
            Writer::open(site, params).await.map(|(_, report)| report.before)
        } else {
            Reader::new(site).tip(hint).await
        };
        *result.lock() = Some(found);
    });
    kit.sim.run(100_000);
    let tip = done.lock().take();
    if !write {
        let tip = tip.expect("it ends").expect("it finds the end");
        assert_eq!((tip.seq, tip.epoch, tip.open.map(|open| open.seq)), (RECORDS, 10, Some(90_001)));
        assert_eq!(tip.checkpoint, RECORDS - CHECKPOINT_EVERY);
        assert_ne!(tip.hash, Hash([0; 32]));
    }
    kit.world.counts(1)
}

/// I19: opening reads a bounded number of objects after 100,000 records, with no hint, a good one, and a wrong one; and lists nothing.
#[test]
fn opening_reads_a_bounded_number_of_objects() {
    let log = log();
    let nothing = measure(&log, Hint::default(), false);
    let good = measure(&log, Hint { seq: RECORDS - 3, open: 90_001 }, false);
    let wrong = measure(&log, Hint { seq: 40_000_000, open: 7 }, false);
    println!("requests to find the end of {RECORDS} records: no hint {nothing:?}, good hint {good:?}, wrong hint {wrong:?}");
    for (counts, most) in [(&nothing, 80), (&good, 20), (&wrong, 90)] {
        assert_eq!((counts.list, counts.put, counts.delete), (0, 0, 0));
        assert!(counts.all() <= most, "{counts:?}, at most {most}");
    }
    let opened = measure(&log, Hint::default(), true);
    // And four HEADs behind its own number: a record that is lost there is no end of the log.
    assert!(opened.all() <= nothing.all() + 8 && opened.put == 1, "{opened:?}");
}
