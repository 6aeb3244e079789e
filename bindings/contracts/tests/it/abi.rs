//! Selectors, topics and type hashes equal those of the contracts.

use std::collections::BTreeSet;

use alloy_primitives::{b256, hex, keccak256};
use alloy_sol_types::{SolCall, SolError, SolEvent, SolInterface, SolStruct};
use slackwater_contracts::capped_calls::ICappedCalls;
use slackwater_contracts::eip3009::{self, CancelAuthorization, IERC3009, IERC3009Bytes, TransferWithAuthorization};
use slackwater_contracts::forwarder::{
    ExecutedForwardRequest, ForwardRequest, IERC2771Forwarder, IERC2771Recipient, eip712DomainCall, executeBatchCall,
    executeCall, isTrustedForwarderCall, noncesCall, verifyCall,
};
use slackwater_contracts::guestbook::IGuestbook;
use slackwater_contracts::multicall3::{aggregate3Call, aggregate3ValueCall, getBlockNumberCall, getEthBalanceCall};
use slackwater_contracts::nasty::INasty;

#[test]
fn forwarder_functions() {
    assert_eq!(executeCall::SELECTOR, hex!("df905caf"));
    assert_eq!(executeBatchCall::SELECTOR, hex!("ccf96b4a"));
    assert_eq!(verifyCall::SELECTOR, hex!("19d8d38c"));
    assert_eq!(noncesCall::SELECTOR, hex!("7ecebe00"));
    assert_eq!(eip712DomainCall::SELECTOR, hex!("84b0196e"));
    assert_eq!(isTrustedForwarderCall::SELECTOR, hex!("572b6c05"));
}

#[test]
fn forwarder_event() {
    assert_eq!(
        ExecutedForwardRequest::SIGNATURE_HASH,
        b256!("0x842fb24a83793558587a3dab2be7674da4a51d09c5542d6dd354e5d0ea70813c")
    );
}

#[test]
fn forwarder_errors() {
    use IERC2771Forwarder as F;
    assert_eq!(F::ERC2771ForwarderInvalidSigner::SELECTOR, hex!("c845a056"));
    assert_eq!(F::ERC2771ForwarderMismatchedValue::SELECTOR, hex!("70647f79"));
    assert_eq!(F::ERC2771ForwarderExpiredRequest::SELECTOR, hex!("94eef58a"));
    assert_eq!(F::ERC2771UntrustfulTarget::SELECTOR, hex!("d2650cd1"));
    assert_eq!(F::ERC2771ForwarderNoRefundReceiver::SELECTOR, hex!("39c6e3b7"));
    assert_eq!(F::ERC2771ForwarderFailureInAtomicBatch::SELECTOR, hex!("27742146"));
    assert_eq!(F::FailedCall::SELECTOR, hex!("d6bda275"));
    assert_eq!(F::FailedInnerCall::SELECTOR, hex!("1425ea42"));
}

#[test]
fn forward_request_type() {
    assert_eq!(
        ForwardRequest::eip712_encode_type(),
        "ForwardRequest(address from,address to,uint256 value,uint256 gas,uint256 nonce,uint48 deadline,bytes data)"
    );
    assert_eq!(
        keccak256(&*ForwardRequest::eip712_encode_type()),
        b256!("0x7f96328b83274ebc7c1cf4f7a3abda602b51a78b7fa1d86a2ce353d75e587cac")
    );
}

#[test]
fn multicall3_functions() {
    assert_eq!(aggregate3Call::SELECTOR, hex!("82ad56cb"));
    assert_eq!(aggregate3ValueCall::SELECTOR, hex!("174dea71"));
    assert_eq!(getEthBalanceCall::SELECTOR, hex!("4d2301cc"));
    assert_eq!(getBlockNumberCall::SELECTOR, hex!("42cbb15c"));
}

#[test]
fn eip3009_types() {
    assert_eq!(keccak256(&*TransferWithAuthorization::eip712_encode_type()), eip3009::TRANSFER_TYPEHASH);
    assert_eq!(keccak256(&*CancelAuthorization::eip712_encode_type()), eip3009::CANCEL_TYPEHASH);
}

