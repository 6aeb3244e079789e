use alloy_primitives::{Address, B256, Bytes, Log, U256, keccak256};
use alloy_sol_types::{SolCall, SolEvent};
use proptest::prelude::*;
use serde_json::{Value, json};
use slackwater_contracts::forwarder::{
    ExecutedForwardRequest, eip712DomainCall, eip712DomainReturn, executeBatchCall, isTrustedForwarderCall,
};

use super::{verify::*, *};
use crate::{
    chain::FinalityRule,
    provenance::{Decision, Entry, Head, MerkleTree},
    request::{Forward, ForwarderDomain, RequestId, Status},
    time::Timestamp,
    wire::{Account, HexBytes},
};

const KEY: &str = "0x1c00ce94b96ffd8a5dc35453e915c3e6dc9a2815b0ab85946340c5d970337915";

fn domain() -> ForwarderDomain {
    ForwarderDomain::new("Slackwater", 31_337, Address::repeat_byte(0xF0))
}

fn signer() -> KeySigner {
    KeySigner::from_hex(KEY).unwrap()
}

fn unsigned(nonce: u64, data: &[u8]) -> UnsignedForward {
    let builder = ForwardBuilder::new(domain(), signer().address(), Address::repeat_byte(7)).data(data.to_vec());
    builder.nonce(U256::from(nonce)).deadline_s(1_790_000_000).build().unwrap()
}

fn signed(nonce: u64, data: &[u8]) -> Forward {
    unsigned(nonce, data).sign(&signer()).unwrap()
}

/// Every vector made by wallets: the same digest, the same typed data, the same signature.
#[test]
fn wallets_vectors() {
    let rows: Vec<Value> = serde_json::from_str(include_str!("../../pure/tests/vectors/eip712.json")).unwrap();
    let mut signed = 0;
    for row in &rows {
        let text = |path: &str| row.pointer(path).and_then(Value::as_str).unwrap().to_owned();
        let contract: Address = text("/domain/verifyingContract").parse().unwrap();
        let domain = ForwarderDomain::new(text("/domain/name"), text("/domain/chainId").parse().unwrap(), contract);
        let message = |name: &str| text(&format!("/message/{name}"));
        let gas: U256 = message("gas").parse().unwrap();
        let Ok(gas) = u64::try_from(gas) else { continue };
        let built = ForwardBuilder::new(domain, message("from").parse().unwrap(), message("to").parse().unwrap())
            .value(message("value").parse().unwrap())
            .gas(gas)
            .nonce(message("nonce").parse().unwrap())
            .deadline_s(message("deadline").parse().unwrap())
            .data(message("data").parse::<Bytes>().unwrap())
            .build();
        if gas == 0 {
            assert_eq!(built.unwrap_err().code(), "invalid_argument");
            continue;
        }
        let built = built.unwrap();
        assert_eq!(built.digest(), text("/digest").parse::<B256>().unwrap(), "{}", text("/title"));
        let typed: Value = serde_json::from_str(&built.typed_data()).unwrap();
        assert_eq!(typed["domain"]["name"], row["domain"]["name"]);
        for name in ["value", "gas", "nonce", "deadline", "data"] {
            assert_eq!(typed["message"][name], row["message"][name], "{name}");
        }
        let wallet: Bytes = text("/signature").parse().unwrap();
        let own = built.clone().sign(&KeySigner::from_hex(&text("/privateKey")).unwrap()).unwrap();
        assert_eq!(own.signature, wallet, "{}", text("/title"));
        let mut odd = wallet.to_vec();
        odd[64] -= 27;
        assert_eq!(built.with_signature(&odd).unwrap(), own, "some wallets give 0 or 1");
        signed += 1;
    }
    assert!(signed > 40, "{signed} of {}", rows.len());
}

#[test]
fn signatures_of_others_are_refused() {
    let other = KeySigner::from_bytes(&[9; 32]).unwrap();
    let error = unsigned(0, b"").sign(&other).unwrap_err();
    assert!(error.to_string().contains("made by"), "{error}");
    assert!(unsigned(0, b"").with_signature(&[1; 64]).is_err());
    assert!(!format!("{other:?}").contains("09090909"), "a key in Debug");
    let wrong = KeySigner::from_hex("0x1c00ce94b96ffd8a5dc3").unwrap_err();
    assert!(!wrong.to_string().contains("1c00"), "{wrong}");
}

