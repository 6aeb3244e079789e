//! The queue against a model that keeps everything in plain lists, and its guarantees to tenants and deadlines.

mod company;
mod stuck;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use alloy_primitives::{Address, B256, U256, keccak256};
use proptest::prelude::*;
use slackwater_core::{
    Timestamp,
    request::{
        LaneId, RequestId, TargetRecord, VerifiedRequest,
        outcome::MemberOutcome,
        vehicle::{Company, Contracts, VehicleKey},
    },
    schedule::{
        Accused, ComposeLimits, FeeOutlook, Queue, QueuedRequest, RecordRule, Refusals, Selection, Showing, Trigger,
    },
};

const FORWARDER: Address = Address::repeat_byte(0xf0);

/// Slack for which the price is right, and additional slack if all the cost were saved.
struct Within(Duration, Duration);

impl FeeOutlook for Within {
    fn send_within(&self) -> Duration {
        self.0
    }

    fn send_within_saving(&self, saving_permille: u32) -> Duration {
        self.0.saturating_add(self.1 * saving_permille / 1_000)
    }
}

const ANY_PRICE: Within = Within(Duration::MAX, Duration::ZERO);

fn lane(index: u8) -> LaneId {
    LaneId { chain_id: 1, sender: Address::repeat_byte(index) }
}

fn signer(index: u16) -> Address {
    Address::from_word(B256::from(U256::from(0x1_0000 + u64::from(index))))
}

/// Written by hand: making a hundred thousand of them should not take longer than queueing them.
fn stored(id: B256, nonce: u64, deadline: u64, kind: &str) -> Arc<VerifiedRequest> {
    let json = format!(
        r#"{{"id":"{id}","chainId":1,"gas":50000,"nonce":{nonce},"deadline":{deadline},"chainDeadlineS":null,"maxCostWei":null,"kind":{kind}}}"#
    );
    Arc::new(VerifiedRequest::from_stored(json.as_bytes()).unwrap())
}

fn entry(request: Arc<VerifiedRequest>, tenant: &str, seq: u64) -> QueuedRequest {
    QueuedRequest {
        due: request.deadline(),
        is_late: false,
        request,
        tenant: tenant.into(),
        seq,
        accepted_at: Timestamp(0),
        gas: 100_000,
        bytes: 500,
        ceiling_wei_per_gas: 100,
        first_ceiling_wei_per_gas: 100,
        reserved_wei: U256::MAX,
        spent_wei: U256::ZERO,
        price_percent: 100,
        company: Company::Named,
        simulations: 0,
        batch_failures: 0,
        refusals: Refusals::default(),
    }
}

fn forward(from: u16, nonce: u64, deadline: u64, tenant: &str, seq: u64) -> QueuedRequest {
    let (from_address, to) = (signer(from), Address::repeat_byte(0x70));
    let kind = format!(
        r#"{{"forward":{{"forwarder":"{FORWARDER}","from":"{from_address}","to":"{to}","value":"0x0","gas":"0xc350","nonce":"{nonce:#x}","deadline":1000000,"data":"0x","signature":"0x"}}}}"#
    );
    let id = keccak256([&from.to_be_bytes()[..], &nonce.to_be_bytes()].concat());
    entry(stored(id, nonce, deadline, &kind), tenant, seq)
}

fn call(salt: u64, deadline: u64, tenant: &str, any_sender: bool) -> QueuedRequest {
    let to = Address::repeat_byte(0x70);
    let kind = format!(
        r#"{{"call":{{"to":"{to}","value":"0x0","gas":"0xc350","data":"0x","anySender":{any_sender},"salt":"{salt}"}}}}"#
    );
    let id = keccak256([b"call".as_slice(), &salt.to_be_bytes()].concat());
    entry(stored(id, 0, deadline, &kind), tenant, salt)
}

/// A forward to a target that its tenant's policy does not name.
fn unnamed(from: u16, nonce: u64, target: u8, tenant: &str, seq: u64) -> QueuedRequest {
    let (from_address, to) = (signer(from), Address::repeat_byte(target));
    let kind = format!(
        r#"{{"forward":{{"forwarder":"{FORWARDER}","from":"{from_address}","to":"{to}","value":"0x0","gas":"0xc350","nonce":"{nonce:#x}","deadline":1000000,"data":"0x","signature":"0x"}}}}"#
    );
    let id = keccak256([&[target][..], &from.to_be_bytes(), &nonce.to_be_bytes()].concat());
    QueuedRequest { company: Company::Unnamed, ..entry(stored(id, nonce, 100_000, &kind), tenant, seq) }
}

fn with_multicall() -> Queue {
    let mut queue = Queue::new();
    queue.set_contracts(Contracts::all(true));
    queue
}

fn limits() -> ComposeLimits {
    ComposeLimits {
        max_batch: 8,
        max_gas: 10_000_000,
        max_bytes: 100_000,
        base_gas: 50_000,
        setup_wei: 210_000,
        price_wei_per_gas: 10,
        data_wei_per_byte: 0,
        waiting_cost_percent: 0,
        linger: Duration::ZERO,
        urgent: Duration::from_secs(10),
        next_base_fee: 10,
        quote_max_fee: 30,
        slots: 16,
        next_price: 11,
        fee_cap_wei: None,
        available_wei: None,
        block_gas: None,
    }
}

// ---- the model ----

#[derive(Debug, Clone)]
enum Op {
    Push { from: u16, nonce: u64, slack: u64, tenant: u8, gas: u64, ceiling: u128, failures: u32 },
    PushCall { salt: u64, slack: u64, any_sender: bool },
    ChainNonce { from: u16, nonce: u64 },
    Compose { lane: u8, within: u64, saving: u64 },
    Settle { pick: prop::sample::Index, consumed: bool },
    PutBack { pick: prop::sample::Index },
    RemoveWaiting { pick: prop::sample::Index },
    Pass { ms: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let push = (0u16..4, 0u64..12, 0u64..60_000, 0u8..3, 20_000u64..900_000, 5u128..40, 0u32..4).prop_map(
        |(from, nonce, slack, tenant, gas, ceiling, failures)| Op::Push {
            from,
            nonce,
            slack,
            tenant,
            gas,
            ceiling,
            // Mostly no failures.
            failures: failures.saturating_sub(2),
        },
    );
    prop_oneof![
        6 => push,
        2 => (0u64..20, 0u64..60_000, any::<bool>())
            .prop_map(|(salt, slack, any_sender)| Op::PushCall { salt, slack, any_sender }),
        2 => (0u16..4, 0u64..6).prop_map(|(from, nonce)| Op::ChainNonce { from, nonce }),
        5 => (0u8..3, prop_oneof![Just(u64::MAX), 0u64..60_000], 0u64..60_000)
            .prop_map(|(lane, within, saving)| Op::Compose { lane, within, saving }),
        3 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(pick, consumed)| Op::Settle { pick, consumed }),
        2 => any::<prop::sample::Index>().prop_map(|pick| Op::PutBack { pick }),
        1 => any::<prop::sample::Index>().prop_map(|pick| Op::RemoveWaiting { pick }),
        2 => (0u64..5_000).prop_map(|ms| Op::Pass { ms }),
    ]
}

#[derive(Default)]
struct Model {
    waiting: BTreeMap<RequestId, QueuedRequest>,
    /// With the lane that carries each.
    in_flight: BTreeMap<RequestId, (QueuedRequest, LaneId)>,
    chain: BTreeMap<Address, u64>,
    /// Sequence positions that were ever taken: admission refuses a second request for the same nonce.
    nonces: BTreeSet<(u16, u64)>,
}

