//! Requests left out of a transaction do not wait for its finality; and nobody gains by being left out.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use alloy_primitives::{B256, Bytes, U64, U256, keccak256};
use alloy_sol_types::SolCall;
use serde_json::json;
use slackwater_benches::{
    RelayerClient, Result,
    client::RequestState,
    proxy::{Fault, ReceiptLie, Rule},
    wallet::{Ask, Crowd, SignedRequest},
};
use slackwater_contracts::{
    forwarder::executeCall,
    nasty::INasty::{marksCall, setTrustCall},
};
use slackwater_core::request::Reason;
use slackwater_relayer::http::auth::KeyHash;

use crate::{
    attempts::{Batch, next_base_fee},
    company,
    stage::{PATIENCE, Pace, Stage, StageBuilder, Via, submit_all, until},
};

/// Confirmation depth at which a block is final here: many more than [`REPLAN_BLOCKS`].
const FINAL_BLOCKS: u64 = 40;
/// `chain.replan_after_blocks`, its default.
const REPLAN_BLOCKS: u64 = 3;
/// `MAX_BATCH_FAILURES` of the relayer.
const MAX_TRIES: usize = 6;

/// Delay of the receipt that is to arrive last.
const LATE_BY: Duration = Duration::from_secs(2);

const RECEIPT: &str = "eth_getTransactionReceipt";

/// `isTrustedForwarder` of the target answers truthfully.
const HONEST: u8 = 0;
/// `isTrustedForwarder` of the target denies: the forwarder skips its requests.
const DENY: u8 = 1;

fn stage(final_blocks: u64) -> StageBuilder {
    // Nothing is replaced.
    replacing(final_blocks).chain_key("bump_after_blocks", 1_000)
}

/// With replacements as usual.
fn replacing(final_blocks: u64) -> StageBuilder {
    Stage::at(Pace::Manual)
        .proxied()
        .spec(&format!("finality = {{ kind = \"depth\", blocks = {final_blocks} }}"))
        .chain_key("poll_interval_ms", 25)
        .chain_key("rebroadcast_after_blocks", 1)
}

/// A request to the target that can deny.
fn ask(stage: &Stage, tag: &str) -> Ask {
    company::ask(stage.world.nasty, tag)
}

/// The statuses of a request's events.
fn told(state: &RequestState) -> Vec<&str> {
    state.timeline.iter().map(|event| event.status.as_str()).collect()
}

impl Stage {
    /// Mines a block in which the target denies, though not in the state before it nor in the one after it.
    pub(crate) async fn mine_denying(&self) -> Result<()> {
        self.overtake(self.world.nasty, &setTrustCall { mode: DENY }).await?;
        let data = Bytes::from(setTrustCall { mode: HONEST }.abi_encode());
        let from = self.node().accounts().await?[1];
        // No transaction has a lower fee cap, so it is the last one.
        let base_fee = next_base_fee(self.node()).await?;
        let transaction = json!({
            "from": from, "to": self.world.nasty, "data": data, "gas": U64::from(100_000),
            "maxFeePerGas": U256::from(base_fee), "maxPriorityFeePerGas": "0x0",
        });
        self.node().call::<B256>("eth_sendTransaction", json!([transaction])).await?;
        self.mine(1).await
    }

    async fn batch(&self, id: &str) -> Result<Batch> {
        self.client().get_json(&format!("/v1/batches/{id}")).await
    }

    /// Mines until the batch with this id has this state.
    async fn batch_becomes(&self, id: &str, state: &str) -> Result<()> {
        until(&format!("{id} to be {state}"), PATIENCE, async || {
            if self.batch(id).await?.state == state {
                return Ok(Some(()));
            }
            self.mine(1).await?;
            Ok(None)
        })
        .await
    }

    /// The signed bytes of a transaction that was sent.
    pub(crate) fn sent(&self, hash: B256) -> Bytes {
        self.proxy().arrivals().into_iter().find(|arrival| arrival.hash == hash).expect("it was to be sent").raw
    }

    /// The lane's nonces for which transactions were sent.
    fn sent_nonces(&self) -> BTreeSet<u64> {
        self.proxy().arrivals().iter().map(|arrival| arrival.nonce).collect()
    }

    /// Cost of a transaction to the lane, wei.
    async fn paid(&self, hash: B256) -> Result<U256> {
        let receipt = self.node().receipt(hash).await?.expect("in a block");
        Ok(U256::from(receipt.gas_used.to::<u64>()) * receipt.effective_gas_price)
    }

