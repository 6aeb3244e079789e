//! All nodes of one chain: selection, order, and quorum of answers.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use alloy_primitives::{B256, Bytes};
use futures_util::{
    StreamExt as _,
    future::{Either, join_all},
    stream::FuturesUnordered,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use super::{
    backoff::PauseRule,
    endpoint::RpcEndpoint,
    error::RpcError,
    feed::HeadFeed,
    hedge::{HedgeBudget, HedgeRule, hedge_after, is_read},
    node::Node,
    report::{self, chain_cap},
    standing::{HeadRule, OwnHead, Place},
    subscription::HeadSubscription,
};
use crate::{
    chain::{RpcErrorClass, Taken},
    lane::SendOutcome,
    ledger::{AttemptRecord, Durable},
    protection::Protection,
    relay::{clock, handle::status::EndpointStatus},
    sender::{SendReport, tuning::RpcTuning},
    time::Timestamp,
};

/// Assumed block time if none is configured.
const USUAL_BLOCK: Duration = Duration::from_secs(12);

/// All endpoints of one chain.
#[derive(Debug, Clone)]
pub struct RpcPool {
    pub(in crate::relay) nodes: Arc<Vec<Node>>,
    timeout: Duration,
    hedge: HedgeRule,
    budget: Arc<Mutex<HedgeBudget>>,
    heads: Arc<watch::Sender<HeadFeed>>,
    head_rule: HeadRule,
    conditions: Arc<Mutex<Conditions>>,
}

/// Problems with following the chain, as last found by the watcher.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::relay) struct Conditions {
    /// Start of the period without any node's head, and the last error; `None` while heads arrive.
    pub(in crate::relay) unfollowed: Option<(Timestamp, String)>,
    /// Start of the period without a majority on the final block; `None` while there is one.
    pub(in crate::relay) no_majority_since: Option<Timestamp>,
    /// True while the nodes keep no state of the newest final block; work that needs it waits.
    pub(in crate::relay) has_no_final_state: bool,
}

/// Reason for asking a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// The best node, or the next after a failed one.
    InOrder,
    /// A hedge, because another node is slow.
    AsHedge,
}

impl RpcPool {
    /// Creates a pool that awaits every answer for at most `timeout` and asks one node after the other, never two at
    /// once.
    pub fn new(endpoints: Vec<RpcEndpoint>, timeout: Duration) -> Self {
        Self::by_rules(endpoints, timeout, HedgeRule::NEVER, PauseRule::default())
    }

    /// A chain's pool.
    pub(in crate::relay) fn of_chain(endpoints: Vec<RpcEndpoint>, tuning: &RpcTuning, block: Duration) -> Self {
        let hedge = HedgeRule { floor: tuning.hedge_floor, budget_percent: tuning.hedge_budget_percent };
        let pool = Self::by_rules(endpoints, tuning.rpc_timeout, hedge, PauseRule { first: tuning.rate_limit_pause });
        Self { head_rule: HeadRule::new(block), ..pool }
    }

    pub(in crate::relay) fn by_rules(
        endpoints: Vec<RpcEndpoint>,
        timeout: Duration,
        hedge: HedgeRule,
        pause: PauseRule,
    ) -> Self {
        let nodes = endpoints.into_iter().map(|endpoint| Node::new(endpoint, timeout, pause)).collect();
        let budget = Arc::new(Mutex::new(HedgeBudget::new(hedge.budget_percent)));
        Self {
            nodes: Arc::new(nodes),
            timeout,
            hedge,
            budget,
            heads: Arc::new(watch::Sender::default()),
            head_rule: HeadRule::new(USUAL_BLOCK),
            conditions: Arc::default(),
        }
    }

    /// From now on verifies every node's chain id before any other call, and refuses a node of another chain.
    pub(in crate::relay) fn expect_chain(&self, chain_id: u64) {
        for node in self.nodes.iter() {
            node.expect_chain(chain_id);
        }
    }

    /// The heads reported by subscriptions.
    pub(in crate::relay) fn feed(&self) -> watch::Receiver<HeadFeed> {
        self.heads.subscribe()
    }

    /// A subscription for every endpoint with a WebSocket; the caller must run each. One without a head for
    /// `longest_silence` is renewed.
    pub(in crate::relay) fn subscriptions(&self, chain_id: u64, longest_silence: Duration) -> Vec<HeadSubscription> {
        let with_heads = self.nodes.iter().enumerate().filter(|(_, node)| node.endpoint.has_heads());
        with_heads
            .map(|(place, _)| {
                let (nodes, feed) = (self.nodes.clone(), self.heads.clone());
                HeadSubscription { nodes, place, feed, chain_id, timeout: self.timeout, longest_silence }
            })
            .collect()
    }