impl Model {
    fn of<'a>(entries: impl Iterator<Item = &'a QueuedRequest>, from: Address) -> BTreeMap<u64, RequestId> {
        let sequences = entries.filter_map(|entry| Some((entry.request.sequence()?, entry.request.id())));
        sequences.filter(|((_, signer, _), _)| *signer == from).map(|((_, _, nonce), id)| (nonce, id)).collect()
    }

    fn flying(&self, from: Address) -> BTreeMap<u64, RequestId> {
        Self::of(self.in_flight.values().map(|(entry, _)| entry), from)
    }

    /// The queue forgets a signer without waiting requests and requests in flight.
    fn forget(&mut self, entry: &QueuedRequest) {
        if let Some((_, from, _)) = entry.request.sequence()
            && Self::of(self.waiting.values(), from).is_empty()
            && self.flying(from).is_empty()
        {
            self.chain.remove(&from);
        }
    }

    fn check(&self, queue: &Queue, now: Timestamp) {
        let mut gaps = BTreeMap::new();
        let mut unknown = BTreeSet::new();
        for from in 0..4 {
            let from = signer(from);
            let (waiting, flying) = (Self::of(self.waiting.values(), from), self.flying(from));
            if waiting.is_empty() && flying.is_empty() {
                continue;
            }
            let Some(known) = self.chain.get(&from).copied() else {
                unknown.insert((FORWARDER, from));
                continue;
            };
            let missing = (known..).find(|nonce| !waiting.contains_key(nonce) && !flying.contains_key(nonce)).unwrap();
            if waiting.range(missing..).next().is_some() {
                gaps.insert((FORWARDER, from), missing);
            }
        }
        let told: BTreeMap<_, _> = queue.gaps().into_iter().collect();
        for (signer, missing) in &gaps {
            // A gap behind a request in flight is noticed once that has landed.
            assert!(told.get(signer).is_none_or(|told| told == missing), "{told:?}, {gaps:?}");
        }
        assert!(told.keys().all(|signer| gaps.contains_key(signer)), "{told:?}, {gaps:?}");
        assert_eq!(queue.unknown_signers().collect::<BTreeSet<_>>(), unknown);
        assert_eq!((queue.waiting(), queue.in_flight()), (self.waiting.len(), self.in_flight.len()));
        for id in self.waiting.keys() {
            assert!(queue.is_waiting(*id) && queue.get(*id).is_some());
        }
        for id in self.in_flight.keys() {
            assert!(!queue.is_waiting(*id) && queue.get(*id).is_some());
        }
        let expired: BTreeSet<RequestId> = queue.expired(now).into_iter().collect();
        let late = self.waiting.values().filter(|entry| entry.request.deadline() <= now);
        assert_eq!(expired, late.map(|entry| entry.request.id()).collect());
        for entry in self.waiting.values() {
            let Some((forwarder, from, nonce)) = entry.request.sequence() else { continue };
            let waiting = Self::of(self.waiting.values(), from);
            let after: Vec<RequestId> = waiting.range(nonce + 1..).map(|(_, id)| *id).collect();
            assert_eq!(queue.successors(entry.request.id()), after);
            let known = self.chain.get(&from).copied().unwrap_or(0);
            let stale: Vec<RequestId> = waiting.range(..known).map(|(_, id)| *id).collect();
            assert_eq!(queue.stale(forwarder, from), stale);
            let before = self.flying(from).range(..nonce).next().is_some();
            assert_eq!(queue.has_unsettled_before(forwarder, from, nonce), before);
        }
    }

    /// Checks the constraints on any selection, and moves its members to `in_flight`.
    fn take(&mut self, lane: LaneId, now: Timestamp, window: &Within, limits: &ComposeLimits, chosen: &Selection) {
        let Selection { key, members, deadline, ceiling_wei_per_gas, .. } = chosen;
        assert!(!members.is_empty() && members.len() <= limits.max_batch);
        assert_eq!(members.iter().collect::<BTreeSet<_>>().len(), members.len(), "nobody twice");
        let entries: Vec<QueuedRequest> = members.iter().map(|id| self.waiting[id].clone()).collect();
        let gas: u64 = entries.iter().map(|entry| entry.gas).sum();
        let bytes: usize = entries.iter().map(|entry| entry.bytes).sum();
        assert!(members.len() == 1 || (gas + limits.base_gas <= limits.max_gas && bytes <= limits.max_bytes));
        assert_eq!(*deadline, entries.iter().map(|entry| entry.request.deadline()).min().unwrap());
        assert_eq!(*ceiling_wei_per_gas, entries.iter().map(|entry| entry.ceiling_wei_per_gas).min().unwrap());
        assert!(*ceiling_wei_per_gas >= limits.next_base_fee, "it can be included");
        // No member may lower the offer of the first one.
        let first = entries[0].ceiling_wei_per_gas.min(limits.quote_max_fee);
        assert!(*ceiling_wei_per_gas >= first);
        for entry in &entries {
            assert_eq!(VehicleKey::of(&entry.request, Contracts::all(true)), *key);
            let company = [8, 2, 1, 1][entry.batch_failures as usize];
            assert!(members.len() <= company, "{} failures travel with {}", entry.batch_failures, members.len());
        }
        // One member's slack made the selection eligible: a signer's run is pulled by any of its members, so all are
        // checked.
        let earliest = |entry: &QueuedRequest| match entry.request.sequence() {
            Some((_, from, _)) => {
                let run = Self::of(self.waiting.values(), from);
                run.values().map(|id| self.waiting[id].request.deadline()).min().unwrap()
            }
            None => entry.request.deadline(),
        };
        let until = |slack: Duration| now.saturating_add(slack.max(limits.urgent));
        assert!(entries.iter().any(|entry| earliest(entry) <= until(window.0)), "waits for a better price");
        // The others save at most one whole setup by joining.
        for entry in &entries {
            let most = limits.setup_wei * 1_000 / (limits.setup_wei + u128::from(entry.gas) * limits.price_wei_per_gas);
            let slack = window.send_within_saving(u32::try_from(most).unwrap());
            assert!(earliest(entry) <= until(slack), "waits for a better price");
        }
        // Order: ascending, contiguous, directly after the signer's requests in flight, and on the same lane.
        let mut runs: BTreeMap<Address, Vec<u64>> = BTreeMap::new();
        for (_, from, nonce) in entries.iter().filter_map(|entry| entry.request.sequence()) {
            runs.entry(from).or_default().push(nonce);
        }
        for (from, nonces) in runs {
            let flying = self.flying(from);
            let mut next = self.chain[&from];
            while flying.contains_key(&next) {
                next += 1;
            }
            let expect: Vec<u64> = (next..next + nonces.len() as u64).collect();
            assert_eq!(nonces, expect, "signer {from}");
            assert!(flying.values().all(|id| self.in_flight[id].1 == lane), "another lane carries its predecessors");
        }
        for id in members {
            let entry = self.waiting.remove(id).unwrap();
            self.in_flight.insert(*id, (entry, lane));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn the_queue_follows_its_model(
        ops in prop::collection::vec(op(), 1..80),
        linger in 0u64..3_000,
        waiting_cost_percent in prop_oneof![Just(0), 1u32..2_000],
    ) {
        let linger = Duration::from_millis(linger);
        let limits = ComposeLimits { max_gas: 3_000_000, waiting_cost_percent, linger, ..limits() };
        let (mut queue, mut model, mut now) = (with_multicall(), Model::default(), Timestamp(1_000_000));
        for (seq, op) in ops.into_iter().enumerate() {
            match op {
                Op::Push { from, nonce, slack, tenant, gas, ceiling, failures } => {
                    if model.nonces.insert((from, nonce)) {
                        let mut entry = forward(from, nonce, now.0 + slack, &tenant.to_string(), seq as u64);
                        (entry.gas, entry.ceiling_wei_per_gas, entry.batch_failures) = (gas, ceiling, failures);
                        entry.accepted_at = now;
                        queue.push(entry.clone());
                        queue.push(entry.clone());
                        model.waiting.insert(entry.request.id(), entry);
                    }
                }
                Op::PushCall { salt, slack, any_sender } => {
                    if model.nonces.insert((u16::MAX, salt)) {
                        let mut entry = call(salt, now.0 + slack, "c", any_sender);
                        entry.accepted_at = now;
                        queue.push(entry.clone());
                        model.waiting.insert(entry.request.id(), entry);
                    }
                }
                Op::ChainNonce { from, nonce } => {
                    queue.set_chain_nonce(FORWARDER, signer(from), nonce);
                    let is_known = !Model::of(model.waiting.values(), signer(from)).is_empty()
                        || !model.flying(signer(from)).is_empty();
                    if is_known {
                        let known = model.chain.entry(signer(from)).or_default();
                        *known = nonce.max(*known);
                    }
                }
                Op::Compose { lane: index, within, saving } => {
                    let outlook = Within(Duration::from_millis(within), Duration::from_millis(saving));
                    match queue.compose(now, lane(index), &limits, &outlook) {
                        Some(chosen) => model.take(lane(index), now, &outlook, &limits, &chosen),
                        None => {
                            // Before it is due nothing changes by waiting.
                            let due = queue.next_due(now, &limits, &outlook);
                            prop_assert!(due.is_none_or(|due| due > now));
                            let last = due.map_or(now.0 + 100_000, |due| due.0 - 1);
                            for at in [now.0 + (last - now.0) / 2, last] {
                                prop_assert!(queue.compose(Timestamp(at), lane(index), &limits, &outlook).is_none());
                            }
                        }
                    }
                }
                Op::Settle { pick, consumed } => {
                    let ids: Vec<RequestId> = model.in_flight.keys().copied().collect();
                    if !ids.is_empty() {
                        let id = ids[pick.index(ids.len())];
                        let (entry, _) = model.in_flight.remove(&id).unwrap();
                        if consumed && let Some((_, from, nonce)) = entry.request.sequence() {
                            let known = model.chain.entry(from).or_default();
                            *known = (*known).max(nonce + 1);
                        }
                        prop_assert!(queue.remove(id, consumed).is_some());
                        prop_assert!(queue.remove(id, consumed).is_none());
                        model.forget(&entry);
                    }
                }
                Op::PutBack { pick } => {
                    let ids: Vec<RequestId> = model.in_flight.keys().copied().collect();
                    if !ids.is_empty() {
                        let id = ids[pick.index(ids.len())];
                        let (entry, _) = model.in_flight.remove(&id).unwrap();
                        model.waiting.insert(id, entry);
                        queue.put_back(id);
                        queue.put_back(id);
                    }
                }
                Op::RemoveWaiting { pick } => {
                    let ids: Vec<RequestId> = model.waiting.keys().copied().collect();
                    if !ids.is_empty() {
                        let id = ids[pick.index(ids.len())];
                        let entry = model.waiting.remove(&id).unwrap();
                        prop_assert!(queue.remove(id, false).is_some());
                        model.forget(&entry);
                    }
                }
                Op::Pass { ms } => now = Timestamp(now.0 + ms),
            }
            model.check(&queue, now);
        }
        // In the end every executable request is sent, and no other.
        for id in model.in_flight.keys().copied().collect::<Vec<_>>() {
            queue.put_back(id);
            let (entry, _) = model.in_flight.remove(&id).unwrap();
            model.waiting.insert(id, entry);
        }
        for from in 0..4 {
            queue.set_chain_nonce(FORWARDER, signer(from), 0);
            if !Model::of(model.waiting.values(), signer(from)).is_empty() {
                model.chain.entry(signer(from)).or_default();
            }
        }
        let open = ComposeLimits { next_base_fee: 0, quote_max_fee: 0, linger: Duration::ZERO, ..limits };
        while let Some(chosen) = queue.compose(now, lane(0), &open, &ANY_PRICE) {
            model.take(lane(0), now, &ANY_PRICE, &open, &chosen);
            model.check(&queue, now);
        }
        for entry in model.waiting.values() {
            let (_, from, nonce) = entry.request.sequence().expect("calls all leave");
            let (chain, flying) = (model.chain[&from], model.flying(from));
            let is_gap = (chain..nonce).any(|before| !flying.contains_key(&before));
            prop_assert!(nonce < chain || is_gap, "nonce {} of {} stays behind", nonce, from);
        }
    }

    /// Two tenants with weights compete with any mixture of requests: their weighted shares of transactions differ by
    /// at most one.
    #[test]
    fn tenants_share_by_weight(
        a in 1u32..5, b in 1u32..5, gas_a in 20_000u64..200_000, gas_b in 20_000u64..200_000,
        urgent in prop_oneof![Just(0u64), Just(10_000_000)], is_single in any::<bool>(),
    ) {
        let limits = ComposeLimits { urgent: Duration::from_millis(urgent), ..limits() };
        let mut queue = with_multicall();
        queue.set_weight("a", a);
        queue.set_weight("b", b);
        for salt in 0..400 {
            let (tenant, gas) = if salt < 200 { ("a", gas_a) } else { ("b", gas_b) };
            // The first tenant's deadlines come first.
            let deadline = if salt < 200 { 1_000_000 } else { 2_000_000 };
            queue.push(QueuedRequest { gas, ..call(salt, deadline, tenant, salt < 200 || !is_single) });
        }
        let mut served = [0.0_f64; 2];
        for _ in 0..15 {
            let chosen = queue.compose(Timestamp(1), lane(0), &limits, &ANY_PRICE).unwrap();
            let base = limits.base_gas / chosen.members.len() as u64;
            let entries: Vec<_> = chosen.members.iter().map(|id| queue.remove(*id, false).unwrap()).collect();
            let total: u64 = entries.iter().map(|entry| entry.gas + base).sum();
            for entry in entries {
                #[expect(clippy::cast_precision_loss, reason = "a ratio is wanted")]
                let part = (entry.gas + base) as f64 / total as f64;
                served[usize::from(&*entry.tenant == "b")] += part;
            }
            let (share_a, share_b) = (served[0] / f64::from(a), served[1] / f64::from(b));
            prop_assert!((share_a - share_b).abs() <= 1.01, "{:?}", served);
        }
    }

    /// For any requests of tenants, and any order in which transactions land: while others have requests that could be
    /// sent, no tenant has more than its share of a lane's transactions in flight, or one; and nothing waits while
    /// there is room.
    #[test]
    fn nobody_takes_more_than_its_share_of_a_lane(
        weights in prop::collection::vec(1u32..4, 2..5),
        asks in prop::collection::vec((0usize..5, any::<bool>()), 40..160),
        slots in 1usize..10,
        landings in prop::collection::vec(any::<prop::sample::Index>(), 40),
    ) {
        let limits = ComposeLimits { slots, ..limits() };
        let mut queue = with_multicall();
        let name = |index: usize| format!("t{}", index % weights.len());
        for (index, weight) in weights.iter().enumerate() {
            queue.set_weight(&name(index), *weight);
        }
        for (salt, (tenant, any_sender)) in asks.iter().enumerate() {
            queue.push(call(salt as u64, 1_000_000 + salt as u64, &name(*tenant), *any_sender));
        }
        let mut flying: Vec<Vec<(RequestId, Arc<str>)>> = Vec::new();
        for landing in landings {
            while flying.len() < slots {
                let Some(chosen) = queue.compose(Timestamp(1), lane(0), &limits, &ANY_PRICE) else { break };
                let members = chosen.members.iter().map(|id| (*id, queue.get(*id).unwrap().tenant.clone())).collect();
                flying.push(members);
            }
            prop_assert!(flying.len() == slots || queue.waiting() == 0, "room is left, and {} wait", queue.waiting());
            if flying.is_empty() {
                break;
            }
            for (id, _) in flying.remove(landing.index(flying.len())) {
                queue.landed(id);
                queue.remove(id, true);
            }
        }
    }

    /// Each missed promise is reported once, late requests continue until they end, and in the end all requests were
    /// sent or have ended.
    #[test]
    fn what_is_late_goes_on(slacks in prop::collection::vec((1u64..20_000, 0u64..60_000), 1..60), within in 1u64..5_000) {
        let limits = ComposeLimits { max_batch: 4, ..limits() };
        let mut queue = with_multicall();
        let mut left: BTreeMap<RequestId, (u64, u64)> = BTreeMap::new();
        for (salt, (promised, more)) in slacks.into_iter().enumerate() {
            let entry = outliving(call(salt as u64, promised, "t", true), promised + more);
            left.insert(entry.request.id(), (promised, promised + more));
            queue.push(entry);
        }
        let mut told = BTreeSet::new();
        for now in (0..90_000).step_by(500) {
            for id in queue.overdue(Timestamp(now), Duration::from_millis(within)) {
                let (promised, valid) = left[&id];
                prop_assert!(told.insert(id), "told twice");
                prop_assert!(promised <= now && now < valid);
            }
            let expired: BTreeSet<_> = queue.expired(Timestamp(now)).into_iter().collect();
            let over = left.iter().filter(|(_, (_, valid))| *valid <= now).map(|(id, _)| *id);
            prop_assert_eq!(&expired, &over.collect());
            for id in expired {
                queue.remove(id, false);
                left.remove(&id);
            }
            if now % 2_000 == 0 && let Some(chosen) = queue.compose(Timestamp(now), lane(0), &limits, &ANY_PRICE) {
                for id in chosen.members {
                    prop_assert!(left.remove(&id).is_some_and(|(_, valid)| valid > now));
                    queue.remove(id, true);
                }
            }
        }
        prop_assert!(left.is_empty() && queue.waiting() == 0);
    }
}

// ---- by name ----

#[track_caller]
fn compose(queue: &mut Queue, now: u64, limits: &ComposeLimits) -> Selection {
    queue.compose(Timestamp(now), lane(0), limits, &ANY_PRICE).expect("something to send")
}

/// The same request, valid for longer than its promise.
fn outliving(entry: QueuedRequest, until: u64) -> QueuedRequest {
    let stored = String::from_utf8(entry.request.to_stored()).unwrap();
    let (old, new) = (format!("\"validUntil\":{}", entry.request.valid_until().0), format!("\"validUntil\":{until}"));
    assert!(stored.contains(&old), "{stored}");
    let request = VerifiedRequest::from_stored(stored.replace(&old, &new).as_bytes()).unwrap();
    QueuedRequest { request: Arc::new(request), ..entry }
}

fn tenant_of<'a>(queue: &'a Queue, id: &RequestId) -> &'a str {
    &queue.get(*id).unwrap().tenant
}

