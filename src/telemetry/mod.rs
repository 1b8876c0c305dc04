//! Every metric and span name, the registry that counts them, their exporter, and the set-up of the log.
//!
//! A name said outside the code begins with its module: `holdfast_writeback_commits_total`, span `cli.control`. All names
//! are in `names.rs`; a part that counts takes a [`Metrics`] (a component, not a global: two volumes or two tests in one
//! process do not see each other's numbers) and asks it once for its handles:
//!
//! ```ignore
//! let requests = metrics.counter(&names::STORE_REQUESTS, &["put", "stored"]);
//! requests.add(1);
//! ```

mod accept;
mod exporter;
mod histogram;
mod logs;
pub mod names;
mod registry;

pub use accept::Acceptor;
pub use exporter::Exporter;
pub use histogram::Histogram;
pub use logs::{LogFormat, init_logs};
pub use names::{Desc, Kind};
pub use registry::{Counter, Gauge, Metrics};
