//! Digests and signatures of real wallets (`tests/vectors/eip712.json`), and all inputs that `verify` must refuse.
//!
//! Run it with and without feature `libsecp256k1`: both recoveries must agree.

use std::{collections::BTreeMap, time::Duration};

use alloy_primitives::{Address, B256, Bytes, U256, uint};
use alloy_sol_types::{SolStruct, eip712_domain, sol};
use k256::ecdsa::{RecoveryId, Signature, SigningKey, VerifyingKey};
use proptest::prelude::*;
use serde_json::Value;
use slackwater_core::{
    Timestamp,
    request::{
        Call, Deadline, Forward, ForwarderDomain, Promise, RequestId, SignatureError, Submission, VerifiedRequest,
        VerifyContext, VerifyError, recover, verify,
    },
};

const ORDER: U256 = uint!(0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141_U256);
const MAX_UINT48: u64 = (1 << 48) - 1;

struct Row {
    title: String,
    domain: ForwarderDomain,
    forward: Forward,
    digest: B256,
    signer: Address,
}

#[track_caller]
fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} of {value}"))
}

fn rows() -> Vec<Row> {
    let file: Vec<Value> = serde_json::from_str(include_str!("../vectors/eip712.json")).unwrap();
    assert_eq!(file.len(), 56, "rows may be added, with this number; none may go");
    file.iter()
        .map(|row| {
            let (domain, message) = (&row["domain"], &row["message"]);
            let forwarder = text(domain, "verifyingContract").parse().unwrap();
            Row {
                title: format!("{} ({})", text(row, "title"), text(row, "wallet")),
                domain: ForwarderDomain::new(text(domain, "name"), text(domain, "chainId").parse().unwrap(), forwarder),
                forward: Forward {
                    forwarder,
                    from: text(message, "from").parse().unwrap(),
                    to: text(message, "to").parse().unwrap(),
                    value: text(message, "value").parse().unwrap(),
                    gas: text(message, "gas").parse().unwrap(),
                    nonce: text(message, "nonce").parse().unwrap(),
                    deadline: text(message, "deadline").parse().unwrap(),
                    data: text(message, "data").parse().unwrap(),
                    signature: text(row, "signature").parse().unwrap(),
                },
                digest: text(row, "digest").parse().unwrap(),
                signer: text(row, "signer").parse().unwrap(),
            }
        })
        .collect()
}

/// Verifies a forward at a moment an hour before its on-chain deadline.
fn check(domain: &ForwarderDomain, forward: &Forward) -> Result<VerifiedRequest, VerifyError> {
    let now = Timestamp::from_secs(forward.deadline.saturating_sub(3_600));
    check_at(domain, forward, Some(Deadline::Within(Duration::from_secs(60))), now)
}

fn check_at(
    domain: &ForwarderDomain,
    forward: &Forward,
    deadline: Option<Deadline>,
    now: Timestamp,
) -> Result<VerifiedRequest, VerifyError> {
    let forwarders = BTreeMap::from([(domain.forwarder(), domain.clone())]);
    let context = VerifyContext {
        tenant: "t",
        chain_id: domain.chain_id(),
        forwarders: &forwarders,
        tokens: &BTreeMap::new(),
        default_within: Duration::from_secs(600),
        default_expiry: Duration::from_secs(3_600),
        max_within: Duration::from_secs(7_200),
        guard: Duration::from_secs(10),
        skew: Duration::from_secs(30),
    };
    let mut submission = Submission::forward(domain.chain_id(), forward.clone());
    submission.deadline = deadline;
    verify(submission, &context, now)
}

/// Signs requests that no wallet has signed.
fn sign(domain: &ForwarderDomain, forward: &mut Forward) {
    let key = SigningKey::from_slice(&[7; 32]).unwrap();
    let point = key.verifying_key().to_encoded_point(false);
    forward.from = Address::from_slice(&alloy_primitives::keccak256(&point.as_bytes()[1..])[12..]);
    let (signature, parity) = key.sign_prehash_recoverable(domain.digest(forward).as_slice()).unwrap();
    let mut bytes = signature.to_bytes().to_vec();
    bytes.push(27 + parity.to_byte());
    forward.signature = bytes.into();
}

fn sample() -> (ForwarderDomain, Forward) {
    let forwarder = Address::repeat_byte(0xf0);
    let domain = ForwarderDomain::new("Slackwater", 31_337, forwarder);
    let mut forward = Forward {
        forwarder,
        from: Address::ZERO,
        to: Address::repeat_byte(0x70),
        value: U256::ZERO,
        gas: U256::from(100_000),
        nonce: U256::ZERO,
        deadline: 1_000_000,
        data: Bytes::from_static(&[1, 2, 3, 4, 5]),
        signature: Bytes::new(),
    };
    sign(&domain, &mut forward);
    (domain, forward)
}