    /// Number of endpoints.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// True if there is no endpoint.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Endpoints to ask for `method`, the healthiest and fastest first; after those the ones whose head is far from the
    /// others', then failing ones, then those backed off, and last those known to lack the method.
    pub(in crate::relay) fn ranked(&self, method: &str) -> VecDeque<&Node> {
        self.ranked_places(method).into_iter().map(|place| &self.nodes[place]).collect()
    }

    /// As [`Self::ranked`], by place in the configuration.
    pub(in crate::relay) fn ranked_places(&self, method: &str) -> Vec<usize> {
        let now = Instant::now();
        let reference = self.reference();
        let mut nodes: Vec<_> = self
            .nodes
            .iter()
            .enumerate()
            .map(|(place, node)| ((!node.may_have(method), node.rank(now, self.place_of(node, reference, now))), place))
            .collect();
        nodes.sort_by(|(a, _), (b, _)| a.cmp(b));
        nodes.into_iter().map(|(_, place)| place).collect()
    }

    fn place_of(&self, node: &Node, reference: Option<u64>, now: Instant) -> Place {
        match (node.own_head(now), reference) {
            (Some(head), Some(reference)) => self.head_rule.place(&head, reference),
            _ => Place::With,
        }
    }

    /// The height that most of the advancing nodes have reached, as they report it.
    pub(in crate::relay) fn reference(&self) -> Option<u64> {
        let now = Instant::now();
        let heads: Vec<OwnHead> = self.nodes.iter().filter_map(|node| node.own_head(now)).collect();
        self.head_rule.reference(&heads, clock::now().as_secs())
    }

    /// Tolerance between heads.
    pub(in crate::relay) const fn head_rule(&self) -> &HeadRule {
        &self.head_rule
    }

    /// Logs each change of a node's position relative to the others' heads.
    pub(in crate::relay) fn tell_places(&self) {
        let now = Instant::now();
        let Some(reference) = self.reference() else { return };
        for node in self.nodes.iter() {
            let place = self.place_of(node, Some(reference), now);
            let Some(was) = node.put(place) else { continue };
            let (chain_id, endpoint) = (node.expected_chain(), node.endpoint.name());
            let head = node.own_head(now).map(|head| head.number);
            if place == Place::With {
                tracing::info!(chain_id, endpoint, head, was = was.as_str(), "a node's head is with the others' again");
            } else {
                let place = place.as_str();
                tracing::warn!(
                    chain_id,
                    endpoint,
                    head,
                    others = reference,
                    place,
                    "a node's head is far from the others'; it is asked last"
                );
                let (chain_id, endpoint) = (chain_id.to_string(), endpoint.to_owned());
                metrics::counter!("slackwater_rpc_heads_astray_total", "chain_id" => chain_id, "endpoint" => endpoint, "place" => place)
                    .increment(1);
            }
        }
    }

