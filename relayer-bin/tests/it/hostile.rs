//! A malicious tenant beside an honest one: the cost to others, and their delay.
//!
//! Each case repeats the run without the malicious tenant: the same honest requests, third-party transactions and
//! prices.

use std::{collections::BTreeSet, time::Duration};

use alloy_primitives::{Address, B256, Bytes, U64, U256, keccak256};
use serde_json::{Value, json};
use slackwater_benches::{
    Node, RelayerClient, Result,
    client::Submitted,
    wallet::{Ask, Crowd, SignedRequest, unix_seconds},
};
use slackwater_contracts::forwarder::executeCall;
use slackwater_core::chain::data_fee::{OpFork, OpL1Params};
use slackwater_relayer::http::auth::KeyHash;

use crate::{
    rollups::{MAINNET, install, set},
    stage::{PATIENCE, Pace, Stage, submit_all, until},
};

const SHOP: &str = "sw_shop_3mJr7AoUXx2Wqd";
const MALLORY: &str = "sw_mallory_9vTz4KeRYb5Lnc";
const BOSS: &str = "sw_boss_7pNq2XsGJd8Wmf";

/// Rounds of a run, and honest requests in each.
const ROUNDS: usize = 5;
const HONEST: usize = 20;
/// Hostile requests in a round, as far as the budget allows.
const HOSTILE: usize = 8;
/// Gas of a hostile request, and its highest cost, wei.
const GAS: u64 = 150_000;
const MAX_COST_WEI: u64 = 1_000_000_000_000_000;
/// Budget of the hostile tenant, wei: enough for twenty requests at a time, and for twenty well-behaved ones long
/// before it is spent.
const BUDGET_WEI: u64 = 20_000_000_000_000_000;
const GWEI: u128 = 1_000_000_000;
/// Base fee of the block before a round. It rises by an eighth with each block of the round.
const BASE_FEE: u128 = GWEI;
/// `chain.max_delay_blocks`: most blocks by which somebody else's request may delay an honest one.
const MAX_DELAY_BLOCKS: u64 = 3;
/// Gas of an empty transaction.
const CANCEL_GAS: u64 = 21_000;

/// Contract that transactions earlier in the block use to signal that this is the chain, and no simulation.
const SWITCH: Address = Address::repeat_byte(0x51);
/// Stores a word that it is given, and returns the stored word if called without data.
const SWITCH_CODE: &str = "0x3615600a575f355f55005b5f545f5260205ff3";
const TARGET: Address = Address::repeat_byte(0x7a);
const FILLER: Address = Address::repeat_byte(0xf1);
const BLOCK_GAS: u64 = 30_000_000;
const PROPOSER: Address = Address::repeat_byte(0xb0);

/// The way in which a request of the hostile tenant does harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// No hostile request.
    Absent,
    /// The trust check burns all gas if the transaction has a gas price.
    GasPrice,
    /// It burns all gas if the block has a base fee.
    BaseFee,
    /// It burns all gas if the block has a proposer.
    Coinbase,
    /// It burns all gas if the block's number is a multiple of three. It is simulated for the next block, and usually
    /// lands there.
    BlockNumber,
    /// It burns all gas if the block's timestamp is a multiple of three.
    Clock,
    /// It burns all gas if an earlier transaction of the block has set the switch.
    Flipped,
    /// As `Flipped`, with another target for each request.
    Fresh,
    /// As `Flipped`, once the target has behaved twenty times.
    Patient,
    /// If the switch is set, the call itself burns all its gas and fails.
    Reverting,
    /// The user executes the request directly, earlier in the block.
    Skipped,
    /// The lowest cost ceiling and the shortest deadline that are accepted. Its target is harmless.
    Tight,
    /// As much calldata as the budget allows, while the data fee rises with each block. Its target is harmless.
    Bulky,
}

/// Conditions of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chain {
    /// Blocks have room, and only gas is paid for.
    Usual,
    /// The first so many blocks of each round are full.
    Full(u64),
    /// There is a data fee too, which triples with each block.
    Rollup,
}

