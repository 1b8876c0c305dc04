//! The overlay against a plain map of bytes and names.

use super::*;
use proptest::prelude::*;

fn extent(offset: u64, length: u64, frame: u32) -> rpc::Extent {
    rpc::Extent { offset, length, frame, plain_length: 64, skip: 0, ..Default::default() }
}

proptest! {
    #[test]
    fn extent_map_equals_a_map_of_bytes(ops in proptest::collection::vec((any::<bool>(), 0u64..60, 1u64..30), 1..40)) {
        let mut map = ExtentMap::default();
        let mut bytes: Vec<Option<(u32, u64)>> = vec![None; 128];
        for (n, (put, offset, length)) in ops.into_iter().enumerate() {
            let n = u32::try_from(n).unwrap();
            if put {
                map.put(Located { extent: extent(offset, length, n), place: Place::Inline(1) });
            } else {
                map.clear(offset..offset + length);
            }
            for at in offset..offset + length {
                bytes[usize::try_from(at).unwrap()] = put.then_some((n, at - offset));
            }
        }
        let mut shown = vec![None; 128];
        for located in map.iter() {
            for i in 0..located.extent.length {
                let at = usize::try_from(located.extent.offset + i).unwrap();
                prop_assert!(shown[at].is_none());
                shown[at] = Some((located.extent.frame, u64::from(located.extent.skip) + i));
            }
        }
        prop_assert_eq!(shown, bytes);
    }

    #[test]
    fn merge_by_parts_equals_merge_of_the_whole(
        base in proptest::collection::btree_map((1u64..12, 0u8..6), 1u64..99, 0..30),
        change in proptest::collection::btree_map((1u64..12, 0u8..6), proptest::option::of(1u64..99), 0..20),
        removed in proptest::collection::btree_set(1u64..12, 0..3),
        split in (1u64..12, 0u8..6),
    ) {
        let name = |dir: u64, n: u8, ino: u64| rpc::Name { dir, name: Bytes::from(vec![b'a' + n]), ino, cookie: 1 };
        let items: Vec<Item> = base.iter().map(|((dir, n), ino)| Item::Name(name(*dir, *n, *ino))).collect();
        let mut delta = rpc::Delta { removed_inodes: removed.iter().copied().collect(), ..Default::default() };
        for ((dir, n), to) in &change {
            match to {
                Some(ino) => delta.names.push(name(*dir, *n, *ino)),
                None => delta.removed_names.push(rpc::NameRef { dir: *dir, name: Bytes::from(vec![b'a' + n]) }),
            }
        }
        let mut overlay = Overlay::default();
        overlay.apply(7, &delta);
        let whole = overlay.merge(items.clone(), &first_key(), None);
        let middle = Key { ino: split.0, part: KeyPart::Name(Bytes::from(vec![b'a' + split.1])) };
        let (low, high): (Vec<Item>, Vec<Item>) = items.into_iter().partition(|item| item.key() < middle);
        let touched = (overlay.touches(&first_key(), Some(&middle)), overlay.touches(&middle, None));
        let merged = (overlay.merge(low.clone(), &first_key(), Some(&middle)), overlay.merge(high.clone(), &middle, None));
        prop_assert!(touched.0 || merged.0 == low);
        prop_assert!(touched.1 || merged.1 == high);
        prop_assert_eq!([merged.0, merged.1].concat(), whole.clone());
        for item in &whole {
            let Item::Name(shown) = item else { panic!("only names here") };
            prop_assert!(!removed.contains(&shown.dir));
            let at = (shown.dir, shown.name[0] - b'a');
            prop_assert_eq!(Some(shown.ino), change.get(&at).copied().unwrap_or_else(|| base.get(&at).copied()));
        }
    }

    #[test]
    fn part_round_trips(inos in proptest::collection::btree_set(1u64..50, 1..20)) {
        let mut items = Vec::new();
        for ino in inos {
            items.push(Item::Inode(rpc::Inode { ino, size: 9, ..Default::default() }));
            items.push(Item::Name(rpc::Name { dir: ino, name: "x".into(), ino: ino + 1, cookie: 3 }));
            let place = if ino % 2 == 0 { Place::Inline(ino) } else { Place::Object(Arc::new(rpc::ObjectRef { name: format!("packs/{}", ino % 3), ..Default::default() })) };
            items.push(Item::Extents(ino, [Located { extent: extent(0, 9, 1), place }].into_iter().collect()));
        }
        let again = items_of(part_of(items.clone()));
        prop_assert_eq!(again.len(), items.len());
        for (a, b) in again.iter().zip(&items) {
            prop_assert_eq!(a.key(), b.key());
            if let (Item::Extents(_, a), Item::Extents(_, b)) = (a, b) {
                prop_assert!(a.iter().zip(b.iter()).all(|(a, b)| a.place == b.place));
            }
        }
    }
}

