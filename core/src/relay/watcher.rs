//! One head watcher per chain serves everything that waits.

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
    clock,
    data_fee::{self, DataFeeFault},
    fees::{Header, next_base_fee},
    market::Histories,
    pace::{Looks, PaceRule},
    rpc::{HeadFeed, RpcError, RpcPool},
};
use crate::{
    chain::{ChainSpec, FinalityRule, RpcErrorClass, data_fee::DataFeeModel},
    protection::Protection,
};

/// Blocks of history whose hashes are kept to notice reorgs, at least.
const MIN_WINDOW_BLOCKS: u64 = 128;

/// Blocks of fee history that are read with every head, at least: a reorg shows in them.
const LEAST_BLOCKS: u64 = 10;

/// Blocks of fee history that every node is taken to tell at once: a node that refuses more is asked for these.
const USUAL_BLOCKS: u64 = 64;

/// Headers that are read at the same time where several blocks came since the last look.
const HEADERS_AT_ONCE: usize = 16;

/// Heads whose account nonces are remembered until they are final.
const MAX_WITNESSED: usize = 16_384;

/// Block times without a new head after which all nodes are asked for theirs: the one that is asked first may stand still.
const STILL_BLOCKS: u32 = 2;

/// How often all nodes are asked for the hash of a final block.
const FINAL_HASH_EVERY: Duration = Duration::from_secs(60);

/// What the chain looks like now.
#[derive(Debug, Clone)]
pub(super) struct HeadUpdate {
    pub(super) header: Header,
    /// Base fee of the next block by the chain's rule, if the header is right.
    pub(super) next_base_fee: u128,
    pub(super) final_block: Option<u64>,
    /// Its hash, where it is known.
    pub(super) final_hash: Option<B256>,
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
    /// At the head, as a majority reaches it.
    agreed_nonce: Option<u64>,
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
    /// When the head that is followed came.
    came_at: Option<Instant>,
    /// When all nodes were last asked for their heads.
    surveyed_at: Option<Instant>,
    /// Newest block that a majority had as final: what is final stays so, whoever answers.
    last_final: Option<u64>,
    /// Balances as they were last believed, in the order of `senders`.
    balances: BTreeMap<Address, U256>,
    /// When the hash of a final block was last told.
    final_hash_at: Option<Instant>,
    /// Account nonces as a majority had them at a head, by its height: for nodes that keep no state of a final block.
    nonces: BTreeMap<u64, (B256, BTreeMap<Address, u64>)>,
}

/// What a node says of a tag such as `finalized`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TagWord {
    /// The block under it.
    Block(u64),
    /// It knows no such tag.
    NotServed,
    /// Nothing.
    Silent,
}

