//! Head watcher: one per chain, shared by everything that waits for blocks.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy_primitives::{Address, B256, U64, U256};
use futures_util::{StreamExt as _, future::join_all, stream};
use serde_json::json;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    header::{Header, next_base_fee},
    pace::{Looks, PaceRule},
    sources::Histories,
};
use crate::{
    chain::{ChainSpec, FinalityRule, RpcErrorClass, data_fee::DataFeeModel},
    protection::Protection,
    relay::{
        clock,
        nodes::data_fee::{self, DataFeeFault},
        rpc::{HeadFeed, RpcError, RpcPool},
    },
};

/// Minimum number of recent block hashes kept to detect reorgs.
const MIN_WINDOW_BLOCKS: u64 = 128;

/// Minimum number of fee history blocks read with every head, so that a reorg shows.
const LEAST_BLOCKS: u64 = 10;

/// Number of fee history blocks that every node is assumed to serve in one answer; after refusals of more, the
/// fallback.
const USUAL_BLOCKS: u64 = 64;

/// Concurrent header reads when several blocks came since the last poll.
const HEADERS_AT_ONCE: usize = 16;

/// Maximum number of heads with account nonces remembered until finality.
const MAX_WITNESSED: usize = 16_384;

/// Block times without a new head after which all nodes are polled: the fastest one may be stalled.
const STILL_BLOCKS: u32 = 2;

/// Interval between reads of a final block's hash from all nodes.
const FINAL_HASH_EVERY: Duration = Duration::from_secs(60);

/// A snapshot of the chain at a new head.
#[derive(Debug, Clone)]
pub(in crate::relay) struct HeadUpdate {
    pub(in crate::relay) header: Header,
    /// Base fee of the next block by the chain's rule, if the header is right.
    pub(in crate::relay) next_base_fee: u128,
    pub(in crate::relay) final_block: Option<u64>,
    /// Hash of the final block; `None` if not read this time or without a majority.
    pub(in crate::relay) final_hash: Option<B256>,
    /// New or replaced canonical (number, hash) pairs, ascending.
    pub(in crate::relay) canonical: Vec<(u64, B256)>,
    pub(in crate::relay) accounts: Vec<Account>,
    /// Every node's fee history up to this block.
    pub(in crate::relay) histories: Histories,
    pub(in crate::relay) data_fee: Result<DataFeeModel, DataFeeFault>,
}

/// A lane's account at the head. A field is `None` if nodes did not answer.
#[derive(Debug, Clone)]
pub(in crate::relay) struct Account {
    pub(in crate::relay) sender: Address,
    pub(in crate::relay) latest_nonce: Option<u64>,
    /// Nonce at the head that a majority has reached.
    agreed_nonce: Option<u64>,
    pub(in crate::relay) final_nonce: Option<u64>,
    pub(in crate::relay) balance: Option<U256>,
}

impl Account {
    pub(in crate::relay) const fn facts(&self) -> crate::sender::Account {
        let Self { sender, latest_nonce, final_nonce, balance, .. } = *self;
        crate::sender::Account { sender, latest_nonce, final_nonce, balance }
    }
}

/// Follows the head of one chain.
#[derive(Debug)]
pub(in crate::relay) struct Watcher {
    pub(in crate::relay) spec: ChainSpec,
    pub(in crate::relay) pool: RpcPool,
    pub(in crate::relay) senders: Vec<Address>,
    pub(in crate::relay) pace: PaceRule,
    /// Address of Multicall3; `None` where it is not deployed.
    pub(in crate::relay) multicall3: Option<Address>,
    seen: BTreeMap<u64, B256>,
    head: Option<B256>,
    /// Newest block with believed fees, 0 for none: all later blocks are read, however often that failed.
    agreed: Arc<AtomicU64>,
    /// Longest fee history to request, blocks.
    longest: u64,
    /// Arrival time of the followed head.
    came_at: Option<Instant>,
    /// Time of the last poll of all nodes' heads.
    surveyed_at: Option<Instant>,
    /// Newest block final for a majority; it never moves back, whichever nodes answer.
    last_final: Option<u64>,
    /// Last believed balance of each sender, wei.
    balances: BTreeMap<Address, U256>,
    /// Time of the last read of a final block's hash that had a majority.
    final_hash_at: Option<Instant>,
    /// Majority account nonces at a head, by its height: for nodes that keep no state of a final block.
    nonces: BTreeMap<u64, (B256, BTreeMap<Address, u64>)>,
}