    /// Current problems with following the chain.
    pub(in crate::relay) fn conditions(&self) -> Conditions {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Updates the problems with following the chain.
    pub(in crate::relay) fn note_conditions(&self, change: impl FnOnce(&mut Conditions)) {
        change(&mut self.conditions.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Asks the node at `place`.
    pub(in crate::relay) async fn call_at<T: DeserializeOwned>(
        &self,
        place: usize,
        method: &'static str,
        params: &Value,
    ) -> Result<T, RpcError> {
        match self.nodes.get(place) {
            Some(node) => node.call(method, params, self.timeout).await,
            None => Err(RpcError::no_endpoint(method)),
        }
    }

    /// Time to wait for the node at `place` before another one is asked for `method` too.
    pub(in crate::relay) fn patience_at(&self, place: usize, method: &'static str) -> Duration {
        let latency = self.nodes.get(place).and_then(|node| node.latency_of(method));
        hedge_after(latency.as_ref(), self.hedge.floor, self.timeout)
    }

    /// Counts a read that may be hedged.
    pub(in crate::relay) fn note_read(&self) {
        self.budget(HedgeBudget::called);
    }

    /// Takes a hedge at the node at `place`; true if it is usable, within its rate limit, and the budget allows it.
    pub(in crate::relay) fn take_hedge_at(&self, place: usize) -> bool {
        let Some(node) = self.nodes.get(place) else { return false };
        if !self.budget(HedgeBudget::take) {
            metrics::counter!("slackwater_rpc_hedges_withheld_total", "reason" => "budget").increment(1);
            return false;
        }
        let is_free = node.is_usable(Instant::now()) && node.try_turn();
        if is_free {
            count("slackwater_rpc_hedges_total", node);
        } else {
            self.budget(HedgeBudget::give_back);
        }
        is_free
    }

    /// Counts a hedge whose answer was used.
    pub(in crate::relay) fn note_hedge_won(&self, place: usize) {
        if let Some(node) = self.nodes.get(place) {
            count("slackwater_rpc_hedges_won_total", node);
        }
    }

    /// True unless the node at `place` is known to lack `method`.
    pub(in crate::relay) fn may_have(&self, place: usize, method: &str) -> bool {
        self.nodes.get(place).is_some_and(|node| node.may_have(method))
    }

    /// Records whether an answer of the node at `place` to `method` was usable.
    pub(in crate::relay) fn note_use(&self, place: usize, method: &'static str, is_of_use: bool) {
        if let Some(node) = self.nodes.get(place) {
            node.note_use(method, is_of_use);
        }
    }

    /// True if the node at `place` is healthy and not backed off.
    pub(in crate::relay) fn is_usable(&self, place: usize) -> bool {
        self.nodes.get(place).is_some_and(|node| node.is_usable(Instant::now()))
    }

    /// Records that a receipt contradicted the simulation of the node at `place`, and agreed with another node's.
    pub(in crate::relay) fn demote(&self, place: usize) {
        let Some(node) = self.nodes.get(place) else { return };
        let count = {
            let mut health = node.health();
            health.false_simulations += 1;
            health.false_simulations
        };
        tracing::warn!(
            chain_id = node.expected_chain(),
            endpoint = node.endpoint.name(),
            count,
            "a receipt contradicts a node's simulation; others are asked first"
        );
        self::count("slackwater_simulations_false_total", node);
    }

    /// Number of simulations of the node at `place` contradicted by receipts.
    pub(in crate::relay) fn false_simulations(&self, place: usize) -> u64 {
        self.nodes.get(place).map_or(0, |node| node.health().false_simulations)
    }

    /// Asks one node after the other until one answers. If a read takes longer than usual at a node, the next one is
    /// asked too and the first answer counts; calls still in flight are then dropped.
    ///
    /// # Errors
    /// The last [`RpcError`]; a revert is an answer and is not retried elsewhere.
    pub async fn call<T: DeserializeOwned>(&self, method: &'static str, params: Value) -> Result<T, RpcError> {
        let mut waiting = self.ranked(method);
        let is_hedged = self.hedge.budget_percent > 0 && waiting.len() > 1 && is_read(method);
        if is_hedged {
            self.budget(HedgeBudget::called);
        }
        let params = &params;
        let ask = |node, asked| async move {
            let answer = match asked {
                Asked::InOrder => Either::Left(Node::call(node, method, params, self.timeout)),
                // Its rate limit turn is already taken.
                Asked::AsHedge => Either::Right(Node::ask(node, method, params, self.timeout, None)),
            };
            (node, asked, answer.await)
        };
        let patience_with = |node: &Node| hedge_after(node.latency_of(method).as_ref(), self.hedge.floor, self.timeout);
        let Some(first) = waiting.pop_front() else { return Err(RpcError::no_endpoint(method)) };
        let mut patience = patience_with(first);
        let mut hedge_at = Instant::now() + patience;
        let mut was_withheld = false;
        // Calls still in here at the end are dropped, which counts as no node's failure.
        let mut running = FuturesUnordered::new();
        running.push(ask(first, Asked::InOrder));
        loop {
            tokio::select! {
                biased;
                Some((node, asked, answer)) = running.next() => match answer {
                    Err(error) if !error.is_answer() => match waiting.pop_front() {
                        Some(next) => {
                            patience = patience_with(next);
                            hedge_at = Instant::now() + patience;
                            running.push(ask(next, Asked::InOrder));
                        }
                        None if running.is_empty() => return Err(error),
                        None => {}
                    },
                    answer => {
                        if asked == Asked::AsHedge {
                            count("slackwater_rpc_hedges_won_total", node);
                        }
                        return answer;
                    }
                },
                () = tokio::time::sleep_until(hedge_at), if is_hedged && !waiting.is_empty() => {
                    match self.take_hedge(&mut waiting) {
                        Ok(node) => {
                            count("slackwater_rpc_hedges_total", node);
                            patience = patience_with(node);
                            running.push(ask(node, Asked::AsHedge));
                        }
                        Err(reason) if !was_withheld => {
                            was_withheld = true;
                            metrics::counter!("slackwater_rpc_hedges_withheld_total", "reason" => reason).increment(1);
                        }
                        Err(_) => {}
                    }
                    hedge_at = Instant::now() + patience;
                }
            }
        }
    }

    /// The next node for a hedge: usable, within its rate limit, and within the hedge budget. The error names the
    /// reason for none.
    fn take_hedge<'a>(&self, waiting: &mut VecDeque<&'a Node>) -> Result<&'a Node, &'static str> {
        if !self.budget(HedgeBudget::take) {
            return Err("budget");
        }
        let now = Instant::now();
        let place = waiting.iter().position(|node| node.is_usable(now) && node.try_turn());
        place.and_then(|place| waiting.remove(place)).ok_or_else(|| {
            self.budget(HedgeBudget::give_back);
            "no_node"
        })
    }

    fn budget<T>(&self, act: impl FnOnce(&mut HedgeBudget) -> T) -> T {
        act(&mut self.budget.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks every node at once, and returns the answer shared by more than half of those that answered; once more than
    /// half of all agree, the others are not awaited. So one node that lags or lies decides nothing, unless it is the
    /// only one.
    ///
    /// # Errors
    /// The [`RpcError`] of most nodes; a retryable one if no answer has a majority.
    pub async fn call_agreed<T: DeserializeOwned + PartialEq>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<T, RpcError> {
        let mut asked: FuturesUnordered<_> =
            self.nodes.iter().map(|node| node.call::<T>(method, &params, self.timeout)).collect();
        let mut votes: Vec<(T, usize)> = Vec::new();
        let (mut refused, mut failed) = (Vec::new(), None);
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(value) => match votes.iter_mut().find(|(known, _)| *known == value) {
                    Some((_, count)) => *count += 1,
                    None => votes.push((value, 1)),
                },
                Err(error) if error.is_answer() => refused.push(error),
                Err(error) => failed = Some(error),
            }
            if let Some(place) = votes.iter().position(|(_, count)| count * 2 > self.nodes.len()) {
                return Ok(votes.swap_remove(place).0);
            }
        }
        let answered = votes.iter().map(|(_, count)| count).sum::<usize>() + refused.len();
        if let Some(place) = votes.iter().position(|(_, count)| count * 2 > answered) {
            return Ok(votes.swap_remove(place).0);
        }
        if refused.len() * 2 > answered {
            return Err(refused.swap_remove(0));
        }
        Err(failed.filter(|_| answered == 0).unwrap_or_else(|| RpcError::no_majority(method, answered)))
    }

    /// Asks every node at once; answers are in the order of the endpoints. Once more than half have answered, each of
    /// the others is awaited only for its usual time: a hanging node must not hold up the others' agreement.
    pub async fn call_all<T: DeserializeOwned>(&self, method: &'static str, params: Value) -> Vec<Result<T, RpcError>> {
        let answers = self.ask_all(method, &params, |_| true).await;
        answers.into_iter().map(|(answer, _)| answer).collect()
    }

    /// As [`Self::call_all`], with each node's answer time.
    pub(in crate::relay) async fn call_all_timed<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Vec<(Result<T, RpcError>, Duration)> {
        self.ask_all(method, &params, |_| true).await
    }

    async fn ask_all<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: &Value,
        is_asked: impl Fn(&Node) -> bool,
    ) -> Vec<(Result<T, RpcError>, Duration)> {
        let start = Instant::now();
        let mut waiting: BTreeMap<usize, &Node> =
            self.nodes.iter().enumerate().filter(|(_, node)| is_asked(node)).collect();
        let mut running = FuturesUnordered::new();
        for (&place, &node) in &waiting {
            running.push(async move { (place, node.call(method, params, self.timeout).await) });
        }
        let mut answers = BTreeMap::new();
        let mut heard = 0;
        while !waiting.is_empty() {
            let now = Instant::now();
            let patience = |node: &&Node| match node.is_failing() {
                true => self.hedge.floor,
                false => hedge_after(node.latency_of(method).as_ref(), self.hedge.floor, self.timeout),
            };
            let longest = waiting.values().map(patience).max().unwrap_or_default();
            let is_enough = heard * 2 > self.nodes.len() || waiting.values().all(|node| node.is_failing());
            tokio::select! {
                biased;
                Some((place, answer)) = running.next() => {
                    waiting.remove(&place);
                    heard += usize::from(answer.as_ref().err().is_none_or(RpcError::is_answer));
                    answers.insert(place, (answer, start.elapsed()));
                }
                () = tokio::time::sleep_until(now.max(start + longest)), if is_enough => break,
            }
        }
        let waited = start.elapsed();
        answers.extend(waiting.into_iter().map(|(place, node)| (place, (Err(node.given_up(method, waited)), waited))));
        answers.into_values().collect()
    }

    /// Configured names, in order.
    pub(in crate::relay) fn names(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.endpoint.name().to_owned()).collect()
    }

