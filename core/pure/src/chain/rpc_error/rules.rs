//! The ordered rules as data. Patterns are lower case; the first rule with a matching pattern wins.

use super::RpcErrorClass as C;

/// A test on a lower-case text. Sufficient for the whole table, so that browsers need no regular-expression engine.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pattern {
    /// Anywhere.
    Has(&'static str),
    /// At the start.
    Starts(&'static str),
    /// At the end.
    Ends(&'static str),
    /// Anywhere, not inside a longer word.
    Word(&'static str),
    /// These pieces in this order, anything between them.
    InOrder(&'static [&'static str]),
    /// At the start, or after one leading `tag: ` without spaces.
    StartsAfterTag(&'static str),
    /// `before`, then optionally a number and a space, then `after`.
    OptionalNumber(&'static str, &'static str),
}

use Pattern::{Ends, Has, InOrder, OptionalNumber, Starts, StartsAfterTag, Word};

/// Markers of text chosen by a contract. A message with one of these is not searched further.
///
/// The word `reverted` counts wherever it stands (`execution reverted`, `Error: transaction reverted`, a replica's `failed
/// to forward … 'execution reverted'`): a contract's text only ever follows it, so at worst a contract can turn its own
/// revert into a revert.
const REVERT_MARKERS: [Pattern; 6] = [
    Word("reverted"),
    Has("vm exception while processing"),
    Has("vm execution error"),
    Has("failed to validate the transaction"),
    Has("validation revert"),
    Has("plugin has marked"),
];

/// True if a contract's execution reverted. Always tested first.
pub(super) fn is_revert(text: &str) -> bool {
    REVERT_MARKERS.iter().any(|marker| marker.matches(text))
}

/// Texts of clients for an execution that failed without a revert.
const EXECUTION_FAILURE: [Pattern; 9] = [
    Has("out of gas"),
    Has("outofgas"),
    Has("invalid opcode"),
    Has("feopcode"),
    Has("bad instruction"),
    Has("invalid jump"),
    Has("stack underflow"),
    Has("stack limit reached"),
    Has("max call depth exceeded"),
];

/// True if an execution failed without a revert.
pub(super) fn is_execution_failure(text: &str) -> bool {
    EXECUTION_FAILURE.iter().any(|pattern| pattern.matches(text))
}

/// Texts of clients that lack a block or its state.
const UNKNOWN_BLOCK: [Pattern; 15] = [
    Has("header not found"),
    Has("block not found"),
    Has("header for hash not found"),
    Has("unknown block"),
    Has("could not find block"),
    Has("blockoutofrange"),
    Has("block number out of range"),
    Has("missing trie node"),
    InOrder(&["state", "not available"]),
    InOrder(&["state", "unavailable"]),
    Has("no state available"),
    Has("state is pruned"),
    Has("due to pruning"),
    Has("exceeds maximum proof window"),
    Has("resource not found"),
];

/// True if a node reports that it lacks the block or its state.
pub(super) fn is_unknown_block(text: &str) -> bool {
    UNKNOWN_BLOCK.iter().any(|pattern| pattern.matches(text))
}

/// Texts of each class, in order: the first match wins. Those of conditional submission (EIP-7796) are unverified.
const RULES: &[(C, &[Pattern])] = &[
    (
        C::RateLimited,
        &[
            Has("rate limit"),
            Has("too many requests"),
            Has("compute units"),
            Starts("limit exceeded"),
            Has("request limit"),
            Has("throughput limit"),
        ],
    ),
    (
        C::AlreadyKnown,
        &[
            Has("already known"),
            Has("alreadyknown"),
            Has("already imported"),
            Has("alreadyimported"),
            Starts("known transaction"),
            Has("already in the system"),
            Has("same hash"),
            Has("already exists in cache"),
            Has("already exists in the cache"),
            Has("already exists in mempool"),
            Has("already exists in the mempool"),
            Has("already finalized"),
        ],
    ),
    (
        C::ReplacementUnderpriced,
        &[
            Has("replacement transaction underpriced"),
            Has("replacementnotallowed"),
            Has("could not replace existing"),
            Has("another transaction with same nonce"),
            Has("another transaction with the same nonce"),
            Has("existing transaction had higher priority"),
        ],
    ),
    (C::DelegatedLimit, &[Has("delegated accounts"), Has("delegation nonce gap")]),
    (C::AuthorityBusy, &[Has("authority already reserved"), Has("delegation authority has pending")]),
    (C::PoolTypeConflict, &[Has("address already reserved"), Has("pending transaction type conflict")]),
    (
        C::NonceTooLow,
        &[
            Has("nonce too low"),
            Has("nonce is too low"),
            Has("oldnonce"),
            Has("ownnoncealreadyused"),
            Has("pool(stale)"),
        ],
    ),
    (
        C::NonceGap,
        &[
            Has("nonce too high"),
            Has("nonce is too high"),
            Has("nonce too far"),
            Has("noncegap"),
            Has("too distant from current sender nonce"),
            Has("invalid transaction with a lower nonce"),
            Has("invalid sequence"),
        ],
    ),
    (
        C::InvalidFees,
        &[
            Has("max priority fee per gas higher than max fee"),
            Has("max priority fee per gas exceeds max fee"),
            Has("exceeds the configured cap"),
            Has("fee cap exceeded"),
        ],
    ),
    (
        C::FeeCapBelowBaseFee,
        &[Has("less than block base fee"), Has("less than block blob gas fee"), Has("below current base fee")],
    ),
    (
        C::InsufficientFunds,
        &[
            Has("insufficient funds"),
            Has("insufficientfunds"),
            Has("insufficient balance"),
            Has("upfront cost exceeds"),
            Has("not enough funds"),
        ],
    ),
    (
        C::GasTooLow,
        &[
            Has("intrinsic gas too low"),
            Has("intrinsic gas exceeds"),
            Has("floor data gas"),
            Has("callgascostmorethangaslimit"),
            Has("gasfloormorethangaslimit"),
            Word("intrinsicgas"),
            Starts("gas limit too low"),
        ],
    ),
    (
        C::GasTooHigh,
        &[
            Has("exceeds block gas limit"),
            Has("gas limit too high"),
            Has("gas limit is too high"),
            InOrder(&["exceeds max", "transaction gas limit"]),
            Has("per-transaction gas limit"),
            Has("intrinsic gas too high"),
            Has("gas limit reached"),
            Has("gaslimitexceeded"),
            Has("gaslimitcapexceeded"),
            Has("gas limit cap exceeded"),
        ],
    ),
    (
        C::PoolFull,
        &[
            Has("pool full"),
            Has("pool is full"),
            Has("queue full"),
            Has("future transaction tries to replace"),
            Has("account limit exceeded"),
            Has("spammer"),
            Has("tx limit in the txpool"),
            Has("discarded"),
        ],
    ),
    (
        C::Underpriced,
        &[
            Has("underpriced"),
            Has("below minimum"),
            Has("feetoolow"),
            StartsAfterTag("fee too low"),
            Has("gas price too low"),
            Has("gas price is too low"),
            Has("gasprice too low"),
            Has("gasprice is too low"),
            Has("below configured minimum"),
            Has("less than gas price minimum"),
        ],
    ),
    (
        C::SenderRejected,
        &[
            Has("not a eoa"),
            Has("not an eoa"),
            Has("not authorized"),
            Has("whitelist"),
            Has("forbidden sender"),
            Has("non-account"),
        ],
    ),
    (
        C::EndpointUnusable,
        &[
            Has("publishing transactions not supported"),
            Has("method not found"),
            InOrder(&["method ", "does not exist"]),
            InOrder(&["method ", "not available"]),
            Has("transaction pool not enabled"),
        ],
    ),
    (
        C::BadTransaction,
        &[
            OptionalNumber("type ", "not supported"),
            Has("invalid sender"),
            Has("oversized"),
            Has("replay-protected"),
            Has("authorization tuple"),
            Has("authorization list"),
            Has("nonce has max value"),
            Has("init code"),
            Has("initcode"),
            Has("rlptoolong"),
            Has("chain id"),
            Has("chainid"),
            Has("invalid signature"),
            Has("too large"),
            Has("recover sender"),
            Has("decode"),
            Has("empty transaction"),
        ],
    ),
    (C::ConditionNotMet, &[Has("conditional"), Has("condition not met")]),
    (
        C::NodeUnavailable,
        &[
            Has("failed to forward"),
            Has("temporarily not available"),
            Ends("internal error"),
            Has("forwarding targets"),
            Has("not accepting transactions"),
            Has("is syncing"),
            Has("initial sync"),
            Has("shutting down"),
            Has("service unavailable"),
            Has("bad gateway"),
        ],
    ),
    (C::Timeout, &[Has("deadline exceeded"), Has("timeout"), Has("timed out")]),
];

/// Class by text, `None` if no rule matches. `text` is lower case and no revert.
pub(super) fn class_of_text(text: &str) -> Option<C> {
    RULES.iter().find(|(_, patterns)| patterns.iter().any(|pattern| pattern.matches(text))).map(|(class, _)| *class)
}

impl Pattern {
    fn matches(self, text: &str) -> bool {
        match self {
            Has(piece) => text.contains(piece),
            Starts(piece) => text.starts_with(piece),
            Ends(piece) => text.ends_with(piece),
            Word(word) => text.match_indices(word).any(|(at, _)| {
                let is_word = |c: char| c.is_alphanumeric() || c == '_';
                let (before, after) = (&text[..at], &text[at + word.len()..]);
                !before.ends_with(is_word) && !after.starts_with(is_word)
            }),
            InOrder(pieces) => {
                pieces.iter().try_fold(text, |rest, piece| rest.split_once(piece).map(|(_, rest)| rest)).is_some()
            }
            StartsAfterTag(piece) => {
                text.starts_with(piece)
                    || text.split_once(": ").is_some_and(|(tag, rest)| {
                        !tag.is_empty()
                            && tag.chars().all(|c| c.is_alphanumeric() || c == '_')
                            && rest.starts_with(piece)
                    })
            }
            OptionalNumber(before, after) => text.match_indices(before).any(|(at, _)| {
                let rest = &text[at + before.len()..];
                let unnumbered = rest.trim_start_matches(|c: char| c.is_ascii_digit());
                rest.starts_with(after)
                    || (unnumbered.len() < rest.len()
                        && unnumbered.strip_prefix(' ').is_some_and(|rest| rest.starts_with(after)))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        assert!(Word("intrinsicgas").matches("internal_error: intrinsicgas"));
        assert!(!Word("intrinsicgas").matches("intrinsicgastoolow"));
        assert!(InOrder(&["exceeds max", "gas limit"]).matches("exceeds maximum tx gas limit"));
        assert!(!InOrder(&["a", "b"]).matches("b a"));
        assert!(StartsAfterTag("fee too low").matches("underpriced: fee too low"));
        assert!(StartsAfterTag("fee too low").matches("fee too low"));
        assert!(!StartsAfterTag("fee too low").matches("two words: fee too low"));
        let typed = OptionalNumber("type ", "not supported");
        assert!(typed.matches("transaction type not supported") && typed.matches("type 3 not supported"));
        assert!(!typed.matches("type x not supported") && !typed.matches("type 3not supported"));
        assert!(Ends("internal error").matches("sequencer internal error"));
    }

    #[test]
    fn patterns_are_lower_case() {
        let pieces = |pattern: &Pattern| match *pattern {
            Has(p) | Starts(p) | Ends(p) | Word(p) | StartsAfterTag(p) => vec![p],
            InOrder(pieces) => pieces.to_vec(),
            OptionalNumber(a, b) => vec![a, b],
        };
        for piece in RULES.iter().flat_map(|(_, patterns)| *patterns).chain(&REVERT_MARKERS).flat_map(pieces) {
            assert_eq!(piece, piece.to_ascii_lowercase());
            assert!(!piece.is_empty());
        }
    }
}
