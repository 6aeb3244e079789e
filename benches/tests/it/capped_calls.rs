//! `CappedCalls`: every call gets its cap, whatever the others do, or nothing is executed.

use std::{collections::BTreeSet, time::Duration};

use alloy_primitives::{Address, B256, Bytes, U64, U256, keccak256};
use alloy_sol_types::{SolCall, SolError, SolEvent};
use serde::Deserialize;
use serde_json::json;
use slackwater_benches::{
    Anvil, Node, Result,
    node::{Log, Receipt, TestTransaction},
    rng::Rng,
    token::delegated_code,
};
use slackwater_contracts::capped_calls::{self, Call, Executed, InsufficientGas, executeCall};

const SOON: Duration = Duration::from_secs(20);

/// A node with the contract, deployed as operators do.
pub(crate) struct Chain {
    // Ends when dropped.
    _anvil: Anvil,
    pub(crate) node: Node,
    pub(crate) sender: Address,
}

impl Chain {
    pub(crate) async fn start() -> Result<Self> {
        let anvil = Anvil::builder().spawn().await?;
        let node = anvil.node().clone();
        let sender = node.accounts().await?[0];
        let chain = Self { _anvil: anvil, node, sender };
        let creation = [B256::ZERO.as_slice(), capped_calls::creation_code()].concat();
        assert_eq!(chain.send(capped_calls::DEPLOYER, creation, 1_000_000).await?.status, U64::ONE);
        Ok(chain)
    }

    /// Sends `data` to `to` with a gas limit of `gas`.
    pub(crate) async fn send(&self, to: Address, data: Vec<u8>, gas: u64) -> Result<Receipt> {
        let transaction = TestTransaction { to: Some(to), data: data.into(), gas, ..TestTransaction::default() };
        let hash = self.node.send(self.sender, &transaction).await?;
        self.node.wait_receipt(hash, SOON).await
    }

    /// Executes `calls` with as much gas as the crate says they need.
    pub(crate) async fn execute(&self, calls: &[Call]) -> Result<Receipt> {
        let data = execute(calls);
        let gas = transaction_gas(&data, limit(calls));
        self.send(capped_calls::ADDRESS, data, gas).await
    }

    /// The outcome if `calls` were executed now with `gas` beside the intrinsic gas. Changes nothing.
    async fn simulate(&self, calls: &[Call], gas: u64) -> Result<Simulated> {
        let data = execute(calls);
        let gas = U64::from(transaction_gas(&data, gas));
        let call = json!({ "from": self.sender, "to": capped_calls::ADDRESS, "input": Bytes::from(data), "gas": gas });
        let blocks: Vec<SimulatedBlock> =
            self.node.call("eth_simulateV1", json!([{ "blockStateCalls": [{ "calls": [call] }] }, "latest"])).await?;
        Ok(blocks.into_iter().flat_map(|block| block.calls).next().expect("one call was asked for"))
    }

    /// Least gas, beside the intrinsic gas, with which `calls` are executed.
    async fn least_gas(&self, calls: &[Call]) -> Result<u64> {
        let (mut fails, mut works) = (0, limit(calls));
        assert!(self.simulate(calls, works).await?.is_success());
        while works - fails > 1 {
            let middle = fails.midpoint(works);
            if self.simulate(calls, middle).await?.is_success() { works = middle } else { fails = middle }
        }
        Ok(works)
    }

    async fn set_code(&self, kind: Kind, code: impl Into<Bytes>) -> Result<()> {
        self.node.set_code(kind.address(), code).await
    }