#[test]
fn wallets_and_we_agree() {
    for row in rows() {
        let Row { title, domain, forward, digest, signer } = &row;
        assert_eq!(domain.digest(forward), *digest, "{title}");
        assert_eq!(recover(*digest, &forward.signature), Ok(*signer), "{title}");
        let is_gas_usable = !forward.gas.is_zero() && forward.gas <= U256::from(u64::MAX);
        match check(domain, forward) {
            Ok(request) => {
                assert!(is_gas_usable && forward.deadline > 0, "{title}");
                assert_eq!(request.id(), RequestId(*digest), "{title}");
                let nonce = forward.nonce.to::<u64>();
                assert_eq!(request.sequence(), Some((forward.forwarder, forward.from, nonce)), "{title}");
                assert_eq!(request.chain_deadline_s(), Some(forward.deadline), "{title}");
                let back = VerifiedRequest::from_stored(&request.to_stored()).unwrap();
                assert_eq!(back, request, "{title}");
            }
            Err(VerifyError::ZeroGas) => assert!(forward.gas.is_zero(), "{title}"),
            Err(VerifyError::GasOutOfRange(gas)) => assert!(gas == U256::MAX, "{title}"),
            Err(VerifyError::DeadlineExpired { .. }) => assert_eq!(forward.deadline, 0, "{title}"),
            Err(error) => panic!("{title}: {error}"),
        }
    }
}

#[test]
fn malleable_and_odd_signatures_are_refused() {
    for Row { title, digest, forward, signer, .. } in rows() {
        let good = forward.signature.to_vec();
        let mut twin = good.clone();
        let s = ORDER - U256::from_be_slice(&good[32..64]);
        twin[32..64].copy_from_slice(&s.to_be_bytes::<32>());
        twin[64] = 27 + 28 - good[64];
        assert_eq!(recover(digest, &twin), Err(SignatureError::HighS), "{title}");
        for v in [0, 1, 2, 26, 29, 30, 35, 36, 255] {
            let mut odd = good.clone();
            odd[64] = v;
            assert_eq!(recover(digest, &odd), Err(SignatureError::RecoveryId(v)), "{title}");
        }
        let mut other = good.clone();
        other[64] = 27 + 28 - good[64];
        assert_ne!(recover(digest, &other), Ok(signer), "{title}");
        // EIP-2098 compact form, and bytes too many.
        let mut compact = good[..64].to_vec();
        if good[64] == 28 {
            compact[32] |= 0x80;
        }
        assert_eq!(recover(digest, &compact), Err(SignatureError::Length(64)), "{title}");
        let long = [good.as_slice(), &[0]].concat();
        assert_eq!(recover(digest, &long), Err(SignatureError::Length(66)), "{title}");
        assert_eq!(recover(digest, &[]), Err(SignatureError::Length(0)), "{title}");
    }
}

#[test]
fn scalars_out_of_range_recover_nothing() {
    let digest = B256::repeat_byte(0x11);
    let word = |value: U256| value.to_be_bytes::<32>();
    let small = U256::from(9);
    for (r, s) in
        [(U256::ZERO, small), (small, U256::ZERO), (U256::ZERO, U256::ZERO), (ORDER, small), (U256::MAX, small)]
    {
        for v in [27, 28] {
            let signature = [word(r).as_slice(), &word(s), &[v]].concat();
            assert_eq!(recover(digest, &signature), Err(SignatureError::Unrecoverable), "{r} {s} {v}");
        }
    }
    // The largest low s passes the check; one more does not.
    let half = ORDER >> 1;
    let at = |s: U256| recover(digest, &[word(small).as_slice(), &word(s), &[27]].concat());
    assert_ne!(at(half), Err(SignatureError::HighS));
    assert_eq!(at(half + U256::from(1)), Err(SignatureError::HighS));
}

/// Asserts that a signature over something else recovers another signer, or none.
#[track_caller]
fn refused(title: &str, domain: &ForwarderDomain, forward: &Forward) {
    match check(domain, forward) {
        Err(VerifyError::WrongSigner { from, recovered }) => assert_ne!(from, recovered, "{title}"),
        Err(VerifyError::Signature(SignatureError::Unrecoverable)) => {}
        other => panic!("{title}: {other:?}"),
    }
}

