//! Simulation before sending: one call per batch shows which members would succeed, so that a poison item harms only
//! itself (I11). A second node is asked before a member is refused (I15).

use std::{
    cmp::Reverse,
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, U64, U256};
use alloy_sol_types::SolCall;
use futures_util::{
    StreamExt as _,
    future::join_all,
    stream::{self, FuturesUnordered},
};
use serde_json::{Value, json};
use slackwater_contracts::{forwarder, multicall3};
use tokio::time::Instant;

use crate::{
    chain::{RpcErrorClass, is_execution_failure},
    protection::Protection,
    relay::{
        chain::shared::ChainShared,
        market::header::Header,
        rpc::{RpcError, RpcPool},
    },
    request::{
        VerifiedRequest,
        gate::Word,
        simulation::{self, Ahead, Environment, SimulatedBlock, Verdict},
        vehicle::{VehicleKey, VehicleParams},
        verify_input,
    },
    sender::Simulation,
};

const SIMULATE: &str = "eth_simulateV1";
/// An `eth_call` with block overrides.
const CALL_IN_BLOCK: &str = "eth_call in another block";

/// Concurrent calls for single members, at a node that simulates no batches.
const CALLS_AT_ONCE: usize = 8;

/// Most failing members of a batch whose reason is determined for display.
const MAX_EXPLAINED: usize = 8;

/// Factor on another node's usual answer time for which it is awaited after a first answer.
const SECOND_PATIENCE: u32 = 4;

/// A simulation request for a batch.
#[derive(Debug, Clone, Copy)]
pub(in crate::relay) struct Question<'a> {
    pub(in crate::relay) key: VehicleKey,
    pub(in crate::relay) members: &'a [Arc<VerifiedRequest>],
    /// Forwarder nonces of members with predecessors in flight, which are assumed to have executed. Requires a known
    /// storage slot of the forwarder's nonces.
    pub(in crate::relay) ahead: &'a Ahead,
    /// True if the forwarder's storage layout is known.
    pub(in crate::relay) is_known_forwarder: bool,
    pub(in crate::relay) params: &'a VehicleParams,
    /// Environment of the block that is to include it.
    pub(in crate::relay) environment: Environment,
    /// Address of Multicall3; `None` where it is not deployed.
    pub(in crate::relay) multicall3: Option<Address>,
    /// The block on whose state it is simulated: the followed head, not a node's own.
    pub(in crate::relay) block: u64,
    /// Time for a node to learn of that block.
    pub(in crate::relay) patience: Duration,
    /// True if a yes takes two nodes, too.
    pub(in crate::relay) is_wary: bool,
}

/// One node's simulation result for a batch.
#[derive(Debug, Clone)]
struct Heard {
    place: usize,
    words: Vec<Word>,
    /// Measured gas of each member in a transaction alone; `None` if unknown.
    used: Vec<Option<u64>>,
    whole: Option<String>,
    /// True for one simulation of the whole batch on the requested block.
    is_batch: bool,
}

/// Simulates a batch. One node's yes is enough, unless two are required; a no takes a second node. The second answer is
/// awaited not much longer than that node usually takes.
pub(in crate::relay) async fn simulate(pool: &RpcPool, question: &Question<'_>) -> Simulation {
    let mut waiting: VecDeque<usize> = order(pool).into();
    let mut heard: Vec<Heard> = Vec::new();
    let mut reason = "no_node";
    let mut running = FuturesUnordered::new();
    let ask = |place: usize| async move { (place, ask_one(pool, place, question).await) };
    let Some(first) = waiting.pop_front() else { return together(question, &heard, reason) };
    pool.note_read();
    let mut hedge_at = Instant::now() + pool.patience_at(first, SIMULATE);
    let mut hedged = Vec::new();
    let mut enough_at = None;
    running.push(ask(first));
    while !running.is_empty() {
        tokio::select! {
            biased;
            Some((place, answer)) = running.next() => {
                match answer {
                    Ok(answer) => {
                        if hedged.contains(&place) {
                            pool.note_hedge_won(place);
                        }
                        heard.push(answer);
                    }
                    Err(why) => reason = why,
                }
                let is_yes = |heard: &Heard| heard.words.iter().all(|word| *word == Word::Executes);
                let is_enough = |heard: &Heard| !question.is_wary && is_yes(heard) || !Protection::SecondWord.is_on();
                if heard.len() > 1 || heard.first().is_some_and(is_enough) {
                    break;
                }
                // A second answer is needed.
                if running.is_empty()
                    && let Some(next) = waiting.pop_front()
                {
                    let patience = pool.patience_at(next, SIMULATE);
                    hedge_at = Instant::now() + patience;
                    running.push(ask(next));
                }
                if !heard.is_empty() {
                    enough_at.get_or_insert_with(|| Instant::now() + pool.patience_at(place, SIMULATE) * SECOND_PATIENCE);
                }
            }
            () = tokio::time::sleep_until(hedge_at), if !waiting.is_empty() => {
                let next = waiting.front().copied().filter(|next| pool.take_hedge_at(*next));
                if let Some(next) = next {
                    waiting.pop_front();
                    hedged.push(next);
                    running.push(ask(next));
                }
                hedge_at = Instant::now() + pool.patience_at(next.unwrap_or(first), SIMULATE);
            }
            () = tokio::time::sleep_until(enough_at.unwrap_or(hedge_at)), if enough_at.is_some() => break,
        }
    }
    drop(running);
    together(question, &heard, reason)
}

