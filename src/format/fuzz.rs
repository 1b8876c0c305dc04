//! What a fuzzer does to each decoder, as plain functions: `tests/format.rs` runs them on a corpus and on mutations of it, the
//! crate in `fuzz/` runs them for longer. Each takes any bytes. The property: no panic, no allocation by an unchecked length,
//! and what a decoder takes, the encoder writes and the decoder reads back as the same.

use super::error::FormatError;
use super::marker::Marker;
use super::seal::{Cipher, Kind, Sealer};
use super::{block, branch, checkpoint, codec, control, delta, keys, limits, message, name, names, proof, record, volume};
use crate::rpc;
use crate::types::{Hash, Identity, Incarnation, StoreId};
use bytes::Bytes;
use prost::Message;
use std::fmt::Debug;

/// A body: any bytes in, a panic when a property does not hold.
pub type Target = fn(&[u8]);

/// All of them, by the name that they have in `fuzz/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("marker", marker),
    ("object", object),
    ("frame", frame),
    ("names", object_names),
    ("key_ring", key_ring),
    ("log_record", log_record),
    ("delta", a_delta),
    ("checkpoint_index", checkpoint_index),
    ("checkpoint_part", checkpoint_part),
    ("volume_record", volume_record),
    ("name_record", name_record),
    ("control_record", control_record),
    ("block_marker", block_marker),
    ("branch", a_branch),
    ("peer", peer),
];

/// Runs the target of that name; the files in `fuzz/` call it.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(of, _)| *of == name);
    assert!(target.is_some(), "no fuzz target {name}");
    if let Some((_, target)) = target {
        target(data);
    }
}

const LIFE: Incarnation = Incarnation([0xF0; 16]);
const STORE: StoreId = StoreId([0; 16]);

fn sealer(incarnation: Option<Incarnation>) -> Sealer {
    Sealer::new(Cipher::None, &[0; 32], STORE, incarnation)
}

/// The property of every message: from plain bytes to a struct, and if it may be written, to an object and back.
fn message_of<M: Message + Default + PartialEq + Debug>(
    data: &[u8],
    name: impl FnOnce(&M) -> String,
    encode: impl FnOnce(&M, &str) -> Result<(Bytes, Hash), FormatError>,
    decode: impl FnOnce(&Bytes, &str) -> Result<M, FormatError>,
) {
    let Ok(message) = message::parse::<M>(&Bytes::copy_from_slice(data)) else { return };
    let name = name(&message);
    let Ok((bytes, hash)) = encode(&message, &name) else { return };
    assert_eq!(hash, super::seal::hash(&bytes));
    assert_eq!(decode(&bytes, &name).as_ref(), Ok(&message), "{name}");
}

fn marker(data: &[u8]) {
    if let Ok(marker) = Marker::decode(&Bytes::copy_from_slice(data)) {
        assert_eq!(Marker::decode(&marker.encode()), Ok(marker));
    }
}

/// The first byte picks the kind, the rest is a whole object.
fn object(data: &[u8]) {
    let Some((pick, rest)) = data.split_first() else { return };
    let bytes = Bytes::copy_from_slice(rest);
    let (of_volume, of_store) = (sealer(Some(LIFE)), sealer(None));
    let _ = match pick % 10 {
        0 => record::decode(&bytes, &of_volume, &names::commit(LIFE, 1)).map(drop),
        1 => checkpoint::decode_index(&bytes, &of_volume, &names::checkpoint_index(LIFE, 1)).map(drop),
        2 => control::decode(&bytes, &of_volume, &names::control(LIFE, 1)).map(drop),
        3 => block::decode(&bytes, &of_volume, &names::block(LIFE, 1)).map(drop),
        4 => branch::decode(&bytes, &of_volume, &names::branch(LIFE, 1, "head")).map(drop),
        5 => volume::decode(&bytes, &of_store, &names::volume(LIFE)).map(drop),
        6 => keys::decode(&bytes, STORE, &names::key_ring(1)).map(drop),
        7 => of_volume.open(Kind::Pack, &names::pack(LIFE, 1, [1; 16]), None, &bytes).map(drop),
        8 => {
            let name = names::checkpoint_part(LIFE, 1, [1; 16]);
            let reference = rpc::PartRef {
                name: names::relative(LIFE, &name).unwrap_or_default(),
                first_ino: 1,
                last_ino: u64::MAX,
                size: bytes.len() as u64,
                hash: Bytes::copy_from_slice(super::seal::hash(&bytes).as_bytes()),
                first_key: Bytes::new(),
            };
            checkpoint::decode_part(&bytes, &of_volume, &reference).map(drop)
        }
        _ => {
            let object =
                rpc::ObjectRef { name: "packs/0000000001-x".into(), salt: vec![0; 32].into(), epoch: 1, frames: 3, ..Default::default() };
            of_volume.open_frame(Kind::Pack, &object, 1, 4096, &bytes).map(drop)
        }
    };
}

