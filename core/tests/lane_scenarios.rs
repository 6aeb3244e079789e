//! The lane's table of states, and the scenarios that have cost other relayers money, one by one.

use alloy_primitives::{Address, B256, Bytes, U256};
use slackwater::{
    Timestamp,
    chain::{ClientRule, Fees, ReplacementRule, RpcErrorClass},
    lane::{
        AttemptKey, AttemptKind, Command, Event, HeadInfo, Lane, LaneAlert, LaneConfig, LaneError, Plan, PollPurpose,
        RestoredSlot, SendOutcome, TxToSign,
    },
    request::{BatchId, LaneId, outcome::TxReceipt, vehicle::Payload},
};

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
        max_attempts: 5,
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

/// A lane with a shell that does nothing by itself.
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

    /// Submits and commits; the broadcast is under way.
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

// ---- the table of states ----

#[test]
fn signing_leaves_by_persisted_or_abandoned_only() {
    let mut rig = Rig::new(5);
    rig.head(100);
    rig.lane.submit(rig.now, plan(10_000)).unwrap();
    assert_eq!(signs(&rig.drain()), [key(5, 0)]);
    assert_eq!(rig.lane.next_nonce(), Some(6));
    // I4: nothing else is allocated meanwhile, and no event sends what is not committed (I2).
    assert_eq!(rig.lane.submit(rig.now, plan(10_000)), Err(LaneError::Busy { nonce: 5 }));
    for event in [
        Event::Sent { key: key(5, 0), outcome: SendOutcome::Refused(RpcErrorClass::NonceGap) },
        Event::Balance(U256::from(10u128.pow(20))),
        Event::Head(head(101)),
        Event::Head(head(120)),
        Event::Canonical { number: 101, hash: block_hash(101, 0) },
        Event::Persisted { key: key(5, 1) },
        Event::Persisted { key: key(6, 0) },
    ] {
        let commands = rig.event(event.clone());
        assert_eq!(commands, [], "{event:?}");
    }
    assert_eq!(
        rig.event(Event::Signed { key: key(5, 0), hash: hash(key(5, 0)) }),
        [Command::Persist { key: key(5, 0) }]
    );
    assert_eq!(rig.head(121), []);
    // Told twice, it is committed once.
    assert_eq!(rig.event(Event::Signed { key: key(5, 0), hash: hash(key(5, 7)) }), []);
    // The commit fails for sure: the nonce is free again.
    assert_eq!(rig.event(Event::Abandoned { key: key(5, 0) }), []);
    assert_eq!((rig.lane.next_nonce(), rig.lane.holds(5)), (Some(5), false));
    assert_eq!(rig.event(Event::Persisted { key: key(5, 0) }), []);
    assert_eq!(rig.send(plan(10_000)), 5);
}

#[test]
fn pending_leaves_by_receipt_or_by_a_final_stranger_only() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(10_000));
    rig.taken(key(0, 0));
    let absent = |is_complete| Event::Receipts {
        nonce: 0,
        purpose: PollPurpose::Inclusion,
        found: None,
        is_complete,
        at_block: 100,
    };
    for event in [absent(true), absent(false), Event::Abandoned { key: key(0, 0) }, Event::Persisted { key: key(0, 0) }]
    {
        assert_eq!(rig.event(event), []);
    }
    // The chain has passed the nonce: ask, don't act.
    let commands = rig.event(Event::AccountNonce { latest: 1, finalized: Some(0) });
    let poll = |purpose| Command::Poll { nonce: 0, hashes: vec![hash(key(0, 0))], purpose };
    assert_eq!(commands, [poll(PollPurpose::Inclusion)]);
    assert_eq!(rig.event(Event::AccountNonce { latest: 1, finalized: Some(0) }), [], "one poll at a time");
    assert_eq!(rig.receipts(0, PollPurpose::Inclusion, None, 100), []);
    for number in 101..130 {
        assert_eq!(rig.head(number), [], "no bump, no cancel, no second nonce while another transaction is in a block");
    }
    // At finality, by quorum.
    let commands = rig.event(Event::AccountNonce { latest: 1, finalized: Some(1) });
    assert_eq!(commands, [poll(PollPurpose::Finality)]);
    let unsure =
        Event::Receipts { nonce: 0, purpose: PollPurpose::Finality, found: None, is_complete: false, at_block: 130 };
    assert_eq!(rig.event(unsure), [], "no quorum, no statement");
    assert_eq!(rig.event(Event::AccountNonce { latest: 1, finalized: Some(1) }), [poll(PollPurpose::Finality)]);
    assert_eq!(rig.receipts(0, PollPurpose::Finality, None, 131), [Command::ReportLost { nonce: 0 }]);
    // Late answers about it change nothing.
    assert_eq!(rig.receipts(0, PollPurpose::Finality, Some(receipt(key(0, 0), 101, 0)), 132), []);
    assert_eq!(rig.sent(key(0, 0), SendOutcome::Taken), []);
}

#[test]
fn included_is_revocable_until_final() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(10_000));
    rig.taken(key(0, 0));
    rig.event(Event::AccountNonce { latest: 1, finalized: Some(0) });
    let included = |block, fork| Command::ReportIncluded {
        nonce: 0,
        kind: AttemptKind::Payload,
        receipt: receipt(key(0, 0), block, fork),
    };
    let found = Some(receipt(key(0, 0), 101, 0));
    assert_eq!(rig.receipts(0, PollPurpose::Inclusion, found.clone(), 101), [included(101, 0)]);
    assert_eq!((rig.lane.in_flight(), rig.lane.unfinal()), (0, 1));
    assert_eq!(rig.receipts(0, PollPurpose::Inclusion, found.clone(), 101), [], "known already");
    // A quorum that is not final yet says nothing terminal.
    assert_eq!(rig.receipts(0, PollPurpose::Finality, found, 101), []);
    assert_eq!(rig.head(105), []);
    // Final: by quorum once more.
    let finality = Command::Poll { nonce: 0, hashes: vec![hash(key(0, 0))], purpose: PollPurpose::Finality };
    assert_eq!(rig.head(106), std::slice::from_ref(&finality));
    assert_eq!(rig.head(107), [], "one at a time");
    let unsure =
        Event::Receipts { nonce: 0, purpose: PollPurpose::Finality, found: None, is_complete: false, at_block: 107 };
    assert_eq!(rig.event(unsure), []);
    assert_eq!(rig.head(108), [finality]);
    let commands = rig.receipts(0, PollPurpose::Finality, Some(receipt(key(0, 0), 101, 0)), 108);
    let expect = Command::ReportFinal { nonce: 0, kind: AttemptKind::Payload, receipt: receipt(key(0, 0), 101, 0) };
    assert_eq!(commands, [expect]);
    assert!(!rig.lane.holds(0));
}