/// A node's answer for a tag such as `finalized`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TagWord {
    /// Number of the tagged block.
    Block(u64),
    /// The node does not know the tag.
    NotServed,
    /// No usable answer.
    Silent,
}

impl TagWord {
    fn of(answer: Result<Option<Header>, RpcError>) -> Self {
        match answer {
            Ok(Some(header)) => Self::Block(header.number()),
            Ok(None) => Self::NotServed,
            // An argument that the node does not accept, or a method without tags.
            Err(error) if error.is_unknown_block() => Self::NotServed,
            Err(error) if error.code.is_some() && error.class == RpcErrorClass::BadTransaction => Self::NotServed,
            Err(_) => Self::Silent,
        }
    }

    const fn block(self) -> Option<u64> {
        match self {
            Self::Block(number) => Some(number),
            Self::NotServed | Self::Silent => None,
        }
    }
}

impl Watcher {
    pub(in crate::relay) fn new(
        spec: ChainSpec,
        pool: RpcPool,
        senders: Vec<Address>,
        pace: PaceRule,
        multicall3: Option<Address>,
        agreed: Arc<AtomicU64>,
        fee_history_blocks: u64,
    ) -> Self {
        let longest = fee_history_blocks.max(USUAL_BLOCKS);
        Self {
            spec,
            pool,
            senders,
            pace,
            multicall3,
            seen: BTreeMap::new(),
            head: None,
            agreed,
            longest,
            came_at: None,
            surveyed_at: None,
            last_final: None,
            balances: BTreeMap::new(),
            final_hash_at: None,
            nonces: BTreeMap::new(),
        }
    }

