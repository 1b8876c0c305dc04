//! Generated messages of `proto/volume.proto` and `proto/peer.proto`, nothing else. What they mean is said there and in `docs/format.md`.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/holdfast.v1.rs"));
