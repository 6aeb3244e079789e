//! Readers of external input.

use std::{collections::BTreeMap, time::Duration};

use alloy_primitives::{Address, B256, U256, address, hex, keccak256, uint};
use slackwater_client::{Follow, HttpAnswer, Outbox, OutboxConfig, SseParser, Submit, api, rpc};
use slackwater_core::{
    Timestamp,
    chain::{
        ChainSpec, FeeHeader, LineaPricing, OpBaseFeeParams, RpcErrorClass, classify, classify_http,
        data_fee::OpL1Params, hint,
    },
    forecast::{ForecastConfig, Forecaster, ForecasterState, ModelRegistry, Prior},
    market::csv,
    provenance::Decision,
    request::{ForwarderDomain, RequestId, VerifiedRequest, VerifyContext, recover, verify},
    schedule::timing::TimingPrior,
    wire::Span,
};
use slackwater_relayer::{
    config::Sources,
    http::{auth::KeyHash, dto},
};

use crate::Target;

/// All readers of external input.
pub const TARGETS: &[Target] = &[
    Target { name: "request", read: request },
    Target { name: "rpc_reply", read: rpc_reply },
    Target { name: "rpc_error", read: rpc_error },
    Target { name: "extra_data", read: extra_data },
    Target { name: "signature", read: signature },
    Target { name: "config", read: config },
    Target { name: "ledger_row", read: ledger_row },
    Target { name: "decision", read: decision },
    Target { name: "models", read: models },
    Target { name: "fees_csv", read: fees_csv },
    Target { name: "scalar", read: scalar_value },
    Target { name: "client_answer", read: client_answer },
    Target { name: "event_stream", read: event_stream },
];

/// A few hours before the deadlines in the corpus.
const NOW: Timestamp = Timestamp(1_789_990_000_000);
const FORWARDER: Address = address!("5FbDB2315678afecb367f032d93F642f64180aa3");

/// A body of `POST /v1/requests`, single or as a batch. An accepted request is stored and read back unchanged.
fn request(input: &[u8]) -> bool {
    let domain = ForwarderDomain::new("Slackwater", 31_337, FORWARDER);
    let forwarders = BTreeMap::from([(FORWARDER, domain)]);
    let context = VerifyContext {
        tenant: "default",
        chain_id: 31_337,
        forwarders: &forwarders,
        tokens: &BTreeMap::new(),
        default_within: Duration::from_secs(60),
        default_expiry: Duration::from_secs(3_600),
        max_within: Duration::from_secs(86_400),
        guard: Duration::from_secs(2),
        skew: Duration::from_secs(2),
    };
    let Ok(bodies) = dto::parse_batch(input, 1_000) else { return false };
    let mut is_understood = false;
    for body in bodies.into_iter().flatten() {
        is_understood = true;
        let Ok(item) = dto::submission(body, None) else { continue };
        let Ok(verified) = verify(item, &context, NOW) else { continue };
        let again = VerifiedRequest::from_stored(&verified.to_stored()).expect("what was accepted can be read back");
        assert_eq!((again.id(), again.deadline(), again.gas()), (verified.id(), verified.deadline(), verified.gas()));
        assert!(verified.deadline() > NOW, "accepted after its deadline");
    }
    is_understood
}

/// A node's answer, to any query.
fn rpc_reply(input: &[u8]) -> bool {
    slackwater::internal::read_any_reply(input)
}

/// A node's error, by message or by HTTP status.
fn rpc_error(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    let (head, message) = text.split_once('\n').unwrap_or(("", &text));
    let code = head.trim().parse().unwrap_or(-32_000);
    let class = classify(code, message, None);
    assert_eq!(class, classify(code, message, None));
    let _ = (classify_http(u16::try_from(code.unsigned_abs() % 600).unwrap_or(0), message), hint(class, message, None));
    class != RpcErrorClass::Unknown
}