    /// A target of each kind.
    async fn set_targets(&self) -> Result<()> {
        use Kind as K;
        let reenter = [
            &[0x36, 0x5f, 0x5f, 0x37, 0x5f, 0x5f, 0x36, 0x5f, 0x5f, 0x73][..],
            &*capped_calls::ADDRESS.0,
            &[0x5a, 0xf1, 0x00],
        ];
        // GAS PUSH0 MSTORE PUSH1 32 PUSH0 LOG0
        self.set_code(K::Tell, vec![0x5a, 0x5f, 0x52, 0x60, 0x20, 0x5f, 0xa0]).await?;
        // PUSH1 1 PUSH0 CALLDATALOAD SSTORE
        self.set_code(K::Write, vec![0x60, 0x01, 0x5f, 0x35, 0x55]).await?;
        // PUSH0 PUSH0 REVERT
        self.set_code(K::Revert, vec![0x5f, 0x5f, 0xfd]).await?;
        // INVALID
        self.set_code(K::Burn, vec![0xfe]).await?;
        // JUMPDEST PUSH0 JUMP
        self.set_code(K::Loop, vec![0x5b, 0x5f, 0x56]).await?;
        // PUSH0 CALLDATALOAD PUSH0 RETURN, or REVERT
        self.set_code(K::ReturnMuch, vec![0x5f, 0x35, 0x5f, 0xf3]).await?;
        self.set_code(K::RevertMuch, vec![0x5f, 0x35, 0x5f, 0xfd]).await?;
        // Calls the contract with its own calldata and all its gas.
        self.set_code(K::Reenter, reenter.concat()).await?;
        // CALLER SELFDESTRUCT
        self.set_code(K::Destroy, vec![0x33, 0xff]).await?;
        self.set_code(K::Delegated, delegated_code(K::Tell.address())).await
    }
}

#[derive(Debug, Deserialize)]
struct SimulatedBlock {
    calls: Vec<Simulated>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Simulated {
    status: U64,
    return_data: Bytes,
    gas_used: U64,
    logs: Vec<Event>,
}

impl Simulated {
    fn is_success(&self) -> bool {
        self.status == U64::ONE
    }
}

/// A log, of a receipt or a simulation.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Event {
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
}

impl From<&Log> for Event {
    fn from(log: &Log) -> Self {
        Self { address: log.address, topics: log.topics.clone(), data: log.data.clone() }
    }
}

impl Event {
    fn executed(&self) -> Option<Executed> {
        (self.address == capped_calls::ADDRESS)
            .then(|| Executed::decode_raw_log_validate(self.topics.iter().copied(), &self.data).ok())
            .flatten()
    }
}

/// A call's outcome: its success, and what it and its callees logged.
type Outcome = (bool, Vec<Event>);

/// Outcomes of `calls` by `sender` as the crate's documentation says to read them.
///
/// # Panics
/// If the events are not complete and in order.
#[track_caller]
pub(crate) fn outcomes(sender: Address, calls: &[Call], logs: &[Log]) -> Vec<bool> {
    let events: Vec<_> = logs.iter().map(Event::from).collect();
    read(sender, calls, &events).into_iter().map(|(success, _)| success).collect()
}

#[track_caller]
fn read(sender: Address, calls: &[Call], events: &[Event]) -> Vec<Outcome> {
    let (mut outcomes, mut inner) = (Vec::new(), Vec::new());
    for event in events {
        match event.executed().filter(|executed| executed.caller == sender) {
            Some(executed) => {
                assert_eq!(executed.index, U256::from(outcomes.len()));
                assert_eq!(executed.target, calls[outcomes.len()].target);
                outcomes.push((executed.success, std::mem::take(&mut inner)));
            }
            None => inner.push(event.clone()),
        }
    }
    assert_eq!((outcomes.len(), inner.len()), (calls.len(), 0));
    outcomes
}

fn execute(calls: &[Call]) -> Vec<u8> {
    executeCall { calls: calls.to_vec() }.abi_encode()
}

fn limit(calls: &[Call]) -> u64 {
    capped_calls::gas_limit(calls.iter().map(|call| (call.gas.saturating_to(), call.data.len() as u64)))
}

/// Gas before execution (EIP-2028).
fn intrinsic(data: &[u8]) -> u64 {
    21_000 + data.iter().map(|&byte| if byte == 0 { 4 } else { 16 }).sum::<u64>()
}

