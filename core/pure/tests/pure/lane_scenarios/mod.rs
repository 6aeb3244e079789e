//! The lane's state table, and the scenarios that have cost other relayers money, one by one.

use alloy_primitives::{Address, B256, Bytes, U256};
use slackwater_core::{
    Timestamp,
    chain::{ClientRule, Fees, ReplacementRule, RpcErrorClass},
    lane::{
        AttemptKey, AttemptKind, Blockage, Command, Event, HeadInfo, Lane, LaneAlert, LaneConfig, LaneError, NodeTerms,
        Plan, PollPurpose, RestoredSlot, SendOutcome, Trouble, TxToSign,
    },
    request::{BatchId, LaneId, outcome::TxReceipt, vehicle::Payload},
};

mod attempts;
mod deadlines;
mod lies;
mod money;
mod nonces;
mod prices;
mod refusals;
mod reorgs;
mod states;

const GWEI: u128 = 1_000_000_000;
const SENDER: Address = Address::repeat_byte(0x5e);
const BUMP_AFTER: u64 = 3;

const fn config() -> LaneConfig {
    LaneConfig {
        id: LaneId { chain_id: 1, sender: SENDER },
        max_in_flight: 4,
        replacement: ReplacementRule::SAFE_EVERYWHERE,
        bump_after_blocks: BUMP_AFTER,
        rebroadcast_after_blocks: 2,
        abandon_after_blocks: 12,
        max_attempts: 5,
        max_refused_plans: 8,
        max_fee_ceiling_wei_per_gas: 1_000 * GWEI,
        cancel_gas: 21_000,
    }
}

fn plan(deadline_s: u64) -> Plan {
    Plan {
        payload: Payload {
            to: Address::repeat_byte(0xf0),
            value: U256::from(7),
            data: Bytes::from_static(&[1, 2, 3]),
            gas_limit: 100_000,
        },
        deadline: Timestamp::from_secs(deadline_s),
        ceiling_wei_per_gas: 500 * GWEI,
        extra_wei: U256::ZERO,
        is_guarded: false,
        is_alone: true,
    }
}

const fn head(number: u64) -> HeadInfo {
    HeadInfo {
        number,
        timestamp_s: number * 2,
        next_base_fee: 10 * GWEI,
        quote: Fees::new(21 * GWEI, GWEI),
        final_block: Some(number.saturating_sub(5)),
    }
}

const fn key(nonce: u64, index: u32) -> AttemptKey {
    AttemptKey { nonce, index }
}

fn hash(key: AttemptKey) -> B256 {
    B256::from(U256::from(1_000_000 + key.nonce * 1_000 + u64::from(key.index)))
}

fn receipt(key: AttemptKey, block: u64, fork: u64) -> Box<TxReceipt> {
    Box::new(TxReceipt {
        hash: hash(key),
        block_number: block,
        block_hash: block_hash(block, fork),
        is_success: true,
        gas_used: 50_000,
        effective_gas_price: GWEI,
        extra_fee_wei: U256::ZERO,
        logs: Vec::new(),
    })
}

fn block_hash(block: u64, fork: u64) -> B256 {
    B256::from(U256::from(block * 100 + fork))
}

/// A lane with a passive shell.
struct Rig {
    lane: Lane,
    now: Timestamp,
    signed: Vec<(AttemptKey, TxToSign)>,
}

impl Rig {
    /// Reconciled at `nonce` with a head at block 100 (second 200) and plenty of money.
    fn new(nonce: u64) -> Self {
        Self::with(Lane::restore(config(), None, Vec::new()), nonce)
    }

    fn with(lane: Lane, nonce: u64) -> Self {
        let mut rig = Self { lane, now: Timestamp::from_secs(200), signed: Vec::new() };
        assert_eq!(rig.lane.ready(), Err(LaneError::NotReconciled));
        rig.event(Event::AccountNonce { latest: nonce, finalized: None });
        rig.event(Event::Balance(U256::from(10u128.pow(20))));
        rig
    }

    fn event(&mut self, event: Event) -> Vec<Command> {
        self.lane.handle_event(self.now, event);
        self.drain()
    }

