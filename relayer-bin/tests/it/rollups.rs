//! L1 data fees: our computation against the `GasPriceOracle` itself, and a relayer on a chain with a data fee.

use std::time::Duration;

use alloy_primitives::{B256, Bytes, U256};
use alloy_sol_types::SolCall;
use serde_json::{Value, json};
use slackwater_benches::{
    Anvil, Node, Relayer, RelayerClient, Result, World,
    client::Submitted,
    wallet::{Crowd, SignedRequest},
};
use slackwater_contracts::{
    multicall3,
    rollup::{
        GAS_PRICE_ORACLE, GasPriceOracle, GasPriceOracle::getL1FeeCall, GasPriceOracle::getL1FeeUpperBoundCall,
        L1_BLOCK, gas_price_oracle_code, l1_block_code,
    },
};
use slackwater_core::{
    chain::data_fee::{L1BlockSlots, OpFork, OpL1Params, TxSize},
    wire::Accepted,
};

use crate::stage::{PATIENCE, until};

/// OP Mainnet at block 124 665 056.
pub(crate) const MAINNET: OpL1Params = OpL1Params {
    l1_base_fee: U256::from_limbs([1_055_991_687, 0, 0, 0]),
    overhead: U256::ZERO,
    scalar: U256::ZERO,
    base_fee_scalar: 5_227,
    blob_base_fee: U256::from_limbs([1, 0, 0, 0]),
    blob_base_fee_scalar: 1_014_213,
    operator_fee_scalar: 0,
    operator_fee_constant: 0,
    da_footprint_gas_scalar: 0,
};

/// Installs the predeploys at their addresses on the OP Stack.
pub(crate) async fn install(node: &Node) -> Result<()> {
    node.set_code(GAS_PRICE_ORACLE, Bytes::from_static(gas_price_oracle_code())).await?;
    node.set_code(L1_BLOCK, Bytes::from_static(l1_block_code())).await
}

/// Writes the state that the sequencer's first transaction of a block, and that of the upgrade, write.
pub(crate) async fn set(node: &Node, fork: OpFork, params: &OpL1Params) -> Result<()> {
    // `isEcotone`, `isFjord`.
    let flags = if fork >= OpFork::Fjord { 0x0101 } else { 1 };
    node.set_storage(GAS_PRICE_ORACLE, U256::ZERO, B256::from(U256::from(flags))).await?;
    let scalars = (U256::from(params.base_fee_scalar) << 96) | (U256::from(params.blob_base_fee_scalar) << 64);
    for (slot, value) in [(1, params.l1_base_fee), (3, scalars), (7, params.blob_base_fee)] {
        node.set_storage(L1_BLOCK, U256::from(slot), B256::from(value)).await?;
    }
    Ok(())
}

async fn params_of(node: &Node) -> Result<OpL1Params> {
    let mut words = [U256::ZERO; 6];
    for (word, slot) in words.iter_mut().zip(L1BlockSlots::NUMBERS) {
        *word = node.call("eth_getStorageAt", json!([L1_BLOCK, U256::from(slot), "latest"])).await?;
    }
    let [slot1, slot3, slot5, slot6, slot7, slot8] = words;
    Ok(L1BlockSlots { slot1, slot3, slot5, slot6, slot7, slot8 }.into())
}

async fn ask(node: &Node, call: impl SolCall) -> Result<U256> {
    Ok(U256::from_be_slice(&node.read(GAS_PRICE_ORACLE, call.abi_encode()).await?))
}

/// Bytes that do not compress.
fn noise(len: usize) -> Vec<u8> {
    (0..len as u64).flat_map(|index| alloy_primitives::keccak256(index.to_be_bytes())).take(len).collect()
}

