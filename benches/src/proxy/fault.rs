//! Faults that the proxy injects, and the rules of their occurrence.

use std::time::Duration;

use slackwater_core::chain::RpcErrorClass;

use crate::rng::Rng;

/// A fault of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The call reaches the node late, by a random time in this range. Concurrent calls overtake each other.
    Delay {
        /// Shortest delay.
        min: Duration,
        /// Longest delay.
        max: Duration,
    },
    /// The connection is closed before the node sees the call.
    DropBefore,
    /// The node sees it and answers, but the connection is closed before the answer is passed on.
    DropAfter,
    /// The node sees the call twice; the second answer is passed on.
    Duplicate,
    /// The node does not see the call; the answer is the error of another client.
    Refuse {
        /// Client whose error text is used, such as `geth`.
        client: String,
        /// Class of the error.
        class: RpcErrorClass,
    },
    /// The node does not see the call; the answer is this HTTP status.
    HttpStatus(u16),
    /// The node lags by this many blocks: its head, states and receipts.
    StaleHead {
        /// Number of blocks.
        blocks: u64,
    },
    /// The node is frozen at this block: it knows no later one, and goes on answering.
    FrozenAt {
        /// Its newest block.
        block: u64,
    },
    /// Receipts are falsified.
    Receipt(ReceiptLie),
    /// Base fees are multiplied by this factor, in headers and fee histories.
    Fees {
        /// Factor.
        times: u64,
    },
    /// Base fees are right and everything else about fees is wrong: blocks are full in headers and fee histories, tips
    /// are [`FALSE_TIP_WEI`], and the next block's base fee is an eighth above the last.
    HalfTruth,
}

/// Tip that [`Fault::HalfTruth`] reports for every transaction, wei per gas.
pub const FALSE_TIP_WEI: u64 = 150_000_000_000;

/// Falsification of a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReceiptLie {
    /// There is none (`null`).
    Null,
    /// The transaction failed, without events.
    Failed,
    /// It is in a block that does not exist.
    OtherBlock,
    /// The gas price is a thousand times too high.
    Dear,
    /// A transaction in no block is reported as failed in the block at this height, without events.
    Invented {
        /// Height.
        block: u64,
    },
}

impl Fault {
    /// Name in [`Injected::faults`](super::Injected::faults).
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Delay { .. } => "delay",
            Self::DropBefore => "drop_before",
            Self::DropAfter => "drop_after",
            Self::Duplicate => "duplicate",
            Self::Refuse { .. } => "refuse",
            Self::HttpStatus(_) => "http_status",
            Self::StaleHead { .. } => "stale_head",
            Self::FrozenAt { .. } => "frozen_at",
            Self::Receipt(_) => "receipt",
            Self::Fees { .. } => "fees",
            Self::HalfTruth => "half_truth",
        }
    }
}

/// A fault with the conditions of its occurrence.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The fault.
    pub fault: Fault,
    /// Affected methods; empty means all.
    pub methods: Vec<String>,
    /// Probability for each call, basis points.
    pub chance_bps: u32,
    /// Maximum number of occurrences; `None` for no limit.
    pub limit: Option<u64>,
}

impl Rule {
    /// `fault` on every call.
    pub const fn always(fault: Fault) -> Self {
        Self { fault, methods: Vec::new(), chance_bps: 10_000, limit: None }
    }

    /// Only on this method; may be repeated.
    #[must_use]
    pub fn on(mut self, method: &str) -> Self {
        self.methods.push(method.to_owned());
        self
    }

    /// Only with this probability, basis points.
    #[must_use]
    pub const fn chance_bps(mut self, bps: u32) -> Self {
        self.chance_bps = bps;
        self
    }

    /// Only the first `times` times.
    #[must_use]
    pub const fn times(mut self, times: u64) -> Self {
        self.limit = Some(times);
        self
    }
}

