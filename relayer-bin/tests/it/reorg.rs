//! Transactions removed by a reorganisation land again, once (scenario S6), by table: depth, state of a request, and
//! content of the other branch.
//!
//! Every row names the final events of its requests. At the end of a table everything is compared with the chain: each
//! request at most once, its block, its cost, and one sequence of events without a gap.

use std::{collections::BTreeMap, time::SystemTime};

use alloy_primitives::{Address, B256, Bytes, U64, U256};
use alloy_sol_types::SolCall;
use serde_json::{Value, json};
use slackwater_benches::{
    Result,
    client::Event,
    proxy::{Fault, Rule},
    wallet::{Ask, Crowd, SignedRequest, unix_seconds},
};
use slackwater_contracts::{
    forwarder::executeCall,
    nasty::INasty::{armCall, ifArmedRevertCall},
};
use slackwater_core::chain::RpcErrorClass;

use crate::stage::{PATIENCE, Pace, Stage, StageBuilder, until};

/// Confirmation depth at which a block is final here: deeper than most rows' reorganisations.
const FINAL_BLOCKS: u64 = 8;

const SEND: &str = "eth_sendRawTransaction";

/// Content of the other branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Branch {
    /// No transaction of ours.
    Empty,
    /// The same transaction, in the block at this position.
    Same(u64),
    /// Another attempt of the same nonce, in the block at this position.
    Other(u64),
}

/// Events of a request whose transaction is removed and lands again.
const LANDS_AGAIN: [&str; 7] = ["queued", "batched", "broadcast", "included", "broadcast", "included", "finalized"];

/// Events of a request that no reorganisation touches.
const LANDS: [&str; 5] = ["queued", "batched", "broadcast", "included", "finalized"];

/// A stage, with the expected results of all rows so far.
struct Table {
    stage: Stage,
    all: Vec<SignedRequest>,
    expected: BTreeMap<B256, (String, Vec<&'static str>)>,
    crowds: usize,
}

fn stage() -> StageBuilder {
    Stage::at(Pace::Manual)
        .proxied()
        .spec(&format!("finality = {{ kind = \"depth\", blocks = {FINAL_BLOCKS} }}"))
        .chain_key("poll_interval_ms", 25)
        .chain_key("rebroadcast_after_blocks", 1)
}

impl Table {
    async fn on(stage: StageBuilder) -> Result<Self> {
        let stage = stage.raise().await?;
        // No reorganisation may reach the contracts.
        stage.mine(2 * FINAL_BLOCKS).await?;
        Ok(Self { stage, all: Vec::new(), expected: BTreeMap::new(), crowds: 0 })
    }

    /// Users who never signed before.
    fn crowd(&mut self, users: usize) -> Crowd {
        self.crowds += 1;
        Crowd::named(&self.stage.world, &format!("row {}", self.crowds), users)
    }

