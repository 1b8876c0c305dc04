//! Which bytes to ask the store for: frames wanted, put into few ranged requests. Pure.

use std::ops::Range;
use std::time::Duration;

/// Frames whose stored bytes are at most this far apart are asked for together: a request costs more than these bytes.
pub(super) const GAP_BYTES_MAX: u64 = 128 << 10;
/// A request of a read asks for at most this many stored bytes.
pub(super) const REQUEST_BYTES_MAX: u64 = 8 << 20;

/// The piece of a pack that is fetched around small ranges.
pub(super) const BLOCK_BYTES: u64 = 1 << 20;
/// A range counts as small up to this: it is read for a small file, not for a large one that has its own read-ahead.
const SMALL_BYTES_MAX: u64 = BLOCK_BYTES / 8;

/// The block of an object of `size` bytes around a small range: from a multiple of [`BLOCK_BYTES`] to the next one, or to the end of the range
/// where that is further. `None`: the range is not small, or not in the object.
pub(super) fn block_of(range: &Range<u64>, size: u64) -> Option<Range<u64>> {
    if range.start >= range.end || range.end - range.start > SMALL_BYTES_MAX || range.end > size {
        return None;
    }
    let start = range.start - range.start % BLOCK_BYTES;
    Some(start..(start + BLOCK_BYTES).max(range.end).min(size))
}

/// One frame of one object, by where its bytes are stored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Frame<O> {
    /// The object.
    pub(super) object: O,
    /// Offset of the stored frame in it.
    pub(super) offset: u64,
    /// Stored length.
    pub(super) length: u32,
}

/// One ranged request and the frames that its answer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request<O> {
    /// The object.
    pub(super) object: O,
    /// Stored bytes to ask for.
    pub(super) range: Range<u64>,
    /// Indexes into the wanted frames, in order of their offset.
    pub(super) frames: Vec<usize>,
}

/// Puts wanted frames into requests of at most `bytes_max` stored bytes (one frame may be larger). Every frame is in exactly one; requests are in order of object and offset.
#[must_use]
pub(super) fn requests<O: Clone + Ord>(wanted: &[Frame<O>], bytes_max: u64) -> Vec<Request<O>> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].cmp(&wanted[*b]));
    let mut requests: Vec<Request<O>> = Vec::new();
    for index in order {
        let frame = &wanted[index];
        let end = frame.offset + u64::from(frame.length);
        if let Some(last) = requests.last_mut()
            && last.object == frame.object
            && frame.offset <= last.range.end + GAP_BYTES_MAX
            && end.max(last.range.end) - last.range.start <= bytes_max
        {
            last.range.end = last.range.end.max(end);
            last.frames.push(index);
            continue;
        }
        requests.push(Request { object: frame.object.clone(), range: frame.offset..end, frames: vec![index] });
    }
    requests
}

/// How far to read ahead: doubles while the reader goes on where the last fetch ended and the store keeps up with it, else starts small.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadAhead {
    expected: u64,
    window: u64,
    /// What arrives soon enough for somebody who waits.
    most: u64,
}

impl Default for ReadAhead {
    fn default() -> Self {
        Self { expected: 0, window: 0, most: Self::MOST }
    }
}

impl ReadAhead {
    const FIRST: u64 = 256 << 10;
    const MOST: u64 = 8 << 20;
    /// A fetch that took longer was too large for the line.
    const SLOW: Duration = Duration::from_secs(2);

    /// The last range that [`Self::widen`] gave took so long. One that failed is not made larger than what is asked for next.
    pub(super) fn arrived(&mut self, took: Duration, ok: bool) {
        self.most = match ok {
            false => 0,
            true if took > Self::SLOW => self.window / 4,
            true => (self.most * 2).clamp(Self::FIRST, Self::MOST),
        };
    }