#[tokio::test]
async fn we_say_what_the_oracle_says() -> Result<()> {
    let anvil = Anvil::builder().spawn().await?;
    let node = anvil.node();
    install(node).await?;
    let inputs = [
        vec![0; 1_000],
        vec![1; 1_000],
        noise(40),
        noise(500),
        noise(3_000),
        multicall3::runtime_code().to_vec(),
        gas_price_oracle_code().to_vec(),
        [noise(120), vec![0; 400], noise(90)].concat(),
    ];
    let dear = OpL1Params {
        l1_base_fee: U256::from(80_000_000_000_u64),
        base_fee_scalar: 1_368,
        blob_base_fee: U256::from(57_422_457_042_u64),
        blob_base_fee_scalar: 810_949,
        ..MAINNET
    };
    for params in [MAINNET, dear] {
        set(node, OpFork::Fjord, &params).await?;
        assert_eq!(params_of(node).await?, params, "storage");
        for input in &inputs {
            let size = TxSize::of_signed(&[&[2], input.as_slice()].concat());
            let unsigned = Bytes::from([&[2], input.as_slice()].concat());

            set(node, OpFork::Fjord, &params).await?;
            // The oracle adds 68 compressed bytes for the signature.
            let with_signature = TxSize { flz: size.flz + 68, ..size };
            let told = ask(node, getL1FeeCall { unsignedTx: unsigned.clone() }).await?;
            assert_eq!(params.l1_data_fee(OpFork::Fjord, &with_signature), told, "{} bytes", size.bytes);
            let bound = params.l1_data_fee(OpFork::Fjord, &TxSize::bound_unsigned(size.bytes));
            assert!(bound >= params.l1_data_fee(OpFork::Fjord, &size), "{} bytes", size.bytes);

            set(node, OpFork::Ecotone, &params).await?;
            let with_signature = TxSize { bytes: size.bytes + 68, ..size };
            let told = ask(node, getL1FeeCall { unsignedTx: unsigned }).await?;
            assert_eq!(params.l1_data_fee(OpFork::Ecotone, &with_signature), told, "{} bytes", size.bytes);
        }
    }
    set(node, OpFork::Fjord, &MAINNET).await?;
    let told = ask(node, getL1FeeUpperBoundCall { unsignedTxSize: U256::from(1_000) }).await?;
    assert_eq!(told, U256::from(76_615_331_833_u64));
    // The oracle's upper bound does not hold for data that does not compress; ours does.
    let data = noise(3_000);
    let bound = ask(node, getL1FeeUpperBoundCall { unsignedTxSize: U256::from(data.len()) }).await?;
    let fee = ask(node, getL1FeeCall { unsignedTx: data.clone().into() }).await?;
    assert!(bound < fee);
    assert!(MAINNET.l1_data_fee(OpFork::Fjord, &TxSize::bound_unsigned(data.len() as u64)) >= fee);
    // Getters of later forks are missing: the relayer takes that for "not active".
    assert!(ask(node, GasPriceOracle::isJovianCall {}).await.is_err());
    Ok(())
}

/// A relayer with the `op-mainnet` preset, and the chain that it takes for it.
struct Rollup {
    relayer: Relayer,
    world: World,
    anvil: Anvil,
}

impl Rollup {
    async fn raise() -> Result<Self> {
        let anvil = Anvil::builder().arg("--chain-id").arg("10").arg("--block-time").arg("0.25").spawn().await?;
        let world = World::deploy(anvil.node(), 1).await?;
        let config = format!(
            "[server]\nlisten = \"{{listen}}\"\nallow_anonymous = true\n\n[[tenant]]\nid = \"default\"\nopen = true\n\n[ledger]\npath = \"{{database}}\"\n\n\
             [[chain]]\npreset = \"op-mainnet\"\nrpc = [{{ url = \"{{rpc}}\" }}]\nsigners = [\"env:RELAYER_KEY_0\"]\n\
             forwarders = [{{ address = \"{}\" }}]\nmax_fee_ceiling_wei_per_gas = \"100000000000\"\n\
             poll_interval_ms = 100\nspec = {{ block_time_ms = 250 }}\n",
            world.forwarder
        );
        let builder = Relayer::builder(&world).binary(env!("CARGO_BIN_EXE_slackwater")).rpc(anvil.url());
        let relayer = builder.config(config).spawn().await?;
        Ok(Self { relayer, world, anvil })
    }

