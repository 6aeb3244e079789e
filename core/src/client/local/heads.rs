//! Polls of the chain's head while something is under way.

use alloy_primitives::{Address, B256, U64, U128, U256};
use serde::Deserialize;
use serde_json::json;

use super::{
    calls::{CallAnswer, Purpose, height},
    machine::LocalRelay,
};
use crate::{
    lane::{Event, HeadInfo},
    market::{FeeHistory, FeePoint, HistoryFeed, REWARD_PERCENTILES},
    table::Table,
    time::Timestamp,
};

/// Most blocks walked back, one by one, to the newest known one. Beyond that the known blocks are discarded.
const MAX_WALK: usize = 64;

/// Consecutive polls that may break off on the walk back; after that, the known blocks below are discarded instead.
const MAX_BROKEN_LOOKS: u32 = 3;

/// A block header, reduced to the fields used here.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Header {
    number: U64,
    hash: B256,
    parent_hash: B256,
    timestamp: U64,
    #[serde(default)]
    gas_limit: Option<U64>,
    #[serde(default)]
    base_fee_per_gas: Option<U128>,
    #[serde(default)]
    miner: Option<Address>,
}

/// Known state of the chain's blocks.
#[derive(Debug, Default)]
pub(super) struct Heads {
    hash: Option<B256>,
    /// Fee recipient of the newest block.
    pub(super) proposer: Option<Address>,
    /// Start of the last poll that confirmed the newest head; `None` before the first.
    pub(super) looked_at: Option<Timestamp>,
    pub(super) next_poll: Option<Timestamp>,
    failures: u32,
    /// Canonical hashes by height, from the newest final block on.
    seen: Table<u64, B256>,
    feed: HistoryFeed,
    /// The account's nonce at the newest head.
    latest_nonce: Option<u64>,
    /// A block that was final when the nonce was last read: a nonce free at that time was free there.
    pub(super) nonce_floor: u64,
    /// (block number, block hash, account nonce) wherever the nonce rose.
    nonces: Vec<(u64, B256, u64)>,
}

impl Heads {
    pub(super) fn is_canonical(&self, number: u64, hash: B256) -> bool {
        self.seen.get(&number) == Some(&hash)
    }

    /// True if another block is known to be canonical at this height.
    pub(super) fn is_other(&self, number: u64, hash: B256) -> bool {
        self.seen.get(&number).is_some_and(|known| *known != hash)
    }

    /// True if the account's nonce at the newest head is not above `nonce`.
    pub(super) fn is_free(&self, nonce: u64) -> bool {
        self.latest_nonce.is_some_and(|latest| latest <= nonce)
    }

    /// The first block at which the account's nonce was seen above `nonce`.
    pub(super) fn first_above(&self, nonce: u64) -> Option<u64> {
        self.nonces.iter().find(|(_, _, count)| *count > nonce).map(|(number, _, _)| *number)
    }
}

/// A poll under way.
#[derive(Debug)]
pub(super) struct Look {
    header: Option<Header>,
    started: Timestamp,
    waits: usize,
    tagged: Option<u64>,
    history: Option<FeeHistory>,
    nonce: Option<u64>,
    balance: Option<U256>,
    /// Newest first.
    canonical: Vec<(u64, B256)>,
    is_walk_over: bool,
}

impl LocalRelay {
    /// Polls the head, if due and something is under way.
    pub(super) fn poll_head(&mut self, now: Timestamp) {
        if !self.is_active() {
            self.heads.next_poll = None;
            return;
        }
        let due = *self.heads.next_poll.get_or_insert(now);
        if self.look.is_some() || due > now {
            return;
        }
        self.look = Some(Look {
            header: None,
            started: now,
            waits: 1,
            tagged: None,
            history: None,
            nonce: None,
            balance: None,
            canonical: Vec::new(),
            is_walk_over: false,
        });
        self.call(now, Purpose::Head, "eth_getBlockByNumber", json!(["latest", false]));
    }

    /// Schedules the next poll, backing off after failures.
    fn plan_poll(&mut self, now: Timestamp) {
        let pause = self.config.poll_interval.saturating_mul(1 << self.heads.failures.min(10));
        let longest = self.config.max_poll_pause.max(self.config.poll_interval);
        self.heads.next_poll = Some(now.saturating_add(pause.min(longest)));
    }

