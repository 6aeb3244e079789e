//! Runs by seed.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use alloy_primitives::{Address, U256};
use slackwater_core::chain::{ClientRule, FinalityRule};

use super::{
    Faults, Rng, World,
    chain::{BROKEN, FICKLE, GWEI, HIDDEN, PRICED, TARGET},
    config,
};

/// Pools that compare caps, which every replacement must satisfy.
const RULES: [ClientRule; 7] = [
    ClientRule::Geth,
    ClientRule::Reth,
    ClientRule::RethOld,
    ClientRule::Erigon,
    ClientRule::Nethermind,
    ClientRule::Ethrex,
    ClientRule::Anvil,
];
/// Gas of a call that a poor key can't pay for.
const BIG_GAS: u64 = 5_000_000;

/// What a run is about, besides its faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Faults,
    /// Targets that take all gas, and not in simulations.
    Hidden,
    /// Targets that know the simulation by its price.
    Priced,
    /// A key that can't pay for its largest request.
    Poor,
    /// Nodes and blocks with limits.
    Limits,
    /// Users who use their nonces elsewhere, and reorgs that take that back.
    Spends,
    /// Prices that stay above what some requests may cost.
    Dear,
}

/// A run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    subject: Subject,
    /// Number of blocks that become final together.
    epoch: u64,
    /// True if all requests come at once, and no faults after them.
    is_burst: bool,
    /// Generator of everything that old runs do not have; `None` in those.
    second: Option<Rng>,
}

/// Result of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) hash: u64,
    /// The first failed check; `None` if every check held.
    pub(crate) violation: Option<String>,
    pub(crate) lines: Vec<String>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut second = Rng(seed).fork();
        let subject = match second.below(10) {
            0 | 1 => Subject::Hidden,
            2 => Subject::Priced,
            3 => Subject::Poor,
            4 => Subject::Limits,
            5 | 6 => Subject::Spends,
            7 => Subject::Dear,
            _ => Subject::Faults,
        };
        // What a poor key has sent is paid for once it is final.
        let epoch = if subject == Subject::Poor { 1 } else { *pick(&mut second, &[1, 1, 5, 32]) };
        let is_burst = subject == Subject::Poor || subject.is_about_progress() && second.chance(70);
        Self { seed, subject, epoch, is_burst, second: Some(second) }
    }

    /// A run as the first ones were.
    pub(crate) const fn old(seed: u64) -> Self {
        Self { seed, subject: Subject::Faults, epoch: 1, is_burst: false, second: None }
    }

    /// Runs it to its end, or to the first failed check.
    pub(crate) fn run(mut self) -> Outcome {
        let mut rng = Rng(self.seed);
        let mut faults = faults(&mut rng);
        let world_seed = rng.next();
        if let Some(second) = &mut self.second {
            faults.spend = if second.chance(20) { second.below(20) } else { 0 };
            faults.revival = if second.chance(50) { second.below(60) } else { 0 };
            self.subject.change(&mut faults, second);
        }
        let mut config = config();
        if self.epoch > 1 {
            config.finality = FinalityRule::FinalizedTag { fallback_depth: 0 };
        }
        if self.subject == Subject::Limits {
            // What nodes may hold, and refuse from now on, blocks its nonce until its deadline.
            config.rpc_timeout = Duration::from_secs(60);
        }
        let mut world = World::new(world_seed, faults, config);
        let played = catch_unwind(AssertUnwindSafe(|| self.play(&mut world, &mut rng)));
        let violation = played.err().map(|panic| match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(panic) => panic.downcast::<&str>().map_or_else(|_| "a panic".to_owned(), |text| (*text).to_owned()),
        });
        Outcome { hash: world.hash, violation, lines: world.lines, counts: world.counts }
    }

    fn play(&mut self, world: &mut World, rng: &mut Rng) {
        world.chain.epoch = self.epoch;
        world.chain.has_simulate = rng.chance(70);
        if let Some(second) = &mut self.second {
            world.chain.rule = *pick(second, &RULES);
            self.subject.prepare(world, second);
        }
        let mut count = rng.below(12) + 1;
        if self.is_burst {
            count = count.max(6);
        }
        for _ in 0..count {
            let mut to = if rng.chance(15) { BROKEN } else { TARGET };
            let mut within = Duration::from_secs(20 + rng.below(600));
            let mut most = rng.chance(40).then(|| (1 + rng.below(40)) as u128 * 150_000 * GWEI + 5);
            let mut is_forward = rng.chance(50);
            let user = if is_forward { usize::try_from(rng.below(3)).unwrap() } else { 0 };
            let mut gas = 40_000;
            if let Some(second) = &mut self.second {
                if self.is_burst || second.chance(50) {
                    (within, most) = (within + Duration::from_secs(2_400), None);
                }
                is_forward |= self.subject.is_about_batches() && second.chance(70);
                self.subject.request(is_forward, &mut to, &mut gas, &mut most, second);
                // Suspicion of a target lasts some minutes.
                let (gaps, longest) = if self.subject == Subject::Hidden { (60, 80) } else { (30, 600) };
                let steps = if !self.is_burst && second.chance(gaps) { second.below(longest) } else { 0 };
                (0..steps).for_each(|_| world.step());
            }
            if is_forward {
                world.forward(user, to, within, most);
            } else {
                world.call_with(to, gas, within, most);
            }
            let steps = rng.below(60);
            (0..if self.is_burst { 0 } else { steps }).for_each(|_| world.step());
        }
        let steps = rng.below(1_500);
        match &mut self.second {
            Some(second) if self.is_burst => self.subject.happen(world, second),
            _ => (0..steps).for_each(|_| world.step()),
        }
        world.calm_down(BIG_GAS - 1);
        world.until("an end of everything", 300_000, World::all_ended);
        world.check_rest();
    }
}