#[test]
fn urgent_ones_come_first_within_a_tenant() {
    let limits = ComposeLimits { max_batch: 2, ..limits() };
    let mut queue = with_multicall();
    for salt in 0..10 {
        queue.push(call(salt, 1_000_000, "t", true));
    }
    let hurried = call(50, 9_000, "t", true);
    queue.push(hurried.clone());
    let chosen = compose(&mut queue, 2, &limits);
    assert_eq!(chosen.members[0], hurried.request.id());
    assert_eq!((chosen.deadline, chosen.trigger), (Timestamp(9_000), Trigger::Deadline));
    assert_eq!(chosen.members.len(), 1, "if it misses its deadline, it takes nobody with it");
}

#[test]
fn a_flood_of_short_deadlines_leaves_others_their_share() {
    let limits = ComposeLimits { max_batch: 100, max_gas: u64::MAX, urgent: Duration::from_secs(180), ..limits() };
    let mut queue = with_multicall();
    let mut salt = 0;
    for block in 0..20_u64 {
        let now = block * 12_000;
        for _ in 0..300 {
            salt += 1;
            queue.push(call(salt, now + 25_000, "flood", true));
        }
        salt += 1;
        let quiet = call(salt, now + 60_000, "quiet", true);
        queue.push(quiet.clone());
        // Two transactions in each block.
        let mut sent: Vec<RequestId> = compose(&mut queue, now + 1, &limits).members;
        sent.extend(compose(&mut queue, now + 1, &limits).members);
        assert!(sent.contains(&quiet.request.id()), "block {block}");
        sent.into_iter().for_each(|id| drop(queue.remove(id, true)));
    }
}

#[test]
fn one_signer_fills_only_what_the_others_leave() {
    let limits = ComposeLimits { max_batch: 100, max_gas: u64::MAX, max_bytes: usize::MAX, ..limits() };
    let mut queue = with_multicall();
    for nonce in 0..1_000 {
        // The most urgent signer of all.
        queue.push(forward(0, nonce, 50_000, "t", nonce));
    }
    for from in 1..=60 {
        queue.push(forward(from, 0, 60_000, "t", 2_000 + u64::from(from)));
    }
    (0..=60).for_each(|from| queue.set_chain_nonce(FORWARDER, signer(from), 0));
    let chosen = compose(&mut queue, 1, &limits);
    let (greedy, others): (Vec<_>, Vec<_>) = chosen
        .members
        .iter()
        .map(|id| queue.get(*id).unwrap().request.sequence().unwrap())
        .partition(|(_, from, _)| *from == signer(0));
    assert_eq!((greedy.len(), others.len()), (40, 60));
    assert!(greedy.iter().map(|(.., nonce)| *nonce).eq(0..40));
}

