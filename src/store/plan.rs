//! What to do about time and money, decided purely: when to try again, how long a byte takes, and how far a request budget widens lag.

use super::StoreError;
use super::url::{Bucket, Location, StoreUrl};
use super::wrap::Retries;
use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::time::Duration;

/// What to do after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The error is the caller's.
    GiveUp,
    /// Once more after this pause.
    After(Duration),
}

/// After `attempt` (0: the first) failed, `elapsed` after the first began. `random_below(n)` draws from `0..n`.
pub fn retry(retries: &Retries, error: &StoreError, attempt: u32, elapsed: Duration, random_below: impl FnOnce(u64) -> u64) -> Retry {
    let asked = match error {
        StoreError::Unreachable { .. } => Duration::ZERO,
        StoreError::Throttled { retry_after, .. } => retry_after.unwrap_or_default(),
        // The same request would be refused again.
        StoreError::Denied { .. } | StoreError::NoBucket { .. } | StoreError::Unsupported { .. } => return Retry::GiveUp,
    };
    let bound = retries.first_pause.saturating_mul(1 << attempt.min(20)).min(retries.longest_pause);
    let nanoseconds = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
    // The whole of the pause is left to chance, except what the store asked for.
    let pause = asked.saturating_add(Duration::from_nanos(random_below(nanoseconds.saturating_add(1))));
    if elapsed.saturating_add(pause) >= retries.deadline { Retry::GiveUp } else { Retry::After(pause) }
}

/// A rate of bytes, kept on the average: a debt that time pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    rate: NonZeroU64,
    paid_until: Duration,
}

impl Pace {
    /// Nothing owed.
    #[must_use]
    pub fn new(rate: NonZeroU64) -> Self {
        Self { rate, paid_until: Duration::ZERO }
    }

    /// How long until nothing is owed.
    #[must_use]
    pub fn pause(&self, now: Duration) -> Duration {
        self.paid_until.saturating_sub(now)
    }

    /// `bytes` move now.
    pub fn pay(&mut self, now: Duration, bytes: u64) {
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate.get());
        let time = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        self.paid_until = self.paid_until.max(now).saturating_add(time);
    }
}

/// Requests that a volume which is written all the time may make in an hour, and what one commit takes of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Budget {
    /// `None`: as many as it likes.
    pub requests_per_hour: Option<NonZeroU64>,
}

/// A commit is a pack and a record, when nothing is known yet; what is less is small and counts as much, so that the lag is steady.
const REQUESTS_PER_COMMIT: u64 = 2;
/// So that a commit every 10 s fits.
const CHARGED: u64 = 3600 / 10 * REQUESTS_PER_COMMIT;

impl Budget {
    /// What is kept to when nothing is said: a lag of 10 s on the clouds that charge for each request, no bound on a directory, in
    /// memory or at an endpoint of one's own.
    #[must_use]
    pub fn default_for(url: &StoreUrl) -> Self {
        let charged = match &url.location {
            Location::File(_) | Location::Memory => false,
            Location::Gcs(Bucket { endpoint: None, .. }) | Location::Azure(Bucket { endpoint: None, .. }) => true,
            Location::S3(bucket) | Location::Gcs(bucket) | Location::Azure(bucket) => bucket.endpoint.as_deref().is_none_or(charges),
        };
        Self { requests_per_hour: if charged { NonZeroU64::new(CHARGED) } else { None } }
    }

    /// The lag in force: what the policy asks for, or longer where the budget does not allow that. `spent` is what this volume's
    /// newest commits took: (requests, commits), see [`Spending`].
    #[must_use]
    pub fn lag(&self, asked: Duration, spent: (u64, u64)) -> Duration {
        let Some(per_hour) = self.requests_per_hour else { return asked };
        let (requests, commits) = spent;
        let per_commit = if commits == 0 { REQUESTS_PER_COMMIT } else { requests.div_ceil(commits).max(REQUESTS_PER_COMMIT) };
        let nanoseconds = u128::from(per_commit) * 3_600_000_000_000 / u128::from(per_hour.get());
        asked.max(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)))
    }
}

/// What the newest commits took of a budget. Each request widens the lag of the commits after it by its own share of an hour, so
/// that a checkpoint is paid for too, and by many commits.
#[derive(Debug, Clone, Default)]
pub struct Spending {
    newest: VecDeque<u64>,
}

/// Commits that one commit's requests are spread over.
const COMMITS: usize = 32;

impl Spending {
    /// A commit took so many requests, those of attempts that failed before it included.
    pub fn commit(&mut self, requests: u64) {
        if self.newest.len() == COMMITS {
            self.newest.pop_front();
        }
        self.newest.push_back(requests);
    }

    /// (requests, commits) for [`Budget::lag`].
    #[must_use]
    pub fn spent(&self) -> (u64, u64) {
        (self.newest.iter().sum(), self.newest.len() as u64)
    }
}

