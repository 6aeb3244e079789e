//! What may go wrong with a call, and when.

use std::time::Duration;

use slackwater::chain::RpcErrorClass;

use crate::rng::Rng;

/// What goes wrong with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It reaches the node late, by a time between these. Concurrent calls overtake each other.
    Delay {
        /// Least.
        min: Duration,
        /// Most.
        max: Duration,
    },
    /// The connection is closed before the node sees it.
    DropBefore,
    /// The node sees it and answers, but the connection is closed before the answer is passed on.
    DropAfter,
    /// The node sees it twice; the second answer is passed on.
    Duplicate,
    /// The node does not see it; the error of another client is answered instead.
    Refuse {
        /// Which client's words, such as `geth`.
        client: String,
        /// Which error.
        class: RpcErrorClass,
    },
    /// The node does not see it; this HTTP status is answered instead.
    HttpStatus(u16),
    /// The node is this many blocks behind: its head, states and receipts.
    StaleHead {
        /// Blocks.
        blocks: u64,
    },
    /// The node stands still: it knows no block after this one, and answers all the same.
    FrozenAt {
        /// Its newest block.
        block: u64,
    },
    /// Receipts are not what they are.
    Receipt(ReceiptLie),
    /// Base fees are this many times what they are, in headers and fee histories.
    Fees {
        /// Factor.
        times: u64,
    },
    /// Base fees are right, and nothing beside them: blocks are full in headers and fee histories, tips are
    /// [`FALSE_TIP_WEI`], and the next block's base fee is an eighth above the last.
    HalfTruth,
}

/// What [`Fault::HalfTruth`] says that everybody paid, wei per gas.
pub const FALSE_TIP_WEI: u64 = 150_000_000_000;

/// What is wrong with a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReceiptLie {
    /// There is none.
    Null,
    /// The transaction failed, without events.
    Failed,
    /// It is in a block that does not exist.
    OtherBlock,
    /// Gas was paid a thousand times as dear.
    Dear,
    /// What is in no block failed in the block at this height, without events.
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

/// A fault with when it strikes.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The fault.
    pub fault: Fault,
    /// Methods that it concerns; empty means all.
    pub methods: Vec<String>,
    /// Probability for each call, basis points.
    pub chance_bps: u32,
    /// How many times at most.
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

/// Faults of all kinds, one for a share of all calls: each call has with this probability one fault, drawn from those that
/// fit its method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storm {
    /// Probability for each call, basis points.
    pub chance_bps: u32,
    /// Longest delay of a call that is late.
    pub max_delay: Duration,
    /// Most blocks that a stale answer is behind.
    pub max_stale_blocks: u64,
}

impl Storm {
    /// Most blocks that a stale answer is behind in [`Self::of`]. What must be there in any case must be older.
    pub const STALE_BLOCKS: u64 = 2;

    /// A storm over this share of all calls, basis points, with delays of up to 400 ms and answers up to
    /// [`Self::STALE_BLOCKS`] old.
    pub const fn of(chance_bps: u32) -> Self {
        Self { chance_bps, max_delay: Duration::from_millis(400), max_stale_blocks: Self::STALE_BLOCKS }
    }

    /// What strikes this call, if anything does.
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

/// Whose words there are.
pub const CLIENTS: [&str; 6] = ["geth", "reth", "nethermind", "besu", "erigon", "anvil"];

/// What clients say when they refuse a transaction, or seem to.
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

/// What they say when they don't answer a question.
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