/// Gas limit of a transaction whose execution gets `gas`, or more where the calldata floor (EIP-7623) demands it.
fn transaction_gas(data: &[u8], gas: u64) -> u64 {
    let floor = 21_000 + data.iter().map(|&byte| if byte == 0 { 10 } else { 40 }).sum::<u64>();
    (intrinsic(data) + gas).max(floor)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Logs its gas.
    Tell,
    /// Writes a slot.
    Write,
    Revert,
    Burn,
    Loop,
    ReturnMuch,
    RevertMuch,
    Reenter,
    Destroy,
    /// As [`Self::Tell`], by way of a delegation.
    Delegated,
    NoCode,
    /// The contract itself, as a target.
    Itself,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::Tell,
        Self::Write,
        Self::Revert,
        Self::Burn,
        Self::Loop,
        Self::ReturnMuch,
        Self::RevertMuch,
        Self::Reenter,
        Self::Destroy,
        Self::Delegated,
        Self::NoCode,
        Self::Itself,
    ];

    fn address(self) -> Address {
        match self {
            Self::Itself => capped_calls::ADDRESS,
            other => Address::from_slice(&keccak256(format!("{other:?}"))[12..]),
        }
    }

    fn call(self, gas: u64, data: impl Into<Bytes>) -> Call {
        Call { target: self.address(), gas: U256::from(gas), data: data.into() }
    }
}

/// A call with a random cap; `tag` makes its writes its own.
fn random_call(rng: &mut Rng, tag: u64) -> (Kind, Call) {
    // Around what a target needs, so that both sides are met: 647 for `Tell`, 22 107 for `Write`.
    const CAPS: [u64; 10] = [0, 1, 640, 660, 2_300, 22_100, 22_115, 50_000, 200_000, 1_500_000];
    let kind = Kind::ALL[rng.below(Kind::ALL.len() as u64) as usize];
    let cap = CAPS[rng.below(CAPS.len() as u64) as usize] + rng.below(10);
    let word = |value: u64| U256::from(value).to_be_bytes::<32>().to_vec();
    let data = match kind {
        Kind::Write => word(tag),
        // From a few words to more than any cap pays for.
        Kind::ReturnMuch | Kind::RevertMuch => word(1 << rng.between(5, 21)),
        Kind::Reenter | Kind::Itself => {
            let nested = [Kind::Tell, Kind::Revert, Kind::Burn].map(|kind| kind.call(rng.below(5_000), vec![]));
            execute(&nested[..rng.below(4) as usize])
        }
        _ => vec![0x5b; rng.below(3) as usize * rng.below(3_000) as usize],
    };
    (kind, kind.call(cap, data))
}

#[tokio::test]
async fn deployment_is_the_same_everywhere() -> Result<()> {
    let chain = Chain::start().await?;
    let code = chain.node.code(capped_calls::ADDRESS).await?;
    assert_eq!(*code, *capped_calls::runtime_code());
    assert_eq!(keccak256(&code), capped_calls::RUNTIME_CODE_HASH);
    // It takes no value, neither with a call nor without one.
    for data in [execute(&[]), vec![]] {
        let value = U256::ONE;
        let payment =
            TestTransaction { to: Some(capped_calls::ADDRESS), data: data.into(), value, gas: 100_000, nonce: None };
        let hash = chain.node.send(chain.sender, &payment).await?;
        assert_eq!(chain.node.wait_receipt(hash, SOON).await?.status, U64::ZERO);
    }
    Ok(())
}