    pub(super) fn on_header(&mut self, now: Timestamp, header: Option<Header>) {
        let Some(look) = self.look.as_mut() else { return };
        look.waits = 0;
        let Some(header) = header else {
            self.look = None;
            self.heads.failures = self.heads.failures.saturating_add(1);
            self.plan_poll(now);
            return;
        };
        if self.heads.hash == Some(header.hash) {
            let started = look.started;
            self.look = None;
            self.heads.looked_at = Some(started);
            self.heads.failures = 0;
            self.plan_poll(now);
            return;
        }
        let number = header.number.to::<u64>();
        look.canonical.push((number, header.hash));
        let parent = header.parent_hash;
        look.header = Some(header);
        let sender = self.key.address();
        let mut calls = vec![
            (Purpose::AccountNonce, "eth_getTransactionCount", json!([sender, height(number)])),
            (Purpose::Balance, "eth_getBalance", json!([sender, height(number)])),
        ];
        if let Some(tag) = self.config.finality.tag() {
            calls.push((Purpose::Tagged, "eth_getBlockByNumber", json!([tag, false])));
        }
        let missing = self.head.map_or(u64::MAX, |head| number.saturating_sub(head.number).saturating_add(2));
        let blocks = missing.clamp(4, self.config.fees.fee_history_blocks.max(4));
        let history = json!([height(blocks), height(number), REWARD_PERCENTILES]);
        calls.push((Purpose::History, "eth_feeHistory", history));
        for (purpose, method, params) in calls {
            if let Some(look) = self.look.as_mut() {
                look.waits += 1;
            }
            self.call(now, purpose, method, params);
        }
        self.walk(now, number, parent);
        self.finish_look(now);
    }

    /// Continues the walk with the block below `number`, whose hash should be `parent`.
    fn walk(&mut self, now: Timestamp, number: u64, parent: B256) {
        let oldest = self.heads.seen.keys().next().copied();
        let Some(look) = self.look.as_mut() else { return };
        let Some(below) = number.checked_sub(1).filter(|below| oldest.is_some_and(|oldest| *below >= oldest)) else {
            look.is_walk_over = true;
            return;
        };
        if self.heads.seen.get(&below) == Some(&parent) {
            look.is_walk_over = true;
            return;
        }
        look.canonical.push((below, parent));
        if look.canonical.len() > MAX_WALK {
            // Too far back: the known blocks may have been replaced.
            self.heads.seen = Table::new();
            look.is_walk_over = true;
            return;
        }
        look.waits += 1;
        self.call(now, Purpose::Ancestor(below), "eth_getBlockByNumber", json!([height(below), false]));
    }

    pub(super) fn on_look(&mut self, now: Timestamp, purpose: Purpose, answer: CallAnswer) {
        let Some(look) = self.look.as_mut() else { return };
        look.waits = look.waits.saturating_sub(1);
        match purpose {
            Purpose::Tagged => {
                look.tagged = answer.read::<Option<Header>>().flatten().map(|header| header.number.to());
            }
            Purpose::History => look.history = answer.read(),
            Purpose::AccountNonce => look.nonce = answer.read::<U64>().map(|nonce| nonce.to()),
            Purpose::Balance => look.balance = answer.read(),
            Purpose::Ancestor(number) => {
                let expected = look.canonical.last().copied();
                let header = answer.read::<Option<Header>>().flatten();
                match header.filter(|header| expected == Some((number, header.hash))) {
                    Some(header) => self.walk(now, number, header.parent_hash),
                    // The chain changed during the walk, or the node did not answer: poll again.
                    None if self.heads.failures < MAX_BROKEN_LOOKS => {
                        self.look = None;
                        self.drop_look_calls();
                        self.heads.failures += 1;
                        self.plan_poll(now);
                    }
                    None => {
                        // Nothing below this block is known any more.
                        self.heads.seen.retain(|(seen, _)| *seen >= number);
                        if let Some(look) = self.look.as_mut() {
                            look.is_walk_over = true;
                        }
                    }
                }
            }
            _ => {}
        }
        self.finish_look(now);
    }