// ---- S2: earlier attempts, cancels ----

#[test]
fn s2_an_earlier_attempt_mines_after_a_bump() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(10_000));
    rig.taken(key(0, 0));
    rig.until_signed(101, 0, SendOutcome::Taken);
    assert_eq!(sends(&rig.commit(key(0, 1))), [key(0, 1)]);
    rig.sent(key(0, 1), SendOutcome::Maybe(RpcErrorClass::Timeout));
    let commands = rig.event(Event::AccountNonce { latest: 1, finalized: None });
    let hashes = vec![hash(key(0, 0)), hash(key(0, 1))];
    assert_eq!(commands, [Command::Poll { nonce: 0, hashes, purpose: PollPurpose::Inclusion }]);
    let found = receipt(key(0, 0), 104, 0);
    let commands = rig.receipts(0, PollPurpose::Inclusion, Some(found.clone()), 104);
    let kind = AttemptKind::Payload;
    assert_eq!(commands, [Command::ReportIncluded { nonce: 0, kind, receipt: found.clone() }]);
    assert_eq!(rig.lane.next_nonce(), Some(1), "no new nonce");
    rig.head(110);
    let commands = rig.receipts(0, PollPurpose::Finality, Some(found.clone()), 110);
    assert_eq!(commands, [Command::ReportFinal { nonce: 0, kind, receipt: found }]);
}

#[test]
fn s2_the_original_beats_the_cancel_and_the_other_way_round() {
    for winner in [key(0, 0), key(0, 1)] {
        let mut rig = Rig::new(0);
        rig.head(100);
        rig.send(plan(203));
        rig.taken(key(0, 0));
        // Second 204: the deadline has passed.
        assert_eq!(signs(&rig.head(102)), [key(0, 1)]);
        assert_eq!(rig.kind(key(0, 1)), AttemptKind::Cancel);
        rig.commit(key(0, 1));
        rig.taken(key(0, 1));
        rig.event(Event::AccountNonce { latest: 1, finalized: None });
        let kind = rig.kind(winner);
        let found = receipt(winner, 103, 0);
        let commands = rig.receipts(0, PollPurpose::Inclusion, Some(found.clone()), 103);
        assert_eq!(commands, [Command::ReportIncluded { nonce: 0, kind, receipt: found.clone() }]);
        rig.head(109);
        let commands = rig.receipts(0, PollPurpose::Finality, Some(found.clone()), 109);
        assert_eq!(commands, [Command::ReportFinal { nonce: 0, kind, receipt: found }]);
    }
}

fn restored(nonce: u64, kinds: &[AttemptKind], was_included: bool) -> RestoredSlot {
    let fees = |index: usize| Fees::new((21 + 10 * index as u128) * GWEI, (1 + 3 * index as u128) * GWEI);
    let attempts = kinds.iter().enumerate();
    RestoredSlot {
        nonce,
        plan: plan(10_000),
        attempts: attempts.map(|(i, kind)| (*kind, fees(i), hash(key(nonce, u32::try_from(i).unwrap())))).collect(),
        was_broadcast: true,
        was_included,
    }
}

#[test]
fn s2_a_restart_between_two_attempts_forgets_neither() {
    let slots = vec![restored(0, &[AttemptKind::Payload; 2], false)];
    let mut rig = Rig::with(Lane::restore(config(), Some(1), slots), 0);
    // The same bytes again, not a higher price: restarts must not ratchet.
    assert_eq!(rig.head(100), [Command::Broadcast { key: key(0, 1) }]);
    rig.taken(key(0, 1));
    let commands = rig.event(Event::AccountNonce { latest: 1, finalized: None });
    let hashes = vec![hash(key(0, 0)), hash(key(0, 1))];
    assert_eq!(commands, [Command::Poll { nonce: 0, hashes, purpose: PollPurpose::Inclusion }]);
    let found = receipt(key(0, 0), 90, 0);
    let commands = rig.receipts(0, PollPurpose::Inclusion, Some(found.clone()), 100);
    assert_eq!(commands, [Command::ReportIncluded { nonce: 0, kind: AttemptKind::Payload, receipt: found }]);
}

#[test]
fn s2_a_given_up_payload_stays_given_up_after_a_restart() {
    let slots = vec![restored(0, &[AttemptKind::Payload, AttemptKind::Cancel], false)];
    let mut rig = Rig::with(Lane::restore(config(), Some(1), slots), 0);
    assert_eq!(sends(&rig.head(100)), [key(0, 1)]);
    rig.sent(key(0, 1), SendOutcome::Taken);
    rig.until_signed(101, 0, SendOutcome::Taken);
    assert_eq!(rig.kind(key(0, 2)), AttemptKind::Cancel);
}

#[test]
fn a_restart_restores_what_was_included_or_takes_it_back() {
    let mut rig = Rig::with(Lane::restore(config(), Some(1), vec![restored(0, &[AttemptKind::Payload], true)]), 0);
    let commands = rig.head(100);
    assert_eq!(commands, [Command::ReportUnincluded { nonce: 0 }, Command::Broadcast { key: key(0, 0) }]);
}

