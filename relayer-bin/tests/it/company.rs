//! The history of targets on chain decides which requests share transactions with theirs: also after a restart, and not
//! after a reorganisation.

use std::{collections::BTreeSet, time::Duration};

use alloy_primitives::{Address, B256, Bytes, U64, U256, keccak256};
use alloy_sol_types::SolCall;
use serde_json::{Value, json};
use slackwater_benches::{
    Result,
    wallet::{Ask, Crowd, SignedRequest, unix_seconds},
};
use slackwater_contracts::nasty::INasty::ifArmedRevertCall;

use crate::{
    attempts::Batch,
    stage::{PATIENCE, Pace, Stage, StageBuilder, until},
};

/// Confirmation depth at which a block is final here: many more than [`REPLAN_BLOCKS`].
const FINAL_BLOCKS: u64 = 12;
/// `chain.replan_after_blocks`, its default.
const REPLAN_BLOCKS: u64 = 3;

/// A tenant whose policy names no targets except those named for the default tenant.
const NAMES_NOTHING: &str = "[[tenant]]\nid = \"default\"\noperator = true\nopen = true\n";

fn stage() -> StageBuilder {
    Stage::at(Pace::Manual)
        .proxied()
        .spec(&format!("finality = {{ kind = \"depth\", blocks = {FINAL_BLOCKS} }}"))
        .chain_key("poll_interval_ms", 25)
        .chain_key("rebroadcast_after_blocks", 1)
        .chain_key("bump_after_blocks", 1_000)
}

/// A request to the target that can deny, or to an account with its code.
pub(crate) fn ask(to: Address, tag: &str) -> Ask {
    Ask {
        to,
        value: U256::ZERO,
        gas: 150_000,
        data: ifArmedRevertCall { tag: keccak256(tag) }.abi_encode().into(),
        deadline_s: unix_seconds() + 3_600,
        within: None,
        max_cost_wei: None,
    }
}

impl Stage {
    /// Batch of each of these requests, once all have one.
    async fn batches_of(&self, requests: &[SignedRequest]) -> Result<Vec<String>> {
        let mut batches = Vec::new();
        for request in requests {
            let has_batch = async || Ok(self.client().request(request.id).await?.batch);
            batches.push(until("a transaction for it", PATIENCE, has_batch).await?);
        }
        Ok(batches)
    }

    /// Ledger entry of a target: clean runs, surprises, end of its suspicion.
    async fn kept(&self, target: Address) -> Option<(i64, i64, i64)> {
        use sqlx::{Connection as _, Row as _};
        let url = format!("sqlite://{}", self.relayer.database().display());
        let mut ledger = sqlx::SqliteConnection::connect(&url).await.expect("a connection");
        let query = "SELECT clean_runs, surprises, suspect_until_ms FROM targets WHERE target = ?";
        let row = sqlx::query(query).bind(target.as_slice()).fetch_optional(&mut ledger).await.expect("rows");
        ledger.close().await.expect("closes");
        row.map(|row| (row.get(0), row.get(1), row.get(2)))
    }

    async fn crash(&mut self) -> Result<()> {
        self.relayer.kill();
        self.relayer.launch()?;
        self.relayer.wait_ready(Duration::from_secs(60)).await?;
        self.follow().await
    }

    /// A request to a named target travels alone and is skipped in a block that a majority sees; then it is in a second
    /// transaction. Returns the request, the hash of its first transaction, and that one's block.
    async fn surprise(&self, crowd: &mut Crowd, user: usize) -> Result<(SignedRequest, B256, u64)> {
        let request = crowd.sign(user, &ask(self.world.nasty, &format!("surprise {user}")));
        self.submit(std::slice::from_ref(&request)).await?;
        self.pooled(1).await?;
        let first = self.batches_of(std::slice::from_ref(&request)).await?.remove(0);
        let batch: Batch = self.client().get_json(&format!("/v1/batches/{first}")).await?;
        self.mine_denying().await?;
        let block = self.node().block_number().await?;
        self.mine(REPLAN_BLOCKS - 1).await?;
        until("a second transaction", PATIENCE, async || {
            let now = self.client().request(request.id).await?;
            Ok((now.batch.as_ref() != Some(&first) && now.status == "broadcast").then_some(()))
        })
        .await?;
        Ok((request, batch.attempts[0].tx_hash, block))
    }
}

/// Number of distinct batches.
fn distinct(batches: &[String]) -> usize {
    batches.iter().collect::<BTreeSet<_>>().len()
}

