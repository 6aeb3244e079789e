//! The lane's state machine: one transaction from plan to finality, and one step with a full window.

#![allow(missing_docs, reason = "criterion's macros make an undocumented function")]

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use slackwater_core::{
    Timestamp,
    chain::{Fees, ReplacementRule},
    lane::{AttemptKind, Command, Event, HeadInfo, Lane, LaneConfig, Plan, SendOutcome},
    request::{LaneId, outcome::TxReceipt, vehicle::Payload},
};

const GWEI: u128 = 1_000_000_000;
const IN_FLIGHT: usize = 16;
const NOW: Timestamp = Timestamp(1_790_000_000_000);

fn head(number: u64) -> Event {
    Event::Head(HeadInfo {
        number,
        timestamp_s: NOW.as_secs(),
        next_base_fee: GWEI,
        quote: Fees::new(3 * GWEI, GWEI),
        final_block: number.checked_sub(2),
    })
}

fn plan() -> Plan {
    Plan {
        payload: Payload {
            to: Address::repeat_byte(1),
            value: U256::ZERO,
            data: Bytes::from(vec![0xab; 50_000]),
            gas_limit: 16_000_000,
        },
        deadline: Timestamp(NOW.0 + 600_000),
        ceiling_wei_per_gas: 100 * GWEI,
        extra_wei: U256::ZERO,
        is_guarded: true,
        is_alone: false,
    }
}

fn lane() -> Lane {
    let config = LaneConfig {
        id: LaneId { chain_id: 31_337, sender: Address::repeat_byte(0x5e) },
        max_in_flight: IN_FLIGHT,
        replacement: ReplacementRule::SAFE_EVERYWHERE,
        bump_after_blocks: 3,
        rebroadcast_after_blocks: 2,
        abandon_after_blocks: 12,
        max_attempts: 32,
        max_refused_plans: 8,
        max_fee_ceiling_wei_per_gas: 1_000 * GWEI,
        cancel_gas: 21_000,
    };
    let mut lane = Lane::restore(config, None, Vec::new());
    lane.handle_event(NOW, Event::Balance(U256::MAX));
    lane.handle_event(NOW, head(100));
    lane.handle_event(NOW, Event::AccountNonce { latest: 0, finalized: Some(0) });
    lane
}

/// Carries out the lane's commands in a world without failures; blocks include the sent transaction iff `mined`.
/// Returns the number of events fed to the lane.
fn drain(lane: &mut Lane, block: u64, mined: bool) -> usize {
    let mut events = 0;
    while let Some(command) = lane.poll_command() {
        let event = match command {
            Command::Sign { key, tx } => {
                assert_eq!(tx.kind, AttemptKind::Payload);
                Event::Signed { key, hash: hash(key.nonce) }
            }
            Command::Persist { key } => Event::Persisted { key },
            Command::Broadcast { key } => Event::Sent { key, outcome: SendOutcome::Taken },
            Command::Poll { nonce, purpose, .. } => Event::Receipts {
                nonce,
                purpose,
                found: mined.then(|| Box::new(receipt(nonce))),
                is_complete: true,
                at_block: block,
            },
            _ => continue,
        };
        lane.handle_event(NOW, event);
        events += 1;
    }
    events
}

fn hash(nonce: u64) -> B256 {
    keccak256(nonce.to_be_bytes())
}

fn receipt(nonce: u64) -> TxReceipt {
    TxReceipt {
        hash: hash(nonce),
        block_number: 101,
        block_hash: B256::repeat_byte(101),
        is_success: true,
        gas_used: 2_000_000,
        effective_gas_price: 2 * GWEI,
        extra_fee_wei: U256::ZERO,
        logs: Vec::new(),
    }
}

fn full() -> Lane {
    let mut lane = lane();
    for _ in 0..IN_FLIGHT {
        lane.submit(NOW, plan()).expect("room");
        drain(&mut lane, 100, false);
    }
    lane
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lane");
    group.bench_function("one transaction, plan to finality", |bencher| {
        bencher.iter_batched_ref(
            lane,
            |lane| {
                lane.submit(NOW, plan()).expect("room");
                drain(lane, 100, false);
                for block in 101..=104 {
                    lane.handle_event(NOW, Event::AccountNonce { latest: 1, finalized: (block > 102).then_some(1) });
                    lane.handle_event(NOW, head(block));
                    drain(lane, block, true);
                }
                assert_eq!((lane.in_flight(), lane.unfinal()), (0, 0));
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("new head, 16 in flight", |bencher| {
        bencher.iter_batched_ref(
            full,
            |lane| {
                lane.handle_event(NOW, head(101));
                drain(lane, 101, false)
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(lane_benches, benches);
criterion_main!(lane_benches);