/// Whether an endpoint belongs to a cloud that charges for each request.
fn charges(endpoint: &str) -> bool {
    let host = url::Url::parse(endpoint).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    let of = |domain: &str| host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    ["amazonaws.com", "amazonaws.com.cn", "googleapis.com", "core.windows.net", "r2.cloudflarestorage.com"].into_iter().any(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable() -> StoreError {
        StoreError::Unreachable { verb: "get", name: "n".to_owned(), why: "x".to_owned() }
    }

    #[test]
    fn pauses_grow_to_their_bound_and_end_with_the_deadline() {
        let retries =
            Retries { deadline: Duration::from_secs(10), first_pause: Duration::from_millis(100), longest_pause: Duration::from_secs(1) };
        let longest = |attempt| retry(&retries, &unreachable(), attempt, Duration::ZERO, |below| below - 1);
        assert_eq!(longest(0), Retry::After(Duration::from_millis(100)));
        assert_eq!(longest(2), Retry::After(Duration::from_millis(400)));
        assert_eq!(longest(9), Retry::After(Duration::from_secs(1)));
        assert_eq!(longest(4_000_000_000), Retry::After(Duration::from_secs(1)));
        assert_eq!(retry(&retries, &unreachable(), 9, Duration::ZERO, |_| 0), Retry::After(Duration::ZERO));
        assert_eq!(retry(&retries, &unreachable(), 0, Duration::from_secs(10), |_| 0), Retry::GiveUp);
    }

    #[test]
    fn what_the_store_asks_for_is_waited_for_and_a_refusal_is_not() {
        let retries = Retries::default();
        let asks = |retry_after| StoreError::Throttled { verb: "get", name: "n".to_owned(), retry_after };
        let seven = Some(Duration::from_secs(7));
        assert_eq!(retry(&retries, &asks(seven), 0, Duration::ZERO, |_| 0), Retry::After(Duration::from_secs(7)));
        assert_eq!(retry(&retries, &asks(seven), 0, Duration::from_secs(55), |_| 0), Retry::GiveUp);
        let denied = StoreError::Denied { verb: "get", name: "n".to_owned(), why: "x".to_owned() };
        assert_eq!(retry(&retries, &denied, 0, Duration::ZERO, |_| 0), Retry::GiveUp);
        assert_eq!(retry(&retries, &StoreError::NoBucket { what: "b".to_owned() }, 0, Duration::ZERO, |_| 0), Retry::GiveUp);
    }

    #[test]
    fn bytes_are_paid_for_with_time() {
        let mut pace = Pace::new(NonZeroU64::new(1000).expect("not zero"));
        let at = Duration::from_secs;
        assert_eq!(pace.pause(at(5)), Duration::ZERO);
        pace.pay(at(5), 3000);
        pace.pay(at(5), 1000);
        assert_eq!(pace.pause(at(5)), at(4));
        assert_eq!(pace.pause(at(8)), at(1));
        pace.pay(at(20), 1000);
        assert_eq!(pace.pause(at(20)), at(1), "idle time is not saved up");
        pace.pay(at(20), u64::MAX);
        assert!(pace.pause(at(20)) > at(1_000_000));
    }

    #[test]
    fn a_budget_widens_lag_where_requests_cost() {
        let budget = |url: &str| Budget::default_for(&StoreUrl::parse(url).expect(url));
        let second = Duration::from_secs(1);
        for free in [
            "memory:",
            "file:///srv",
            "s3://bucket?endpoint=http://127.0.0.1:9000",
            "s3://bucket?endpoint=https://notamazonaws.com",
            "az://con?account=a&endpoint=http://127.0.0.1:10000/a",
        ] {
            assert_eq!(budget(free).lag(second, (0, 0)), second, "{free}");
        }
        for charged in ["s3://bucket?region=eu-west-1", "s3://bucket?endpoint=https://s3.eu-west-1.amazonaws.com", "gs://bucket"] {
            assert_eq!(budget(charged).lag(second, (0, 0)), Duration::from_secs(10), "{charged}");
        }
        let budget = Budget { requests_per_hour: NonZeroU64::new(360) };
        assert_eq!(budget.lag(second, (100, 50)), Duration::from_secs(20));
        assert_eq!(budget.lag(second, (101, 50)), Duration::from_secs(30), "a part of a request is a request");
        assert_eq!(budget.lag(second, (32, 32)), Duration::from_secs(20), "never below that of the first commit");
        assert_eq!(budget.lag(Duration::from_secs(60), (100, 50)), Duration::from_secs(60));
        // Always writing with that lag for an hour costs no more than the budget.
        assert!(3600 / budget.lag(second, (100, 50)).as_secs() * 2 <= 360);
    }

    #[test]
    fn every_request_is_paid_for_by_the_commits_after_it() {
        let budget = Budget { requests_per_hour: NonZeroU64::new(720) };
        let (mut spending, mut now, mut requests) = (Spending::default(), Duration::ZERO, 0);
        for commit in 0..2000u64 {
            // A checkpoint after each 128 commits.
            let took = if commit % 128 == 127 { 40 } else { 2 };
            requests += took;
            spending.commit(took);
            now += budget.lag(Duration::from_secs(1), spending.spent());
        }
        let hours = now.as_secs_f64() / 3600.0;
        assert!(f64::from(u32::try_from(requests).unwrap()) <= 720.0 * hours, "{requests} in {hours} h");
        assert_eq!(spending.spent().1, COMMITS as u64);
    }
}
