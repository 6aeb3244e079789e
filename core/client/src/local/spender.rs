//! Search for the transaction that used a nonce when the node shows no receipt of ours.
//!
//! Missing receipts prove nothing: nodes index them late, or lose them. Before a batch is replanned, the transaction
//! that took its nonce must be known, in a final block (invariant I3).

use alloy_primitives::{Address, B256, U64};
use serde::Deserialize;
use serde_json::json;

use super::{
    command::height,
    parts::{PollRun, Purpose, Search},
    state::LocalRelay,
};
use crate::{lane::PollPurpose, protection::Protection, time::Timestamp};

/// A block with its transactions.
#[derive(Debug, Deserialize)]
pub(super) struct FullBlock {
    hash: B256,
    transactions: Vec<Transaction>,
}

#[derive(Debug, Deserialize)]
struct Transaction {
    hash: B256,
    from: Address,
    nonce: U64,
}

impl LocalRelay {
    /// Starts the search for a poll that found no receipt.
    pub(super) fn find_spender(&mut self, now: Timestamp, poll: u64, run: PollRun) {
        let head = self.head();
        let paused = self.spenders.pauses.get(&run.nonce).is_some_and(|(until, _)| head < *until);
        let low = self.nonces.get(&run.nonce).map(|open| open.planned_block);
        let high = self.heads.first_above(run.nonce);
        if self.heads.is_free(run.nonce) {
            // The nonce is unused: a transaction once seen in a block is no longer there, and nothing is lost.
            self.tell_poll(now, PollRun { purpose: PollPurpose::Inclusion, ..run });
            return;
        }
        let (Some(high), false) = (high, paused) else {
            self.tell_spender(now, run, None);
            return;
        };
        let low = low.unwrap_or(0).min(high.saturating_sub(1));
        self.polls.insert(poll, run);
        self.spenders.searches.insert(poll, Search { low, high, scan_left: None, is_widened: low == 0 });
        self.search_on(now, poll);
    }

    fn search_on(&mut self, now: Timestamp, poll: u64) {
        let Some(search) = self.spenders.searches.get(&poll) else { return };
        if search.scan_left.is_some() || search.high - search.low <= 1 {
            let block = search.high;
            let params = json!([height(block), true]);
            self.call(now, Purpose::SpenderBlock { poll, block }, "eth_getBlockByNumber", params);
        } else {
            let block = search.low + (search.high - search.low) / 2;
            let params = json!([self.key.address(), height(block)]);
            self.call(now, Purpose::SpenderCount { poll, block }, "eth_getTransactionCount", params);
        }
    }

    pub(super) fn on_spender_count(&mut self, now: Timestamp, poll: u64, block: u64, count: Option<U64>) {
        let Some(nonce) = self.polls.get(&poll).map(|run| run.nonce) else { return };
        let scan = self.config.lane.spender_scan_blocks;
        let Some(search) = self.spenders.searches.get_mut(&poll) else { return };
        match count {
            Some(count) if count.to::<u64>() > nonce => search.high = block,
            Some(_) => search.low = block,
            // The node has no state that old: read the blocks themselves.
            None => search.scan_left = Some(scan),
        }
        self.search_on(now, poll);
    }

    pub(super) fn on_spender_block(&mut self, now: Timestamp, poll: u64, number: u64, block: Option<FullBlock>) {
        let sender = self.key.address();
        let Some(nonce) = self.polls.get(&poll).map(|run| run.nonce) else { return };
        let Some(search) = self.spenders.searches.get_mut(&poll) else { return };
        let is_it = |tx: &&Transaction| tx.from == sender && tx.nonce == U64::from(nonce);
        let used = block.as_ref().and_then(|block| Some((block.hash, block.transactions.iter().find(is_it)?.hash)));
        let is_over = match &mut search.scan_left {
            Some(left) if *left > 1 && number > search.low + 1 && block.is_some() => {
                *left -= 1;
                search.high = number - 1;
                false
            }
            _ => true,
        };
        if used.is_none() && is_over && !search.is_widened && block.is_some() {
            let high = self.heads.first_above(nonce).unwrap_or(search.high);
            *search = Search { low: 0, high: high.max(1), scan_left: None, is_widened: true };
            self.search_on(now, poll);
            return;
        }
        if used.is_none() && !is_over {
            self.search_on(now, poll);
            return;
        }
        self.spenders.searches.remove(&poll);
        let Some(run) = self.polls.remove(&poll) else { return };
        let head = self.head();
        if used.is_none() {
            let pause = self.spenders.pauses.get(&nonce).map_or(1, |(_, pause)| pause.saturating_mul(2));
            self.spenders.pauses.insert(nonce, (head.saturating_add(pause), pause));
        }
        self.tell_spender(now, run, used.map(|(_, spender)| (number, spender)));
    }

    /// Reports the result for the nonce to the lane: finally used by a foreign transaction, or nothing certain.
    fn tell_spender(&mut self, now: Timestamp, mut run: PollRun, spender: Option<(u64, B256)>) {
        let last = self.final_block();
        match spender {
            None => run.is_complete = false,
            // Our own transaction: the node has not indexed its receipt yet.
            Some((_, hash)) if run.hashes.contains(&hash) => run.is_complete = false,
            Some((number, _)) if last.is_some_and(|last| number <= last) || !Protection::LostAtFinality.is_on() => {}
            Some(_) => run.purpose = PollPurpose::Inclusion,
        }
        self.tell_poll(now, run);
    }
}
