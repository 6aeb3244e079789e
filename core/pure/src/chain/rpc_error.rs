//! Classification of a node's answer to `eth_sendRawTransaction`. The only place where RPC text is matched (invariant
//! I5).
//!
//! Texts before codes: codes conflict between clients and only break ties. Revert text is chosen by a contract, so nothing
//! after a revert marker is ever searched. The rules are data in `rpc_error/rules.rs`; the corpus is
//! `tests/vectors/rpc_errors.json`.

mod hint;
mod rules;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use hint::{Hint, hint, least_price, refused_fee_cap};

/// Longest part of a message that is examined, bytes. Texts of real nodes are below 300.
pub const MAX_MATCHED_BYTES: usize = 2_048;

/// Code of "Unknown block" (execution-apis; geth, Erigon).
const UNKNOWN_BLOCK: i64 = -39_001;

/// Possibility that the transaction is in a pool or block after this answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Taken {
    /// The node holds it.
    Yes,
    /// This node did not accept these bytes. Other nodes may still hold them from an earlier send.
    No,
    /// Unknown: never re-plan, watch and send the same bytes again.
    Maybe,
}

/// Meaning of a refusal. Closed on purpose: the lane handles each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RpcErrorClass {
    /// These bytes are already pooled, or already mined. Keep tracking the hash.
    AlreadyKnown,
    /// The nonce is below the account's. Look up receipts of every attempt at this nonce before anything else.
    NonceTooLow,
    /// A lower nonce is missing at this node. Rebroadcast the lower attempts in order, then the same bytes.
    NonceGap,
    /// Another transaction with this nonce is pooled and the bump is too small. Bump from the highest fees ever sent.
    ReplacementUnderpriced,
    /// Below the node's minimum or the pool's eviction price. Requote, or try another endpoint.
    Underpriced,
    /// The cap is below the current base fee or blob base fee. Requote or hold.
    FeeCapBelowBaseFee,
    /// Tip above cap (our bug), or `gas_limit × max_fee` above the node's own cap (another endpoint may accept).
    InvalidFees,
    /// The signer cannot cover the worst case of all pooled attempts and this one. Pause, alert, don't burn retries.
    InsufficientFunds,
    /// Gas limit below intrinsic gas, the calldata floor, or Arbitrum's poster need. Re-estimate, re-sign at this nonce.
    GasTooLow,
    /// Gas limit above the block's, the transaction cap or the node's. Split the batch.
    GasTooHigh,
    /// No room, in the pool or for this sender. Back off; open no more nonces here.
    PoolFull,
    /// A delegated (EIP-7702) account already has its one in-flight transaction. A relayer's sender should never be one.
    DelegatedLimit,
    /// An authority in the list is part of another pending transaction. Wait.
    AuthorityBusy,
    /// Blob and ordinary transactions of one sender. Use a dedicated sender for blobs.
    PoolTypeConflict,
    /// The sender is not an EOA, not whitelisted, or blocked. Disable the sender at this endpoint and alert.
    SenderRejected,
    /// Malformed, wrong chain id, type unsupported, oversized. A bug or a wrong preset: stop the lane.
    BadTransaction,
    /// The node executed it and it failed. Terminal for the request, or bisect the batch.
    Reverted,
    /// A conditional submission's condition does not hold (EIP-7796).
    ConditionNotMet,
    /// The endpoint cannot send at all: method missing, read-only, no pool. Drop it for sends.
    EndpointUnusable,
    /// Sequencer down, syncing, forwarding failed, server error. The same bytes to other endpoints, then back off.
    NodeUnavailable,
    /// No answer in time. Track the hash, send the same bytes again.
    Timeout,
    /// The provider's quota. Honour `Retry-After`, use another endpoint.
    RateLimited,
    /// None of the above. Treated as maybe taken; count it and log the text so that the table can grow.
    Unknown,
}

impl RpcErrorClass {
    /// Every class.
    pub const ALL: [Self; 23] = [
        Self::AlreadyKnown,
        Self::NonceTooLow,
        Self::NonceGap,
        Self::ReplacementUnderpriced,
        Self::Underpriced,
        Self::FeeCapBelowBaseFee,
        Self::InvalidFees,
        Self::InsufficientFunds,
        Self::GasTooLow,
        Self::GasTooHigh,
        Self::PoolFull,
        Self::DelegatedLimit,
        Self::AuthorityBusy,
        Self::PoolTypeConflict,
        Self::SenderRejected,
        Self::BadTransaction,
        Self::Reverted,
        Self::ConditionNotMet,
        Self::EndpointUnusable,
        Self::NodeUnavailable,
        Self::Timeout,
        Self::RateLimited,
        Self::Unknown,
    ];