// ---- S3: reads that are wrong ----

#[test]
fn s3_no_sequence_of_bad_reads_makes_a_second_payload() {
    // Every answer that a node may give for 50 heads; the nonce is never consumed by a stranger at finality.
    let mut state = 0x5_1ce_u64;
    for _ in 0..300 {
        let mut rig = Rig::new(0);
        rig.head(100);
        rig.send(plan(100_000));
        rig.taken(key(0, 0));
        for number in 101..151 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let roll = state >> 33;
            let mut commands = match roll % 5 {
                0 => rig.event(Event::AccountNonce { latest: roll % 2, finalized: Some(0) }),
                1 => rig.receipts(0, PollPurpose::Inclusion, None, number - roll % 7),
                2 => rig.event(Event::Receipts {
                    nonce: 0,
                    purpose: PollPurpose::Finality,
                    found: None,
                    is_complete: roll.is_multiple_of(3),
                    at_block: number,
                }),
                3 => rig.event(Event::Canonical { number: number - roll % 7, hash: block_hash(number, roll % 3) }),
                _ => rig.receipts(
                    0,
                    PollPurpose::Inclusion,
                    Some(receipt(key(0, 0), number - roll % 4, roll % 3)),
                    number,
                ),
            };
            commands.extend(rig.head(number));
            for command in commands {
                match command {
                    Command::ReportLost { .. } => panic!("nobody else used the nonce"),
                    Command::ReportFinal { .. } => panic!("no quorum said so"),
                    Command::Sign { key, tx } => {
                        assert_eq!((key.nonce, tx.kind), (0, AttemptKind::Payload), "an error cancels nothing");
                        rig.commit(key);
                        rig.taken(key);
                    }
                    Command::Broadcast { key } => rig.taken(key),
                    _ => {}
                }
            }
        }
        assert!(rig.lane.holds(0));
        assert_eq!(rig.lane.next_nonce(), Some(1));
    }
}

/// The quorum answered a question that was asked before the nonce was used up: it proves nothing.
#[test]
fn s3_a_late_answer_loses_nothing() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(10_000));
    rig.taken(key(0, 0));
    rig.event(Event::AccountNonce { latest: 1, finalized: None });
    // A stale node shows it in a block that is gone; that height is final later, and the quorum is asked.
    rig.receipts(0, PollPurpose::Inclusion, Some(receipt(key(0, 0), 101, 9)), 101);
    let commands = rig.head(106);
    assert!(matches!(commands[..], [Command::Poll { purpose: PollPurpose::Finality, .. }]), "{commands:?}");
    let commands = rig.event(Event::Canonical { number: 101, hash: block_hash(101, 0) });
    assert_eq!(commands[0], Command::ReportUnincluded { nonce: 0 });
    // Meanwhile the payload is mined in 107, and final.
    rig.event(Event::AccountNonce { latest: 1, finalized: Some(1) });
    assert_eq!(rig.receipts(0, PollPurpose::Finality, None, 106), [], "asked at 106, before it was mined");
    rig.head(113);
    rig.event(Event::AccountNonce { latest: 1, finalized: Some(1) });
    let found = receipt(key(0, 0), 107, 0);
    let commands = rig.receipts(0, PollPurpose::Finality, Some(found.clone()), 113);
    assert_eq!(commands, [Command::ReportFinal { nonce: 0, kind: AttemptKind::Payload, receipt: found }]);
}

// ---- S4: counters that drifted ----

#[test]
fn s4_every_slot_of_a_long_region_is_occupied() {
    let slots = (67..700).map(|nonce| restored(nonce, &[AttemptKind::Payload], false)).collect();
    let mut rig = Rig::with(Lane::restore(config(), Some(700), slots), 67);
    let commands = rig.head(100);
    assert_eq!(signs(&commands), [], "nothing is replaced before it had a chance");
    assert_eq!(sends(&commands).len(), 633);
    assert_eq!(rig.lane.next_nonce(), Some(700));
    assert!(matches!(rig.lane.submit(rig.now, plan(10_000)), Err(LaneError::Full { in_flight: 633, .. })));
    for nonce in 67..700 {
        rig.taken(key(nonce, 0));
    }
    // All are mined: one poll and one report each, then room again.
    let polls = rig.event(Event::AccountNonce { latest: 700, finalized: Some(67) });
    assert_eq!(polls.len(), 633);
    for nonce in 67..700 {
        rig.receipts(nonce, PollPurpose::Inclusion, Some(receipt(key(nonce, 0), 101, 0)), 101);
    }
    assert_eq!(rig.head(106).len(), 633);
    for nonce in 67..700 {
        let commands = rig.receipts(nonce, PollPurpose::Finality, Some(receipt(key(nonce, 0), 101, 0)), 106);
        assert!(matches!(commands[..], [Command::ReportFinal { .. }]));
    }
    assert_eq!(rig.send(plan(10_000)), 700);
}

#[test]
fn s4_holes_are_filled_once_they_are_certain() {
    // Ours are 3 and 5; the chain stands at 2; nobody explains 2 and 4.
    let slots = vec![restored(3, &[AttemptKind::Payload], false), restored(5, &[AttemptKind::Payload], false)];
    let mut rig = Rig::with(Lane::restore(config(), Some(6), slots), 2);
    let (mut filled, mut said) = (Vec::new(), Vec::new());
    for number in 100..=104 {
        let commands = rig.head(number);
        filled.extend(signs(&commands));
        said.extend(alerts(&commands));
        for key in sends(&commands) {
            rig.taken(key);
        }
        if filled.is_empty() {
            assert_eq!(rig.lane.ready(), Err(LaneError::NotReconciled), "no new nonce above a hole");
        }
    }
    filled.retain(|key| key.nonce == 2 || key.nonce == 4);
    assert_eq!(filled, [key(2, 0), key(4, 0)], "only empty slots, once each");
    for key in filled {
        assert_eq!(rig.kind(key), AttemptKind::Cancel);
        assert!(sends(&rig.commit(key)).contains(&key));
    }
    assert!(rig.lane.ready() != Err(LaneError::NotReconciled));
    assert_eq!(said, ["nonce_gap"]);
}

