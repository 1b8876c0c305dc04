//! What lies in the store, as one listing saw it, and what of it is needed: 40 bytes and two bits an object, so that a million packs take
//! 40 MB.

use crate::format::names;
use crate::types::{Epoch, Incarnation, Seq};

/// An object of an incarnation that gc may ever delete, without its log's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectId {
    /// A head of a branch: epoch and number.
    BranchHead(Epoch, u64),
    /// A pack of a branch.
    BranchPack(Epoch, [u8; 16]),
    /// The index of a checkpoint.
    Index(Seq),
    /// A part of a checkpoint.
    Part(Seq, [u8; 16]),
    /// A pack.
    Pack(Epoch, [u8; 16]),
}

impl ObjectId {
    /// Of an object's name (relative to the store), with its incarnation. `None`: nothing that gc deletes.
    #[must_use]
    pub fn parse(name: &str) -> Option<(Incarnation, Self)> {
        if let Some((of, epoch, random)) = names::parse_pack(name) {
            return Some((of, Self::Pack(epoch, random)));
        }
        if let Some((of, seq)) = names::parse_checkpoint_index(name) {
            return Some((of, Self::Index(seq)));
        }
        if let Some((of, seq, random)) = names::parse_checkpoint_part(name) {
            return Some((of, Self::Part(seq, random)));
        }
        if let Some((of, epoch, n)) = names::parse_branch_head(name) {
            return Some((of, Self::BranchHead(epoch, n)));
        }
        names::parse_branch_pack(name).map(|(of, epoch, random)| (of, Self::BranchPack(epoch, random)))
    }

    /// Its name in an incarnation, relative to the store.
    #[must_use]
    pub fn name(self, incarnation: Incarnation) -> String {
        match self {
            Self::BranchHead(epoch, n) => names::branch_head(incarnation, epoch, n),
            Self::BranchPack(epoch, random) => names::branch_pack(incarnation, epoch, random),
            Self::Index(seq) => names::checkpoint_index(incarnation, seq),
            Self::Part(seq, random) => names::checkpoint_part(incarnation, seq, random),
            Self::Pack(epoch, random) => names::pack(incarnation, epoch, random),
        }
    }
}

/// The objects of a listing.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    incarnation: Option<Incarnation>,
    /// With their sizes.
    ids: Vec<(ObjectId, u32)>,
    needed: Bits,
    named: Bits,
}

impl Inventory {
    /// Of a listing of everything below an incarnation. What is of another, or nothing that gc deletes, is left out.
    #[must_use]
    pub fn of<'a>(incarnation: Incarnation, listing: impl IntoIterator<Item = &'a str>) -> Self {
        let mut inventory = Self { incarnation: Some(incarnation), ..Self::default() };
        listing.into_iter().for_each(|name| inventory.list(name, 0));
        inventory.settle();
        inventory
    }

    /// Of nothing yet; [`Self::list`] each object, then [`Self::settle`].
    #[must_use]
    pub fn new(incarnation: Incarnation) -> Self {
        Self { incarnation: Some(incarnation), ..Self::default() }
    }

    /// Takes an object of the listing in.
    pub fn list(&mut self, name: &str, size: u64) {
        if let Some((of, id)) = ObjectId::parse(name)
            && Some(of) == self.incarnation
        {
            self.ids.push((id, u32::try_from(size).unwrap_or(u32::MAX)));
        }
    }

    /// The listing ended.
    pub fn settle(&mut self) {
        self.ids.sort_unstable();
        self.ids.dedup_by_key(|(id, _)| *id);
        let bits = Bits(vec![0; self.ids.len().div_ceil(64)]);
        (self.needed, self.named) = (bits.clone(), bits);
    }

    /// Something that is kept needs this object, and so some record names it. One that is not listed is not deleted in any case.
    pub fn need(&mut self, name: &str) {
        if let Some(at) = self.at(name) {
            self.needed.set(at);
            self.named.set(at);
        }
    }

    /// A record names this object.
    pub fn name(&mut self, name: &str) {
        if let Some(at) = self.at(name) {
            self.named.set(at);
        }
    }

    /// All objects, in order: whether something needs it, and whether a record names it.
    pub fn iter(&self) -> impl Iterator<Item = (ObjectId, bool, bool)> + '_ {
        self.ids.iter().enumerate().map(|(at, (id, _))| (*id, self.needed.get(at), self.named.get(at)))
    }

    /// Bytes of an object; 0 when it is not listed.
    #[must_use]
    pub fn size(&self, id: ObjectId) -> u64 {
        self.find(id).and_then(|at| self.ids.get(at)).map_or(0, |(_, size)| u64::from(*size))
    }

    /// How many objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    fn at(&self, name: &str) -> Option<usize> {
        let (of, id) = ObjectId::parse(name)?;
        (Some(of) == self.incarnation).then(|| self.find(id))?
    }

    fn find(&self, id: ObjectId) -> Option<usize> {
        self.ids.binary_search_by_key(&id, |(id, _)| *id).ok()
    }
}

#[derive(Debug, Clone, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn set(&mut self, at: usize) {
        if let Some(word) = self.0.get_mut(at / 64) {
            *word |= 1 << (at % 64);
        }
    }

    fn get(&self, at: usize) -> bool {
        self.0.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Incarnation = Incarnation([7; 16]);

    #[test]
    fn names_go_there_and_back() {
        let ids = [
            ObjectId::Pack(3, [9; 16]),
            ObjectId::Index(150),
            ObjectId::Part(150, [1; 16]),
            ObjectId::BranchHead(3, 1),
            ObjectId::BranchHead(3, 2),
            ObjectId::BranchPack(3, [2; 16]),
        ];
        for id in ids {
            assert_eq!(ObjectId::parse(&id.name(LIFE)), Some((LIFE, id)));
        }
        for none in [names::commit(LIFE, 5), names::block(LIFE, 0), names::volume(LIFE), ids[0].name(LIFE) + "~1", ids[5].name(LIFE) + "0"]
        {
            assert_eq!(ObjectId::parse(&none), None, "{none}");
        }
        assert!(std::mem::size_of::<(ObjectId, u32)>() <= 40, "what the head of this file says of a million packs");
    }

    #[test]
    fn marks_what_is_listed_and_its_own() {
        let names: Vec<String> = (0..200).map(|n| ObjectId::Pack(1, [n; 16]).name(LIFE)).collect();
        let other = ObjectId::Pack(1, [3; 16]).name(Incarnation([8; 16]));
        let mut inventory = Inventory::of(LIFE, names.iter().map(String::as_str).chain([other.as_str()]));
        assert_eq!(inventory.len(), 200);
        inventory.need(&names[70]);
        inventory.name(&names[130]);
        inventory.need(&other);
        inventory.need(&ObjectId::Pack(2, [0; 16]).name(LIFE));
        let marked: Vec<_> = inventory.iter().filter(|(_, _, named)| *named).collect();
        assert_eq!(marked, [(ObjectId::Pack(1, [70; 16]), true, true), (ObjectId::Pack(1, [130; 16]), false, true)]);
    }
}
