//! Proof of a volume's data key between two processes, without showing it: the messages of `proto/peer.proto`.
//!
//! A proof is HKDF-SHA256 of the data key, salted with what one TLS session exports to its two ends alone. So it is of no use in another
//! session, and a question's proof is none for an answer: their labels differ. In a store without encryption everybody who reads the store
//! has the data key, and what is left is the pinned certificate.

use super::seal::Sealer;
use crate::rpc::{HolderAnswer, HolderQuestion, HolderState};
use hkdf::Hkdf;
use sha2::Sha256;

/// What a TLS session exports: its two ends have it, and nobody else.
pub type Session = [u8; 32];

/// A question of somebody who has the data key.
#[must_use]
pub fn ask(sealer: &Sealer, session: &Session) -> HolderQuestion {
    let incarnation = life(sealer);
    HolderQuestion {
        incarnation: incarnation.to_vec().into(),
        proof: of_question(sealer, session, &[]).to_vec().into(),
        ..Default::default()
    }
}

/// The same with a wish for a full commit.
#[must_use]
pub fn wish(sealer: &Sealer, session: &Session, wish: [u8; 16]) -> HolderQuestion {
    let proof = of_question(sealer, session, &wish).to_vec().into();
    HolderQuestion { incarnation: life(sealer).to_vec().into(), proof, wish: wish.to_vec().into() }
}

/// Whether a question is about this life of a volume, and of somebody who has its data key, in this session.
#[must_use]
pub fn is_asked(sealer: &Sealer, session: &Session, question: &HolderQuestion) -> bool {
    question.incarnation[..] == life(sealer) && same(&question.proof, &of_question(sealer, session, &question.wish))
}

/// The answer of somebody who has the data key.
#[must_use]
pub fn answer(sealer: &Sealer, session: &Session, state: HolderState, dirty_bytes: u64) -> HolderAnswer {
    proved(sealer, session, HolderAnswer { state: state.into(), dirty_bytes, ..HolderAnswer::default() })
}

/// An answer with its proof.
#[must_use]
pub fn proved(sealer: &Sealer, session: &Session, answer: HolderAnswer) -> HolderAnswer {
    let proof = of_answer(sealer, session, &answer).to_vec().into();
    HolderAnswer { proof, ..answer }
}

/// Whether an answer, every field of it, is of somebody who has the data key, in this session.
#[must_use]
pub fn is_answered(sealer: &Sealer, session: &Session, answer: &HolderAnswer) -> bool {
    same(&answer.proof, &of_answer(sealer, session, answer))
}

fn of_question(sealer: &Sealer, session: &Session, wish: &[u8]) -> [u8; 32] {
    match wish {
        [] => proof(sealer, session, &[b"holdfast/v1/ask", &life(sealer)]),
        wish => proof(sealer, session, &[b"holdfast/v1/wish", &life(sealer), wish]),
    }
}

fn of_answer(sealer: &Sealer, session: &Session, answer: &HolderAnswer) -> [u8; 32] {
    let (state, dirty_bytes, commit) = (answer.state.to_le_bytes(), answer.dirty_bytes.to_le_bytes(), answer.commit.to_le_bytes());
    match answer.fulfilled {
        0 => proof(sealer, session, &[b"holdfast/v1/answer", &life(sealer), &state, &dirty_bytes]),
        fulfilled => {
            let fulfilled = fulfilled.to_le_bytes();
            proof(sealer, session, &[b"holdfast/v1/fulfilled", &life(sealer), &state, &dirty_bytes, &fulfilled, &commit])
        }
    }
}

fn life(sealer: &Sealer) -> [u8; 16] {
    sealer.incarnation().map(|incarnation| incarnation.0).unwrap_or_default()
}

fn proof(sealer: &Sealer, session: &Session, what: &[&[u8]]) -> [u8; 32] {
    let mut proof = [0; 32];
    // Fails only for outputs of more than 8160 bytes.
    if Hkdf::<Sha256>::new(Some(session), &*sealer.inner.key).expand_multi_info(what, &mut proof).is_err() {
        tracing::error!("HKDF refused 32 bytes of output");
        std::process::abort();
    }
    proof
}