    fn drain(&mut self) -> Vec<Command> {
        let commands: Vec<Command> = std::iter::from_fn(|| self.lane.poll_command()).take(10_000).collect();
        assert!(commands.len() < 10_000, "a busy loop");
        for command in &commands {
            if let Command::Sign { key, tx } = command {
                self.signed.push((*key, tx.clone()));
            }
        }
        commands
    }

    fn head(&mut self, number: u64) -> Vec<Command> {
        self.head_with(head(number))
    }

    fn head_with(&mut self, head: HeadInfo) -> Vec<Command> {
        self.now = Timestamp::from_secs(head.timestamp_s);
        self.event(Event::Head(head))
    }

    /// Submits and commits; the broadcast is in progress.
    fn send(&mut self, plan: Plan) -> u64 {
        let BatchId { nonce, .. } = self.lane.submit(self.now, plan).unwrap();
        self.drain();
        let commands = self.commit(key(nonce, 0));
        assert_eq!(commands, [Command::ReportBroadcast { nonce }, Command::Broadcast { key: key(nonce, 0) }]);
        nonce
    }

    /// Signs and commits an attempt.
    fn commit(&mut self, key: AttemptKey) -> Vec<Command> {
        assert_eq!(self.event(Event::Signed { key, hash: hash(key) }), [Command::Persist { key }]);
        self.event(Event::Persisted { key })
    }

    fn sent(&mut self, key: AttemptKey, outcome: SendOutcome) -> Vec<Command> {
        self.event(Event::Sent { key, outcome })
    }

    fn taken(&mut self, key: AttemptKey) {
        assert_eq!(self.sent(key, SendOutcome::Taken), []);
    }

    fn receipts(&mut self, nonce: u64, purpose: PollPurpose, found: Option<Box<TxReceipt>>, at: u64) -> Vec<Command> {
        self.event(Event::Receipts { nonce, purpose, found, is_complete: true, at_block: at })
    }

    fn fees(&self, key: AttemptKey) -> Fees {
        self.signed.iter().rev().find(|(signed, _)| *signed == key).unwrap().1.fees
    }

    fn kind(&self, key: AttemptKey) -> AttemptKind {
        self.signed.iter().rev().find(|(signed, _)| *signed == key).unwrap().1.kind
    }

    /// Lets heads pass until something is signed for `nonce`, answering every broadcast with `outcome`.
    fn until_signed(&mut self, from: u64, nonce: u64, outcome: SendOutcome) -> u64 {
        let before = self.signed.len();
        for number in from..from + 20 {
            for command in self.head(number) {
                if let Command::Broadcast { key } = command {
                    self.sent(key, outcome);
                }
            }
            if self.signed[before..].iter().any(|(key, _)| key.nonce == nonce) {
                return number;
            }
        }
        panic!("nothing was signed for nonce {nonce}");
    }
}

fn signs(commands: &[Command]) -> Vec<AttemptKey> {
    commands.iter().filter_map(|c| if let Command::Sign { key, .. } = c { Some(*key) } else { None }).collect()
}

fn sends(commands: &[Command]) -> Vec<AttemptKey> {
    commands.iter().filter_map(|c| if let Command::Broadcast { key } = c { Some(*key) } else { None }).collect()
}

fn alerts(commands: &[Command]) -> Vec<&'static str> {
    commands.iter().filter_map(|c| if let Command::Alert(alert) = c { Some(alert.name()) } else { None }).collect()
}

fn restored(nonce: u64, kinds: &[AttemptKind], was_included: bool) -> RestoredSlot {
    let fees = |index: usize| Fees::new((21 + 10 * index as u128) * GWEI, (1 + 3 * index as u128) * GWEI);
    let attempts = kinds.iter().enumerate();
    RestoredSlot {
        nonce,
        plan: plan(10_000),
        attempts: attempts.map(|(i, kind)| (*kind, fees(i), hash(key(nonce, u32::try_from(i).unwrap())))).collect(),
        refused_plans: 0,
        was_broadcast: true,
        was_included,
    }
}