    /// Asserts that the requests' costs and the amounts borne by accounts add up to the cost of these transactions, and
    /// that no other money left the lane. Returns the amount borne by accounts.
    async fn all_is_paid(&self, requests: &[SignedRequest], transactions: &[B256]) -> Result<U256> {
        let mut paid = U256::ZERO;
        for hash in transactions {
            paid += self.paid(*hash).await?;
        }
        let (spent, borne) = self.spent_and_borne().await?;
        assert_eq!(spent, paid, "only these left the lane");
        assert_eq!(self.costs(requests).await? + borne, spent, "with {borne} on accounts");
        Ok(borne)
    }
}

/// One of four was skipped in a block that is not final, and travels in a second transaction, which is in the pool.
struct Skipped {
    all: Vec<SignedRequest>,
    skipped: SignedRequest,
    /// First transaction: its batch, hash and block.
    first: (String, B256, u64),
    /// Second transaction: its batch and hash.
    second: (String, B256),
}

impl Skipped {
    async fn on(stage: &Stage) -> Result<Self> {
        let mut crowd = Crowd::new(&stage.world, 4);
        let mut all: Vec<SignedRequest> = (0..3).map(|user| crowd.mark(user)).collect();
        let skipped = crowd.sign(3, &ask(stage, "skipped"));
        all.push(skipped.clone());
        stage.submit(&all).await?;
        stage.pooled(1).await?;
        let batch = stage.client().request(skipped.id).await?.batch.expect("a batch");
        for request in &all {
            assert_eq!(stage.client().request(request.id).await?.batch.as_ref(), Some(&batch), "all together");
        }
        let hash = stage.batch(&batch).await?.attempts[0].tx_hash;
        stage.mine_denying().await?;
        for request in &all[..3] {
            stage.wait_status(request.id, "included").await?;
        }
        let receipt = stage.node().receipt(hash).await?.expect("in a block");
        assert_eq!(receipt.status, U64::from(1));
        let block = receipt.block_number.to();
        for _ in 1..REPLAN_BLOCKS {
            let state = stage.client().request(skipped.id).await?;
            assert_eq!((state.status.as_str(), state.batch.as_ref()), ("broadcast", Some(&batch)), "not deep enough");
            stage.mine(1).await?;
        }
        let is_carried = async || {
            let state = stage.client().request(skipped.id).await?;
            Ok(state.batch.filter(|now| *now != batch && state.status == "broadcast"))
        };
        let again = until("a second transaction", PATIENCE, is_carried).await?;
        stage.pooled(1).await?;
        let second = stage.batch(&again).await?.attempts[0].tx_hash;
        assert_eq!(stage.batch(&batch).await?.state, "included");
        assert_eq!(stage.node().block_number().await?, block + REPLAN_BLOCKS - 1, "long before it is final");
        Ok(Self { all, skipped, first: (batch, hash, block), second: (again, second) })
    }
}

#[tokio::test]
async fn a_skipped_one_travels_again_before_its_transaction_is_final() -> Result<()> {
    let stage = stage(FINAL_BLOCKS).raise().await?;
    let scene = Skipped::on(&stage).await?;
    let ((_, first, _), (_, second)) = (&scene.first, &scene.second);
    stage.mine(1).await?;
    stage.wait_status(scene.skipped.id, "included").await?;
    stage.mine(FINAL_BLOCKS - REPLAN_BLOCKS - 1).await?;
    assert_eq!(stage.batch(&scene.first.0).await?.state, "included", "not final yet");
    stage.settle_mining().await?;
    let truth = stage.check(&scene.all).await?;
    assert_eq!(truth.count("finalized", None), scene.all.len());
    let state = stage.client().request(scene.skipped.id).await?;
    assert_eq!(state.tx_hash, Some(*second));
    let twice = ["queued", "batched", "broadcast", "queued", "batched", "broadcast", "included", "finalized"];
    assert_eq!(told(&state), twice);
    assert_eq!(state.timeline[3].reason, Some(Reason::SkippedByForwarder.into()));
    let borne = stage.all_is_paid(&scene.all, &[*first, *second]).await?;
    assert_eq!(borne, U256::ZERO);
    // It pays the whole second transaction, and its share of the first.
    let (own, alone) = (stage.costs(std::slice::from_ref(&scene.skipped)).await?, stage.paid(*second).await?);
    assert!(own > alone && own < alone + stage.paid(*first).await? / U256::from(2), "{own} for {alone}");
    stage.close().await
}