    /// Records the expected events of these requests.
    fn expect(&mut self, row: &str, requests: &[SignedRequest], events: &[&'static str]) {
        for request in requests {
            self.expected.insert(request.id, (row.to_owned(), events.to_vec()));
            self.all.push(request.clone());
        }
    }

    /// The signed bytes of a transaction that was sent.
    fn raw(&self, hash: B256) -> Bytes {
        let arrivals = self.stage.proxy().arrivals();
        arrivals.into_iter().find(|arrival| arrival.hash == hash).expect("it was to be sent").raw
    }

    /// Submits, and waits until the transaction with all of them is in the pool; returns its hash.
    async fn pool(&self, requests: &[SignedRequest]) -> Result<B256> {
        self.stage.submit(requests).await?;
        self.stage.pooled(1).await?;
        let batch = self.stage.batch_of(&requests[0]).await?;
        Ok(batch.attempts[0].tx_hash)
    }

    /// Waits until all of them have this status.
    async fn wait(&self, requests: &[SignedRequest], status: &str) -> Result<()> {
        for request in requests {
            self.stage.wait_status(request.id, status).await?;
        }
        Ok(())
    }

    /// Includes them in a block with `depth - 1` blocks on top; returns the transaction and its block.
    async fn land(&self, requests: &[SignedRequest], depth: u64) -> Result<(B256, u64)> {
        let hash = self.pool(requests).await?;
        self.stage.mine(1).await?;
        self.wait(requests, "included").await?;
        let block = self.stage.node().block_number().await?;
        if depth > 1 {
            self.stage.mine(depth - 1).await?;
        }
        Ok((hash, block))
    }

    /// Reorganises `depth` blocks; the other branch has these transactions.
    async fn reorg(&self, depth: u64, transactions: &[(Bytes, u64)]) -> Result<()> {
        let node = self.stage.node();
        let (head, before) = (node.block_number().await?, node.head().await?);
        // If the chain's time is ahead, the same transaction would make the same block: another proposer makes another
        // one.
        let proposer = Address::left_padding_from(&before.hash[..8]);
        node.call::<Value>("anvil_setCoinbase", json!([proposer])).await?;
        node.reorg_with(depth, transactions).await?;
        let after = node.head().await?;
        assert_eq!(node.block_number().await?, head);
        assert_ne!(after.hash, before.hash, "the same blocks again");
        self.stage.follow().await
    }

    /// Mines until these have ended, and until that is final.
    async fn finish(&self, requests: &[SignedRequest]) -> Result<()> {
        let all_ended = async || {
            for request in requests {
                if !self.stage.client().request(request.id).await?.is_terminal() {
                    self.stage.mine(1).await?;
                    return Ok(None);
                }
            }
            Ok(Some(()))
        };
        until("the end of the row", PATIENCE, all_ended).await
    }

    /// Compares everything that was expected, and everything else, with the chain. At least `taken_back` batches were
    /// removed by reorganisations since the relayer was last started.
    async fn close(self, taken_back: u32) -> Result<()> {
        let Self { stage, all, expected, .. } = self;
        let metric = stage.metric("slackwater_reorged_batches_total", &[]).await?;
        assert!(metric >= f64::from(taken_back), "only {metric} batches were taken back");
        stage.settle_mining().await?;
        let truth = stage.check(&all).await?;
        for (id, (row, expected)) in &expected {
            let state = stage.client().request(*id).await?;
            let told: Vec<&str> = state.timeline.iter().map(|event| event.status.as_str()).collect();
            assert_eq!(told, *expected, "{row}: {:?}", state.timeline);
            // The same in the story of all, in the same order.
            let in_story: Vec<&Event> = truth.story.iter().filter(|event| event.request_id.0 == *id).collect();
            let seqs = |events: &mut dyn Iterator<Item = &Event>| events.map(|event| event.seq).collect::<Vec<_>>();
            assert_eq!(seqs(&mut state.timeline.iter()), seqs(&mut in_story.into_iter()), "{row}");
        }
        // The costs paid, and the amounts borne by accounts, equal the amount that left the lane in the final branch.
        let mut costs = U256::ZERO;
        for request in &all {
            let cost = stage.client().request(request.id).await?.cost_wei;
            costs += cost.map_or(U256::ZERO, |cost| cost.parse().expect("a number"));
        }
        let (spent, borne) = stage.spent_and_borne().await?;
        assert_eq!(costs + borne, spent);
        println!("{} requests, {} events", all.len(), truth.story.len());
        stage.close().await
    }

    /// A signed third-party transaction.
    async fn foreign(&self, from: usize, nonce_ahead: u64, to: Address, call: &impl SolCall) -> Result<Bytes> {
        let node = self.stage.node();
        let from = node.accounts().await?[from];
        let nonce = node.nonce(from).await? + nonce_ahead;
        let transaction = json!({
            "from": from, "to": to, "data": Bytes::from(call.abi_encode()), "gas": U64::from(1_000_000),
            "nonce": U64::from(nonce), "chainId": U64::from(self.stage.world.chain_id),
            "maxFeePerGas": U64::from(10_u64.pow(12)), "maxPriorityFeePerGas": U64::from(5 * 10_u64.pow(11)),
        });
        node.call("eth_signTransaction", json!([transaction])).await
    }
}

/// None of their requests is in a block: one waits for its predecessor, one is signed and refused by every node, one is
/// in the pool.
async fn outside_blocks(table: &mut Table, depth: u64, branch: Branch) -> Result<()> {
    let row = format!("outside blocks, depth {depth}, {branch:?}");
    println!("{row}");
    let mut crowd = table.crowd(5);
    let first = crowd.mark(0);
    let (queued, pooled, unsent) = (vec![crowd.mark(0)], vec![crowd.mark(1), crowd.mark(2)], vec![crowd.mark(3)]);
    table.stage.mine(depth).await?;
    table.stage.submit(&queued).await?;
    let hash = table.pool(&pooled).await?;
    let refuse = Fault::Refuse { client: "geth".to_owned(), class: RpcErrorClass::PoolFull };
    let refused = || table.stage.proxy().injected().faults.get("refuse").copied().unwrap_or(0);
    let before = refused();
    let rule = table.stage.proxy().add(Rule::always(refuse).on(SEND));
    table.stage.submit(&unsent).await?;
    until("a refusal", PATIENCE, async || Ok((refused() > before).then_some(()))).await?;
    let transactions: Vec<(Bytes, u64)> = match branch {
        Branch::Same(place) => vec![(table.raw(hash), place)],
        Branch::Empty | Branch::Other(_) => Vec::new(),
    };
    table.reorg(depth, &transactions).await?;
    for (requests, status) in [(&queued, "queued"), (&unsent, "broadcast")] {
        table.wait(requests, status).await?;
    }
    if let Branch::Same(_) = branch {
        table.wait(&pooled, "included").await?;
    }
    table.stage.proxy().remove(rule);
    table.stage.submit(std::slice::from_ref(&first)).await?;
    let all: Vec<SignedRequest> = [vec![first], queued, pooled, unsent].concat();
    table.finish(&all).await?;
    table.expect(&row, &all, &LANDS);
    Ok(())
}

/// Their transaction is in the lowest block that is removed.
async fn included(table: &mut Table, depth: u64, branch: Branch) -> Result<()> {
    let row = format!("included, depth {depth}, {branch:?}");
    println!("{row}");
    let requests = table.crowd(3).marks(3);
    let (hash, block) = table.land(&requests, depth).await?;
    let orphan = table.stage.node().receipt(hash).await?.expect("in a block");
    match branch {
        Branch::Empty | Branch::Other(_) => {
            table.reorg(depth, &[]).await?;
            table.wait(&requests, "broadcast").await?;
            table.stage.pooled(1).await?;
            table.stage.mine(1).await?;
        }
        Branch::Same(place) => table.reorg(depth, &[(table.raw(hash), place)]).await?,
    }
    let block = match branch {
        Branch::Same(place) => block + place,
        Branch::Empty | Branch::Other(_) => table.stage.node().block_number().await?,
    };
    for request in &requests {
        let is_there = async || {
            let state = table.stage.client().request(request.id).await?;
            Ok((state.status == "included" && state.block_number == Some(block)).then_some(state))
        };
        let state = until(&format!("{row}: included in block {block}"), PATIENCE, is_there).await?;
        assert_eq!(state.tx_hash, Some(hash), "{row}: the same bytes");
    }
    let receipt = table.stage.node().receipt(hash).await?.expect("in a block");
    assert_ne!(receipt.block_hash, orphan.block_hash, "{row}");
    table.finish(&requests).await?;
    for request in &requests {
        assert_eq!(table.stage.client().request(request.id).await?.block_number, Some(block), "{row}");
    }
    table.expect(&row, &requests, &LANDS_AGAIN);
    Ok(())
}

#[tokio::test]
async fn outside_blocks_and_included() -> Result<()> {
    // Nothing is replaced here.
    let mut table = Table::on(stage().chain_key("bump_after_blocks", 100)).await?;
    for depth in 1..=6 {
        let branch = if depth % 2 == 0 { Branch::Same(depth / 2) } else { Branch::Empty };
        outside_blocks(&mut table, depth, branch).await?;
        included(&mut table, depth, Branch::Empty).await?;
        included(&mut table, depth, Branch::Same(depth - 1)).await?;
    }
    // The deepest reorganisation allowed: one more block, and it would remove a final one.
    for depth in [FINAL_BLOCKS - 1, FINAL_BLOCKS] {
        included(&mut table, depth, Branch::Empty).await?;
        included(&mut table, depth, Branch::Same(1)).await?;
    }
    table.close(6 + 6 + 4).await
}

/// Attempt that is in the removed block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// The first; the replacement was sent, and reached no node.
    First,
    /// The replacement.
    Second,
}

/// The nonce has two attempts.
async fn replaced(table: &mut Table, depth: u64, holds: Holds, branch: Branch) -> Result<()> {
    let row = format!("replaced, {holds:?} is included, depth {depth}, {branch:?}");
    println!("{row}");
    let requests = table.crowd(3).marks(3);
    let first = table.pool(&requests).await?;
    let proxy = table.stage.proxy();
    if holds == Holds::First {
        proxy.add(Rule::always(Fault::DropBefore).on(SEND));
    }
    // The pool drops it, so it is not in the next block.
    table.stage.node().drop_all_transactions().await?;
    table.stage.mine(1).await?;
    let second = table.stage.wait_attempts(&requests[0], 2).await?[1].tx_hash;
    let is_sent = async || Ok(proxy.arrivals().iter().any(|arrival| arrival.hash == second).then_some(()));
    until("the replacement to be sent", PATIENCE, is_sent).await?;
    if holds == Holds::Second {
        until("the replacement to be taken", PATIENCE, async || {
            Ok(proxy.injected().taken.contains(&second).then_some(()))
        })
        .await?;
    } else {
        table.stage.node().send_raw(table.raw(first)).await?;
    }
    table.stage.mine(1).await?;
    table.wait(&requests, "included").await?;
    let (held, other) = if holds == Holds::First { (first, second) } else { (second, first) };
    for request in &requests {
        assert_eq!(table.stage.client().request(request.id).await?.tx_hash, Some(held), "{row}");
    }
    if depth > 1 {
        table.stage.mine(depth - 1).await?;
    }
    proxy.clear();
    let landed = match branch {
        Branch::Empty => None,
        Branch::Same(place) => Some((held, place)),
        Branch::Other(place) => Some((other, place)),
    };
    let transactions: Vec<_> = landed.iter().map(|(hash, place)| (table.raw(*hash), *place)).collect();
    table.reorg(depth, &transactions).await?;
    table.finish(&requests).await?;
    for request in &requests {
        let state = table.stage.client().request(request.id).await?;
        let hash = state.tx_hash.expect("a transaction");
        match landed {
            Some((landed, _)) => assert_eq!(hash, landed, "{row}"),
            None => assert!([first, second].contains(&hash) || state.attempts.len() > 2, "{row}: {hash}"),
        }
    }
    table.expect(&row, &requests, &LANDS_AGAIN);
    Ok(())
}

#[tokio::test]
async fn with_a_replacement_in_flight() -> Result<()> {
    let mut table = Table::on(stage().chain_key("bump_after_blocks", 1)).await?;
    for (depth, holds, branch) in [
        (1, Holds::First, Branch::Empty),
        (1, Holds::Second, Branch::Other(0)),
        (2, Holds::First, Branch::Same(1)),
        (2, Holds::Second, Branch::Empty),
        (3, Holds::First, Branch::Other(2)),
        (3, Holds::Second, Branch::Same(0)),
        (4, Holds::First, Branch::Empty),
        (4, Holds::Second, Branch::Other(3)),
        (5, Holds::First, Branch::Same(4)),
        (5, Holds::Second, Branch::Empty),
        (6, Holds::First, Branch::Other(0)),
        (6, Holds::Second, Branch::Same(5)),
    ] {
        replaced(&mut table, depth, holds, branch).await?;
    }
    table.close(12).await
}

/// The chain reorganises while the relayer is down.
async fn unwatched(table: &mut Table, depth: u64, branch: Branch, blocks_after: u64) -> Result<()> {
    let row = format!("relayer dead, depth {depth}, {branch:?}, {blocks_after} blocks later");
    println!("{row}");
    let requests = table.crowd(3).marks(3);
    let (hash, _) = table.land(&requests, depth).await?;
    table.stage.relayer.kill();
    let transactions: Vec<_> = match branch {
        Branch::Same(place) => vec![(table.raw(hash), place)],
        Branch::Empty | Branch::Other(_) => Vec::new(),
    };
    table.stage.node().reorg_with(depth, &transactions).await?;
    if blocks_after > 0 {
        table.stage.node().mine(blocks_after).await?;
    }
    table.stage.relayer.start().await?;
    table.finish(&requests).await?;
    let events: &[&str] = match branch {
        // It is in a block before and after: no other state was ever seen.
        Branch::Same(_) => &LANDS,
        Branch::Empty | Branch::Other(_) => &LANDS_AGAIN,
    };
    table.expect(&row, &requests, events);
    Ok(())
}

#[tokio::test]
async fn while_the_relayer_is_dead() -> Result<()> {
    let mut table = Table::on(stage().chain_key("bump_after_blocks", 100)).await?;
    for (depth, branch, blocks_after) in [
        (1, Branch::Empty, 1),
        (2, Branch::Same(1), 0),
        (3, Branch::Empty, 0),
        (4, Branch::Same(0), 2),
        // Final in the other branch before the relayer is back.
        (6, Branch::Same(5), FINAL_BLOCKS + 2),
        (5, Branch::Empty, FINAL_BLOCKS + 2),
    ] {
        unwatched(&mut table, depth, branch, blocks_after).await?;
    }
    // The counter is lost with the process.
    table.close(1).await
}

/// The outcome of a call depends on the branch: it reverts in one of them only.
async fn reverting(table: &mut Table, depth: u64, reverts_at_first: bool) -> Result<()> {
    let row = format!("reverts {}, depth {depth}", if reverts_at_first { "at first" } else { "in the end" });
    println!("{row}");
    let mut crowd = table.crowd(2);
    let good = vec![crowd.mark(0)];
    let tag = B256::repeat_byte(u8::try_from(table.crowds).expect("few rows"));
    let ask = Ask {
        to: table.stage.world.nasty,
        value: U256::ZERO,
        gas: 150_000,
        data: ifArmedRevertCall { tag }.abi_encode().into(),
        deadline_s: unix_seconds() + 3_600,
        within: None,
        max_cost_wei: None,
    };
    let torn = vec![crowd.sign(1, &ask)];
    let both = [good.clone(), torn.clone()].concat();
    let hash = table.pool(&both).await?;
    let arm = table.foreign(0, 0, table.stage.world.nasty, &armCall { on: true }).await?;
    if reverts_at_first {
        table.stage.node().send_raw(arm.clone()).await?;
    }
    table.stage.mine(1).await?;
    table.wait(&both, "included").await?;
    let reason = async || table.stage.client().request(torn[0].id).await.map(|state| state.reason);
    assert_eq!(reason().await?.as_deref(), reverts_at_first.then_some("target_reverted"), "{row}");
    if depth > 1 {
        table.stage.mine(depth - 1).await?;
    }
    let raw = table.raw(hash);
    if reverts_at_first {
        table.reorg(depth, &[(raw, depth - 1)]).await?;
    } else {
        table.reorg(depth, &[(arm, 0), (raw, depth - 1)]).await?;
    }
    table.finish(&both).await?;
    if reverts_at_first {
        table.expect(&row, &both, &LANDS_AGAIN);
    } else {
        let disarm = table.foreign(0, 0, table.stage.world.nasty, &armCall { on: false }).await?;
        table.stage.node().send_raw(disarm).await?;
        table.stage.mine(1).await?;
        assert_eq!(reason().await?.as_deref(), Some("target_reverted"), "{row}");
        table.expect(&row, &good, &LANDS_AGAIN);
        let mut events = LANDS_AGAIN;
        events[6] = "reverted";
        table.expect(&row, &torn, &events);
    }
    Ok(())
}

/// The deadline passed before it was mined, and the pool dropped it: an empty transaction frees its nonce. That one is
/// in the removed block.
async fn cancelled(table: &mut Table, depth: u64, branch: Branch) -> Result<()> {
    let row = format!("cancelled, depth {depth}, {branch:?}");
    println!("{row}");
    let mut crowd = table.crowd(2);
    let requests: Vec<SignedRequest> = (0..2).map(|user| crowd.mark_within(user, "3s")).collect();
    let stage = &table.stage;
    let payload = table.pool(&requests).await?;
    let now_ms = || SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis());
    let deadline_ms = stage.client().submit(&requests[1].body).await?.accepted()?.deadline_at_ms;
    until("the deadline", PATIENCE, async || Ok((now_ms() > u128::from(deadline_ms.0)).then_some(()))).await?;
    stage.node().drop_all_transactions().await?;
    stage.mine(1).await?;
    let attempts = stage.wait_attempts(&requests[0], 2).await?;
    assert_eq!((attempts[0].tx_hash, attempts[1].kind.as_str()), (payload, "cancel"), "{row}");
    let cancel = attempts[1].tx_hash;
    let is_taken = async || Ok(stage.proxy().injected().taken.contains(&cancel).then_some(()));
    until("the cancel to be taken", PATIENCE, is_taken).await?;
    stage.mine(1).await?;
    let is_included = async || {
        let batch = stage.batch_of(&requests[0]).await?;
        Ok((batch.state == "included" && batch.included_hash == Some(cancel)).then_some(()))
    };
    until("the cancel to be included", PATIENCE, is_included).await?;
    if depth > 1 {
        stage.mine(depth - 1).await?;
    }
    let transactions: Vec<_> = match branch {
        Branch::Empty => Vec::new(),
        Branch::Same(place) => vec![(table.raw(cancel), place)],
        // Another node kept it.
        Branch::Other(place) => vec![(table.raw(payload), place)],
    };
    table.reorg(depth, &transactions).await?;
    table.finish(&requests).await?;
    if let Branch::Other(_) = branch {
        for request in &requests {
            assert_eq!(table.stage.client().request(request.id).await?.tx_hash, Some(payload), "{row}");
        }
        table.expect(&row, &requests, &["queued", "batched", "broadcast", "broadcast", "included", "finalized"]);
    } else {
        // `broadcast` occurs twice: the second reports the missed deadline; then comes the end.
        table.expect(&row, &requests, &["queued", "batched", "broadcast", "broadcast", "expired"]);
    }
    Ok(())
}

