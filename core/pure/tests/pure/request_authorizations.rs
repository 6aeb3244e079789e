//! Digests, signatures and calldata of authorizations as wallets make them (`tests/vectors/eip3009.json`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alloy_primitives::{Address, B256, Bytes, Log, U256, hex, keccak256};
use alloy_sol_types::{SolCall as _, SolEvent, SolStruct as _};
use k256::ecdsa::SigningKey;
use serde_json::Value;
use slackwater_core::{
    Timestamp,
    chain::GasSchedule,
    contracts::{
        capped_calls::{self, Call, Executed, executeCall},
        eip3009::{IERC3009::AuthorizationUsed, ReceiveWithAuthorization},
        fiat_token::IFiatToken::Transfer,
    },
    request::{
        Authorization, RequestId, SignatureError, Submission, Token, TokenDomain, VerifiedRequest, VerifyContext,
        VerifyError,
        outcome::MemberOutcome,
        vehicle::{VehicleKey, VehicleParams, decode},
        verify,
    },
};

struct Row {
    title: String,
    domain: TokenDomain,
    authorization: Authorization,
    value: Value,
}

#[track_caller]
fn parse<T: std::str::FromStr<Err: std::fmt::Debug>>(value: &Value, key: &str) -> T {
    value[key].as_str().unwrap_or_else(|| panic!("{key} of {value}")).parse().unwrap()
}

fn rows() -> Vec<Row> {
    let file: Vec<Value> = serde_json::from_str(include_str!("../vectors/eip3009.json")).unwrap();
    assert_eq!(file.len(), 7, "rows may be added, with this number; none may go");
    let rows = file.into_iter().map(|value| {
        let (domain, message) = (&value["domain"], &value["message"]);
        let token = parse(domain, "verifyingContract");
        let (name, version): (String, String) = (parse(domain, "name"), parse(domain, "version"));
        Row {
            title: parse(&value, "title"),
            domain: TokenDomain::new(&name, &version, parse(domain, "chainId"), token),
            authorization: Authorization {
                token,
                from: parse(message, "from"),
                to: parse(message, "to"),
                value: parse(message, "value"),
                valid_after: parse(message, "validAfter"),
                valid_before: parse(message, "validBefore"),
                nonce: parse(message, "nonce"),
                signature: parse(&value, "signature"),
            },
            value,
        }
    });
    rows.collect()
}

#[test]
fn digests_signatures_and_calldata_are_the_wallets() {
    for Row { title, domain, authorization, value } in rows() {
        let digest: B256 = parse(&value, "digest");
        assert_eq!(domain.separator(), parse::<B256>(&value, "separator"), "{title}");
        assert_eq!(domain.digest(&authorization), digest, "{title}");
        assert_eq!(domain.id(&authorization), RequestId(digest), "{title}");
        assert_eq!(domain.recover(&authorization), Ok(authorization.from), "{title}");
        assert_eq!(authorization.calldata().unwrap(), *parse::<Bytes>(&value, "calldata"), "{title}");
        let with_bytes = parse::<Bytes>(&value, "calldataWithBytes");
        assert_eq!(authorization.calldata_with_bytes(), *with_bytes, "{title}");
    }
}

/// Separators that tokens on chain answer `DOMAIN_SEPARATOR()` with.
#[test]
fn usdc_on_ethereum() {
    let token = "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48".parse().unwrap();
    let separator = hex!("06c37168a7db5138defc7866392bb87a741f9b3d104deb5094588ce041cae335");
    assert_eq!(TokenDomain::new("USD Coin", "2", 1, token).separator(), B256::from(separator));
}

#[test]
fn any_other_content_has_another_signer_and_id() {
    let Row { domain, authorization, .. } = rows().swap_remove(0);
    let id = domain.id(&authorization);
    let one = U256::ONE;
    let original = || authorization.clone();
    let changed = [
        Authorization { from: Address::repeat_byte(1), ..original() },
        Authorization { to: Address::repeat_byte(1), ..original() },
        Authorization { value: authorization.value + one, ..original() },
        Authorization { valid_after: authorization.valid_after + one, ..original() },
        Authorization { valid_before: authorization.valid_before + one, ..original() },
        Authorization { nonce: B256::repeat_byte(1), ..original() },
    ];
    for other in changed {
        assert_ne!(domain.id(&other), id);
        assert_ne!(domain.recover(&other), Ok(authorization.from));
    }
    // One that only the chain can check is part of it: else it would take the place of the right one.
    let other = Authorization { signature: Bytes::from_static(&[1; 64]), ..original() };
    assert_ne!(domain.id(&other), id);
    assert_eq!(domain.recover(&other), Err(SignatureError::Length(64)));
    assert_eq!(other.calldata(), None);
    let elsewhere = TokenDomain::with_separator(domain.separator(), 1, domain.token());
    assert_eq!(elsewhere.id(&authorization), id);
}

