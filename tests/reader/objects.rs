//! Opens any object of a test's store by its name, and makes the kinds of object that no world makes.

use bytes::Bytes;
use holdfast::format::seal::{Kind, Sealer};
use holdfast::format::{FormatError, block, branch, checkpoint, control, keys, name, names, record, volume};
use holdfast::rpc;
use holdfast::types::{Hash, Incarnation};
use prost::Message;
use rpc::control_record::Kind as Control;

/// The plain bytes of an object: its message in protobuf, or a pack's frames one after the other.
pub(crate) fn plain(object: &str, bytes: &Bytes, of_store: &Sealer, sealer: &Sealer) -> Result<Vec<u8>, FormatError> {
    let rest = names::parse_volume(object).map_or("", |(_, rest)| rest);
    Ok(match rest.split('/').next().unwrap_or_default() {
        "commits" => record::decode(bytes, sealer, object)?.encode_to_vec(),
        "packs" => sealer.open(Kind::Pack, object, None, bytes)?.frames.concat(),
        "checkpoints" if rest.ends_with("/index") => checkpoint::decode_index(bytes, sealer, object)?.encode_to_vec(),
        "checkpoints" => sealer.open(Kind::CheckpointPart, object, None, bytes)?.frames.concat(),
        "control" => control::decode(bytes, sealer, object)?.encode_to_vec(),
        "blocks" => block::decode(bytes, sealer, object)?.encode_to_vec(),
        "branches" => branch::decode(bytes, sealer, object)?.encode_to_vec(),
        "volume" => volume::decode(bytes, of_store, object)?.encode_to_vec(),
        _ if object.starts_with("keys/") => keys::decode(bytes, of_store.store(), object)?.encode_to_vec(),
        _ if object.starts_with("names/") => name::decode(bytes, of_store, object)?.encode_to_vec(),
        _ => bytes.to_vec(),
    })
}

/// The fuzz target that takes what [`plain`] gives for an object.
pub(crate) fn target(object: &str) -> &'static str {
    let rest = names::parse_volume(object).map_or(object, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or_default() {
        "commits" => "log_record",
        "packs" => "frame",
        "checkpoints" if rest.ends_with("/index") => "checkpoint_index",
        "checkpoints" => "checkpoint_part",
        "control" => "control_record",
        "blocks" => "block_marker",
        "branches" => "branch",
        "volume" => "volume_record",
        "keys" => "key_ring",
        "names" => "name_record",
        _ => "marker",
    }
}

fn id(byte: u8, length: usize) -> Bytes {
    vec![byte; length].into()
}

fn a_reference() -> rpc::ObjectRef {
    let name = names::relative(Incarnation([1; 16]), &names::pack(Incarnation([1; 16]), 3, [9; 16])).unwrap();
    rpc::ObjectRef { name, salt: id(5, 32), epoch: 3, frames: 4, size: 100_000, hash: id(6, 32) }
}

fn control_kinds() -> Vec<Control> {
    let to =
        rpc::FrameRef { object: Some(a_reference()), frame: 3, stored_offset: 52, stored_length: 99, plain_length: 80, checksum: u64::MAX };
    let moved = vec![rpc::Moved { seq: 7, frame: 2, to: Some(to) }];
    let claim = rpc::Claim { seq: 9, kind: "snapshot".into(), name: "nightly".into(), reason: "asked for".into(), expires: 0 };
    let retire = rpc::Retire { seqs: vec![1, 2, 300], objects: vec!["packs/0000000001-00".into()], moved, read_log_to: 400 };
    vec![
        Control::Claim(claim),
        Control::Release(rpc::Release { claim: 1 }),
        Control::Retire(retire),
        Control::Attach(rpc::Attach { claim_uid: "uid".into(), ..rpc::Attach::default() }),
        Control::Detach(rpc::Detach { claim_uid: "uid".into() }),
        Control::Purge(rpc::Purge { done: false, reason: "deleted".into() }),
        Control::Undo(rpc::Undo { number: 6 }),
        Control::Void(rpc::Void { seq: 12, reason: "rotted".into() }),
    ]
}

/// An encoder, with the sealer and so on bound to it.
type Made = Result<(Bytes, Hash), FormatError>;

/// One object of each kind that [`crate::example::example`] lacks, with the message in it.
pub(crate) fn samples(sealer: &Sealer) -> Vec<(String, Bytes, Vec<u8>)> {
    let life = sealer.incarnation().unwrap();
    let mut all = Vec::new();
    let mut add = |name: String, made: Made, message: Vec<u8>| all.push((name, made.unwrap().0, message));
    for (number, kind) in (1..).zip(control_kinds()) {
        let parent_hash = if number == 1 { Bytes::new() } else { id(2, 32) };
        let record = rpc::ControlRecord { number, parent_hash, nonce: id(3, 16), time: -1, author: "janitor".into(), kind: Some(kind) };
        let name = names::control(life, number);
        add(name.clone(), control::encode(&record, sealer, &name, [number as u8; 32]), record.encode_to_vec());
    }
    let marker = rpc::BlockMarker { block: 3, record_hashes: vec![id(1, 32), Bytes::new(), id(2, 32)] };
    let name = names::block(life, 3);
    add(name.clone(), block::encode(&marker, sealer, &name, [20; 32]), marker.encode_to_vec());
    let instant = rpc::DomainInstant { domain: rpc::Domain::Scheduled.into(), seq: 40, cut_time: i64::MIN };
    let state = rpc::Commit { full: true, domains: vec![instant], policy: "* continuous 1s".into(), ..Default::default() };
    let left = rpc::Branch { epoch: 5, base_seq: 41, base_hash: id(7, 32), state: Some(state), host: String::new() };
    let name = names::branch(life, 5, "head");
    add(name.clone(), branch::encode(&left, sealer, &name, [21; 32]), left.encode_to_vec());
    let kind = Some(rpc::log_record::Kind::Fence(rpc::Fence { reason: "purged".into() }));
    let fence = rpc::LogRecord { seq: 9000, parent_hash: id(1, 32), epoch: 6, writer: id(2, 16), nonce: id(3, 16), time: 0, kind };
    let name = names::commit(life, 9000);
    add(name.clone(), record::encode(&fence, sealer, &name, [22; 32]), fence.encode_to_vec());
    all
}
