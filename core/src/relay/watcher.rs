//! One head watcher per chain serves everything that waits.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use alloy_primitives::{Address, B256, U64, U256};
use serde_json::json;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    data_fee::{self, DataFeeFault},
    fees::{Header, next_base_fee},
    market::Histories,
    pace::{Looks, PaceRule},
    rpc::{HeadFeed, RpcError, RpcPool},
};
use crate::chain::{ChainSpec, data_fee::DataFeeModel};

/// Blocks of history whose hashes are kept to notice reorgs, at least.
const MIN_WINDOW_BLOCKS: u64 = 128;

/// Blocks of fee history that are read with every head, at least: a reorg shows in them.
const LEAST_BLOCKS: u64 = 10;

/// Blocks of fee history that every node is taken to tell at once: a node that refuses more is asked for these.
const USUAL_BLOCKS: u64 = 64;

/// Longest gap that is filled block by block after an outage; inclusion is re-polled in any case.
const MAX_FILL_BLOCKS: u64 = 64;

/// What the chain looks like now.
#[derive(Debug, Clone)]
pub(super) struct HeadUpdate {
    pub(super) header: Header,
    /// Base fee of the next block by the chain's rule, if the header is right.
    pub(super) next_base_fee: u128,
    pub(super) final_block: Option<u64>,
    /// Canonical (number, hash) pairs that are new or replaced, ascending.
    pub(super) canonical: Vec<(u64, B256)>,
    pub(super) accounts: Vec<Account>,
    /// What every node says about the blocks up to this one.
    pub(super) histories: Histories,
    pub(super) data_fee: Result<DataFeeModel, DataFeeFault>,
}

/// A lane's account at the head. Fields are missing where nodes did not answer.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) sender: Address,
    pub(super) latest_nonce: Option<u64>,
    pub(super) final_nonce: Option<u64>,
    pub(super) balance: Option<U256>,
}

/// Follows the head of one chain.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) spec: ChainSpec,
    pub(super) pool: RpcPool,
    pub(super) senders: Vec<Address>,
    pub(super) pace: PaceRule,
    /// Multicall3, where it is deployed.
    pub(super) multicall3: Option<Address>,
    seen: BTreeMap<u64, B256>,
    head: Option<B256>,
    /// Newest block whose fees are believed, 0 for none: whatever came after it is read, however often that failed.
    believed: Arc<AtomicU64>,
    /// Longest fee history to ask for.
    longest: u64,
}

impl Watcher {
    pub(super) fn new(
        spec: ChainSpec,
        pool: RpcPool,
        senders: Vec<Address>,
        pace: PaceRule,
        multicall3: Option<Address>,
        believed: Arc<AtomicU64>,
        fee_history_blocks: u64,
    ) -> Self {
        let longest = fee_history_blocks.max(USUAL_BLOCKS);
        Self { spec, pool, senders, pace, multicall3, seen: BTreeMap::new(), head: None, believed, longest }
    }