    /// The range to fetch for a read of `range` in a file of `size` bytes.
    pub(super) fn widen(&mut self, range: Range<u64>, size: u64) -> Range<u64> {
        let sequential = range.start <= self.expected && range.end + Self::MOST > self.expected && self.expected != 0;
        let window = if sequential { (self.window * 2).clamp(Self::FIRST, Self::MOST) } else { Self::FIRST };
        self.window = window.min(self.most);
        let end = range.end.max((range.start + self.window).min(size));
        self.expected = end;
        range.start..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_frame_is_asked_for_once(frames in proptest::collection::vec((0u8..3, 0u64..(40 << 20), 1u32..(300 << 10)), 0..60)) {
            let wanted: Vec<Frame<u8>> = frames.into_iter().map(|(object, offset, length)| Frame { object, offset, length }).collect();
            let requests = requests(&wanted, REQUEST_BYTES_MAX);
            let mut seen: Vec<usize> = requests.iter().flat_map(|r| r.frames.clone()).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..wanted.len()).collect::<Vec<_>>());
            for request in &requests {
                prop_assert!(request.range.end - request.range.start <= REQUEST_BYTES_MAX || request.frames.len() == 1);
                for index in &request.frames {
                    let frame = &wanted[*index];
                    prop_assert_eq!(frame.object, request.object);
                    prop_assert!(request.range.start <= frame.offset && frame.offset + u64::from(frame.length) <= request.range.end);
                }
            }
        }
    }

    #[test]
    fn neighbours_are_asked_for_together_and_strangers_are_not() {
        let frame = |object, offset, length| Frame { object, offset, length };
        let got = requests(&[frame(1, 0, 10), frame(1, 10, 10), frame(1, 1 << 20, 10), frame(2, 20, 10)], REQUEST_BYTES_MAX);
        let ranges: Vec<_> = got.iter().map(|r| (r.object, r.range.clone())).collect();
        assert_eq!(ranges, [(1, 0..20), (1, 1 << 20..(1 << 20) + 10), (2, 20..30)]);
    }

    #[test]
    fn a_block_holds_its_range_and_ends_with_the_object() {
        let block = BLOCK_BYTES;
        assert_eq!(block_of(&(5..10), 3 * block), Some(0..block));
        assert_eq!(block_of(&(block + 5..block + 10), block + 20), Some(block..block + 20));
        assert_eq!(block_of(&(block - 5..block + 10), 3 * block), Some(0..block + 10), "across the border");
        assert_eq!(block_of(&(0..block), 3 * block), None, "large");
        assert_eq!(block_of(&(5..10), 9), None, "not in the object");
        assert_eq!(block_of(&(5..5), 9), None, "nothing");
    }

    #[test]
    fn read_ahead_grows_for_a_sequential_reader_only() {
        let mut ahead = ReadAhead::default();
        let size = 1 << 30;
        let first = ahead.widen(0..4096, size);
        let second = ahead.widen(first.end..first.end + 4096, size);
        assert!(second.end - second.start > first.end - first.start);
        let random = ahead.widen(500 << 20..(500 << 20) + 4096, size);
        assert_eq!(random.end - random.start, ReadAhead::FIRST);
        assert_eq!(ReadAhead::default().widen(0..10, 10), 0..10);
    }

    #[test]
    fn read_ahead_shrinks_to_what_a_slow_line_brings_in_time() {
        let (mut ahead, size, mut at) = (ReadAhead::default(), 1 << 30, 4096);
        // 128 KiB a second.
        for _ in 0..40 {
            let range = ahead.widen(at..at + 4096, size);
            let took = Duration::from_millis((range.end - range.start) / 128);
            assert!(took < Duration::from_secs(9), "{took:?} for {range:?}");
            ahead.arrived(took, true);
            at = range.end;
        }
        ahead.arrived(Duration::from_secs(30), false);
        assert_eq!(ahead.widen(at..at + 4096, size), at..at + 4096, "after a failure only what is asked for");
        ahead.arrived(Duration::from_millis(1), true);
        assert!(ahead.widen(at..at + 4096, size).end > at + 4096, "and more again when it works");
    }
}