#[test]
fn s4_a_lagging_first_answer_fills_nothing() {
    let mut rig = Rig::with(Lane::restore(config(), Some(6), Vec::new()), 4);
    assert_eq!(rig.head(100), []);
    assert_eq!(rig.lane.ready(), Err(LaneError::NotReconciled));
    assert_eq!(rig.event(Event::AccountNonce { latest: 6, finalized: None }), []);
    assert_eq!(rig.head(101), []);
    assert_eq!(rig.send(plan(10_000)), 6);
}

/// What is final used its nonce, whatever a node that fell behind says.
#[test]
fn s4_a_node_that_fell_behind_reopens_nothing_that_is_final() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(10_000));
    rig.taken(key(0, 0));
    rig.event(Event::AccountNonce { latest: 1, finalized: None });
    let found = Some(receipt(key(0, 0), 101, 0));
    rig.receipts(0, PollPurpose::Inclusion, found.clone(), 101);
    rig.head(106);
    assert!(matches!(rig.receipts(0, PollPurpose::Finality, found, 106)[..], [Command::ReportFinal { .. }]));
    for number in 107..130 {
        assert_eq!(rig.event(Event::AccountNonce { latest: 0, finalized: None }), []);
        assert_eq!(rig.head(number), []);
    }
    assert_eq!(rig.send(plan(10_000)), 1);
}

#[test]
fn s4_strangers_push_us_up_and_are_named() {
    let mut rig = Rig::new(3);
    rig.head(100);
    assert_eq!(rig.send(plan(10_000)), 3);
    rig.taken(key(3, 0));
    let commands = rig.event(Event::AccountNonce { latest: 6, finalized: Some(3) });
    assert_eq!(commands[0], Command::Alert(LaneAlert::ForeignNonce { ours: 4, chain: 6 }));
    assert!(matches!(commands[1], Command::Poll { nonce: 3, .. }), "ours may be among them");
    assert_eq!(rig.head(101), []);
    assert_eq!(rig.event(Event::AccountNonce { latest: 6, finalized: Some(3) }), [], "named once");
    assert_eq!(rig.send(plan(10_000)), 6, "the strangers' nonces are never used");
}

/// A node tells a nonce far too high once: the nonces in between never were ours, so they are given back, not filled.
#[test]
fn s4_one_lie_leaves_no_gap() {
    let mut rig = Rig::new(3);
    rig.head(100);
    rig.event(Event::AccountNonce { latest: 1_000_000, finalized: None });
    assert_eq!(rig.lane.next_nonce(), Some(1_000_000));
    let mut signed = Vec::new();
    for number in 101..110 {
        rig.event(Event::AccountNonce { latest: 3, finalized: None });
        signed.extend(signs(&rig.head(number)));
    }
    assert_eq!(signed, []);
    assert_eq!(rig.send(plan(10_000)), 3);
}

/// The lie, and a batch that believed it: a million cancels would be worse than a lane that stops and says so.
#[test]
fn s4_a_gap_without_end_is_not_paid_for() {
    let mut rig = Rig::new(3);
    rig.head(100);
    rig.event(Event::AccountNonce { latest: 1_000_000, finalized: None });
    rig.send(plan(1_000_000));
    rig.taken(key(1_000_000, 0));
    let mut all = Vec::new();
    for number in 101..140 {
        rig.event(Event::AccountNonce { latest: 3, finalized: None });
        let commands = rig.head(number);
        sends(&commands).into_iter().for_each(|key| rig.taken(key));
        for key in signs(&commands) {
            assert_eq!(key.nonce, 1_000_000);
            rig.commit(key);
            rig.taken(key);
        }
        all.extend(alerts(&commands));
    }
    assert_eq!(all, ["nonce_gap", "attempts_exhausted"]);
    assert_eq!(rig.lane.ready(), Err(LaneError::NotReconciled));
    // It was the chain that was behind: everything goes on.
    rig.event(Event::AccountNonce { latest: 1_000_000, finalized: None });
    rig.head(140);
    assert_eq!(rig.lane.ready(), Ok(()));
}

#[test]
fn s4_a_store_that_was_reset_starts_above_the_chain() {
    let mut rig = Rig::new(41);
    assert_eq!(rig.head(100), []);
    assert_eq!(rig.send(plan(10_000)), 41);
}

/// The chain was started afresh under the same ledger.
#[test]
fn s4_a_chain_that_was_reset_is_filled_a_few_at_a_time() {
    let mut rig = Rig::with(Lane::restore(config(), Some(30), Vec::new()), 0);
    let mut account = 0;
    let mut number = 100;
    while rig.lane.ready().is_err() {
        assert!(number < 300, "no end");
        rig.event(Event::AccountNonce { latest: account, finalized: Some(account) });
        let commands = rig.head(number);
        assert!(signs(&commands).len() <= 4, "no more than may be in flight");
        for key in signs(&commands) {
            rig.commit(key);
            rig.taken(key);
            account = account.max(key.nonce + 1);
        }
        for command in rig.event(Event::AccountNonce { latest: account, finalized: Some(account) }) {
            if let Command::Poll { nonce, purpose, .. } = command {
                rig.receipts(nonce, purpose, Some(receipt(key(nonce, 0), number - 6, 0)), number);
            }
        }
        number += 1;
    }
    assert_eq!(account, 30);
    assert_eq!(rig.send(plan(100_000)), 30);
}

// ---- S5: prices ----