    const fn client(&self) -> &RelayerClient {
        self.relayer.client()
    }

    async fn chain(&self) -> Result<Value> {
        Ok(self.client().chains().await?["chains"][0].clone())
    }

    async fn wait_health(&self, health: &str) -> Result<()> {
        until(&format!("the chain to be {health}"), PATIENCE, async || {
            Ok((self.chain().await?["health"] == health).then_some(()))
        })
        .await
    }

    async fn wait_paused(&self, paused: Option<&str>) -> Result<()> {
        until(&format!("the lane to be paused for {paused:?}"), PATIENCE, async || {
            Ok((self.client().lanes().await?["lanes"][0]["paused"].as_str() == paused).then_some(()))
        })
        .await
    }

    /// Waits until the relayer has seen two heads after the last write.
    async fn follow(&self) -> Result<()> {
        let head = self.anvil.node().block_number().await? + 2;
        until("two blocks", PATIENCE, async || Ok((self.chain().await?["head"].as_u64() >= Some(head)).then_some(())))
            .await
    }

    async fn accept(&self, request: &SignedRequest) -> Result<Accepted> {
        self.client().submit(&request.body).await?.accepted()
    }
}

#[tokio::test]
async fn a_rollup_without_predeploys_is_said_to_be_none() -> Result<()> {
    let rollup = Rollup::raise().await?;
    rollup.wait_health("impaired").await?;
    let chain = rollup.chain().await?;
    let detail = chain["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("no L1Block at 0x4200000000000000000000000000000000000015"), "{chain}");
    let mut crowd = Crowd::new(&rollup.world, 1);
    let request = crowd.mark_within(0, "60s");
    match rollup.client().submit(&request.body).await? {
        Submitted::Refused(problem) => {
            assert_eq!((problem.status, &*problem.code), (503, "chain_unavailable"));
            assert!(problem.detail.contains("L1Block"), "{}", problem.detail);
        }
        Submitted::Accepted(accepted) => panic!("accepted without knowing its cost: {:?}", accepted.quote),
    }
    let metrics = rollup.client().metrics().await?;
    assert!(metrics.keys().any(|key| key.contains("l1_fee_reads_failed") && key.contains("l1_fee_contract_missing")));

    // It needs no restart.
    install(rollup.anvil.node()).await?;
    set(rollup.anvil.node(), OpFork::Fjord, &MAINNET).await?;
    rollup.wait_health("healthy").await?;
    let accepted = rollup.accept(&request).await?;
    assert!(accepted.quote.expect("a quote").l1_data_fee_wei.0 > U256::ZERO);
    Ok(())
}

#[tokio::test]
async fn the_l1_fee_is_quoted_reserved_and_must_be_there() -> Result<()> {
    let rollup = Rollup::raise().await?;
    let node = rollup.anvil.node();
    install(node).await?;
    // So dear that it is most of the cost.
    let dear = |times: u64| OpL1Params { l1_base_fee: U256::from(times) * U256::from(10_u64.pow(15)), ..MAINNET };
    set(node, OpFork::Fjord, &dear(1)).await?;
    rollup.wait_health("healthy").await?;
    rollup.follow().await?;

    let mut crowd = Crowd::new(&rollup.world, 4);
    let first = crowd.mark_within(0, "60s");
    let once = rollup.accept(&first).await?.quote.expect("a quote");
    let fee = once.l1_data_fee_wei.0;
    assert!(once.expected_cost_wei.0 > fee);
    assert_eq!(once.operator_fee_wei.0, U256::ZERO);

    // The cost of the signed transaction is the quoted one, or a little less.
    let hash = until("the first to be in a transaction", PATIENCE, async || {
        Ok(rollup.client().request(first.id).await?.tx_hash)
    })
    .await?;
    let raw: Bytes = node.call("eth_getRawTransactionByHash", json!([hash])).await?;
    let real = dear(1).l1_data_fee(OpFork::Fjord, &TxSize::of_signed(&raw));
    println!("L1 data fee: quoted {fee}, really {real}");
    assert!(real <= fee && fee <= real * U256::from(5) / U256::from(4), "quoted {fee}, really {real}");

    // Reserved with a margin of 300 %, that is four times the fee: enough for this rise.
    set(node, OpFork::Fjord, &dear(3)).await?;
    rollup.follow().await?;
    let second = crowd.mark_within(1, "90s");
    // The lane can pay for gas, but not for L1 data.
    let lane = rollup.world.relayers[0].address;
    let gas_only = once.max_cost_wei.0 - fee * U256::from(4) + fee;
    node.set_balance(lane, gas_only).await?;
    rollup.follow().await?;
    let thrice = rollup.accept(&second).await?.quote.expect("a quote");
    let more = thrice.l1_data_fee_wei.0 - fee;
    assert!(more > fee, "three times as dear");
    let reserved = thrice.max_cost_wei.0 - once.max_cost_wei.0;
    let four = more * U256::from(4);
    assert!(reserved.abs_diff(four) <= U256::from(4), "{reserved} more reserved, not {four}");
    rollup.wait_paused(Some("underfunded")).await?;
    let nonce = node.nonce(lane).await?;
    rollup.follow().await?;
    assert_eq!(node.nonce(lane).await?, nonce, "sent what it could not pay");

    // A ceiling that covers the gas but not L1 is refused; both amounts are given.
    let mut third: Value = serde_json::from_slice(&crowd.mark_within(2, "90s").body).expect("a body");
    third["maxCost"] = json!(more.to_string());
    match rollup.client().submit(&Bytes::from(third.to_string().into_bytes())).await? {
        Submitted::Refused(problem) => assert_eq!(problem.code, "max_cost_too_low", "{}", problem.detail),
        Submitted::Accepted(accepted) => panic!("accepted beyond its ceiling: {:?}", accepted.quote),
    }

    node.set_balance(lane, U256::from(10_u64.pow(18)) * U256::from(100)).await?;
    rollup.wait_paused(None).await?;
    until("the second to be in a block", Duration::from_secs(60), async || {
        Ok(rollup.client().request(second.id).await?.block_number)
    })
    .await?;

    // It waits for money at the current price; when money arrives, L1 costs more than a third of the reservation.
    set(node, OpFork::Fjord, &dear(1)).await?;
    rollup.follow().await?;
    node.set_balance(lane, U256::from(1)).await?;
    rollup.follow().await?;
    let fourth = crowd.mark_within(3, "90s");
    rollup.accept(&fourth).await?;
    set(node, OpFork::Fjord, &dear(2)).await?;
    rollup.follow().await?;
    node.set_balance(lane, U256::from(10_u64.pow(18)) * U256::from(100)).await?;
    until("the fourth to wait for a lower price of data", Duration::from_secs(60), async || {
        rollup.follow().await?;
        let metrics = rollup.client().metrics().await?;
        let waits = metrics.iter().find(|(name, _)| name.starts_with("slackwater_data_fee_waits_total"));
        Ok(waits.map(drop))
    })
    .await?;
    assert_eq!(rollup.client().request(fourth.id).await?.tx_hash, None);
    set(node, OpFork::Fjord, &dear(1)).await?;
    until("the fourth to be in a block", Duration::from_secs(60), async || {
        rollup.follow().await?;
        Ok(rollup.client().request(fourth.id).await?.block_number)
    })
    .await?;
    Ok(())
}