#[tokio::test]
async fn each_outcome_is_as_if_alone() -> Result<()> {
    let chain = Chain::start().await?;
    chain.set_targets().await?;
    let mut seen = BTreeSet::new();
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let (kinds, calls): (Vec<_>, Vec<_>) =
            (0..rng.between(1, 14)).map(|i| random_call(&mut rng, seed * 100 + i)).unzip();
        let mut alone = Vec::new();
        for call in &calls {
            let one = std::slice::from_ref(call);
            let simulated = chain.simulate(one, limit(one)).await?;
            assert!(simulated.is_success(), "seed {seed}: {simulated:?}");
            alone.extend(read(chain.sender, one, &simulated.logs));
        }
        let receipt = chain.execute(&calls).await?;
        assert_eq!(receipt.status, U64::ONE, "seed {seed}");
        let logs: Vec<_> = receipt.logs.iter().map(Event::from).collect();
        let together = read(chain.sender, &calls, &logs);
        for ((kind, call), (one, other)) in kinds.iter().zip(&calls).zip(alone.iter().zip(&together)) {
            // What others met before is warm: only a nested batch, which meets it too, may get further.
            let nested = matches!(kind, Kind::Reenter | Kind::Itself);
            assert!(one == other || nested && one.0 <= other.0, "seed {seed}: {kind:?} {call:?}: {one:?}, {other:?}");
            if let (Kind::Tell, true) = (kind, other.0) {
                let gas = U256::from_be_slice(&other.1[0].data);
                assert_eq!(gas + U256::from(2), call.gas, "seed {seed}: not exactly the cap");
            }
            if *kind == Kind::NoCode || matches!(kind, Kind::Revert | Kind::Burn | Kind::Loop | Kind::RevertMuch) {
                assert!(!other.0, "seed {seed}: {kind:?}");
            }
            seen.insert((*kind as u8, other.0));
        }
        for ((kind, call), (success, _)) in kinds.iter().zip(&calls).zip(&together) {
            if *kind == Kind::Write {
                let slot = U256::from_be_slice(&call.data);
                let word: U256 = chain.node.call("eth_getStorageAt", json!([call.target, slot, "latest"])).await?;
                assert_eq!(word == U256::ONE, *success, "seed {seed}");
            }
        }
    }
    // Twelve kinds, seven of which can succeed; `ReturnMuch` and the like can do both.
    assert!(seen.len() >= 17, "{seen:?}");
    Ok(())
}

