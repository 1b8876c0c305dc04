//! A long read of an old commit, under a claim that expires: what it needs is there until then, by the store's clock. Afterwards a missing
//! object is explained by the control chain, never taken for damage; and who claims again before a `release` is stored goes on reading.

use super::engine::{base_of, tree_at};
use super::exec::{DAY, HOUR, MINUTE, SECOND};
use super::node::{Node, Running, Stop};
use super::tree::Tree;
use holdfast::log::control::{Chain, Refused};
use holdfast::log::{At, LogError, Site};
use holdfast::rpc::Claim;
use holdfast::rpc::control_record::Kind as Control;
use holdfast::types::Seq;

impl Node {
    /// Claims a commit for a while, reads it, and looks again and again whether it is still there.
    pub(super) async fn read_along(&self, running: &mut Running) -> Result<(), Stop> {
        if self.cache().head.seq < 2 {
            return Ok(());
        }
        let site = running.reader.site().clone();
        let seq = self.kit.sim.between(1, self.cache().head.seq - 1);
        let Some((mut claim, mut expires)) = self.claim_for_a_while(&site, seq).await else { return Ok(()) };
        let At::Record(record) = running.reader.at(seq).await? else { return self.missed(&site, claim, expires, "its record").await };
        let Some(base) = base_of(&running.reader, seq).await? else { return self.missed(&site, claim, expires, "a record").await };
        let read = tree_at(&running.reader, seq, record.hash, base).await.inspect_err(|error| self.unforeseen("read", error))?;
        let Some((tree, _)) = read else { return self.missed(&site, claim, expires, "what its tree is read from").await };
        self.count("readers");
        for _ in 0..self.kit.sim.between(1, 4) {
            self.wait(running, self.kit.sim.between(MINUTE, 12 * HOUR)).await?;
            if let Some(place) = self.one_missing(&site, &tree).await? {
                return self.missed(&site, claim, expires, &place).await;
            }
            if self.kit.sim.permille(400) {
                // A claim is renewed by a new one, before or after its time; then the old one is released.
                let Some(renewed) = self.claim_for_a_while(&site, seq).await else { return Ok(()) };
                self.count(if self.kit.sim.store_time() > expires { "claims renewed late" } else { "claims renewed" });
                self.release(&site, claim).await;
                (claim, expires) = renewed;
            }
        }
        // Some forget to release it: a janitor does, when its time is over.
        if self.kit.sim.permille(500) {
            self.release(&site, claim).await;
        }
        Ok(())
    }

    fn count(&self, what: &'static str) {
        self.kit.world.oracle.lock().count(what);
    }

    async fn claim_for_a_while(&self, site: &Site, seq: Seq) -> Option<(u64, i64)> {
        let sim = &self.kit.sim;
        let expires = sim.store_time() + sim.between(10 * SECOND, if sim.permille(500) { HOUR } else { 3 * DAY }) as i64;
        let claim = Claim { seq, kind: "reader".into(), name: format!("node-{}", self.kit.id), expires, ..Claim::default() };
        let mut chain = Chain::read(site.clone()).await.inspect_err(|error| self.unforeseen("claim", error)).ok()?;
        match chain.append("controller", sim.store_time(), &|_| Ok(Control::Claim(claim.clone()))).await {
            Ok(number) => Some((number, expires)),
            Err(LogError::Control(Refused::Retired(_))) => {
                self.count("readers told");
                None
            }
            Err(error) => {
                self.unforeseen("claim", &error);
                None
            }
        }
    }

    /// The first place of a tree that is not there, asked by one GET each.
    async fn one_missing(&self, site: &Site, tree: &Tree) -> Result<Option<String>, Stop> {
        for (_, place) in tree.values() {
            match site.store().get(place).await {
                Ok(Some(_)) | Err(_) => {}
                Ok(None) => return Ok(Some(place.clone())),
            }
        }
        Ok(None)
    }

    /// A 404 on a named object: the control chain says why (protocol.md 3).
    async fn missed(&self, site: &Site, claim: u64, expires: i64, what: &str) -> Result<(), Stop> {
        let now = self.kit.sim.store_time();
        if now < expires {
            self.kit.sim.violate(format!("I5: claim {claim} holds until its time, and {what} is gone"));
            return Err(Stop::Exit);
        }
        let chain = Chain::read(site.clone()).await?;
        if chain.state().claims.contains_key(&claim) {
            self.kit.sim.violate(format!("I5: claim {claim} was never released, and {what} is gone"));
            return Err(Stop::Exit);
        }
        self.count("readers told");
        Ok(())
    }
}
