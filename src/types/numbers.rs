//! A set of numbers of a log: mostly runs, so that years of commits that went take little memory.

use super::{RangeSet, Seq};

/// Numbers, kept as runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeqSet(RangeSet);

impl SeqSet {
    /// Whether a number is in it.
    #[must_use]
    pub fn contains(&self, seq: &Seq) -> bool {
        self.0.contains(*seq..seq.saturating_add(1))
    }

    /// Adds a number.
    pub fn insert(&mut self, seq: Seq) {
        self.0.insert(seq..seq.saturating_add(1));
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = Seq> + '_ {
        self.0.iter().flatten()
    }

    /// The numbers from 1 to `last` that are not in it, as runs.
    #[must_use]
    pub fn others(&self, last: Seq) -> Vec<std::ops::Range<Seq>> {
        self.0.gaps(1..last.saturating_add(1))
    }
}

impl Extend<Seq> for SeqSet {
    fn extend<T: IntoIterator<Item = Seq>>(&mut self, numbers: T) {
        numbers.into_iter().for_each(|seq| self.insert(seq));
    }
}

impl<'a> Extend<&'a Seq> for SeqSet {
    fn extend<T: IntoIterator<Item = &'a Seq>>(&mut self, numbers: T) {
        self.extend(numbers.into_iter().copied());
    }
}

impl FromIterator<Seq> for SeqSet {
    fn from_iter<T: IntoIterator<Item = Seq>>(numbers: T) -> Self {
        let mut set = Self::default();
        set.extend(numbers);
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_numbers() {
        let mut set: SeqSet = (5..1000).collect();
        set.extend([1, 2000]);
        assert_eq!((set.len(), set.iter().count()), (997, 997));
        assert!(set.contains(&5) && set.contains(&999) && !set.contains(&1000) && !set.contains(&4));
        assert_eq!(set.others(2001), [2..5, 1000..2000, 2001..2002]);
    }
}