    fn finish_look(&mut self, now: Timestamp) {
        if self.look.as_ref().is_none_or(|look| look.waits > 0 || look.header.is_none()) {
            return;
        }
        let Some(look) = self.look.take() else { return };
        let Some(header) = look.header else { return };
        let number = header.number.to::<u64>();
        let final_block = self.config.finality.final_block(number, look.tagged);
        let mut canonical = look.canonical;
        canonical.reverse();
        for (number, hash) in &canonical {
            self.heads.seen.insert(*number, *hash);
        }
        // Blocks above a head that moved back are no longer canonical.
        self.heads.seen.retain(|(seen, _)| *seen <= number);
        let keep_from = final_block.unwrap_or(0).min(number.saturating_sub(MAX_WALK as u64));
        self.heads.seen.retain(|(seen, _)| *seen >= keep_from);

        let (next_base_fee, points) = self.prices(&header, look.history.as_ref());
        let tip = self.pricing.tip(&self.config, self.config.fees.tip_within_blocks);
        for point in &points {
            self.pricing.block(point, tip);
        }
        let quote = self.pricing.quote(&self.config, next_base_fee);
        self.pricing.set_price(next_base_fee.saturating_add(quote.max_priority_fee_per_gas));
        let info = HeadInfo { number, timestamp_s: header.timestamp.to(), next_base_fee, quote, final_block };
        self.head = Some(info);
        self.heads.hash = Some(header.hash);
        self.heads.proposer = header.miner;
        self.heads.looked_at = Some(look.started);
        self.heads.failures = 0;
        self.plan_poll(now);

        // Requests held since the last block get another try.
        for id in std::mem::take(&mut self.held) {
            self.queue.put_back(id);
        }
        for (number, hash) in canonical {
            self.lane.handle_event(now, Event::Canonical { number, hash });
        }
        self.heads.latest_nonce = look.nonce;
        if let Some(latest) = look.nonce {
            self.heads.nonce_floor = final_block.unwrap_or_else(|| number.saturating_sub(MAX_WALK as u64));
            let finalized = self.final_nonce(number, header.hash, latest, final_block);
            self.lane.handle_event(now, Event::AccountNonce { latest, finalized });
        }
        if let Some(wei) = look.balance {
            self.lane.handle_event(now, Event::Balance(wei));
        }
        if let Some(gas) = header.gas_limit.map(|gas| gas.to::<u64>()) {
            // A transaction above three quarters of the block gas limit hardly gets included.
            self.pricing.most_gas = Some(self.pricing.most_gas.unwrap_or(u64::MAX).min(gas - gas / 4));
        }
        let terms = self.terms(now);
        self.lane.handle_event(now, Event::Terms(terms));
        self.lane.handle_event(now, Event::Head(info));
        self.drain(now);
        self.confirm_users(now, number, header.hash, final_block);
    }

    /// The next block's base fee, wei per gas, and the new blocks.
    fn prices(&mut self, header: &Header, history: Option<&FeeHistory>) -> (u128, Vec<FeePoint>) {
        let own = header.base_fee_per_gas.map_or(0, |fee| fee.to::<u128>());
        // If the node does not report the next base fee: its upper bound (EIP-1559).
        let at_most = own.saturating_add((own / 8).max(1));
        let Some(history) = history else { return (at_most, Vec::new()) };
        let points = self.heads.feed.news(history);
        let next = history.points().last().filter(|point| point.number == header.number.to::<u64>());
        (next.and_then(|point| point.next_base_fee).unwrap_or(at_most), points)
    }

    /// The account's nonce at the newest final block, from nonces read at blocks that have become final since: nodes
    /// without old state can't serve it later.
    fn final_nonce(&mut self, number: u64, hash: B256, latest: u64, final_block: Option<u64>) -> Option<u64> {
        let heads = &mut self.heads;
        let seen = &heads.seen;
        heads.nonces.retain(|(number, hash, _)| seen.get(number) == Some(hash));
        if heads.nonces.last().is_none_or(|(_, _, last)| *last < latest) {
            heads.nonces.push((number, hash, latest));
        }
        let last = final_block?;
        let is_final = |(number, _, _): &&(u64, B256, u64)| *number <= last;
        let settled = heads.nonces.iter().filter(is_final).map(|(_, _, nonce)| *nonce).max();
        if let Some(settled) = settled {
            heads.nonces.retain(|(number, _, nonce)| *number > last || *nonce == settled);
        }
        settled
    }
}