#[test]
fn validity_excludes_both_bounds() {
    let authorization = rows().swap_remove(0).authorization;
    let valid = [1_740_672_089, 1_740_672_090, 1_740_672_153, 1_740_672_154].map(|at| authorization.is_valid_at(at));
    assert_eq!(valid, [false, true, true, false]);
}

const TOKEN: Address = Address::repeat_byte(0xf0);
const GUARD_S: u64 = 10;
const SKEW_S: u64 = 30;
const NOW_S: u64 = 1_000_000;
const GAS: u64 = 110_000;

fn domain() -> TokenDomain {
    TokenDomain::new("USD Coin", "2", 31_337, TOKEN)
}

fn signed(digest: B256) -> Bytes {
    let (signature, parity) = key().sign_prehash_recoverable(digest.as_slice()).unwrap();
    let mut bytes = signature.to_bytes().to_vec();
    bytes.push(27 + parity.to_byte());
    bytes.into()
}

fn key() -> SigningKey {
    SigningKey::from_slice(&[7; 32]).unwrap()
}

/// A payment, valid from `after` to `before`, exclusive, seconds.
fn payment(after: u64, before: u64) -> Authorization {
    payment_of(after, before, B256::repeat_byte(9))
}

fn payment_with(nonce: B256) -> Authorization {
    payment_of(0, NOW_S + 1_000, nonce)
}

fn payment_of(after: u64, before: u64, nonce: B256) -> Authorization {
    let point = key().verifying_key().to_encoded_point(false);
    let mut payment = Authorization {
        token: TOKEN,
        from: Address::from_slice(&keccak256(&point.as_bytes()[1..])[12..]),
        to: Address::repeat_byte(0x70),
        value: U256::from(1_000),
        valid_after: U256::from(after),
        valid_before: U256::from(before),
        nonce,
        signature: Bytes::new(),
    };
    payment.signature = signed(domain().digest(&payment));
    payment
}

fn check(payment: &Authorization) -> Result<VerifiedRequest, VerifyError> {
    check_within(payment, None)
}

fn check_within(payment: &Authorization, within: Option<Duration>) -> Result<VerifiedRequest, VerifyError> {
    let tokens = BTreeMap::from([(TOKEN, Token { domain: domain(), gas: GAS })]);
    let context = VerifyContext {
        tenant: "t",
        chain_id: 31_337,
        forwarders: &BTreeMap::new(),
        tokens: &tokens,
        default_within: Duration::from_secs(60),
        default_expiry: Duration::from_secs(3_600),
        max_within: Duration::from_secs(7_200),
        guard: Duration::from_secs(GUARD_S),
        skew: Duration::from_secs(SKEW_S),
    };
    let mut submission = Submission::authorization(31_337, payment.clone());
    if let Some(within) = within {
        submission = submission.within(within);
    }
    verify(submission, &context, Timestamp::from_secs(NOW_S))
}

#[test]
fn a_payment_is_checked_at_the_door() {
    let good = payment(0, NOW_S + 1_000);
    let request = check(&good).unwrap();
    assert_eq!(request.id(), RequestId(domain().digest(&good)));
    assert_eq!((request.target(), request.value(), request.gas()), (TOKEN, U256::ZERO, GAS));
    assert_eq!(request.data(), good.calldata().unwrap());
    assert_eq!((request.sequence(), request.signer()), (None, Some(good.from)));
    assert!(request.is_guarded());
    // Both bounds are exclusive.
    assert_eq!(request.chain_deadline_s(), Some(NOW_S + 999));
    assert_eq!(request.valid_until(), Timestamp::from_secs(NOW_S + 999 - SKEW_S));
    let stored = VerifiedRequest::from_stored(&request.to_stored()).unwrap();
    assert_eq!(stored, request);
    assert!(request.outline().data().is_empty());
    assert_eq!(request.outline().payment(), request.payment());

    let elsewhere = Authorization { token: Address::repeat_byte(1), ..good.clone() };
    assert_eq!(check(&elsewhere), Err(VerifyError::UnknownToken(elsewhere.token)));
    let other = Authorization { value: U256::from(1_001), ..good.clone() };
    assert!(matches!(check(&other), Err(VerifyError::WrongSigner { .. })));
    let message = ReceiveWithAuthorization {
        from: good.from,
        to: good.to,
        value: good.value,
        validAfter: good.valid_after,
        validBefore: good.valid_before,
        nonce: good.nonce,
    };
    let separator = domain().separator();
    let digest = keccak256([&[0x19, 0x01], separator.as_slice(), message.eip712_hash_struct().as_slice()].concat());
    let receive = Authorization { signature: signed(digest), ..good };
    assert_eq!(check(&receive), Err(VerifyError::ReceiveAuthorization));
    // Any numbers are read.
    let mut forever = payment(0, 1);
    forever.valid_before = U256::MAX;
    forever.signature = signed(domain().digest(&forever));
    assert_eq!(check(&forever).unwrap().valid_until(), Timestamp::from_secs(NOW_S + 3_600));
    (forever.valid_after, forever.valid_before) = (U256::MAX, U256::ZERO);
    assert!(check(&forever).is_err());
}