#[test]
fn every_signed_field_is_bound() {
    for Row { title, domain, forward, .. } in rows() {
        if check(&domain, &forward).is_err() {
            continue;
        }
        let flip = |change: &dyn Fn(&mut Forward)| {
            let mut changed = forward.clone();
            change(&mut changed);
            changed
        };
        let one = U256::from(1);
        refused(&title, &domain, &flip(&|f| f.data = [f.data.as_ref(), &[0]].concat().into()));
        refused(&title, &domain, &flip(&|f| f.nonce ^= one));
        refused(&title, &domain, &flip(&|f| f.value ^= one));
        refused(&title, &domain, &flip(&|f| f.gas ^= one));
        refused(&title, &domain, &flip(&|f| f.deadline ^= 1));
        refused(&title, &domain, &flip(&|f| f.to.0[19] ^= 1));
        refused(&title, &domain, &flip(&|f| f.from.0[0] ^= 1));
        let name = format!("{}x", domain.name());
        refused(&title, &ForwarderDomain::new(name, domain.chain_id(), domain.forwarder()), &forward);
        refused(&title, &ForwarderDomain::new(domain.name(), domain.chain_id() ^ 1, domain.forwarder()), &forward);
        let mut moved = forward.clone();
        moved.forwarder.0[0] ^= 1;
        refused(&title, &ForwarderDomain::new(domain.name(), domain.chain_id(), moved.forwarder), &moved);
        assert_eq!(check(&domain, &moved), Err(VerifyError::UnknownForwarder(moved.forwarder)), "{title}");
    }
}

#[test]
fn gas_and_nonce_ranges() {
    let (domain, good) = sample();
    let with = |change: &dyn Fn(&mut Forward)| {
        let mut forward = good.clone();
        change(&mut forward);
        sign(&domain, &mut forward);
        check(&domain, &forward)
    };
    assert_eq!(with(&|f| f.gas = U256::ZERO), Err(VerifyError::ZeroGas));
    let huge = U256::from(1) << 255;
    assert_eq!(with(&|f| f.gas = huge), Err(VerifyError::GasOutOfRange(huge)));
    let above = U256::from(u64::MAX) + U256::from(1);
    assert_eq!(with(&|f| f.gas = above), Err(VerifyError::GasOutOfRange(above)));
    assert_eq!(with(&|f| f.gas = U256::from(u64::MAX)).unwrap().gas(), u64::MAX);
    let far = U256::from(1) << 200;
    assert_eq!(with(&|f| f.nonce = far), Err(VerifyError::NonceOutOfRange(far)));
    assert_eq!(with(&|f| f.nonce = above), Err(VerifyError::NonceOutOfRange(above)));
    // The nonce after it must exist.
    let last = U256::from(u64::MAX);
    assert_eq!(with(&|f| f.nonce = last), Err(VerifyError::NonceOutOfRange(last)));
    let largest = with(&|f| f.nonce = U256::from(u64::MAX - 1)).unwrap();
    assert_eq!(largest.sequence().unwrap().2, u64::MAX - 1);
}

#[test]
fn deadlines() {
    let (domain, good) = sample();
    let chain_deadline = good.deadline;
    // Skew 30 s, guard 10 s, at most two hours.
    let at = |deadline: Option<Deadline>, now_s: u64| check_at(&domain, &good, deadline, Timestamp::from_secs(now_s));
    let minute = Some(Deadline::Within(Duration::from_secs(60)));

    let request = at(minute, chain_deadline - 3_600).unwrap();
    assert_eq!(request.deadline(), Timestamp::from_secs(chain_deadline - 3_540));
    // The deadline enforced on chain, less the skew, bounds the requested one.
    let request = at(minute, chain_deadline - 70).unwrap();
    assert_eq!(request.deadline(), Timestamp::from_secs(chain_deadline - 30));
    // Exactly the guard is enough, less is not.
    assert!(at(minute, chain_deadline - 40).is_ok());
    let late = at(minute, chain_deadline - 39);
    assert_eq!(late, Err(VerifyError::DeadlineUnreachable { slack_ms: 9_000, guard_ms: 10_000 }));
    // At the margin itself it has passed.
    for now in [chain_deadline - 30, chain_deadline, chain_deadline + 1] {
        assert!(matches!(at(minute, now), Err(VerifyError::DeadlineExpired { .. })), "{now}");
    }
    let past = Some(Deadline::At(Timestamp::from_secs(chain_deadline - 3_601)));
    assert!(matches!(at(past, chain_deadline - 3_600), Err(VerifyError::DeadlineExpired { .. })));
    let zero = Some(Deadline::Within(Duration::ZERO));
    assert!(matches!(at(zero, 1_000), Err(VerifyError::DeadlineExpired { .. })));
    let now = chain_deadline - 90_000;
    assert!(at(Some(Deadline::Within(Duration::from_secs(7_200))), now).is_ok());
    let far = at(Some(Deadline::Within(Duration::from_millis(7_200_001))), now);
    assert_eq!(far, Err(VerifyError::DeadlineTooFar { slack_ms: 7_200_001, limit_ms: 7_200_000 }));
    for endless in [Deadline::Within(Duration::MAX), Deadline::At(Timestamp(u64::MAX))] {
        assert!(matches!(at(Some(endless), now), Err(VerifyError::DeadlineTooFar { .. })));
    }
    // Without a requested deadline the default applies.
    assert_eq!(at(None, now).unwrap().deadline(), Timestamp::from_secs(now + 600));

    let with = |deadline: u64| {
        let mut forward = good.clone();
        forward.deadline = deadline;
        sign(&domain, &mut forward);
        check_at(&domain, &forward, minute, Timestamp::from_secs(1_000))
    };
    assert!(with(MAX_UINT48).is_ok());
    for beyond in [MAX_UINT48 + 1, 1_790_000_000_000_000, u64::MAX] {
        assert_eq!(with(beyond), Err(VerifyError::DeadlineOutOfRange(beyond)));
    }
    assert!(matches!(with(0), Err(VerifyError::DeadlineExpired { .. })));
}

