//! Parsers of all node answers in one function, for fuzzing.

use alloy_primitives::{B256, Bytes, U64, U256};
use serde::de::DeserializeOwned;

use crate::{
    chain::ChainSpec,
    market::FeeHistory,
    relay::{
        market::header::{Header, next_base_fee},
        nodes::receipts,
        rpc,
    },
};

/// Parses `input` as each kind of node answer, and computes with every one that parses. True if at least one does.
///
/// Not part of the API: it exists for fuzzing.
#[doc(hidden)]
pub fn read_any_reply(input: &[u8]) -> bool {
    let mut is_understood = false;
    if let Some(header) = read::<Option<Header>>(input).flatten() {
        is_understood = true;
        for preset in ["ethereum", "base", "polygon"] {
            if let Ok(spec) = ChainSpec::preset(preset) {
                let _ = next_base_fee(&spec, &header);
            }
        }
        let _ = (header.number(), header.base_fee(), header.utilisation());
    }
    is_understood |= read::<FeeHistory>(input).is_some();
    is_understood |= receipts::read_any(input);
    is_understood |= rpc::is_understood(input);
    is_understood |= read::<Bytes>(input).is_some() | read::<B256>(input).is_some();
    is_understood |= read::<U64>(input).is_some() | read::<U256>(input).is_some();
    is_understood
}

fn read<T: DeserializeOwned>(input: &[u8]) -> Option<T> {
    serde_json::from_slice(input).ok()
}