    /// Stable name in metrics, logs and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AlreadyKnown => "already_known",
            Self::NonceTooLow => "nonce_too_low",
            Self::NonceGap => "nonce_gap",
            Self::ReplacementUnderpriced => "replacement_underpriced",
            Self::Underpriced => "underpriced",
            Self::FeeCapBelowBaseFee => "fee_cap_below_base_fee",
            Self::InvalidFees => "invalid_fees",
            Self::InsufficientFunds => "insufficient_funds",
            Self::GasTooLow => "gas_too_low",
            Self::GasTooHigh => "gas_too_high",
            Self::PoolFull => "pool_full",
            Self::DelegatedLimit => "delegated_limit",
            Self::AuthorityBusy => "authority_busy",
            Self::PoolTypeConflict => "pool_type_conflict",
            Self::SenderRejected => "sender_rejected",
            Self::BadTransaction => "bad_transaction",
            Self::Reverted => "reverted",
            Self::ConditionNotMet => "condition_not_met",
            Self::EndpointUnusable => "endpoint_unusable",
            Self::NodeUnavailable => "node_unavailable",
            Self::Timeout => "timeout",
            Self::RateLimited => "rate_limited",
            Self::Unknown => "unknown",
        }
    }

    /// Possibility that the transaction is in a pool or block after this answer.
    #[must_use]
    pub const fn taken(self) -> Taken {
        match self {
            Self::AlreadyKnown => Taken::Yes,
            Self::NonceTooLow | Self::NodeUnavailable | Self::Timeout | Self::Unknown => Taken::Maybe,
            Self::NonceGap
            | Self::ReplacementUnderpriced
            | Self::Underpriced
            | Self::FeeCapBelowBaseFee
            | Self::InvalidFees
            | Self::InsufficientFunds
            | Self::GasTooLow
            | Self::GasTooHigh
            | Self::PoolFull
            | Self::DelegatedLimit
            | Self::AuthorityBusy
            | Self::PoolTypeConflict
            | Self::SenderRejected
            | Self::BadTransaction
            | Self::Reverted
            | Self::ConditionNotMet
            | Self::EndpointUnusable
            | Self::RateLimited => Taken::No,
        }
    }

    /// True if the same content will be refused again at any price.
    #[must_use]
    pub const fn is_permanent(self) -> bool {
        matches!(
            self,
            Self::GasTooLow | Self::GasTooHigh | Self::BadTransaction | Self::Reverted | Self::ConditionNotMet
        )
    }

    /// True if smaller content may be accepted.
    #[must_use]
    pub const fn is_about_size(self) -> bool {
        self.is_permanent() || matches!(self, Self::InvalidFees)
    }

    /// True if the node may hold the transaction in spite of the error: the attempt counts as sent (invariant I5), its
    /// fees are the baseline of the next bump, and nothing is re-planned.
    #[must_use]
    pub const fn is_ambiguous(self) -> bool {
        !matches!(self.taken(), Taken::No)
    }

    /// True if the *same bytes* can still succeed: later, at another endpoint, or after lower nonces arrive. Otherwise
    /// the attempt must change or end.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::NonceGap
                | Self::Underpriced
                | Self::FeeCapBelowBaseFee
                | Self::InsufficientFunds
                | Self::PoolFull
                | Self::DelegatedLimit
                | Self::AuthorityBusy
                | Self::ConditionNotMet
                | Self::EndpointUnusable
                | Self::NodeUnavailable
                | Self::Timeout
                | Self::RateLimited
                | Self::Unknown
        )
    }
}

impl fmt::Display for RpcErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Class of a JSON-RPC error with `code`, `message` and `data` (the JSON of its `data` member, if any).
///
/// The first matching rule on the text wins; `code` breaks ties where no rule matches; `data` is never searched, because a
/// contract chooses it. A missing code is 0. Only the first [`MAX_MATCHED_BYTES`] of the text count.
///
/// Source: EIP-7966, codes 4, 5, 6. Vectors: `tests/vectors/rpc_errors.json`.
#[must_use]
pub fn classify(code: i64, message: &str, data: Option<&str>) -> RpcErrorClass {
    let text = normalise(message);
    if rules::is_revert(&text) {
        return RpcErrorClass::Reverted;
    }
    match rules::class_of_text(&text) {
        Some(class) => class,
        None => class_of_code(code, data),
    }
}