/// Nodes to ask for simulations, by place: the healthiest and fastest first, those with false simulations last.
fn order(pool: &RpcPool) -> Vec<usize> {
    let mut places: Vec<usize> =
        pool.ranked_places(SIMULATE).into_iter().filter(|place| pool.len() == 1 || pool.is_usable(*place)).collect();
    places.sort_by_key(|place| pool.false_simulations(*place));
    places
}

fn together(question: &Question<'_>, heard: &[Heard], reason: &'static str) -> Simulation {
    let count = question.members.len();
    let mut found = Simulation {
        words: vec![Word::Unknown; count],
        used: vec![None; count],
        against: vec![Vec::new(); count],
        block: question.block,
        ..Simulation::default()
    };
    for one in heard {
        for (place, word) in one.words.iter().enumerate().take(count) {
            let known = std::mem::replace(&mut found.words[place], Word::Unknown);
            found.words[place] = known.and(word.clone());
            if word.is_no() {
                found.against[place].push(one.place);
            }
        }
        // A node for which the member is skipped does not know its gas.
        let executes = one.words.iter().map(|word| *word == Word::Executes);
        for ((known, used), _) in found.used.iter_mut().zip(&one.used).zip(executes).filter(|(_, executes)| *executes) {
            *known = match (*known, *used) {
                (Some(known), Some(used)) => Some(known.min(used)),
                (known, used) => known.or(used),
            };
        }
    }
    if !heard.is_empty() && heard.iter().all(|one| one.whole.is_some()) {
        (found.whole, found.whole_words) = (heard[0].whole.clone(), heard.len());
    }
    if let [first, second] = heard
        && first.is_batch
        && second.is_batch
    {
        for (index, member) in question.members.iter().enumerate() {
            match (first.words.get(index), second.words.get(index)) {
                (Some(Word::Executes), Some(no)) if no.is_no() => {
                    found.contradicted.push((member.id(), first.place, second.place));
                }
                (Some(no), Some(Word::Executes)) if no.is_no() => {
                    found.contradicted.push((member.id(), second.place, first.place));
                }
                _ => {}
            }
        }
    }
    if found.whole.is_none() && found.words.contains(&Word::Unknown) {
        let reason = if heard.is_empty() { reason } else { "no_answer_for_a_member" };
        metrics::counter!("slackwater_simulations_unknown_total", "reason" => reason).increment(1);
    }
    found
}