#[test]
fn one_payment_holds_its_nonce_and_no_forged_one_does() {
    let good = payment(0, NOW_S + 1_000);
    let slot = check(&good).unwrap().slot();
    assert!(slot.is_some_and(|(token, from, number)| (token, from) == (TOKEN, good.from) && number >> 63 == 0));
    let mut twin = Authorization { value: U256::ONE, ..good.clone() };
    twin.signature = signed(domain().digest(&twin));
    assert_eq!(check(&twin).unwrap().slot(), slot);
    let mut next = Authorization { nonce: B256::repeat_byte(10), ..good.clone() };
    next.signature = signed(domain().digest(&next));
    assert_ne!(check(&next).unwrap().slot(), slot);
    // Only the chain can say whether a contract takes it.
    let forged = Authorization { signature: Bytes::from_static(&[1; 66]), ..good.clone() };
    let request = check(&forged).unwrap();
    assert_ne!(request.id(), RequestId(domain().digest(&good)));
    assert_eq!(request.slot(), None);
    assert_eq!(request.data(), forged.calldata_with_bytes());
}

#[test]
fn it_must_become_valid_before_its_deadline() {
    let within = |seconds| Some(Duration::from_secs(seconds));
    let later = payment(NOW_S + 100, NOW_S + 1_000);
    let request = check(&later).unwrap();
    assert_eq!(request.waits_for_s(), Some(NOW_S + 100));
    assert_eq!(request.deadline(), Timestamp::from_secs(NOW_S + 101 + 60), "from then on");
    assert!(check_within(&later, within(101 + GUARD_S)).is_ok());
    let early = check_within(&later, within(100 + GUARD_S));
    assert!(matches!(early, Err(VerifyError::NotValidInTime { .. })), "{early:?}");
    let short = check(&payment(NOW_S + 100, NOW_S + 102 + SKEW_S));
    assert!(matches!(short, Err(VerifyError::NotValidInTime { .. })), "{short:?}");
    let far = check(&payment(NOW_S + 7_200, NOW_S + 10_000));
    assert!(matches!(far, Err(VerifyError::DeadlineTooFar { .. })), "{far:?}");
}

fn log<E: SolEvent>(address: Address, event: &E) -> Log {
    Log { address, data: event.encode_log_data() }
}

#[test]
fn events_tell_what_became_of_it() {
    let paid = payment(0, NOW_S + 1_000);
    let request = Arc::new(check(&paid).unwrap());
    let schedule = GasSchedule::PRAGUE;
    let params = VehicleParams {
        sender: TOKEN,
        multicall3: None,
        has_capped_calls: false,
        schedule,
        forward_overhead_gas: 45_000,
    };
    let key = params.vehicle(&request);
    assert_eq!(key, VehicleKey::Payment(request.id()));
    assert!(!key.is_bound_to_callers() && key.is_lone());
    let members = [request.clone()];
    let payload = params.payload(key, &members);
    assert_eq!((payload.to, payload.value, payload.data.clone()), (TOKEN, U256::ZERO, request.data()));
    // A sixty-fourth stays behind at each call.
    assert!(payload.gas_limit >= schedule.intrinsic_gas(&payload.data) + GAS + GAS / 63);
    assert!(params.base_gas() + params.member_gas(&request) >= payload.gas_limit);

    let used = AuthorizationUsed { authorizer: paid.from, nonce: paid.nonce };
    let other = AuthorizationUsed { authorizer: paid.from, nonce: B256::ZERO };
    let moved = Transfer { from: paid.from, to: paid.to, value: paid.value };
    let less = Transfer { value: U256::ONE, ..moved.clone() };
    let outcome = |is_success, logs: &[Log]| decode(key, &members, is_success, logs)[0];
    assert_eq!(outcome(true, &[log(TOKEN, &used), log(TOKEN, &moved)]), MemberOutcome::Executed);
    assert_eq!(outcome(false, &[]), MemberOutcome::Untouched, "its nonce is unused");
    for logs in [vec![], vec![log(TOKEN, &other)], vec![log(Address::ZERO, &used)]] {
        assert_eq!(outcome(true, &logs), MemberOutcome::Untouched);
    }

    let made = |logs: &[Log]| request.payment().unwrap().is_made_by(logs);
    assert!(made(&[log(TOKEN, &used), log(TOKEN, &moved)]));
    assert!(!made(&[log(TOKEN, &used), log(TOKEN, &less)]));
    assert!(!made(&[log(TOKEN, &used), log(Address::ZERO, &moved)]));
    assert!(!made(&[log(TOKEN, &other), log(TOKEN, &moved)]));
    // One transfer counts for one payment.
    let both = [log(TOKEN, &used), log(TOKEN, &less), log(TOKEN, &other), log(TOKEN, &moved)];
    assert!(!made(&both));
}