#[test]
fn s5_bumps_at_the_boundaries_satisfy_every_client() {
    let gwei = [0, 1, 9, 10, 11, 15, 297, 156, GWEI, GWEI + 1, 1_000_000_007 * GWEI];
    for tip in gwei {
        for base_fee in gwei {
            let mut rig = Rig { lane: lane_without_ceiling(), now: Timestamp::from_secs(200), signed: Vec::new() };
            rig.event(Event::AccountNonce { latest: 0, finalized: None });
            let quote = Fees::new(base_fee * 2 + tip, tip);
            let at = |number| HeadInfo { next_base_fee: base_fee, quote, ..head(number) };
            rig.head_with(at(100));
            let nonce = rig.send(Plan { ceiling_wei_per_gas: u128::MAX, ..plan(100_000) });
            rig.taken(key(nonce, 0));
            for index in 1..4 {
                let mut number = 100 + u64::from(index) * 10;
                let mut signed = Vec::new();
                while signed.is_empty() {
                    number += 1;
                    let commands = rig.head_with(at(number));
                    sends(&commands).into_iter().for_each(|key| rig.taken(key));
                    signed = signs(&commands);
                }
                assert_eq!(signed, [key(0, index)]);
                let (old, new) = (rig.fees(key(0, index - 1)), rig.fees(key(0, index)));
                for client in ClientRule::PRICED {
                    assert!(client.accepts(old, new, base_fee), "{client:?}: {old:?} → {new:?} at {base_fee}");
                }
                rig.commit(key(0, index));
                rig.taken(key(0, index));
            }
        }
    }
}

fn lane_without_ceiling() -> Lane {
    Lane::restore(LaneConfig { max_fee_ceiling_wei_per_gas: u128::MAX, ..config() }, None, Vec::new())
}

#[test]
fn s5_prices_that_can_not_be_outbid_wait() {
    let mut rig = Rig { lane: lane_without_ceiling(), now: Timestamp::from_secs(200), signed: Vec::new() };
    rig.event(Event::AccountNonce { latest: 0, finalized: None });
    let at = |number| HeadInfo { quote: Fees::new(u128::MAX - 5, u128::MAX - 5), ..head(number) };
    rig.head_with(at(100));
    let nonce = rig.send(Plan { ceiling_wei_per_gas: u128::MAX, ..plan(100_000) });
    rig.taken(key(nonce, 0));
    for number in 101..130 {
        let commands = rig.head_with(at(number));
        assert_eq!(signs(&commands), []);
        sends(&commands).into_iter().for_each(|key| rig.taken(key));
    }
}

#[test]
fn s5_a_refused_bump_leaves_the_baseline() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(100_000));
    rig.taken(key(0, 0));
    let number = rig.until_signed(101, 0, SendOutcome::Taken);
    let first = rig.fees(key(0, 1));
    rig.commit(key(0, 1));
    let refused = SendOutcome::Refused(RpcErrorClass::ReplacementUnderpriced);
    rig.sent(key(0, 1), refused);
    // At the same prices the next bump would be the same bytes: they are sent again, nothing is signed.
    for number in number + 1..number + 30 {
        let commands = rig.head(number);
        assert_eq!(signs(&commands), []);
        assert_eq!(sends(&commands), [key(0, 1)]);
        rig.sent(key(0, 1), refused);
    }
    // At a higher base fee the bump starts from what is held, not from what was refused.
    let dearer = HeadInfo { next_base_fee: 20 * GWEI, quote: Fees::new(30 * GWEI, GWEI), ..head(number + 30) };
    assert_eq!(signs(&rig.head_with(dearer)), [key(0, 2)]);
    let expect = ReplacementRule::SAFE_EVERYWHERE.min_replacement(rig.fees(key(0, 0)), 20 * GWEI).unwrap();
    assert_eq!(rig.fees(key(0, 2)), expect.max_of_each(dearer.quote));
    assert!(first != expect);
}

/// A send that timed out may have arrived; that a later send of the same bytes is refused does not take it back.
#[test]
fn s5_a_refusal_does_not_undo_a_doubt() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(100_000));
    rig.sent(key(0, 0), SendOutcome::Maybe(RpcErrorClass::Timeout));
    rig.until_signed(101, 0, SendOutcome::Refused(RpcErrorClass::RateLimited));
    let (old, new) = (rig.fees(key(0, 0)), rig.fees(key(0, 1)));
    for client in ClientRule::PRICED {
        assert!(client.accepts(old, new, 10 * GWEI), "{client:?}: {old:?} → {new:?}");
    }
}

/// A batch may offer something else than the quote, never above its ceiling; replacements follow the quote and the rule.
#[test]
fn an_offer_of_its_own_stays_under_the_ceiling() {
    let mut rig = Rig::new(0);
    rig.head(100);
    let own = Fees::new(17 * GWEI, 2 * GWEI);
    rig.lane.submit_offering(rig.now, plan(100_000), Some(own)).unwrap();
    rig.drain();
    rig.commit(key(0, 0));
    rig.taken(key(0, 0));
    assert_eq!(rig.fees(key(0, 0)), own);
    let capped = Plan { ceiling_wei_per_gas: 15 * GWEI, ..plan(100_000) };
    rig.lane.submit_offering(rig.now, capped, Some(Fees::new(900 * GWEI, 800 * GWEI))).unwrap();
    rig.drain();
    assert_eq!(rig.fees(key(1, 0)), Fees::new(15 * GWEI, 15 * GWEI));
    rig.commit(key(1, 0));
    rig.taken(key(1, 0));
    let low = rig.lane.submit_offering(rig.now, plan(100_000), Some(Fees::new(9 * GWEI, GWEI)));
    assert!(matches!(low, Err(LaneError::AboveCeiling { quote_wei_per_gas, .. }) if quote_wei_per_gas == 10 * GWEI));
    let number = rig.until_signed(101, 0, SendOutcome::Taken);
    let least = config().replacement.min_replacement(own, head(number).next_base_fee).unwrap();
    assert_eq!(rig.fees(key(0, 1)), least.max_of_each(head(number).quote));
}

