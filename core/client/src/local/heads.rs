//! Polls of the chain's head while something is under way.

use alloy_primitives::{B256, U64};
use serde_json::json;

use super::{
    command::{CallAnswer, height},
    parts::{Header, Look, Purpose},
    state::LocalRelay,
};
use crate::{
    chain::data_fee::DataFeeModel,
    market::{FeeHistory, FeePoint, REWARD_PERCENTILES},
    sender::{Account, HeadFacts, Input},
    table::Table,
    time::Timestamp,
};

/// Most blocks walked back, one by one, to the newest known one. Beyond that the known blocks are discarded.
const MAX_WALK: usize = 64;

/// Consecutive polls that may break off on the walk back; after that, the known blocks below are discarded instead.
const MAX_BROKEN_LOOKS: u32 = 3;

impl LocalRelay {
    /// Polls the head, if due and something is under way.
    pub(super) fn poll_head(&mut self, now: Timestamp) {
        if !self.sender.is_busy() {
            self.heads.next_poll = None;
            return;
        }
        let due = *self.heads.next_poll.get_or_insert(now);
        if self.look.is_some() || due > now {
            return;
        }
        self.look = Some(Look::started(now));
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
        let known = self.sender.head.map(|head| head.number);
        let missing = known.map_or(u64::MAX, |known| number.saturating_sub(known).saturating_add(2));
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
                let header = answer.read::<Option<Header>>().flatten();
                look.tagged = header.map(|header| (header.number.to(), header.hash));
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
        let mut canonical = look.canonical;
        canonical.reverse();
        for (number, hash) in &canonical {
            self.heads.seen.insert(*number, *hash);
        }
        // Blocks above a head that moved back are no longer canonical.
        self.heads.seen.retain(|(seen, _)| *seen <= number);
        // The final block was read after the head: if the chain changed in between, the head's branch has another block there.
        let tagged = look.tagged.filter(|(at, hash)| *at <= number && !self.heads.is_other(*at, *hash));
        let final_block = self.config.finality.final_block(number, tagged.map(|(at, _)| at));
        // Down to the block that was final before: finality comes in steps of many blocks, and what was read in between counts.
        let keep_from = self.final_block().unwrap_or(0).min(number.saturating_sub(MAX_WALK as u64));
        self.heads.seen.retain(|(seen, _)| *seen >= keep_from);

        let (next_base_fee, points) = self.prices(&header, look.history.as_ref());
        self.heads.hash = Some(header.hash);
        self.heads.looked_at = Some(look.started);
        self.heads.failures = 0;
        self.plan_poll(now);
        self.heads.latest_nonce = look.nonce;
        let final_nonce = look.nonce.and_then(|latest| {
            self.heads.nonce_floor = final_block.unwrap_or_else(|| number.saturating_sub(MAX_WALK as u64));
            self.final_nonce(number, header.hash, latest, final_block)
        });
        let sender = self.key.address();
        let facts = HeadFacts {
            number,
            timestamp_s: header.timestamp.to(),
            next_base_fee,
            points,
            extra_data: None,
            is_agreed: true,
            proposer: header.miner,
            gas_limit: header.gas_limit.map(|gas| gas.to()),
            final_block,
            canonical,
            accounts: vec![Account { sender, latest_nonce: look.nonce, final_nonce, balance: look.balance }],
            data_fee: self.config.l1_fee_oracle.map(|_| DataFeeModel::Quoted(self.data_fee)),
        };
        self.tell(now, Input::Head(Box::new(facts)));
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
