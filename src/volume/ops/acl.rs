//! POSIX access control lists, as the kernel passes them in `system.posix_acl_access` and `system.posix_acl_default`.
//!
//! With FUSE_POSIX_ACL the kernel enforces ACLs and computes nothing: inheritance, the umask, and keeping mode and mask in
//! step are ours (measured: `getfacl` shows the old mask after a chmod otherwise). Layout, all little-endian:
//!
//! ```text
//! version u32 = 2 | entries: tag u16 | permissions u16 | id u32
//! ```

use super::PosixError;

/// The extended attribute with the list that is enforced.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The extended attribute of a directory that new entries inherit.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// A valid list: exactly one owner, owning group and other; a mask when a further user or group is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Acl {
    entries: Vec<Entry>,
}

impl Acl {
    /// From an attribute's value.
    ///
    /// # Errors
    /// [`PosixError::Invalid`] for anything that is not a valid list.
    pub(super) fn parse(value: &[u8]) -> Result<Self, PosixError> {
        let (header, body) = value.split_at_checked(HEADER).ok_or(PosixError::Invalid)?;
        if header != VERSION.to_le_bytes() || body.len() % ENTRY != 0 {
            return Err(PosixError::Invalid);
        }
        let entries = body
            .chunks_exact(ENTRY)
            .map(|e| Entry {
                tag: u16::from_le_bytes([e[0], e[1]]),
                permissions: u16::from_le_bytes([e[2], e[3]]),
                id: u32::from_le_bytes([e[4], e[5], e[6], e[7]]),
            })
            .collect();
        let acl = Self { entries };
        acl.check()?;
        Ok(acl)
    }

    fn check(&self) -> Result<(), PosixError> {
        let count = |tag| self.entries.iter().filter(|e| e.tag == tag).count();
        let named = count(USER) + count(GROUP);
        let known = named + count(USER_OBJ) + count(GROUP_OBJ) + count(OTHER) + count(MASK);
        let whole = count(USER_OBJ) == 1 && count(GROUP_OBJ) == 1 && count(OTHER) == 1 && count(MASK) <= 1;
        let masked = named == 0 || count(MASK) == 1;
        let permissions = self.entries.iter().all(|e| e.permissions <= 7);
        // The tags' values are in the order the kernel asks for.
        let ordered = self.entries.is_sorted_by_key(|e| e.tag);
        if whole && masked && permissions && ordered && known == self.entries.len() { Ok(()) } else { Err(PosixError::Invalid) }
    }

    /// The attribute's value.
    #[must_use]
    pub(super) fn to_value(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for entry in &self.entries {
            value.extend(entry.tag.to_le_bytes());
            value.extend(entry.permissions.to_le_bytes());
            value.extend(entry.id.to_le_bytes());
        }
        value
    }

    /// Whether the nine permission bits say as much: such a list is not kept.
    #[must_use]
    pub(super) fn is_minimal(&self) -> bool {
        self.entries.iter().all(|e| matches!(e.tag, USER_OBJ | GROUP_OBJ | OTHER))
    }

    fn get(&self, tag: u16) -> Option<u16> {
        self.entries.iter().find(|e| e.tag == tag).map(|e| e.permissions)
    }

    fn set(&mut self, tag: u16, permissions: u16) {
        if let Some(entry) = self.entries.iter_mut().find(|e| e.tag == tag) {
            entry.permissions = permissions;
        }
    }

    // What the group bits of the mode stand for.
    fn group_tag(&self) -> u16 {
        if self.get(MASK).is_some() { MASK } else { GROUP_OBJ }
    }

    /// The nine permission bits that go with this list.
    #[must_use]
    pub(super) fn permission_bits(&self) -> u32 {
        let bits = |tag| u32::from(self.get(tag).unwrap_or(0));
        bits(USER_OBJ) << 6 | bits(self.group_tag()) << 3 | bits(OTHER)
    }

