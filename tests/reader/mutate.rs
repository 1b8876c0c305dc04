//! Runs the bodies of `format::fuzz` on the objects of a small store, on the corpus, and on mutations of both; and watches that
//! nothing allocates by a length that it has not checked.

use crate::{example, objects, scale, world};
use holdfast::format::{FormatError, Reason, fuzz, limits, record, seal::Sealer};
use holdfast::types::StoreKey;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;

/// The system's allocator, which remembers the largest request of each thread.
struct Watched;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.with(|largest| largest.set(largest.get().max(layout.size())));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.with(|largest| largest.set(largest.get().max(size)));
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn largest_during(body: impl FnOnce()) -> usize {
    LARGEST.with(|largest| largest.set(0));
    body();
    LARGEST.with(Cell::get)
}

/// Where mutations begin, by fuzz target.
fn seeds() -> BTreeMap<&'static str, Vec<Vec<u8>>> {
    let mut seeds: BTreeMap<_, Vec<_>> = fuzz::TARGETS.iter().map(|(name, _)| (*name, vec![Vec::new()])).collect();
    let world = example::example(None);
    let of_store = Sealer::new(world.sealer.cipher(), &[0; 32], world.store(), None);
    let samples = objects::samples(&world.sealer).into_iter().map(|(name, bytes, _)| (name, bytes));
    for (name, bytes) in world.objects.clone().into_iter().chain(samples) {
        let plain = objects::plain(&name, &bytes, &of_store, &world.sealer).unwrap();
        let short = plain.len().min(4096);
        seeds.get_mut(objects::target(&name)).unwrap().push(plain[..short].to_vec());
        seeds.get_mut("names").unwrap().push(name.clone().into_bytes());
        let whole = seeds.get_mut("object").unwrap();
        whole.push([[whole.len() as u8].as_slice(), &bytes[..bytes.len().min(4096)]].concat());
        if objects::target(&name) == "log_record" {
            seeds.get_mut("delta").unwrap().extend(delta_of(&plain));
        }
    }
    // A zstd frame of nothing that says it holds 8 GiB.
    let boast = [[1, 0x28, 0xB5, 0x2F, 0xFD, 0xE0].as_slice(), &(8u64 << 30).to_le_bytes(), &[1, 0, 0]].concat();
    seeds.get_mut("frame").unwrap().push(boast);
    let corpus = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus"));
    for (name, seeds) in &mut seeds {
        let Ok(files) = std::fs::read_dir(corpus.join(name)) else { continue };
        seeds.extend(files.map(|file| std::fs::read(file.unwrap().path()).unwrap()));
    }
    seeds
}

fn delta_of(record: &[u8]) -> Option<Vec<u8>> {
    let record = <holdfast::rpc::LogRecord as prost::Message>::decode(record).unwrap();
    match record.kind? {
        holdfast::rpc::log_record::Kind::Commit(commit) => commit.delta.map(|delta| prost::Message::encode_to_vec(&delta)),
        _ => None,
    }
}

fn mutate(bytes: &mut Vec<u8>, others: &[Vec<u8>], random: &mut ChaCha8Rng) {
    let mut below = |bound: usize| random.next_u64() as usize % bound.max(1);
    for _ in 0..=below(4) {
        let at = below(bytes.len() + 1);
        match below(8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, below(256) as u8),
            2 => bytes.splice(at..at, [0xFF; 9]).for_each(drop),
            3 => bytes.drain(at..bytes.len().min(at + 1 + below(16))).for_each(drop),
            4 => {
                let other = &others[below(others.len())];
                let from = below(other.len() + 1);
                let part = other[from..other.len().min(from + below(64))].to_vec();
                bytes.splice(at..at, part).for_each(drop);
            }
            5 if at < bytes.len() => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF][below(5)],
            _ if at < bytes.len() => bytes[at] ^= 1 << below(8),
            _ => {}
        }
    }
}

#[test]
fn no_decoder_panics_or_allocates_by_what_hostile_bytes_say() {
    let mut runs = 0;
    for (name, seeds) in seeds() {
        let mut random = ChaCha8Rng::seed_from_u64(name.len() as u64);
        let times = (2000.0 * scale()) as usize;
        for turn in 0..seeds.len() + times {
            let mut input = seeds[turn % seeds.len()].clone();
            if turn >= seeds.len() {
                mutate(&mut input, &seeds, &mut random);
            }
            let largest = largest_during(|| fuzz::run(name, &input));
            // A frame may say that it holds as much as a frame may hold; a message's structs are larger than its bytes.
            let most = limits::MESSAGE_PLAIN_MAX + 1024 * input.len() + (1 << 20);
            assert!(largest <= most, "{name}: {largest} bytes at once for an input of {}", input.len());
            runs += 1;
        }
    }
    println!("{runs} inputs to {} decoders", fuzz::TARGETS.len());
}

