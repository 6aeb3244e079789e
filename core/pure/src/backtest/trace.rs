//! A recorded history, one block at a time.

use std::time::Duration;

use crate::market::{
    FeePoint,
    csv::{Cadence, FeeTable},
};

/// First proof-of-stake block of Ethereum (the Merge, 15 September 2022).
const ETHEREUM_MERGE_BLOCK: u64 = 15_537_394;
/// Mean time between blocks before it, ms: 13.3 s over the first half of 2022.
const ETHEREUM_PROOF_OF_WORK_MS: u64 = 13_300;
/// Largest difference between measured and nominal block time that is treated as equal, percent: some slots are missed,
/// and a deadline counts nominal blocks.
const SAME_STEP_PERCENT: u128 = 6;
/// Block time of an unknown chain.
const UNKNOWN_BLOCK_TIME: Duration = Duration::from_secs(12);

/// Typical time between blocks of the chain with this name, around this height; `None` for an unknown chain.
pub fn nominal_block_time(chain: &str, number: u64) -> Option<Duration> {
    let ms = match chain {
        "ethereum" if number < ETHEREUM_MERGE_BLOCK => ETHEREUM_PROOF_OF_WORK_MS,
        // Taiko proposes with L1 blocks.
        "ethereum" | "taiko" => 12_000,
        "polygon" | "base" | "op-mainnet" | "optimism" | "linea" | "unichain" | "zora" | "mode" | "worldchain" => 2_000,
        "arbitrum-one" | "arbitrum" => 250,
        "scroll" => 3_000,
        "zksync" | "zksync-era" | "anvil" => 1_000,
        "avalanche" => 2_000,
        "gnosis" => 5_000,
        "bsc" => 750,
        _ => return None,
    };
    Some(Duration::from_millis(ms))
}

/// True for chains whose next base fee is set by an operator or a backlog, not by the header: a later row must not
/// reveal it.
fn is_next_open(chain: &str) -> bool {
    ["arbitrum", "scroll", "linea", "zksync"].iter().any(|operated| chain.starts_with(operated))
}

/// A recorded history that is handed out in order.
///
/// Its points hold the knowledge of a relayer right after each block.
#[derive(Debug, Clone)]
pub struct Trace {
    points: Vec<FeePoint>,
    at: usize,
    step: Duration,
    stride: u64,
    is_blocks: bool,
}

impl Trace {
    /// A trace of a parsed table. `block_time` overrides the chain's nominal and measured block times.
    pub fn new(mut table: FeeTable, block_time: Option<Duration>) -> Self {
        if table.chain.as_deref().is_some_and(is_next_open) {
            table.points.iter_mut().for_each(|point| point.next_base_fee = None);
        }
        let first = table.points.first().map_or(0, |point| point.number);
        let nominal = table.chain.as_deref().and_then(|chain| nominal_block_time(chain, first));
        let measured = table.measured_step();
        let step = match table.cadence {
            Cadence::Every(step) => step,
            Cadence::Blocks => block_time.unwrap_or_else(|| match (nominal, measured) {
                (Some(nominal), Some(measured)) if !is_same(nominal, measured) => measured,
                (Some(nominal), _) => nominal,
                (None, measured) => measured.unwrap_or(UNKNOWN_BLOCK_TIME),
            }),
            Cadence::EveryBlocks(stride) => measured.filter(|_| block_time.is_none()).unwrap_or_else(|| {
                let block = block_time.or(nominal).unwrap_or(UNKNOWN_BLOCK_TIME);
                block.saturating_mul(u32::try_from(stride).unwrap_or(u32::MAX))
            }),
        };
        Self { stride: table.stride(), is_blocks: table.is_blocks(), step, points: table.points, at: 0 }
    }

    /// Time between two rows.
    pub const fn step(&self) -> Duration {
        self.step
    }

    /// Difference between the numbers of two consecutive rows.
    pub const fn stride(&self) -> u64 {
        self.stride
    }

    /// True if rows are blocks, rather than steps of a series.
    pub const fn is_blocks(&self) -> bool {
        self.is_blocks
    }

    /// Total number of rows.
    pub fn rows(&self) -> usize {
        self.points.len()
    }

    /// Whole steps within a deadline, rounded down; at most `u32::MAX`.
    pub fn steps_within(&self, deadline: Duration) -> u32 {
        let steps = deadline.as_micros() / self.step.as_micros().max(1);
        u32::try_from(steps).unwrap_or(u32::MAX)
    }

    /// Number of steps nearest to a time ahead.
    pub fn steps_near(&self, ahead: Duration) -> u32 {
        let step = self.step.as_micros().max(1);
        u32::try_from((ahead.as_micros() + step / 2) / step).unwrap_or(u32::MAX)
    }

    /// The history, for the scoring side. The deciding side must not see it.
    pub(super) fn history(&self) -> &[FeePoint] {
        &self.points
    }
}

impl Iterator for Trace {
    type Item = FeePoint;

    fn next(&mut self) -> Option<FeePoint> {
        let point = self.points.get(self.at).copied()?;
        self.at += 1;
        Some(point)
    }
}

fn is_same(nominal: Duration, measured: Duration) -> bool {
    let (nominal, measured) = (nominal.as_micros(), measured.as_micros());
    nominal.abs_diff(measured) * 100 <= nominal * SAME_STEP_PERCENT
}