/// Random faults of all kinds: with this probability a call has one fault, drawn from those that fit its method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storm {
    /// Probability for each call, basis points.
    pub chance_bps: u32,
    /// Longest delay of a late call.
    pub max_delay: Duration,
    /// Maximum lag of a stale answer, blocks.
    pub max_stale_blocks: u64,
}

impl Storm {
    /// Maximum lag of a stale answer in [`Self::of`], blocks. Anything that must be visible in any case has to be
    /// older.
    pub const STALE_BLOCKS: u64 = 2;

    /// A storm over this share of all calls, basis points, with delays of up to 400 ms and answers up to
    /// [`Self::STALE_BLOCKS`] old.
    pub const fn of(chance_bps: u32) -> Self {
        Self { chance_bps, max_delay: Duration::from_millis(400), max_stale_blocks: Self::STALE_BLOCKS }
    }

    /// The fault of this call; `None` for no fault.
    pub(super) fn strike(self, rng: &mut Rng, method: &str) -> Option<Fault> {
        if !rng.chance_bps(self.chance_bps) {
            return None;
        }
        let is_send = method == "eth_sendRawTransaction";
        Some(match rng.below(6) {
            0 => Fault::DropBefore,
            1 => Fault::DropAfter,
            2 => Fault::Delay { min: Duration::ZERO, max: self.max_delay },
            3 => Fault::Refuse {
                client: pick(rng, &CLIENTS).to_owned(),
                class: if is_send { pick(rng, &SEND_REFUSALS) } else { pick(rng, &READ_REFUSALS) },
            },
            4 if is_send => Fault::HttpStatus(502),
            4 => Fault::StaleHead { blocks: rng.between(1, self.max_stale_blocks.max(1)) },
            _ => Fault::Duplicate,
        })
    }
}

fn pick<T: Copy>(rng: &mut Rng, choices: &[T]) -> T {
    choices[usize::try_from(rng.below(choices.len() as u64)).unwrap_or(0)]
}

/// Clients whose error texts are known.
pub const CLIENTS: [&str; 6] = ["geth", "reth", "nethermind", "besu", "erigon", "anvil"];

/// Errors with which clients refuse a transaction, or seem to.
pub const SEND_REFUSALS: [RpcErrorClass; 16] = [
    RpcErrorClass::AlreadyKnown,
    RpcErrorClass::NonceTooLow,
    RpcErrorClass::NonceGap,
    RpcErrorClass::ReplacementUnderpriced,
    RpcErrorClass::Underpriced,
    RpcErrorClass::FeeCapBelowBaseFee,
    RpcErrorClass::InsufficientFunds,
    RpcErrorClass::GasTooLow,
    RpcErrorClass::GasTooHigh,
    RpcErrorClass::PoolFull,
    RpcErrorClass::SenderRejected,
    RpcErrorClass::BadTransaction,
    RpcErrorClass::NodeUnavailable,
    RpcErrorClass::Timeout,
    RpcErrorClass::RateLimited,
    RpcErrorClass::Unknown,
];

/// Errors with which clients fail to answer a query.
pub const READ_REFUSALS: [RpcErrorClass; 4] =
    [RpcErrorClass::NodeUnavailable, RpcErrorClass::Timeout, RpcErrorClass::RateLimited, RpcErrorClass::Unknown];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_strikes_as_often_as_it_says_with_all_it_has() {
        let mut rng = Rng::new(7);
        let storm = Storm::of(500);
        for (method, kinds) in [
            ("eth_sendRawTransaction", ["delay", "drop_after", "drop_before", "duplicate", "http_status", "refuse"]),
            ("eth_call", ["delay", "drop_after", "drop_before", "duplicate", "refuse", "stale_head"]),
        ] {
            let struck: Vec<Fault> = (0..20_000).filter_map(|_| storm.strike(&mut rng, method)).collect();
            assert!((900..1_100).contains(&struck.len()), "{} of 20000", struck.len());
            let mut names: Vec<&str> = struck.iter().map(Fault::name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names, kinds, "{method}");
        }
        assert_eq!(Storm::of(0).strike(&mut rng, "eth_call"), None);
    }
}