fn frame(data: &[u8]) {
    if let Ok(plain) = codec::decompress(data, limits::EXTENT_PLAIN_MAX) {
        assert!(plain.len() <= limits::EXTENT_PLAIN_MAX);
        assert_eq!(codec::decompress(&codec::compress(&plain), plain.len()), Ok(plain));
    }
    if data.len() <= limits::EXTENT_PLAIN_MAX {
        assert_eq!(codec::decompress(&codec::compress(data), data.len()).as_deref(), Ok(data));
    }
}

fn object_names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let same = |made: Option<String>| assert!(made.is_none_or(|made| made == text), "{text:?}");
    same(names::parse_key_ring(text).map(names::key_ring));
    same(names::parse_name_record(text).map(|(identity, n)| names::name_record(&identity, n)));
    same(names::parse_commit(text).map(|(life, seq)| names::commit(life, seq)));
    same(names::parse_pack(text).map(|(life, epoch, random)| names::pack(life, epoch, random)));
    same(names::parse_checkpoint_index(text).map(|(life, seq)| names::checkpoint_index(life, seq)));
    same(names::parse_checkpoint_part(text).map(|(life, seq, random)| names::checkpoint_part(life, seq, random)));
    same(names::parse_control(text).map(|(life, n)| names::control(life, n)));
    same(names::parse_block(text).map(|(life, k)| names::block(life, k)));
    same(names::parse_branch_head(text).map(|(life, epoch, n)| names::branch_head(life, epoch, n)));
    same(names::parse_branch_pack(text).map(|(life, epoch, random)| names::branch_pack(life, epoch, random)));
    same(names::parse_branch(text).map(|(life, epoch, what)| names::branch(life, epoch, what)));
    same(names::absolute(LIFE, text).and_then(|(_, name)| names::relative(LIFE, &name)));
    if let Some((of, name)) = names::absolute(LIFE, text) {
        assert!(name.starts_with(&names::volume_prefix(of)) && !name.contains("/../"), "{name:?}");
    }
    let _ = keys::Recovery::parse(text);
}

/// As a ring's message; and as the age file in one.
fn key_ring(data: &[u8]) {
    message_of(
        data,
        |ring: &rpc::KeyRing| names::key_ring(ring.number),
        |ring, _| keys::encode(ring, STORE, [0; 32]),
        |bytes, name| keys::decode(bytes, STORE, name),
    );
    let ring = rpc::KeyRing { number: 1, age_file: Bytes::copy_from_slice(data), ..rpc::KeyRing::default() };
    assert!(keys::unwrap(&ring, STORE, &[]).is_err());
}

fn log_record(data: &[u8]) {
    let sealer = sealer(Some(LIFE));
    message_of(
        data,
        |record: &rpc::LogRecord| names::commit(LIFE, record.seq),
        |record, name| record::encode(record, &sealer, name, [0; 32]),
        |bytes, name| record::decode(bytes, &sealer, name),
    );
    if let Ok(commit) = message::parse::<rpc::Commit>(&Bytes::copy_from_slice(data)) {
        let _ = record::inline_frame(&commit.inline_frames, "a commit", 0, 4096, 0);
    }
}

