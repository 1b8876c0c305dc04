//! Generated messages of `proto/volume.proto`, `proto/peer.proto` and (in [`csi`]) `proto/csi.proto`, nothing else. What they mean is said
//! there and in `docs/format.md`.
#![allow(missing_docs, rustdoc::all, clippy::all, clippy::pedantic)]

include!(concat!(env!("OUT_DIR"), "/holdfast.v1.rs"));

/// The Container Storage Interface.
pub mod csi {
    include!(concat!(env!("OUT_DIR"), "/csi.v1.rs"));
}
