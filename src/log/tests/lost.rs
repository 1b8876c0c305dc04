//! Objects that a store has lost: never a second record under their number, never an answer that does not come.

use super::*;

fn lose(bench: &Bench, name: &str) {
    assert!(bench.store.0.lock().remove(name).is_some(), "{name} was there");
}

#[test]
fn a_lost_record_is_named_and_its_number_stays_empty() {
    let bench = bench();
    let (mut writer, _) = bench.open(None).unwrap();
    while writer.head().seq < 200 {
        bench.commit(&mut writer);
    }
    for lost in [186, 197] {
        let name = bench.site.record_name(lost);
        let kept = bench.store.0.lock().get(&name).cloned().unwrap();
        lose(&bench, &name);
        let before = bench.store.0.lock().len();
        // With every hint: some find the end behind the hole, and open there.
        for hint in 0..lost {
            let params = WriterParams {
                writer: WriterId(bench.env.random()),
                holder: Holder::default(),
                cache: None,
                hint: Hint { seq: hint, open: 0 },
            };
            match block_on(Writer::open(bench.site.clone(), params)) {
                Err(LogError::Damaged { name: named, .. }) => assert_eq!(named, name, "hint {hint}"),
                Err(other) => panic!("hint {hint}: {other}"),
                Ok((writer, _)) => {
                    assert_eq!(writer.opened(), 201, "hint {hint}");
                    lose(&bench, &bench.site.record_name(201));
                }
            }
            assert_eq!(bench.store.0.lock().len(), before, "hint {hint}: nothing is put");
        }
        bench.store.0.lock().insert(name, kept);
    }
}

#[test]
fn a_lost_checkpoint_is_named_and_a_lost_record_before_the_end_too() {
    let bench = bench();
    let (mut writer, _) = bench.open(None).unwrap();
    while writer.head().seq < 5 {
        bench.commit(&mut writer);
    }
    let head = writer.head();
    let index = Checkpoint {
        seq: head.seq,
        commit_hash: Bytes::copy_from_slice(head.hash.as_bytes()),
        epoch: head.epoch,
        opens: vec![1],
        ..Checkpoint::default()
    };
    block_on(super::super::checkpoint::store(&bench.site, index)).unwrap();
    writer.name_checkpoint(head.seq);
    while writer.head().seq < 9 {
        bench.commit(&mut writer);
    }
    let reader = Reader::new(bench.site.clone());
    let tip = |hint| block_on(reader.tip(hint));
    assert_eq!(tip(Hint::default()).unwrap().checkpoint, head.seq);
    let index = names::checkpoint_index(LIFE, head.seq);
    let kept = bench.store.0.lock().get(&index).cloned().unwrap();
    lose(&bench, &index);
    assert!(matches!(tip(Hint::default()), Err(LogError::Damaged { name, .. }) if name == index));
    // The `open` of this epoch is looked for between the checkpoint and the end.
    bench.store.0.lock().insert(index, kept);
    let (mut writer, _) = bench.open(None).unwrap();
    while writer.head().seq < 20 {
        bench.commit(&mut writer);
    }
    let lost = bench.site.record_name(13);
    lose(&bench, &lost);
    let hint = Hint { seq: 19, open: 0 };
    assert!(matches!(tip(hint), Err(LogError::Damaged { name, .. }) if name == lost));
}

#[test]
fn a_log_that_ends_before_the_cache_is_an_old_one() {
    let bench = bench();
    let (mut writer, _) = bench.open(None).unwrap();
    bench.commit(&mut writer);
    let old = bench.store.0.lock().clone();
    bench.commit(&mut writer);
    let cache = || Some(CacheState { head: writer.head(), intent: None, unnamed: Vec::new() });
    let new = std::mem::replace(&mut *bench.store.0.lock(), old.clone());
    assert!(matches!(bench.open(cache()), Err(LogError::RolledBack { cache: 3, log: 2 })));
    assert_eq!(*bench.store.0.lock(), old, "nothing is put");
    *bench.store.0.lock() = new;
    bench.open(cache()).unwrap();
}