#[test]
fn keys_name_bytes() {
    let forward = Submit::forward(1, signed(0, b"a"));
    assert_eq!(forward.key(), Submit::forward(1, signed(0, b"a")).key());
    assert_ne!(forward.key(), Submit::forward(1, signed(0, b"b")).key());
    assert_ne!(forward.key(), forward.clone().max_cost_wei(U256::from(1)).key());
    let ask = CallAsk { to: Address::ZERO, value: U256::ZERO, gas: 1, data: Bytes::new(), any_sender: false };
    assert_ne!(Submit::call(1, ask.clone(), b"1").key(), Submit::call(1, ask.clone(), b"2").key());
    // Part of the contract: a key must not change between versions, or a restart with a new one sends under two.
    let fixed = Submit::call(8453, ask, b"order 7").within(std::time::Duration::from_secs(30));
    assert_eq!(
        fixed.body(),
        format!(
            r#"{{"chainId":8453,"kind":"call","call":{{"to":"0x0000000000000000000000000000000000000000","value":"0","gas":"1","data":"0x","anySender":false}},"within":"30000ms","idempotencyKey":"{}"}}"#,
            fixed.key()
        )
    );
    assert!(IdempotencyKey::new("").is_err() && IdempotencyKey::new("a b").is_err());
    assert!(IdempotencyKey::new("x".repeat(256)).is_err() && IdempotencyKey::new("order-7").is_ok());
}

proptest! {
    #[test]
    fn bodies_come_back(value: [u8; 32], nonce: [u8; 32], deadline in 0_u64..(1 << 48), data: Vec<u8>, chain_id: u64, cost: Option<u64>) {
        let forward = Forward {
            forwarder: Address::repeat_byte(1), from: Address::repeat_byte(2), to: Address::repeat_byte(3),
            value: U256::from_be_bytes(value), gas: U256::from(7), nonce: U256::from_be_bytes(nonce), deadline,
            data: data.into(), signature: vec![5; 65].into(),
        };
        let mut submit = Submit::forward(chain_id, forward);
        if let Some(cost) = cost {
            submit = submit.max_cost_wei(U256::from(cost));
        }
        let again = Submit::from_json(&submit.body(), None).unwrap();
        prop_assert_eq!((again.key(), again.body(), again.kind()), (submit.key(), submit.body(), submit.kind()));
    }
}

fn promise_of(signer: &KeySigner) -> SignedPromise {
    promise_until(100, signer)
}

fn promise_until(deadline: u64, signer: &KeySigner) -> SignedPromise {
    let (request_hash, chain_id, relayer) = (RequestId(B256::repeat_byte(1)), 1, Account(signer.address()));
    let mut promise = SignedPromise { request_hash, chain_id, deadline, relayer, signature: HexBytes::default() };
    promise.signature = HexBytes(signer.sign_digest(promise.words().digest()).unwrap().into());
    promise
}

#[test]
fn promises() {
    let signer = signer();
    let good = promise_of(&signer);
    let expected = ExpectedPromise {
        request: RequestId(B256::repeat_byte(1)),
        chain_id: 1,
        relayer: signer.address(),
        not_after: Some(Timestamp(100_999)),
    };
    assert_eq!(verify_promise(&good, &expected), Ok(()));
    let late = ExpectedPromise { not_after: Some(Timestamp(99_999)), ..expected };
    assert_eq!(verify_promise(&good, &late), Err(PromiseFault::TooLate { promised_s: 100, asked_s: 99 }));
    let mut changed = good.clone();
    changed.deadline = 99;
    assert_eq!(verify_promise(&changed, &expected), Err(PromiseFault::NotSigned(signer.address())));
    let other = KeySigner::from_bytes(&[9; 32]).unwrap();
    let found = other.address();
    assert!(matches!(verify_promise(&promise_of(&other), &expected),
        Err(PromiseFault::OtherRelayer { found: by, .. }) if by == found));
    for expected in
        [ExpectedPromise { request: RequestId(B256::ZERO), ..expected }, ExpectedPromise { chain_id: 2, ..expected }]
    {
        assert!(verify_promise(&good, &expected).is_err());
    }
    let json = serde_json::to_value(&good).unwrap();
    assert_eq!(serde_json::from_value::<SignedPromise>(json).unwrap(), good);
}