/// One head makes both final, and the receipt of the first comes last: the skipped request pays for its share in both
/// nevertheless, and nobody else does. Its whole cost is reported when it ends.
#[tokio::test]
async fn whichever_is_read_first_who_was_skipped_pays_for_both() -> Result<()> {
    let stage = stage(FINAL_BLOCKS).raise().await?;
    let scene = Skipped::on(&stage).await?;
    let ((_, first, _), (_, second)) = (&scene.first, &scene.second);
    stage.mine(1).await?;
    stage.wait_status(scene.skipped.id, "included").await?;
    let late = Fault::Delay { min: LATE_BY, max: LATE_BY };
    stage.proxy().add(Rule::always(late).on(RECEIPT).times(1));
    stage.mine(FINAL_BLOCKS + REPLAN_BLOCKS).await?;
    let state = stage.ended(scene.skipped.id).await?;
    assert_eq!((state.status.as_str(), state.tx_hash), ("finalized", Some(*second)));
    let at_its_end = stage.costs(std::slice::from_ref(&scene.skipped)).await?;
    stage.settle_mining().await?;
    let truth = stage.check(&scene.all).await?;
    assert_eq!(truth.count("finalized", None), scene.all.len());
    assert_eq!(stage.all_is_paid(&scene.all, &[*first, *second]).await?, U256::ZERO);
    let (own, alone) = (stage.costs(std::slice::from_ref(&scene.skipped)).await?, stage.paid(*second).await?);
    assert!(own > alone && own < alone + stage.paid(*first).await? / U256::from(2), "{own} for {alone}");
    assert_eq!(at_its_end, own, "its end tells all of it");
    stage.close().await
}

/// The same for a request that was alone, with a restart of the relayer in between: the operator bears nothing.
#[tokio::test]
async fn a_restart_forgets_nothing_of_what_a_skip_costs() -> Result<()> {
    let mut stage = stage(FINAL_BLOCKS).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 1);
    let all = [crowd.sign(0, &ask(&stage, "alone"))];
    stage.submit(&all).await?;
    stage.pooled(1).await?;
    let batch = stage.client().request(all[0].id).await?.batch.expect("a batch");
    let first = stage.batch(&batch).await?.attempts[0].tx_hash;
    stage.mine_denying().await?;
    stage.mine(REPLAN_BLOCKS - 1).await?;
    stage.pooled(1).await?;
    let is_another = async || Ok(stage.client().request(all[0].id).await?.batch.filter(|now| *now != batch));
    let again = until("a second transaction", PATIENCE, is_another).await?;
    let second = stage.batch(&again).await?.attempts[0].tx_hash;
    stage.mine(1).await?;
    stage.wait_status(all[0].id, "included").await?;
    assert_eq!(stage.batch(&batch).await?.state, "included");
    stage.relayer.restart().await?;
    stage.follow().await?;
    let late = Fault::Delay { min: LATE_BY, max: LATE_BY };
    stage.proxy().add(Rule::always(late).on(RECEIPT).times(1));
    stage.mine(FINAL_BLOCKS + REPLAN_BLOCKS).await?;
    let state = stage.ended(all[0].id).await?;
    assert_eq!((state.status.as_str(), state.tx_hash), ("finalized", Some(second)));
    stage.batch_becomes(&batch, "finalized").await?;
    stage.settle_mining().await?;
    stage.check(&all).await?;
    let borne = stage.all_is_paid(&all, &[first, second]).await?;
    assert_eq!((borne, stage.bearers().await?), (U256::ZERO, Vec::new()));
    stage.close().await
}

