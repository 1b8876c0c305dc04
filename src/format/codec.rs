//! The content of a frame: compressed where that helps.
//!
//! ```text
//! frame = codec u8 (0 raw | 1 zstd) | data
//!         0: the plain bytes        1: one zstd frame that states its content size
//! ```

use super::error::Reason;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};
use zstd::zstd_safe;

const RAW: u8 = 0;
const ZSTD: u8 = 1;
/// Level 1: the writer's CPU is shared with the application, and level 3 saves few bytes more.
const LEVEL: i32 = 1;

/// XXH3-64 of plain bytes: what an extent's checksum is.
#[must_use]
pub fn checksum(plain: &[u8]) -> u64 {
    xxh3_64(plain)
}

/// Tells contents of one cache apart (XXH3-128 under a seed of that cache): only to find again what was uploaded, never stored.
#[must_use]
pub fn fingerprint(seed: u64, plain: &[u8]) -> u128 {
    xxh3_128_with_seed(plain, seed)
}

/// Codec byte and data: zstd where it saves at least 1/16, else as it is.
#[must_use]
pub fn compress(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + plain.len());
    Compressor::default().append(plain, &mut out);
    out
}

/// Compresses frame after frame with one context.
#[derive(Default)]
pub(crate) struct Compressor {
    context: Option<zstd::bulk::Compressor<'static>>,
}

impl Compressor {
    /// Appends codec byte and data of `plain` to `out`.
    pub(crate) fn append(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        // A block that must not grow beyond this never pays for a whole bad attempt: zstd stops when the room is used up.
        let room = plain.len() - plain.len().div_ceil(16);
        if plain.len() >= 64 && self.context.is_none() {
            self.context = zstd::bulk::Compressor::new(LEVEL).ok();
        }
        if plain.len() >= 64
            && let Some(context) = &mut self.context
        {
            out.resize(start + 1 + room, ZSTD);
            if let Ok(written) = context.compress_to_buffer(plain, &mut out[start + 1..]) {
                out.truncate(start + 1 + written);
                return;
            }
            out.truncate(start);
        }
        out.push(RAW);
        out.extend_from_slice(plain);
    }
}

/// The plain bytes of a frame, at most `plain_max` of them.
///
/// # Errors
/// An unknown codec, a zstd frame that is damaged, or one larger than `plain_max`.
pub fn decompress(frame: &[u8], plain_max: usize) -> Result<Vec<u8>, Reason> {
    let (&codec, data) = frame.split_first().ok_or(Reason::Truncated { need: 1, have: 0 })?;
    let over = |length: u64| Reason::Limit { what: "plain length of a frame", length, max: plain_max as u64 };
    match codec {
        RAW if data.len() > plain_max => Err(over(data.len() as u64)),
        RAW => Ok(data.to_vec()),
        ZSTD => {
            let length =
                zstd_safe::get_frame_content_size(data).ok().flatten().ok_or_else(|| Reason::invalid("a zstd frame without its size"))?;
            if length > plain_max as u64 {
                return Err(over(length));
            }
            let plain = zstd::bulk::decompress(data, length as usize).map_err(|why| Reason::invalid(format!("zstd: {why}")))?;
            if plain.len() as u64 != length {
                return Err(Reason::invalid("a zstd frame of another length than it states"));
            }
            Ok(plain)
        }
        other => Err(Reason::newer(format!("codec {other}"))),
    }
}
