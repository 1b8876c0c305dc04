//! The keeper on a socket of its own, with pipes in place of devices: a pipe whose reader is gone is an error to a poll, as a device is
//! whose mount is gone.

use super::line::{receive, send};
use super::server::{Keeper, Options};
use super::wire::{Answer, LINES_MAX, MESSAGE_MAX, MOUNTS_MAX, Record, Request, Restart, Standing};
use nix::sys::socket::{AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, getsockname, listen, recv, socket};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

struct Peer(OwnedFd);

impl Peer {
    fn raw(&self, packet: &[u8]) {
        send(self.0.as_fd(), packet, None).unwrap();
    }

    fn with(&self, request: &Request, beside: Option<&OwnedFd>) -> Option<(Answer, Option<OwnedFd>)> {
        send(self.0.as_fd(), &request.encode().unwrap(), beside.map(AsFd::as_fd)).unwrap();
        let (packet, beside) = receive(self.0.as_fd(), MsgFlags::empty()).unwrap()?;
        Some((Answer::decode(&packet).unwrap(), beside))
    }

    fn ask(&self, request: &Request) -> Answer {
        self.with(request, None).expect("an answer").0
    }

    fn list(&self) -> Vec<Standing> {
        match self.ask(&Request::List(0)) {
            Answer::List(_, list, false) => list,
            other => panic!("{other:?}"),
        }
    }

    // Until the keeper hangs up.
    fn ended(&self) -> bool {
        matches!(recv(self.0.as_raw_fd(), &mut [0; 64], MsgFlags::empty()), Ok(0) | Err(nix::errno::Errno::ECONNRESET))
    }
}

struct Rig {
    address: UnixAddr,
}

impl Rig {
    // An abstract address: nothing to tidy up. Ends with the process.
    fn new(now: fn() -> u64) -> Self {
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new_unnamed()).unwrap();
        let address = getsockname(listener.as_raw_fd()).unwrap();
        listen(&listener, Backlog::new(64).unwrap()).unwrap();
        let keeper = Keeper::new(listener, Options { stay: true, now }).unwrap();
        std::thread::spawn(|| keeper.run().unwrap());
        Self { address }
    }

    fn peer(&self) -> Peer {
        let stream = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        connect(stream.as_raw_fd(), &self.address).unwrap();
        Peer(stream)
    }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap()
}

fn record(dir: &str) -> Record {
    Record { dir: dir.into(), volume: b"test/a".to_vec(), cache: b"/cache".to_vec(), init: vec![1, 2, 3], restart: None }
}

fn calm() -> u64 {
    0
}

#[test]
fn a_descriptor_comes_back_with_its_record() {
    let rig = Rig::new(calm);
    let (reader, writer) = pipe();
    let first = rig.peer();
    assert_eq!(first.ask(&Request::Take(b"/a".to_vec())), Answer::Nothing);
    assert_eq!(first.with(&Request::Keep(record("/a")), Some(&writer)).unwrap().0, Answer::Done);
    assert_eq!(first.ask(&Request::Serves(b"/a".to_vec(), 77, b"well".to_vec())), Answer::Done);
    let second = rig.peer();
    // Attended: nobody else gets it, or puts another in its place.
    assert_eq!(second.ask(&Request::Take(b"/a".to_vec())), Answer::Busy(std::process::id()));
    assert_eq!(second.with(&Request::Keep(record("/a")), Some(&writer)).unwrap().0, Answer::Busy(std::process::id()));
    assert_eq!(second.list()[0].driver, 77);
    drop((first, writer));
    while second.list()[0].attendant != 0 {}
    let (answer, device) = second.with(&Request::Take(b"/a".to_vec()), None).unwrap();
    assert_eq!(answer, Answer::Kept(record("/a"), 77));
    File::from(device.unwrap()).write_all(b"x").unwrap();
    let mut byte = [0];
    File::from(reader).read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"x");
    assert_eq!(second.ask(&Request::LetGo(b"/a".to_vec())), Answer::Done);
    assert!(second.list().is_empty());
}

#[test]
fn what_is_no_message_ends_its_line_and_no_other() {
    let rig = Rig::new(calm);
    let good = rig.peer();
    let (_reader, writer) = pipe();
    assert_eq!(good.with(&Request::Keep(record("/a")), Some(&writer)).unwrap().0, Answer::Done);
    let take = Request::Take(b"/a".to_vec()).encode().unwrap();
    let mut other_version = take.clone();
    other_version[4] = 9;
    let mut no_kind = take.clone();
    no_kind[6] = 99;
    let mut longer = take.clone();
    longer[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut words =
        Request::Keep(Record { restart: Some(Restart { arguments: vec![b"x".to_vec()], ..Restart::default() }), ..record("/b") })
            .encode()
            .unwrap();
    let end = words.len();
    words[end - 4..].copy_from_slice(&u32::MAX.to_le_bytes());
    let one_more = [take.as_slice(), b"x"].concat();
    let too_long = vec![0; MESSAGE_MAX + 1];
    for packet in [b"x".as_slice(), &take[..take.len() - 1], &one_more, &other_version, &no_kind, &longer, &words, &too_long] {
        let bad = rig.peer();
        bad.raw(packet);
        assert!(bad.ended(), "{:?}", &packet[..packet.len().min(16)]);
    }
    // More descriptors than one.
    let bad = rig.peer();
    let fds = [writer.as_raw_fd(), writer.as_raw_fd()];
    let rights = [nix::sys::socket::ControlMessage::ScmRights(&fds)];
    nix::sys::socket::sendmsg::<()>(bad.0.as_raw_fd(), &[std::io::IoSlice::new(&take)], &rights, MsgFlags::empty(), None).unwrap();
    assert!(bad.ended());
    assert!(matches!(good.ask(&Request::Keep(record("/b"))), Answer::Refused(_)), "without its descriptor");
    assert_eq!(good.list().len(), 1);
}

#[test]
fn random_bytes_end_the_line_and_never_the_keeper() {
    let rig = Rig::new(calm);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let good = Request::Serves(b"/a".to_vec(), 7, b"note".to_vec()).encode().unwrap();
    for _ in 0..2000 {
        let mut packet = good.clone();
        for _ in 0..3 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (state >> 33) as usize % packet.len();
            packet[at] = (state >> 17) as u8;
        }
        let peer = rig.peer();
        peer.raw(&packet);
        match receive(peer.0.as_fd(), MsgFlags::empty()).ok().flatten() {
            Some((answer, _)) => assert!(Answer::decode(&answer).is_ok()),
            None => assert!(Request::decode(&packet).is_err()),
        }
    }
    assert!(rig.peer().list().is_empty());
}

