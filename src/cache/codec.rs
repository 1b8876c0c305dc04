//! Varints, bytes and range sets as they stand in log records and in rows of `meta.db`.

use crate::types::{ByteRange, RangeSet};

/// Appends values to a buffer.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn u64(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.u64(((value << 1) ^ (value >> 63)) as u64);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.u64(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    /// Starts and ends as distances: small numbers for what lies close together.
    pub(super) fn ranges(&mut self, set: &RangeSet) {
        self.u64(set.count() as u64);
        let mut at = 0;
        for range in set.iter() {
            self.u64(range.start - at);
            self.u64(range.end - range.start);
            at = range.end;
        }
    }
}

/// Takes values from a buffer; `None` when it is not what a [`Writer`] wrote.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn u64(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        u32::try_from(self.u64()?).ok()
    }

    pub(super) fn i64(&mut self) -> Option<i64> {
        let raw = self.u64()?;
        Some((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u64()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn range(&mut self) -> Option<ByteRange> {
        let start = self.u64()?;
        Some(start..start.checked_add(self.u64()?)?)
    }

    pub(super) fn ranges(&mut self) -> Option<RangeSet> {
        let mut set = RangeSet::new();
        let mut at = 0u64;
        for _ in 0..self.u64()? {
            let start = at.checked_add(self.u64()?)?;
            at = start.checked_add(self.u64()?)?;
            set.insert(start..at);
        }
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(n in any::<u64>(), i in any::<i64>(), bytes in any::<Vec<u8>>(), ranges in proptest::collection::vec((0u64..1 << 44, 1u64..9999), 0..20)) {
            let set: RangeSet = ranges.into_iter().map(|(s, l)| s..s + l).collect();
            let mut w = Writer::default();
            w.u64(n);
            w.i64(i);
            w.bytes(&bytes);
            w.ranges(&set);
            let mut r = Reader(&w.0);
            prop_assert_eq!(r.u64(), Some(n));
            prop_assert_eq!(r.i64(), Some(i));
            prop_assert_eq!(r.bytes(), Some(&bytes[..]));
            prop_assert_eq!(r.ranges(), Some(set));
            prop_assert!(r.0.is_empty());
        }

        #[test]
        fn any_bytes_are_taken_without_panic(bytes in any::<Vec<u8>>()) {
            let mut r = Reader(&bytes);
            let _ = r.ranges();
            let mut r = Reader(&bytes);
            let _ = (r.u64(), r.bytes(), r.range(), r.i64());
        }
    }
}