#[test]
fn single_transactions_and_full_batches_share_a_lane() {
    let limits = ComposeLimits { slots: 16, ..limits() };
    let mut queue = with_multicall();
    (0..200).for_each(|salt| queue.push(call(salt, 30_000, "singles", false)));
    (200..1_000).for_each(|salt| queue.push(call(salt, 60_000, "batches", true)));
    let mut held = BTreeMap::new();
    let mut first = Vec::new();
    for _ in 0..16 {
        let chosen = compose(&mut queue, 1, &limits);
        *held.entry(tenant_of(&queue, &chosen.members[0]).to_owned()).or_insert(0) += 1;
        first.push(chosen.members);
    }
    assert_eq!(held, BTreeMap::from([("batches".to_owned(), 8), ("singles".to_owned(), 8)]));
    // A tenant that arrives later gets the next places, up to its share.
    (1_000..1_100).for_each(|salt| queue.push(call(salt, 90_000, "late", false)));
    for members in first.into_iter().take(5) {
        members.iter().for_each(|id| queue.landed(*id));
        let chosen = compose(&mut queue, 2, &limits);
        assert_eq!(tenant_of(&queue, &chosen.members[0]), "late");
    }
}

/// A full batch takes half of a block's gas here: as much as four slots of single transactions.
#[test]
fn where_blocks_are_small_their_gas_is_shared() {
    let limits = ComposeLimits { slots: 16, block_gas: Some(1_700_000), ..limits() };
    let mut queue = with_multicall();
    (0..200).for_each(|salt| queue.push(call(salt, 30_000, "singles", false)));
    (200..1_000).for_each(|salt| queue.push(call(salt, 60_000, "batches", true)));
    let mut held = BTreeMap::new();
    for _ in 0..10 {
        let chosen = compose(&mut queue, 1, &limits);
        *held.entry(tenant_of(&queue, &chosen.members[0]).to_owned()).or_insert(0) += 1;
    }
    assert_eq!(held, BTreeMap::from([("batches".to_owned(), 2), ("singles".to_owned(), 8)]));
    // No other tenant wants the remaining slots: they are shared as before, by the amounts served so far.
    for _ in 0..5 {
        let chosen = compose(&mut queue, 1, &limits);
        *held.entry(tenant_of(&queue, &chosen.members[0]).to_owned()).or_insert(0) += 1;
    }
    assert_eq!(held, BTreeMap::from([("batches".to_owned(), 3), ("singles".to_owned(), 12)]));
}

#[test]
fn a_tenant_in_debt_has_one_transaction_in_flight() {
    let mut queue = with_multicall();
    (0..4).for_each(|salt| queue.push(call(salt, 30_000, "debtor", false)));
    queue.push(call(9, 60_000, "honest", false));
    queue.set_debtors(BTreeSet::from(["debtor".into()]));
    let first = compose(&mut queue, 1, &limits()).members;
    assert_eq!(tenant_of(&queue, &first[0]), "debtor");
    let second = compose(&mut queue, 1, &limits()).members;
    assert_eq!(tenant_of(&queue, &second[0]), "honest");
    // No lane carries a second one before the first is in a block.
    for index in 0..2 {
        assert!(queue.compose(Timestamp(1), lane(index), &limits(), &ANY_PRICE).is_none());
    }
    queue.landed(first[0]);
    assert_eq!(compose(&mut queue, 1, &limits()).members.len(), 1);
    queue.set_debtors(BTreeSet::new());
    assert_eq!(compose(&mut queue, 1, &limits()).members.len(), 1);
}

/// A tenant that blocked a lane is served after those who waited, and takes no share from them (I14).
#[test]
fn who_goes_last_goes_where_nobody_else_would() {
    let limits = ComposeLimits { slots: 4, ..limits() };
    let mut queue = with_multicall();
    (0..4).for_each(|salt| queue.push(call(salt, 30_000, "last", false)));
    (4..9).for_each(|salt| queue.push(call(salt, 60_000, "honest", false)));
    queue.go_last("last".into(), Timestamp(0), Timestamp(1_000));
    let mut next = |now| {
        let chosen = queue.compose(Timestamp(now), lane(1), &limits, &ANY_PRICE)?;
        Some(tenant_of(&queue, &chosen.members[0]).to_owned())
    };
    let first: Vec<_> = (1..=6).filter_map(&mut next).collect();
    assert_eq!(first, ["honest", "honest", "honest", "honest", "honest", "last"]);
    assert_eq!(next(1_000).as_deref(), Some("last"));
}

/// Transactions found at a restart count like composed ones: towards a debtor's limit of one, and towards shares.
#[test]
fn a_tenant_in_debt_has_one_transaction_in_flight_after_a_restart() {
    let mut queue = with_multicall();
    let found: Vec<_> = (0..2).map(|salt| call(salt, 30_000, "debtor", true)).collect();
    let ids: Vec<_> = found.iter().map(|entry| entry.request.id()).collect();
    queue.push_in_flight(found, lane(1), 21_000);
    (2..4).for_each(|salt| queue.push(call(salt, 30_000, "debtor", false)));
    queue.set_debtors(BTreeSet::from(["debtor".into()]));
    for index in 0..2 {
        assert!(queue.compose(Timestamp(1), lane(index), &limits(), &ANY_PRICE).is_none());
    }
    queue.landed(ids[0]);
    assert!(queue.compose(Timestamp(1), lane(0), &limits(), &ANY_PRICE).is_none(), "the other one has not landed");
    queue.landed(ids[1]);
    assert_eq!(compose(&mut queue, 1, &limits()).members.len(), 1);
}

#[test]
fn shares_of_a_lane_hold_after_a_restart() {
    let limits = ComposeLimits { slots: 4, ..limits() };
    let mut queue = with_multicall();
    (0..2).for_each(|salt| queue.push_in_flight(vec![call(salt, 30_000, "before", false)], lane(0), 21_000));
    (2..4).for_each(|salt| queue.push(call(salt, 30_000, "before", false)));
    (4..8).for_each(|salt| queue.push(call(salt, 30_000, "after", false)));
    for _ in 0..2 {
        let chosen = compose(&mut queue, 1, &limits);
        assert_eq!(tenant_of(&queue, &chosen.members[0]), "after");
    }
}

/// A block's gas becomes known only some time after a start.
#[test]
fn gas_of_what_a_restart_found_counts_once_a_blocks_is_known() {
    let small = ComposeLimits { slots: 4, block_gas: Some(100_000), ..limits() };
    let mut queue = with_multicall();
    // Half of the gas of all slots together.
    queue.push_in_flight(vec![call(0, 79_000, "before", false)], lane(0), 21_000);
    (2..4).for_each(|salt| queue.push(call(salt, 30_000, "before", false)));
    (4..8).for_each(|salt| queue.push(call(salt, 5_000, "after", false)));
    let chosen = compose(&mut queue, 1, &small);
    assert_eq!(tenant_of(&queue, &chosen.members[0]), "after");
    // It releases all of it.
    queue.landed(call(0, 79_000, "before", false).request.id());
    let mut next = Vec::new();
    for _ in 0..2 {
        let chosen = compose(&mut queue, 1, &small);
        next.push(tenant_of(&queue, &chosen.members[0]).to_owned());
    }
    assert!(next.contains(&"before".to_owned()), "{next:?}");
}

/// A request that a block has passed over no longer occupies the lane: a debtor whose users provoke that need not wait
/// for finality.
#[test]
fn a_debtor_goes_on_when_a_block_has_passed_over_its_transaction() {
    let mut queue = with_multicall();
    (0..2).for_each(|salt| queue.push(call(salt, 30_000, "debtor", false)));
    queue.set_debtors(BTreeSet::from(["debtor".into()]));
    let first = compose(&mut queue, 1, &limits()).members;
    assert!(queue.compose(Timestamp(1), lane(0), &limits(), &ANY_PRICE).is_none());
    queue.passed_over(first[0]);
    assert_eq!(compose(&mut queue, 1, &limits()).members.len(), 1);
    // Its promise must still be kept.
    assert_eq!(queue.overdue(Timestamp(30_000), Duration::from_secs(1)).len(), 2);
}

/// A tenant whose request the lane can't pay for keeps no slots free.
#[test]
fn a_tenant_whose_only_request_is_too_dear_holds_nobody_down() {
    let poor = ComposeLimits { slots: 4, available_wei: Some(U256::from(1_000_000 * 30)), ..limits() };
    let mut queue = with_multicall();
    queue.push(QueuedRequest { gas: 5_000_000, ..call(100, 20_000, "dear", false) });
    (0..6).for_each(|salt| queue.push(call(salt, 30_000, "usual", false)));
    for _ in 0..4 {
        let chosen = compose(&mut queue, 1, &poor);
        assert_eq!(tenant_of(&queue, &chosen.members[0]), "usual");
    }
}

#[test]
fn who_gets_money_back_stands_aside_no_longer() {
    let mut queue = with_multicall();
    let poor = QueuedRequest { ceiling_wei_per_gas: 5, ..call(0, 30_000, "t", false) };
    let id = poor.request.id();
    queue.push(poor);
    assert!(queue.compose(Timestamp(1), lane(0), &limits(), &ANY_PRICE).is_none(), "below the base fee");
    queue.reprice(id, U256::ZERO, 50);
    assert_eq!(compose(&mut queue, 1, &limits()).members, [id]);
}

