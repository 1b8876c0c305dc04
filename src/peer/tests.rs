//! A desk on the loopback interface: who has the key and the pin is answered, everybody else is not, and costs little.

use super::ask::{connect, converse};
use super::{Answer, Answering, Desk, Heard, Wish, Wished, ask, wish};
use crate::format::proof;
use crate::format::seal::{Cipher, Sealer};
use crate::rpc::{Holder, HolderQuestion};
use crate::types::{Incarnation, StoreId};
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Debug)]
struct Stands(Mutex<Answer>, Mutex<Vec<[u8; 16]>>);

impl Answering for Stands {
    fn answer(&self) -> Answer {
        *self.0.lock()
    }

    /// Made when it is heard for the second time.
    fn wished(&self, wish: [u8; 16]) -> Wish {
        let mut heard = self.1.lock();
        let before = heard.iter().filter(|other| **other == wish).count();
        heard.push(wish);
        [Wish::Pending(7), Wish::Made(5), Wish::Needless][before.min(2)]
    }
}

fn sealer(key: u8, life: u8) -> Sealer {
    Sealer::new(Cipher::ChaCha20Poly1305, &[key; 32], StoreId([0x80; 16]), Some(Incarnation([life; 16])))
}

async fn listening() -> (Desk, Holder) {
    let desk = Desk::start(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let holder =
        Holder { address: desk.address().to_string(), certificate: desk.certificate().as_bytes().to_vec().into(), ..Holder::default() };
    (desk, holder)
}

async fn desk() -> (Desk, Arc<Stands>, Holder) {
    let (desk, holder) = listening().await;
    let stands = Arc::new(Stands(Mutex::new(Answer::InUse), Mutex::default()));
    desk.holds(&sealer(7, 1));
    desk.asks(Arc::clone(&stands) as _);
    (desk, stands, holder)
}

#[track_caller]
fn unknown(heard: Heard, why: &str) {
    match heard {
        Heard::Unknown(text) => assert!(text.contains(why), "{text:?} and not {why:?}"),
        other => panic!("{other:?}, and not unknown because {why:?}"),
    }
}

#[tokio::test]
async fn who_has_the_key_is_answered() {
    let (_desk, stands, holder) = desk().await;
    for answer in [Answer::InUse, Answer::Draining(123_456), Answer::Closed, Answer::NotMine] {
        *stands.0.lock() = answer;
        assert_eq!(ask(&holder, &sealer(7, 1)).await, Heard::Said(answer));
    }
}

#[tokio::test]
async fn wish_is_heard_of_who_has_the_key_and_where_the_volume_is_in_use() {
    let (_desk, stands, holder) = desk().await;
    for became in [Wish::Pending(7), Wish::Made(5), Wish::Needless] {
        assert_eq!(wish(&holder, &sealer(7, 1), [1; 16]).await, Wished::Became(became));
    }
    assert_eq!(wish(&holder, &sealer(7, 1), [2; 16]).await, Wished::Became(Wish::Pending(7)));
    assert!(matches!(wish(&holder, &sealer(8, 1), [3; 16]).await, Wished::Not(Heard::Unknown(why)) if why.contains("no proof")));
    for answer in [Answer::Draining(3), Answer::Closed, Answer::NotMine] {
        *stands.0.lock() = answer;
        assert_eq!(wish(&holder, &sealer(7, 1), [4; 16]).await, Wished::Not(Heard::Said(answer)));
    }
    assert!(matches!(wish(&Holder::default(), &sealer(7, 1), [4; 16]).await, Wished::Not(Heard::Nowhere(_))));
    assert_eq!(stands.1.lock().len(), 4, "who is not in use, or not asked rightly, begins nothing");
}

#[tokio::test]
async fn a_volume_that_is_being_opened_is_in_use() {
    let (desk, holder) = listening().await;
    unknown(ask(&holder, &sealer(7, 1)).await, "not open yet");
    desk.holds(&sealer(7, 1));
    assert_eq!(ask(&holder, &sealer(7, 1)).await, Heard::Said(Answer::InUse));
}

#[tokio::test]
async fn who_has_not_is_told_nothing() {
    let (desk, _stands, holder) = desk().await;
    unknown(ask(&holder, &sealer(8, 1)).await, "no proof");
    unknown(ask(&holder, &sealer(7, 2)).await, "no proof");
    let other = Holder { certificate: vec![9; 32].into(), ..holder.clone() };
    unknown(ask(&other, &sealer(7, 1)).await, "somebody else listens there");
    for nowhere in [Holder::default(), Holder { certificate: vec![9; 5].into(), ..holder.clone() }] {
        assert!(matches!(ask(&nowhere, &sealer(7, 1)).await, Heard::Nowhere(_)));
    }
    // A desk of another process at the same address, with another certificate.
    let address = desk.address();
    drop(desk);
    let stranger = loop {
        match Desk::start(address).await {
            Ok(stranger) => break stranger,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    stranger.holds(&sealer(7, 1));
    unknown(ask(&holder, &sealer(7, 1)).await, "somebody else listens there");
    drop(stranger);
}

#[tokio::test]
async fn a_proof_of_another_session_is_none() {
    let (desk, _stands, _) = desk().await;
    let (of_before, session) = connect(desk.address(), desk.certificate()).await.unwrap();
    let replayed = proof::ask(&sealer(7, 1), &session);
    drop(of_before);
    let (stream, now) = connect(desk.address(), desk.certificate()).await.unwrap();
    assert_ne!(session, now);
    let refused = converse(stream, [replayed]).await.unwrap_err();
    assert!(refused.to_string().contains("no proof"), "{refused}");
}

#[tokio::test]
async fn nobody_tries_proofs() {
    let (desk, _stands, _) = desk().await;
    for first in [None, Some(HolderQuestion::default())] {
        let (stream, session) = connect(desk.address(), desk.certificate()).await.unwrap();
        let right = proof::ask(&sealer(7, 1), &session);
        let asked = [first.clone().unwrap_or_else(|| right.clone()), right];
        let refused = converse(stream, asked).await.unwrap_err().to_string();
        assert!(refused.contains(if first.is_some() { "no proof" } else { "one question for a session" }), "{refused}");
    }
    let long = HolderQuestion { proof: vec![0; 4096].into(), ..HolderQuestion::default() };
    let (stream, _) = connect(desk.address(), desk.certificate()).await.unwrap();
    let refused = converse(stream, [long]).await.unwrap_err().to_string();
    assert!(refused.contains("too large"), "{refused}");
}

#[tokio::test]
async fn hostile_bytes_are_closed_and_hold_up_nobody() {
    let (_desk, _stands, holder) = desk().await;
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 70_000], &[0x16, 3, 1, 0xff, 0xff, 1], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = TcpStream::connect(&holder.address).await.unwrap();
        // It may be closed before all of it is written.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said).await;
        assert!(said.len() < 100, "an alert at the most: {said:?}");
    }
    assert_eq!(ask(&holder, &sealer(7, 1)).await, Heard::Said(Answer::InUse));
    // Connections that say nothing: one place is left.
    let mut silent = Vec::new();
    for _ in 0..7 {
        silent.push(TcpStream::connect(&holder.address).await.unwrap());
    }
    assert_eq!(ask(&holder, &sealer(7, 1)).await, Heard::Said(Answer::InUse));
}