/// True if a JSON-RPC error reports that the node lacks the requested block: it knows no such block or tag, or keeps no
/// state of it. Such an answer says nothing about the queried data, and nothing against the node.
#[must_use]
pub fn is_unknown_block(code: i64, message: &str) -> bool {
    let text = normalise(message);
    !rules::is_revert(&text) && (code == UNKNOWN_BLOCK || rules::is_unknown_block(&text))
}

/// True if the error of an `eth_call` reports a failed execution without a revert: out of gas, a bad instruction. The
/// call would fail on chain too.
#[must_use]
pub fn is_execution_failure(message: &str) -> bool {
    let text = normalise(message);
    !rules::is_revert(&text) && rules::is_execution_failure(&text)
}

/// Class implied by a code alone. Conflicting codes (−32000…−32010, 3) imply none.
fn class_of_code(code: i64, data: Option<&str>) -> RpcErrorClass {
    match code {
        // EIP-7966, eth_sendRawTransactionSync. 6 without the expected nonce is something else.
        4 => RpcErrorClass::Timeout,
        5 => RpcErrorClass::NodeUnavailable,
        6 if data.and_then(hint::number_in_data).is_some() => RpcErrorClass::NonceGap,
        429 => RpcErrorClass::RateLimited,
        -32_601 => RpcErrorClass::EndpointUnusable,
        -32_700 | -32_600 | -32_602 => RpcErrorClass::BadTransaction,
        _ => RpcErrorClass::Unknown,
    }
}

/// Class of an HTTP answer that holds no JSON-RPC error object (if it holds one, whatever the status, use [`classify`]).
///
/// `body` is the beginning of the body. Any 2xx here means an empty or non-JSON body: maybe taken.
#[must_use]
pub fn classify_http(status: u16, body: &str) -> RpcErrorClass {
    // Some providers report quota as 403, or as 400.
    if status == 429 || rules::class_of_text(&normalise(body)) == Some(RpcErrorClass::RateLimited) {
        return RpcErrorClass::RateLimited;
    }
    match status {
        408 | 504 => RpcErrorClass::Timeout,
        413 => RpcErrorClass::BadTransaction,
        401..=405 | 407 | 410 => RpcErrorClass::EndpointUnusable,
        200..=299 | 500..=599 => RpcErrorClass::NodeUnavailable,
        _ => RpcErrorClass::Unknown,
    }
}

/// Failure below HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransportFailure {
    /// No connection was made (refused, DNS, TLS): no byte of the request was sent.
    NotConnected,
    /// The connection broke after the request may have been written.
    Interrupted,
    /// No answer in time after the request may have been written.
    TimedOut,
    /// An answer came that is no JSON-RPC answer to this request: empty, not JSON, another id, a wrong result type, or a
    /// hash other than the local one. Quarantine the endpoint; keep the local hash.
    Nonsense,
}

impl TransportFailure {
    /// Error class of the failure.
    #[must_use]
    pub const fn class(self) -> RpcErrorClass {
        match self {
            Self::NotConnected | Self::Interrupted | Self::Nonsense => RpcErrorClass::NodeUnavailable,
            Self::TimedOut => RpcErrorClass::Timeout,
        }
    }

    /// Possibility that the node holds the transaction; finer than [`RpcErrorClass::taken`], since without a connection
    /// it cannot.
    #[must_use]
    pub const fn taken(self) -> Taken {
        match self {
            Self::NotConnected => Taken::No,
            Self::Interrupted | Self::TimedOut | Self::Nonsense => Taken::Maybe,
        }
    }
}

