//! Which key ring of a store is in force: the newest that somebody with the store key made.
//!
//! Whoever may create objects can put one under a greater number. Such a ring opens nothing and keeps nobody out: it is passed over, with a
//! warning that names it. A key that was taken out opens older rings still, and is refused by what the newest one proves.

use super::unlock::{Connected, list_all};
use crate::format::keys::{self, Recovery};
use crate::format::{FormatError, names};
use crate::rpc::KeyRing;
use crate::types::{Fault, FaultKind, StoreId, StoreKey};
use bytes::Bytes;

/// The ring in force, opened.
#[derive(Debug)]
pub struct InForce {
    /// The ring.
    pub ring: KeyRing,
    /// What it holds.
    pub key: StoreKey,
    /// The number of the ring that follows: none has it.
    pub next: u64,
}

/// What was read of a store's rings, the newest first.
#[derive(Debug)]
struct Rings {
    store: StoreId,
    identity: Recovery,
    /// Each is a ring and whether the identity opens it, or none at all.
    read: Vec<(u64, Option<KeyRing>, Option<FormatError>)>,
    key: Option<StoreKey>,
}

impl Rings {
    fn new(store: StoreId, identity: &Recovery) -> Self {
        Self { store, identity: identity.clone(), read: Vec::new(), key: None }
    }

    fn add(&mut self, number: u64, bytes: &Bytes) {
        let ring = match keys::decode(bytes, self.store, &names::key_ring(number)) {
            Ok(ring) => ring,
            Err(why) => return self.read.push((number, None, Some(why))),
        };
        let opened = keys::unwrap(&ring, self.store, std::slice::from_ref(&self.identity));
        let why = match opened {
            Ok(key) => {
                self.key = Some(key);
                None
            }
            Err(why) => Some(why),
        };
        self.read.push((number, Some(ring), why));
    }

    /// Where the proven ring that is newest stands; none that is older matters.
    fn proven(&self) -> Option<usize> {
        let key = self.key.as_ref()?;
        self.read.iter().position(|(_, ring, _)| ring.as_ref().is_some_and(|ring| keys::is_proven(ring, key)))
    }

    /// After the last: the ring in force, or why the identity opens nothing. `None`: there is no ring.
    fn choose(self) -> Option<Result<InForce, FormatError>> {
        // Early builds proved nothing: there what opens is believed.
        let at = self.proven().or_else(|| self.read.iter().position(|(.., why)| why.is_none()));
        let next = self.read.first()?.0 + 1;
        // What is no ring at all says nothing of the identity.
        let said = self.read.iter().position(|(_, ring, _)| ring.is_some()).unwrap_or(0);
        let mut read = self.read.into_iter();
        let Some((at, key)) = at.zip(self.key) else { return read.nth(said).and_then(|(.., why)| why).map(Err) };
        for (number, _, why) in read.by_ref().take(at) {
            let (ring, why) = (names::key_ring(number), why.map_or_else(|| "it has no proof".to_owned(), |why| why.to_string()));
            tracing::warn!(ring, why, "a key ring that nobody with the store's key made is passed over: remove the object");
        }
        match read.next()? {
            (_, Some(ring), None) => Some(Ok(InForce { ring, key, next })),
            (.., why) => why.map(Err),
        }
    }
}

/// The ring in force, opened by `identity`; inside, why that does not open it.
///
/// # Errors
/// The store's; there is no ring: `store init` did not get so far, or it was removed.
pub async fn in_force(connected: &Connected, identity: &Recovery) -> Result<Result<InForce, FormatError>, Fault> {
    let mut rings = Rings::new(connected.marker.store, identity);
    for number in numbers(connected).await? {
        if let Some(bytes) = connected.store.get(&names::key_ring(number)).await? {
            rings.add(number, &bytes);
        }
        if rings.proven().is_some() {
            break;
        }
    }
    rings.choose().ok_or_else(|| none(connected))
}

/// A ring to be looked at: the one in force where `identity` opens it, else the newest that is one, which may be anybody's.
///
/// # Errors
/// As [`in_force`].
pub async fn to_show(connected: &Connected, identity: Option<&Recovery>) -> Result<KeyRing, Fault> {
    if let Some(identity) = identity
        && let Ok(InForce { ring, .. }) = in_force(connected, identity).await?
    {
        return Ok(ring);
    }
    let mut first = None;
    for number in numbers(connected).await? {
        let name = names::key_ring(number);
        match connected.store.get(&name).await?.map(|bytes| keys::decode(&bytes, connected.marker.store, &name)) {
            Some(Ok(ring)) => return Ok(ring),
            Some(Err(why)) => first = first.or(Some(why)),
            None => {}
        }
    }
    Err(first.map_or_else(|| none(connected), Into::into))
}

