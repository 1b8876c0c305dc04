//! A machine that is cut off from the store, or hears of its puts late, or has a wrong clock: never two histories.

use super::*;
use crate::harness::s3::S3Server;
use parking_lot::Mutex;
use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// The way between one machine and the store, which the test can cut.
pub(super) struct Way {
    port: u16,
    mode: Arc<AtomicU8>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

pub(super) const PASS: u8 = 0;
/// Requests arrive, replies wait.
const DEAF: u8 = 1;
/// Nothing passes; what was held is lost.
const CUT: u8 = 2;
/// About a megabyte a second passes on the way there.
pub(super) const TRICKLE: u8 = 3;

impl Way {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let way = Self { port: listener.local_addr().expect("its address").port(), mode: Arc::default(), streams: Arc::default() };
        let (mode, streams) = (Arc::clone(&way.mode), Arc::clone(&way.streams));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if mode.load(Ordering::SeqCst) == CUT {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let twin = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
                streams.lock().extend([twin(&client), twin(&server)]);
                let (mode, up) = (Arc::clone(&mode), (twin(&client), twin(&server)));
                let narrow = Arc::clone(&mode);
                std::thread::spawn(move || {
                    carry(up.0, up.1, || {
                        if narrow.load(Ordering::SeqCst) == TRICKLE {
                            std::thread::sleep(Duration::from_millis(60));
                        }
                    });
                });
                std::thread::spawn(move || {
                    carry(server, client, || {
                        while mode.load(Ordering::SeqCst) == DEAF {
                            std::thread::sleep(Duration::from_millis(2));
                        }
                    });
                });
            }
        });
        way
    }

    pub(super) fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
        if mode == CUT {
            self.streams.lock().drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, wait: impl Fn()) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        wait();
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// A store on a server, and the way of the first machine to it.
pub(super) fn apart() -> (Rig, S3Server, Way, String) {
    let server = S3Server::start();
    let url = server.url("two");
    let port: u16 = server.endpoint().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let way = Way::to(port);
    let by_way = url.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{}", way.port));
    (Rig::on(url), server, way, by_way)
}

#[test]
fn cut_off_and_taken_over() {
    let (rig, _server, way, by_way) = apart();
    let first = rig.mount_with("first", |command| {
        slow(&rig)(command);
        command.env("HOLDFAST_STORE", &by_way);
    });
    committed(&rig, "first", &first.root);
    tail(&first.root, 101);
    way.set(CUT);
    let mut flush = rig.prepare("first", &["flush", &first.root.display().to_string()]).spawn().expect("holdfast starts");
    let second = overtaken(&rig);
    // Nothing is known on the first one's side: it goes on, and its fsync means its own disk.
    until("status tells that the store is gone", Some(&first), || !rig.status("first").1["status"]["store_trouble"].is_null());
    way.set(PASS);
    assert!(!flush.wait().expect("its status").success(), "acknowledged outside the surviving history");
    until_safe(&rig, 1, Some(&first));
    unmount_fenced(&rig, "first", first, 1);
    gives_back(&rig, 1, 101);
    let history = rig.history("second");
    assert!(history.windows(2).all(|pair| pair[0] == pair[1] + 1), "{history:?}");
    rig.unmount("second", second);
}

#[test]
fn put_that_is_acknowledged_late() {
    let (rig, _server, way, by_way) = apart();
    let first = rig.mount_with("first", |command| {
        slow(&rig)(command);
        command.env("HOLDFAST_STORE", &by_way);
    });
    fs::write(first.root.join("early"), "early").expect("write");
    let early = rig.flush("first");
    synced(&first.root.join("late"), b"landed, and nobody here knows");
    way.set(DEAF);
    let mut flush = rig.prepare("first", &["flush", &first.root.display().to_string()]).spawn().expect("holdfast starts");
    until("the commit is in the log", Some(&first), || rig.history("second").first().is_some_and(|newest| *newest > early));
    let second = rig.mount_with("second", take_over);
    assert_eq!(fs::read(second.root.join("late")).expect("it is part of the one history"), b"landed, and nobody here knows");
    synced(&second.root.join("other"), b"of the second");
    rig.flush("second");
    // The reply never comes; the same put is tried again, and finds itself there.
    way.set(CUT);
    way.set(PASS);
    flush.wait().expect("its status");
    synced(&first.root.join("after"), b"of nobody");
    assert!(!rig.run("first", &["flush", &first.root.display().to_string()]).status.success());
    until_safe(&rig, 1, Some(&first));
    let shown = json(&rig, &["branch", "show", VOLUME, "1"]);
    let paths: Vec<&str> = shown["differences"].as_array().expect("a list").iter().filter_map(|path| path["path"].as_str()).collect();
    assert!(paths == ["/after"] || paths == ["/after", "/late"], "{shown}");
    assert_eq!(succeed(&rig, &["cat", &format!("{VOLUME}:after"), "--branch", "1"]), "of nobody");
    unmount_fenced(&rig, "first", first, 1);
    assert!(!second.root.join("after").exists());
    rig.unmount("second", second);
}

#[test]
fn clock_of_the_fenced_machine_jumps() {
    const YEAR: i64 = 365 * 86_400;
    for shift in [YEAR, -YEAR] {
        let rig = Rig::new();
        let (library, clock) = (rig.path("shift.so"), rig.path("shift"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bad_days/shift.c");
        crate::harness::command::run("cc", ["-shared", "-fPIC", "-O1", "-o", &library.display().to_string(), source]);
        fs::write(&clock, 0i64.to_le_bytes()).expect("write");
        let first = rig.mount_with("first", |command| {
            slow(&rig)(command);
            command.env("LD_PRELOAD", &library).env("SHIFT_CLOCK", &clock);
        });
        committed(&rig, "first", &first.root);
        tail(&first.root, 111);
        signal(&first, Signal::SIGSTOP);
        let second = overtaken(&rig);
        // The same file, so that who has it mapped sees it at once.
        let set = File::options().write(true).open(&clock).expect("open");
        std::os::unix::fs::FileExt::write_all_at(&set, &shift.to_le_bytes(), 0).expect("set the clock");
        signal(&first, Signal::SIGCONT);
        assert!(!rig.run("first", &["flush", &first.root.display().to_string()]).status.success());
        until_safe(&rig, 1, Some(&first));
        unmount_fenced(&rig, "first", first, 1);
        gives_back(&rig, 1, 111);
        rig.unmount("second", second);
    }
}