/// Hostile bytes that mutation finds late.
#[test]
fn errors_name_the_object_and_the_reason() {
    let world = example::example(None);
    let name = &world.record_names[1];
    let good = world.objects[name].clone();
    let change = |at: usize, to: &[u8]| {
        let mut bytes = good.to_vec();
        bytes[at..at + to.len()].copy_from_slice(to);
        record::decode(&bytes.into(), &world.sealer, name).unwrap_err()
    };
    let says = |error: FormatError, what: &str| {
        let text = error.to_string();
        assert!(text.starts_with(name.as_str()) && text.contains(what), "{text}");
    };
    says(change(0, b"XYZ1"), "not a Holdfast object");
    says(change(3, b"2"), "newer version");
    says(change(4, &[5]), "sealed as pack, read as log record");
    says(change(5, &[2]), "cipher 2");
    says(change(6, &[1]), "newer version");
    says(change(8, &u32::MAX.to_le_bytes()), "over the limit of 65536");
    says(change(8, &60_000u32.to_le_bytes()), "truncated");
    says(change(12, &[9]), "does not authenticate at frame 0");
    says(record::decode(&good.slice(..51), &world.sealer, name).unwrap_err(), "truncated: 52 bytes needed, 51 there");
    let other_key = Sealer::new(holdfast::format::seal::Cipher::ChaCha20Poly1305, &[1; 32], world.store(), Some(world::LIFE));
    says(record::decode(&good, &other_key, name).unwrap_err(), "sealed with cipher 1, the store's is 2");
}

#[test]
fn a_newer_store_is_refused_as_newer() {
    use holdfast::format::marker::Marker;
    use holdfast::types::FaultKind;
    let mut marker = Marker::encrypted(&StoreKey([1; 32]), 0, "a later version");
    assert_eq!(Marker::decode(&marker.encode()), Ok(marker.clone()));
    marker.feature_level += 1;
    let error = Marker::decode(&marker.encode()).unwrap_err();
    assert!(matches!(error.reason, Reason::Newer { .. }), "{error}");
    assert_eq!(error.kind(), FaultKind::TooNew);
    assert!(error.to_string().contains("feature level 2"), "{error}");
}

#[test]
fn a_key_of_another_store_is_not_believed() {
    use holdfast::format::keys::{self, Recovery};
    use holdfast::format::marker;
    let (recovery, stranger) = (Recovery::generate(), Recovery::generate());
    let recipient = |of: &Recovery| holdfast::rpc::Recipient { name: "n".into(), public_key: of.recipient(), recovery: false };
    let key = StoreKey([5; 32]);
    let ring = keys::wrap(&key, 2, vec![recipient(&recovery)]).unwrap();
    let store = marker::store_id(&key);
    assert_eq!(keys::unwrap(&ring, store, &[stranger.clone(), recovery.clone()]).unwrap(), key);
    assert!(matches!(keys::unwrap(&ring, store, &[stranger]).unwrap_err().reason, Reason::NoKey { .. }));
    let planted = keys::wrap(&StoreKey([6; 32]), 2, vec![recipient(&recovery)]).unwrap();
    let error = keys::unwrap(&planted, store, &[recovery]).unwrap_err();
    assert!(error.to_string().contains("holds the key of store"), "{error}");
    assert!(keys::wrap(&key, 1, Vec::new()).is_err());
    assert!(keys::wrap(&key, 1, vec![holdfast::rpc::Recipient { public_key: "age1x".into(), ..Default::default() }]).is_err());
}

/// Gives `cargo fuzz` something to begin with.
#[test]
#[ignore = "run by hand, when a kind of object is new"]
fn write_corpus() {
    let corpus = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus"));
    for (name, seeds) in seeds() {
        let mut seeds: Vec<Vec<u8>> = seeds.into_iter().filter(|seed| !seed.is_empty() && seed.len() < 2048).collect();
        seeds.sort_by_key(Vec::len);
        seeds.dedup();
        let every = seeds.len().div_ceil(8).max(1);
        std::fs::create_dir_all(corpus.join(name)).unwrap();
        for seed in seeds.iter().step_by(every) {
            let hash = hex::encode(&holdfast::format::seal::hash(seed).0[..8]);
            std::fs::write(corpus.join(name).join(hash), seed).unwrap();
        }
    }
}

/// Not a promise, a number to look at: what packing costs.
#[test]
#[ignore = "prints rates"]
fn rates() {
    let env = holdfast::env::Env::real();
    let text: Vec<u8> =
        b"the quick brown fox ".iter().copied().cycle().enumerate().map(|(i, b)| b ^ (i / 97 % 5) as u8).take(1 << 20).collect();
    let noise: Vec<u8> = (0..1u32 << 17).flat_map(|i| holdfast::format::codec::checksum(&i.to_le_bytes()).to_le_bytes()).collect();
    let world = world::World::new(Some((
        &StoreKey([1; 32]),
        vec![holdfast::rpc::Recipient { public_key: holdfast::format::keys::Recovery::generate().recipient(), ..Default::default() }],
    )));
    for (what, plain) in [("text", text), ("noise", noise)] {
        let begin = env.monotonic();
        let mut builder = holdfast::format::pack::Builder::default();
        (0..16).for_each(|_| assert!(builder.push(&plain).is_ok()));
        let packed_at = env.monotonic();
        let packed = builder.finish(&holdfast::format::names::pack(world::LIFE, 1, [1; 16]), 1, [0; 32], &world.sealer).unwrap();
        let sealed_at = env.monotonic();
        for (frame, info) in (0..).zip(&packed.frames) {
            let stored = &packed.bytes[info.stored_offset as usize..][..info.stored_length as usize];
            holdfast::format::pack::open_frame(&world.sealer, &packed.frame_ref(frame).unwrap(), stored).unwrap();
        }
        let done = env.monotonic();
        println!(
            "{what}: 16 MiB to {} bytes: compress {:?}, seal {:?}, open {:?}",
            packed.bytes.len(),
            packed_at - begin,
            sealed_at - packed_at,
            done - sealed_at
        );
    }
}
