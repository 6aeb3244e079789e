//! Persistent identifiers: requests, lanes, batches.

use std::{fmt, str::FromStr};

use alloy_primitives::{Address, B256, ChainId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Identity of a request, derived from its content, so that the same signed bytes are always the same request.
///
/// For `forward` it is the EIP-712 digest that the user signed (chain, forwarder, signer and nonce are part of it).
/// For `call` it is a hash over tenant, chain, call and the caller's idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub B256);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Error of parsing a textual id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a valid id")]
pub struct ParseIdError(pub String);

impl FromStr for RequestId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| ParseIdError(text.chars().take(80).collect()))
    }
}

/// One sender account on one chain: a sequence of nonces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LaneId {
    /// EIP-155 chain id.
    pub chain_id: ChainId,
    /// The account that signs and pays.
    pub sender: Address,
}

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.chain_id, self.sender)
    }
}

/// Identity of a batch: the (lane, nonce) to which it is bound for ever (invariant I3).
///
/// Written `chainId:sender:nonce`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId {
    /// The lane whose nonce the batch occupies.
    pub lane: LaneId,
    /// The account nonce of every attempt of this batch.
    pub nonce: u64,
}

impl fmt::Display for BatchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.lane, self.nonce)
    }
}

impl FromStr for BatchId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.splitn(3, ':');
            let chain_id = parts.next()?.parse().ok()?;
            let sender = parts.next()?.parse().ok()?;
            let nonce = parts.next()?.parse().ok()?;
            Some(Self { lane: LaneId { chain_id, sender }, nonce })
        };
        parse().ok_or_else(|| ParseIdError(text.chars().take(80).collect()))
    }
}

impl Serialize for BatchId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BatchId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_id_round_trips() {
        let id = BatchId { lane: LaneId { chain_id: 31_337, sender: Address::repeat_byte(7) }, nonce: 42 };
        assert_eq!(id.to_string().parse::<BatchId>().unwrap(), id);
        assert!("31337:0x00:1".parse::<BatchId>().is_err());
        assert!("".parse::<BatchId>().is_err());
    }
}