/// The other branch has the first transaction at a point where the target does not deny: it executes all, and the
/// second one is in vain.
async fn turned_round(is_second_mined: bool) -> Result<()> {
    let stage = stage(FINAL_BLOCKS).raise().await?;
    let scene = Skipped::on(&stage).await?;
    let ((first_id, first, block), (id, second)) = (&scene.first, &scene.second);
    if is_second_mined {
        stage.mine(1).await?;
        stage.wait_status(scene.skipped.id, "included").await?;
    }
    let depth = stage.node().block_number().await? - block + 1;
    let mut branch = vec![(stage.sent(*first), 0)];
    branch.extend(is_second_mined.then(|| (stage.sent(*second), depth - 1)));
    stage.node().reorg_with(depth, &branch).await?;
    stage.follow().await?;
    // In this block or a later one, as soon as a node has it again.
    until("both to be in blocks", PATIENCE, async || {
        if stage.node().receipt(*second).await?.is_some() {
            return Ok(Some(()));
        }
        stage.mine(1).await?;
        Ok(None)
    })
    .await?;
    let marks = stage.node().read(stage.world.nasty, marksCall { tag: keccak256("skipped") }.abi_encode()).await?;
    assert_eq!(U256::from_be_slice(&marks), U256::from(1));
    // The requests' state may still be that of the removed branch.
    let is_back = async || Ok((stage.batch(first_id).await?.included_hash == Some(*first)).then_some(()));
    until("the first one to be in its block again", PATIENCE, is_back).await?;
    for request in &scene.all[..3] {
        stage.wait_status(request.id, "included").await?;
    }
    let head = stage.node().block_number().await?;
    stage.mine((block + FINAL_BLOCKS - 1).saturating_sub(head)).await?;
    // The first one is final some blocks before the second.
    until("the end of the skipped one", PATIENCE, async || {
        if stage.client().request(scene.skipped.id).await?.is_terminal() {
            return Ok(Some(()));
        }
        stage.mine(1).await?;
        stage.settled_down().await;
        Ok(None)
    })
    .await?;
    let state = stage.client().request(scene.skipped.id).await?;
    assert_eq!((state.status.as_str(), state.tx_hash), ("finalized", Some(*first)), "{:?}", state.timeline);
    stage.batch_becomes(id, "finalized").await?;
    stage.settle_mining().await?;
    let truth = stage.check(&scene.all).await?;
    assert_eq!(truth.count("finalized", None), scene.all.len());
    assert_eq!(told(&stage.client().request(scene.skipped.id).await?).iter().filter(|s| **s == "finalized").count(), 1);
    let borne = stage.all_is_paid(&scene.all, &[*first, *second]).await?;
    // Nobody's fault: the operator bears the cost of the second one.
    assert_eq!(borne, stage.paid(*second).await?);
    stage.close().await
}

#[tokio::test]
async fn a_reorganisation_executes_it_in_the_first_one_while_the_second_waits() -> Result<()> {
    turned_round(false).await
}

#[tokio::test]
async fn a_reorganisation_executes_it_in_the_first_one_and_the_second_is_skipped() -> Result<()> {
    turned_round(true).await
}

/// One of two requests reached its deadline, so an empty transaction took the nonce: the other one, which has time,
/// does not wait until that is final.
#[tokio::test]
async fn whom_a_cancel_left_out_travels_again_before_it_is_final() -> Result<()> {
    // The one with the short deadline is not so urgent that it would travel alone.
    let stage =
        replacing(FINAL_BLOCKS).chain_key("urgent_within_ms", 0).chain_key("bump_after_blocks", 3).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 2);
    let (short, long) = (crowd.mark_within(0, "3s"), crowd.mark_within(1, "10m"));
    let all = [long.clone(), short.clone()];
    stage.submit(&all).await?;
    stage.pooled(1).await?;
    let batch = stage.client().request(short.id).await?.batch.expect("a batch");
    assert_eq!(stage.client().request(long.id).await?.batch.as_ref(), Some(&batch), "together");
    let deadline_ms = stage.client().submit(&short.body).await?.accepted()?.deadline_at_ms;
    let now_ms = || SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis());
    until("the deadline", PATIENCE, async || Ok((now_ms() > u128::from(deadline_ms.0)).then_some(()))).await?;
    stage.node().drop_all_transactions().await?;
    stage.mine(1).await?;
    let cancel = stage.wait_attempts(&short, 2).await?[1].tx_hash;
    let is_taken = async || Ok(stage.proxy().injected().taken.contains(&cancel).then_some(()));
    until("the cancel to be taken", PATIENCE, is_taken).await?;
    stage.mine(1).await?;
    let is_included = async || Ok((stage.batch(&batch).await?.included_hash == Some(cancel)).then_some(()));
    until("the cancel to be included", PATIENCE, is_included).await?;
    stage.mine(REPLAN_BLOCKS - 1).await?;
    stage.pooled(1).await?;
    stage.mine(1).await?;
    let state = stage.wait_status(long.id, "included").await?;
    assert_eq!(stage.batch(&batch).await?.state, "included", "long before the cancel is final");
    stage.settle_mining().await?;
    stage.check(&all).await?;
    let (short, long) = (stage.ended(short.id).await?, stage.ended(long.id).await?);
    assert_eq!((short.status.as_str(), long.status.as_str()), ("expired", "finalized"));
    assert!(
        long.timeline.iter().any(|event| event.reason.as_ref().is_some_and(|reason| *reason == "batch_cancelled")),
        "{:?}",
        long.timeline
    );
    stage.batch_becomes(&batch, "cancelled").await?;
    stage.all_is_paid(&all, &[cancel, state.tx_hash.expect("a transaction")]).await?;
    stage.close().await
}

