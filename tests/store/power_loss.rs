//! A put to a directory that was acknowledged survives the loss of power.
//!
//! The directory lies on a file system in an image file. What that file holds is what a disk would hold when the power fails: the
//! kernel's caches above it are not in it. So after each acknowledged put the image is copied, the copy is mounted (its journal is
//! replayed), and everything acknowledged must be in it.

use crate::disk::{Mounted, image, run, text};
use bytes::Bytes;
use holdfast::env::Env;
use holdfast::store::{FileStore, Put, Store};
use std::path::PathBuf;

struct World {
    scratch: tempfile::TempDir,
    /// Mount options of the copy.
    copy: &'static str,
    acknowledged: Vec<(String, Bytes)>,
}

impl World {
    fn image(&self) -> PathBuf {
        self.scratch.path().join("image")
    }

    fn mount(&self) -> PathBuf {
        self.scratch.path().join("mount")
    }

    /// A new one each time: file systems flush a file that is written over.
    fn unflushed(&self) -> String {
        format!("never flushed {}", self.acknowledged.len())
    }

    /// The power fails now.
    async fn check(&self) {
        let copy = self.scratch.path().join("copy");
        run("cp", &["--sparse=always", text(&self.image()), text(&copy)]);
        let at = self.scratch.path().join("after");
        let mounted = Mounted::new(&copy, &at, self.copy);
        let store = FileStore::new(&at.join("a/b"), false, Env::real());
        for (name, body) in &self.acknowledged {
            let found = store.get(name).await.unwrap_or_else(|error| panic!("{name} was acknowledged: {error}"));
            assert!(found.as_ref() == Some(body), "{name} was acknowledged and is lost, or has other bytes, after the power failed");
        }
        let unflushed = std::fs::read(at.join(self.unflushed())).unwrap_or_default();
        assert!(unflushed.is_empty(), "the harness does not lose what was not flushed");
        drop(mounted);
    }

    async fn put(&mut self, store: &FileStore, names: &[String]) {
        let bodies: Vec<Bytes> = names.iter().map(|name| name.repeat(3000).into()).collect();
        let puts = names.iter().zip(&bodies).map(|(name, body)| store.put_if_absent(name, body.clone()));
        for put in futures::future::join_all(puts).await {
            assert_eq!(put.expect("put"), Put::Stored);
        }
        self.acknowledged.extend(names.iter().cloned().zip(bodies));
        std::fs::write(self.mount().join(self.unflushed()), b"bytes").expect("write");
        self.check().await;
    }
}

/// `commit` is long, so that nothing is written by itself in the middle of the test.
async fn survives(make: &[&str], size: u64, options: &str, copy: &'static str) {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("tempdir");
    let mut world = World { scratch, copy, acknowledged: Vec::new() };
    image(&world.image(), size, make);
    let _mounted = Mounted::new(&world.image(), &world.mount(), options);
    let init = FileStore::new(&world.mount().join("a/b"), true, Env::real());
    world.put(&init, &["holdfast-store".to_owned()]).await;
    let store = FileStore::new(&world.mount().join("a/b"), false, Env::real());
    world.put(&store, &["volumes/1/volume".to_owned()]).await;
    world.put(&store, &["volumes/1/commits/1".to_owned()]).await;
    world.put(&store, &["volumes/1/commits/2".to_owned()]).await;
    world.put(&store, &(0..20).map(|n| format!("volumes/{}/packs/{n}", n % 3)).collect::<Vec<_>>()).await;
    // Another process made these directories and may have failed before it flushed them.
    std::fs::create_dir_all(world.mount().join("a/b/volumes/9/control")).expect("mkdir");
    world.put(&store, &["volumes/9/control/1".to_owned()]).await;
}

#[tokio::test]
async fn acknowledged_puts_survive_on_ext4() {
    survives(&["mkfs.ext4", "-q"], 48 << 20, "commit=300", "commit=300").await;
}

#[tokio::test]
async fn acknowledged_puts_survive_on_xfs() {
    survives(&["mkfs.xfs", "-q"], 320 << 20, "noatime", "nouuid").await;
}
