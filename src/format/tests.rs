//! Names, seal, codec and records: what goes in comes out, and nothing else does.

use super::seal::{Cipher, Kind, Sealer};
use super::{Reason, codec, names, record};
use crate::rpc;
use crate::types::{Identity, Incarnation, StoreId};
use bytes::Bytes;

const LIFE: Incarnation = Incarnation([7; 16]);

fn sealer(cipher: Cipher) -> Sealer {
    Sealer::new(cipher, &[9; 32], StoreId([3; 16]), Some(LIFE))
}

fn a_record(seq: u64) -> rpc::LogRecord {
    rpc::LogRecord {
        seq,
        parent_hash: if seq == 1 { Bytes::new() } else { vec![1; 32].into() },
        epoch: 4,
        writer: vec![2; 16].into(),
        nonce: vec![3; 16].into(),
        time: -5,
        kind: Some(rpc::log_record::Kind::Close(rpc::Close { last_commit: seq - 1 })),
    }
}

#[test]
fn a_record_comes_back_from_its_own_name_only() {
    for cipher in [Cipher::None, Cipher::ChaCha20Poly1305] {
        let (sealer, name) = (sealer(cipher), names::commit(LIFE, 12));
        let (bytes, hash) = record::encode(&a_record(12), &sealer, &name, [5; 32]).unwrap();
        assert_eq!(hash, super::seal::hash(&bytes));
        assert_eq!(record::decode(&bytes, &sealer, &name).unwrap(), a_record(12));
        let moved = record::decode(&bytes, &sealer, &names::commit(LIFE, 13)).unwrap_err();
        assert!(matches!(moved.reason, Reason::Unauthentic { .. }), "{moved}");
        let elsewhere = Sealer::new(cipher, &[9; 32], StoreId([4; 16]), Some(LIFE));
        assert!(record::decode(&bytes, &elsewhere, &name).is_err());
    }
}

#[test]
fn every_changed_or_missing_byte_is_noticed() {
    for cipher in [Cipher::None, Cipher::ChaCha20Poly1305] {
        let (sealer, name) = (sealer(cipher), names::commit(LIFE, 12));
        let (bytes, _) = record::encode(&a_record(12), &sealer, &name, [5; 32]).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 0x40;
            assert!(record::decode(&changed.into(), &sealer, &name).is_err(), "byte {at}");
            assert!(record::decode(&bytes.slice(..at), &sealer, &name).is_err(), "cut at {at}");
        }
    }
}

#[test]
fn names_of_one_volume_are_not_those_of_another() {
    let (short, long) = (Identity::parse("a/b").unwrap(), Identity::parse("a/b/c").unwrap());
    assert!(!names::name_record(&long, 1).starts_with(&names::name_prefix(&short)));
    assert_eq!(names::parse_name_record("names/a/b/c/~00000009"), Some((long, 9)));
    assert_eq!(names::parse_name_record("names/a/b/c/~9"), None);
    assert_eq!(names::parse_commit(&names::commit(LIFE, 77)), Some((LIFE, 77)));
    let pack = names::pack(LIFE, 3, [1; 16]);
    assert_eq!(names::parse_pack(&pack), Some((LIFE, 3, [1; 16])));
    let other = Incarnation([8; 16]);
    for of in [LIFE, other] {
        let relative = names::relative(of, &pack).unwrap();
        assert_eq!(names::absolute(of, &relative), Some((LIFE, pack.clone())));
    }
    for hostile in ["", "..", "../x", "packs/../../x", "/etc", "../07070707-0707-0707-0707-070707070707/packs/x"] {
        assert_eq!(names::absolute(LIFE, hostile), None, "{hostile}");
    }
}

#[test]
fn frames_are_small_when_they_can_be() {
    let plain = vec![b'x'; 100_000];
    let frame = codec::compress(&plain);
    assert!(frame.len() < 200);
    assert_eq!(codec::decompress(&frame, plain.len()).unwrap(), plain);
    assert!(matches!(codec::decompress(&frame, plain.len() - 1), Err(Reason::Limit { .. })));
    let noise: Vec<u8> = (0..100_000u32).flat_map(|i| codec::checksum(&i.to_le_bytes()).to_le_bytes()).collect();
    let frame = codec::compress(&noise);
    assert_eq!(frame.len(), noise.len() + 1);
    assert_eq!(codec::decompress(&frame, noise.len()).unwrap(), noise);
    let sealer = sealer(Cipher::ChaCha20Poly1305);
    let name = names::pack(LIFE, 1, [2; 16]);
    let sealed = sealer.seal(Kind::Pack, &name, 1, [0; 32], &[&frame, &codec::compress(b"small")]).unwrap();
    let opened = sealer.open(Kind::Pack, &name, Some(1), &sealed.bytes).unwrap();
    assert_eq!(opened.frames, [Bytes::from(noise), Bytes::from_static(b"small")]);
    assert!(sealer.open(Kind::Pack, &name, Some(2), &sealed.bytes).is_err());
}
