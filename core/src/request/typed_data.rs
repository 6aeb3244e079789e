//! The JSON that wallets sign: `eth_signTypedData_v4`.

use serde_json::{Value, json};

use super::{Forward, ForwarderDomain};

/// Largest integer that a JSON number carries everywhere.
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

impl ForwarderDomain {
    /// What a wallet takes for `eth_signTypedData_v4` of `forward`; its hash is [`Self::digest`].
    ///
    /// Numbers are decimal strings. The chain id is a JSON number where that is exact: wallets compare it with their own.
    pub fn typed_data(&self, forward: &Forward) -> Value {
        let chain_id = self.chain_id();
        let chain_id = if chain_id <= MAX_SAFE_INTEGER { json!(chain_id) } else { json!(chain_id.to_string()) };
        let members = |list: &[(&str, &str)]| -> Vec<Value> {
            list.iter().map(|(name, kind)| json!({ "name": name, "type": kind })).collect()
        };
        json!({
            "domain": {
                "name": self.name(), "version": "1", "chainId": chain_id,
                "verifyingContract": self.forwarder().to_string(),
            },
            "types": {
                "EIP712Domain": members(&[
                    ("name", "string"), ("version", "string"), ("chainId", "uint256"), ("verifyingContract", "address"),
                ]),
                "ForwardRequest": members(&[
                    ("from", "address"), ("to", "address"), ("value", "uint256"), ("gas", "uint256"),
                    ("nonce", "uint256"), ("deadline", "uint48"), ("data", "bytes"),
                ]),
            },
            "primaryType": "ForwardRequest",
            "message": {
                "from": forward.from.to_string(), "to": forward.to.to_string(), "value": forward.value.to_string(),
                "gas": forward.gas.to_string(), "nonce": forward.nonce.to_string(),
                "deadline": forward.deadline.to_string(), "data": forward.data.to_string(),
            },
        })
    }
}