#[test]
fn a_hundred_small_tenants_all_get_a_turn_on_one_lane() {
    let limits = ComposeLimits { slots: 16, ..limits() };
    let mut queue = with_multicall();
    for salt in 0..1_000 {
        queue.push(call(salt, 30_000, "greedy", false));
    }
    for tenant in 0..100 {
        queue.push(call(5_000 + tenant, 60_000, &format!("small-{tenant}"), false));
    }
    let mut flying = std::collections::VecDeque::new();
    let mut served = 0;
    // The greedy tenant gets one place in a hundred and one.
    for _ in 0..104 {
        if flying.len() == 16 {
            let landed: RequestId = flying.pop_front().unwrap();
            queue.landed(landed);
            queue.remove(landed, true);
        }
        let id = compose(&mut queue, 1, &limits).members[0];
        served += usize::from(tenant_of(&queue, &id).starts_with("small"));
        flying.push_back(id);
    }
    assert_eq!(served, 100);
}

#[test]
fn what_is_in_flight_when_its_validity_ends_is_told_once() {
    let mut queue = with_multicall();
    (0..3).for_each(|salt| queue.push(call(salt, 1_000, "t", true)));
    let flying = queue.compose(Timestamp(1), lane(0), &ComposeLimits { max_batch: 2, ..limits() }, &ANY_PRICE).unwrap();
    queue.landed(flying.members[1]);
    assert_eq!(queue.overdue(Timestamp(999), Duration::from_secs(60)), []);
    // One waits and expires, one may yet be executed, and one is in a block.
    assert_eq!(queue.overdue(Timestamp(1_000), Duration::from_secs(60)), flying.members[..1]);
    assert_eq!(queue.expired(Timestamp(1_000)).len(), 1);
    assert_eq!(queue.overdue(Timestamp(5_000), Duration::from_secs(60)), [], "told once");
    // Its transaction was cancelled: it ends.
    queue.put_back(flying.members[0]);
    assert_eq!(queue.overdue(Timestamp(6_000), Duration::from_secs(60)), []);
    assert_eq!(queue.expired(Timestamp(6_000)).len(), 2);
}

#[test]
fn what_is_held_is_in_no_line_until_it_is_put_back() {
    for held in [call(0, 1_000, "t", true), forward(0, 0, 1_000, "t", 0)] {
        let mut queue = with_multicall();
        let id = held.request.id();
        queue.push(held);
        queue.set_chain_nonce(FORWARDER, signer(0), 0);
        for _ in 0..2 {
            queue.set_aside(id);
            assert!(!queue.is_waiting(id) && queue.expired(Timestamp(1_000)).is_empty());
            assert_eq!((queue.waiting(), queue.in_flight()), (0, 1));
            assert!(queue.compose(Timestamp(1), lane(0), &limits(), &ANY_PRICE).is_none());
        }
        queue.put_back(id);
        assert_eq!((queue.waiting(), queue.expired(Timestamp(1_000))), (1, vec![id]));
        assert_eq!(compose(&mut queue, 1, &limits()).members, [id]);
        queue.put_back(id);
        queue.set_aside(id);
        assert!(queue.remove(id, true).is_some());
        assert_eq!((queue.waiting(), queue.in_flight()), (0, 0));
    }
}

#[test]
fn late_ones_get_one_place_in_eight_and_what_is_left() {
    let limits = ComposeLimits { max_batch: 16, max_gas: u64::MAX, ..limits() };
    let mut queue = with_multicall();
    for salt in 0..10 {
        queue.push(outliving(call(salt, 1_000, "t", true), 1_000_000));
    }
    assert_eq!(queue.overdue(Timestamp(999), Duration::from_secs(60)).len(), 0);
    assert_eq!(queue.overdue(Timestamp(1_000), Duration::from_secs(60)).len(), 10);
    assert_eq!(queue.overdue(Timestamp(500_000), Duration::from_secs(60)).len(), 0, "told once");
    for salt in 100..124 {
        queue.push(call(salt, 600_000, "t", true));
    }
    let late = |queue: &Queue, chosen: &Selection| -> Vec<u64> {
        chosen.members.iter().map(|id| queue.get(*id).unwrap()).filter(|one| one.is_late).map(|one| one.seq).collect()
    };
    let chosen = compose(&mut queue, 500_000, &limits);
    assert_eq!(late(&queue, &chosen), [0, 1], "the oldest");
    let chosen = compose(&mut queue, 500_000, &limits);
    // Ten are left whose promises can be kept.
    assert_eq!(late(&queue, &chosen).len(), 6);
    assert_eq!(chosen.valid_until, Timestamp(600_000));
}

#[test]
fn whoever_waits_behind_a_gap_pulls_nobody() {
    let gate = Within(Duration::from_secs(20), Duration::ZERO);
    let mut queue = with_multicall();
    queue.push(forward(1, 0, 1_000_000, "t", 0));
    queue.push(forward(1, 2, 15_000, "t", 2));
    queue.set_chain_nonce(FORWARDER, signer(1), 0);
    assert!(queue.compose(Timestamp(1), lane(0), &limits(), &gate).is_none());
    assert_eq!(queue.gaps(), [((FORWARDER, signer(1)), 1)]);
    queue.push(forward(1, 1, 1_000_000, "t", 1));
    assert!(queue.gaps().is_empty());
    assert_eq!(queue.compose(Timestamp(1), lane(0), &limits(), &gate).unwrap().members.len(), 3);
}

#[test]
fn whoever_is_priced_out_comes_back_when_the_fee_falls() {
    let mut queue = with_multicall();
    for salt in 0..10 {
        queue.push(QueuedRequest { ceiling_wei_per_gas: 20 + u128::from(salt), ..call(salt, 100_000, "t", true) });
    }
    let at = |fee: u128| ComposeLimits { next_base_fee: fee, quote_max_fee: fee, max_batch: 100, ..limits() };
    assert!(queue.compose(Timestamp(1), lane(0), &at(50), &ANY_PRICE).is_none());
    assert_eq!(compose(&mut queue, 2, &at(25)).members.len(), 5);
    assert!(queue.compose(Timestamp(3), lane(0), &at(25), &ANY_PRICE).is_none());
    assert_eq!(compose(&mut queue, 4, &at(10)).members.len(), 5);
}

#[test]
fn a_later_nonce_with_less_time_pulls_its_predecessors() {
    let limits = limits();
    let gate = Within(Duration::from_secs(20), Duration::ZERO);
    for order in [[0, 1, 2], [2, 1, 0], [0, 2, 1], [1, 0, 2]] {
        let mut queue = with_multicall();
        for nonce in order {
            let deadline = if nonce == 1 { 15_000 } else { 1_000_000 };
            queue.push(forward(1, nonce, deadline, "t", nonce));
            queue.set_chain_nonce(FORWARDER, signer(1), 0);
        }
        let chosen = queue.compose(Timestamp(1), lane(0), &limits, &gate).expect("nonce 1 can't wait for the price");
        assert_eq!(chosen.members.len(), 3, "{order:?}");
    }
}

#[test]
fn who_left_pulls_nobody() {
    let gate = Within(Duration::from_secs(20), Duration::ZERO);
    let mut queue = with_multicall();
    let hurried = forward(1, 1, 15_000, "t", 1);
    queue.push(forward(1, 0, 1_000_000, "t", 0));
    queue.push(hurried.clone());
    queue.set_chain_nonce(FORWARDER, signer(1), 0);
    queue.remove(hurried.request.id(), false);
    assert!(queue.compose(Timestamp(2), lane(0), &limits(), &gate).is_none(), "the first one can wait for the price");
}

#[test]
fn linger_waits_for_company_but_not_for_ever() {
    let limits = ComposeLimits { linger: Duration::from_millis(500), ..limits() };
    let mut queue = with_multicall();
    let at = |at, entry| QueuedRequest { accepted_at: Timestamp(at), ..entry };
    queue.push(at(1_000, forward(1, 0, 100_000, "t", 0)));
    queue.set_chain_nonce(FORWARDER, signer(1), 0);
    let mut trigger = |now| queue.compose(Timestamp(now), lane(0), &limits, &ANY_PRICE).map(|chosen| chosen.trigger);
    assert_eq!((trigger(1_000), trigger(1_499), trigger(1_500)), (None, None, Some(Trigger::Linger)));

    // New, ever more urgent members do not restart the wait.
    let mut queue = with_multicall();
    for nonce in 0..5u64 {
        let now = Timestamp(1_000 + 100 * nonce);
        queue.push(at(now.0, forward(1, nonce, 100_000 - nonce, "t", nonce)));
        queue.set_chain_nonce(FORWARDER, signer(1), 0);
        assert!(queue.compose(now, lane(0), &limits, &ANY_PRICE).is_none());
    }
    assert_eq!(compose(&mut queue, 1_500, &limits).members.len(), 5);

    // A request with little slack waits through a quarter of it.
    let mut queue = with_multicall();
    queue.push(at(1_000, call(1, 1_400, "t", true)));
    assert!(queue.compose(Timestamp(1_099), lane(0), &limits, &ANY_PRICE).is_none());
    assert_eq!(compose(&mut queue, 1_100, &limits).trigger, Trigger::Deadline);
}