    /// Polls until cancelled, at once when a subscription tells a head; every new head goes to `updates`. A failing poll is
    /// retried at the next interval.
    pub(super) async fn run(mut self, updates: mpsc::Sender<Arc<HeadUpdate>>, stop: CancellationToken) {
        let mut feed = self.pool.feed();
        let mut last = None;
        let mut told = None;
        let mut failures = 0u32;
        loop {
            let source = loop {
                let looks = self.looks(&feed.borrow_and_update(), last, told, failures > 0);
                let next = self.pace.next_look(looks).unwrap_or_else(Instant::now);
                if next <= Instant::now() {
                    break if looks.is_woken { "subscription" } else { "poll" };
                }
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    // The pool holds the other end.
                    _ = feed.changed() => {}
                    () = tokio::time::sleep_until(next) => {}
                }
            };
            last = Some(Instant::now());
            told = feed.borrow().told();
            let update = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                update = self.poll() => update,
            };
            match update {
                Ok(_) if failures > 0 => {
                    tracing::info!(chain_id = self.spec.chain_id, failures, "head polls work again");
                    failures = 0;
                    // Look again at once: whatever was found is found again.
                    self.head = None;
                }
                Ok(Some(update)) => {
                    let chain_id = self.spec.chain_id.to_string();
                    metrics::counter!("slackwater_heads_total", "chain_id" => chain_id, "source" => source)
                        .increment(1);
                    if updates.send(Arc::new(update)).await.is_err() {
                        return;
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    failures = failures.saturating_add(1);
                    metrics::counter!("slackwater_head_poll_failures_total").increment(1);
                    // Once per outage, then rarely: an outage must not fill the log.
                    if failures == 1 || failures.is_multiple_of(240) {
                        tracing::warn!(chain_id = self.spec.chain_id, failures, class = error.class.as_str(), endpoint = %error.endpoint, "head poll failed");
                    }
                }
            }
        }
    }

    /// What the next poll depends on, when the last began at `last` and knew of the told head `told`.
    fn looks(&self, feed: &HeadFeed, last: Option<Instant>, told: Option<(u64, B256)>, has_failed: bool) -> Looks {
        let newest = self.seen.keys().next_back();
        Looks {
            last,
            // After an outage the first look is repeated.
            has_failed: has_failed || self.head.is_none(),
            is_woken: feed.told() != told && feed.told().map(|(_, hash)| hash) != self.head,
            is_behind: feed.highest().as_ref() > newest,
            heard: feed.heard(),
        }
    }

    async fn header(&self, block: &serde_json::Value) -> Result<Option<Header>, RpcError> {
        self.pool.call("eth_getBlockByNumber", json!([block, false])).await
    }

    /// One look at the chain; `None` while the head is unchanged.
    pub(super) async fn poll(&mut self) -> Result<Option<HeadUpdate>, RpcError> {
        let Some(header) = self.header(&json!("latest")).await? else { return Ok(None) };
        if self.head == Some(header.hash) {
            return Ok(None);
        }
        let number = header.number();
        let canonical = self.canonical(&header).await?;
        let final_block = self.agreed_final(number).await;
        let missing = number.saturating_sub(self.believed.load(Ordering::Relaxed));
        let blocks = missing.clamp(LEAST_BLOCKS, self.longest);
        let histories = Histories::read(&self.pool, blocks, number, self.pace.patience);
        let accounts =
            futures_util::future::join_all(self.senders.iter().map(|sender| self.account(*sender, final_block)));
        let data_fee = data_fee::read(&self.pool, self.spec.family, self.multicall3, &header);
        let (histories, accounts, data_fee) = tokio::join!(histories, accounts, data_fee);
        self.pool.note_head(number);
        self.head = Some(header.hash);
        if blocks > USUAL_BLOCKS && histories.is_refused() {
            self.longest = (self.longest / 2).max(USUAL_BLOCKS);
            tracing::warn!(
                chain_id = self.spec.chain_id,
                blocks,
                "no node tells so many blocks of fee history; the next head asks for fewer"
            );
        }
        for (number, hash) in &canonical {
            self.seen.insert(*number, *hash);
        }
        // Blocks above a head that moved back are no longer canonical.
        self.seen.split_off(&(number + 1));
        let keep_from = number.saturating_sub(MIN_WINDOW_BLOCKS.max(number - final_block.unwrap_or(number)));
        self.seen = self.seen.split_off(&keep_from);
        let next_base_fee = next_base_fee(&self.spec, &header);
        Ok(Some(HeadUpdate { header, next_base_fee, final_block, canonical, accounts, histories, data_fee }))
    }

    /// Walks back from the new head to the newest block that we knew to be canonical.
    async fn canonical(&self, head: &Header) -> Result<Vec<(u64, B256)>, RpcError> {
        let mut found = vec![(head.number(), head.hash)];
        let mut parent = head.parent_hash;
        let mut number = head.number();
        let Some(oldest) = self.seen.keys().next().copied() else { return Ok(found) };
        let mut steps = 0;
        while number > oldest && steps < MAX_FILL_BLOCKS.max(MIN_WINDOW_BLOCKS) {
            number -= 1;
            if self.seen.get(&number) == Some(&parent) {
                break;
            }
            found.push((number, parent));
            let Some(header) = self.header(&json!(alloy_primitives::U64::from(number))).await? else { break };
            if header.hash != parent {
                // The chain moved under us: the next poll starts again.
                break;
            }
            parent = header.parent_hash;
            steps += 1;
        }
        found.reverse();
        Ok(found)
    }

    /// Newest final block in the eyes of a majority: one node that lies, or runs ahead, makes nothing final (I9). Also notes what is
    /// final for each node.
    async fn agreed_final(&self, head: u64) -> Option<u64> {
        let rule = &self.spec.finality;
        if let Some(tag) = rule.tag() {
            let told = self.pool.call_all::<Option<Header>>("eth_getBlockByNumber", json!([tag, false])).await;
            let told: Vec<Option<u64>> =
                told.into_iter().map(|told| told.ok().flatten().map(|header| header.number())).collect();
            let agreed = self.pool.reached(told.iter().copied().flatten().collect());
            if agreed.is_some() {
                self.pool.note_final(told);
                return rule.final_block(head, agreed);
            }
        }
        let told = self.pool.call_all::<U64>("eth_blockNumber", json!([])).await;
        let told: Vec<Option<u64>> = told.into_iter().map(|told| told.ok().map(|number| number.to())).collect();
        let reached = self.pool.reached(told.iter().copied().flatten().collect())?;
        self.pool.note_final(told.into_iter().map(|told| rule.final_block(told?, None)));
        rule.final_block(head.min(reached), None)
    }

    async fn account(&self, sender: Address, final_block: Option<u64>) -> Account {
        let latest = async {
            let told = self.pool.call_all::<U64>("eth_getTransactionCount", json!([sender, "latest"])).await;
            let told: Vec<u64> = told.into_iter().flatten().map(|nonce| nonce.to()).collect();
            // A nonce told too high leaves holes that must be paid for.
            self.pool.reached(told.clone()).or_else(|| told.into_iter().min())
        };
        let balance = self.pool.call::<U256>("eth_getBalance", json!([sender, "latest"]));
        let finalized = async {
            let block = final_block?;
            let params = json!([sender, U64::from(block)]);
            let answers: Vec<U64> = self.pool.call_settled("eth_getTransactionCount", params, block).await;
            // The lowest of a majority: a consumed nonce must be seen by all of them.
            let is_agreed = self.pool.is_majority(answers.len());
            answers.into_iter().min().filter(|_| is_agreed).map(|nonce| nonce.to())
        };
        let (latest, balance, final_nonce) = tokio::join!(latest, balance, finalized);
        Account { sender, latest_nonce: latest, final_nonce, balance: balance.ok() }
    }
}