impl Way {
    /// Code that leaves a non-zero word on the stack if harm is to be done.
    fn condition(self) -> Vec<u8> {
        let mut is_flipped = vec![0x60, 0x20, 0x5f, 0x5f, 0x5f, 0x73];
        is_flipped.extend_from_slice(SWITCH.as_slice());
        is_flipped.extend([0x5a, 0xfa, 0x50, 0x5f, 0x51]);
        match self {
            Self::GasPrice => vec![0x3a],
            Self::BaseFee => vec![0x48],
            Self::Coinbase => vec![0x41],
            Self::BlockNumber => vec![0x60, 3, 0x43, 0x06, 0x15],
            Self::Clock => vec![0x60, 3, 0x42, 0x06, 0x15],
            Self::Bulky => vec![0x5f],
            Self::Patient => [is_flipped, vec![0x60, 19, 0x5f, 0x54, 0x11, 0x16]].concat(),
            _ => is_flipped,
        }
    }

    /// Code of the hostile target: 36 bytes of calldata are the trust check, anything else is a call.
    fn code(self) -> Bytes {
        let burns_if = |code: &mut Vec<u8>| {
            code.extend(self.condition());
            let next = u8::try_from(code.len() + 6).expect("short code");
            code.extend([0x15, 0x60, next, 0x57, 0xfe, 0x00, 0x5b]);
        };
        let mut call = Vec::new();
        let mut trust = vec![0x5b];
        // The offset of the call's code is known: after the 7 bytes of the branch.
        let mut code = vec![0; 7];
        if self == Self::Reverting {
            burns_if(&mut code);
        } else {
            // Counts the times it has behaved.
            call.extend([0x60, 1, 0x5f, 0x54, 0x01, 0x5f, 0x55]);
        }
        code.extend(call);
        code.push(0x00);
        let place = u8::try_from(code.len()).expect("short code");
        code[..7].copy_from_slice(&[0x36, 0x60, 0x24, 0x14, 0x60, place, 0x57]);
        code.append(&mut trust);
        if self != Self::Reverting {
            burns_if(&mut code);
        }
        code.extend([0x60, 1, 0x5f, 0x52, 0x60, 0x20, 0x5f, 0xf3]);
        code.into()
    }

    /// True if simulations reveal the harm, so that nothing is ever sent.
    ///
    /// A base fee would reveal it as well, but anvil simulates without one.
    const fn is_seen(self) -> bool {
        matches!(self, Self::GasPrice | Self::Coinbase)
    }
}

/// Results of honest requests: charged gas at the price paid, and number of blocks waited.
type Honest = Vec<(U256, u64)>;

struct Run {
    stage: Stage,
    shop: RelayerClient,
    mallory: RelayerClient,
    others: Crowd,
    bad: Vec<SignedRequest>,
    way: Way,
    chain: Chain,
}

impl Run {
    async fn new(way: Way, chain: Chain) -> Result<Self> {
        let rollup = "family = \"op_stack\", base_fee = { kind = \"op_stack\", fallback = { denominator = 8, target = { elasticity = 2 } } }, ";
        let stage = Stage::at(Pace::Manual)
            .proxied()
            .spec(&format!(
                "{}finality = {{ kind = \"depth\", blocks = 6 }}",
                if chain == Chain::Rollup { rollup } else { "" }
            ))
            .chain_key("poll_interval_ms", 25)
            .chain_key("timing", "\"immediate\"")
            .env("SLACKWATER_SERVER_ALLOW_ANONYMOUS", "false")
            .api_key(BOSS)
            .tenants(|world| {
                format!(
                    "[[tenant]]\nid = \"shop\"\napi_keys = [\"{}\"]\ntargets = {{ {} = {{ \"{}\" = [] }} }}\n\
                     [[tenant]]\nid = \"mallory\"\napi_keys = [\"{}\"]\nbudget = {{ limit_wei = \"{BUDGET_WEI}\", period_s = 0 }}\n\
                     [[tenant]]\nid = \"boss\"\napi_keys = [\"{}\"]\noperator = true\nopen = true\n",
                    KeyHash::of(SHOP),
                    world.chain_id,
                    world.guestbook,
                    KeyHash::of(MALLORY),
                    KeyHash::of(BOSS),
                )
            })
            .raise()
            .await?;
        let node = stage.node();
        node.call::<Value>("anvil_setCoinbase", json!([PROPOSER])).await?;
        node.set_code(SWITCH, SWITCH_CODE.parse::<Bytes>().expect("hex")).await?;
        node.set_code(TARGET, way.code()).await?;
        // Burns all the gas that it gets.
        node.set_code(FILLER, Bytes::from_static(&[0xfe])).await?;
        if chain == Chain::Rollup {
            install(node).await?;
            set(node, OpFork::Fjord, &l1(1)).await?;
            stage.proxy().l1_fees(l1(3));
        }
        stage.set_block_gas_limit(BLOCK_GAS).await?;
        stage.mine(1).await?;
        let (shop, mallory) = (stage.client().clone().with_key(SHOP), stage.client().clone().with_key(MALLORY));
        let others = Crowd::named(&stage.world, "mallory", ROUNDS * HOSTILE);
        Ok(Self { stage, shop, mallory, others, bad: Vec::new(), way, chain })
    }

