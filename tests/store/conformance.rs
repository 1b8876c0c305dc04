//! What every store and every wrapper must do, as the trait says it.

use bytes::Bytes;
use holdfast::store::{BODY_BYTES_MAX, Put, Store, StoreError};

/// What may differ between stores.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expect {
    /// Every reply arrives: a put that stored something says so. Else it may say `Exists` about its own earlier attempt.
    pub(crate) replies: bool,
    /// Objects in the long listing.
    pub(crate) many: usize,
}

/// A store on which everything works.
pub(crate) const SURE: Expect = Expect { replies: true, many: 40 };

/// The suite. `store` is empty but for its marker.
pub(crate) async fn conforms(store: &dyn Store, expect: Expect) {
    sizes(store, expect).await;
    too_large(store).await;
    absent(store).await;
    ranges(store).await;
    listing(store, expect).await;
    long_listing(store, expect).await;
    creators(store, expect).await;
    deleting(store, expect).await;
    names(store).await;
}

async fn put(store: &dyn Store, name: &str, body: impl Into<Bytes>, expect: Expect) {
    let put = store.put_if_absent(name, body.into()).await.unwrap_or_else(|error| panic!("put {name}: {error}"));
    assert!(put == Put::Stored || !expect.replies, "put {name}: {put:?}");
}

fn pattern(length: usize, seed: u8) -> Bytes {
    (0..length).map(|at| (at % 251) as u8 ^ seed).collect()
}

async fn sizes(store: &dyn Store, expect: Expect) {
    for length in [0, 1, 4095, 4096, 70_000, 5 << 20] {
        let (name, body) = (format!("c-size/{length:08}"), pattern(length, 1));
        put(store, &name, body.clone(), expect).await;
        // Another body under a taken name changes nothing.
        assert_eq!(store.put_if_absent(&name, pattern(length + 1, 2)).await.expect("second put"), Put::Exists, "{name}");
        assert!(store.get(&name).await.expect("get").expect("there") == body, "{name}");
        let meta = store.head(&name).await.expect("head").expect("there");
        assert_eq!((meta.name.as_str(), meta.size), (name.as_str(), length as u64));
        assert!(meta.modified > 1_500_000_000_000_000_000, "a time of this century: {}", meta.modified);
    }
}

async fn too_large(store: &dyn Store) {
    let body = Bytes::from(vec![0; usize::try_from(BODY_BYTES_MAX).expect("fits") + 1]);
    assert!(matches!(store.put_if_absent("c-large", body).await, Err(StoreError::Unsupported { .. })));
    assert_eq!(store.get("c-large").await.expect("get"), None);
}

async fn absent(store: &dyn Store) {
    put(store, "c-absent/there/x", "x", Expect { replies: false, ..SURE }).await;
    for name in ["c-absent/never", "c-absent/there", "c-absent/there/y", "c-never/a/b"] {
        assert_eq!(store.get(name).await.expect("get"), None, "{name}");
        assert_eq!(store.get_range(name, 0..4).await.expect("get_range"), None, "{name}");
        assert_eq!(store.head(name).await.expect("head"), None, "{name}");
        store.delete(name).await.expect("deleting nothing is fine");
    }
    assert_eq!(store.get("c-absent/there/x").await.expect("get").as_deref(), Some(&b"x"[..]));
}

async fn ranges(store: &dyn Store) {
    let body = pattern(10_000, 3);
    put(store, "c-range/a", body.clone(), Expect { replies: false, ..SURE }).await;
    put(store, "c-range/empty", "", Expect { replies: false, ..SURE }).await;
    for (range, want) in [
        (0..10_000, 0..10_000),
        (0..1, 0..1),
        (9_999..10_000, 9_999..10_000),
        (4_096..8_192, 4_096..8_192),
        (9_000..20_000, 9_000..10_000),
        (0..u64::MAX >> 1, 0..10_000),
        (10_000..10_001, 0..0),
        (1 << 40..1 << 41, 0..0),
        (5..5, 0..0),
        (0..0, 0..0),
    ] {
        let got = store.get_range("c-range/a", range.clone()).await.unwrap_or_else(|error| panic!("{range:?}: {error}"));
        assert!(got.expect("there") == body.slice(want), "{range:?}");
    }
    assert_eq!(store.get_range("c-range/empty", 0..9).await.expect("get_range").as_deref(), Some(&b""[..]));
}

async fn listed(store: &dyn Store, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
    let metas = store.list(prefix, after, limit).await.unwrap_or_else(|error| panic!("list {prefix}: {error}"));
    metas.into_iter().map(|meta| meta.name).collect()
}