/// The node refuses a transaction permanently, and keeps it: its members travel in another, and then the first is mined
/// after all. With `is_taken_back` a reorganisation then replaces it by the one in which they travel now.
async fn kept(table: &mut Table, is_taken_back: bool) -> Result<()> {
    let row = format!("refused and kept{}", if is_taken_back { ", and taken back" } else { "" });
    println!("{row}");
    let mut crowd = table.crowd(2);
    let requests: Vec<SignedRequest> = (0..2).map(|user| crowd.mark_within(user, "10m")).collect();
    let refuse = Fault::Refuse { client: "geth".to_owned(), class: RpcErrorClass::BadTransaction };
    table.stage.proxy().add(Rule::always(refuse).on(SEND).times(1));
    table.stage.submit(&requests).await?;
    table.stage.pooled(2).await?;
    let mut batches = [table.stage.batch_of(&requests[0]).await?, table.stage.batch_of(&requests[1]).await?];
    batches.sort_by_key(|batch| batch.attempts.len());
    let [single, reused] = batches;
    assert_eq!((single.attempts.len(), reused.attempts.len()), (1, 2), "{row}: the refused one's nonce is used again");
    let (refused, anew) = (reused.attempts[0].tx_hash, reused.attempts[1].tx_hash);
    table.stage.node().drop_all_transactions().await?;
    table.stage.node().send_raw(table.raw(refused)).await?;
    table.stage.mine(1).await?;
    if is_taken_back {
        // Otherwise the relayer never saw it in the removed block.
        let is_seen = async || {
            let batches = [table.stage.batch_of(&requests[0]).await?, table.stage.batch_of(&requests[1]).await?];
            Ok(batches.iter().any(|batch| batch.included_hash == Some(refused)).then_some(()))
        };
        until("the refused one to be included", PATIENCE, is_seen).await?;
        table.reorg(1, &[(table.raw(anew), 0)]).await?;
    }
    table.finish(&requests).await?;
    let twice = ["queued", "batched", "broadcast", "queued", "batched", "broadcast"];
    for request in &requests {
        let is_kept = table.stage.client().request(request.id).await?.tx_hash == Some(refused);
        assert_eq!(is_kept, !is_taken_back, "{row}");
    }
    let end: &[&str] = if is_taken_back { &["included", "finalized"] } else { &["finalized"] };
    table.expect(&row, &requests, &[&twice[..], end].concat());
    Ok(())
}