/// Asks one node for a simulation of the whole batch; after any error other than a revert, for one call per member.
async fn ask_one(pool: &RpcPool, place: usize, question: &Question<'_>) -> Result<Heard, &'static str> {
    // The storage slot of an unknown forwarder's nonces is not known.
    let is_simulated = question.ahead.is_empty() || question.is_known_forwarder;
    if is_simulated && pool.may_have(place, SIMULATE) {
        match at_once(pool, place, question).await {
            Ok(mut heard) => {
                note_use(pool, place, SIMULATE, None);
                explain(pool, question, &mut heard).await;
                return Ok(heard);
            }
            Err(error) => {
                tracing::debug!(endpoint = %error.endpoint, class = error.class.as_str(), message = %error.message, "no simulation; one call per member instead");
                note_use(pool, place, SIMULATE, Some(&error));
            }
        }
    }
    one_by_one(pool, place, question).await
}

/// Records whether `method` is usable at a node. An unavailable or rate-limited node proves nothing.
pub(in crate::relay) fn note_use(pool: &RpcPool, place: usize, method: &'static str, error: Option<&RpcError>) {
    let is_away = |error: &RpcError| {
        use RpcErrorClass::{NodeUnavailable, RateLimited, Timeout};
        matches!(error.class, NodeUnavailable | Timeout | RateLimited)
    };
    match error {
        Some(error) if is_away(error) || error.is_missing_method() || error.is_unknown_block() => {}
        error => pool.note_use(place, method, error.is_none()),
    }
}

/// Gas of each member in a transaction alone, by each node that simulates it.
pub(in crate::relay) async fn gas_alone(pool: &RpcPool, question: &Question<'_>) -> Vec<Vec<Option<u64>>> {
    let places = (0..pool.len()).filter(|place| pool.may_have(*place, SIMULATE));
    let heard = join_all(places.map(|place| at_once(pool, place, question))).await;
    heard.into_iter().flatten().map(|heard| heard.used).collect()
}

/// Simulates the whole batch with one `eth_simulateV1`.
async fn at_once(pool: &RpcPool, place: usize, question: &Question<'_>) -> Result<Heard, RpcError> {
    let Question { key, members, ahead, .. } = *question;
    let environment = Environment { parent: Some(question.block), ..question.environment };
    let params = simulation::params(question.params, key, members, ahead, &environment);
    let mut answer = pool.call_at::<Value>(place, SIMULATE, &params).await;
    if answer.as_ref().is_err_and(RpcError::is_unknown_block) {
        // The node may learn of that block in a moment.
        tokio::time::sleep(question.patience).await;
        answer = pool.call_at::<Value>(place, SIMULATE, &params).await;
    }
    let verdict = match answer {
        Ok(blocks) => serde_json::from_value::<Vec<SimulatedBlock>>(blocks)
            .map_or(Verdict::Unknown, |blocks| simulation::verdict(blocks, key, members)),
        Err(error) if error.class == RpcErrorClass::Reverted => Verdict::Whole(error.message),
        Err(error) => return Err(error),
    };
    if matches!(verdict, Verdict::Unknown) {
        return Err(RpcError::useless(SIMULATE));
    }
    let (words, used, whole) = simulation::heard(verdict, members);
    Ok(Heard { place, words, used, whole, is_batch: true })
}

/// One `eth_call` per member, as its target will see it, and the forwarder's `verify` for members that can be verified
/// on the present state.
async fn one_by_one(pool: &RpcPool, place: usize, question: &Question<'_>) -> Result<Heard, &'static str> {
    let members = question.members;
    let calls: Vec<_> = (0..members.len()).map(|index| call_one(pool, place, question, index)).collect();
    let answers: Vec<Result<Word, &'static str>> = stream::iter(calls).buffered(CALLS_AT_ONCE).collect().await;
    let reason = answers.iter().find_map(|answer| answer.as_ref().err()).copied();
    let mut words: Vec<Word> = answers.into_iter().map(|answer| answer.unwrap_or(Word::Unknown)).collect();
    if let Some(forwarder) = question.key.nonce_contract() {
        let firsts = simulation::verifiable(members, question.ahead);
        let valid = verified(pool, place, question, forwarder, &firsts).await;
        for (index, word) in words.iter_mut().enumerate() {
            match firsts.iter().position(|first| *first == index) {
                Some(first) => match valid.get(first).copied().flatten() {
                    Some(true) => {}
                    Some(false) => *word = Word::Skipped(Some(why_skipped(pool, place, question, index).await)),
                    None => *word = Word::Unknown,
                },
                // It will execute on a different state than the one it was called on.
                None if word.is_no() => *word = Word::Unknown,
                None => {}
            }
        }
    }
    match reason {
        Some(reason) if words.iter().all(|word| *word == Word::Unknown) => Err(reason),
        _ => Ok(Heard { place, words, used: Vec::new(), whole: None, is_batch: false }),
    }
}

async fn call_one(pool: &RpcPool, place: usize, question: &Question<'_>, index: usize) -> Result<Word, &'static str> {
    let member = &question.members[index];
    let block = json!(U64::from(question.block));
    let params_in = |environment: Environment| {
        simulation::member_params(question.params.sender, question.key, question.params, member, &block, &environment)
    };
    let is_told = question.environment.names_block() && pool.may_have(place, CALL_IN_BLOCK);
    let mut params = params_in(if is_told { question.environment } else { Environment::default() });
    let mut answer = pool.call_at::<Bytes>(place, "eth_call", &params).await;
    if is_told {
        let is_refused = answer.as_ref().is_err_and(RpcError::is_invalid_params);
        if answer.is_ok() || is_refused {
            pool.note_use(place, CALL_IN_BLOCK, !is_refused);
        }
        if is_refused {
            // The node does not support these overrides: call without them.
            params = params_in(Environment::default());
            answer = pool.call_at::<Bytes>(place, "eth_call", &params).await;
        }
    }
    if index == 0 && answer.as_ref().is_err_and(RpcError::is_unknown_block) {
        tokio::time::sleep(question.patience).await;
        answer = pool.call_at::<Bytes>(place, "eth_call", &params).await;
    }
    match answer {
        Ok(_) => Ok(Word::Executes),
        Err(error) if error.class == RpcErrorClass::Reverted => {
            Ok(Word::Reverts(Some(simulation::call_revert_text(&error.message, error.data.as_deref()))))
        }
        Err(error) if error.code.is_some() && is_execution_failure(&error.message) => {
            let text = format!("{} (with {} gas for the call)", error.message, member.gas());
            Ok(Word::Reverts(Some(text)))
        }
        Err(error) => Err(error.class.as_str()),
    }
}

/// The forwarder's `verify` of the members at `firsts`, in order; `None` without an answer.
async fn verified(
    pool: &RpcPool,
    place: usize,
    question: &Question<'_>,
    forwarder: Address,
    firsts: &[usize],
) -> Vec<Option<bool>> {
    let input = |index: &usize| Bytes::from(verify_input(&question.members[*index]).unwrap_or_default());
    let inputs: Vec<Bytes> = firsts.iter().map(input).collect();
    let block = json!(U64::from(question.block));
    if let Some(multicall3) = question.multicall3
        && inputs.len() > 1
    {
        let calls = inputs
            .iter()
            .map(|input| multicall3::Call3 { target: forwarder, allowFailure: true, callData: input.clone() })
            .collect();
        let input: Bytes = multicall3::aggregate3Call { calls }.abi_encode().into();
        let params = json!([{ "to": multicall3, "input": input }, block]);
        if let Ok(output) = pool.call_at::<Bytes>(place, "eth_call", &params).await
            && let Ok(results) = multicall3::aggregate3Call::abi_decode_returns(&output)
            && results.len() == inputs.len()
        {
            return results.iter().map(|result| Some(result.success && word(&result.returnData) == Some(1))).collect();
        }
    }
    let ask = |input: Bytes| {
        let params = json!([{ "to": forwarder, "input": input }, block]);
        async move {
            match pool.call_at::<Bytes>(place, "eth_call", &params).await {
                Ok(output) => Some(word(&output) == Some(1)),
                Err(error) if error.class == RpcErrorClass::Reverted => Some(false),
                Err(_) => None,
            }
        }
    };
    let asked: Vec<_> = inputs.into_iter().map(ask).collect();
    stream::iter(asked).buffered(CALLS_AT_ONCE).collect().await
}

/// Determines the reasons of failing members, for display: a simulated batch only shows that they fail.
async fn explain(pool: &RpcPool, question: &Question<'_>, heard: &mut Heard) {
    let place = heard.place;
    let mut left = MAX_EXPLAINED;
    for index in 0..heard.words.len() {
        let text = match &heard.words[index] {
            Word::Reverts(None) if left > 0 => match call_one(pool, place, question, index).await {
                Ok(Word::Reverts(text)) => Word::Reverts(text),
                _ => continue,
            },
            Word::Skipped(None) if left > 0 => Word::Skipped(Some(why_skipped(pool, place, question, index).await)),
            _ => continue,
        };
        left -= 1;
        heard.words[index] = text;
    }
}

/// Human-readable reason for the forwarder to skip a member.
async fn why_skipped(pool: &RpcPool, place: usize, question: &Question<'_>, index: usize) -> String {
    let member = &question.members[index];
    let Some((forwarder, signer, nonce)) = member.sequence() else { return "it would not execute".to_owned() };
    let block = json!(U64::from(question.block));
    let read = async |to: Address, input: Vec<u8>| {
        let params = json!([{ "to": to, "input": Bytes::from(input) }, block]);
        pool.call_at::<Bytes>(place, "eth_call", &params).await
    };
    let trusts = forwarder::isTrustedForwarderCall { forwarder }.abi_encode();
    match read(member.target(), trusts).await {
        Ok(output) if word(&output) == Some(1) => {}
        Ok(_) => return format!("the target {} does not trust the forwarder {forwarder}", member.target()),
        Err(error) if error.class == RpcErrorClass::Reverted => {
            return format!("the target {} does not say whether it trusts the forwarder {forwarder}", member.target());
        }
        Err(_) => {}
    }
    let next = read(forwarder, forwarder::noncesCall { owner: signer }.abi_encode()).await;
    match next.ok().and_then(|output| word(&output)) {
        Some(next) if next != nonce && !question.ahead.contains_key(&(forwarder, signer)) => {
            format!("the signer's next nonce at the forwarder is {next}, not {nonce}")
        }
        _ => "the forwarder would skip it: its signature, nonce or deadline does not hold there".to_owned(),
    }
}

/// Bounds on a user's forwarder nonce by a majority of the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) struct AgreedNonce {
    /// Lower bound: a majority reports this nonce or a higher one.
    pub(in crate::relay) at_least: u64,
    /// Upper bound: a majority reports this nonce or a lower one.
    pub(in crate::relay) at_most: u64,
}

/// The forwarder's nonces of many signers, in order, by a majority, as a terminal decision requires (I9). `None`
/// without one.
///
/// One call through Multicall3 where it is deployed; one per signer if that fails.
pub(in crate::relay) async fn agreed_nonces(
    pool: &RpcPool,
    signers: &[(Address, Address)],
    multicall3: Option<Address>,
    at: At,
) -> Vec<Option<AgreedNonce>> {
    let mut told: Vec<Vec<u64>> = vec![Vec::new(); signers.len()];
    let mut note = |place: usize, nonce: Option<u64>| told[place].extend(nonce);
    let ask = async |to: Address, input: Bytes| -> Vec<Bytes> {
        let call = json!({ "to": to, "input": input });
        match at {
            At::Final(block) => pool.call_settled("eth_call", json!([call, U64::from(block)]), block).await,
            At::Block(block) => {
                pool.call_all("eth_call", json!([call, U64::from(block)])).await.into_iter().flatten().collect()
            }
            At::Head => pool.call_all("eth_call", json!([call, "latest"])).await.into_iter().flatten().collect(),
        }
    };
    let mut answers = 0;
    if let Some(multicall3) = multicall3.filter(|_| signers.len() > 1) {
        for output in ask(multicall3, nonces_input(signers)).await {
            let Some(nonces) = nonces_output(&output, signers.len()) else { continue };
            answers += 1;
            nonces.into_iter().enumerate().for_each(|(place, nonce)| note(place, nonce));
        }
    }
    if !pool.is_majority(answers) {
        told.iter_mut().for_each(Vec::clear);
        let mut note = |place: usize, nonce: Option<u64>| told[place].extend(nonce);
        for (place, (forwarder, signer)) in signers.iter().enumerate() {
            for output in ask(*forwarder, forwarder::noncesCall { owner: *signer }.abi_encode().into()).await {
                note(place, word(&output));
            }
        }
    }
    let agree = |told: Vec<u64>| {
        let at_most = pool.reached(told.iter().copied().map(Reverse).collect())?.0;
        Some(AgreedNonce { at_least: pool.reached(told)?, at_most })
    };
    told.into_iter().map(agree).collect()
}

/// Users' final nonces: at a final block, by a majority. Retries until there is one.
///
/// Every round uses the newest final block, because nodes keep no state for ever. If nodes keep no state of a final
/// block, they are asked at their head, and the answer counts once that very block is final.
pub(in crate::relay) async fn settled_nonces(
    shared: &ChainShared,
    signers: &[(Address, Address)],
    block: Option<u64>,
) -> Vec<Option<AgreedNonce>> {
    let pool = &shared.pool;
    let mut seen: Option<Seen> = None;
    let mut has_told = false;
    loop {
        if let Some(block) = pool.final_block().max(block) {
            let nonces = agreed_nonces(pool, signers, shared.multicall3(), At::Final(block)).await;
            if nonces.iter().all(Option::is_some) {
                return nonces;
            }
            if let Some(known) = seen.take_if(|known| known.number <= block)
                && block_hash(pool, known.number).await == Some(known.hash)
            {
                return known.nonces;
            }
        }
        if !std::mem::replace(&mut has_told, true) {
            tracing::warn!(
                chain_id = shared.spec.chain_id,
                "too few nodes tell the users' nonces at the newest final block; settlement waits"
            );
        }
        if seen.is_none() {
            seen = Seen::now(pool, signers, shared.multicall3()).await;
        }
        tokio::time::sleep(shared.tuning.heads.poll_interval).await;
    }
}

/// Nonces read at a block before its finality.
struct Seen {
    number: u64,
    hash: B256,
    nonces: Vec<Option<AgreedNonce>>,
}

impl Seen {
    /// Reads nonces at the newest block that most nodes know; `None` unless a majority reports all.
    async fn now(pool: &RpcPool, signers: &[(Address, Address)], multicall3: Option<Address>) -> Option<Self> {
        let number = pool.reference()?;
        let hash = block_hash(pool, number).await?;
        let nonces = agreed_nonces(pool, signers, multicall3, At::Block(number)).await;
        // The same block before and after the read: the nonces belong to it.
        let is_same = nonces.iter().all(Option::is_some) && block_hash(pool, number).await == Some(hash);
        is_same.then_some(Self { number, hash, nonces })
    }
}

/// The hash of a block, by a majority.
async fn block_hash(pool: &RpcPool, number: u64) -> Option<B256> {
    let params = json!([U64::from(number), false]);
    let header: Option<Header> = pool.call_agreed("eth_getBlockByNumber", params).await.ok()?;
    header.map(|header| header.hash)
}

/// Block at which nonces are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::relay) enum At {
    /// At this final block, by the nodes for which it is final.
    Final(u64),
    /// At this block, by all nodes that know it.
    Block(u64),
    /// At each node's head.
    Head,
}

fn nonces_input(signers: &[(Address, Address)]) -> Bytes {
    let calls = signers
        .iter()
        .map(|(forwarder, signer)| multicall3::Call3 {
            target: *forwarder,
            allowFailure: true,
            callData: forwarder::noncesCall { owner: *signer }.abi_encode().into(),
        })
        .collect();
    multicall3::aggregate3Call { calls }.abi_encode().into()
}

fn nonces_output(output: &[u8], count: usize) -> Option<Vec<Option<u64>>> {
    let results = multicall3::aggregate3Call::abi_decode_returns(output).ok()?;
    let nonce = |result: multicall3::Result| result.success.then(|| word(&result.returnData)).flatten();
    (results.len() == count).then(|| results.into_iter().map(nonce).collect())
}

/// The forwarder's nonces of many signers at `block`, in order; one call through Multicall3 where its code was
/// verified.
pub(in crate::relay) async fn forwarder_nonces(
    pool: &RpcPool,
    signers: &[(Address, Address)],
    multicall3: Option<Address>,
    block: &serde_json::Value,
) -> Result<Vec<Option<u64>>, RpcError> {
    if let Some(multicall3) = multicall3.filter(|_| signers.len() > 1) {
        let input = nonces_input(signers);
        let output: Result<Bytes, RpcError> =
            pool.call("eth_call", json!([{ "to": multicall3, "input": input }, block])).await;
        if let Some(nonces) = output.ok().and_then(|output| nonces_output(&output, signers.len())) {
            return Ok(nonces);
        }
    }
    let mut nonces = Vec::with_capacity(signers.len());
    let mut failed = BTreeSet::new();
    for (forwarder, signer) in signers {
        if failed.contains(forwarder) {
            nonces.push(None);
            continue;
        }
        let input: Bytes = forwarder::noncesCall { owner: *signer }.abi_encode().into();
        match pool.call::<Bytes>("eth_call", json!([{ "to": forwarder, "input": input }, block])).await {
            Ok(output) => nonces.push(word(&output)),
            // The contract failed: the others are still asked.
            Err(error) if is_execution(&error) => {
                failed.insert(*forwarder);
                nonces.push(None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(nonces)
}

/// True if the call itself failed while the node is healthy.
fn is_execution(error: &RpcError) -> bool {
    error.class == RpcErrorClass::Reverted || (error.code.is_some() && is_execution_failure(&error.message))
}

fn word(data: &[u8]) -> Option<u64> {
    let word: [u8; 32] = data.get(..32)?.try_into().ok()?;
    u64::try_from(U256::from_be_bytes(word)).ok()
}

#[cfg(test)]
pub(in crate::relay) mod tests;