/// Bounded, trimmed, ASCII lower case.
fn normalise(message: &str) -> String {
    let mut end = message.len().min(MAX_MATCHED_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_statuses() {
        use RpcErrorClass as C;
        for (status, body, class) in [
            (200, "", C::NodeUnavailable),
            (400, "bad request", C::Unknown),
            (400, "daily request limit reached", C::RateLimited),
            (401, "", C::EndpointUnusable),
            (403, "", C::EndpointUnusable),
            (403, "Too Many Requests", C::RateLimited),
            (404, "", C::EndpointUnusable),
            (408, "", C::Timeout),
            (413, "", C::BadTransaction),
            (429, "", C::RateLimited),
            (500, "oops", C::NodeUnavailable),
            (502, "", C::NodeUnavailable),
            (503, "", C::NodeUnavailable),
            (504, "", C::Timeout),
        ] {
            assert_eq!(classify_http(status, body), class, "{status} {body}");
        }
    }

    #[test]
    fn codes_break_ties_only() {
        use RpcErrorClass as C;
        assert_eq!(classify(-32_601, "no such thing", None), C::EndpointUnusable);
        assert_eq!(classify(-32_601, "nonce too low", None), C::NonceTooLow, "text before code");
        assert_eq!(classify(-32_602, "?", None), C::BadTransaction);
        for code in [3, 0, -32_000, -32_003, -32_005, -32_603, i64::MIN, i64::MAX] {
            assert_eq!(classify(code, "?", None), C::Unknown, "{code}");
        }
    }

    #[test]
    fn a_block_that_a_node_does_not_have() {
        for text in [
            "header not found",
            "finalized block not found",
            "Unknown block",
            "missing trie node 5f7c (path ) state 0x5f7c is not available",
            "historical state 0a1b is not available",
            "required historical state unavailable (reexec=128)",
            "block not found: 0x12d687",
            "BlockOutOfRangeError: block height is 100 but requested was 200",
            "no state available for block 0x1",
            "distance to target block exceeds maximum proof window",
            "World state unavailable",
            "old data not available due to pruning",
        ] {
            assert!(is_unknown_block(-32_000, text), "{text}");
        }
        assert!(is_unknown_block(-39_001, "?"));
        for text in ["execution reverted: block not found", "method not found", "rate limit exceeded", ""] {
            assert!(!is_unknown_block(-32_000, text), "{text}");
        }
    }

    #[test]
    fn an_execution_that_fails_without_a_revert() {
        for text in [
            "out of gas",
            "EVM error: OutOfGas",
            "invalid opcode: INVALID",
            "invalid jump destination",
            "stack underflow (0 <=> 1)",
            "Bad instruction fe",
            "EVM error InvalidFEOpcode",
        ] {
            assert!(is_execution_failure(text), "{text}");
        }
        for text in ["method handler crashed", "execution reverted: out of gas", "rate limit", "header not found", ""] {
            assert!(!is_execution_failure(text), "{text}");
        }
    }

    #[test]
    fn eip_7966_codes() {
        use RpcErrorClass as C;
        assert_eq!(classify(4, "not processed within 20s", Some("\"0xab\"")), C::Timeout);
        assert_eq!(classify(5, "?", None), C::NodeUnavailable);
        assert_eq!(classify(5, "?", None).taken(), Taken::Maybe);
        assert_eq!(classify(6, "?", Some("\"0x7\"")), C::NonceGap);
        assert_eq!(classify(6, "?", None), C::Unknown);
    }

    #[test]
    fn long_and_foreign_texts_do_not_panic() {
        let long = "é".repeat(MAX_MATCHED_BYTES);
        assert_eq!(classify(0, &long, None), RpcErrorClass::Unknown);
        assert_eq!(classify(0, &format!("x{long}"), None), RpcErrorClass::Unknown);
        assert_eq!(classify(0, "", None), RpcErrorClass::Unknown);
    }

    #[test]
    fn names_are_unique_and_match_serde() {
        let names: std::collections::BTreeSet<_> = RpcErrorClass::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(names.len(), RpcErrorClass::ALL.len());
        for class in RpcErrorClass::ALL {
            assert_eq!(serde_json::to_string(&class).expect("serialises"), format!("\"{class}\""));
        }
    }

    #[test]
    fn ambiguity_follows_taken() {
        assert!(RpcErrorClass::AlreadyKnown.is_ambiguous() && RpcErrorClass::Timeout.is_ambiguous());
        assert!(!RpcErrorClass::Underpriced.is_ambiguous());
        assert_eq!(TransportFailure::NotConnected.taken(), Taken::No);
        assert_eq!(TransportFailure::Interrupted.taken(), Taken::Maybe);
    }
}