#[test]
fn a_successor_follows_on_the_same_lane_only() {
    let limits = ComposeLimits { max_batch: 1, ..limits() };
    let mut queue = with_multicall();
    (0..3).for_each(|nonce| queue.push(forward(1, nonce, 100_000, "t", nonce)));
    queue.set_chain_nonce(FORWARDER, signer(1), 0);
    let first = compose(&mut queue, 1, &limits).members[0];
    assert!(queue.compose(Timestamp(2), lane(1), &limits, &ANY_PRICE).is_none());
    assert_eq!(compose(&mut queue, 3, &limits).members, [forward(1, 1, 0, "t", 0).request.id()]);
    // Settled: the lane still carries nonce 1. Then all are settled: any lane will do.
    queue.remove(first, true);
    assert!(queue.compose(Timestamp(4), lane(1), &limits, &ANY_PRICE).is_none());
    queue.remove(forward(1, 1, 0, "t", 0).request.id(), true);
    assert!(queue.compose(Timestamp(6), lane(1), &limits, &ANY_PRICE).is_some());
}

#[test]
fn a_user_is_free_to_take_another_lane_once_the_last_request_is_in_a_block() {
    let limits = ComposeLimits { max_batch: 1, ..limits() };
    let mut queue = with_multicall();
    (0..3).for_each(|nonce| queue.push(forward(1, nonce, 100_000, "t", nonce)));
    queue.set_chain_nonce(FORWARDER, signer(1), 0);
    let first = compose(&mut queue, 1, &limits).members[0];
    queue.note_in_block(first, true);
    let second =
        queue.compose(Timestamp(2), lane(1), &limits, &ANY_PRICE).expect("the first lane may be paused").members;
    assert!(queue.compose(Timestamp(3), lane(0), &limits, &ANY_PRICE).is_none(), "now the second lane carries one");
    // A reorg removes the block, and then the transaction is included again.
    queue.note_in_block(second[0], true);
    queue.note_in_block(first, false);
    assert!(queue.compose(Timestamp(4), lane(0), &limits, &ANY_PRICE).is_none());
    queue.note_in_block(first, true);
    assert!(queue.compose(Timestamp(5), lane(0), &limits, &ANY_PRICE).is_some());
}

#[test]
fn a_large_request_does_not_make_a_nearly_empty_batch_full() {
    let limits = ComposeLimits { linger: Duration::from_secs(5), ..limits() };
    let mut queue = with_multicall();
    let gas = |salt, gas| QueuedRequest { gas, accepted_at: Timestamp(1), ..call(salt, 100_000, "t", true) };
    queue.push(gas(0, 100_000));
    queue.push(gas(1, 9_900_000));
    queue.push(gas(2, 100_000));
    assert!(queue.compose(Timestamp(2), lane(0), &limits, &ANY_PRICE).is_none(), "company is waited for");
    assert_eq!(compose(&mut queue, 5_002, &limits).members.len(), 2, "the small ones, and the large one next");
    assert_eq!(compose(&mut queue, 5_003, &limits).members.len(), 1);
    // Three quarters are nearly full.
    queue.push(gas(3, 8_000_000));
    queue.push(gas(4, 9_900_000));
    assert_eq!(compose(&mut queue, 2, &limits).trigger, Trigger::Full);
}

#[test]
fn deadlines_far_apart_share_no_transaction_unless_the_nearer_one_is_safe() {
    let limits = limits();
    for (near, far, together) in
        [(9_000, 60_000, false), (9_000, 17_000, true), (11_000, 600_000, true), (4_000, 9_000, false)]
    {
        let mut queue = with_multicall();
        queue.push(call(1, 1 + near, "t", true));
        (2..6).for_each(|salt| queue.push(call(salt, 1 + far, "t", true)));
        let first = compose(&mut queue, 1, &limits).members.len();
        assert_eq!(first, if together { 5 } else { 1 }, "{near} and {far} ms");
    }
}

#[test]
fn a_batch_stays_under_the_nodes_fee_cap_with_room_for_bumps() {
    let mut queue = with_multicall();
    let gas =
        |salt, gas, ceiling_wei_per_gas| QueuedRequest { gas, ceiling_wei_per_gas, ..call(salt, 100_000, "t", true) };
    (0..8).for_each(|salt| queue.push(gas(salt, 100_000, 1_000)));
    // 30 wei are offered, 36 after two bumps: three members at 350 000 gas.
    let limits = ComposeLimits { fee_cap_wei: Some(350_000 * 36), ..limits() };
    assert_eq!(compose(&mut queue, 1, &limits).members.len(), 3);
    // No bump goes above a ceiling.
    let mut queue = with_multicall();
    (0..8).for_each(|salt| queue.push(gas(salt, 100_000, 30)));
    assert_eq!(compose(&mut queue, 1, &limits).members.len(), 3);
    let wide = ComposeLimits { fee_cap_wei: Some(450_000 * 30), ..limits };
    assert_eq!(compose(&mut queue, 1, &wide).members.len(), 4);
    // Alone it need only get into the next block; a request that can't even do that waits.
    let mut queue = with_multicall();
    queue.push(gas(0, 1_000_000, 1_000));
    assert!(
        queue
            .compose(Timestamp(1), lane(0), &ComposeLimits { fee_cap_wei: Some(1_050_000 * 10), ..limits }, &ANY_PRICE)
            .is_none()
    );
    let low = ComposeLimits { fee_cap_wei: Some(1_050_000 * 11), ..limits };
    assert_eq!(compose(&mut queue, 1, &low).members.len(), 1);
}

#[test]
fn what_the_lane_can_not_pay_waits_and_the_others_go() {
    let mut queue = with_multicall();
    let gas = |salt, gas| QueuedRequest { gas, ..call(salt, 100_000, "t", true) };
    queue.push(gas(0, 5_000_000));
    (1..7).for_each(|salt| queue.push(gas(salt, 100_000)));
    // Four of the small ones at 30 wei.
    let poor = ComposeLimits { available_wei: Some(U256::from(450_000 * 30)), ..limits() };
    assert_eq!(compose(&mut queue, 1, &poor).members.len(), 4);
    assert_eq!(compose(&mut queue, 1, &poor).members.len(), 2);
    assert!(queue.compose(Timestamp(1), lane(0), &poor, &ANY_PRICE).is_none());
    let short = queue.short().expect("one is left");
    assert_eq!((short.needed_wei, short.until), (U256::from(5_050_000 * 30), Timestamp(100_000)));
    assert_eq!(compose(&mut queue, 1, &limits()).members.len(), 1);
    assert_eq!(queue.short(), None);
}

#[test]
fn a_call_that_travels_alone_needs_no_gas_for_company() {
    let mut queue = with_multicall();
    queue.push(call(0, 100_000, "t", false));
    // 100 000 of its own after 20 000 of an empty transaction, at 30 wei.
    let poor = ComposeLimits { available_wei: Some(U256::from(120_000 * 30 - 1)), ..limits() };
    assert!(queue.compose(Timestamp(1), lane(0), &poor, &ANY_PRICE).is_none());
    assert_eq!(queue.short().expect("it waits").needed_wei, U256::from(120_000 * 30));
    let enough = ComposeLimits { available_wei: Some(U256::from(120_000 * 30)), ..limits() };
    assert_eq!(compose(&mut queue, 1, &enough).members.len(), 1);
}

#[test]
fn who_was_refused_travels_in_half_the_company() {
    let mut queue = with_multicall();
    let refusals = Refusals { company: Some(3), alone: 0 };
    (0..8).for_each(|salt| queue.push(QueuedRequest { refusals, ..call(salt, 100_000, "t", true) }));
    assert_eq!(compose(&mut queue, 1, &limits()).members.len(), 3);
}

#[test]
fn a_restart_finds_the_lane_of_those_in_flight() {
    let mut queue = with_multicall();
    queue.push_in_flight(vec![forward(1, 4, 100_000, "t", 0)], lane(1), 21_000);
    queue.push(forward(1, 5, 100_000, "t", 1));
    assert_eq!((queue.waiting(), queue.in_flight()), (1, 1));
    assert_eq!(queue.unknown_signers().collect::<Vec<_>>(), [(FORWARDER, signer(1))]);
    assert!(queue.compose(Timestamp(1), lane(1), &limits(), &ANY_PRICE).is_none(), "the nonce is unknown");
    queue.set_chain_nonce(FORWARDER, signer(1), 4);
    assert!(queue.compose(Timestamp(2), lane(0), &limits(), &ANY_PRICE).is_none());
    let chosen = queue.compose(Timestamp(2), lane(1), &limits(), &ANY_PRICE).unwrap();
    assert_eq!(chosen.members, [forward(1, 5, 0, "t", 0).request.id()]);
}

/// A request of a user of a forwarder whose next nonce is unknown.
fn at_forwarder(forwarder: u8, from: u16) -> QueuedRequest {
    let (forwarder, from_address) = (Address::repeat_byte(forwarder), signer(from));
    let kind = format!(
        r#"{{"forward":{{"forwarder":"{forwarder}","from":"{from_address}","to":"{forwarder}","value":"0x0","gas":"0xc350","nonce":"0x0","deadline":1000000,"data":"0x","signature":"0x"}}}}"#
    );
    entry(stored(keccak256([forwarder.as_slice(), &from.to_be_bytes()].concat()), 0, 900_000, &kind), "t", 0)
}

