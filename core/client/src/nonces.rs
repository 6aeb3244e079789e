//! Nonces of users at forwarders: assigned to requests when they are signed, and held until they are used or free
//! again.
//!
//! A hold, by what the request has become:
//!
//! | request | holds its nonce until | kept in storage |
//! |---|---|---|
//! | being signed | [`Nonces::free`], or ten minutes | – |
//! | signed ([`Nonces::signed`]) | [`Nonces::free`], or the chain does not take it any more | – |
//! | queued ([`Nonces::queued`]) | its outcome ([`Nonces::unqueued`]) | its own record |
//! | accepted, or perhaps accepted ([`Nonces::accepted`]) | its end ([`Nonces::told`]), or the chain does not take it any more | yes |
//! | refused for its nonce, or executed ([`Nonces::doubted`]) | ten minutes: a node may hear of it later | – |
//!
//! **Invariant:** of two requests of one user that hold a nonce, each has its own, unless the caller names it.

use std::time::Duration;

use alloy_primitives::{B256, U256};

use super::{
    error::ClientError,
    forward::{ForwardBuilder, UnsignedForward},
    outbox::{Place, User},
};
use crate::{
    request::{RequestId, Status},
    table::Table,
    time::Timestamp,
};

/// Time for a signature. A signer that has not answered by then never will.
const SIGNING: Duration = Duration::from_secs(600);

/// Time after its signed deadline, or the relayer's, in which the block of a request may still become known.
const MINED_LATE: Duration = Duration::from_secs(60);

/// Time for which a nonce is left alone that may be used without being seen.
const IN_DOUBT: Duration = Duration::from_secs(600);

/// Id of a request that is known by its nonce alone.
const UNKNOWN: RequestId = RequestId(B256::ZERO);

/// End of a hold that only its request's outcome ends.
const OPEN: Timestamp = Timestamp(u64::MAX);

/// A request's claim to its nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hold {
    /// Id of the request, or [`UNKNOWN`].
    id: RequestId,
    until: Timestamp,
    /// Time until which it holds the nonce once it is signed.
    signed_until: Timestamp,
    is_accepted: bool,
}

/// A change of what storage keeps: a key with its record, or without one where it is removed.
pub type NonceChange = (String, Option<String>);

/// Nonces that requests hold.
#[derive(Debug, Default)]
pub struct Nonces {
    holds: Table<Place, Hold>,
    /// Users' next nonces by the chain, as far as nothing has shown since that they may be higher.
    on_chain: Table<User, U256>,
    changes: Vec<NonceChange>,
}

impl Nonces {
    /// True if the user's nonce must be read from the chain before [`Self::assign`].
    pub fn is_unread(&mut self, now: Timestamp, user: User) -> bool {
        self.lapse(now);
        !self.on_chain.contains_key(&user)
    }

    /// Builds a request that is to be signed now, and holds its nonce: the one that `builder` names, else the user's
    /// first free one. `on_chain` is the user's next nonce by the chain; `None` unless it was read now. Nonces in
    /// `elsewhere` are held by others.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] for an invalid request, or without a nonce from the chain. Nothing is held.
    pub fn assign(
        &mut self,
        now: Timestamp,
        builder: ForwardBuilder,
        on_chain: Option<U256>,
        elsewhere: &[Place],
    ) -> Result<UnsignedForward, ClientError> {
        self.lapse(now);
        let user = builder.user();
        if let Some(next) = on_chain {
            self.on_chain.insert(user, next);
            self.remove(&|place, _| place.user == user && place.nonce < next);
        }
        let builder = match self.on_chain.get(&user) {
            Some(next) if !builder.has_nonce() => {
                let nonce = self.first_free(Place { user, nonce: *next }, elsewhere);
                builder.nonce(nonce)
            }
            _ => builder,
        };
        let unsigned = builder.build()?;
        let place = Place { user, nonce: unsigned.forward().nonce };
        let signed_until = Timestamp::from_secs(unsigned.forward().deadline).saturating_add(MINED_LATE);
        self.hold(place, unsigned.id(), now.saturating_add(SIGNING).min(signed_until), signed_until);
        Ok(unsigned)
    }

    /// The first nonce from `first` on that nobody holds.
    fn first_free(&self, first: Place, elsewhere: &[Place]) -> U256 {
        let mut place = first;
        let mut held = self.holds.from(&first).map(|(held, _)| held).peekable();
        loop {
            while held.next_if(|held| **held < place).is_some() {}
            if held.peek() != Some(&&place) && !elsewhere.contains(&place) {
                return place.nonce;
            }
            place.nonce = place.nonce.wrapping_add(U256::ONE);
        }
    }