/// A tenant whose requests are never executed, however often they are sent: its target denies in every block, though in
/// none of the states between them, and its users use their nonces elsewhere at the last moment. This ends, at its own
/// cost, and another tenant's requests land in the next block at theirs.
#[tokio::test]
async fn skips_on_purpose_end_at_the_cost_of_whoever_makes_them() -> Result<()> {
    const SHOP: &str = "sw_shop_3mJr7AoUXx2Wqd";
    const MALLORY: &str = "sw_mallory_9vTz4KeRYb5Lnc";
    const BOSS: &str = "sw_boss_7pNq2XsGJd8Wmf";
    const MOST_ROUNDS: usize = 120;
    const FINAL_HERE: u64 = 8;
    let limit = U256::from(10_u64).pow(U256::from(17));
    let tenants = format!(
        "[[tenant]]\nid = \"shop\"\napi_keys = [\"{}\"]\nopen = true\n\
         [[tenant]]\nid = \"mallory\"\napi_keys = [\"{}\"]\nbudget = {{ limit_wei = \"{limit}\", period_s = 0 }}\n\
         [[tenant]]\nid = \"boss\"\napi_keys = [\"{}\"]\noperator = true\nopen = true\n",
        KeyHash::of(SHOP),
        KeyHash::of(MALLORY),
        KeyHash::of(BOSS),
    );
    let stage = stage(FINAL_HERE)
        .env("SLACKWATER_SERVER_ALLOW_ANONYMOUS", "false")
        .extra(&tenants)
        .api_key(BOSS)
        .raise()
        .await?;
    let (shop, mallory) = (stage.client().clone().with_key(SHOP), stage.client().clone().with_key(MALLORY));
    let mut users = Crowd::named(&stage.world, "shop", 4);
    let mut others = Crowd::named(&stage.world, "mallory", 5);
    let mut bad: Vec<SignedRequest> =
        (0..3).map(|user| others.sign(user, &ask(&stage, &format!("bad {user}")))).collect();
    submit_all(&mallory, &bad).await?;
    let mut good = Vec::new();
    for round in 0.. {
        assert!(round < MOST_ROUNDS, "there is no end");
        let request = users.mark_within(round % 4, "60s");
        submit_all(&shop, std::slice::from_ref(&request)).await?;
        if round < 4 {
            // Two requests with one nonce: the relayer carries one while somebody else executes the other.
            let user = 3 + round % 2;
            let ours = others.mark_within(user, "60s");
            others.users[user].next_nonce -= 1;
            let theirs = others.mark_within(user, "60s");
            submit_all(&mallory, std::slice::from_ref(&ours)).await?;
            stage.is_sent(&mallory, &ours).await?;
            stage.overtake(stage.world.forwarder, &executeCall { request: theirs.data() }).await?;
            bad.push(ours);
        }
        stage.is_sent(&shop, &request).await?;
        let head = stage.node().block_number().await?;
        stage.mine_denying().await?;
        let state = wait_included(&shop, request.id).await?;
        assert_eq!(state.block_number, Some(head + 1), "in the next block");
        good.push(request);
        let mut are_over = true;
        for request in &bad {
            are_over &= mallory.request(request.id).await?.is_terminal();
        }
        if are_over {
            break;
        }
    }
    for request in &good {
        until("the end of a good one", PATIENCE, async || {
            if shop.request(request.id).await?.is_terminal() {
                return Ok(Some(()));
            }
            stage.mine(1).await?;
            Ok(None)
        })
        .await?;
    }
    let mut transactions = BTreeSet::new();
    let mut own = U256::ZERO;
    for request in &good {
        let state = shop.request(request.id).await?;
        assert_eq!((state.status.as_str(), state.reason.as_deref()), ("finalized", None));
        let is_late =
            state.timeline.iter().any(|event| event.reason.as_ref().is_some_and(|reason| *reason == "promise_missed"));
        assert!(!is_late, "{:?}", state.timeline);
        transactions.insert(state.tx_hash.expect("a transaction"));
        own += state.cost_wei.map_or(U256::ZERO, |cost| cost.parse().expect("a number"));
    }
    let mut paid = U256::ZERO;
    for hash in &transactions {
        paid += stage.paid(*hash).await?;
    }
    assert_eq!(own, paid, "each pays for its own transaction");
    let mut burnt = U256::ZERO;
    for request in &bad {
        let state = mallory.request(request.id).await?;
        let reason = state.reason.as_deref().unwrap_or_default();
        let tries = told(&state).iter().filter(|status| **status == "batched").count();
        println!("{reason} after {tries} tries, {:?}", state.cost_wei);
        assert_eq!(state.status, "rejected");
        assert!(["batch_failed", "reservation_spent", "nonce_used_elsewhere"].contains(&reason), "{reason}");
        assert!(tries <= MAX_TRIES);
        burnt += state.cost_wei.map_or(U256::ZERO, |cost| cost.parse().expect("a number"));
    }
    let (spent, borne) = stage.spent_and_borne().await?;
    println!("{} rounds; the shop paid {own}, mallory {burnt}, accounts {borne}", good.len());
    assert_eq!(own + burnt + borne, spent);
    assert!(burnt > U256::ZERO && burnt + borne <= limit, "{burnt} and {borne} of {limit}");
    assert!(
        stage.bearers().await?.iter().all(|tenant| tenant.as_deref() == Some("mallory")),
        "nobody else bears any of it"
    );
    stage.close().await
}