#[test]
fn a_forwarder_that_answers_nothing_keeps_no_user_of_another_from_being_looked_up() {
    let mut queue = with_multicall();
    (0..300).for_each(|from| queue.push(at_forwarder(0x01, from)));
    (0..3).for_each(|from| queue.push(at_forwarder(0xee, from)));
    let is_broken = |signer: &(Address, Address)| signer.0 == Address::repeat_byte(0x01);
    let (mut lookups, mut broken_asked, mut answered_at) = (0, Vec::new(), None);
    for now in (0..600_000).step_by(25).map(Timestamp) {
        let asked = queue.next_unknown(now, 200);
        lookups += u32::from(!asked.is_empty());
        assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), asked.len(), "nobody twice");
        if asked.iter().any(is_broken) {
            broken_asked.push(now.0);
        }
        for (forwarder, signer) in asked.iter().filter(|signer| !is_broken(signer)) {
            queue.set_chain_nonce(*forwarder, *signer, 0);
            answered_at.get_or_insert(now);
        }
        queue.note_lookup(now, &asked);
    }
    assert_eq!(answered_at, Some(Timestamp(25)), "at the next tick");
    assert_eq!(queue.unknown_signers().count(), 300);
    // 250 ms, 500 ms, … then once a minute.
    assert_eq!(broken_asked[..5], [0, 250, 750, 1_750, 3_750]);
    assert!(lookups < 20, "{lookups}");
    // The node answers again: all signers are looked up, in turn.
    let now = Timestamp(700_000);
    let first = queue.next_unknown(now, 200);
    for (forwarder, signer) in &first {
        queue.set_chain_nonce(*forwarder, *signer, 0);
    }
    queue.note_lookup(now, &first);
    assert_eq!((first.len(), queue.next_unknown(now, 200).len()), (200, 100));
}

#[test]
fn unknown_users_are_looked_up_in_turn() {
    let mut queue = with_multicall();
    (0..5).for_each(|from| queue.push(at_forwarder(0x01, from)));
    let asked: Vec<usize> = (0..5)
        .flat_map(|now| queue.next_unknown(Timestamp(now), 2))
        .map(|(_, user)| (0..5).position(|from| signer(from) == user).unwrap())
        .collect();
    assert_eq!(asked, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
}

#[test]
fn failures_travel_in_ever_smaller_company() {
    let limits = ComposeLimits { max_batch: 32, ..limits() };
    for (failures, most) in [(0, 32), (1, 8), (2, 2), (3, 1), (6, 1)] {
        let mut queue = with_multicall();
        for salt in 0..64 {
            queue.push(QueuedRequest { batch_failures: failures, ..call(salt, 100_000, "t", true) });
        }
        assert_eq!(compose(&mut queue, 1, &limits).members.len(), most);
    }
}

#[test]
fn a_low_ceiling_does_not_hold_others_down() {
    let mut queue = with_multicall();
    let with = |salt, ceiling| QueuedRequest { ceiling_wei_per_gas: ceiling, ..call(salt, 100_000 + salt, "t", true) };
    for (salt, ceiling) in [(0, 100), (1, 12), (2, 40), (3, 9), (4, 30)] {
        queue.push(with(salt, ceiling));
    }
    let chosen = compose(&mut queue, 1, &limits());
    assert_eq!((chosen.members.len(), chosen.ceiling_wei_per_gas), (3, 30));
    let chosen = compose(&mut queue, 2, &limits());
    assert_eq!((chosen.members.len(), chosen.ceiling_wei_per_gas), (1, 12));
    assert!(queue.compose(Timestamp(3), lane(0), &limits(), &ANY_PRICE).is_none(), "9 is below the next base fee");
    assert_eq!(queue.waiting(), 1);
}

#[test]
fn singles_travel_alone() {
    let mut queue = with_multicall();
    (0..3).for_each(|salt| queue.push(call(salt, 100_000 + salt, "t", false)));
    for salt in 0..3 {
        let id = call(salt, 0, "t", false).request.id();
        let chosen = compose(&mut queue, 1, &limits());
        assert_eq!((chosen.key, chosen.members), (VehicleKey::Single(id), vec![id]));
    }
}

#[test]
fn calls_go_alone_where_nobody_has_seen_the_code_that_would_join_them() {
    let mut queue = Queue::new();
    (0..3).for_each(|salt| queue.push(call(salt, 100_000 + salt, "t", true)));
    for salt in 0..3 {
        let id = call(salt, 0, "t", true).request.id();
        let chosen = compose(&mut queue, 1, &limits());
        assert_eq!((chosen.key, chosen.members), (VehicleKey::Single(id), vec![id]));
    }
}

#[test]
fn a_lane_makes_the_calls_of_its_own_tenants_only() {
    let name = |tenant: &str| -> Arc<str> { tenant.into() };
    for any_sender in [false, true] {
        let mut queue = with_multicall();
        // Lane 0 is the shop's, lane 1 is unassigned.
        queue.bind_calls([(lane(0).sender, [name("shop")].into())].into());
        queue.push(call(0, 100_000, "bank", any_sender));
        queue.push(call(1, 200_000, "shop", any_sender));
        queue.push(forward(1, 0, 300_000, "bank", 2));
        queue.set_chain_nonce(FORWARDER, signer(1), 0);
        let mut sent = |of: u8| {
            let mut members = Vec::new();
            while let Some(chosen) = queue.compose(Timestamp(1), lane(of), &limits(), &ANY_PRICE) {
                members.extend(chosen.members);
            }
            members
        };
        let id = |entry: QueuedRequest| entry.request.id();
        let forward = id(forward(1, 0, 0, "bank", 2));
        assert_eq!(sent(1), [forward], "any lane sends forward requests, and no calls of others");
        assert_eq!(sent(0), [id(call(1, 0, "shop", any_sender))], "the bank's call is not made as the shop's account");
        assert_eq!(queue.waiting(), 1);
    }
}

#[test]
fn the_last_nonces_do_not_overflow() {
    let mut queue = with_multicall();
    let last = u64::MAX;
    for nonce in [last - 1, last] {
        queue.push(forward(1, nonce, 100_000, "t", nonce));
    }
    queue.set_chain_nonce(FORWARDER, signer(1), last - 1);
    let chosen = compose(&mut queue, 1, &limits());
    assert_eq!(chosen.members.len(), 2);
    queue.set_chain_nonce(FORWARDER, signer(1), last);
    chosen.members.into_iter().for_each(|id| drop(queue.remove(id, true)));
    assert_eq!((queue.waiting(), queue.in_flight()), (0, 0));
}

/// 100 000 requests: a quadratic walk over them would not end.
fn many(signers: u16, each: u64) {
    let limits = ComposeLimits { max_batch: 200, max_gas: u64::MAX, max_bytes: usize::MAX, ..limits() };
    let mut queue = with_multicall();
    for nonce in 0..each {
        for from in 0..signers {
            // The urgent ones come last, so every push changes the run's deadline.
            queue.push(forward(from, nonce, 100_000_000 - nonce, "t", nonce));
        }
    }
    for from in 0..signers {
        queue.set_chain_nonce(FORWARDER, signer(from), 0);
    }
    let total = each * u64::from(signers);
    assert_eq!(queue.waiting() as u64, total);
    let (mut batches, mut next) = (0, BTreeMap::new());
    while let Some(chosen) = queue.compose(Timestamp(1), lane(0), &limits, &ANY_PRICE) {
        batches += 1;
        for id in chosen.members {
            let (_, from, nonce) = queue.remove(id, true).unwrap().request.sequence().unwrap();
            let expected = next.entry(from).or_insert(0);
            assert_eq!(nonce, *expected);
            *expected += 1;
        }
    }
    assert_eq!((queue.waiting(), batches), (0, total.div_ceil(200)), "full batches");
}

#[test]
fn one_signer_with_100_000_requests() {
    many(1, 100_000);
}

#[test]
fn five_hundred_signers_with_100_000_requests() {
    many(500, 200);
}

/// Transactions that `queue` sends, each as (tenant, number of members).
fn sent(queue: &mut Queue) -> Vec<(String, usize)> {
    let mut batches = Vec::new();
    while let Some(selection) = queue.compose(Timestamp(99_999), lane(0), &limits(), &ANY_PRICE) {
        let tenants: BTreeSet<String> =
            selection.members.iter().map(|id| queue.get(*id).unwrap().tenant.to_string()).collect();
        assert_eq!(tenants.len(), 1, "one tenant pays for a transaction");
        batches.push((tenants.into_iter().next().unwrap(), selection.members.len()));
        for id in selection.members {
            queue.remove(id, true);
        }
    }
    batches
}

#[test]
fn tenants_never_share_a_transaction() {
    let mut queue = with_multicall();
    for i in 0..6 {
        queue.push(forward(i, 0, 100_000, if i % 2 == 0 { "a" } else { "b" }, u64::from(i)));
        queue.set_chain_nonce(FORWARDER, signer(i), 0);
    }
    let batches = sent(&mut queue);
    assert_eq!(batches, [("a".to_owned(), 3), ("b".to_owned(), 3)]);
}

/// A target that no policy names shares transactions among one signer's requests only; each clean transaction allows
/// one more signer.
#[test]
fn an_unnamed_target_earns_its_company() {
    let mut queue = with_multicall();
    let mut seq = 0;
    let mut fill = |queue: &mut Queue, round: u64| {
        for i in 0..6 {
            queue.push(unnamed(i, round, 0x66, "a", seq));
            seq += 1;
            queue.set_chain_nonce(FORWARDER, signer(i), round);
        }
    };
    fill(&mut queue, 0);
    let first = queue.compose(Timestamp(99_999), lane(0), &limits(), &ANY_PRICE).unwrap();
    assert_eq!(first.members.len(), 1);
    let target = Address::repeat_byte(0x66);
    let clean = queue.showing(&first.members, &[MemberOutcome::Executed], true);
    assert_eq!(clean, Showing { clean: vec![target], accused: None });
    queue.ran(&clean.clean, Timestamp(1));
    let second = queue.compose(Timestamp(99_999), lane(0), &limits(), &ANY_PRICE).unwrap();
    assert_eq!(second.members.len(), 2, "one clean transaction, one signer more");
    // A skip adds nothing, a reorg takes one back, a failed transaction resets.
    let skipped = queue.showing(&second.members, &[MemberOutcome::Executed, MemberOutcome::Untouched], true);
    assert!(skipped.clean.is_empty());
    queue.unran(&[target]);
    let third = queue.compose(Timestamp(99_999), lane(0), &limits(), &ANY_PRICE).unwrap();
    assert_eq!(third.members.len(), 1);
    queue.ran(&[target], Timestamp(1));
    let failed = queue.showing(&third.members, &[MemberOutcome::Untouched], false).accused.unwrap();
    assert_eq!(failed, Accused { target, is_named: false, has_failed: true });
    assert_eq!(queue.surprised(failed, B256::ZERO, Timestamp(1)), None, "nobody is suspect who has no name");
    let fourth = queue.compose(Timestamp(99_999), lane(0), &limits(), &ANY_PRICE).unwrap();
    assert_eq!(fourth.members.len(), 1);
}

/// Makes a named target suspect because of `transaction`; returns the end of the suspicion.
fn suspect(queue: &mut Queue, target: u8, transaction: u8, at: Timestamp) -> Timestamp {
    let accused = Accused { target: Address::repeat_byte(target), is_named: true, has_failed: false };
    queue.surprised(accused, B256::repeat_byte(transaction), at).unwrap()
}

/// Pushes a forward to a suspect and one to a good target for each of `signers` signers.
fn beside_a_suspect(queue: &mut Queue, signers: u16, round: u64) {
    for i in 0..signers {
        let bad = QueuedRequest { company: Company::Named, ..unnamed(i, 2 * round, 0x66, "a", u64::from(2 * i)) };
        let good =
            QueuedRequest { company: Company::Named, ..unnamed(i, 2 * round + 1, 0x67, "a", u64::from(2 * i) + 1) };
        queue.push(bad);
        queue.push(good);
        queue.set_chain_nonce(FORWARDER, signer(i), 2 * round);
    }
}

/// While suspect, requests to a target that a policy names share with requests of the same signer only.
#[test]
fn a_suspect_shares_with_its_own_signer_only() {
    let mut queue = with_multicall();
    let until = suspect(&mut queue, 0x66, 1, Timestamp(0));
    assert_eq!(until, Timestamp(24 * 3_600_000 / 64));
    beside_a_suspect(&mut queue, 4, 0);
    for _ in 0..4 {
        let selection = queue.compose(Timestamp(99_999), lane(0), &limits(), &ANY_PRICE).unwrap();
        let signers: BTreeSet<_> =
            selection.members.iter().map(|id| queue.get(*id).unwrap().request.sequence().unwrap().1).collect();
        assert_eq!((signers.len(), selection.members.len()), (1, 2), "both of one signer");
        assert_eq!(selection.trigger, Trigger::Full, "there is no company to wait for");
    }
    assert_eq!(queue.waiting(), 0);
    // Clean runs elsewhere don't help a suspect: another tenant may not name it.
    queue.ran(&[Address::repeat_byte(0x66); 8], Timestamp(0));
    for i in 0..3 {
        queue.push(unnamed(10 + i, 0, 0x66, "b", 100 + u64::from(i)));
        queue.set_chain_nonce(FORWARDER, signer(10 + i), 0);
    }
    let sizes: Vec<usize> = sent(&mut queue).into_iter().map(|(_, size)| size).collect();
    assert_eq!(sizes, [1; 3]);
}

#[test]
fn a_suspicion_ends_and_the_next_is_longer() {
    let mut queue = with_multicall();
    let first = suspect(&mut queue, 0x66, 1, Timestamp(0));
    assert!(queue.is_suspect(Address::repeat_byte(0x66), Timestamp(first.0 - 1)));
    assert!(!queue.is_suspect(Address::repeat_byte(0x66), first));
    let second = suspect(&mut queue, 0x66, 2, first);
    assert_eq!(second.0 - first.0, 2 * first.0);
    // Short enough that the requests are valid when it ends.
    let rule = RecordRule::default().with(|it| it.suspect = Duration::from_millis(64_000));
    queue.recall_targets(rule, Vec::new());
    let until = suspect(&mut queue, 0x66, 1, Timestamp(0));
    assert_eq!(until, Timestamp(1_000));
    beside_a_suspect(&mut queue, 4, 0);
    let selection =
        queue.compose(until, lane(0), &ComposeLimits { urgent: Duration::from_secs(1_000), ..limits() }, &ANY_PRICE);
    assert_eq!(selection.map(|selection| selection.members.len()), Some(8), "as ever");
}

/// Records read back after a restart count; those that a reorg removed do not.
#[test]
fn what_targets_showed_is_kept() {
    let mut queue = with_multicall();
    suspect(&mut queue, 0x66, 1, Timestamp(5));
    queue.ran(&[Address::repeat_byte(0x67); 2], Timestamp(6));
    queue.ran_for_good(&[Address::repeat_byte(0x67)], Timestamp(7));
    let kept = queue.take_target_changes();
    assert_eq!(kept.len(), 2);
    assert!(queue.take_target_changes().is_empty(), "once");
    let mut again = with_multicall();
    again.recall_targets(RecordRule::default(), kept);
    assert!(again.is_suspect(Address::repeat_byte(0x66), Timestamp(5)));
    assert_eq!(again.further_signers(Address::repeat_byte(0x67)), 1, "the second was not final");
    again.unsurprised(Address::repeat_byte(0x66), B256::repeat_byte(1));
    assert!(!again.is_suspect(Address::repeat_byte(0x66), Timestamp(5)));
    assert!(again.take_target_changes().iter().all(TargetRecord::is_empty));
}

/// The culprit of a surprise is known only if it had the transaction for itself.
#[test]
fn only_alone_a_target_is_accused() {
    use MemberOutcome::{Executed, Failed, Untouched};
    let mut queue = with_multicall();
    let named = |i, target| QueuedRequest { company: Company::Named, ..unnamed(i, 0, target, "a", u64::from(i)) };
    let entries =
        [named(0, 0x66), named(1, 0x66), named(2, 0x67), unnamed(3, 0, 0x68, "a", 3), unnamed(4, 0, 0x68, "a", 4)];
    let ids: Vec<_> = entries.iter().map(|entry| entry.request.id()).collect();
    entries.into_iter().for_each(|entry| queue.push(entry));
    let accused = |members: &[usize], outcomes: &[MemberOutcome], is_success| {
        let members: Vec<_> = members.iter().map(|place| ids[*place]).collect();
        queue.showing(&members, outcomes, is_success).accused.map(|accused| (accused.target[0], accused.is_named))
    };
    assert_eq!(accused(&[0], &[Untouched], true), Some((0x66, true)));
    assert_eq!(accused(&[0], &[Untouched], false), Some((0x66, true)));
    assert_eq!(accused(&[0], &[Failed], true), None, "a revert is no surprise");
    assert_eq!(accused(&[0], &[Failed], false), None, "nor is that of a call in its own transaction");
    assert_eq!(accused(&[0, 2], &[Untouched, Executed], true), None, "the other may have taken the gas");
    assert_eq!(accused(&[0, 1], &[Untouched; 2], false), None, "they go on in smaller company");
    assert_eq!(accused(&[3, 4], &[Untouched; 2], false), Some((0x68, false)));
    assert_eq!(accused(&[3, 4], &[Executed, Untouched], true), Some((0x68, false)));
    assert_eq!(accused(&[0, 3], &[Untouched; 2], false), None);
}

/// Requests to other targets never share with those to an unnamed target, unless they have the same signer.
#[test]
fn an_unnamed_target_shares_with_no_other() {
    let mut queue = with_multicall();
    queue.push(unnamed(0, 0, 0x66, "a", 0));
    queue.push(unnamed(0, 1, 0x67, "a", 1));
    queue.push(unnamed(1, 0, 0x67, "a", 2));
    queue.push(forward(2, 0, 100_000, "a", 3));
    queue.push(forward(3, 0, 100_000, "a", 4));
    for i in 0..4 {
        queue.set_chain_nonce(FORWARDER, signer(i), 0);
    }
    let mut sizes: Vec<usize> = sent(&mut queue).into_iter().map(|(_, size)| size).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 2, 2]);
}