#[test]
fn calls_by_name() {
    let quote = api::by_name("quote", r#"{"chainId":"8453","gas":100000,"withinMs":1500.7}"#).unwrap();
    let body = r#"{"chainId":8453,"gas":100000,"within":"1500ms"}"#;
    assert_eq!((quote.path.as_str(), quote.body.as_deref()), ("/v1/quotes", Some(body)));
    assert_eq!(api::by_name("forecast", r#"{"chainId":1}"#).unwrap().path, "/v1/chains/1/forecast");
    for (name, arguments, wrong) in [
        ("quote", r#"{"chainId":1}"#, "gas"),
        ("cancel", r#"{"id":"0x12"}"#, "id"),
        ("forecast", r#"{"chainId":1,"horizonMs":-1}"#, "horizonMs"),
        ("fees", "[]", "arguments"),
        ("fly", "{}", "name"),
    ] {
        let error = api::by_name(name, arguments).unwrap_err();
        assert!(matches!(error, ClientError::Invalid { field, .. } if field == wrong), "{name}: {error}");
    }
}

/// A relayer whose answers are there at once, one after the other. Time goes on by a second with each.
struct Script {
    answers: std::cell::RefCell<Vec<Result<HttpAnswer, TransportError>>>,
    calls: std::cell::RefCell<Vec<(Method, String)>>,
}

impl Script {
    fn of(answers: impl IntoIterator<Item = Option<(u16, Value)>>) -> Self {
        let answer = |answer: Option<(u16, Value)>| match answer {
            Some((status, body)) => {
                Ok(HttpAnswer { status, body: body.to_string().into_bytes(), ..HttpAnswer::default() })
            }
            None => Err(TransportError::new(TransportErrorKind::Broken, "x")),
        };
        let mut answers: Vec<_> = answers.into_iter().map(answer).collect();
        answers.reverse();
        Self { answers: answers.into(), calls: std::cell::RefCell::default() }
    }
}

impl Transport for Script {
    async fn send(&self, call: &HttpCall) -> Result<HttpAnswer, TransportError> {
        self.calls.borrow_mut().push((call.method, call.path.clone()));
        self.answers.borrow_mut().pop().expect("it is not asked more than that")
    }
    async fn sleep(&self, _: std::time::Duration) {}
    fn now(&self) -> Timestamp {
        // No wait is longer than its policy allows.
        Timestamp(1_000_000 + 20_000 * self.calls.borrow().len() as u64)
    }
    fn entropy(&self) -> u64 {
        0
    }
}

/// The value of a future that never waits.
fn value<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("it waits"),
    }
}

#[test]
fn a_withdrawal_whose_answer_was_lost_is_no_refusal() {
    let too_late = || Some((409, json!({ "code": "too_late", "title": "x", "detail": "it has ended" })));
    let request = |status: &str| {
        let summary = json!({ "id": B256::ZERO, "chainId": 1, "kind": "forward", "status": status, "target": Address::ZERO,
            "deadlineAtMs": 1, "acceptedAtMs": 1, "updatedAtMs": 5, "promise": promise_of(&signer()), "timeline": [] });
        Some((200, summary))
    };
    let gone = Some((502, json!("a gateway")));
    let cancel = |answers: Vec<Option<(u16, Value)>>| {
        let client = Client::over(Script::of(answers));
        let result = value(client.cancel(RequestId(B256::ZERO))).map(|summary| summary.status.as_str().to_owned());
        (result.map_err(|error| error.code().to_owned()), client.transport().calls.borrow().clone())
    };
    let path = || format!("/v1/requests/{}", B256::ZERO);
    for lost in [None, gone.clone()] {
        let (result, calls) = cancel(vec![lost, too_late(), None, request("cancelled")]);
        assert_eq!(result, Ok("cancelled".to_owned()));
        let methods = [Method::Delete, Method::Delete, Method::Get, Method::Get];
        assert_eq!(calls, methods.map(|method| (method, path())));
    }
    let refused = Err("too_late".to_owned());
    // It is in a transaction, or its state is unknown.
    assert_eq!(cancel(vec![None, too_late(), request("broadcast")]).0, refused);
    let not_there = Some((404, json!({ "code": "not_found" })));
    assert_eq!(cancel(vec![None, too_late(), not_there]).0, refused);
    assert_eq!(cancel(vec![None, too_late(), None, None, None, None]).0, refused);
    // No attempt can have withdrawn it: another client has.
    assert_eq!(cancel(vec![too_late()]).0, refused);
    assert_eq!(cancel(vec![Some((503, json!({ "code": "overloaded" }))), too_late()]).0, refused);
}

#[test]
fn a_client_holds_promises_against_what_it_asked_for() {
    let signer = signer();
    let ask = CallAsk { to: Address::ZERO, value: U256::ZERO, gas: 60_000, data: Bytes::new(), any_sender: true };
    let submit = Submit::call(1, ask, b"1").within(std::time::Duration::from_secs(30));
    // Answered at 1 020 s.
    for (deadline, is_good) in [(1_050, true), (4_650, true), (4_651, false)] {
        let id = RequestId(B256::repeat_byte(1));
        let answer = json!({ "id": id, "status": "queued", "chainId": 1, "deadlineAtMs": deadline * 1_000,
            "acceptedAtMs": 1, "promise": promise_until(deadline, &signer) });
        let single = Client::over(Script::of([Some((202, answer.clone()))])).identities([signer.address()]);
        let batch = json!({ "results": [{ "status": 202, "accepted": answer }] });
        let batch = Client::over(Script::of([Some((207, batch))])).identities([signer.address()]);
        assert_eq!(value(single.submit(&submit)).is_ok(), is_good, "{deadline}");
        assert_eq!(value(batch.submit_batch(std::slice::from_ref(&submit))).unwrap()[0].is_ok(), is_good, "{deadline}");
    }
}

/// A node with configured answers.
struct Node {
    chain_id: u64,
    head: u64,
    finalized: Option<u64>,
    receipt: Value,
    block_hash: B256,
    time_s: u64,
    input: Bytes,
    to: Address,
    next_nonce: u64,
    /// The forwarder's code: at the head, and before the block of the receipt.
    code: [Bytes; 2],
    /// The target's answer to the trust query; `None`: it reverts.
    trust: Option<Bytes>,
    /// True if the node has pruned the states of past blocks.
    is_pruned: bool,
    /// Queries about the forwarder.
    asked: std::cell::RefCell<Vec<String>>,
}

const TX: B256 = B256::repeat_byte(0xAA);
const BLOCK: B256 = B256::repeat_byte(0xBB);

impl Node {
    fn with(request: &Forward, is_success: bool) -> Self {
        let event = ExecutedForwardRequest { signer: request.from, nonce: request.nonce, success: is_success };
        let log: Log = Log { address: request.forwarder, data: event.encode_log_data() };
        let requests = vec![data_of(request)];
        Self {
            chain_id: 31_337,
            head: 110,
            finalized: Some(105),
            receipt: json!({
                "transactionHash": TX, "blockNumber": "0x64", "blockHash": BLOCK, "status": "0x1",
                "logs": [{ "address": log.address, "topics": log.data.topics(), "data": log.data.data }],
            }),
            block_hash: BLOCK,
            time_s: 1_789_999_999,
            input: executeBatchCall { requests, refundReceiver: Address::ZERO }.abi_encode().into(),
            to: request.forwarder,
            next_nonce: 0,
            code: [forwarder_code(), forwarder_code()],
            trust: Some(word(1)),
            is_pruned: false,
            asked: std::cell::RefCell::default(),
        }
    }

    /// As above, with these members and events in this order.
    fn with_batch(members: &[&Forward], events: &[&Forward]) -> Self {
        let event = |of: &&Forward| {
            let event = ExecutedForwardRequest { signer: of.from, nonce: of.nonce, success: true }.encode_log_data();
            json!({ "address": of.forwarder, "topics": event.topics(), "data": event.data })
        };
        let requests = members.iter().map(|member| data_of(member)).collect();
        let mut node = Self::with(members[0], true);
        node.receipt["logs"] = events.iter().map(event).collect();
        Self { input: executeBatchCall { requests, refundReceiver: Address::ZERO }.abi_encode().into(), ..node }
    }

    /// As above, by a contract that runs nothing and emits the event.
    fn with_fake(request: &Forward) -> Self {
        let code = Bytes::from_static(&[0x60, 0x01, 0x60, 0x00]);
        Self { code: [code.clone(), code], trust: Some(word(0)), ..Self::with(request, true) }
    }

    fn answer(&self, body: &str) -> Vec<u8> {
        let call: Value = serde_json::from_str(body).unwrap();
        let time = format!("{:#x}", self.time_s);
        let block =
            |number: u64| json!({ "number": format!("{number:#x}"), "hash": self.block_hash, "timestamp": time });
        let result = match (call["method"].as_str().unwrap(), call["params"][0].as_str()) {
            ("eth_chainId", _) => json!(format!("{:#x}", self.chain_id)),
            ("eth_getBlockByNumber", Some("latest")) => block(self.head),
            ("eth_getBlockByNumber", Some("finalized")) => self.finalized.map_or(Value::Null, block),
            ("eth_getBlockByNumber", Some(number)) => {
                block(u64::from_str_radix(number.trim_start_matches("0x"), 16).unwrap())
            }
            ("eth_getTransactionReceipt", _) => self.receipt.clone(),
            ("eth_getTransactionByHash", _) => json!({ "hash": TX, "to": self.to, "input": self.input }),
            ("eth_getCode" | "eth_call", _) if self.is_pruned && call["params"][1] != json!("latest") => {
                return br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"missing trie node"}}"#.to_vec();
            }
            ("eth_getCode", _) => {
                assert_eq!(call["params"][0], json!(domain().forwarder()));
                self.asked.borrow_mut().push(format!("code {}", call["params"][1]));
                json!(self.code[usize::from(call["params"][1] == json!("0x63"))])
            }
            ("eth_call", _) => {
                let data: Bytes = serde_json::from_value(call["params"][0]["data"].clone()).unwrap();
                if data.starts_with(&eip712DomainCall::SELECTOR) {
                    return json!({ "jsonrpc": "2.0", "id": 1, "result": domain_answer(self.chain_id) })
                        .to_string()
                        .into_bytes();
                }
                let Ok(question) = isTrustedForwarderCall::abi_decode(&data) else {
                    let nonce = json!(B256::from(U256::from(self.next_nonce)));
                    return json!({ "jsonrpc": "2.0", "id": 1, "result": nonce }).to_string().into_bytes();
                };
                assert_eq!(question.forwarder, domain().forwarder());
                assert_eq!(call["params"][0]["to"], json!(unsigned(0, b"").forward().to), "the target is asked");
                self.asked.borrow_mut().push(format!("trust {}", call["params"][1]));
                let Some(answer) = &self.trust else {
                    return br#"{"jsonrpc":"2.0","id":1,"error":{"code":3,"message":"execution reverted"}}"#.to_vec();
                };
                json!(answer)
            }
            (other, _) => panic!("{other}"),
        };
        json!({ "jsonrpc": "2.0", "id": 1, "result": result }).to_string().into_bytes()
    }
}

fn word(value: u64) -> Bytes {
    B256::from(U256::from(value)).0.into()
}

/// Code as returned by a node after a deployment.
fn forwarder_code() -> Bytes {
    let hex = include_str!("../../../bindings/contracts/tests/fixtures/forwarder-5.7.0.deployed.hex");
    hex.trim().parse().unwrap()
}

fn domain_answer(chain_id: u64) -> Bytes {
    let answer = eip712DomainReturn {
        fields: [0x0f].into(),
        name: "Slackwater".to_owned(),
        version: "1".to_owned(),
        chainId: U256::from(chain_id),
        verifyingContract: domain().forwarder(),
        salt: B256::ZERO,
        extensions: Vec::new(),
    };
    eip712DomainCall::abi_encode_returns(&answer).into()
}

fn data_of(forward: &Forward) -> slackwater_contracts::forwarder::ForwardRequestData {
    slackwater_contracts::forwarder::ForwardRequestData {
        from: forward.from,
        to: forward.to,
        value: forward.value,
        gas: forward.gas,
        deadline: forward.deadline.try_into().unwrap(),
        data: forward.data.clone(),
        signature: forward.signature.clone(),
    }
}

fn check_of(request: &Forward, status: Status) -> InclusionCheck {
    let claim = InclusionClaim { status, tx_hash: TX, block_number: Some(100) };
    InclusionCheck::new(domain(), request.clone(), claim, FinalityRule::FinalizedTag { fallback_depth: 0 })
}

fn judge(node: &Node, request: &Forward, status: Status) -> Verdict {
    run(check_of(request, status), node)
}

fn run(mut check: InclusionCheck, node: &Node) -> Verdict {
    for _ in 0..12 {
        let Some(body) = check.next_body() else { return check.verdict().unwrap().clone() };
        check.answer(&node.answer(&body));
    }
    panic!("it never ends")
}

fn confirmed(is_final: bool, is_success: bool, binding: Binding) -> Verdict {
    Verdict::Confirmed { is_final, is_success, block_number: 100, block_hash: BLOCK, binding }
}

#[test]
fn inclusion_is_confirmed() {
    let request = signed(3, b"x");
    let mut node = Node::with(&request, true);
    assert_eq!(judge(&node, &request, Status::Finalized), confirmed(true, true, Binding::Content));
    node.finalized = Some(99);
    assert_eq!(judge(&node, &request, Status::Included), confirmed(false, true, Binding::Content));
    node.finalized = None;
    assert_eq!(judge(&node, &request, Status::Finalized), confirmed(false, true, Binding::Content));
    node.to = Address::repeat_byte(1);
    assert_eq!(judge(&node, &request, Status::Included), confirmed(false, true, Binding::Nonce));
    let failed = Node::with(&request, false);
    assert_eq!(judge(&failed, &request, Status::Reverted), confirmed(true, false, Binding::Content));
}

/// Another user's request, which may do anything.
fn others(seed: u8, nonce: u64) -> Forward {
    let key = KeySigner::from_bytes(&[seed; 32]).unwrap();
    let builder = ForwardBuilder::new(domain(), key.address(), Address::repeat_byte(7)).data(vec![seed]);
    builder.nonce(U256::from(nonce)).deadline_s(1_790_000_000).build().unwrap().sign(&key).unwrap()
}

/// A member's call may make the forwarder run another request that the user signed with this nonce. The forwarder then
/// emits its event, and the member's after its call.
#[test]
fn an_event_within_another_members_call_is_not_the_requests_own() {
    let request = signed(3, b"x");
    let before = signed(2, b"before");
    let after = signed(4, b"after");
    let (a0, a1, b) = (others(1, 0), others(1, 1), others(2, 3));
    let bound = |members: &[&Forward], events: &[&Forward]| match judge(
        &Node::with_batch(members, events),
        &request,
        Status::Finalized,
    ) {
        Verdict::Confirmed { binding, .. } => binding,
        other => panic!("{other:?}"),
    };
    // Honest batches: everything in order, some skipped, some signers more than once.
    for (members, events) in [
        (vec![&a0, &request, &b], vec![&a0, &request, &b]),
        (vec![&a0, &request, &b], vec![&request]),
        (vec![&a0, &request, &a1], vec![&a0, &request, &a1]),
        (vec![&a0, &request, &a1], vec![&request, &a1]),
        (vec![&before, &a0, &request, &after, &a1], vec![&before, &a0, &request, &after, &a1]),
        // The user's earlier nonce was used in an earlier block.
        (vec![&before, &request, &after], vec![&request, &after]),
        // A later member makes something run; by then ours was executed.
        (vec![&request, &a0], vec![&request, &b, &a0]),
    ] {
        assert_eq!(bound(&members, &events), Binding::Content, "{members:?} {events:?}");
    }
    for (members, events) in [
        // An earlier member made another request run with this nonce: its own event comes after.
        (vec![&a0, &request], vec![&request, &a0]),
        // Also if its signer has another member behind ours.
        (vec![&a0, &request, &a1], vec![&request, &a0]),
        (vec![&before, &request], vec![&request, &before]),
        // Ours came too early and was skipped; a later member made both nonces be used.
        (vec![&request, &a0], vec![&before, &request, &a0]),
        (vec![&request, &before], vec![&request, &before]),
        (vec![&request, &before], vec![&before, &request]),
    ] {
        assert_eq!(bound(&members, &events), Binding::Nonce, "{members:?} {events:?}");
    }
}

#[test]
fn what_was_too_late_has_not_run() {
    let request = signed(3, b"x");
    let node = |time_s| Node { time_s, ..Node::with(&request, true) };
    assert_eq!(judge(&node(1_790_000_000), &request, Status::Finalized), confirmed(true, true, Binding::Content));
    let late = Verdict::Mismatch(Mismatch::OtherRequest);
    assert_eq!(judge(&node(1_790_000_001), &request, Status::Finalized), late);
    let elsewhere = Node { to: Address::repeat_byte(1), ..node(1_790_000_001) };
    assert_eq!(judge(&elsewhere, &request, Status::Finalized), late);
}

/// The forwarder chosen by the relayer has a domain, counts nonces, runs nothing, and claims that it did.
#[test]
fn an_event_of_a_fake_forwarder_confirms_nothing() {
    let request = signed(3, b"x");
    let fake = || Node::with_fake(&request);
    assert_eq!(judge(&fake(), &request, Status::Finalized), Verdict::UntrustedForwarder);
    // A target that trusts everybody does not make it a forwarder.
    for trust in [word(1), word(7), [word(1), word(0)].concat().into()] {
        let node = Node { trust: Some(trust), ..fake() };
        let code_hash = keccak256(&node.code[0]);
        assert_eq!(judge(&node, &request, Status::Finalized), Verdict::UnknownForwarder { code_hash });
        assert_eq!(judge(&node, &request, Status::Included), Verdict::UnknownForwarder { code_hash });
        // Pinned, it is the caller's own choice; the target is still queried.
        let pinned = run(check_of(&request, Status::Finalized).pinned(), &node);
        assert_eq!(pinned, confirmed(true, true, Binding::Content));
    }
    let pinned = |node: &Node| run(check_of(&request, Status::Finalized).pinned(), node);
    assert_eq!(pinned(&fake()), Verdict::UntrustedForwarder);
    // No answer means no trust: an account without code, a contract without the function, half a word.
    for trust in [None, Some(Bytes::new()), Some(Bytes::from_static(&[1; 31]))] {
        let node = Node { trust, ..Node::with(&request, true) };
        assert_eq!(judge(&node, &request, Status::Finalized), Verdict::UntrustedForwarder);
        assert_eq!(pinned(&node), Verdict::UntrustedForwarder);
    }
    // Deployed after the fact.
    let node = Node { code: [forwarder_code(), Bytes::new()], ..Node::with(&request, true) };
    assert!(matches!(judge(&node, &request, Status::Finalized), Verdict::UnknownForwarder { .. }));
    assert_eq!(*node.asked.borrow(), ["trust \"0x64\"", "code \"0x63\""]);
    // A claim of failure is no better.
    let node = Node { code: fake().code, ..Node::with(&request, false) };
    assert!(matches!(judge(&node, &request, Status::Reverted), Verdict::UnknownForwarder { .. }));
}

#[test]
fn a_node_without_old_states_is_asked_about_now() {
    let request = signed(3, b"x");
    let node = Node { is_pruned: true, ..Node::with(&request, true) };
    assert_eq!(judge(&node, &request, Status::Finalized), confirmed(true, true, Binding::Content));
    assert_eq!(*node.asked.borrow(), ["trust \"latest\"", "code \"latest\""]);
    let node = Node { is_pruned: true, ..Node::with_fake(&request) };
    assert_eq!(judge(&node, &request, Status::Finalized), Verdict::UntrustedForwarder);
}

#[test]
fn a_forwarder_is_checked_before_it_is_signed_for() {
    let request = signed(3, b"x");
    let check = || ForwarderCheck::new(31_337, domain().forwarder(), request.to);
    let judged = |check: ForwarderCheck, node: &Node| {
        let answers: Vec<_> = check.bodies().iter().map(|body| node.answer(body)).collect();
        check.judge(&answers)
    };
    let honest = || Node::with(&request, true);
    assert_eq!(judged(check(), &honest()), Ok(domain()));
    assert_eq!(judged(check().pinned(), &honest()), Ok(domain()));
    let code = |check, node: &Node| judged(check, node).unwrap_err().code();
    let fake = || Node::with_fake(&request);
    assert_eq!(code(check(), &fake()), "untrusted_forwarder");
    assert_eq!(code(check().pinned(), &fake()), "untrusted_forwarder");
    assert_eq!(code(check(), &Node { trust: None, ..honest() }), "untrusted_forwarder");
    let flattered = Node { trust: Some(word(1)), ..fake() };
    assert_eq!(code(check(), &flattered), "unknown_forwarder");
    assert_eq!(judged(check().pinned(), &flattered), Ok(domain()));
    assert_eq!(code(check(), &Node { code: [Bytes::new(), Bytes::new()], ..honest() }), "unknown_forwarder");
    assert_eq!(code(check(), &Node { chain_id: 1, ..honest() }), "wrong_chain");
    assert_eq!(check().judge(&[b"{}"]).unwrap_err().code(), "node_error");
    assert_eq!(check().judge(&[] as &[&[u8]]).unwrap_err().code(), "node_error");
}

#[test]
fn lies_are_found() {
    let request = signed(3, b"x");
    let lie = |node: &Node, status| match judge(node, &request, status) {
        Verdict::Mismatch(mismatch) => mismatch,
        other => panic!("{other:?}"),
    };
    let honest = || Node::with(&request, true);
    assert_eq!(lie(&Node::with(&request, false), Status::Finalized), Mismatch::TargetFailed);
    assert_eq!(lie(&honest(), Status::Reverted), Mismatch::TargetSucceeded);
    assert_eq!(lie(&Node::with(&signed(4, b"x"), true), Status::Finalized), Mismatch::NotInTransaction);
    // The user signed two requests with this nonce, and the other one ran.
    assert_eq!(lie(&Node::with(&signed(3, b"other"), true), Status::Finalized), Mismatch::OtherRequest);
    let mut node = honest();
    node.receipt["status"] = json!("0x0");
    assert_eq!(lie(&node, Status::Included), Mismatch::TransactionReverted);
    let mut node = honest();
    node.receipt["blockNumber"] = json!("0x65");
    assert_eq!(lie(&node, Status::Finalized), Mismatch::OtherBlock { claimed: 100, found: 101 });
    let mut node = honest();
    (node.receipt, node.next_nonce) = (Value::Null, 3);
    assert_eq!(lie(&node, Status::Finalized), Mismatch::NeverExecuted { next_nonce: U256::from(3) });
    // An event of another contract does not count.
    let mut node = honest();
    node.receipt["logs"][0]["address"] = json!(Address::repeat_byte(5));
    assert_eq!(lie(&node, Status::Finalized), Mismatch::NotInTransaction);
}

#[test]
fn what_a_node_can_not_tell() {
    let request = signed(3, b"x");
    let is_unknown = |node: &Node, status| matches!(judge(node, &request, status), Verdict::Unknown(_));
    let honest = || Node::with(&request, true);
    assert!(is_unknown(&Node { chain_id: 1, ..honest() }, Status::Finalized));
    assert!(is_unknown(&Node { block_hash: B256::ZERO, ..honest() }, Status::Finalized), "reorganised in between");
    assert!(is_unknown(&Node { receipt: Value::Null, next_nonce: 4, ..honest() }, Status::Finalized), "pruned");
    assert!(is_unknown(&Node { receipt: Value::Null, finalized: Some(99), ..honest() }, Status::Finalized), "behind");
    assert_eq!(judge(&Node { receipt: Value::Null, ..honest() }, &request, Status::Included), Verdict::Pending);
    // Two with one nonce in one call: calldata does not show which was skipped.
    let requests = vec![data_of(&signed(3, b"other")), data_of(&request)];
    let input = executeBatchCall { requests, refundReceiver: Address::ZERO }.abi_encode().into();
    assert!(is_unknown(&Node { input, ..honest() }, Status::Finalized));
    let claim = InclusionClaim { status: Status::Finalized, tx_hash: TX, block_number: None };
    let mut check = InclusionCheck::new(domain(), request.clone(), claim, FinalityRule::SafeTag);
    check.answer(br#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":"busy"}}"#);
    assert!(matches!(check.verdict(), Some(Verdict::Unknown(why)) if why.contains("busy")));
    assert_eq!(check.next_body(), None);
}

#[test]
fn log_entries_are_proven() {
    let mut entries: Vec<Entry> = Vec::new();
    for n in 0..5_u64 {
        let head = entries.last().map_or(Head::GENESIS, Entry::head);
        let decision = Decision::Sent { batch: keccak256(n.to_be_bytes()), attempt: B256::ZERO };
        entries.push(Entry::append(&head, n, &decision));
    }
    let published = entries[4].head();
    assert_eq!(verify_log(Head::GENESIS, &entries, published), Ok(()));
    assert!(matches!(verify_log(Head::GENESIS, &entries[..4], published), Err(LogFault::OtherHead { .. })));
    assert!(matches!(verify_log(Head::GENESIS, &entries[1..], published), Err(LogFault::Break(_))));
    let hashes: Vec<B256> = entries.iter().map(|entry| entry.hash).collect();
    let tree = MerkleTree::new(&hashes).unwrap();
    for (index, entry) in entries.iter().enumerate() {
        let proof = LogProof { entry: entry.clone(), siblings: tree.proof(index).unwrap() };
        assert_eq!(proof.verify(tree.root()), Ok(entry.decision().unwrap()));
        assert_eq!(proof.verify(B256::ZERO), Err(LogFault::NotIncluded(B256::ZERO)));
        let mut changed = proof.clone();
        changed.entry.at_ms += 1;
        assert_eq!(changed.verify(tree.root()), Err(LogFault::Content));
    }
}

fn event(request_seq: u32, status: &str) -> Value {
    json!({ "seq": 100 + request_seq, "requestId": B256::ZERO, "requestSeq": request_seq, "tenant": "t", "chainId": 1,
            "status": status, "atMs": request_seq })
}

fn stream(events: &[Value]) -> Vec<u8> {
    events.iter().map(|event| format!("id: {}\ndata: {event}\n\n", event["seq"])).collect::<String>().into_bytes()
}

fn statuses(follow: &mut Follow) -> Vec<(String, bool)> {
    std::iter::from_fn(|| follow.next_change())
        .map(|change| (change.event.status.as_str().to_owned(), change.is_fallback))
        .collect()
}

#[test]
fn following_through_broken_streams_and_reorganisations() {
    let ok = || Ok(HttpAnswer { status: 200, ..HttpAnswer::default() });
    let mut follow = Follow::new(RequestId(B256::ZERO));
    let now = Timestamp(0);
    assert!(matches!(follow.step(now), FollowStep::Open(http) if http.headers.len() == 1), "from the first event on");
    follow.opened(now, ok(), 0);
    follow
        .bytes(&stream(&[event(1, "queued"), event(2, "broadcast"), event(3, "included"), event(4, "broadcast")]))
        .unwrap();
    let expected = [("queued", false), ("broadcast", false), ("included", false), ("broadcast", true)];
    assert_eq!(statuses(&mut follow), expected.map(|(status, is_back)| (status.to_owned(), is_back)));
    follow.closed(now, u64::MAX);
    let FollowStep::Wait(until) = follow.step(now) else { panic!("it waits") };
    let FollowStep::Look(http) = follow.step(until) else { panic!("it looks before it opens") };
    assert!(http.path.ends_with(&B256::ZERO.to_string()));
    follow.looked(until, Err(TransportError::new(TransportErrorKind::Timeout, "x")), u64::MAX);
    let FollowStep::Wait(until) = follow.step(until) else { panic!("it waits") };
    let summary = json!({ "id": B256::ZERO, "chainId": 1, "kind": "forward", "status": "included", "target": Address::ZERO,
        "deadlineAtMs": 1, "acceptedAtMs": 1, "updatedAtMs": 5, "promise": promise_of(&signer()),
        "timeline": [event(3, "included"), event(4, "broadcast"), event(5, "included")] });
    follow.step(until);
    follow.looked(
        until,
        Ok(HttpAnswer { status: 200, body: summary.to_string().into_bytes(), ..HttpAnswer::default() }),
        0,
    );
    assert_eq!(statuses(&mut follow), [("included".to_owned(), false)], "only what is new");
    assert!(
        matches!(follow.step(until), FollowStep::Open(http) if http.headers.contains(&("last-event-id", "105".to_owned())))
    );
    follow.opened(until, ok(), 0);
    follow
        .bytes(&stream(&[event(5, "included"), event(6, "settling"), event(7, "finalized"), event(8, "queued")]))
        .unwrap();
    assert_eq!(statuses(&mut follow).len(), 2, "a status of a newer relayer, and the end");
    assert_eq!(follow.step(until), FollowStep::Done);
    assert_eq!(follow.contradiction().map(|event| event.request_seq), Some(8));
}

#[test]
fn following_gives_up_where_it_is_of_no_use() {
    let mut follow = Follow::new(RequestId(B256::ZERO));
    let body = br#"{"code":"not_found","status":404}"#.to_vec();
    follow.opened(Timestamp(0), Ok(HttpAnswer { status: 404, body, ..HttpAnswer::default() }), 0);
    assert_eq!(follow.failure().map(ClientError::code), Some("not_found"));
    assert!(follow.is_done());
}

#[test]
fn a_submission_is_what_the_builder_makes() {
    let forward = signed(0, b"a");
    let within = std::time::Duration::from_secs(30);
    let built = Submit::forward(1, forward.clone()).within(within).max_cost_wei(U256::from(7));
    let given = Submission::forward(1, forward).within(within).max_cost_wei(U256::from(7));
    assert_eq!(Submit::try_from(given.clone()).unwrap(), built);
    let keyed = Submit::try_from(given.clone().idempotency_key("order-7")).unwrap();
    assert_eq!((keyed.key().as_str(), keyed.kind()), ("order-7", built.kind()));
    for wrong in ["", "ä", "two words", &"x".repeat(256)] {
        Submit::try_from(given.clone().idempotency_key(wrong)).unwrap_err();
    }
    let ask = CallAsk { to: Address::ZERO, value: U256::ZERO, gas: 60_000, data: Bytes::new(), any_sender: true };
    let call = Submission::call(1, ask.clone().into());
    let refused = Submit::try_from(call.clone()).unwrap_err();
    assert!(refused.to_string().contains("idempotencyKey"), "{refused}");
    let key = IdempotencyKey::new("order-7").unwrap();
    let built = Submit::call(1, ask, b"").idempotency_key(key);
    assert_eq!(Submit::try_from(call.idempotency_key("order-7")).unwrap(), built);
}