#[test]
fn eip3009_functions_and_events() {
    assert_eq!(IERC3009::transferWithAuthorizationCall::SELECTOR, hex!("e3ee160e"));
    assert_eq!(IERC3009Bytes::transferWithAuthorizationCall::SELECTOR, hex!("cf092995"));
    assert_eq!(IERC3009::authorizationStateCall::SELECTOR, hex!("e94a0102"));
    assert_eq!(IERC3009::cancelAuthorizationCall::SELECTOR, hex!("5a049a70"));
    assert_eq!(IERC3009Bytes::cancelAuthorizationCall::SELECTOR, hex!("b7b72899"));
    assert_eq!(
        IERC3009::AuthorizationUsed::SIGNATURE_HASH,
        b256!("0x98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5")
    );
    assert_eq!(
        IERC3009::AuthorizationCanceled::SIGNATURE_HASH,
        b256!("0x1cdd46ff242716cdaa72d159d339a485b3438398348d68f09d7c8c0a59353d81")
    );
}

#[test]
fn interfaces_match_the_compiled_contracts() {
    let mut forwarder = selectors::<IERC2771Forwarder::IERC2771ForwarderCalls>();
    assert_eq!(compiled(FORWARDER), forwarder);
    forwarder.extend(selectors::<IERC2771Recipient::IERC2771RecipientCalls>());
    assert_eq!(forwarder.len(), 6);

    let trusted_forwarder = "7da0a877".to_owned();
    assert_eq!(compiled(CAPPED_CALLS), selectors::<ICappedCalls::ICappedCallsCalls>());
    for (description, mut interface) in
        [(GUESTBOOK, selectors::<IGuestbook::IGuestbookCalls>()), (NASTY, selectors::<INasty::INastyCalls>())]
    {
        interface.insert(trusted_forwarder.clone());
        assert_eq!(compiled(description), interface);
    }
}

#[test]
fn errors_and_events_match_the_compiled_contracts() {
    assert_eq!(signatures(CAPPED_CALLS, "event"), [ICappedCalls::Executed::SIGNATURE]);
    assert_eq!(signatures(CAPPED_CALLS, "error"), [ICappedCalls::InsufficientGas::SIGNATURE]);
    assert_eq!(signatures(GUESTBOOK, "event"), [IGuestbook::Signed::SIGNATURE]);
    assert_eq!(signatures(NASTY, "event"), [INasty::Marked::SIGNATURE, INasty::Reentered::SIGNATURE]);
    assert_eq!(signatures(NASTY, "error"), [INasty::IsArmed::SIGNATURE, INasty::WrongSender::SIGNATURE]);
    for error in signatures(FORWARDER, "error") {
        // Only the constructor uses these two.
        if !["InvalidShortString()", "StringTooLong(string)"].contains(&error.as_str()) {
            let hash = keccak256(&error);
            let selector = hash.first_chunk::<4>().copied().unwrap();
            assert!(IERC2771Forwarder::IERC2771ForwarderErrors::valid_selector(selector), "{error} is missing");
        }
    }
}

const FORWARDER: &str = include_str!("../../artifacts/ERC2771Forwarder.json");
const CAPPED_CALLS: &str = include_str!("../../artifacts/CappedCalls.json");
const GUESTBOOK: &str = include_str!("../../artifacts/Guestbook.json");
const NASTY: &str = include_str!("../../artifacts/Nasty.json");

fn selectors<I: SolInterface>() -> BTreeSet<String> {
    (0..I::COUNT).filter_map(I::selector_at).map(hex::encode).collect()
}

fn compiled(description: &str) -> BTreeSet<String> {
    let description: serde_json::Value = serde_json::from_str(description).unwrap();
    let methods = description["methodIdentifiers"].as_object().unwrap();
    methods.values().map(|selector| selector.as_str().unwrap().to_owned()).collect()
}

/// Canonical signatures of the contract's `kind` (`event`, `error`), sorted. No tuples occur in them.
fn signatures(description: &str, kind: &str) -> Vec<String> {
    let description: serde_json::Value = serde_json::from_str(description).unwrap();
    let items = description["abi"].as_array().unwrap().iter();
    let mut signatures: Vec<_> = items
        .filter(|item| item["type"] == kind)
        .map(|item| {
            let inputs = item["inputs"].as_array().unwrap().iter();
            let types: Vec<_> = inputs.map(|input| input["type"].as_str().unwrap()).collect();
            format!("{}({})", item["name"].as_str().unwrap(), types.join(","))
        })
        .collect();
    signatures.sort();
    signatures
}