#[test]
fn s5_under_a_ceiling_below_the_quote() {
    let mut rig = Rig::new(0);
    rig.head(100);
    // The quote is 21 gwei; 15 would do for the next block.
    let nonce = rig.send(Plan { ceiling_wei_per_gas: 15 * GWEI, ..plan(100_000) });
    assert_eq!(rig.fees(key(nonce, 0)), Fees::new(15 * GWEI, GWEI));
    rig.sent(key(0, 0), SendOutcome::Refused(RpcErrorClass::Underpriced));
    for number in 101..120 {
        let commands = rig.head(number);
        assert_eq!(signs(&commands), [], "the same bytes, not new ones");
        sends(&commands).into_iter().for_each(|key| drop(rig.sent(key, SendOutcome::Taken)));
    }
    // Below the next block's fee a nonce is not worth it.
    let refused = rig.lane.submit(rig.now, Plan { ceiling_wei_per_gas: 9 * GWEI, ..plan(100_000) });
    assert!(matches!(refused, Err(LaneError::AboveCeiling { .. })));
    assert_eq!(rig.lane.next_nonce(), Some(1));
}

// ---- S6: reorgs ----

#[test]
fn s6_a_reorg_of_any_depth_below_finality_is_taken_back_and_found_again() {
    for depth in 1..=5 {
        let mut rig = Rig::new(0);
        rig.head(100);
        rig.send(plan(10_000));
        rig.taken(key(0, 0));
        rig.event(Event::AccountNonce { latest: 1, finalized: Some(0) });
        rig.receipts(0, PollPurpose::Inclusion, Some(receipt(key(0, 0), 101, 0)), 101);
        rig.head(100 + depth);
        // Another block at that height.
        let commands = rig.event(Event::Canonical { number: 101, hash: block_hash(101, 1) });
        let poll = |purpose| Command::Poll { nonce: 0, hashes: vec![hash(key(0, 0))], purpose };
        assert_eq!(commands, [Command::ReportUnincluded { nonce: 0 }, poll(PollPurpose::Inclusion)]);
        assert_eq!(rig.event(Event::Canonical { number: 101, hash: block_hash(101, 1) }), [], "said once");
        // It is in the other branch, reverted this time.
        let mut other = receipt(key(0, 0), 102, 1);
        other.is_success = false;
        let commands = rig.receipts(0, PollPurpose::Inclusion, Some(other.clone()), 102);
        let kind = AttemptKind::Payload;
        assert_eq!(commands, [Command::ReportIncluded { nonce: 0, kind, receipt: other }], "a revert is not terminal");
        // And back again.
        let commands = rig.event(Event::Canonical { number: 102, hash: block_hash(102, 2) });
        assert_eq!(commands[0], Command::ReportUnincluded { nonce: 0 });
        // Absent in the third branch: it is pending, and sent again.
        let later = (100 + depth).max(102) + 2;
        assert_eq!(rig.receipts(0, PollPurpose::Inclusion, None, later), []);
        rig.event(Event::AccountNonce { latest: 0, finalized: Some(0) });
        let commands = rig.head(later);
        assert_eq!(sends(&commands), [key(0, 0)]);
        assert!(!commands.contains(&Command::ReportBroadcast { nonce: 0 }), "it was broadcast before");
    }
}

#[test]
fn s6_what_vanished_at_finality_is_pending_again_not_lost() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(10_000));
    rig.taken(key(0, 0));
    rig.event(Event::AccountNonce { latest: 1, finalized: Some(0) });
    rig.receipts(0, PollPurpose::Inclusion, Some(receipt(key(0, 0), 101, 0)), 101);
    rig.head(106);
    // No hash of that height was ever reported; the quorum does not know the transaction.
    assert_eq!(rig.receipts(0, PollPurpose::Finality, None, 106), [Command::ReportUnincluded { nonce: 0 }]);
    assert!(rig.lane.holds(0));
}

// ---- S7: deadlines ----

#[test]
fn s7_the_deadline_passes_while_it_is_committed() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.lane.submit(rig.now, plan(202)).unwrap();
    rig.drain();
    rig.event(Event::Signed { key: key(0, 0), hash: hash(key(0, 0)) });
    rig.now = Timestamp::from_secs(202);
    assert_eq!(rig.event(Event::Persisted { key: key(0, 0) }), [], "I7");
    // The nonce is committed, so it is freed by a cancel.
    assert_eq!(signs(&rig.head(101)), [key(0, 1)]);
    assert_eq!(rig.kind(key(0, 1)), AttemptKind::Cancel);
    assert_eq!(sends(&rig.commit(key(0, 1))), [key(0, 1)]);
}

#[test]
fn s7_the_chain_clock_counts_too() {
    for ahead in [1, 15, 30] {
        let mut rig = Rig::new(0);
        rig.head(100);
        rig.send(plan(300));
        rig.taken(key(0, 0));
        // Our clock is behind the chain's.
        rig.lane
            .handle_event(Timestamp::from_secs(300 - ahead), Event::Head(HeadInfo { timestamp_s: 300, ..head(120) }));
        let commands = rig.drain();
        assert_eq!((sends(&commands), signs(&commands)), (vec![], vec![key(0, 1)]));
        assert_eq!(rig.kind(key(0, 1)), AttemptKind::Cancel);
    }
}

#[test]
fn s7_a_bump_that_was_under_way_is_not_sent_after_the_deadline() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(212));
    rig.taken(key(0, 0));
    rig.until_signed(101, 0, SendOutcome::Taken);
    rig.event(Event::Signed { key: key(0, 1), hash: hash(key(0, 1)) });
    assert_eq!(rig.head(106), [], "second 212: still being committed");
    assert_eq!(rig.event(Event::Persisted { key: key(0, 1) }), []);
    let commands = rig.head(107);
    assert_eq!((sends(&commands), signs(&commands)), (vec![], vec![key(0, 2)]));
    assert_eq!(rig.kind(key(0, 2)), AttemptKind::Cancel);
    for client in ClientRule::PRICED {
        assert!(client.accepts(rig.fees(key(0, 0)), rig.fees(key(0, 2)), 10 * GWEI), "{client:?}");
    }
}