/// Somebody else uses the user's nonce at the forwarder, in one of the branches only.
async fn nonce_taken(table: &mut Table, depth: u64, is_taken_at_first: bool) -> Result<()> {
    let row =
        format!("user's nonce taken {}, depth {depth}", if is_taken_at_first { "at first" } else { "in the end" });
    println!("{row}");
    let mut crowd = table.crowd(2);
    let good = vec![crowd.mark(0)];
    let ours = vec![crowd.mark(1)];
    // Another request of the same user with the same nonce, which somebody else executes.
    crowd.users[1].next_nonce = 0;
    let theirs = crowd.mark(1);
    let both = [good.clone(), ours.clone()].concat();
    let hash = table.pool(&both).await?;
    let take = table.foreign(1, 0, table.stage.world.forwarder, &executeCall { request: theirs.data() }).await?;
    if is_taken_at_first {
        table.stage.node().send_raw(take.clone()).await?;
    }
    table.stage.mine(1).await?;
    table.wait(&good, "included").await?;
    table.wait(&ours, if is_taken_at_first { "broadcast" } else { "included" }).await?;
    if depth > 1 {
        table.stage.mine(depth - 1).await?;
    }
    let raw = table.raw(hash);
    if is_taken_at_first {
        table.reorg(depth, &[(raw, depth - 1)]).await?;
    } else {
        table.reorg(depth, &[(take, 0), (raw, depth - 1)]).await?;
    }
    table.finish(&both).await?;
    table.expect(&row, &good, &LANDS_AGAIN);
    if is_taken_at_first {
        table.expect(&row, &ours, &LANDS);
    } else {
        table.expect(&row, &ours, &["queued", "batched", "broadcast", "included", "broadcast", "rejected"]);
        let state = table.stage.client().request(ours[0].id).await?;
        assert_eq!(state.reason.as_deref(), Some("nonce_used_elsewhere"), "{row}");
    }
    Ok(())
}

#[tokio::test]
async fn reverts_cancels_and_nonces() -> Result<()> {
    // Skipped requests are not replanned before finality: other tests cover that, and here it would be a matter of
    // milliseconds.
    let stage = stage().chain_key("bump_after_blocks", 100).chain_key("replan_after_blocks", FINAL_BLOCKS);
    let mut table = Table::on(stage).await?;
    for depth in 1..=6 {
        reverting(&mut table, depth, depth % 2 == 1).await?;
        nonce_taken(&mut table, depth, depth % 2 == 0).await?;
    }
    let branches = [Branch::Same(0), Branch::Empty, Branch::Empty, Branch::Same(1), Branch::Other(2), Branch::Other(5)];
    for (depth, branch) in (1..).zip(branches) {
        cancelled(&mut table, depth, branch).await?;
    }
    kept(&mut table, false).await?;
    kept(&mut table, true).await?;
    table.close(6 + 6 + 6 + 1).await
}