fn a_delta(data: &[u8]) {
    let Ok(whole) = delta::decode_frame("a delta", &Bytes::copy_from_slice(data), 3) else { return };
    for part in delta::split(whole, 200) {
        let again = delta::decode_frame("a part", &part.encode_to_vec().into(), 3);
        assert_eq!(again, Ok(part));
    }
}

fn checkpoint_index(data: &[u8]) {
    let sealer = sealer(Some(LIFE));
    message_of(
        data,
        |index: &rpc::Checkpoint| names::checkpoint_index(LIFE, index.seq),
        |index, name| checkpoint::encode_index(index, &sealer, name, [0; 32]),
        |bytes, name| checkpoint::decode_index(bytes, &sealer, name),
    );
}

fn checkpoint_part(data: &[u8]) {
    let sealer = sealer(Some(LIFE));
    let Ok(message) = message::parse::<rpc::CheckpointPart>(&Bytes::copy_from_slice(data)) else { return };
    let part = checkpoint::PlainPart { first_ino: 1, last_ino: u64::MAX, message };
    let Ok((bytes, reference)) = checkpoint::encode_part(&part, &sealer, &names::checkpoint_part(LIFE, 1, [0; 16]), 1, [0; 32]) else {
        return;
    };
    assert_eq!(checkpoint::decode_part(&bytes, &sealer, &reference), Ok(part.message));
}

fn volume_record(data: &[u8]) {
    let sealer = sealer(None);
    message_of(
        data,
        |record: &rpc::VolumeRecord| names::volume(Incarnation::from_slice(&record.incarnation).unwrap_or(LIFE)),
        |record, name| volume::encode(record, &sealer, name, [0; 32]),
        |bytes, name| volume::decode(bytes, &sealer, name),
    );
}

fn name_record(data: &[u8]) {
    let (sealer, Ok(identity)) = (sealer(None), Identity::parse("a/b")) else { return };
    message_of(
        data,
        |record: &rpc::NameRecord| names::name_record(&identity, record.number),
        |record, name| name::encode(record, &sealer, name, [0; 32]),
        |bytes, name| name::decode(bytes, &sealer, name),
    );
}

fn control_record(data: &[u8]) {
    let sealer = sealer(Some(LIFE));
    message_of(
        data,
        |record: &rpc::ControlRecord| names::control(LIFE, record.number),
        |record, name| control::encode(record, &sealer, name, [0; 32]),
        |bytes, name| control::decode(bytes, &sealer, name),
    );
}

fn block_marker(data: &[u8]) {
    let sealer = sealer(Some(LIFE));
    message_of(
        data,
        |marker: &rpc::BlockMarker| names::block(LIFE, marker.block),
        |marker, name| block::encode(marker, &sealer, name, [0; 32]),
        |bytes, name| block::decode(bytes, &sealer, name),
    );
}

fn a_branch(data: &[u8]) {
    let sealer = sealer(Some(LIFE));
    message_of(
        data,
        |branch: &rpc::Branch| names::branch(LIFE, branch.epoch, "head"),
        |branch, name| branch::encode(branch, &sealer, name, [0; 32]),
        |bytes, name| branch::decode(bytes, &sealer, name),
    );
}

/// As a question to a holder, and as its answer: believed is what somebody made who has the key, and nothing else.
fn peer(data: &[u8]) {
    let (sealer, session, bytes) = (sealer(Some(LIFE)), [7; 32], Bytes::copy_from_slice(data));
    if let Ok(question) = rpc::HolderQuestion::decode(bytes.clone())
        && proof::is_asked(&sealer, &session, &question)
    {
        assert_eq!(question, proof::ask(&sealer, &session));
    }
    if let Ok(answer) = rpc::HolderAnswer::decode(bytes)
        && proof::is_answered(&sealer, &session, &answer)
        && let Ok(state) = answer.state.try_into()
    {
        assert_eq!(answer, proof::answer(&sealer, &session, state, answer.dirty_bytes));
    }
}