    /// Time by which a request that is assigned now must be signed.
    pub fn sign_by(&self, now: Timestamp, id: RequestId) -> Timestamp {
        let hold = self.holds.values().find(|hold| hold.id == id);
        hold.map_or_else(|| now.saturating_add(SIGNING), |hold| hold.until)
    }

    /// The request was signed: it holds its nonce as long as the chain takes it. False if it does not hold it (any more):
    /// another request may have it. The caller has named it, or the signature comes too late.
    pub fn signed(&mut self, now: Timestamp, id: RequestId) -> bool {
        self.lapse(now);
        let Some(hold) = self.holds.values_mut().find(|hold| hold.id == id) else { return false };
        hold.until = hold.until.max(hold.signed_until);
        true
    }

    /// The request was not signed, or will not be submitted. One that is queued or accepted keeps its nonce.
    pub fn free(&mut self, id: RequestId) {
        self.remove(&|_, hold| hold.id == id && hold.until != OPEN && !hold.is_accepted);
    }

    /// The request waits for its submission, in storage.
    pub fn queued(&mut self, place: Place, id: Option<RequestId>) {
        self.hold(place, id.unwrap_or(UNKNOWN), OPEN, OPEN);
    }

    /// The request that was queued was neither accepted nor can it be.
    pub fn unqueued(&mut self, place: Place, id: Option<RequestId>) {
        let is_its_own = |hold: &Hold| hold.id == id.unwrap_or(UNKNOWN) && !hold.is_accepted;
        if self.holds.get(&place).is_some_and(is_its_own) {
            self.holds.remove(&place);
        }
    }

    /// The relayer has accepted the request, or may have: until `deadline` it can be executed.
    pub fn accepted(&mut self, place: Place, id: Option<RequestId>, deadline: Timestamp) {
        let (id, until) = (id.unwrap_or(UNKNOWN), deadline.saturating_add(MINED_LATE));
        self.holds.insert(place, Hold { id, until, signed_until: until, is_accepted: true });
        self.changes.push((place.key(), Some(format!("{} {id}", until.0))));
    }

    /// The nonce may be used, though the user's node does not say so.
    pub fn doubted(&mut self, now: Timestamp, place: Place) {
        self.on_chain.remove(&place.user);
        self.leave_alone(now, place);
    }

    fn leave_alone(&mut self, now: Timestamp, place: Place) {
        if self.holds.get(&place).is_none_or(|hold| !hold.is_accepted) {
            let until = now.saturating_add(IN_DOUBT);
            self.holds.insert(place, Hold { id: UNKNOWN, until, signed_until: until, is_accepted: false });
        }
    }

    /// Status of an accepted request. One that has ended holds nothing in storage, and nothing at all if it has not used
    /// its nonce.
    pub fn told(&mut self, now: Timestamp, id: RequestId, status: Status) {
        if !status.is_terminal() {
            return;
        }
        for place in self.remove(&|_, hold| hold.id == id && hold.is_accepted) {
            if matches!(status, Status::Finalized | Status::Reverted) {
                self.leave_alone(now, place);
            }
        }
    }

    /// Takes a record of storage. False if it is none of a nonce.
    pub fn load(&mut self, now: Timestamp, key: &str, record: &str) -> bool {
        let Some(place) = Place::from_key(key) else { return false };
        let hold = record.split_once(' ').and_then(|(until, id)| {
            let (until, id) = (Timestamp(until.parse().ok()?), id.parse().unwrap_or(UNKNOWN));
            (until > now).then_some(Hold { id, until, signed_until: until, is_accepted: true })
        });
        match hold {
            Some(hold) => _ = self.holds.insert(place, hold),
            None => self.changes.push((key.to_owned(), None)),
        }
        true
    }

    /// Forgets what accepted requests hold, to load it anew from a storage that others change too.
    pub fn reload(&mut self) {
        self.holds.retain(|(_, hold)| !hold.is_accepted);
    }

    /// Changes for storage since the last call, in order.
    pub fn changes(&mut self) -> Vec<NonceChange> {
        std::mem::take(&mut self.changes)
    }