impl Subject {
    /// True if what matters is that requests land.
    const fn is_about_progress(self) -> bool {
        matches!(self, Self::Poor | Self::Limits | Self::Spends | Self::Dear)
    }

    /// True if what matters is who goes with whom.
    const fn is_about_batches(self) -> bool {
        matches!(self, Self::Hidden | Self::Poor | Self::Limits)
    }

    /// Its faults.
    fn change(self, faults: &mut Faults, second: &mut Rng) {
        match self {
            Self::Hidden => faults.crash = if second.chance(70) { 0 } else { faults.crash },
            // Whoever misreads its balance, or does not know what nodes hold, waits until a deadline.
            Self::Poor | Self::Limits | Self::Dear => {
                *faults = Faults { failed_write: faults.failed_write, reorg: faults.reorg, ..Faults::default() };
            }
            // Every question is answered.
            Self::Priced if second.chance(70) => {
                (faults.lost_call, faults.lost_answer, faults.nonsense, faults.late) = (0, 0, 0, 0);
            }
            Self::Spends => {
                (faults.spend, faults.reorg) = (5 + second.below(30), second.below(30));
            }
            _ => {}
        }
    }

    /// Its chain.
    fn prepare(self, world: &mut World, second: &mut Rng) {
        match self {
            Self::Poor => {
                world.least_base_fee = (1 + second.below(10) as u128) * GWEI;
                let gas = 160_000 + second.below(200_000) as u128;
                world.chain.balance = U256::from(2 * gas * (world.least_base_fee + 2 * GWEI));
            }
            Self::Limits => {
                world.least_base_fee = (20 + second.below(30) as u128) * GWEI;
                // A transaction that nodes hold, and whose next price they refuse, would block its nonce until its deadline.
                world.chain.base_fee = world.least_base_fee;
                world.chain.turns_at = world.chain.height() + 1 + second.below(8);
                let limits = &mut world.chain.limits;
                match second.below(3) {
                    0 => limits.block_gas = 300_000 + second.below(200_000),
                    1 => limits.fee_cap = (2 + second.below(2) as u128) * 10_000_000 * GWEI,
                    _ => limits.least_tip = (2 + second.below(13) as u128) * GWEI,
                }
            }
            Self::Hidden => world.least_base_fee = (1 + second.below(8) as u128) * GWEI,
            _ => {}
        }
    }

    /// What happens between the requests and the calm.
    fn happen(self, world: &mut World, second: &mut Rng) {
        match self {
            Self::Spends => world.take_back(1 + second.below(3)),
            Self::Dear => {
                world.faults.empty_block = 100;
                (0..100 + second.below(200)).for_each(|_| world.step());
                world.least_base_fee = (60 + second.below(60) as u128) * GWEI;
            }
            _ => {}
        }
    }

    /// Its requests.
    fn request(self, is_forward: bool, to: &mut Address, gas: &mut u64, most: &mut Option<u128>, second: &mut Rng) {
        match self {
            Self::Hidden if second.chance(40) => {
                *to = HIDDEN;
                if second.chance(50) {
                    *most = Some((4 + second.below(30)) as u128 * 171_000 * GWEI);
                }
            }
            Self::Priced if second.chance(30) => *to = PRICED,
            Self::Poor if second.chance(30) => *gas = BIG_GAS,
            Self::Limits if second.chance(25) => *to = FICKLE,
            // One of several users in a transaction would hold up the others: its ceiling is that of all.
            Self::Dear if !is_forward && second.chance(50) => {
                *most = Some((2 + second.below(60)) as u128 * 82_000 * GWEI + 5);
            }
            _ => {}
        }
    }
}

fn pick<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[usize::try_from(rng.below(from.len() as u64)).unwrap()]
}

fn faults(rng: &mut Rng) -> Faults {
    let mut some = |most: u64| if rng.chance(50) { rng.below(most) } else { 0 };
    Faults {
        lost_call: some(20),
        lost_answer: some(20),
        nonsense: some(15),
        twice: some(20),
        late: some(60),
        failed_write: some(20),
        crash: some(4),
        reorg: some(20),
        eviction: some(20),
        stranger: some(5),
        empty_block: some(50),
        spike: some(6),
        ..Faults::default()
    }
}
