//! The directory store from inside.

use super::*;
use crate::env::Env;

const MARKER: &str = "holdfast-store";

async fn store(directory: &Path) -> FileStore {
    let init = FileStore::new(directory, true, Env::real());
    assert_eq!(init.put_if_absent(MARKER, Bytes::from_static(b"m")).await.expect("marker"), Put::Stored);
    FileStore::new(directory, false, Env::real())
}

#[tokio::test]
async fn only_init_makes_a_directory_or_a_marker() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let directory = scratch.path().join("a/b");
    let mount = FileStore::new(&directory, false, Env::real());
    assert!(matches!(mount.put_if_absent("x", Bytes::new()).await, Err(StoreError::NoBucket { .. })));
    assert!(matches!(mount.put_if_absent(MARKER, Bytes::new()).await, Err(StoreError::Unsupported { .. })));
    assert!(matches!(mount.get("x").await, Err(StoreError::NoBucket { .. })));
    assert!(matches!(mount.get(MARKER).await, Err(StoreError::NoBucket { .. })));
    assert!(!scratch.path().join("a").exists());
    let init = FileStore::new(&directory, true, Env::real());
    assert_eq!(init.get("x").await.expect("an answer"), None);
    assert!(init.list("", None, 9).await.expect("an answer").is_empty());
    assert!(matches!(mount.put_if_absent("x", Bytes::new()).await, Err(StoreError::NoBucket { .. })));
    assert!(matches!(mount.put_if_absent(MARKER, Bytes::new()).await, Err(StoreError::Unsupported { .. })));
    assert_eq!(init.put_if_absent(MARKER, Bytes::new()).await.expect("marker"), Put::Stored);
    assert_eq!(mount.put_if_absent("x", Bytes::new()).await.expect("put"), Put::Stored);
}

#[tokio::test]
async fn without_its_marker_a_directory_is_neither_written_nor_empty() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let store = store(scratch.path()).await;
    store.put_if_absent("a/b", Bytes::from_static(b"1")).await.expect("put");
    // As an unmounted disk: the mount point is there, and empty.
    let hidden = scratch.path().with_extension("hidden");
    std::fs::rename(scratch.path(), &hidden).expect("unmount");
    std::fs::create_dir(scratch.path()).expect("mount point");
    assert!(matches!(store.put_if_absent("a/c", Bytes::new()).await, Err(StoreError::NoBucket { .. })));
    assert!(matches!(store.get("a/b").await, Err(StoreError::NoBucket { .. })));
    assert!(matches!(store.head("a/b").await, Err(StoreError::NoBucket { .. })));
    assert!(matches!(store.list("", None, 9).await, Err(StoreError::NoBucket { .. })));
    assert!(matches!(store.delete("a/b").await, Err(StoreError::NoBucket { .. })));
    assert_eq!(store.get(MARKER).await.expect("an answer"), None);
    assert_eq!(std::fs::read_dir(scratch.path()).expect("read").count(), 0, "written below a mount point");
    std::fs::remove_dir(scratch.path()).expect("rmdir");
    std::fs::rename(&hidden, scratch.path()).expect("mount");
    assert_eq!(store.get("a/b").await.expect("get").as_deref(), Some(&b"1"[..]));
    assert_eq!(store.put_if_absent("a/c", Bytes::new()).await.expect("put"), Put::Stored);
}

#[tokio::test]
async fn a_removed_directory_is_made_again() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let store = store(scratch.path()).await;
    store.put_if_absent("a/b/c", Bytes::new()).await.expect("put");
    std::fs::remove_dir_all(scratch.path().join("a")).expect("remove");
    assert_eq!(store.put_if_absent("a/b/c", Bytes::new()).await.expect("put"), Put::Stored);
}

#[tokio::test]
async fn foreign_files_are_no_objects() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let store = store(scratch.path()).await;
    std::fs::create_dir(scratch.path().join("lost+found")).expect("mkdir");
    std::fs::write(scratch.path().join(".0011.new"), b"left by a crash").expect("write");
    std::fs::create_dir(scratch.path().join("empty")).expect("mkdir");
    let names: Vec<_> = store.list("", None, 9).await.expect("list").into_iter().map(|meta| meta.name).collect();
    assert_eq!(names, [MARKER]);
    assert_eq!(store.get("empty").await.expect("get"), None);
    assert_eq!(store.head("holdfast-store/x").await.expect("head"), None);
}

#[test]
fn without_unnamed_files_a_named_one_does() {
    // The fallback's own steps, on a file system that would not need it: leaf taken, leaf free, nothing left behind.
    let scratch = tempfile::tempdir().expect("tempdir");
    let root = Root::open(scratch.path()).expect("open");
    let directory = root.open_directory("").expect("open");
    root::write_named(&directory, "x", b"1", [1; 8]).expect("write");
    assert!(matches!(root::write_named(&directory, "x", b"2", [2; 8]), Err(Failed::Errno(Errno::EEXIST))));
    assert_eq!(std::fs::read(scratch.path().join("x")).expect("read"), b"1");
    assert_eq!(std::fs::read_dir(scratch.path()).expect("read").count(), 1);
}

#[tokio::test]
async fn a_huge_file_is_refused_before_memory_is_taken_for_it() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let store = store(scratch.path()).await;
    std::fs::File::create(scratch.path().join("huge")).and_then(|file| file.set_len(1 << 40)).expect("sparse");
    assert!(matches!(store.get("huge").await, Err(StoreError::Unsupported { .. })));
    assert!(matches!(store.get_range("huge", 0..1 << 40).await, Err(StoreError::Unsupported { .. })));
    assert_eq!(store.get_range("huge", 1 << 39..(1 << 39) + 2).await.expect("a range").as_deref(), Some(&[0, 0][..]));
}