    /// Holds a nonce that no other request holds.
    fn hold(&mut self, place: Place, id: RequestId, until: Timestamp, signed_until: Timestamp) {
        if self.holds.get(&place).is_none_or(|hold| hold.id == id && !hold.is_accepted) {
            self.holds.insert(place, Hold { id, until, signed_until, is_accepted: false });
        }
    }

    /// Ends the holds whose time is over.
    fn lapse(&mut self, now: Timestamp) {
        for place in self.remove(&|_, hold| hold.until <= now) {
            // The request may have been executed.
            self.on_chain.remove(&place.user);
        }
    }

    fn remove(&mut self, is_over: &dyn Fn(&Place, &Hold) -> bool) -> Vec<Place> {
        let mut removed = Vec::new();
        let changes = &mut self.changes;
        self.holds.retain(|(place, hold)| {
            let is_over = is_over(place, hold);
            if is_over {
                removed.push(*place);
                if hold.is_accepted {
                    changes.push((place.key(), None));
                }
            }
            !is_over
        });
        removed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use alloy_primitives::Address;
    use proptest::prelude::*;

    use super::*;
    use crate::request::ForwarderDomain;

    const START: Timestamp = Timestamp(1_700_000_000_000);
    const HOUR: Duration = Duration::from_secs(3_600);

    /// A request of one of two users; `salt` makes its content its own.
    fn request(user: u8, salt: u64, deadline: Timestamp) -> ForwardBuilder {
        let domain = ForwarderDomain::new("Slackwater", 1, Address::repeat_byte(9));
        let builder = ForwardBuilder::new(domain, Address::repeat_byte(user), Address::repeat_byte(7));
        builder.data(salt.to_be_bytes()).deadline(deadline)
    }

    fn at(unsigned: &UnsignedForward) -> Place {
        let forward = unsigned.forward();
        Place { user: User { chain_id: 1, forwarder: forward.forwarder, from: forward.from }, nonce: forward.nonce }
    }

    fn number(place: Place) -> u64 {
        place.nonce.to()
    }

    #[derive(Debug, Clone)]
    enum Step {
        Prepare {
            user: u8,
            minutes: u64,
        },
        Assign(prop::sample::Index),
        Sign(prop::sample::Index),
        Decline(prop::sample::Index),
        Queue(prop::sample::Index),
        Outcome(prop::sample::Index, u8),
        Told(prop::sample::Index, Status),
        Chain {
            user: u8,
            used: u64,
        },
        Wait {
            minutes: u64,
        },
        Elsewhere {
            user: u8,
            nonce: u64,
        },
        /// A new page or process, with the records and the queue of the last one.
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let any_of = any::<prop::sample::Index>;
        let step = prop_oneof![
            3 => (1..3_u8, 1..60_u64).prop_map(|(user, minutes)| Step::Prepare { user, minutes }),
            5 => any_of().prop_map(Step::Assign),
            4 => any_of().prop_map(Step::Sign),
            2 => any_of().prop_map(Step::Decline),
            3 => any_of().prop_map(Step::Queue),
            3 => (any_of(), 0..4_u8).prop_map(|(of, outcome)| Step::Outcome(of, outcome)),
            2 => (any_of(), prop::sample::select(&Status::ALL[..])).prop_map(|(of, status)| Step::Told(of, status)),
            1 => (1..3_u8, 1..4_u64).prop_map(|(user, used)| Step::Chain { user, used }),
            1 => (1..30_u64).prop_map(|minutes| Step::Wait { minutes }),
            1 => (1..3_u8, 0..6_u64).prop_map(|(user, nonce)| Step::Elsewhere { user, nonce }),
            1 => Just(Step::Restart),
        ];
        prop::collection::vec(step, 1..120)
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Stage {
        Signing,
        Signed,
        Queued,
        Accepted,
        /// Ended: its nonce is left alone.
        Doubted,
    }

    /// A request that holds a nonce, as the model has it.
    #[derive(Debug, Clone)]
    struct Live {
        unsigned: UnsignedForward,
        place: Place,
        stage: Stage,
        until: Timestamp,
    }

    /// Picks one of the live requests in a stage.
    fn pick<'a>(live: &'a mut [Live], stages: &[Stage], of: prop::sample::Index) -> Option<&'a mut Live> {
        let found: Vec<usize> = (0..live.len()).filter(|at| stages.contains(&live[*at].stage)).collect();
        (!found.is_empty()).then(|| &mut live[found[of.index(found.len())]])
    }