    /// A third-party transaction that sets the switch, first or last in the next block.
    async fn turn(&self, on: bool, account: usize, max_fee: u128, tip: u128) -> Result<()> {
        let from = self.stage.node().accounts().await?[account];
        let transaction = json!({
            "from": from, "to": SWITCH, "data": B256::from(U256::from(on)), "gas": U64::from(60_000),
            "maxFeePerGas": U256::from(max_fee), "maxPriorityFeePerGas": U256::from(tip),
        });
        self.stage.node().call::<B256>("eth_sendTransaction", json!([transaction])).await.map(drop)
    }

    /// Mines a block in which the switch is set, though neither in the state before it nor in the one after.
    async fn mine(&self, base_fee: u128) -> Result<()> {
        self.stage.node().set_next_base_fee(base_fee).await?;
        // The node orders by fee caps. Tips are small, so that they affect no price.
        self.turn(true, 0, 1_000 * GWEI, 1).await?;
        self.turn(false, 1, base_fee, 0).await?;
        self.stage.mine(1).await
    }

    /// A third-party transaction that leaves room in the next block only for the transactions that set the switch.
    async fn fill(&self) -> Result<()> {
        let from = self.stage.node().accounts().await?[2];
        let transaction = json!({
            "from": from, "to": FILLER, "gas": U64::from(BLOCK_GAS - 150_000),
            "maxFeePerGas": U256::from(900 * GWEI), "maxPriorityFeePerGas": U256::from(1),
        });
        self.stage.node().call::<B256>("eth_sendTransaction", json!([transaction])).await.map(drop)
    }

    /// L1 data fees of the lane's transactions according to their receipts, wei.
    async fn data_fees(&self) -> Result<U256> {
        let node = Node::new(self.stage.proxy().url())?;
        let mut sum = U256::ZERO;
        for hash in self.stage.proxy().injected().taken {
            let receipt: Value = node.call("eth_getTransactionReceipt", json!([hash])).await?;
            let fee = receipt["l1Fee"].as_str().map_or(U256::ZERO, |fee| fee.parse().expect("a number"));
            sum += fee;
        }
        Ok(sum)
    }

    /// Submits hostile requests, as many as the tenant's budget allows.
    async fn attack(&mut self, round: usize) -> Result<()> {
        if self.way == Way::Absent {
            return Ok(());
        }
        // None of these users was refused before: their nonces have no gaps.
        for user in round * HOSTILE..(round + 1) * HOSTILE {
            let to = if self.way == Way::Fresh {
                let to = Address::left_padding_from(&[0xf0, u8::try_from(user).expect("few")]);
                self.stage.node().set_code(to, self.way.code()).await?;
                to
            } else {
                TARGET
            };
            let is_tight = self.way == Way::Tight;
            let mut ask = Ask {
                to,
                value: U256::ZERO,
                gas: GAS,
                data: Bytes::new(),
                deadline_s: unix_seconds() + 3_600,
                within: Some(if is_tight { "2s" } else { "20s" }.to_owned()),
                max_cost_wei: Some(U256::from(MAX_COST_WEI)),
            };
            if matches!(self.way, Way::Skipped | Way::Tight) {
                let within = ask.within;
                ask = Ask { to: self.stage.world.nasty, ..crate::company::ask(ask.to, &format!("{user}")) };
                (ask.within, ask.max_cost_wei) = (within, Some(U256::from(MAX_COST_WEI)));
            }
            if self.way == Way::Bulky {
                (ask.data, ask.max_cost_wei) = (noise(user), None);
            }
            if is_tight {
                ask.max_cost_wei = Some(U256::from(1));
            }
            let mut request = self.others.sign(user, &ask);
            let mut answer = self.mallory.submit(&request.body).await?;
            if let (true, Submitted::Refused(problem)) = (is_tight, &answer)
                && problem.code == "max_cost_too_low"
            {
                let least =
                    problem.detail.split(|letter: char| !letter.is_ascii_digit()).filter_map(|text| text.parse().ok());
                let least: U256 = least.max().expect("it names the least");
                let account = self.others.users[user].account.clone();
                request = self.others.sign_at(&account, 0, &Ask { max_cost_wei: Some(least), ..ask });
                answer = self.mallory.submit(&request.body).await?;
            }
            if let Submitted::Accepted(_) = answer {
                if self.way == Way::Skipped {
                    self.stage.overtake(self.stage.world.forwarder, &executeCall { request: request.data() }).await?;
                }
                self.bad.push(request);
            }
        }
        Ok(())
    }