impl Stage {
    /// Waits until the node has accepted a transaction with this request.
    async fn is_sent(&self, owner: &RelayerClient, request: &SignedRequest) -> Result<()> {
        until("it to be sent", PATIENCE, async || {
            let Some(batch) = owner.request(request.id).await?.batch else { return Ok(None) };
            let attempts = self.batch(&batch).await?.attempts;
            let taken = self.proxy().injected().taken;
            Ok(attempts.iter().any(|attempt| taken.contains(&attempt.tx_hash)).then_some(()))
        })
        .await
    }

    /// Tenants whose accounts bear an amount.
    async fn bearers(&self) -> Result<Vec<Option<String>>> {
        use sqlx::{Connection as _, Row as _};
        let url = format!("sqlite://{}", self.relayer.database().display());
        let mut ledger = sqlx::SqliteConnection::connect(&url).await.expect("a connection");
        let rows = sqlx::query("SELECT tenant FROM batch_accounts").fetch_all(&mut ledger).await.expect("rows");
        ledger.close().await.expect("closes");
        Ok(rows.iter().map(|row| row.get::<Option<String>, _>(0)).collect())
    }
}

/// Waits until it is included.
async fn wait_included(owner: &RelayerClient, id: B256) -> Result<RequestState> {
    until("it to be included", PATIENCE, async || {
        let state = owner.request(id).await?;
        Ok(["included", "finalized"].contains(&state.status.as_str()).then_some(state))
    })
    .await
}

/// The first of three endpoints, which is asked first, may lie.
fn one_of_three(final_blocks: u64) -> StageBuilder {
    stage(final_blocks).endpoints(&[Via::Proxy, Via::Slow, Via::Slow])
}

