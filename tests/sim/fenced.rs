//! What a node does that finds itself fenced: its cache is set aside, and what was dirty in it becomes a branch.

use super::engine::Cache;
use super::node::{Node, Running};
use holdfast::log::LogError;
use holdfast::log::branch::{self, Claimed};
use holdfast::log::control::{Chain, Refused};

impl Node {
    /// Sets its cache aside; a dirty one becomes a branch.
    pub(super) async fn fenced(&self, running: &Running) {
        self.kit.sim.note(|| format!("{} fenced", self.kit.id));
        let cache = self.cache();
        self.set_aside();
        if cache.dirty.is_empty() {
            return;
        }
        // Its base is kept until it is claimed or the grace is over.
        match self.branch(running, &cache).await {
            Ok(_) => {
                self.kit.world.oracle.lock().count("branches");
                self.disk.lock().asides.clear();
            }
            Err(LogError::Control(Refused::Retired(seq))) => {
                let now = self.kit.sim.now();
                let fenced =
                    self.kit.world.oracle.lock().lives[&running.found.incarnation].opened_at.get(&(running.writer.epoch() + 1)).copied();
                if fenced.is_some_and(|fenced| now - fenced < super::janitor::GRACE) {
                    self.kit.sim.violate(format!("I16: record {seq}, on which a branch stands, was retired within the grace"));
                }
            }
            Err(error) => self.unforeseen("branch", &error),
        }
    }

    /// As the engine does it: the base by what the cache knows, then its claim.
    async fn branch(&self, running: &Running, cache: &Cache) -> Result<Claimed, LogError> {
        let base = match branch::base(&running.reader, cache.head, cache.intent.as_ref().map(|pending| &pending.intent)).await {
            Err(LogError::Retired { .. }) => cache.head,
            found => found?,
        };
        let mut chain = Chain::read(running.reader.site().clone()).await?;
        branch::claim(&mut chain, "controller", self.kit.sim.store_time(), running.writer.epoch(), base.seq).await
    }
}