/// The numbers of the rings, the newest first.
async fn numbers(connected: &Connected) -> Result<Vec<u64>, Fault> {
    let listed = list_all(&*connected.store, names::key_rings_prefix()).await?;
    let mut numbers: Vec<u64> = listed.iter().filter_map(|object| names::parse_key_ring(&object.name)).collect();
    numbers.retain(|number| *number < u64::MAX);
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    Ok(numbers)
}

fn none(connected: &Connected) -> Fault {
    let message = format!(
        "the store {} has no key ring ({}): its `store init` was cut short, or the object was removed; if no volume was ever \
         kept there, remove the object `{}` and make the store again",
        connected.url,
        names::key_ring(1),
        names::marker()
    );
    Fault::new(FaultKind::Damaged, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::marker;
    use crate::rpc::Recipient;

    struct World {
        key: StoreKey,
        store: StoreId,
        own: Recovery,
        taken_out: Recovery,
    }

    fn world() -> World {
        let key = StoreKey([7; 32]);
        World { store: marker::store_id(&key), key, own: Recovery::generate(), taken_out: Recovery::generate() }
    }

    fn recipient(of: &Recovery) -> Recipient {
        Recipient { name: "one".into(), public_key: of.recipient(), recovery: true }
    }

    impl World {
        fn ring(&self, number: u64, of: &[&Recovery]) -> KeyRing {
            keys::wrap(&self.key, number, of.iter().map(|of| recipient(of)).collect()).unwrap()
        }

        fn stored(&self, ring: &KeyRing) -> (u64, Bytes) {
            (ring.number, keys::encode(ring, self.store, [1; 32]).unwrap().0)
        }

        fn choose(&self, rings: &[(u64, Bytes)], identity: &Recovery) -> Result<InForce, FormatError> {
            let mut read = Rings::new(self.store, identity);
            rings.iter().rev().for_each(|(number, bytes)| read.add(*number, bytes));
            read.choose().unwrap()
        }
    }

    #[test]
    fn what_nobody_with_the_key_made_is_passed_over() {
        let world = world();
        let one = world.stored(&world.ring(1, &[&world.own]));
        let another = keys::wrap(&StoreKey([9; 32]), 8, vec![recipient(&world.own)]).unwrap();
        let strangers = keys::wrap(&StoreKey([9; 32]), 9, vec![recipient(&Recovery::generate())]).unwrap();
        for bad in [(99_999_999, Bytes::from_static(b"nonsense")), world.stored(&another), world.stored(&strangers)] {
            let number = bad.0;
            let found = world.choose(&[one.clone(), bad], &world.own).unwrap();
            assert_eq!((found.ring.number, found.key == world.key, found.next), (1, true, number + 1));
        }
    }

    #[test]
    fn an_older_ring_under_a_new_number_brings_no_recipient_in() {
        let world = world();
        let (one, two) = (world.ring(1, &[&world.own, &world.taken_out]), world.ring(2, &[&world.own]));
        // Whoever can create objects, without a key: the next `key add` would have wrapped the key for them.
        let mallory = Recovery::generate();
        let forged = KeyRing { number: 3, recipients: vec![recipient(&world.own), recipient(&mallory)], ..one.clone() };
        let rings = [&one, &two, &forged].map(|ring| world.stored(ring));
        let found = world.choose(&rings, &world.own).unwrap();
        assert_eq!((found.ring.number, found.ring.recipients.len(), found.next), (2, 1, 4));
        assert_eq!(world.choose(&rings, &world.taken_out).unwrap_err().kind(), FaultKind::Denied, "not by an older ring either");
    }

    #[test]
    fn rings_of_early_builds_prove_nothing_and_are_believed() {
        let world = world();
        let old = |number, of: &[&Recovery]| KeyRing { proof: Bytes::new(), ..world.ring(number, of) };
        let rings = [world.stored(&old(1, &[&world.own, &world.taken_out])), world.stored(&old(2, &[&world.own, &world.taken_out]))];
        assert_eq!(world.choose(&rings, &world.own).unwrap().ring.number, 2);
        let mended = [rings[0].clone(), rings[1].clone(), world.stored(&world.ring(3, &[&world.own]))];
        assert_eq!(world.choose(&mended, &world.taken_out).unwrap_err().kind(), FaultKind::Denied);
    }
}
