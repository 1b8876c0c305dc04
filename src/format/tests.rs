//! Names, seal, codec and records: what goes in comes out, and nothing else does.

use super::marker::Marker;
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

#[test]
fn of_a_message_in_many_frames_none_is_opened() {
    let clear = sealer(Cipher::None);
    let name = names::key_ring(1);
    // Opened, the first would say that its codec is not known: 65,536 of them could take 256 GiB.
    let sealed = clear.seal(Kind::KeyRing, &name, 0, [0; 32], &[b"\x09x", b"\x09y"]).unwrap();
    let refused = super::message::decode::<rpc::KeyRing>(&sealed.bytes, &clear, Kind::KeyRing, &name).unwrap_err().to_string();
    assert!(refused.contains("2 frames where one message is expected"), "{refused}");
}

/// A delta with one of everything, which breaks no rule.
fn a_delta() -> rpc::Delta {
    let name = names::relative(LIFE, &names::pack(LIFE, 4, [1; 16])).unwrap();
    let object = rpc::ObjectRef { name, salt: vec![1; 32].into(), epoch: 4, frames: 2, size: 5000, hash: vec![2; 32].into() };
    let xattr = |name: &'static str| rpc::Xattr { name: name.into(), value: Bytes::new() };
    let file = rpc::Inode { ino: 9, mode: 0o100_644, size: 8192, xattrs: vec![xattr("user.a"), xattr("user.b")], ..Default::default() };
    let extent = |offset, frame| rpc::Extent {
        offset,
        length: 4096,
        object: 1,
        frame,
        stored_offset: 52,
        stored_length: 4000,
        plain_length: 5000,
        skip: 904,
        checksum: 7,
        inline_seq: 0,
    };
    rpc::Delta {
        objects: vec![object],
        removed_names: vec![rpc::NameRef { dir: 1, name: "old".into() }],
        removed_inodes: vec![8],
        inodes: vec![file, rpc::Inode { ino: 10, mode: 0o120_777, target: "a/b".into(), size: 3, ..Default::default() }],
        names: vec![rpc::Name { dir: 1, name: "new".into(), ino: 9, cookie: 3 }],
        extents: vec![rpc::ExtentChange {
            ino: 9,
            cleared: vec![rpc::Range { offset: 0, length: 1 }],
            extents: vec![extent(0, 0), extent(4096, 1)],
        }],
        next_inode: 11,
        next_cookie: 4,
    }
}