/// A header's extra data, and the L1 attributes of OP Stack; computing fees with the parsed values does not panic.
fn extra_data(input: &[u8]) -> bool {
    let Ok(bytes) = hex::decode(String::from_utf8_lossy(input).trim()) else { return false };
    let mut is_understood = OpBaseFeeParams::parse(&bytes).is_ok();
    is_understood |= LineaPricing::parse(&bytes).is_ok();
    is_understood |= OpL1Params::parse_attributes(&bytes).is_ok();
    let parent = FeeHeader {
        number: 1,
        base_fee_per_gas: u128::from(u64::MAX),
        gas_used: u64::MAX / 2,
        gas_limit: u64::MAX,
        ..FeeHeader::default()
    };
    for preset in ["base", "linea", "ethereum"] {
        let spec = ChainSpec::preset(preset).expect("a preset");
        let next = spec.base_fee.next(&parent, &bytes);
        let most = spec.base_fee.max_after(1_000, 5, &bytes);
        let _ = (next, most);
    }
    is_understood
}

/// Order of secp256k1.
const ORDER: U256 = uint!(0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141_U256);

/// A signature over anything: if it is accepted, its other form is not.
fn signature(input: &[u8]) -> bool {
    let Ok(bytes) = hex::decode(String::from_utf8_lossy(input).trim()) else { return false };
    let digest = keccak256(b"slackwater");
    match recover(digest, &bytes) {
        Ok(signer) => {
            assert_eq!(bytes.len(), 65);
            // The other form of the same signature must not be accepted: else a request would have two.
            let mut mirrored = bytes.clone();
            let flipped = ORDER - U256::from_be_slice(&bytes[32..64]);
            mirrored[32..64].copy_from_slice(&flipped.to_be_bytes::<32>());
            mirrored[64] = 55 - bytes[64];
            assert!(recover(digest, &mirrored).is_err(), "two signatures of {signer}");
            true
        }
        Err(_) => false,
    }
}

/// A configuration file. No message shows an inline secret.
fn config(input: &[u8]) -> bool {
    const SECRET: &str = "5e1f5e1f5e1f";
    let Ok(text) = core::str::from_utf8(input) else { return false };
    let sources = Sources { allow_inline_secrets: true, ..Sources::default() };
    match sources.load_text(Some(("fuzz.toml".to_owned(), text.to_owned()))) {
        Ok(config) => {
            assert!(!format!("{config:?}").contains(SECRET), "a secret in Debug");
            true
        }
        Err(errors) => {
            assert!(!errors.0.is_empty(), "refused without a reason");
            false
        }
    }
}

/// A request as stored in the ledger. A readable one is written back unchanged.
fn ledger_row(input: &[u8]) -> bool {
    let Ok(request) = VerifiedRequest::from_stored(input) else { return false };
    let again = VerifiedRequest::from_stored(&request.to_stored()).expect("what was written can be read");
    assert_eq!(again.to_stored(), request.to_stored());
    true
}

/// An entry of the decision log. A readable one is encoded to the same hash.
fn decision(input: &[u8]) -> bool {
    let Ok(text) = core::str::from_utf8(input) else { return false };
    let Ok(decision) = Decision::decode(text) else { return false };
    let encoded = decision.encode();
    assert_eq!(Decision::decode(&encoded).expect("what was encoded can be read").encode(), encoded);
    true
}

/// Models that an operator imports, shipped priors and learned state.
fn models(input: &[u8]) -> bool {
    let Ok(text) = core::str::from_utf8(input) else { return false };
    let registry = serde_json::from_str::<ModelRegistry>(text);
    let prior = Prior::from_json(text);
    let timing = TimingPrior::from_json(text);
    let mut is_understood = registry.is_ok() || prior.is_ok() || timing.is_ok();
    if let Ok(prior) = prior {
        // An accepted prior can forecast.
        let config = ForecastConfig { horizons: vec![1, 5], prior: Some(prior), ..ForecastConfig::default() };
        assert!(Forecaster::new(config).is_ok(), "an accepted prior is refused");
    }
    if let Ok(state) = serde_json::from_str::<ForecasterState>(text) {
        is_understood = true;
        let config = ForecastConfig { horizons: vec![1, 5], ..ForecastConfig::default() };
        let mut forecaster = Forecaster::new(config).expect("a usual configuration");
        let _ = forecaster.import_state(state);
    }
    is_understood
}