/// A default promise may be missed without ending the request; a deadline named by the caller ends it.
#[test]
fn who_names_no_time_is_valid_for_longer_than_promised() {
    let (domain, good) = sample();
    let times = |deadline: Option<Deadline>, before_s: u64| {
        let now = Timestamp::from_secs(good.deadline - before_s);
        let request = check_at(&domain, &good, deadline, now).unwrap();
        let slack = |at: Timestamp| at.since(now).as_secs();
        (slack(request.deadline()), slack(request.valid_until()))
    };
    // Ten minutes, and an hour.
    assert_eq!(times(None, 90_000), (600, 3_600));
    let named = [Deadline::Within(Duration::from_secs(60)), Deadline::At(Timestamp::from_secs(good.deadline - 89_940))];
    for time in named {
        assert_eq!(times(Some(time), 90_000), (60, 60));
    }
    // Neither is later than the signed deadline, less the skew of half a minute.
    assert_eq!(times(None, 1_830), (600, 1_800));
    assert_eq!(times(None, 330), (300, 300));
    assert_eq!(times(Some(named[0]), 70), (40, 40));
}

#[test]
fn another_chain_is_refused() {
    let (domain, forward) = sample();
    let forwarders = BTreeMap::new();
    let context = VerifyContext {
        tenant: "t",
        chain_id: 1,
        forwarders: &forwarders,
        tokens: &BTreeMap::new(),
        default_within: Duration::from_secs(60),
        default_expiry: Duration::from_secs(3_600),
        max_within: Duration::from_secs(60),
        guard: Duration::ZERO,
        skew: Duration::ZERO,
    };
    let refused = verify(Submission::forward(domain.chain_id(), forward), &context, Timestamp(0));
    assert_eq!(refused, Err(VerifyError::WrongChain { requested: 31_337, served: 1 }));
}

fn call(tenant: &str, chain_id: u64, call: Call) -> RequestId {
    let context = VerifyContext {
        tenant,
        chain_id,
        forwarders: &BTreeMap::new(),
        tokens: &BTreeMap::new(),
        default_within: Duration::from_secs(60),
        default_expiry: Duration::from_secs(3_600),
        max_within: Duration::from_secs(60),
        guard: Duration::ZERO,
        skew: Duration::ZERO,
    };
    verify(Submission::call(chain_id, call), &context, Timestamp(1)).unwrap().id()
}

#[test]
fn every_field_of_a_call_is_in_its_id() {
    let base = Call {
        to: Address::repeat_byte(1),
        value: U256::from(1),
        gas: U256::from(50_000),
        data: Bytes::from_static(&[1, 2]),
        any_sender: false,
        salt: "s".to_owned(),
    };
    let other = |change: &dyn Fn(&mut Call)| {
        let mut changed = base.clone();
        change(&mut changed);
        call("ab", 1, changed)
    };
    let ids = [
        call("ab", 1, base.clone()),
        call("a", 1, Call { salt: "bs".to_owned(), ..base.clone() }),
        call("ab", 2, base.clone()),
        other(&|c| c.to = Address::repeat_byte(2)),
        other(&|c| c.value = U256::from(2)),
        other(&|c| c.gas = U256::from(50_001)),
        other(&|c| c.data = Bytes::from_static(&[1, 2, 0])),
        other(&|c| c.any_sender = true),
        other(&|c| c.salt = "t".to_owned()),
    ];
    let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len());
    assert_eq!(call("ab", 1, base.clone()), ids[0], "the same call is the same request");
}

