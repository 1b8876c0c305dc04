//! Prints what puts and gets cost here. Asserts nothing about time.

use crate::{directory, plainly, s3};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use holdfast::env::Env;
use holdfast::store::Store;
use std::time::Duration;

fn scale() -> usize {
    std::env::var("SCALE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

async fn measure(what: &str, store: &dyn Store) {
    let env = Env::real();
    for (size, count, beside) in [(4 << 10, 60, 1), (4 << 10, 120, 16), (8 << 20, 8, 1), (8 << 20, 16, 4)] {
        let (count, body) = (count * scale(), Bytes::from(vec![7; size]));
        let name = |n| format!("speed/{size}-{beside}/{n:06}");
        let began = env.monotonic();
        let puts = (0..count).map(|n| {
            let (env, body) = (env.clone(), body.clone());
            async move {
                let began = env.monotonic();
                store.put_if_absent(&name(n), body).await.map(|_| env.monotonic() - began)
            }
        });
        let mut times: Vec<Duration> = futures::stream::iter(puts).buffer_unordered(beside).try_collect().await.expect("puts");
        let wrote = env.monotonic() - began;
        let began = env.monotonic();
        let gets = futures::stream::iter((0..count).map(|n| async move { store.get(&name(n)).await }));
        let bodies: Vec<_> = gets.buffer_unordered(beside).try_collect().await.expect("gets");
        let read = env.monotonic() - began;
        assert!(bodies.into_iter().all(|got| got.as_ref() == Some(&body)));
        times.sort_unstable();
        let rate = |time: Duration| (size * count) as f64 / time.as_secs_f64() / 1e6;
        println!(
            "{what}: {size} B x {count}, {beside} at once: put median {:.2} ms, p99 {:.2} ms, {:.0}/s, {:.1} MB/s; get {:.0}/s, {:.1} MB/s",
            times[count / 2].as_secs_f64() * 1e3,
            times[count * 99 / 100].as_secs_f64() * 1e3,
            count as f64 / wrote.as_secs_f64(),
            rate(wrote),
            count as f64 / read.as_secs_f64(),
            rate(read),
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_and_gets() {
    // On the disk that the target directory is on, not on a memory file system.
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("tempdir");
    measure("directory", directory(scratch.path()).await.as_ref()).await;
    let server = s3::S3Server::start();
    measure("S3 server", plainly(&server.url("speed")).as_ref()).await;
}