/// A named target's request did what no simulation showed: from then on its other requests share transactions with
/// their own signer's only, after a crash too, and everybody else's are batched as before.
#[tokio::test]
async fn a_named_target_that_skips_is_suspect_after_a_restart() -> Result<()> {
    let mut stage = stage().raise().await?;
    let mut crowd = Crowd::new(&stage.world, 8);
    let (first, ..) = stage.surprise(&mut crowd, 0).await?;
    assert!((stage.metric("slackwater_target_surprises_total", &[]).await? - 1.0).abs() < 0.1);
    let (clean, surprises, until_ms) = stage.kept(stage.world.nasty).await.expect("a record");
    assert_eq!((clean, surprises), (0, 1), "kept before the block is final");
    let suspect_ms = until_ms - i64::try_from(unix_seconds()).expect("a time") * 1_000;
    assert!((1_200_000..=1_352_000).contains(&suspect_ms), "{suspect_ms} ms of a day's 64th");

    stage.crash().await?;
    stage.mine(1).await?;
    let suspects: Vec<_> = (1..4).map(|user| crowd.sign(user, &ask(stage.world.nasty, &format!("{user}")))).collect();
    let own = crowd.mark(1);
    let others: Vec<_> = (4..8).map(|user| crowd.mark(user)).collect();
    let mut all = [suspects.clone(), vec![own.clone()], others.clone()].concat();
    stage.submit(&all).await?;
    let of_suspects = stage.batches_of(&suspects).await?;
    assert_eq!(distinct(&of_suspects), 3, "each alone");
    assert_eq!(stage.batches_of(&[own]).await?[0], of_suspects[0], "with its own signer's");
    let of_others = stage.batches_of(&others).await?;
    assert_eq!(distinct(&of_others), 1, "together");
    assert!(!of_suspects.contains(&of_others[0]));
    stage.settle_mining().await?;
    assert_eq!(stage.kept(stage.world.nasty).await.map(|kept| kept.1), Some(1), "what is final counts once");
    all.push(first);
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

/// The other branch has the same transaction at a point where the target does not deny: there is no surprise.
#[tokio::test]
async fn a_surprise_that_a_reorganisation_removes_makes_nobody_suspect() -> Result<()> {
    let stage = stage().raise().await?;
    stage.mine(2 * FINAL_BLOCKS).await?;
    let mut crowd = Crowd::new(&stage.world, 4);
    let (first, hash, block) = stage.surprise(&mut crowd, 0).await?;
    assert_eq!(stage.kept(stage.world.nasty).await.map(|kept| kept.1), Some(1));
    let depth = stage.node().block_number().await? - block + 1;
    stage.node().reorg_with(depth, &[(stage.sent(hash), 0)]).await?;
    stage.follow().await?;
    let is_forgotten = async || Ok(stage.kept(stage.world.nasty).await.is_none().then_some(()));
    until("the surprise to be forgotten", PATIENCE, is_forgotten).await?;
    let mut all: Vec<_> = (1..4).map(|user| crowd.sign(user, &ask(stage.world.nasty, &format!("{user}")))).collect();
    stage.submit(&all).await?;
    assert_eq!(distinct(&stage.batches_of(&all).await?), 1, "together");
    stage.settle_mining().await?;
    all.push(first);
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

/// Each clean run of a target that no policy names lets its requests share with one more signer; a run that a
/// reorganisation removes does not count, and final runs survive a crash.
#[tokio::test]
async fn clean_runs_survive_a_restart_and_not_a_reorganisation() -> Result<()> {
    let mut stage = stage().extra(NAMES_NOTHING).raise().await?;
    stage.mine(2 * FINAL_BLOCKS).await?;
    let mut crowd = Crowd::new(&stage.world, 12);
    let mut all = vec![crowd.mark(0)];
    stage.submit(&all).await?;
    stage.pooled(1).await?;
    stage.mine(1).await?;
    stage.wait_status(all[0].id, "included").await?;
    stage.settled_down().await;
    stage.node().reorg(1).await?;
    stage.wait_status(all[0].id, "broadcast").await?;
    let new = [crowd.mark(1), crowd.mark(2)];
    stage.submit(&new).await?;
    assert_eq!(distinct(&stage.batches_of(&new).await?), 2, "as if it had never run");
    all.extend(new);
    stage.settle_mining().await?;
    let book = stage.world.guestbook;
    assert_eq!(stage.kept(book).await, Some((3, 0, 0)), "three clean transactions");

    stage.crash().await?;
    let new: Vec<_> = (3..9).map(|user| crowd.mark(user)).collect();
    stage.submit(&new).await?;
    let batches = stage.batches_of(&new).await?;
    let first = batches.iter().filter(|batch| **batch == batches[0]).count();
    assert_eq!((first, distinct(&batches)), (4, 2), "three clean runs: three signers more");
    all.extend(new);
    stage.settle_mining().await?;
    assert_eq!(stage.kept(book).await, Some((5, 0, 0)));
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    stage.close().await
}

/// An account with delegated code may delegate to other code at any time (EIP-7702): its requests never share
/// transactions.
#[tokio::test]
async fn a_delegated_account_has_no_clean_runs() -> Result<()> {
    let stage = stage().extra(NAMES_NOTHING).raise().await?;
    let account = Address::repeat_byte(0xd7);
    let code = Bytes::from([&[0xef, 0x01, 0x00][..], stage.world.nasty.as_slice()].concat());
    stage.node().call::<Value>("anvil_setCode", json!([account, code])).await?;
    let mut crowd = Crowd::new(&stage.world, 3);
    let mut all = Vec::new();
    for round in 0..2 {
        let new: Vec<_> = (0..3).map(|user| crowd.sign(user, &ask(account, &format!("{round} {user}")))).collect();
        stage.submit(&new).await?;
        assert_eq!(distinct(&stage.batches_of(&new).await?), 3, "each signer alone");
        stage.pooled(3).await?;
        stage.mine(1).await?;
        all.extend(new);
        stage.settle_mining().await?;
    }
    assert_eq!(stage.kept(account).await, None);
    for request in &all {
        assert_eq!(stage.client().request(request.id).await?.status, "finalized");
        let state = stage.client().request(request.id).await?;
        let receipt = stage.node().receipt(state.tx_hash.expect("a transaction")).await?.expect("in a block");
        assert_eq!(receipt.status, U64::from(1));
    }
    stage.close().await
}
