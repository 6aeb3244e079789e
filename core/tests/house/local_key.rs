//! The session key's transactions equal those of the relayer's signer, which encodes with alloy, to the byte.

use alloy_primitives::{Address, U256};
use proptest::prelude::*;
use slackwater::LocalSigner;
use slackwater_client::local::SessionKey;
use slackwater_core::{
    chain::Fees,
    lane::{AttemptKind, TxToSign},
    request::vehicle::Payload,
};

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(127), Just(128), Just(u64::MAX), any::<u64>()]
}

fn price() -> impl Strategy<Value = u128> {
    prop_oneof![Just(0), Just(1), Just(127), Just(128), Just(u128::MAX), any::<u128>()]
}

fn value() -> impl Strategy<Value = U256> {
    prop_oneof![Just(U256::ZERO), Just(U256::MAX), any::<[u8; 32]>().prop_map(U256::from_be_bytes)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn transactions_are_the_same(
        secret in any::<[u8; 32]>(),
        chain_id in 1..u64::MAX,
        nonce in number(),
        gas_limit in number(),
        max_fee in price(),
        tip in price(),
        to in any::<[u8; 20]>(),
        value in value(),
        // Around the lengths at which RLP changes its form.
        data in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..3),
            prop::collection::vec(any::<u8>(), 50..60),
            prop::collection::vec(any::<u8>(), 250..260),
            prop::collection::vec(any::<u8>(), 65_530..65_540),
        ],
    ) {
        let (Ok(ours), Ok(theirs)) = (SessionKey::from_bytes(&secret), LocalSigner::from_bytes(&secret)) else {
            return Err(TestCaseError::reject("no secret"));
        };
        prop_assert_eq!(ours.address(), theirs.address());
        let payload = Payload { to: Address::from(to), value, data: data.into(), gas_limit };
        let fees = Fees { max_fee_per_gas: max_fee, max_priority_fee_per_gas: tip };
        let tx = TxToSign { chain_id, nonce, kind: AttemptKind::Payload, payload, fees };
        prop_assert_eq!(ours.sign_transaction(&tx), Some(theirs.sign_transaction(&tx)));
    }
}