#[test]
fn s7_neither_a_gap_nor_a_top_up_revives_an_expired_payload() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(203));
    rig.taken(key(0, 0));
    rig.send(plan(10_000));
    rig.now = Timestamp::from_secs(203);
    let commands = rig.sent(key(1, 0), SendOutcome::Refused(RpcErrorClass::NonceGap));
    assert_eq!(sends(&commands), [], "the lower one has expired");

    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(203));
    rig.sent(key(0, 0), SendOutcome::Refused(RpcErrorClass::InsufficientFunds));
    rig.now = Timestamp::from_secs(203);
    let commands = rig.event(Event::Balance(U256::MAX));
    assert_eq!((alerts(&commands), sends(&commands)), (vec!["resumed"], vec![]));
}

#[test]
fn s7_a_plan_past_its_deadline_gets_no_nonce() {
    let mut rig = Rig::new(0);
    rig.head(100);
    assert_eq!(rig.lane.submit(rig.now, plan(200)), Err(LaneError::DeadlinePassed));
    assert_eq!(rig.lane.next_nonce(), Some(0));
    assert!(rig.lane.submit(rig.now, plan(201)).is_ok());
}

/// An expired payload at the ceiling can't be outbid. If it could be mined and is not, nobody holds it.
#[test]
fn s7_a_forgotten_payload_at_the_ceiling_does_not_block_the_lane() {
    let mut rig = Rig::new(0);
    let spike = |number| HeadInfo { next_base_fee: 900 * GWEI, quote: Fees::new(990 * GWEI, GWEI), ..head(number) };
    rig.head_with(spike(100));
    rig.send(Plan { ceiling_wei_per_gas: 1_000 * GWEI, ..plan(203) });
    rig.sent(key(0, 0), SendOutcome::Maybe(RpcErrorClass::Timeout));
    let commands = rig.head_with(spike(102));
    assert_eq!((signs(&commands), alerts(&commands)), (vec![], vec!["ceiling_reached"]));
    let number = rig.until_signed(103, 0, SendOutcome::Taken);
    assert!(number >= 100 + 2 * BUMP_AFTER, "not before it had its chance");
    assert_eq!((rig.kind(key(0, 1)), rig.fees(key(0, 1))), (AttemptKind::Cancel, head(number).quote));
}

// ---- S9: money ----

#[test]
fn s9_pause_and_resume_without_burning_a_nonce_or_a_price() {
    let mut rig = Rig::new(0);
    rig.head(100);
    let cost = |price: u128| U256::from(100_000u128 * price + 7);
    let worst = cost(21 * GWEI);
    rig.event(Event::Balance(worst * U256::from(2)));
    rig.send(plan(100_000));
    rig.taken(key(0, 0));
    rig.send(plan(100_000));
    rig.taken(key(1, 0));
    // 50 more are queued.
    for attempt in 0..50 {
        let refused = rig.lane.submit(rig.now, plan(100_000));
        let expect = LaneError::Underfunded { needed_wei: worst, available_wei: U256::ZERO };
        assert_eq!(refused, Err(expect));
        let said = alerts(&rig.drain());
        assert_eq!(said, if attempt == 0 { vec!["underfunded"] } else { vec![] }, "said once");
    }
    assert_eq!(rig.lane.next_nonce(), Some(2), "no nonce was burnt");
    assert!(rig.lane.is_underfunded());
    // The same balance again and again: no flapping, and what is in flight is kept alive.
    let mut bumps = 0;
    for number in 101..120 {
        let mut commands = rig.event(Event::Balance(worst * U256::from(2)));
        commands.extend(rig.head(number));
        assert!(!alerts(&commands).iter().any(|name| ["underfunded", "resumed"].contains(name)));
        bumps += signs(&commands).len();
        for key in signs(&commands) {
            rig.commit(key);
            rig.sent(key, SendOutcome::Taken);
        }
        sends(&commands).into_iter().for_each(|key| drop(rig.sent(key, SendOutcome::Taken)));
    }
    assert!(bumps > 0);
    let commands = rig.event(Event::Balance(worst * U256::from(20)));
    assert_eq!(alerts(&commands), ["resumed"]);
    assert_eq!(rig.send(plan(100_000)), 2);
}

#[test]
fn s9_a_plan_that_is_too_dear_does_not_block_the_lane_for_ever() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.event(Event::Balance(U256::from(10u128.pow(18))));
    let dear = Plan { payload: Payload { value: U256::from(10u128.pow(19)), ..plan(0).payload }, ..plan(220) };
    assert!(matches!(rig.lane.submit(rig.now, dear), Err(LaneError::Underfunded { .. })));
    assert_eq!(alerts(&rig.drain()), ["underfunded"]);
    assert_eq!(rig.head(109), []);
    assert!(rig.lane.ready().is_err());
    assert_eq!(alerts(&rig.head(110)), ["resumed"], "second 220: nobody needs it any more");
    assert_eq!(rig.send(plan(100_000)), 0);
}

#[test]
fn s9_failed_sends_do_not_ratchet() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(100_000));
    rig.sent(key(0, 0), SendOutcome::Refused(RpcErrorClass::InsufficientFunds));
    // A spike for 20 blocks, the lane has no money.
    for number in 101..121 {
        rig.event(Event::Balance(U256::from(5)));
        let spike = HeadInfo { next_base_fee: 1_000 * GWEI, quote: Fees::new(2_000 * GWEI, GWEI), ..head(number) };
        let commands = rig.head_with(spike);
        assert_eq!((signs(&commands), sends(&commands)), (vec![], vec![]));
    }
    assert_eq!(rig.lane.attempts(0), 1);
    let commands = rig.event(Event::Balance(U256::from(10u128.pow(20))));
    assert_eq!((alerts(&commands), sends(&commands)), (vec!["resumed"], vec![key(0, 0)]), "by itself, the same bytes");
}

