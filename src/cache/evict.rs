//! Eviction: clean committed pages leave, least used files first.

use super::Cache;
use super::effect::Effect;
use super::file::DataFile;
use super::types::CacheError;
use crate::types::{Ino, RangeSet};
use std::sync::Arc;

// Ranges in one record.
const RANGES: usize = 1000;
// Files looked at in one round.
const FILES: i64 = 256;

impl Cache {
    /// Drops clean committed pages, least used files first, until `target` bytes are freed or nothing is left to drop; tells how many
    /// were.
    ///
    /// # Errors
    /// When the cache's disk fails.
    pub fn evict(&self, target: u64) -> Result<u64, CacheError> {
        // What is clean must be known to be so in meta.db, with its extents.
        self.apply_batch()?;
        let mut freed = 0;
        let mut after = (i64::MIN, 0);
        while freed < target {
            let mut round = self.least_used(after)?;
            let Some(last) = round.last().copied() else { break };
            after = last;
            for (used, ino) in &mut round {
                if let Some(file) = self.hot_file(*ino) {
                    *used = file.inner.lock().used;
                }
            }
            round.sort_unstable();
            for (_, ino) in round {
                if freed >= target {
                    break;
                }
                match self.file(ino) {
                    Ok(file) => freed += self.evict_file(&file, target - freed)?,
                    Err(CacheError::NoInode(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(freed)
    }

    fn least_used(&self, after: (i64, Ino)) -> Result<Vec<(i64, Ino)>, CacheError> {
        let meta = self.meta.lock();
        let mut statement = meta.db.prepare_cached(&format!(
            "SELECT used,ino FROM files WHERE present>dirty AND (used,ino)>(?1,?2) ORDER BY used,ino LIMIT {FILES}"
        ))?;
        let rows =
            statement.query_map(rusqlite::params![after.0, after.1 as i64], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn evict_file(&self, file: &Arc<DataFile>, target: u64) -> Result<u64, CacheError> {
        let _permit = self.admit(RANGES as u64 * 12)?;
        // A page is clean in memory a moment before its commit is recorded here: `resolve` holds this until it is.
        let batch = self.batch.lock();
        if batch.closed {
            return Ok(0);
        }
        let mut content = file.inner.lock();
        if content.dead {
            return Ok(0);
        }
        let mut ranges = RangeSet::new();
        let mut bytes = 0;
        for range in content.evictable().iter().take(RANGES) {
            if bytes >= target {
                break;
            }
            let end = range.end.min(range.start.saturating_add(super::pages::ceil(target - bytes)));
            bytes += end - range.start;
            ranges.insert(range.start..end);
        }
        if ranges.is_empty() {
            return Ok(0);
        }
        self.env.failpoint("cache.in_evict_before_log");
        // Logged first: a hole that counts as a present page would read as zeros over committed bytes.
        self.log_content(file, &mut content, None, vec![Effect::Evicted { ino: file.ino, ranges: ranges.clone() }]);
        self.env.failpoint("cache.in_evict_before_punch");
        if let Some(slot) = content.slot {
            let data = self.slots.file(slot)?;
            for range in ranges.iter() {
                data.punch(&range)?;
                content.stale.remove(range);
            }
        }
        Ok(bytes)
    }
}