    /// Asks the nodes for which `block` is final, by their own last report ([`Self::note_final`]), and returns their
    /// answers.
    ///
    /// **Invariant I9:** another node's answer about that block may belong to a branch that a reorg has replaced,
    /// however many others have it as final.
    pub(in crate::relay) async fn call_settled<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: Value,
        block: u64,
    ) -> Vec<T> {
        if !Protection::ReadQuorum.is_on() {
            return self.call(method, params).await.ok().into_iter().collect();
        }
        let is_settled = |node: &Node| {
            node.health().final_block.is_some_and(|last| last >= block) || !Protection::OwnFinality.is_on()
        };
        let answers = self.ask_all(method, &params, is_settled).await;
        answers.into_iter().filter_map(|(answer, _)| answer.ok()).collect()
    }

    /// Newest block that a majority of the nodes has reported as final.
    pub(in crate::relay) fn final_block(&self) -> Option<u64> {
        self.reached(self.nodes.iter().filter_map(|node| node.health().final_block).collect())
    }

    /// True if `count` nodes are a majority.
    pub(in crate::relay) fn is_majority(&self, count: usize) -> bool {
        let all = if Protection::ReadQuorum.is_on() { self.nodes.len() } else { 1 };
        count * 2 > all
    }

    /// Records each node's newly reported final block, in the order of the endpoints. `None` keeps its last report,
    /// since final blocks stay final.
    pub(in crate::relay) fn note_final(&self, told: impl IntoIterator<Item = Option<u64>>) {
        for (node, told) in self.nodes.iter().zip(told) {
            if told.is_some() {
                node.health().final_block = told;
            }
        }
    }

    /// The highest value that a majority of the nodes reaches; `None` if fewer answered. One node alone can't raise it.
    pub(in crate::relay) fn reached<T: Ord + Copy>(&self, mut answers: Vec<T>) -> Option<T> {
        answers.sort_unstable();
        let place = if Protection::ReadQuorum.is_on() { self.nodes.len() / 2 } else { 0 };
        answers.into_iter().rev().nth(place)
    }

    /// Names and chain ids of all endpoints that answer.
    pub async fn chain_ids(&self) -> Vec<(String, Result<u64, RpcError>)> {
        let answers = join_all(self.nodes.iter().map(|node| async {
            let id = node.call::<alloy_primitives::U64>("eth_chainId", &json!([]), self.timeout).await;
            (node.endpoint.name().to_owned(), id.map(|id| id.to::<u64>()))
        }));
        answers.await
    }

    /// Sends a committed attempt to every node, except those known to refuse its maximum cost, unless all do. `taken`
    /// receives the result as soon as one node has accepted it, else the combined answer at the end: a hanging node
    /// delays nothing, and still gets its full time.
    ///
    /// **Invariant I2:** only a [`Durable`] attempt can be sent. **Invariant I7:** nothing is sent at or after `until`.
    pub(in crate::relay) async fn broadcast(
        &self,
        attempt: &Durable<AttemptRecord>,
        gas_limit: u64,
        until: Option<Timestamp>,
        taken: oneshot::Sender<SendReport>,
    ) {
        let params = &json!([attempt.get().raw]);
        let (hash, fees) = (attempt.get().hash, attempt.get().fees);
        let worst_wei = u128::from(gas_limit).saturating_mul(fees.max_fee_per_gas);
        let now = Instant::now();
        let takes = |node: &&Node| node.fee_cap().get(now).is_none_or(|cap| worst_wei <= cap);
        let mut nodes: Vec<&Node> = self.nodes.iter().filter(takes).collect();
        if nodes.is_empty() {
            nodes = self.nodes.iter().collect();
        }
        let send = |node| async move {
            (node, Node::call_before::<B256>(node, "eth_sendRawTransaction", params, self.timeout, until).await)
        };
        let mut report = SendReport::of(SendOutcome::Refused(RpcErrorClass::EndpointUnusable));
        let mut taken = Some(taken);
        let mut together = None;
        let mut running: FuturesUnordered<_> = nodes.into_iter().map(send).collect();
        while let Some((node, answer)) = running.next().await {
            match &answer {
                Ok(answered) if *answered == hash => node.fee_cap().taken(worst_wei),
                Ok(_) => {}
                Err(error) => {
                    report::learn(&mut report, error, fees);
                    node.fee_cap().refused(error, worst_wei, now);
                }
            }
            let outcome = Self::sent(node, answer, hash);
            together = Some(together.map_or(outcome, |others| merge(others, outcome)));
            if outcome == SendOutcome::Taken
                && let Some(taken) = taken.take()
            {
                let _ = taken.send(SendReport { outcome, ..report });
            }
        }
        if let Some(taken) = taken {
            let _ = taken.send(SendReport { outcome: together.unwrap_or(report.outcome), ..report });
        }
    }

    /// Highest gas limit × fee cap accepted by the healthy nodes, wei; `configured` unless their refusals show another.
    /// `None` if unknown.
    pub(in crate::relay) fn fee_cap(&self, configured: Option<u128>) -> Option<u128> {
        let now = Instant::now();
        let usable = self.nodes.iter().filter(|node| node.is_usable(now));
        let learned: Vec<Option<u128>> = usable.map(|node| node.fee_cap().get(now)).collect();
        chain_cap(&learned, self.nodes.len(), configured)
    }

    /// Interprets a node's answer to a transaction.
    fn sent(node: &Node, answer: Result<B256, RpcError>, hash: B256) -> SendOutcome {
        match answer {
            Ok(answered) if answered == hash => SendOutcome::Taken,
            // A node that returns another hash is faulty; it may or may not have accepted the bytes.
            Ok(_) => {
                node.health().last_error = Some("returned another transaction hash".to_owned());
                SendOutcome::Maybe(RpcErrorClass::NodeUnavailable)
            }
            Err(error) => {
                tracing::debug!(endpoint = %error.endpoint, class = error.class.as_str(), message = %error.message, %hash, "broadcast answer");
                metrics::counter!("slackwater_broadcast_errors_total", "class" => error.class.as_str()).increment(1);
                match error.taken {
                    Taken::Yes => SendOutcome::Taken,
                    Taken::Maybe => SendOutcome::Maybe(error.class),
                    Taken::No => SendOutcome::Refused(error.class),
                }
            }
        }
    }

    /// Condition of every endpoint.
    pub fn status(&self) -> Vec<EndpointStatus> {
        self.nodes.iter().map(Node::status).collect()
    }

    /// Runtime code of a contract.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn code(&self, address: alloy_primitives::Address) -> Result<Bytes, RpcError> {
        self.call("eth_getCode", json!([address, "latest"])).await
    }
}