    /// Mines until all of these are included. Returns the number of blocks each one waited.
    async fn include(&self, requests: &[SignedRequest]) -> Result<Vec<u64>> {
        let mut waited = vec![0; requests.len()];
        let first = self.stage.node().block_number().await? + 1;
        let mut base_fee = BASE_FEE;
        for block in 0.. {
            base_fee += base_fee / 8;
            assert!(block < 20, "an honest request is not included after {block} blocks");
            // Everything for the next block is in the pool, or has had the time to get there.
            let ready = async || {
                for request in requests {
                    if ["queued", "batched"].contains(&self.shop.request(request.id).await?.status.as_str()) {
                        return Ok(None);
                    }
                }
                Ok(Some(()))
            };
            let _ = slackwater_benches::wait::until("all to be sent", Duration::from_secs(2), ready).await;
            if matches!(self.chain, Chain::Full(full) if block < full) {
                self.fill().await?;
            }
            self.mine(base_fee).await?;
            let mut open = 0;
            for (request, waited) in requests.iter().zip(&mut waited) {
                let state = self.shop.request(request.id).await?;
                match state.block_number.filter(|_| ["included", "finalized"].contains(&state.status.as_str())) {
                    Some(number) => *waited = number - first,
                    None => open += 1,
                }
            }
            if open == 0 {
                return Ok(waited);
            }
        }
        unreachable!()
    }

    async fn play(mut self) -> Result<(Honest, usize, U256)> {
        let mut users = Crowd::named(&self.stage.world, "shop", HONEST);
        let mut good = Vec::new();
        let mut waited = Vec::new();
        for round in 0..ROUNDS {
            self.mine(BASE_FEE).await?;
            self.attack(round).await?;
            let mut requests = Vec::new();
            for user in 0..HONEST {
                requests.push(users.mark_within(user, "60s"));
            }
            submit_all(&self.shop, &requests).await?;
            waited.extend(self.include(&requests).await?);
            good.extend(requests);
        }
        until("everything to end", PATIENCE, async || {
            let counts = self.stage.client().counts().await?;
            if counts.keys().all(|status| slackwater_benches::client::is_terminal(status)) {
                return Ok(Some(()));
            }
            self.mine(BASE_FEE).await?;
            Ok(None)
        })
        .await?;

        let mut honest = Honest::new();
        let mut own = U256::ZERO;
        for (request, waited) in good.iter().zip(waited) {
            let state = self.shop.request(request.id).await?;
            assert_eq!((state.status.as_str(), state.reason.as_deref()), ("finalized", None), "{:?}", self.way);
            let is_late = state
                .timeline
                .iter()
                .any(|event| event.reason.as_ref().is_some_and(|reason| *reason == "promise_missed"));
            assert!(!is_late, "{:?}: {:?}", self.way, state.timeline);
            let cost: U256 = state.cost_wei.expect("it cost something").parse().expect("a number");
            let receipt = self.stage.node().receipt(state.tx_hash.expect("a transaction")).await?.expect("in a block");
            own += cost;
            honest.push((cost / receipt.effective_gas_price, waited));
        }
        let (mut spent, borne) = self.stage.spent_and_borne().await?;
        if self.chain == Chain::Rollup {
            spent += self.data_fees().await?;
        }
        let mut burnt = U256::ZERO;
        let mut ends = BTreeSet::new();
        for request in &self.bad {
            let state = self.mallory.request(request.id).await?;
            burnt += state.cost_wei.map_or(U256::ZERO, |cost| cost.parse().expect("a number"));
            ends.insert((state.status, state.reason));
        }
        assert_eq!(own + burnt + borne, spent, "{:?}", self.way);
        let is_harmed = |(status, _): &(String, Option<String>)| status != "finalized";
        // Harm that depends on numbers and times may fail to happen by chance.
        let is_alike = matches!(self.way, Way::Absent | Way::BlockNumber | Way::Clock | Way::Tight | Way::Bulky);
        assert!(is_alike || ends.iter().any(is_harmed), "{:?} did what it was to do: {ends:?}", self.way);
        let loss = spent - own;
        let cancel = U256::from(u128::from(CANCEL_GAS) * 2 * BASE_FEE);
        println!(
            "{:?}: {} accepted, {ends:?}, loss {loss} of {BUDGET_WEI}, {borne} on accounts",
            self.way,
            self.bad.len()
        );
        assert!(loss <= U256::from(BUDGET_WEI) + cancel, "{:?}: {loss}", self.way);
        let is_cancelled = self.way == Way::Tight && self.chain != Chain::Usual;
        let cancels = self.stage.metric("slackwater_account_gwei_total", &["account=\"cancel\""]).await?;
        assert!(!is_cancelled || cancels > 0.0, "{ends:?} without a cancel");
        let accepted = self.bad.len();
        self.stage.close().await?;
        Ok((honest, accepted, burnt + borne))
    }
}