sol! {
    struct InclusionPromise {
        bytes32 requestHash;
        uint256 chainId;
        uint64 deadline;
        address relayer;
    }

    struct ForwardRequest {
        address from;
        address to;
        uint256 value;
        uint256 gas;
        uint256 nonce;
        uint48 deadline;
        bytes data;
    }
}

proptest! {
    #[test]
    fn promise_digest_is_eip712(hash: [u8; 32], chain_id: u64, deadline: u64, relayer: [u8; 20]) {
        let promise = Promise { request_hash: RequestId(hash.into()), chain_id, deadline, relayer: relayer.into() };
        let independent = InclusionPromise {
            requestHash: hash.into(), chainId: U256::from(chain_id), deadline, relayer: relayer.into(),
        };
        let domain = eip712_domain! { name: "Slackwater", version: "1", };
        prop_assert_eq!(promise.digest(), independent.eip712_signing_hash(&domain));
    }

    #[test]
    fn forward_digest_is_eip712(
        name in ".{0,40}", chain_id: u64, forwarder: [u8; 20], from: [u8; 20], to: [u8; 20],
        words: [[u8; 32]; 3], deadline in 0..=MAX_UINT48, data in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let [value, gas, nonce] = words.map(|word| U256::from_be_bytes(word));
        let forward = Forward {
            forwarder: forwarder.into(), from: from.into(), to: to.into(), value, gas, nonce, deadline,
            data: data.clone().into(), signature: Bytes::new(),
        };
        let independent = ForwardRequest {
            from: from.into(), to: to.into(), value, gas, nonce,
            deadline: alloy_primitives::aliases::U48::from(deadline), data: data.into(),
        };
        let domain = alloy_sol_types::Eip712Domain::new(
            Some(name.clone().into()), Some("1".into()), Some(U256::from(chain_id)), Some(forwarder.into()), None,
        );
        let ours = ForwarderDomain::new(name, chain_id, forwarder.into());
        prop_assert_eq!(ours.separator(), domain.separator());
        prop_assert_eq!(ours.digest(&forward), independent.eip712_signing_hash(&domain));
    }

    /// On any input, both recoveries agree and nothing panics.
    #[test]
    fn recovery_agrees_with_k256(digest: [u8; 32], r: [u8; 32], s: [u8; 32], v in 26u8..30, shrink in 0u8..2) {
        let mut signature = [r.as_slice(), &s, &[v]].concat();
        if shrink == 1 {
            signature[32] &= 0x3f;
        }
        let reference = || {
            let parity = RecoveryId::from_byte(v.checked_sub(27)?).filter(|id| !id.is_x_reduced())?;
            let parsed = Signature::from_slice(&signature[..64]).ok()?;
            if parsed.normalize_s().is_some() {
                return None;
            }
            let key = VerifyingKey::recover_from_prehash(&digest, &parsed, parity).ok()?;
            let point = key.to_encoded_point(false);
            Some(Address::from_slice(&alloy_primitives::keccak256(&point.as_bytes()[1..])[12..]))
        };
        prop_assert_eq!(recover(digest.into(), &signature).ok(), reference());
    }

    #[test]
    fn any_bytes_are_a_signature_or_an_error(digest: [u8; 32], bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        if let Err(SignatureError::Length(length)) = recover(digest.into(), &bytes) {
            prop_assert_eq!(length, bytes.len());
            prop_assert_ne!(length, 65);
        }
    }
}

#[test]
fn promises_are_checked_against_the_relayer() {
    let key = SigningKey::from_slice(&[9; 32]).unwrap();
    let point = key.verifying_key().to_encoded_point(false);
    let relayer = Address::from_slice(&alloy_primitives::keccak256(&point.as_bytes()[1..])[12..]);
    let promise = Promise { request_hash: RequestId(B256::repeat_byte(1)), chain_id: 1, deadline: 5, relayer };
    let (signature, parity) = key.sign_prehash_recoverable(promise.digest().as_slice()).unwrap();
    let signature = [&signature.to_bytes()[..], &[27 + parity.to_byte()]].concat();
    assert_eq!(promise.is_signed_by_relayer(&signature), Ok(true));
    let broken = Promise { deadline: 6, ..promise };
    assert_ne!(broken.is_signed_by_relayer(&signature), Ok(true));
    assert_eq!(broken.is_signed_by_relayer(&signature[..64]), Err(SignatureError::Length(64)));
}