    proptest! {
        #[test]
        fn each_holds_its_own_and_the_first_free_one_is_next(steps in steps()) {
            let (mut nonces, mut now) = (Nonces::default(), START);
            let (mut prepared, mut live): (Vec<(u8, ForwardBuilder)>, Vec<Live>) = (Vec::new(), Vec::new());
            let (mut chain, mut store) = ([0_u64; 3], BTreeMap::<String, String>::new());
            let (mut elsewhere, mut salt) = (Vec::new(), 0);
            for step in steps {
                let before = nonces.holds.len();
                match step {
                    Step::Prepare { user, minutes } => {
                        salt += 1;
                        prepared.push((user, request(user, salt, now.saturating_add(Duration::from_secs(60 * minutes)))));
                        prop_assert_eq!(nonces.holds.len(), before, "nothing is assigned before signing");
                    }
                    Step::Assign(of) if !prepared.is_empty() => {
                        // In any order, whatever the order of preparation was.
                        let (user, builder) = prepared.remove(of.index(prepared.len()));
                        let next = chain[usize::from(user)];
                        let of_user = builder.user();
                        let unsigned = nonces.assign(now, builder, Some(U256::from(next)), &elsewhere).unwrap();
                        let (place, until) = (at(&unsigned), nonces.sign_by(now, unsigned.id()));
                        prop_assert!(until <= now.saturating_add(SIGNING));
                        live.retain(|one| one.place.user != of_user || number(one.place) >= next);
                        let is_free = |nonce: &u64| {
                            let place = Place { user: of_user, nonce: U256::from(*nonce) };
                            !elsewhere.contains(&place) && live.iter().all(|one| one.place != place)
                        };
                        prop_assert_eq!(Some(number(place)), (next..).find(is_free), "the first free one");
                        live.push(Live { unsigned, place, stage: Stage::Signing, until });
                    }
                    Step::Sign(of) => if let Some(one) = pick(&mut live, &[Stage::Signing], of) {
                        prop_assert!(nonces.signed(now, one.unsigned.id()));
                        let deadline = Timestamp::from_secs(one.unsigned.forward().deadline);
                        (one.stage, one.until) = (Stage::Signed, deadline.saturating_add(MINED_LATE));
                    },
                    Step::Decline(of) => if let Some(one) = pick(&mut live, &[Stage::Signing, Stage::Signed], of) {
                        let id = one.unsigned.id();
                        nonces.free(id);
                        live.retain(|one| one.unsigned.id() != id);
                    },
                    Step::Queue(of) => if let Some(one) = pick(&mut live, &[Stage::Signed], of) {
                        nonces.queued(one.place, Some(one.unsigned.id()));
                        // Too late to be declined.
                        nonces.free(one.unsigned.id());
                        (one.stage, one.until) = (Stage::Queued, OPEN);
                    },
                    Step::Outcome(of, outcome) => if let Some(one) = pick(&mut live, &[Stage::Queued], of) {
                        let (place, id) = (one.place, one.unsigned.id());
                        match outcome {
                            0 => {
                                nonces.unqueued(place, Some(id));
                                live.retain(|one| one.unsigned.id() != id);
                            }
                            1 => {
                                nonces.doubted(now, place);
                                (one.stage, one.until) = (Stage::Doubted, now.saturating_add(IN_DOUBT));
                            }
                            _ => {
                                nonces.accepted(place, Some(id), now.saturating_add(HOUR));
                                (one.stage, one.until) = (Stage::Accepted, now.saturating_add(HOUR + MINED_LATE));
                            }
                        }
                    },
                    Step::Told(of, status) => if let Some(one) = pick(&mut live, &[Stage::Accepted], of) {
                        let id = one.unsigned.id();
                        nonces.told(now, id, status);
                        if matches!(status, Status::Finalized | Status::Reverted) {
                            (one.stage, one.until) = (Stage::Doubted, now.saturating_add(IN_DOUBT));
                        } else if status.is_terminal() {
                            live.retain(|one| one.unsigned.id() != id);
                        }
                    },
                    Step::Chain { user, used } => chain[usize::from(user)] += used,
                    Step::Wait { minutes } => now = now.saturating_add(Duration::from_secs(60 * minutes)),
                    Step::Elsewhere { user, nonce } => {
                        let user = request(user, 0, now).user();
                        let place = Place { user, nonce: U256::from(nonce) };
                        if live.iter().all(|one| one.place != place) {
                            elsewhere.push(place);
                        }
                    }
                    Step::Restart => {
                        nonces = Nonces::default();
                        for (key, record) in &store {
                            prop_assert!(nonces.load(now, key, record));
                        }
                        live.retain(|one| matches!(one.stage, Stage::Queued | Stage::Accepted));
                        for one in live.iter().filter(|one| one.stage == Stage::Queued) {
                            nonces.queued(one.place, Some(one.unsigned.id()));
                        }
                    }
                    Step::Assign(_) => {}
                }
                live.retain(|one| one.until > now);
                prepared.retain(|(_, builder)| builder.clone().nonce(U256::ZERO).build().is_ok());
                nonces.lapse(now);
                for (key, record) in nonces.changes() {
                    match record {
                        Some(record) => _ = store.insert(key, record),
                        None => _ = store.remove(&key),
                    }
                }
                let held: Vec<Place> = nonces.holds.keys().copied().collect();
                let mut expected: Vec<Place> = live.iter().map(|one| one.place).collect();
                expected.sort();
                prop_assert_eq!(held, expected, "no two share one, and none is held for nothing");
                let accepted = live.iter().filter(|one| one.stage == Stage::Accepted);
                let mut keys: Vec<String> = accepted.map(|one| one.place.key()).collect();
                keys.sort();
                prop_assert_eq!(store.keys().cloned().collect::<Vec<_>>(), keys);
            }
        }
    }