/// L1 fee parameters of a block with `times` the initial data price.
fn l1(times: u64) -> OpL1Params {
    OpL1Params { l1_base_fee: U256::from(times) * U256::from(100 * GWEI), ..MAINNET }
}

/// 8 000 bytes that do not compress: the budget allows a few of them.
fn noise(user: usize) -> Bytes {
    let words = (0..250).flat_map(|word| keccak256([user.to_be_bytes(), usize::to_be_bytes(word)].concat()));
    words.collect()
}

/// The honest tenant is unaffected: its requests are included in time, none much later than without the other tenant,
/// each at the cost it would have had; and burnt gas is the other's.
async fn beside(ways: &[Way], chain: Chain) -> Result<()> {
    let (alone, ..) = Run::new(Way::Absent, chain).await?.play().await?;
    for way in ways {
        let (honest, accepted, loss) = Run::new(*way, chain).await?.play().await?;
        assert!(accepted >= 4, "{way:?}: only {accepted} were accepted, which proves nothing");
        assert_eq!(loss.is_zero(), way.is_seen(), "{way:?}: {loss}");
        for ((gas, waited), (gas_alone, waited_alone)) in honest.iter().zip(&alone) {
            let (twentieth, apart) = (*gas_alone / U256::from(20), gas.abs_diff(*gas_alone));
            assert!(apart <= twentieth, "{way:?}: {gas} gas, alone {gas_alone}");
            assert!(*waited <= waited_alone + MAX_DELAY_BLOCKS, "{way:?}: {waited} blocks, alone {waited_alone}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn targets_that_look_at_prices_cost_others_nothing() -> Result<()> {
    beside(&[Way::GasPrice, Way::BaseFee, Way::Coinbase], Chain::Usual).await
}

#[tokio::test]
async fn targets_that_look_at_the_block_cost_others_nothing() -> Result<()> {
    beside(&[Way::BlockNumber, Way::Clock], Chain::Usual).await
}

#[tokio::test]
async fn targets_that_are_flipped_in_front_cost_others_nothing() -> Result<()> {
    beside(&[Way::Flipped, Way::Fresh, Way::Patient, Way::Reverting], Chain::Usual).await
}

#[tokio::test]
async fn signers_that_deceive_cost_others_nothing() -> Result<()> {
    beside(&[Way::Skipped, Way::Tight], Chain::Usual).await
}

/// While blocks are full the base fee rises above the tight ceilings, and the lane must cancel.
#[tokio::test]
async fn ceilings_that_fall_behind_cost_others_nothing() -> Result<()> {
    beside(&[Way::Tight], Chain::Full(4)).await
}

/// Much calldata, right before the data fee rises.
#[tokio::test]
async fn calldata_before_its_price_rises_costs_others_nothing() -> Result<()> {
    beside(&[Way::Bulky], Chain::Rollup).await
}