#[test]
fn a_file_that_goes_on_in_the_next_part_merges_as_one() {
    let located = |offset, length, frame| Located { extent: extent(offset, length, frame), place: Place::Inline(1) };
    let base: Vec<Located> = (0..8).map(|i| located(i * 64, 32, 1)).collect();
    let delta = rpc::Delta {
        extents: vec![rpc::ExtentChange {
            ino: 5,
            cleared: vec![rpc::Range { offset: 10, length: 60 }],
            extents: vec![rpc::Extent { inline_seq: 2, ..extent(240, 64, 9) }],
        }],
        ..Default::default()
    };
    let mut overlay = Overlay::default();
    overlay.apply(2, &delta);
    let item = |extents: &[Located]| vec![Item::Extents(5, extents.iter().cloned().collect())];
    let whole = overlay.merge(item(&base), &first_key(), None);
    let middle = Key { ino: 5, part: KeyPart::Extents(256) };
    let low = overlay.merge(item(&base[..4]), &first_key(), Some(&middle));
    let high = overlay.merge(item(&base[4..]), &middle, None);
    let bytes = |items: &[Item]| -> Vec<(u64, u32, u64)> {
        let Some(maps) = items.iter().map(|i| if let Item::Extents(5, map) = i { Some(map) } else { None }).collect::<Option<Vec<_>>>()
        else {
            panic!("only extents here")
        };
        let spread = |l: &Located| {
            (0..l.extent.length).map(|i| (l.extent.offset + i, l.extent.frame, u64::from(l.extent.skip) + i)).collect::<Vec<_>>()
        };
        maps.iter().flat_map(|map| map.iter().flat_map(spread)).collect()
    };
    assert_eq!(bytes(&[low, high].concat()), bytes(&whole));
    assert!(bytes(&whole).contains(&(300, 9, 60)));
}

#[test]
fn truncate_drops_extents_above_the_new_size() {
    let mut overlay = Overlay::default();
    let inode = rpc::Inode { ino: 5, mode: libc::S_IFREG, size: 10, ..Default::default() };
    overlay.apply(2, &rpc::Delta { inodes: vec![inode], ..Default::default() });
    let base = vec![Item::Extents(5, [Located { extent: extent(0, 64, 0), place: Place::Inline(1) }].into_iter().collect())];
    let merged = overlay.merge(base, &first_key(), None);
    let Some(Item::Extents(5, map)) = merged.last() else { panic!("extents are missing: {merged:?}") };
    assert_eq!(map.iter().map(|l| l.extent.length).collect::<Vec<_>>(), [10]);
}

#[test]
fn key_encoding_keeps_the_order() {
    let keys = [
        Key { ino: 1, part: KeyPart::Inode },
        Key { ino: 1, part: KeyPart::Name("a".into()) },
        Key { ino: 1, part: KeyPart::Name("ab".into()) },
        Key { ino: 1, part: KeyPart::Extents(0) },
        Key { ino: 1, part: KeyPart::Extents(1 << 40) },
        Key { ino: 256, part: KeyPart::Inode },
    ];
    assert!(keys.windows(2).all(|w| w[0] < w[1] && w[0].encode() < w[1].encode()));
    assert!(keys.iter().all(|k| Key::decode(&k.encode()).as_ref() == Some(k)));
    assert_eq!(Key::decode(&Bytes::from_static(b"short")), None);
}