/// Increments `metric` for `node`.
fn count(metric: &'static str, node: &Node) {
    let (chain_id, endpoint) = (node.expected_chain().to_string(), node.endpoint.name().to_owned());
    metrics::counter!(metric, "chain_id" => chain_id, "endpoint" => endpoint).increment(1);
}

/// Combines two nodes' outcomes: taken beats maybe beats refused; of two refusals the more specific one.
fn merge(a: SendOutcome, b: SendOutcome) -> SendOutcome {
    use SendOutcome::{Maybe, Refused, Taken};
    match (a, b) {
        (Taken, _) | (_, Taken) => Taken,
        (Maybe(class), _) | (_, Maybe(class)) => Maybe(class),
        (Refused(a), Refused(b)) => {
            // A faulty node's refusal says nothing about the transaction.
            let is_vague = matches!(
                a,
                RpcErrorClass::RateLimited | RpcErrorClass::EndpointUnusable | RpcErrorClass::NodeUnavailable
            );
            Refused(if is_vague { b } else { a })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_that_took_it_is_enough() {
        use SendOutcome::{Maybe, Refused, Taken};
        let refused = Refused(RpcErrorClass::Underpriced);
        assert_eq!(merge(refused, Taken), Taken);
        assert_eq!(merge(refused, Maybe(RpcErrorClass::Timeout)), Maybe(RpcErrorClass::Timeout));
        assert_eq!(merge(Refused(RpcErrorClass::RateLimited), refused), refused);
    }
}