/// A CSV file of fees.
fn fees_csv(input: &[u8]) -> bool {
    let Ok(text) = core::str::from_utf8(input) else { return false };
    csv::parse(text, &csv::CsvOptions::default()).is_ok_and(|table| !table.points.is_empty())
}

/// Spans, amounts, keys and ids in requests and configuration.
fn scalar_value(input: &[u8]) -> bool {
    let Ok(text) = core::str::from_utf8(input) else { return false };
    let span = Span::parse(text).is_ok();
    let key = KeyHash::parse(text).is_some();
    let id = text.trim().parse::<B256>().is_ok();
    span || key || id
}

/// Input of a client: a relayer's answers, its own records, and answers of the user's node.
fn client_answer(input: &[u8]) -> bool {
    let answer = |status| HttpAnswer { status, headers: Vec::new(), body: input.to_vec() };
    let mut is_understood = rpc::receipt(B256::ZERO).parse(input).is_ok();
    is_understood |= rpc::block(rpc::BlockRef::Tag("latest")).parse(input).is_ok();
    if let Err(error) = api::chains().parse(&answer(429)) {
        assert!(error.is_retryable() && !error.code().is_empty() || error.problem().is_some());
        is_understood |= error.problem().is_some();
    }
    is_understood |= api::submit_batch(&[]).parse(&answer(207)).is_ok();
    is_understood |= api::request(RequestId(B256::ZERO)).parse(&answer(200)).is_ok();
    let mut follow = Follow::new(RequestId(B256::ZERO)).polling(Duration::ZERO);
    follow.looked(NOW, Ok(answer(200)), 0);
    is_understood |= follow.failure().is_none();
    if let Ok(text) = core::str::from_utf8(input) {
        if let Ok(submit) = Submit::from_json(text, Some(b"salt")) {
            let again = Submit::from_json(&submit.body(), None).expect("what was written can be read");
            assert_eq!((again.key(), again.body()), (submit.key(), submit.body()), "one request, two keys");
            is_understood = true;
        }
        let mut outbox = Outbox::new(OutboxConfig::default());
        is_understood |= outbox.load(NOW, [("k", text)]).loaded == 1;
    }
    let any = Submit::from_json(
        r#"{"chainId":1,"kind":"call","call":{"to":"0x5FbDB2315678afecb367f032d93F642f64180aa3","gas":"1"}}"#,
        Some(b"x"),
    );
    if let Ok(accepted) = api::submit(&any.expect("a call")).parse(&answer(202)) {
        let json = serde_json::to_value(&accepted).expect("JSON");
        assert_eq!(serde_json::from_value::<slackwater_client::Accepted>(json).ok(), Some(accepted));
        is_understood = true;
    }
    is_understood
}

/// A stream of events. The parsed events do not depend on how it is split into chunks.
fn event_stream(input: &[u8]) -> bool {
    let read = |size: usize| {
        let (mut parser, mut messages) = (SseParser::default(), Vec::new());
        for chunk in input.chunks(size) {
            if parser.push(chunk).is_err() {
                break;
            }
            messages.extend(std::iter::from_fn(|| parser.next_message()));
        }
        (messages, parser.last_event_id().to_owned(), parser.retry_ms())
    };
    let whole = read(input.len().max(1));
    assert_eq!(read(1), whole);
    assert_eq!(read(7), whole);
    !whole.0.is_empty()
}
