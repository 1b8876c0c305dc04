//! Two machines and the cable between them, which a test can cut: network namespaces of this kernel, made by `ip` (as root).

use super::command::run;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Gone with its value.
pub(crate) struct Cable {
    names: [String; 2],
}

impl Cable {
    /// Two namespaces that reach each other and nothing else.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let cable = Self { names: ["a", "b"].map(|end| format!("holdfast-{}-{number}-{end}", std::process::id())) };
        let [a, b] = cable.names.each_ref().map(String::as_str);
        run("ip", ["netns", "add", a]);
        run("ip", ["netns", "add", b]);
        run("ip", ["link", "add", "cable", "netns", a, "type", "veth", "peer", "name", "cable", "netns", b]);
        for end in 0..2 {
            let (name, address) = (cable.names[end].as_str(), format!("{}/24", Self::address(end)));
            run("ip", ["-n", name, "address", "add", &address, "dev", "cable"]);
            run("ip", ["-n", name, "link", "set", "cable", "up"]);
            run("ip", ["-n", name, "link", "set", "lo", "up"]);
        }
        cable
    }

    /// The address of an end, 0 or 1.
    pub(crate) fn address(end: usize) -> String {
        format!("10.77.0.{}", end + 1)
    }

    /// Nothing passes any more; nobody is told.
    pub(crate) fn cut(&self) {
        run("ip", ["-n", &self.names[0], "link", "set", "cable", "down"]);
    }

    /// It is whole again.
    pub(crate) fn mend(&self) {
        run("ip", ["-n", &self.names[0], "link", "set", "cable", "up"]);
    }

    /// The command runs on the machine at that end, which is called `host`.
    pub(crate) fn on(&self, end: usize, host: &'static str, command: &mut Command) {
        let namespace = File::open(format!("/run/netns/{}", self.names[end])).expect("a network namespace");
        // SAFETY: system calls alone, which allocate nothing, on a descriptor that lives in the closure.
        unsafe {
            command.pre_exec(move || {
                let entered = libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) == 0
                    && libc::unshare(libc::CLONE_NEWUTS) == 0
                    && libc::sethostname(host.as_ptr().cast(), host.len()) == 0;
                if entered { Ok(()) } else { Err(std::io::Error::last_os_error()) }
            });
        }
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "delete", name]).stderr(Stdio::null()).status();
        }
    }
}
