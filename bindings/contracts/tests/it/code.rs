//! Creation code equals the artifacts, and deployed code is recognised.

use alloy_primitives::{Address, hex, keccak256};
use alloy_sol_types::SolValue;
use slackwater_contracts::forwarder::{
    ForwarderVersion, KNOWN_BUILDS, StrictValueFailure, forwarder_build, forwarder_version,
};
use slackwater_contracts::{capped_calls, fake_forwarder, fiat_token, forwarder, guestbook, multicall3, nasty, rollup};

/// Code that `eth_getCode` returned after a deployment on a local chain.
const DEPLOYED_5_6_1: &str = include_str!("../fixtures/forwarder-5.6.1.deployed.hex");
const DEPLOYED_5_7_0: &str = include_str!("../fixtures/forwarder-5.7.0.deployed.hex");

#[test]
fn creation_code_is_what_the_description_says() {
    for (code, description) in [
        (forwarder::creation_code(), include_str!("../../artifacts/ERC2771Forwarder.json")),
        (capped_calls::creation_code(), include_str!("../../artifacts/CappedCalls.json")),
        (guestbook::creation_code(), include_str!("../../artifacts/Guestbook.json")),
        (nasty::creation_code(), include_str!("../../artifacts/Nasty.json")),
        (fake_forwarder::creation_code(), include_str!("../../artifacts/FakeForwarder.json")),
    ] {
        let description: serde_json::Value = serde_json::from_str(description).unwrap();
        assert_eq!(description["creationCodeHash"], keccak256(code).to_string());
    }
    assert_eq!(forwarder::creation_code().len(), 4_276);
}

#[test]
fn constructor_arguments_follow_the_code() {
    let code = forwarder::deploy_code("Slackwater");
    let arguments = code.strip_prefix(forwarder::creation_code()).unwrap();
    assert_eq!(<(String,)>::abi_decode_params(arguments).unwrap().0, "Slackwater");

    let trusted = Address::repeat_byte(0x11);
    for (code, creation) in [
        (guestbook::deploy_code(trusted), guestbook::creation_code()),
        (nasty::deploy_code(trusted), nasty::creation_code()),
    ] {
        let arguments = code.strip_prefix(creation).unwrap();
        assert_eq!(Address::abi_decode(arguments).unwrap(), trusted);
    }
}

#[test]
fn predeploy_code_is_what_was_published() {
    assert_eq!(keccak256(rollup::gas_price_oracle_code()), rollup::GAS_PRICE_ORACLE_CODE_HASH);
    assert_eq!(keccak256(rollup::l1_block_code()), rollup::L1_BLOCK_CODE_HASH);
}

#[test]
fn multicall3_code_is_canonical() {
    assert_eq!(keccak256(multicall3::runtime_code()), multicall3::RUNTIME_CODE_HASH);
    assert_eq!(multicall3::runtime_code().len(), 3_808);
}

#[test]
fn capped_calls_are_known_by_code_and_address() {
    assert_eq!(keccak256(capped_calls::runtime_code()), capped_calls::RUNTIME_CODE_HASH);
    let address = capped_calls::DEPLOYER.create2_from_code([0; 32], capped_calls::creation_code());
    assert_eq!(address, capped_calls::ADDRESS);
}

#[test]
fn gas_limits_saturate() {
    assert_eq!(capped_calls::gas_limit([]), capped_calls::BASE_GAS);
    assert_eq!(capped_calls::gas_limit([(63_000, 100); 2]), capped_calls::BASE_GAS + 2 * (64_000 + 100 + 12_600));
    assert_eq!(capped_calls::gas_limit([(u64::MAX, 1), (1, 1)]), u64::MAX);
}

#[test]
fn the_token_is_linked_with_its_library() {
    let library = Address::repeat_byte(0x5c);
    let linked = fiat_token::deploy_code(library);
    let places = linked.windows(20).enumerate().filter(|(_, bytes)| *bytes == library.as_slice());
    // Each after PUSH20.
    assert!(places.clone().all(|(at, _)| linked[at - 1] == 0x73));
    assert_eq!(places.count(), 2);
}

#[test]
fn deployed_forwarders_are_recognised() {
    let code = hex::decode(DEPLOYED_5_7_0.trim()).unwrap();
    assert_eq!(forwarder_version(&code), Some(ForwarderVersion::V5_7));
    assert_eq!(forwarder_build(&code).unwrap().releases, ["5.7.0"]);

    let code = hex::decode(DEPLOYED_5_6_1.trim()).unwrap();
    assert_eq!(forwarder_version(&code), Some(ForwarderVersion::V5_0));
    assert_eq!(forwarder_build(&code).unwrap().releases, ["5.6.0", "5.6.1"]);
}

#[test]
fn any_immutables_and_metadata_are_accepted() {
    let mut code = hex::decode(DEPLOYED_5_7_0.trim()).unwrap();
    let build = forwarder_build(&code).unwrap();
    for &offset in build.immutables {
        code[offset..offset + 32].fill(0xab);
    }
    code[build.body_bytes + 10] ^= 1;
    assert_eq!(forwarder_build(&code), Some(build));
}

#[test]
fn any_other_change_is_refused() {
    let code = hex::decode(DEPLOYED_5_7_0.trim()).unwrap();
    let build = forwarder_build(&code).unwrap();
    let is_masked = |at| build.immutables.iter().any(|&offset| (offset..offset + 32).contains(&at));
    for at in (0..build.body_bytes).filter(|&at| !is_masked(at)).step_by(7) {
        let mut changed = code.clone();
        changed[at] ^= 1;
        assert_eq!(forwarder_version(&changed), None, "byte {at}");
    }
    let mut longer = code.clone();
    longer.insert(0, 0x5b);
    assert_eq!(forwarder_version(&longer), None);
}

#[test]
fn other_code_is_not_a_forwarder() {
    let delegation = hex!("ef01000000000000000000000000000000000000000000");
    for code in [&[][..], &[0], &[0, 0], &[0xff, 0xff], &delegation, multicall3::runtime_code()] {
        assert_eq!(forwarder_version(code), None);
    }
}

#[test]
fn builds_are_well_formed() {
    for build in KNOWN_BUILDS {
        assert_eq!(build.immutables.len(), 7);
        assert!(build.immutables.iter().all(|offset| offset + 32 <= build.body_bytes));
    }
    let releases: Vec<_> = KNOWN_BUILDS.iter().flat_map(|build| build.releases).collect();
    assert_eq!(releases.len(), 11);
}

#[test]
fn strict_batches_differ_by_version() {
    use ForwarderVersion::{V5_0, V5_7};
    assert_eq!(V5_0.strict_value_failure(), StrictValueFailure::Burns);
    assert_eq!(V5_0.atomic_failure_error(), None);
    assert_eq!(V5_7.strict_value_failure(), StrictValueFailure::Reverts);
    assert_eq!(V5_7.atomic_failure_error(), Some("ERC2771ForwarderNoRefundReceiver()"));
}