/// Payments of many payers through `CappedCalls`: content, gas, and outcomes by the events of their own calls.
#[test]
fn payers_share_a_transaction_that_caps_their_gas() {
    let schedule = GasSchedule::PRAGUE;
    let params = VehicleParams {
        sender: Address::repeat_byte(0x5e),
        multicall3: None,
        has_capped_calls: true,
        schedule,
        forward_overhead_gas: 45_000,
    };
    let paid: Vec<_> = (1..=5_u8).map(|nonce| payment_with(B256::repeat_byte(nonce))).collect();
    let members: Vec<_> = paid.iter().map(|paid| Arc::new(check(paid).unwrap())).collect();
    let key = params.vehicle(&members[0]);
    assert_eq!(key, VehicleKey::Payments);
    assert!(!key.is_lone() && key.caps_members() && !key.is_bound_to_callers());

    let payload = params.payload(key, &members);
    assert_eq!((payload.to, payload.value), (capped_calls::ADDRESS, U256::ZERO));
    let sent = executeCall::abi_decode(&payload.data).unwrap().calls;
    let wanted = members.iter().map(|member| Call { target: TOKEN, gas: U256::from(GAS), data: member.data() });
    assert_eq!(sent, wanted.collect::<Vec<_>>());
    // Beside what each uses alone: its call by the contract, which a forward has alone too.
    let company_gas = |count| params.company_gas(VehicleKey::Payments, &members[0], count);
    let bytes = members[0].data().len() as u64;
    assert_eq!([1, 2, 12].map(company_gas), [0, 11_560 + bytes, 11_560 + bytes]);
    assert_eq!(params.company_gas(VehicleKey::Multicall, &members[0], 2), 0);
    let needed = capped_calls::gas_limit(members.iter().map(|member| (GAS, member.data().len() as u64)));
    assert_eq!(payload.gas_limit, schedule.intrinsic_gas(&payload.data) + needed);
    for count in 1..=members.len() {
        let some = &members[..count];
        let bound: u64 = some.iter().map(|member| params.member_gas(member)).sum();
        assert!(params.base_gas() + bound >= params.payload(key, some).gas_limit, "{count}");
    }
    // One alone calls the token itself.
    let alone = params.payload(key, &members[..1]);
    assert_eq!((alone.to, alone.data.clone()), (TOKEN, members[0].data()));
    assert!(alone.gas_limit < params.payload(key, &members[..2]).gas_limit / 2 + 40_000);

    let end = |caller: Address, index: usize, success: bool| {
        let event = Executed { caller, target: TOKEN, index: U256::from(index), success };
        log(capped_calls::ADDRESS, &event)
    };
    let used = |place: usize| log(TOKEN, &AuthorizationUsed { authorizer: paid[place].from, nonce: paid[place].nonce });
    let outcomes = |logs: &[Log]| decode(key, &members, true, logs);
    use MemberOutcome::{Executed as Made, Untouched};
    let sender = params.sender;
    let fair: Vec<Log> = (0..5).flat_map(|place| [used(place), end(sender, place, true)]).collect();
    assert_eq!(outcomes(&fair), [Made; 5]);
    assert_eq!(decode(key, &members, false, &[]), [Untouched; 5], "all or nothing");
    // The second fails, the fourth does nothing, and the third has others' calls in its own.
    let payer = paid[2].from;
    let mixed = [
        used(0),
        end(sender, 0, true),
        end(sender, 1, false),
        end(payer, 0, true),
        used(2),
        end(payer, 1, false),
        end(sender, 2, true),
        end(sender, 3, true),
        used(4),
        end(sender, 4, true),
    ];
    assert_eq!(outcomes(&mixed), [Made, Untouched, Made, Untouched, Made]);
    // A nonce that is used within another's call, or after a call that failed, is not this payment made by it.
    let elsewhere = [
        used(1),
        end(sender, 0, true),
        end(sender, 1, false),
        used(2),
        end(sender, 2, false),
        end(sender, 3, true),
        end(sender, 4, true),
    ];
    assert_eq!(outcomes(&elsewhere), [Untouched; 5]);
    assert_eq!(outcomes(&[]), [Untouched; 5]);
}