async fn listing(store: &dyn Store, expect: Expect) {
    // In byte order: `-` and `.` come before `/`, which comes before digits, capitals, `_`, small letters and `~`.
    let names = [
        "c-list/A",
        "c-list/a-b",
        "c-list/a.b",
        "c-list/a/b",
        "c-list/a/c/d",
        "c-list/a0",
        "c-list/aB",
        "c-list/a_b",
        "c-list/a~1",
        "c-list/b",
    ];
    for name in names.iter().rev() {
        put(store, name, *name, expect).await;
    }
    assert_eq!(listed(store, "c-list/", None, 99).await, names);
    assert_eq!(listed(store, "c-list/a", None, 99).await, names[1..9]);
    assert_eq!(listed(store, "c-list/a/", None, 99).await, names[3..5]);
    assert_eq!(listed(store, "c-list/a~1", None, 99).await, names[8..9]);
    assert_eq!(listed(store, "c-list", None, 99).await, names);
    assert!(listed(store, "c-list/x", None, 99).await.is_empty());
    assert!(listed(store, "c-list/a/b/", None, 99).await.is_empty());
    assert!(listed(store, "c-none/", None, 99).await.is_empty());
    // Pages of every size, begun after a name that is there, was never there, or lies outside the prefix.
    for limit in 1..=names.len() {
        let (mut all, mut after): (Vec<String>, Option<String>) = (Vec::new(), None);
        loop {
            let page = listed(store, "c-list/", after.as_deref(), limit).await;
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            after = Some(last.clone());
            all.extend(page);
        }
        assert_eq!(all, names, "by {limit}");
    }
    assert_eq!(listed(store, "c-list/", Some("c-list/a/bb"), 99).await, names[4..]);
    assert_eq!(listed(store, "c-list/", Some("c-a"), 99).await, names);
    assert!(listed(store, "c-list/", Some("c-m"), 99).await.is_empty());
    assert!(listed(store, "c-list/", None, 0).await.is_empty());
    let metas = store.list("c-list/a/", None, 9).await.expect("list");
    let head = store.head("c-list/a/b").await.expect("head").expect("there");
    assert_eq!(metas[0].size, head.size);
    assert!(metas[0].modified.abs_diff(head.modified) < 1_000_000_000, "a listing and a head tell the same second");
}

async fn long_listing(store: &dyn Store, expect: Expect) {
    let names: Vec<String> = (0..expect.many).map(|n| format!("c-many/{n:020}")).collect();
    futures::stream::StreamExt::for_each_concurrent(futures::stream::iter(&names), 32, |name| put(store, name, "x", expect)).await;
    assert_eq!(listed(store, "c-many/", None, usize::MAX).await, names);
    assert_eq!(listed(store, "c-many/", Some(&names[0]), expect.many).await, names[1..]);
}

async fn creators(store: &dyn Store, expect: Expect) {
    for round in 0..4_u8 {
        let name = format!("c-race/{round}");
        let bodies: Vec<Bytes> = (0..32_u8).map(|k| pattern(1000 + usize::from(k), k)).collect();
        let puts = bodies.iter().map(|body| store.put_if_absent(&name, body.clone()));
        let won: Vec<bool> = futures::future::join_all(puts).await.into_iter().map(|put| put.expect("an answer") == Put::Stored).collect();
        let winners: Vec<usize> = (0..32).filter(|k| won[*k]).collect();
        assert!(winners.len() == 1 || (winners.is_empty() && !expect.replies), "{} creators of {name} won", winners.len());
        let stored = store.get(&name).await.expect("get").expect("there");
        assert!(bodies.contains(&stored), "{name} is nobody's");
        assert!(winners.iter().all(|winner| bodies[*winner] == stored), "{name} is not the winner's");
    }
}

async fn deleting(store: &dyn Store, expect: Expect) {
    put(store, "c-delete/a", "1", expect).await;
    put(store, "c-delete/b", "2", expect).await;
    store.delete("c-delete/a").await.expect("delete");
    assert_eq!(store.get("c-delete/a").await.expect("get"), None);
    assert_eq!(store.head("c-delete/a").await.expect("head"), None);
    assert_eq!(listed(store, "c-delete/", None, 9).await, ["c-delete/b"]);
    store.delete("c-delete/a").await.expect("again");
    put(store, "c-delete/a", "3", expect).await;
    assert_eq!(store.get("c-delete/a").await.expect("get").as_deref(), Some(&b"3"[..]));
}

async fn names(store: &dyn Store) {
    for name in ["", "/c", "c//d", "../c", "c/..", "c/./d", ".c", "c/", "c d", "c%2fd", "c\nd", "cé"] {
        let refused = [
            store.put_if_absent(name, Bytes::new()).await.err(),
            store.get(name).await.err(),
            store.get_range(name, 0..1).await.err(),
            store.head(name).await.err(),
            store.delete(name).await.err(),
        ];
        assert!(refused.iter().all(|error| matches!(error, Some(StoreError::Unsupported { .. }))), "{name:?}: {refused:?}");
    }
    assert!(matches!(store.list("../", None, 9).await, Err(StoreError::Unsupported { .. })));
    let long = format!("c-long/{}/{}/{}/{}", "n".repeat(200), "m".repeat(200), "o".repeat(200), "p".repeat(200));
    put(store, &long, "long", Expect { replies: false, ..SURE }).await;
    assert_eq!(store.get(&long).await.expect("get").as_deref(), Some(&b"long"[..]));
    assert_eq!(listed(store, "c-long/", None, 9).await, [long]);
}