    /// Polls until cancelled, immediately when a subscription reports a head; every new head goes to `updates`. A
    /// failing poll is retried at the next interval.
    pub(in crate::relay) async fn run(mut self, updates: mpsc::Sender<Arc<HeadUpdate>>, stop: CancellationToken) {
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
                    self.pool.note_conditions(|conditions| conditions.unfollowed = None);
                    // Poll again at once: the current head is then found anew.
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
                    let text = format!("{}: {}", error.endpoint, error.message);
                    self.pool.note_conditions(|conditions| {
                        let since = conditions.unfollowed.take().map_or_else(clock::now, |(since, _)| since);
                        conditions.unfollowed = Some((since, text));
                    });
                    metrics::counter!("slackwater_head_poll_failures_total").increment(1);
                    // Once per outage, then rarely: an outage must not fill the log.
                    if failures == 1 || failures.is_multiple_of(240) {
                        tracing::warn!(chain_id = self.spec.chain_id, failures, class = error.class.as_str(), endpoint = %error.endpoint, "head poll failed");
                    }
                }
            }
        }
    }

    /// Inputs of the next poll's timing, given that the last one began at `last` and knew of the reported head `told`.
    fn looks(&self, feed: &HeadFeed, last: Option<Instant>, told: Option<(u64, B256)>, has_failed: bool) -> Looks {
        let newest = self.seen.keys().next_back();
        Looks {
            last,
            // After an outage the first poll is repeated.
            has_failed: has_failed || self.head.is_none(),
            is_woken: feed.told() != told && feed.told().map(|(_, hash)| hash) != self.head,
            is_behind: feed.highest().as_ref() > newest,
            heard: feed.heard(),
        }
    }

    async fn header(&self, block: &serde_json::Value) -> Result<Option<Header>, RpcError> {
        self.pool.call("eth_getBlockByNumber", json!([block, false])).await
    }

    /// One poll of the chain; `None` while the head is unchanged.
    ///
    /// The fastest node is polled first. Once it reports a new head, or repeats an old one for [`STILL_BLOCKS`], all
    /// nodes are polled, and the followed head is one that most of the advancing nodes have reached.
    pub(in crate::relay) async fn poll(&mut self) -> Result<Option<HeadUpdate>, RpcError> {
        let told = self.header(&json!("latest")).await?;
        let is_news = told.as_ref().is_some_and(|told| Some(told.hash) != self.head);
        if !is_news && !self.is_survey_due() {
            return Ok(None);
        }
        self.surveyed_at = Some(Instant::now());
        let (latest, tagged) = tokio::join!(self.latest(told.as_ref()), self.tagged());
        self.pool.tell_places();
        let Some(followed) = self.followed(told, &latest) else { return Ok(None) };
        if !self.is_news(&followed) {
            return Ok(None);
        }
        let Some((mut header, canonical)) = self.branch(followed, &latest).await? else { return Ok(None) };
        self.believe_time(&mut header, &latest);
        let number = header.number();
        let heads: Vec<Option<u64>> = latest.iter().map(|header| header.as_ref().map(Header::number)).collect();
        let final_block = self.agreed_final(number, &heads, tagged.as_deref());
        let missing = number.saturating_sub(self.agreed.load(Ordering::Relaxed));
        let blocks = missing.clamp(LEAST_BLOCKS, self.longest);
        // Height reached by all nodes that count: a vote about a block needs several that know it.
        let common = self.pool.reference().map_or(number, |reference| reference.min(number));
        let histories = Histories::read(&self.pool, blocks, number, self.pace.patience);
        let accounts = join_all(self.senders.iter().map(|sender| self.account(*sender, final_block)));
        let data_fee = data_fee::read(&self.pool, self.spec.family, self.multicall3, &header, common);
        let (histories, mut accounts, data_fee) = tokio::join!(histories, accounts, data_fee);
        for account in &accounts {
            if let Some(balance) = account.balance {
                self.balances.insert(account.sender, balance);
            }
        }
        let has_no_final_state = final_block.is_some()
            && !accounts.is_empty()
            && accounts.iter().all(|account| account.latest_nonce.is_some() && account.final_nonce.is_none());
        self.witness_nonces(&header, final_block, &mut accounts);
        self.pool.note_conditions(|conditions| conditions.has_no_final_state = has_no_final_state);
        self.head = Some(header.hash);
        self.came_at = Some(Instant::now());
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
        // Slightly more than the blocks before finality: see `witness_nonces`.
        let unfinal = number.saturating_sub(final_block.unwrap_or(number));
        let unfinal = unfinal.saturating_add(self.pool.head_rule().tolerance() * 2);
        let keep_from = number.saturating_sub(MIN_WINDOW_BLOCKS.max(unfinal));
        self.seen = self.seen.split_off(&keep_from);
        let next_base_fee = next_base_fee(&self.spec, &header);
        let final_hash = match final_block {
            Some(block) => self.final_hash(block).await,
            None => None,
        };
        let update =
            HeadUpdate { header, next_base_fee, final_block, final_hash, canonical, accounts, histories, data_fee };
        Ok(Some(update))
    }

    /// True if all nodes are to be polled although the first one reports no new head.
    fn is_survey_due(&self) -> bool {
        let block = self.spec.block_time();
        let is_over = |since: Option<Instant>, wait| since.is_some_and(|since| since.elapsed() >= wait);
        let is_still = is_over(self.came_at, block * STILL_BLOCKS);
        let has_rested = is_over(self.surveyed_at, block.max(self.pace.interval));
        self.pool.len() > 1 && is_still && has_rested
    }

    /// Every node's newest block, in the order of the endpoints. A lone node's answer is reused.
    async fn latest(&self, told: Option<&Header>) -> Vec<Option<Header>> {
        if self.pool.len() == 1 {
            return vec![told.cloned()];
        }
        let told = self.pool.call_all::<Option<Header>>("eth_getBlockByNumber", json!(["latest", false])).await;
        told.into_iter().map(|told| told.ok().flatten()).collect()
    }

    /// Every node's answer for the finality tag; `None` if finality follows from depth alone.
    async fn tagged(&self) -> Option<Vec<TagWord>> {
        let tag = self.spec.finality.tag()?;
        let told = self.pool.call_all::<Option<Header>>("eth_getBlockByNumber", json!([tag, false])).await;
        Some(told.into_iter().map(TagWord::of).collect())
    }

    /// The head to follow: a majority's newest block, else the first node's, unless that is far from the height that
    /// most of the advancing nodes have reached; then the highest block that is not.
    fn followed(&self, told: Option<Header>, latest: &[Option<Header>]) -> Option<Header> {
        let Some(reference) = self.pool.reference() else { return told };
        let highest = reference.saturating_add(self.pool.head_rule().tolerance());
        let is_near = |header: &&Header| (reference..=highest).contains(&header.number());
        if let Some(told) = told.as_ref().filter(is_near) {
            // Another branch at the same height that holds most of the nodes.
            let same = |a: &Header, b: &Header| a.number == b.number && a.hash == b.hash;
            let votes = |header: &Header| latest.iter().flatten().filter(|other| same(header, other)).count();
            let other = latest.iter().flatten().find(|header| header.number == told.number && header.hash != told.hash);
            return Some(other.filter(|other| self.pool.is_majority(votes(other))).unwrap_or(told).clone());
        }
        let known = latest.iter().flatten().chain(&told).filter(|header| header.number() <= highest);
        known.max_by_key(|header| header.number()).cloned().or(told)
    }

    /// False for the current head and for a known block of a slightly lagging node.
    fn is_news(&self, header: &Header) -> bool {
        let is_known = self.head.is_some() && self.seen.get(&header.number()) == Some(&header.hash);
        !is_known && self.head != Some(header.hash)
    }

    /// The head to follow, with the canonical blocks up to it: `followed`, unless most of the nodes are on another
    /// branch (invariant I15); then the highest head on their branch.
    async fn branch(
        &self,
        followed: Header,
        latest: &[Option<Header>],
    ) -> Result<Option<(Header, Vec<(u64, B256)>)>, RpcError> {
        let highest = self.pool.reference().map(|common| common.saturating_add(self.pool.head_rule().tolerance()));
        let tolerance = self.pool.head_rule().tolerance();
        let lowest = self.pool.reference().map_or(0, |common| common.saturating_sub(tolerance));
        let is_near =
            |header: &&Header| header.number() >= lowest && highest.is_none_or(|highest| header.number() <= highest);
        let mut heads: Vec<&Header> = latest.iter().flatten().filter(is_near).collect();
        heads.sort_by_key(|header| Reverse(header.number()));
        let mut tried: Vec<B256> = Vec::new();
        for header in std::iter::once(&followed).chain(heads) {
            if tried.contains(&header.hash) || !self.is_news(header) {
                continue;
            }
            tried.push(header.hash);
            let (canonical, is_linked) = self.canonical(header).await?;
            if self.is_backed(header, &canonical, is_linked, latest) {
                return Ok(Some((header.clone(), canonical)));
            }
            let chain_id = self.spec.chain_id;
            tracing::debug!(chain_id, block = header.number(), hash = %header.hash, "too few nodes are on this branch");
            metrics::counter!("slackwater_branches_disbelieved_total", "chain_id" => chain_id.to_string()).increment(1);
        }
        Ok(None)
    }

    /// True if more nodes are on the branch of `head` than on others; a tie is enough if it only extends the known
    /// chain. Nodes further ahead, or far behind, do not count. A branch not linked to the known chain needs a majority
    /// of the nodes near it.
    fn is_backed(&self, head: &Header, canonical: &[(u64, B256)], is_linked: bool, latest: &[Option<Header>]) -> bool {
        if self.pool.len() < 2 || !Protection::OthersHeads.is_on() {
            return true;
        }
        let tolerance = self.pool.head_rule().tolerance();
        let near = head.number().saturating_sub(tolerance)..=head.number().saturating_add(tolerance);
        let on_branch = |number: u64| {
            let found = canonical.iter().find(|(found, _)| *found == number).map(|(_, hash)| *hash);
            let parent = || (number + 1 == head.number()).then_some(head.parent_hash);
            let seen = || self.seen.get(&number).copied().filter(|_| is_linked);
            found.or_else(parent).or_else(seen)
        };
        let (mut backing, mut others, mut all) = (0, 0, 0);
        for own in latest.iter().flatten().filter(|own| near.contains(&own.number())) {
            all += 1;
            if own.number() > head.number() {
                continue;
            }
            match on_branch(own.number()) {
                Some(hash) if hash == own.hash => backing += 1,
                Some(_) => others += 1,
                None => {}
            }
        }
        if !is_linked && !self.seen.is_empty() {
            return backing * 2 > all;
        }
        let replaces = |(number, hash): &(u64, B256)| self.seen.get(number).is_some_and(|known| known != hash);
        let goes_on = !self.seen.is_empty() && !canonical.iter().any(replaces);
        // The node that reported it may have another head by now.
        let backing = backing.max(1);
        backing > others || (backing == others && goes_on)
    }

    /// Caps the header's time at the latest time that the other nodes allow: one node's header from the future would
    /// end every request with a deadline.
    fn believe_time(&self, header: &mut Header, latest: &[Option<Header>]) {
        if self.pool.len() < 2 {
            return;
        }
        let (rule, number) = (self.pool.head_rule(), header.number());
        let times =
            latest.iter().flatten().map(|own| rule.latest_time_s((own.number(), own.timestamp.to()), number)).collect();
        if let Some(latest) = self.pool.reached::<u64>(times)
            && latest < header.timestamp.to::<u64>()
        {
            tracing::warn!(
                chain_id = self.spec.chain_id,
                block = number,
                told_s = header.timestamp.to::<u64>(),
                believed_s = latest,
                "a node tells a block's time that the others do not know"
            );
            header.timestamp = U64::from(latest);
        }
    }

    /// Walks back from the new head to the newest known canonical block. The flag is true if the walk reached one.
    async fn canonical(&self, head: &Header) -> Result<(Vec<(u64, B256)>, bool), RpcError> {
        let mut found = vec![(head.number(), head.hash)];
        let Some(oldest) = self.seen.keys().next().copied() else { return Ok((found, false)) };
        let mut is_linked = false;
        let mut parent = head.parent_hash;
        let mut number = head.number();
        // Unknown blocks are read concurrently: where blocks come faster than answers, sequential reads would never
        // catch up.
        let known = self.seen.range(..number).next_back().map_or(oldest, |(known, _)| *known);
        let first = number.saturating_sub(MIN_WINDOW_BLOCKS).max(known + 1);
        let read = |number: u64| async move { (number, self.header(&json!(U64::from(number))).await) };
        let missing: Vec<_> = (first..number).rev().map(read).collect();
        let mut ahead: BTreeMap<u64, Header> = BTreeMap::new();
        let mut reads = stream::iter(missing).buffered(HEADERS_AT_ONCE);
        while let Some((number, header)) = reads.next().await {
            if let Some(header) = header? {
                ahead.insert(number, header);
            }
        }
        let mut steps = 0;
        while number > oldest && steps < MIN_WINDOW_BLOCKS {
            number -= 1;
            if self.seen.get(&number) == Some(&parent) {
                is_linked = true;
                break;
            }
            found.push((number, parent));
            let header = match ahead.remove(&number) {
                Some(header) => Some(header),
                None => self.header(&json!(U64::from(number))).await?,
            };
            let Some(header) = header else { break };
            if header.hash != parent {
                // The chain changed during the walk: the next poll starts again.
                break;
            }
            parent = header.parent_hash;
            steps += 1;
        }
        found.reverse();
        Ok((found, is_linked))
    }

    /// Newest block that is final for a majority: one node that lies, or runs ahead, makes nothing final (I9). Also
    /// notes each node's final block. Without a majority the last final block stays.
    ///
    /// `heads` are the nodes' newest blocks, `tagged` their answers for the tag. Depth replaces the tag only if a
    /// majority does not serve it.
    fn agreed_final(&mut self, head: u64, heads: &[Option<u64>], tagged: Option<&[TagWord]>) -> Option<u64> {
        let rule = self.spec.finality;
        let by_depth = || {
            let reached = self.pool.reached(heads.iter().copied().flatten().collect())?;
            self.pool.note_final(heads.iter().map(|head| rule.final_block((*head)?, None)));
            Some(rule.final_block(head.min(reached), None))
        };
        let agreed = match tagged {
            None => by_depth(),
            Some(words) => match self.pool.reached(words.iter().filter_map(|word| word.block()).collect()) {
                Some(agreed) => {
                    self.pool.note_final(words.iter().map(|word| word.block()));
                    Some(rule.final_block(head, Some(agreed)))
                }
                None if self.pool.is_majority(words.iter().filter(|word| **word == TagWord::NotServed).count()) => {
                    match rule {
                        FinalityRule::FinalizedTag { .. } => by_depth(),
                        FinalityRule::Depth { .. } | FinalityRule::SafeTag => Some(None),
                    }
                }
                None => None,
            },
        };
        let is_agreed = agreed.is_some();
        let chain_id = self.spec.chain_id;
        self.pool.note_conditions(|conditions| match (is_agreed, conditions.no_majority_since) {
            (true, Some(since)) => {
                tracing::info!(chain_id, since_ms = since.0, "a majority of the nodes tells again what is final");
                conditions.no_majority_since = None;
            }
            (false, None) => {
                tracing::warn!(
                    chain_id,
                    "too few nodes tell what is final; nothing more becomes final until a majority does"
                );
                conditions.no_majority_since = Some(clock::now());
            }
            _ => {}
        });
        self.last_final = self.last_final.max(agreed.flatten());
        self.last_final.map(|block| block.min(head))
    }

    /// The hash of a final block, read every [`FINAL_HASH_EVERY`]; a majority of nodes for which it is final must
    /// agree, because a lagging node may be on an abandoned branch. A wrong hash would prevent the relay from ever
    /// starting again (invariant I15).
    async fn final_hash(&mut self, block: u64) -> Option<B256> {
        if self.final_hash_at.is_some_and(|at| at.elapsed() < FINAL_HASH_EVERY) {
            return None;
        }
        let params = json!([U64::from(block), false]);
        let told: Vec<Option<Header>> = self.pool.call_settled("eth_getBlockByNumber", params, block).await;
        let told: Vec<B256> = told.into_iter().flatten().map(|header| header.hash).collect();
        let count = |hash: &B256| told.iter().filter(|other| *other == hash).count();
        let agreed = told.iter().find(|hash| self.pool.is_majority(count(hash))).copied();
        self.final_hash_at = agreed.map(|_| Instant::now());
        agreed
    }

    /// Remembers the accounts' nonces at this head. They become final with it, which replaces a read from nodes that
    /// keep no state of a final block.
    fn witness_nonces(&mut self, header: &Header, final_block: Option<u64>, accounts: &mut [Account]) {
        // Nodes slightly ahead have counted blocks above this head.
        let number = header.number().saturating_add(self.pool.head_rule().tolerance());
        let last = final_block.unwrap_or(0);
        let witnessed = self.nonces.range(..=last).next_back();
        let witnessed = witnessed.filter(|(number, (hash, _))| {
            let head = number.saturating_sub(self.pool.head_rule().tolerance());
            self.seen.get(&head) == Some(hash)
        });
        if let Some((&until, (_, nonces))) = witnessed {
            for account in accounts.iter_mut().filter(|account| account.final_nonce.is_none()) {
                account.final_nonce = nonces.get(&account.sender).copied();
            }
            self.nonces = self.nonces.split_off(&until);
        }
        let told = accounts.iter().filter_map(|account| Some((account.sender, account.agreed_nonce?))).collect();
        self.nonces.insert(number, (header.hash, told));
        while self.nonces.len() > MAX_WITNESSED {
            self.nonces.pop_first();
        }
    }

    async fn account(&self, sender: Address, final_block: Option<u64>) -> Account {
        let latest = async {
            let told = self.pool.call_all::<U64>("eth_getTransactionCount", json!([sender, "latest"])).await;
            let told: Vec<u64> = told.into_iter().flatten().map(|nonce| nonce.to()).collect();
            let agreed = self.pool.reached(told.clone());
            // A nonce reported too high leaves gaps that cost money to fill.
            (agreed, agreed.or_else(|| told.into_iter().min()))
        };
        let balance = self.balance(sender);
        let finalized = async {
            let block = final_block?;
            let params = json!([sender, U64::from(block)]);
            let answers: Vec<U64> = self.pool.call_settled("eth_getTransactionCount", params, block).await;
            // The nonce that a majority has reached: a node that reports less must not hold back the lane.
            self.pool.reached(answers).map(|nonce| nonce.to())
        };
        let ((agreed_nonce, latest_nonce), balance, final_nonce) = tokio::join!(latest, balance, finalized);
        Account { sender, latest_nonce, agreed_nonce, final_nonce, balance }
    }

    /// The account's balance, wei. A changed balance takes a majority, because one node reporting too little would stop
    /// the lane.
    async fn balance(&self, sender: Address) -> Option<U256> {
        let params = json!([sender, "latest"]);
        let told = self.pool.call::<U256>("eth_getBalance", params.clone()).await.ok()?;
        if self.pool.len() == 1 || self.balances.get(&sender).is_some_and(|known| told == *known) {
            return Some(told);
        }
        let told: Vec<U256> = self.pool.call_all("eth_getBalance", params).await.into_iter().flatten().collect();
        self.pool.reached(told.clone()).or_else(|| told.into_iter().max())
    }
}

#[cfg(test)]
mod tests;