/// One change to a delta that nobody may write, and what the refusal says.
type Breach = (fn(&mut rpc::Delta), &'static str);

const BREACHES: &[Breach] = &[
    (|d| d.names[0].name = "".into(), "an empty name"),
    (|d| d.names[0].name = "a/b".into(), "a name with `/` or NUL: `a/b`"),
    (|d| d.names[0].name = "a\0b".into(), "NUL"),
    (|d| d.names[0].name = "..".into(), "the name `..`"),
    (|d| d.names[0].name = vec![b'x'; 256].into(), "name of 256 is over the limit of 255"),
    (|d| d.names[0].ino = 0, "inode number 0"),
    (|d| d.names[0].dir = 1 << 63, "inode number 9223372036854775808"),
    (|d| d.names[0].ino = 1, "a name in directory 1 for directory 1"),
    (|d| d.removed_names[0].name = "a/".into(), "a name with `/`"),
    (|d| d.removed_inodes[0] = 1, "the root is removed"),
    (|d| d.inodes[0].mode = 0o644, "inode 9 of mode 644"),
    (|d| d.inodes[0].size = (16 << 40) + 1, "file size"),
    (|d| d.inodes[0].ino = 1, "a root that is no directory"),
    (|d| d.inodes[0].target = "x".into(), "is no symbolic link"),
    (|d| d.inodes[1].target = "".into(), "without a target"),
    (|d| d.inodes[1].target = vec![b'x'; 4096].into(), "target of 4096"),
    (|d| d.inodes[0].xattrs.reverse(), "not sorted"),
    (|d| d.inodes[0].xattrs[0].value = vec![0; 65_537].into(), "xattr value"),
    (|d| d.inodes[0].size = 8191, "ends above 8191"),
    (|d| d.extents[0].extents[1].offset = 4095, "extent 4095+4096 is empty, overlaps"),
    (|d| d.extents[0].extents[0].length = 0, "extent 0+0 is empty"),
    (|d| d.extents[0].extents[1].offset = u64::MAX, "extent 18446744073709551615+4096"),
    (|d| d.extents[0].extents[0].skip = 905, "not within its frame"),
    (|d| d.extents[0].extents[0].plain_length = (1 << 20) + 1, "plain length"),
    (|d| d.extents[0].extents[0].object = 2, "object 2 of 1"),
    (|d| d.extents[0].extents[0].frame = 2, "frame 2 at 52+4000 is not within"),
    (|d| d.extents[0].extents[0].stored_offset = 1001, "frame 0 at 1001+4000 is not within"),
    (|d| d.extents[0].extents[0].stored_offset = u64::MAX, "is not within"),
    (|d| d.extents[0].extents[0].object = 0, "inline frame 0 of 0"),
    (|d| d.extents[0].cleared[0].length = u64::MAX, "cleared range"),
    (|d| d.extents.push(d.extents[0].clone()), "is changed twice"),
    (|d| d.objects[0].name = "../../x".into(), "names no object"),
    (|d| d.objects[0].name = "packs/../../x".into(), "names no object"),
    (|d| d.objects[0].salt = vec![1; 31].into(), "salt of 31 bytes, not 32"),
    (|d| d.objects[0].size = 1 << 40, "pack of 1099511627776 is over the limit"),
];

#[test]
fn a_delta_that_breaks_a_rule_is_neither_written_nor_read() {
    use prost::Message;
    let (sealer, name) = (sealer(Cipher::None), names::commit(LIFE, 12));
    let record = |delta| {
        let kind = rpc::log_record::Kind::Commit(rpc::Commit { delta: Some(delta), ..Default::default() });
        rpc::LogRecord { kind: Some(kind), ..a_record(12) }
    };
    let good = record(a_delta());
    let (bytes, _) = record::encode(&good, &sealer, &name, [5; 32]).unwrap();
    assert_eq!(record::decode(&bytes, &sealer, &name).unwrap(), good);
    for (number, (breach, says)) in BREACHES.iter().enumerate() {
        let mut delta = a_delta();
        breach(&mut delta);
        let bad = record(delta);
        let refused = record::encode(&bad, &sealer, &name, [5; 32]).unwrap_err().to_string();
        assert!(refused.starts_with(&name) && refused.contains(says), "{number}: {refused}");
        let hostile = sealer.seal(Kind::LogRecord, &name, 4, [5; 32], &[&codec::compress(&bad.encode_to_vec())]).unwrap();
        assert_eq!(record::decode(&hostile.bytes, &sealer, &name).unwrap_err().to_string(), refused);
    }
}

#[test]
fn a_kind_of_record_from_the_future_is_newer_and_not_damaged() {
    let (sealer, name) = (sealer(Cipher::None), names::commit(LIFE, 12));
    let future = rpc::LogRecord { kind: None, ..a_record(12) };
    let plain = prost::Message::encode_to_vec(&future);
    let sealed = sealer.seal(Kind::LogRecord, &name, 4, [5; 32], &[&codec::compress(&plain)]).unwrap();
    let error = record::decode(&sealed.bytes, &sealer, &name).unwrap_err();
    assert_eq!(error.kind(), crate::types::FaultKind::TooNew, "{error}");
    let codec_2 = sealer.seal(Kind::LogRecord, &name, 4, [5; 32], &[&[2, 0, 0]]).unwrap();
    assert!(matches!(record::decode(&codec_2.bytes, &sealer, &name).unwrap_err().reason, Reason::Newer { .. }));
}

#[test]
fn single_writer_is_known_and_any_other_feature_is_not() {
    let marker = Marker { single_writer: true, ..Marker::clear([7; 16], 1, "test") };
    assert_eq!(Marker::decode(&marker.encode()).unwrap(), marker);
    let plain = Marker { single_writer: false, ..marker.clone() };
    assert_eq!(Marker::decode(&plain.encode()).unwrap(), plain);
    // Another feature of the same length, its checksum made right.
    let mut bytes = marker.encode().to_vec();
    let at = bytes.windows(13).position(|window| window == b"single-writer").unwrap();
    bytes[at..at + 13].copy_from_slice(b"double-writer");
    let sum = codec::checksum(&bytes[12..]).to_le_bytes();
    bytes[4..12].copy_from_slice(&sum);
    assert_eq!(Marker::decode(&bytes.into()).unwrap_err().kind(), crate::types::FaultKind::TooNew);
}