impl TagWord {
    fn of(answer: Result<Option<Header>, RpcError>) -> Self {
        match answer {
            Ok(Some(header)) => Self::Block(header.number()),
            Ok(None) => Self::NotServed,
            // An argument that it does not take, or a method without tags.
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
        Self {
            spec,
            pool,
            senders,
            pace,
            multicall3,
            seen: BTreeMap::new(),
            head: None,
            believed,
            longest,
            came_at: None,
            surveyed_at: None,
            last_final: None,
            balances: BTreeMap::new(),
            final_hash_at: None,
            nonces: BTreeMap::new(),
        }
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
                    self.pool.note_conditions(|conditions| conditions.unfollowed = None);
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
    ///
    /// The fastest node is asked first. Once it tells a new head, or repeats an old one for [`STILL_BLOCKS`], all are asked for
    /// theirs, and the head that is followed is one that most of the nodes that move have reached.
    pub(super) async fn poll(&mut self) -> Result<Option<HeadUpdate>, RpcError> {
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
        let missing = number.saturating_sub(self.believed.load(Ordering::Relaxed));
        let blocks = missing.clamp(LEAST_BLOCKS, self.longest);
        // What all the nodes that count have reached: a vote about a block needs several that know it.
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
        // A little more than is not final: see `witness_nonces`.
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

    /// Whether all nodes are to be asked, although the first one tells nothing new.
    fn is_survey_due(&self) -> bool {
        let block = self.spec.block_time();
        let is_over = |since: Option<Instant>, wait| since.is_some_and(|since| since.elapsed() >= wait);
        let is_still = is_over(self.came_at, block * STILL_BLOCKS);
        let has_rested = is_over(self.surveyed_at, block.max(self.pace.interval));
        self.pool.len() > 1 && is_still && has_rested
    }

    /// Every node's newest block, in the order of the endpoints. The only node has said it already.
    async fn latest(&self, told: Option<&Header>) -> Vec<Option<Header>> {
        if self.pool.len() == 1 {
            return vec![told.cloned()];
        }
        let told = self.pool.call_all::<Option<Header>>("eth_getBlockByNumber", json!(["latest", false])).await;
        told.into_iter().map(|told| told.ok().flatten()).collect()
    }

    /// What every node says of the tag that decides what is final; `None` where depth alone does.
    async fn tagged(&self) -> Option<Vec<TagWord>> {
        let tag = self.spec.finality.tag()?;
        let told = self.pool.call_all::<Option<Header>>("eth_getBlockByNumber", json!([tag, false])).await;
        Some(told.into_iter().map(TagWord::of).collect())
    }

    /// The head to follow: what a majority has as its newest block, else what the first node told, unless that is far from what
    /// most of the nodes that move have reached; then the highest that is not.
    fn followed(&self, told: Option<Header>, latest: &[Option<Header>]) -> Option<Header> {
        let Some(reference) = self.pool.reference() else { return told };
        let highest = reference.saturating_add(self.pool.head_rule().tolerance());
        let is_near = |header: &&Header| (reference..=highest).contains(&header.number());
        if let Some(told) = told.as_ref().filter(is_near) {
            // Another branch at the same height, on which most of the nodes are.
            let same = |a: &Header, b: &Header| a.number == b.number && a.hash == b.hash;
            let votes = |header: &Header| latest.iter().flatten().filter(|other| same(header, other)).count();
            let other = latest.iter().flatten().find(|header| header.number == told.number && header.hash != told.hash);
            return Some(other.filter(|other| self.pool.is_majority(votes(other))).unwrap_or(told).clone());
        }
        let known = latest.iter().flatten().chain(&told).filter(|header| header.number() <= highest);
        known.max_by_key(|header| header.number()).cloned().or(told)
    }

    /// A block that is known, of a node that is a little behind, is no news.
    fn is_news(&self, header: &Header) -> bool {
        let is_known = self.head.is_some() && self.seen.get(&header.number()) == Some(&header.hash);
        !is_known && self.head != Some(header.hash)
    }

    /// The head to follow, with what is canonical up to it: `followed`, unless most of the nodes are on another branch (invariant I15).
    /// Then the highest head of a node that is on theirs.
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

    /// Whether more nodes are on the branch of `head` than on others; as many do where it only goes on from what is known. Those that are
    /// further, or far behind, say nothing of it. One that is not linked to what is known needs most of those that are near it.
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
        // The node that told it may have another head by now.
        let backing = backing.max(1);
        backing > others || (backing == others && goes_on)
    }

    /// One node's word about the time moves nothing further than the others allow: a header from the future would end whatever
    /// has a deadline.
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

    /// Walks back from the new head to the newest block that we knew to be canonical. Whether it came there.
    async fn canonical(&self, head: &Header) -> Result<(Vec<(u64, B256)>, bool), RpcError> {
        let mut found = vec![(head.number(), head.hash)];
        let Some(oldest) = self.seen.keys().next().copied() else { return Ok((found, false)) };
        let mut is_linked = false;
        let mut parent = head.parent_hash;
        let mut number = head.number();
        // Blocks that nobody has seen are asked for together: where they come faster than answers do, one after the other would
        // never catch up.
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
                // The chain moved under us: the next poll starts again.
                break;
            }
            parent = header.parent_hash;
            steps += 1;
        }
        found.reverse();
        Ok((found, is_linked))
    }

    /// Newest final block in the eyes of a majority: one node that lies, or runs ahead, makes nothing final (I9). Also notes what is
    /// final for each node. Where too few say it, what was final stays so and nothing else is.
    ///
    /// `heads` are the nodes' newest blocks, `tagged` what they say of the tag. Depth stands in for a tag only where a majority
    /// says that there is none.
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

    /// The hash of a final block, now and then, as most nodes have it that have it as final themselves: one that lags may be on a
    /// branch that was left. A wrong one would keep the relay from starting for ever (invariant I15).
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

    /// Remembers the accounts' nonces at this head. Once it is final they are so too: what nodes can't tell that keep no state of a
    /// final block.
    fn witness_nonces(&mut self, header: &Header, final_block: Option<u64>, accounts: &mut [Account]) {
        // Nodes that are a little ahead have counted blocks above this head.
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
            // A nonce told too high leaves holes that must be paid for.
            (agreed, agreed.or_else(|| told.into_iter().min()))
        };
        let balance = self.balance(sender);
        let finalized = async {
            let block = final_block?;
            let params = json!([sender, U64::from(block)]);
            let answers: Vec<U64> = self.pool.call_settled("eth_getTransactionCount", params, block).await;
            // What a majority has seen consumed: one that tells less must not keep the lane from what is final.
            self.pool.reached(answers).map(|nonce| nonce.to())
        };
        let ((agreed_nonce, latest_nonce), balance, final_nonce) = tokio::join!(latest, balance, finalized);
        Account { sender, latest_nonce, agreed_nonce, final_nonce, balance }
    }

    /// The account's balance. One node's word that there is less than before would stop the lane, so that takes a majority.
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
