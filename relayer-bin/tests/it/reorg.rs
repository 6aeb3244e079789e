//! What a reorganisation takes back lands again, once (scenario S6).

use alloy_primitives::{B256, Bytes};
use alloy_sol_types::SolCall;
use serde_json::json;
use slackwater_benches::{
    Result,
    client::Event,
    wallet::{Ask, Crowd, SignedRequest},
};
use slackwater_contracts::nasty::INasty::{armCall, ifArmedRevertCall};

use crate::stage::{Pace, Stage};

/// Deep enough that no reorganisation here reaches what is final.
const FINALITY: &str = "finality = { kind = \"depth\", blocks = 6 }";

async fn raise() -> Result<Stage> {
    Stage::at(Pace::Manual).spec(FINALITY).chain_key("rebroadcast_after_blocks", 1).raise().await
}

impl Stage {
    /// The signed bytes of a transaction that the node knows.
    async fn raw(&self, hash: B256) -> Result<Bytes> {
        self.node().call("eth_getRawTransactionByHash", json!([hash])).await
    }

    async fn story_of(&self, request: &SignedRequest) -> Result<Vec<Event>> {
        Ok(self.client().request(request.id).await?.timeline)
    }
}

fn statuses(story: &[Event]) -> Vec<&str> {
    story.iter().map(|event| event.status.as_str()).collect()
}

#[tokio::test]
async fn of_one_to_three_blocks() -> Result<()> {
    let stage = raise().await?;
    let mut crowd = Crowd::new(&stage.world, 5);
    let mut all = Vec::new();
    for depth in 1..=3 {
        let requests = crowd.marks(10);
        stage.submit(&requests).await?;
        stage.pooled(1).await?;
        stage.mine(1).await?;
        for request in &requests {
            stage.wait_status(request.id, "included").await?;
        }
        if depth > 1 {
            stage.mine(depth - 1).await?;
        }
        stage.node().reorg(depth).await?;
        for request in &requests {
            stage.wait_status(request.id, "broadcast").await?;
        }
        stage.settle_mining().await?;
        for request in &requests {
            let story = stage.story_of(request).await?;
            let statuses = statuses(&story);
            assert_eq!(
                statuses,
                ["queued", "batched", "broadcast", "included", "broadcast", "included", "finalized"],
                "depth {depth}"
            );
        }
        all.extend(requests);
    }
    let truth = stage.check(&all).await?;
    assert_eq!(truth.count("finalized", None), all.len());
    assert!(stage.metric("slackwater_reorged_batches_total", &[]).await? >= 3.0);
    stage.close().await
}

#[tokio::test]
async fn into_another_block() -> Result<()> {
    let stage = raise().await?;
    let mut crowd = Crowd::new(&stage.world, 5);
    let requests = crowd.marks(5);
    stage.submit(&requests).await?;
    stage.pooled(1).await?;
    stage.mine(1).await?;
    let state = stage.wait_status(requests[0].id, "included").await?;
    let (hash, block) = (state.tx_hash.expect("a hash"), state.block_number.expect("a block"));
    stage.mine(1).await?;
    // The other branch has the same transaction one block later.
    let raw = stage.raw(hash).await?;
    stage.node().reorg_with(2, &[(raw, 1)]).await?;
    let receipt = stage.node().receipt(hash).await?.expect("in the new branch");
    assert_eq!(receipt.block_number.to::<u64>(), block + 1);
    stage.settle_mining().await?;
    let truth = stage.check(&requests).await?;
    assert_eq!(truth.count("finalized", None), requests.len());
    for request in &requests {
        assert_eq!(truth.summaries[&request.id].block_number, Some(block + 1));
        assert_eq!(truth.summaries[&request.id].tx_hash, Some(hash));
    }
    assert_eq!(truth.relayed.transactions.len(), 1);
    stage.close().await
}

#[tokio::test]
async fn of_a_revert_is_not_the_end() -> Result<()> {
    let stage = raise().await?;
    let mut crowd = Crowd::new(&stage.world, 2);
    let ask = |stage: &Stage| Ask {
        to: stage.world.nasty,
        value: Default::default(),
        gas: 150_000,
        data: ifArmedRevertCall { tag: B256::repeat_byte(1) }.abi_encode().into(),
        deadline_s: slackwater_benches::wallet::unix_seconds() + 3_600,
        within: None,
        max_cost_wei: None,
    };
    let requests = vec![crowd.mark(0), crowd.sign(1, &ask(&stage))];
    stage.submit(&requests).await?;
    stage.pooled(1).await?;
    stage.overtake_arm().await?;
    stage.mine(1).await?;
    let state = stage.wait_status(requests[1].id, "included").await?;
    assert_eq!(state.reason.as_deref(), Some("target_reverted"), "reverted, for now");
    // In the other branch nobody armed the target.
    stage.node().reorg(1).await?;
    stage.settle_mining().await?;
    let truth = stage.check(&requests).await?;
    assert_eq!(truth.count("finalized", None), 2, "a revert on an orphaned block is not terminal");
    stage.close().await
}

impl Stage {
    /// Arms the nasty target in the next block, before us.
    async fn overtake_arm(&self) -> Result<B256> {
        let from = self.node().accounts().await?[0];
        let data = Bytes::from(armCall { on: true }.abi_encode());
        let transaction = json!({
            "from": from, "to": self.world.nasty, "data": data, "gas": "0xf4240",
            "maxFeePerGas": "0xe8d4a51000", "maxPriorityFeePerGas": "0x746a528800",
        });
        self.node().call("eth_sendTransaction", json!([transaction])).await
    }
}

#[tokio::test]
async fn while_the_relayer_is_dead() -> Result<()> {
    let mut stage = raise().await?;
    let mut crowd = Crowd::new(&stage.world, 5);
    let requests = crowd.marks(10);
    stage.submit(&requests).await?;
    stage.pooled(1).await?;
    stage.mine(1).await?;
    for request in &requests {
        stage.wait_status(request.id, "included").await?;
    }
    stage.relayer.kill();
    stage.node().reorg(1).await?;
    stage.node().mine(1).await?;
    stage.relayer.start().await?;
    stage.settle_mining().await?;
    let truth = stage.check(&requests).await?;
    assert_eq!(truth.count("finalized", None), requests.len());
    stage.close().await
}