/// The gas limit decides whether all run or none: never what they do with their gas.
#[tokio::test]
async fn all_run_or_none_does() -> Result<()> {
    let chain = Chain::start().await?;
    chain.set_targets().await?;
    for (seed, caps) in [(1, [0; 6]), (2, [40_000; 6]), (3, [700, 1_500_000, 0, 60_000, 5_000, 9_000_000])] {
        let with = |kind: Kind| -> Vec<_> { caps.map(|cap| kind.call(cap, vec![])).into() };
        let least = chain.least_gas(&with(Kind::Tell)).await?;
        for kind in [Kind::Burn, Kind::Revert, Kind::NoCode, Kind::Loop, Kind::Delegated] {
            assert_eq!(chain.least_gas(&with(kind)).await?, least, "{kind:?}");
        }
        // The last one gets its cap though all others have burnt theirs.
        let mut calls = with(Kind::Burn);
        calls[5].target = Kind::Tell.address();
        let mut rng = Rng::new(seed);
        let below = (0..40).map(|_| rng.below(least)).chain([0, least - 1, least - 100, least - 2_000]);
        for gas in below {
            let simulated = chain.simulate(&calls, gas).await?;
            assert!(!simulated.is_success() && simulated.logs.is_empty(), "{gas} of {least}");
            // Below a thousand the contract can't even say so.
            if gas > 1_000 {
                let error = InsufficientGas::abi_decode_validate(&simulated.return_data).unwrap();
                assert!(error.index < U256::from(caps.len()), "{error:?}");
            }
        }
        for gas in [least, least + 1, least + 5_000, limit(&calls), limit(&calls) + 1_000_000] {
            let simulated = chain.simulate(&calls, gas).await?;
            for ((success, inner), call) in read(chain.sender, &calls, &simulated.logs).into_iter().zip(&calls) {
                if success {
                    assert_eq!(U256::from_be_slice(&inner[0].data) + U256::from(2), call.gas);
                }
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_error_names_the_first_call_without_gas() -> Result<()> {
    let chain = Chain::start().await?;
    chain.set_targets().await?;
    let huge = Call { gas: U256::MAX, ..Kind::Tell.call(0, vec![]) };
    let fine = Kind::Tell.call(50_000, vec![]);
    for (calls, gas, index) in [
        (vec![huge.clone()], 1_000_000, 0),
        (vec![fine.clone(), fine.clone(), huge.clone(), fine.clone()], 1_000_000, 2),
        (vec![fine.clone(), Call { gas: U256::MAX - U256::from(60_000), ..huge }, fine.clone()], 1_000_000, 1),
        (vec![fine.clone(); 5], 150_000, 2),
    ] {
        let simulated = chain.simulate(&calls, gas).await?;
        assert!(!simulated.is_success());
        let error = InsufficientGas::abi_decode_validate(&simulated.return_data).unwrap();
        assert_eq!(error.index, U256::from(index));
    }
    Ok(())
}

/// Half a megabyte costs as much to copy as to return: it stays where it is.
#[tokio::test]
async fn nobody_pays_for_what_others_return() -> Result<()> {
    let chain = Chain::start().await?;
    chain.set_targets().await?;
    let bomb = |kind: Kind| kind.call(580_000, U256::from(1 << 19).to_be_bytes::<32>());
    let calls = [Kind::ReturnMuch, Kind::RevertMuch, Kind::ReturnMuch].map(bomb);
    let receipt = chain.execute(&calls).await?;
    assert_eq!(outcomes(chain.sender, &calls, &receipt.logs), [true, false, true]);
    let most = 3 * (580_000 + capped_calls::USED_PER_CALL_GAS + 32) + capped_calls::BASE_GAS;
    assert!(receipt.gas_used.to::<u64>() <= most + intrinsic(&execute(&calls)));
    Ok(())
}

/// Events of a nested batch look like those of the outer one, but for `caller`.
#[tokio::test]
async fn a_nested_batch_is_not_mistaken_for_the_outer_one() -> Result<()> {
    let chain = Chain::start().await?;
    chain.set_targets().await?;
    let victim = Kind::Write.call(50_000, U256::from(7).to_be_bytes::<32>());
    // The nested batch claims that the victim's call, at its very place, was executed; it was, but with 100 gas.
    let nested = [Kind::NoCode.call(0, vec![]), Call { gas: U256::from(100), ..victim.clone() }];
    let calls = [Kind::Reenter.call(200_000, execute(&nested)), victim];
    let receipt = chain.execute(&calls).await?;
    assert_eq!(outcomes(chain.sender, &calls, &receipt.logs), [true, true]);
    let executed: Vec<_> = receipt.logs.iter().filter_map(|log| Event::from(log).executed()).collect();
    let told: Vec<_> = executed.iter().map(|e| (e.caller == chain.sender, e.index.to::<u64>(), e.success)).collect();
    assert_eq!(told, [(false, 0, false), (false, 1, false), (true, 0, true), (true, 1, true)]);
    Ok(())
}

/// The constants hold for the largest batches and data, and say not much more than is needed.
#[tokio::test]
async fn gas_bounds_hold() -> Result<()> {
    let chain = Chain::start().await?;
    chain.set_targets().await?;
    // Every target and every delegate is met for the first time, and stops at once.
    let stop = |i: u64| Address::from_slice(&keccak256(i.to_be_bytes())[12..]);
    for i in 0..200 {
        chain.node.set_code(stop(2 * i), vec![0x00]).await?;
        chain.node.set_code(stop(2 * i + 1), delegated_code(stop(2 * i))).await?;
    }
    // A call that burns more than the calldata floor of all others, so that the floor hides nothing.
    let burnt = 6_000_000;
    for (count, bytes) in [(1, 0), (200, 0), (40, 320), (10, 9_000), (1, 100_000), (1, 120_000), (200, 320)] {
        let mut calls: Vec<_> = (0..count)
            .map(|i| Call { target: stop(2 * i + 1), gas: U256::from(20_000), data: vec![0xff; bytes].into() })
            .collect();
        calls.push(Kind::Burn.call(burnt, vec![]));
        let simulated = chain.simulate(&calls, limit(&calls)).await?;
        let succeeded = read(chain.sender, &calls, &simulated.logs).iter().filter(|(success, _)| *success).count();
        assert_eq!(succeeded as u64, count);
        let used = simulated.gas_used.to::<u64>() - intrinsic(&execute(&calls)) - burnt;
        let least = chain.least_gas(&calls).await?;
        let bound = capped_calls::BASE_GAS + (count + 1) * capped_calls::USED_PER_CALL_GAS + count * bytes as u64;
        assert!(used <= bound, "{used} > {bound}");
        let room = limit(&calls) - least;
        assert!(room < 1_000 + 500 * (count + 1), "{count} x {bytes}: {room}");
    }
    Ok(())
}