/// What is left beside everything in flight.
fn available(rig: &mut Rig) -> U256 {
    let dear = Plan { extra_wei: U256::MAX, ..plan(100_000) };
    let Err(LaneError::Underfunded { available_wei, .. }) = rig.lane.submit(rig.now, dear) else {
        panic!("nobody can pay that");
    };
    available_wei
}

/// Where L1 has to be paid, a filler and a cancel must be able to pay it: what they need is not given to others.
#[test]
fn s9_cancels_hold_back_what_l1_costs() {
    let extra = U256::from(10u128.pow(17));
    // Nonce 0 is a hole, 1 is ours.
    let slots = vec![restored(1, &[AttemptKind::Payload], false)];
    let filled = |extra: U256| {
        let mut rig = Rig::with(Lane::restore(config(), Some(2), slots.clone()), 0);
        rig.event(Event::CancelExtra(extra));
        let mut number = 100;
        while rig.lane.attempts(0) == 0 {
            let commands = rig.head(number);
            sends(&commands).into_iter().for_each(|key| rig.sent(key, SendOutcome::Taken).clear());
            number += 1;
        }
        assert_eq!(rig.kind(key(0, 0)), AttemptKind::Cancel);
        rig.commit(key(0, 0));
        rig.taken(key(0, 0));
        rig
    };
    let (mut without, mut with) = (filled(U256::ZERO), filled(extra));
    let (left, less) = (available(&mut without), available(&mut with));
    assert_eq!(left - less, extra, "for the filler, and nothing for the payload");
    // L1 gets cheaper.
    let mut cheaper = filled(extra);
    cheaper.event(Event::CancelExtra(extra / U256::from(2)));
    assert_eq!(left - available(&mut cheaper), extra / U256::from(2));

    // A payload that expired: the cancel is dearer than what it replaces.
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.event(Event::CancelExtra(extra));
    rig.send(plan(203));
    rig.taken(key(0, 0));
    let balance = U256::from(10u128.pow(20));
    let payload = U256::from(100_000 * 21 * GWEI + 7);
    let mut number = 101;
    while rig.lane.attempts(0) == 1 {
        rig.head(number);
        number += 1;
    }
    assert_eq!(rig.kind(key(0, 1)), AttemptKind::Cancel);
    let fees = rig.fees(key(0, 1));
    rig.commit(key(0, 1));
    rig.taken(key(0, 1));
    assert!(extra > payload);
    assert_eq!(balance - available(&mut rig), U256::from(21_000 * fees.max_fee_per_gas) + extra);
}

#[test]
fn s9_above_the_ceiling_it_waits_and_says_so_once() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(100_000));
    rig.taken(key(0, 0));
    let mut said = Vec::new();
    for number in 101..141 {
        let spike = HeadInfo { next_base_fee: 1_000 * GWEI, quote: Fees::new(2_000 * GWEI, GWEI), ..head(number) };
        let commands = rig.head_with(spike);
        assert_eq!(signs(&commands), []);
        said.extend(alerts(&commands));
        sends(&commands).into_iter().for_each(|key| rig.taken(key));
    }
    assert_eq!(said, ["ceiling_reached"]);
    assert_eq!(rig.lane.attempts(0), 1);
}

#[test]
fn permanent_refusals_free_the_nonce() {
    use RpcErrorClass as C;
    for class in [C::GasTooLow, C::GasTooHigh, C::BadTransaction, C::Reverted, C::ConditionNotMet] {
        let mut rig = Rig::new(0);
        rig.head(100);
        rig.send(plan(100_000));
        let commands = rig.sent(key(0, 0), SendOutcome::Refused(class));
        assert_eq!(alerts(&commands), ["refused"], "{class}");
        assert_eq!((signs(&commands), rig.kind(key(0, 1))), (vec![key(0, 1)], AttemptKind::Cancel));
        // If anybody may hold it, the refusal proves nothing.
        let mut rig = Rig::new(0);
        rig.head(100);
        rig.send(plan(100_000));
        rig.sent(key(0, 0), SendOutcome::Maybe(C::Timeout));
        let number = rig.until_signed(101, 0, SendOutcome::Refused(class));
        assert_eq!(rig.kind(key(0, 1)), AttemptKind::Payload, "{class} at {number}");
    }
}

#[test]
fn a_used_nonce_is_looked_up_before_anything_else() {
    for outcome in [SendOutcome::Maybe, SendOutcome::Refused] {
        let mut rig = Rig::new(0);
        rig.head(100);
        rig.send(plan(100_000));
        let commands = rig.sent(key(0, 0), outcome(RpcErrorClass::NonceTooLow));
        let hashes = vec![hash(key(0, 0))];
        assert_eq!(commands, [Command::Poll { nonce: 0, hashes, purpose: PollPurpose::Inclusion }]);
    }
}

#[test]
fn nothing_about_unknown_things_is_believed() {
    let mut rig = Rig::new(0);
    rig.head(100);
    rig.send(plan(100_000));
    rig.taken(key(0, 0));
    let stranger = key(0, 9);
    for event in [
        Event::Signed { key: stranger, hash: hash(stranger) },
        Event::Persisted { key: stranger },
        Event::Abandoned { key: stranger },
        Event::Sent { key: stranger, outcome: SendOutcome::Refused(RpcErrorClass::InsufficientFunds) },
        Event::Sent { key: key(77, 0), outcome: SendOutcome::Taken },
        Event::Receipts {
            nonce: 0,
            purpose: PollPurpose::Inclusion,
            found: Some(receipt(stranger, 100, 0)),
            is_complete: true,
            at_block: 100,
        },
        Event::Receipts { nonce: 77, purpose: PollPurpose::Finality, found: None, is_complete: true, at_block: 100 },
        Event::Canonical { number: 5, hash: B256::ZERO },
    ] {
        assert_eq!(rig.event(event.clone()), [], "{event:?}");
    }
    assert_eq!((rig.lane.attempts(0), rig.lane.is_underfunded()), (1, false));
}
