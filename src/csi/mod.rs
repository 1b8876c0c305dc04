//! CSI requests in, CSI statuses out; no storage logic.
//!
//! | file | |
//! |---|---|
//! | `server.rs` | the socket, and which method is which |
//! | `identity.rs`, `controller.rs`, `snapshot.rs`, `node.rs` | the three services |
//! | `probe.rs` | whether another process answers |
//! | `valid.rs` | fields of requests: pure |
//! | `status.rs` | what became of a request -> its status |
//!
//! Only capabilities that are here are advertised. A request is carried out to its end although its caller went away, so that what holds a
//! volume's lock is at work; secrets in requests are not used and never logged.

mod controller;
mod identity;
mod node;
mod probe;
mod server;
mod snapshot;
mod status;
mod valid;

#[cfg(test)]
mod tests;

pub use probe::probe;
pub use server::{Server, serve};
pub use status::code;

use crate::controller::Controller;
use crate::node::Node;
use crate::types::{Fault, FaultKind};
use std::sync::Arc;
use std::time::Duration;

/// The name of the driver in a cluster.
pub const DRIVER: &str = "csi.holdfast.dev";
/// A decision of the controller takes so long at most: then nothing is known, and the caller asks again.
const DECISION_MAX: Duration = Duration::from_secs(10);

/// A clone takes so long at most: its metadata is written anew.
const CLONE_MAX: Duration = Duration::from_secs(600);

/// What one process answers for.
#[derive(Debug, Clone)]
pub struct Service {
    name: String,
    decides: bool,
    controller: Arc<Controller>,
    node: Option<Arc<Node>>,
}

impl Service {
    /// Under a driver's name: as the controller when `decides`, and as a node when there is one.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`]: the name is none.
    pub fn new(name: &str, decides: bool, controller: Arc<Controller>, node: Option<Arc<Node>>) -> Result<Self, Fault> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
        let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        if name.len() > 63 || !name.bytes().all(plain) || !ends(name.bytes().next()) || !ends(name.bytes().last()) {
            let why = format!("`{}` is no name of a driver: 63 letters, digits, `.` and `-` at most", name.escape_debug());
            return Err(Fault::new(FaultKind::Invalid, why));
        }
        Ok(Self { name: name.to_owned(), decides, controller, node })
    }
}