/// All bytes are looked at, however many agree.
fn same(given: &[u8], expected: &[u8; 32]) -> bool {
    given.len() == expected.len() && given.iter().zip(expected).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::seal::Cipher;
    use crate::types::{Incarnation, StoreId};

    fn sealer(key: u8, life: u8) -> Sealer {
        Sealer::new(Cipher::ChaCha20Poly1305, &[key; 32], StoreId([0x80; 16]), Some(Incarnation([life; 16])))
    }

    #[test]
    fn a_question_is_of_its_key_life_and_session() {
        let question = ask(&sealer(7, 1), &[3; 32]);
        assert!(is_asked(&sealer(7, 1), &[3; 32], &question));
        assert!(!is_asked(&sealer(8, 1), &[3; 32], &question), "another key");
        assert!(!is_asked(&sealer(7, 2), &[3; 32], &question), "another life");
        assert!(!is_asked(&sealer(7, 1), &[4; 32], &question), "replayed in another session");
        assert!(!is_asked(&sealer(7, 1), &[3; 32], &HolderQuestion { proof: question.proof.slice(..31), ..question.clone() }));
        assert!(!is_asked(&sealer(7, 1), &[3; 32], &HolderQuestion::default()));
    }

    /// The same by an independent hand: hmac and hashlib of Python.
    #[test]
    fn proofs_are_what_the_prose_says() {
        let sealer = Sealer::new(Cipher::None, &[0; 32], StoreId([0; 16]), Some(Incarnation([0xF0; 16])));
        assert_eq!(hex::encode(ask(&sealer, &[7; 32]).proof), "0cfd91a67a99805650baf95f5e1666ad9a4eb74ed813d3df02e92d1bd0675163");
        assert_eq!(
            hex::encode(answer(&sealer, &[7; 32], HolderState::Draining, 123_456).proof),
            "c1aaedbb3e6ae628e096f5baa83cced3c1ca03e4544b63bb8987d9ab12f1b065"
        );
    }

    #[test]
    fn a_wish_is_of_its_question_alone() {
        let question = wish(&sealer(7, 1), &[3; 32], [5; 16]);
        assert!(is_asked(&sealer(7, 1), &[3; 32], &question));
        for wish in [Vec::new(), vec![6; 16], vec![5; 15]] {
            assert!(!is_asked(&sealer(7, 1), &[3; 32], &HolderQuestion { wish: wish.into(), ..question.clone() }));
        }
        let plain = ask(&sealer(7, 1), &[3; 32]);
        assert!(!is_asked(&sealer(7, 1), &[3; 32], &HolderQuestion { wish: vec![5; 16].into(), ..plain }));
    }

    fn said_nothing() -> HolderAnswer {
        HolderAnswer { state: HolderState::InUse.into(), ..HolderAnswer::default() }
    }

    #[test]
    fn an_answer_is_proved_whole() {
        let said = answer(&sealer(7, 1), &[3; 32], HolderState::Draining, 9);
        assert!(is_answered(&sealer(7, 1), &[3; 32], &said));
        assert!(!is_answered(&sealer(7, 1), &[4; 32], &said), "replayed in another session");
        assert!(!is_answered(&sealer(7, 1), &[3; 32], &HolderAnswer { dirty_bytes: 0, ..said.clone() }));
        assert!(!is_answered(&sealer(7, 1), &[3; 32], &HolderAnswer { state: HolderState::Closed.into(), ..said }));
        let made = proved(&sealer(7, 1), &[3; 32], HolderAnswer { fulfilled: 2, commit: 5, ..said_nothing() });
        assert!(is_answered(&sealer(7, 1), &[3; 32], &made));
        for changed in [HolderAnswer { commit: 6, ..made.clone() }, HolderAnswer { fulfilled: 3, ..made.clone() }] {
            assert!(!is_answered(&sealer(7, 1), &[3; 32], &changed));
        }
        let reflected = HolderAnswer { proof: ask(&sealer(7, 1), &[3; 32]).proof, ..HolderAnswer::default() };
        assert!(!is_answered(&sealer(7, 1), &[3; 32], &reflected), "a question's proof is none of an answer");
    }
}
