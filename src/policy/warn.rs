//! What a policy can do to a database that its writer may not have meant: said by `policy check`, refused by nobody.

use super::rule::Pattern;
use super::{Policy, Tier};
use std::collections::BTreeSet;

/// SQLite keeps these beside a database: one is of no use without the other.
const COMPANIONS: [&str; 3] = ["-wal", "-journal", "-shm"];
/// How databases are called that a pattern may mean.
const NAMES: [&str; 4] = ["x.db", "x.db3", "x.sqlite", "x.sqlite3"];

impl Policy {
    /// Sentences for people, each about one thing; empty: nothing to say.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.newer_than_scheduled().into_iter().chain(self.parted_companions()).collect()
    }

    /// Commits of other tiers leave `scheduled` as it was: what names files there may name some that the commit does not have.
    fn newer_than_scheduled(&self) -> Option<String> {
        let other = self.rules.iter().find(|rule| !matches!(rule.tier, Tier::Scheduled(_) | Tier::Local))?;
        let scheduled = self.rules.iter().find(|rule| matches!(rule.tier, Tier::Scheduled(_))).filter(|_| self.schedules_by_name())?;
        Some(format!(
            "a commit may show what line {} decides as of now, and what line {} decides as of its last time: a database of the first that names \
             files of the second may name some that the commit does not hold (a full commit holds both; `flush` makes one)",
            other.line, scheduled.line
        ))
    }

    /// A database and what belongs to it in two tiers: found by trying the names that the patterns have, and usual ones in their directories.
    fn parted_companions(&self) -> Vec<String> {
        let mut tried = BTreeSet::new();
        let mut found = Vec::new();
        for rule in self.rules.iter() {
            let Pattern::Glob(_) = rule.pattern else { continue };
            let pattern = sample(rule.text.split_whitespace().next().unwrap_or_default());
            let (above, last) = pattern.rsplit_once('/').unwrap_or(("", pattern.as_str()));
            let dirs = [above, pattern.as_str()];
            let usual = dirs.iter().flat_map(|dir| NAMES.map(|name| format!("{dir}/{name}")));
            let own = is_database(last).then(|| pattern.clone());
            for path in own.into_iter().chain(usual) {
                let path = path.trim_start_matches('/').to_owned();
                if tried.insert(path.clone()) {
                    found.extend(self.parted(&path));
                }
            }
        }
        // One sentence for each pair of rules.
        let mut pairs = BTreeSet::new();
        found.into_iter().filter(|(lines, _)| pairs.insert(*lines)).map(|(_, said)| said).collect()
    }

    fn parted(&self, path: &str) -> Option<((usize, usize), String)> {
        let of = |path: &str| self.explain(path.as_bytes(), false, &mut |_| false);
        let own = of(path);
        let companion = COMPANIONS.iter().map(|end| format!("{path}{end}")).find(|other| of(other).tier.domain() != own.tier.domain())?;
        let other = of(&companion);
        let said = format!(
            "`{path}` is {} (line {}), and `{companion}` is {} (line {}): a database and its companions belong in one tier",
            own.tier, own.line, other.tier, other.line
        );
        Some(((own.line, other.line), said))
    }
}

/// A path that a pattern matches, as far as that is easily told.
fn sample(pattern: &str) -> String {
    let mut sample = String::new();
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' => sample.extend(rest.next()),
            '*' => {
                while rest.next_if_eq(&'*').is_some() {}
                sample.push('x');
            }
            '?' => sample.push('x'),
            '[' => sample.extend(rest.by_ref().take_while(|c| *c != ']').find(|c| c.is_alphanumeric())),
            '{' => {
                let all: String = rest.by_ref().take_while(|c| *c != '}').collect();
                sample.push_str(all.split(',').next().unwrap_or_default());
            }
            c => sample.push(c),
        }
    }
    sample.trim_matches('/').to_owned()
}

fn is_database(name: &str) -> bool {
    let end = name.rsplit_once('.').map_or("", |(_, end)| end);
    ["db", "db3", "sqlite", "sqlite3", "s3db"].iter().any(|known| end.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(policy: &str) -> Vec<String> {
        Policy::parse(policy).unwrap().warnings()
    }

    #[test]
    fn databases_are_warned_of_that_lose_their_companions() {
        for policy in [
            "*.db strict\n* continuous 1s",
            "*.db-wal local\n* continuous 1s",
            "/app/main.sqlite strict\n* debounced",
            "/app/*.{sqlite3,db} strict\n* continuous 1s",
            "a/**/*.db-* local\n* continuous 1s",
        ] {
            let said = warnings(policy);
            assert!(said.len() == 1 && said[0].contains("belong in one tier"), "{policy}: {said:?}");
        }
        assert_eq!(warnings("*-journal local\n/x/ debounced\n* continuous 1s").len(), 2, "one for each pair of rules");
        let said = warnings("*.db strict\n* continuous 1s");
        let want = "`x.db` is strict wait=30s (line 1), and `x.db-wal` is continuous 1s (line 2): a database and its companions belong in one tier";
        assert_eq!(said, [want]);
    }

    #[test]
    fn nothing_is_said_of_what_belongs_together() {
        for policy in [
            "* continuous 1s",
            "*.db* strict\n* continuous 1s",
            "*.{db,db-wal,db-shm,db-journal} strict\n* continuous 1s",
            "/app/ strict\n* continuous 1s",
            "*.log local\n* continuous 1s",
            "*.db continuous 200ms\n* continuous 5s",
            "* scheduled @daily",
            "/tmp/ local\n* scheduled @daily",
        ] {
            assert_eq!(warnings(policy), [""; 0], "{policy}");
        }
    }

    #[test]
    fn what_may_be_newer_than_the_files_it_names_is_said() {
        let said = warnings("/media/ scheduled @daily\n/tmp/ local\n* continuous 1s");
        assert!(
            said.len() == 1 && said[0].starts_with("a commit may show what line 3 decides as of now, and what line 1 decides as of"),
            "{said:?}"
        );
        assert_eq!(warnings(crate::policy::preset::preset("media").unwrap().text).len(), 1);
        for name in ["config", "ledger"] {
            assert_eq!(warnings(crate::policy::preset::preset(name).unwrap().text), [""; 0], "{name}");
        }
    }
}
