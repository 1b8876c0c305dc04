//! Named places where a test can end the process, as `kill -9` would.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What is armed. A component, not a global: two volumes of one process can have different ones.
///
/// `HOLDFAST_FAILPOINTS=name[:n[:wait]][,name...]` ends the process with SIGKILL at the n-th passage (default 1st) of `name`, or lets
/// the thread that comes there wait until FILE (see below) is gone; it then makes it anew.
/// With `HOLDFAST_FAILPOINTS_ONCE=FILE` only one process ever ends (or waits) so: the one that creates FILE (so that a successor with the same
/// environment lives, and a test can see that the place was reached). Without the variables a passage costs one branch.
#[derive(Clone, Default)]
pub struct Failpoints(Option<Arc<Mutex<HashMap<String, Armed>>>>);

struct Armed {
    passages_left: u64,
    action: Arc<dyn Fn() + Send + Sync>,
}

impl Failpoints {
    /// Nothing armed.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// As the environment says.
    #[must_use]
    pub fn from_environment() -> Self {
        let Ok(text) = std::env::var("HOLDFAST_FAILPOINTS") else { return Self::none() };
        let mut points = Self::none();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let mut words = part.split(':');
            let (name, n, wait) = (words.next().unwrap_or_default(), words.next().unwrap_or("1"), words.next() == Some("wait"));
            let once = std::env::var_os("HOLDFAST_FAILPOINTS_ONCE").map(PathBuf::from);
            let act = move || match &once {
                Some(file) if std::fs::File::create_new(file).is_err() => {}
                Some(file) if wait => wait_for_removal(file),
                _ => kill_self(),
            };
            points = points.arm(name, n.parse().unwrap_or(1), Arc::new(act));
        }
        points
    }

    /// Runs `action` at the n-th passage of `name` from now.
    #[must_use]
    pub fn arm(self, name: &str, n: u64, action: Arc<dyn Fn() + Send + Sync>) -> Self {
        let map = self.0.unwrap_or_default();
        map.lock().insert(name.to_owned(), Armed { passages_left: n.max(1), action });
        Self(Some(map))
    }

    /// Called at the place itself.
    pub fn pass(&self, name: &'static str) {
        let Some(map) = &self.0 else { return };
        let action = {
            let mut map = map.lock();
            let Some(armed) = map.get_mut(name) else { return };
            armed.passages_left -= 1;
            if armed.passages_left > 0 {
                return;
            }
            map.remove(name).map(|armed| armed.action)
        };
        if let Some(action) = action {
            action();
        }
    }
}

impl std::fmt::Debug for Failpoints {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Failpoints")
    }
}

fn kill_self() {
    // A real kill -9, so that no destructor, buffer or lock gets a chance to tidy up.
    let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
    loop {
        std::thread::park();
    }
}

#[allow(clippy::disallowed_methods, reason = "a test holds a real process here, whatever its clock is")]
fn wait_for_removal(file: &Path) {
    while file.exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    // Before this process goes on, so that none after it waits.
    let _ = std::fs::File::create_new(file);
}