/// Payloads beyond the memory for them stay in the ledger: of those in transactions all are there, of the others as many
/// as fit.
#[test]
fn a_full_memory_keeps_newcomers_as_outlines() {
    let mut queue = with_multicall();
    let entry = |salt| call(salt, 100_000, "a", true);
    let first = entry(1);
    queue.set_payload_memory(first.bytes);
    let ids: Vec<RequestId> = (1..=4).map(|salt| entry(salt).request.id()).collect();
    (1..=4).for_each(|salt| queue.push(entry(salt)));
    assert_eq!(queue.without_payload(&ids), ids[1..], "the second one found the memory full");
    assert_eq!(queue.payload_bytes(), first.bytes);
    // Composed, read, and returned without having been sent.
    let chosen = queue.compose(Timestamp(1), lane(0), &limits(), &ANY_PRICE).unwrap();
    assert_eq!(chosen.members.len(), 4);
    (1..=4).for_each(|salt| queue.replace(entry(salt).request));
    assert_eq!((queue.without_payload(&ids), queue.payload_bytes()), (Vec::new(), 4 * first.bytes));
    chosen.members.iter().for_each(|id| queue.put_back(*id));
    assert_eq!(queue.payload_bytes(), first.bytes);
    ids.iter().for_each(|id| drop(queue.remove(*id, true)));
    assert_eq!(queue.payload_bytes(), 0);
}