#[test]
fn limits_hold() {
    let rig = Rig::new(calm);
    let (_reader, writer) = pipe();
    let peer = rig.peer();
    for n in 0..MOUNTS_MAX {
        let long = Record { dir: format!("/{n}/{}", "x".repeat(4000)).into_bytes(), ..record("") };
        assert_eq!(peer.with(&Request::Keep(long), Some(&writer)).unwrap().0, Answer::Done);
    }
    assert!(matches!(peer.with(&Request::Keep(record("/more")), Some(&writer)).unwrap().0, Answer::Refused(_)));
    // The list comes in parts.
    let mut seen = 0;
    loop {
        match peer.ask(&Request::List(seen)) {
            Answer::List(_, some, more) => {
                seen += some.len() as u32;
                if !more {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen as usize, MOUNTS_MAX);
    // As many lines as there may be: the next is heard when one ends.
    let mut lines: Vec<Peer> = (1..LINES_MAX).map(|_| rig.peer()).collect();
    for line in &lines {
        assert_eq!(line.ask(&Request::LetGo(b"/none".to_vec())), Answer::Done);
    }
    let late = rig.peer();
    late.raw(&Request::LetGo(b"/none".to_vec()).encode().unwrap());
    assert!(recv(late.0.as_raw_fd(), &mut [0; 64], MsgFlags::MSG_DONTWAIT).is_err());
    lines.pop();
    assert!(receive(late.0.as_fd(), MsgFlags::empty()).unwrap().is_some());
}

#[test]
fn a_mount_that_nobody_attends_is_looked_after_until_it_is_gone() {
    let rig = Rig::new(calm);
    let dir = std::env::temp_dir().join(format!("holdfast-keeper-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let (reader, writer) = pipe();
    let said = std::process::Command::new("mkfifo").arg(dir.join("said")).status().unwrap();
    assert!(said.success());
    let shell = ["/bin/sh", "-c", "{ pwd; echo \"$NAME $0\"; } > said", "word word"];
    let restart = Restart {
        cwd: dir.as_os_str().as_encoded_bytes().to_vec(),
        log: dir.join("log").into_os_string().into_encoded_bytes(),
        arguments: shell.map(|word| word.as_bytes().to_vec()).to_vec(),
        environment: vec![b"NAME=a=b".to_vec()],
    };
    let peer = rig.peer();
    assert_eq!(peer.with(&Request::Keep(Record { restart: Some(restart), ..record("/a") }), Some(&writer)).unwrap().0, Answer::Done);
    drop((peer, writer));
    // Started with its own words, environment and directory; it blocks until we read.
    let told = std::fs::read_to_string(dir.join("said")).unwrap();
    assert_eq!(told, format!("{}\na=b word word\n", dir.display()));
    let peer = rig.peer();
    assert_eq!(peer.list()[0].starts, 1);
    assert!(matches!(peer.ask(&Request::Retire), Answer::Refused(_)), "the one holder of a mount does not end");
    drop(reader);
    while !peer.list().is_empty() {}
    assert_eq!(peer.ask(&Request::Retire), Answer::Done);
    assert!(peer.ended());
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn what_was_started_for_a_mount_that_was_let_go_is_waited_for() {
    let rig = Rig::new(calm);
    let dir = tempfile::tempdir().unwrap();
    let fifo = |name: &str| {
        let path = dir.path().join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path
    };
    let (said, end) = (fifo("said"), fifo("end"));
    let (_reader, writer) = pipe();
    let restart = Restart {
        cwd: dir.path().as_os_str().as_encoded_bytes().to_vec(),
        log: dir.path().join("log").into_os_string().into_encoded_bytes(),
        arguments: ["/bin/sh", "-c", "echo $$ > said; read line < end"].map(|word| word.as_bytes().to_vec()).to_vec(),
        environment: Vec::new(),
    };
    let peer = rig.peer();
    assert_eq!(peer.with(&Request::Keep(Record { restart: Some(restart), ..record("/a") }), Some(&writer)).unwrap().0, Answer::Done);
    drop(peer);
    let child = std::fs::read_to_string(said).unwrap().trim().to_owned();
    let peer = rig.peer();
    assert_eq!(peer.ask(&Request::LetGo(b"/a".to_vec())), Answer::Done);
    std::fs::write(end, "now\n").unwrap();
    // Until it has ended: a zombie, or nothing any more.
    let stat = format!("/proc/{child}/stat");
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        std::thread::yield_now();
    }
    // The keeper looks behind each request; the second one is answered after the look behind the first.
    assert!(peer.list().is_empty());
    assert!(peer.list().is_empty());
    assert!(!std::path::Path::new(&stat).exists(), "a zombie is left");
}