/// It reports an included transaction after the block was removed, as one that left its members out.
#[tokio::test]
async fn an_inclusion_that_one_node_invents_plans_nothing_anew() -> Result<()> {
    const FINAL_HERE: u64 = 8;
    let stage = one_of_three(FINAL_HERE).raise().await?;
    let mut crowd = Crowd::new(&stage.world, 2);
    let all = crowd.marks(2);
    stage.submit(&all).await?;
    stage.pooled(1).await?;
    let id = stage.client().request(all[0].id).await?.batch.expect("a batch");
    let hash = stage.batch(&id).await?.attempts[0].tx_hash;
    stage.mine(1).await?;
    wait_included(stage.client(), all[0].id).await?;
    let lie = ReceiptLie::Invented { block: stage.node().block_number().await? };
    stage.proxy().add(Rule::always(Fault::Receipt(lie)).on(RECEIPT));
    stage.node().reorg(1).await?;
    // From now on no block has room for it.
    stage.set_block_gas_limit(50_000).await?;
    stage.wait_status(all[0].id, "broadcast").await?;
    // Most nodes count its nonce as unused: a block that only one node reports is not believed.
    stage.settled_down().await;
    assert_eq!(stage.batch(&id).await?.state, "broadcast");
    stage.node().drop_all_transactions().await?;
    for _ in 1..FINAL_HERE {
        stage.mine(1).await?;
        stage.settled_down().await;
        for request in &all {
            let state = stage.client().request(request.id).await?;
            assert_eq!((state.status.as_str(), state.batch.as_ref()), ("broadcast", Some(&id)), "{:?}", state.timeline);
        }
    }
    assert_eq!(stage.sent_nonces().len(), 1, "nothing else was sent");
    let (_, borne) = stage.spent_and_borne().await?;
    assert_eq!(stage.costs(&all).await? + borne, U256::ZERO, "nothing was settled");
    // Not even when it would be final.
    for _ in 0..4 {
        stage.mine(1).await?;
        stage.settled_down().await;
    }
    stage.proxy().clear();
    stage.set_block_gas_limit(400_000_000).await?;
    stage.settle_mining().await?;
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    assert_eq!(stage.client().request(all[0].id).await?.tx_hash, Some(hash));
    assert_eq!(stage.sent_nonces().len(), 1);
    stage.all_is_paid(&all, &[hash]).await?;
    stage.close().await
}

/// It reports that the transaction failed as a whole, and the nonces that it used as unused.
#[tokio::test]
async fn a_failure_that_one_node_invents_plans_nothing_anew() -> Result<()> {
    let stage = one_of_three(FINAL_BLOCKS).raise().await?;
    stage.proxy().add(Rule::always(Fault::Receipt(ReceiptLie::Failed)).on(RECEIPT));
    stage.proxy().add(Rule::always(Fault::StaleHead { blocks: 12 }).on("eth_call"));
    let mut crowd = Crowd::new(&stage.world, 3);
    stage.mine(12).await?;
    let all = crowd.marks(3);
    stage.submit(&all).await?;
    stage.pooled(1).await?;
    let id = stage.client().request(all[0].id).await?.batch.expect("a batch");
    stage.mine(1).await?;
    let is_believed = async || Ok((stage.batch(&id).await?.state == "included").then_some(()));
    until("the lie to be believed at first", PATIENCE, is_believed).await?;
    for _ in 0..3 * REPLAN_BLOCKS {
        stage.mine(1).await?;
        stage.settled_down().await;
    }
    for request in &all {
        let state = stage.client().request(request.id).await?;
        assert_eq!((state.status.as_str(), state.batch.as_ref()), ("broadcast", Some(&id)), "{:?}", state.timeline);
    }
    assert_eq!(stage.sent_nonces().len(), 1, "nothing else was sent");
    stage.settle_mining().await?;
    stage.proxy().clear();
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

/// The skip is real, its price is not: whatever cost one node reports, the request lands and pays the real cost.
#[tokio::test]
async fn a_price_that_one_node_invents_is_paid_by_nobody() -> Result<()> {
    const FINAL_HERE: u64 = 12;
    let stage = one_of_three(FINAL_HERE).raise().await?;
    stage.proxy().add(Rule::always(Fault::Receipt(ReceiptLie::Dear)).on(RECEIPT));
    let mut crowd = Crowd::new(&stage.world, 2);
    let all = [crowd.mark(0), crowd.sign(1, &ask(&stage, "dear"))];
    stage.submit(&all).await?;
    stage.pooled(1).await?;
    stage.mine_denying().await?;
    let first = wait_included(stage.client(), all[0].id).await?.tx_hash.expect("a transaction");
    for _ in 0..FINAL_HERE + 2 {
        stage.mine(1).await?;
        stage.settled_down().await;
    }
    stage.settle_mining().await?;
    let truth = stage.check(&all).await?;
    let state = stage.client().request(all[1].id).await?;
    assert_eq!(truth.count("finalized", None), all.len(), "{:?}", state.timeline);
    stage.proxy().clear();
    stage.all_is_paid(&all, &[first, state.tx_hash.expect("a transaction")]).await?;
    stage.close().await
}

impl Stage {
    /// Gives the relayer time to do something wrong: no event shows that it does nothing.
    pub(crate) async fn settled_down(&self) {
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
}
