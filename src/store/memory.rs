//! A store in this process's memory, for tests: gone with it.

use super::{ObjectMeta, Put, Store, StoreError, name};
use crate::env::Env;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::{Bound, Range};

/// See the module.
#[derive(Debug)]
pub struct Memory {
    env: Env,
    objects: Mutex<BTreeMap<String, (Bytes, i64)>>,
}

impl Memory {
    /// An empty one.
    #[must_use]
    pub fn new(env: Env) -> Self {
        Self { env, objects: Mutex::default() }
    }

    /// Puts bytes in the place of an object's own, as a rotting disk would: for tests.
    pub fn overwrite(&self, name: &str, body: Bytes) {
        self.objects.lock().insert(name.to_owned(), (body, self.env.now()));
    }
}

/// What bytes `range` of an object are, by the trait's words.
pub(super) fn slice(body: &Bytes, range: Range<u64>) -> Bytes {
    let length = body.len() as u64;
    let (start, end) = (range.start.min(length), range.end.min(length));
    // Both fit: they are at most the length of a slice.
    body.slice(start as usize..end.max(start) as usize)
}

#[async_trait]
impl Store for Memory {
    async fn put_if_absent(&self, name: &str, body: Bytes) -> Result<Put, StoreError> {
        name::check("put_if_absent", name)?;
        name::check_length("put_if_absent", name, body.len() as u64)?;
        let now = self.env.now();
        match self.objects.lock().entry(name.to_owned()) {
            Entry::Occupied(_) => Ok(Put::Exists),
            Entry::Vacant(place) => {
                place.insert((body, now));
                Ok(Put::Stored)
            }
        }
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, StoreError> {
        name::check("get", name)?;
        Ok(self.objects.lock().get(name).map(|(body, _)| body.clone()))
    }

    async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        name::check("get_range", name)?;
        Ok(self.objects.lock().get(name).map(|(body, _)| slice(body, range)))
    }

    async fn head(&self, name: &str) -> Result<Option<ObjectMeta>, StoreError> {
        name::check("head", name)?;
        let objects = self.objects.lock();
        Ok(objects.get(name).map(|(body, modified)| ObjectMeta { name: name.to_owned(), size: body.len() as u64, modified: *modified }))
    }

    async fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<ObjectMeta>, StoreError> {
        name::check_prefix(prefix)?;
        let from = match start_after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let objects = self.objects.lock();
        let found = objects.range::<str, _>((from, Bound::Unbounded)).take_while(|(name, _)| name.starts_with(prefix)).take(limit);
        Ok(found.map(|(name, (body, modified))| ObjectMeta { name: name.clone(), size: body.len() as u64, modified: *modified }).collect())
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        name::check("delete", name)?;
        self.objects.lock().remove(name);
        Ok(())
    }
}
