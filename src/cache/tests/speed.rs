//! What an operation costs here, printed; run it with `--ignored --nocapture` on a release build.
#![allow(clippy::print_stdout, reason = "its purpose")]

use super::lab::{everything, origin};
use crate::cache::{Cache, CacheError, CacheOptions, Head, NewInode, SavedReply};
use crate::env::Env;
use crate::types::{Hash, ROOT};
use std::time::Instant;

#[test]
#[ignore = "prints times"]
fn speed() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let mut options = CacheOptions::new(dir.path().join("c"));
    options.any_file_system = true;
    let cache = Cache::create(Env::real(), options, &origin()).unwrap();
    let time = |what: &str, n: u32, f: &mut dyn FnMut(u32)| {
        let start = Instant::now();
        (0..n).for_each(&mut *f);
        println!("{what:40} {:9.2} us", start.elapsed().as_secs_f64() * 1e6 / f64::from(n));
    };
    let mut inos = Vec::new();
    time("create", 20_000, &mut |i| {
        let ino = cache
            .update(None, |u| -> Result<_, CacheError> {
                let name = format!("file-{i:08}");
                assert!(u.lookup(ROOT, name.as_bytes())?.is_none());
                let mut parent = u.attr(ROOT)?.ok_or(CacheError::NoInode(ROOT))?;
                let attr = u.new_inode(&NewInode { mode: libc::S_IFREG | 0o644, ..NewInode::default() })?;
                u.set_name(ROOT, name.as_bytes(), attr.ino)?;
                parent.mtime = u.now();
                u.set_attr(&parent)?;
                Ok((attr.ino, SavedReply::Created(attr.ino)))
            })
            .unwrap();
        inos.push(ino);
    });
    time("write 4 KiB into a new file", 5000, &mut |i| {
        cache.write(None, inos[i as usize], 0, &[1; 4096]).unwrap();
    });
    time("write 4 KiB over a page", 20_000, &mut |i| {
        cache.write(None, inos[0], u64::from(i % 64) * 4096, &[1; 4096]).unwrap();
    });
    time("write 1 MiB", 200, &mut |i| {
        cache.write(None, inos[1], u64::from(i) << 20, &vec![1; 1 << 20]).unwrap();
    });
    let mut out = Vec::new();
    time("read 4 KiB", 20_000, &mut |i| {
        cache.read(inos[0], u64::from(i % 64) * 4096, 4096, &mut out).unwrap();
    });
    time("attr", 20_000, &mut |i| {
        cache.view(|v| v.attr(inos[i as usize])).unwrap();
    });
    time("lookup", 20_000, &mut |i| {
        cache.view(|v| v.lookup(ROOT, format!("file-{i:08}").as_bytes())).unwrap();
    });
    time("batch", 1, &mut |_| cache.apply_batch().unwrap());
    time("write 4 KiB + fsync", 200, &mut |i| {
        cache.write(None, inos[0], u64::from(i % 64) * 4096, &[1; 4096]).unwrap();
        cache.fsync(inos[0], true).unwrap();
    });
    time("batch", 1, &mut |_| cache.apply_batch().unwrap());
    let mut seal = None;
    time("seal of 20,000 files", 1, &mut |_| seal = Some(cache.seal(&mut everything).unwrap()));
    let mut resolved = Some((seal.unwrap(), Head { seq: 1, hash: Hash([1; 32]), epoch: 1 }));
    time("resolve", 1, &mut |_| {
        let (seal, head) = resolved.take().unwrap();
        cache.resolve(seal, head, &[]).unwrap();
    });
    time("readdir by 128, per entry", 20_000 / 128, &mut |i| {
        cache.view(|v| v.entries(ROOT, u64::from(i) * 128, 128)).unwrap();
    });
    time("unlink", 20_000, &mut |i| {
        cache
            .update(None, |u| -> Result<_, CacheError> {
                u.remove_name(ROOT, format!("file-{i:08}").as_bytes())?;
                u.forget_orphan(inos[i as usize])?;
                Ok(((), SavedReply::Empty))
            })
            .unwrap();
    });
    time("batch", 1, &mut |_| cache.apply_batch().unwrap());
    time("tick", 1, &mut |_| cache.tick().unwrap());
}