    #[test]
    fn what_cannot_be_built_holds_nothing() {
        let mut nonces = Nonces::default();
        let next = Some(U256::ZERO);
        assert!(nonces.assign(START, request(1, 1, START).gas(0), next, &[]).is_err());
        assert!(nonces.assign(START, request(2, 1, START), None, &[]).is_err(), "nobody has read it");
        assert_eq!(nonces.holds.len(), 0);
    }

    #[test]
    fn a_signature_that_comes_too_late_has_lost_its_nonce() {
        let mut nonces = Nonces::default();
        let deadline = START.saturating_add(HOUR);
        let first = nonces.assign(START, request(1, 1, deadline), Some(U256::ZERO), &[]).unwrap();
        let later = START.saturating_add(SIGNING);
        assert!(nonces.is_unread(later, at(&first).user), "it may have been submitted elsewhere");
        let second = nonces.assign(later, request(1, 2, deadline), Some(U256::ZERO), &[]).unwrap();
        assert_eq!((number(at(&first)), number(at(&second))), (0, 0));
        assert!(!nonces.signed(later, first.id()) && nonces.signed(later, second.id()));
    }

    #[test]
    fn a_nonce_that_the_caller_names_is_taken_as_it_is() {
        let mut nonces = Nonces::default();
        let deadline = START.saturating_add(HOUR);
        let later = START.saturating_add(Duration::from_secs(1));
        let mut assign = |salt, nonce: Option<u64>, on_chain: Option<u64>| {
            let builder = request(1, salt, deadline);
            let builder = nonce.into_iter().fold(builder, |builder, nonce| builder.nonce(U256::from(nonce)));
            let unsigned = nonces.assign(START, builder, on_chain.map(U256::from), &[]).unwrap();
            (number(at(&unsigned)), nonces.sign_by(later, unsigned.id()), nonces.signed(later, unsigned.id()))
        };
        let in_time = START.saturating_add(SIGNING);
        assert_eq!(assign(1, Some(5), None), (5, in_time, true), "and the chain need not be asked");
        assert_eq!(assign(2, Some(5), None), (5, later.saturating_add(SIGNING), false), "even one that another holds");
        assert_eq!([assign(3, None, Some(4)).0, assign(4, None, None).0], [4, 6]);
    }

    #[test]
    fn records_of_earlier_versions_are_read() {
        let mut nonces = Nonces::default();
        let key = format!("nonce:1:0x{}:0x{}:0", "09".repeat(20), "01".repeat(20));
        let far = START.saturating_add(HOUR);
        assert!(nonces.load(START, &key, &format!("{} sw1-key", far.0)));
        assert!(!nonces.load(START, "nonce:1:0x09:0x01:0", "1 a") && !nonces.load(START, "a key", "a record"));
        assert_eq!(number(at(&nonces.assign(START, request(1, 1, far), Some(U256::ZERO), &[]).unwrap())), 1);
        assert!(nonces.load(far, &key, &format!("{} sw1-key", far.0)), "long ago");
        assert_eq!(nonces.changes(), [(key, None)]);
    }
}
