//! The first commit of a volume that nobody has written to yet: its empty root directory, so that there is a state to name and to clone.

use crate::log::{Framed, LogError, Site, Tip, Writer, WriterParams};
use crate::rpc;
use crate::types::{Fault, ROOT, WriterId};

/// Appends `open`, the commit and `close` to a log that ends as `before` and has no commit; `false`: it has grown since, look again.
///
/// # Errors
/// The store does not answer: the same call may be made again.
pub async fn first_commit(site: &Site, before: &Tip, holder: rpc::Holder) -> Result<bool, Fault> {
    let env = site.env();
    let (writer, cut_time) = (WriterId(env.random()), env.now());
    // No cache: whoever finds the log open after a death of this process takes it, and knows that nothing is lost by that.
    let holder = rpc::Holder { cache_id: bytes::Bytes::new(), ..holder };
    let params = WriterParams { writer, holder, cache: None, hint: crate::log::Hint::default() };
    let unchanged = |tip: &Tip| (tip.seq, tip.hash) == (before.seq, before.hash);
    let mut writer = match Writer::open_if(site.clone(), params, &unchanged).await {
        Ok((writer, _)) => writer,
        Err(LogError::Held { .. } | LogError::Purged { .. }) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let root = rpc::Inode {
        ino: ROOT,
        mode: libc::S_IFDIR | 0o755,
        atime: cut_time,
        mtime: cut_time,
        ctime: cut_time,
        btime: cut_time,
        ..rpc::Inode::default()
    };
    let seq = writer.head().seq + 1;
    let commit = rpc::Commit {
        cut_time,
        full: true,
        domains: vec![rpc::DomainInstant { domain: rpc::Domain::Continuous.into(), seq, cut_time }],
        delta: Some(rpc::Delta { inodes: vec![root], next_inode: ROOT + 1, next_cookie: 1, ..rpc::Delta::default() }),
        note: "nothing was written yet".to_owned(),
        totals: Some(rpc::Totals { inodes: 1, ..rpc::Totals::default() }),
        ..rpc::Commit::default()
    };
    match end(&mut writer, commit).await {
        Ok(()) => Ok(true),
        // Somebody opened it in between.
        Err(LogError::Fenced { .. } | LogError::Purged { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn end(writer: &mut Writer, commit: rpc::Commit) -> Result<(), LogError> {
    let approved = writer.nameable().approve(commit, &Framed::default(), &|_| false)?;
    let prepared = writer.prepare(approved)?;
    writer.put(&prepared).await?;
    writer.close().await.map(drop)
}