    /// After a chmod: owner, mask (or group) and other follow the mode.
    pub(super) fn follow_mode(&mut self, mode: u32) {
        self.set(USER_OBJ, (mode >> 6 & 7) as u16);
        self.set(self.group_tag(), (mode >> 3 & 7) as u16);
        self.set(OTHER, (mode & 7) as u16);
    }

    /// A new entry in a directory with this default list: its own list, and its mode (what the creator asked for cut by the
    /// list; the umask has no say).
    #[must_use]
    pub(super) fn inherit(&self, mode: u32) -> (Self, u32) {
        let mut own = self.clone();
        let bits = self.permission_bits() & mode & 0o777;
        own.follow_mode(bits);
        (own, mode & !0o777 | bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl { entries: entries.iter().map(|&(tag, permissions, id)| Entry { tag, permissions, id }).collect() }
    }

    const NOBODY: u32 = u32::MAX;

    #[test]
    fn inherits_as_ext4_does() {
        // Measured on ext4: default user::rwx user:daemon:rwx group::r-x mask::rwx other::---, then open(0666).
        let default = acl(&[(USER_OBJ, 7, NOBODY), (USER, 7, 1), (GROUP_OBJ, 5, NOBODY), (MASK, 7, NOBODY), (OTHER, 0, NOBODY)]);
        let (own, mode) = default.inherit(0o100_666);
        assert_eq!(mode, 0o100_660);
        assert_eq!(own, acl(&[(USER_OBJ, 6, NOBODY), (USER, 7, 1), (GROUP_OBJ, 5, NOBODY), (MASK, 6, NOBODY), (OTHER, 0, NOBODY)]));
        assert!(!own.is_minimal());
    }

    #[test]
    fn a_chmod_moves_the_mask_and_not_the_group() {
        let mut list = acl(&[(USER_OBJ, 7, NOBODY), (GROUP_OBJ, 5, NOBODY), (GROUP, 7, 9), (MASK, 7, NOBODY), (OTHER, 4, NOBODY)]);
        list.follow_mode(0o600);
        assert_eq!(list.get(MASK), Some(0));
        assert_eq!(list.get(GROUP_OBJ), Some(5));
        assert_eq!(list.permission_bits(), 0o600);
    }

    #[test]
    fn a_list_without_named_entries_is_its_mode() {
        let list = acl(&[(USER_OBJ, 6, NOBODY), (GROUP_OBJ, 4, NOBODY), (OTHER, 0, NOBODY)]);
        assert!(list.is_minimal());
        assert_eq!(list.permission_bits(), 0o640);
    }

    #[test]
    fn refuses_what_the_kernel_would() {
        let whole = acl(&[(USER_OBJ, 6, NOBODY), (GROUP_OBJ, 4, NOBODY), (OTHER, 0, NOBODY)]);
        assert!(Acl::parse(&whole.to_value()).is_ok());
        let named_without_mask = acl(&[(USER_OBJ, 6, NOBODY), (USER, 6, 5), (GROUP_OBJ, 4, NOBODY), (OTHER, 0, NOBODY)]);
        let two_owners = acl(&[(USER_OBJ, 6, NOBODY), (USER_OBJ, 6, NOBODY), (GROUP_OBJ, 4, NOBODY), (OTHER, 0, NOBODY)]);
        let disordered = acl(&[(OTHER, 0, NOBODY), (USER_OBJ, 6, NOBODY), (GROUP_OBJ, 4, NOBODY)]);
        let wide = acl(&[(USER_OBJ, 8, NOBODY), (GROUP_OBJ, 4, NOBODY), (OTHER, 0, NOBODY)]);
        for bad in [named_without_mask, two_owners, disordered, wide] {
            assert_eq!(Acl::parse(&bad.to_value()), Err(PosixError::Invalid), "{bad:?}");
        }
        assert_eq!(Acl::parse(b"\x02\0\0\0abc"), Err(PosixError::Invalid));
        assert_eq!(Acl::parse(b"\x01\0\0\0"), Err(PosixError::Invalid));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(list) = Acl::parse(&bytes) {
                prop_assert_eq!(list.to_value(), bytes);
            }
        }
    }
}
