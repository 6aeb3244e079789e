//! L1 data fees read from the chain: parameters at each head, and the chain's own estimate for one batch.

use std::fmt;

use alloy_primitives::{Address, Bytes, U64, U256};
use alloy_sol_types::SolCall;
use serde_json::{Value, json};
use slackwater_contracts::{
    multicall3,
    rollup::{
        self, ArbGasInfo, GasPriceOracle as Oracle, L1Block, NodeInterface::gasEstimateL1ComponentCall, ScrollOracle,
    },
};

use crate::{
    chain::{
        ChainFamily, OpBaseFeeParams, RpcErrorClass,
        data_fee::{ArbitrumPoster, DataFeeModel, OpFork, OpL1Params, ScrollFork, ScrollL1Params, TxSize},
    },
    protection::Protection,
    relay::{
        market::header::Header,
        rpc::{RpcError, RpcPool},
    },
    request::vehicle::Payload,
    sender::DataQuote,
};

/// Margin of a gas limit on Arbitrum over the padded estimate, percent, as the documentation advises.
const POSTER_GAS_MARGIN_PERCENT: u64 = 10;

/// Reason why the L1 parameters are unknown.
#[derive(Debug, Clone)]
pub(in crate::relay) enum DataFeeFault {
    /// The contract that holds them does not exist: the chain is not of the configured family, or is very old.
    Missing { family: ChainFamily, what: &'static str, address: Address },
    /// The nodes gave no usable answer.
    Unreadable(RpcError),
}

impl DataFeeFault {
    /// Stable name in alerts and metrics.
    pub(in crate::relay) const fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "l1_fee_contract_missing",
            Self::Unreadable(_) => "l1_fee_unreadable",
        }
    }
}

impl fmt::Display for DataFeeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { family, what, address } => write!(
                f,
                "no {what} at {address}, where family `{family}` has it, so the L1 data fee is unknown; check `family` of the chain"
            ),
            Self::Unreadable(error) => write!(f, "L1 fee parameters can't be read: {error}"),
        }
    }
}

impl From<RpcError> for DataFeeFault {
    fn from(error: RpcError) -> Self {
        Self::Unreadable(error)
    }
}

/// The chain's data fee model at block `number`, as reported by a majority of the nodes (I15). The block should be one
/// that all nodes know: `header` or a little before it.
pub(in crate::relay) async fn read(
    pool: &RpcPool,
    family: ChainFamily,
    multicall3: Option<Address>,
    header: &Header,
    number: u64,
) -> Result<DataFeeModel, DataFeeFault> {
    let block = json!(U64::from(number));
    match family {
        ChainFamily::OpStack => op_stack(pool, multicall3, &block, &header.extra_data).await,
        ChainFamily::Arbitrum => arbitrum(pool, &block).await,
        ChainFamily::Scroll => scroll(pool, multicall3, &block).await,
        ChainFamily::Ethereum
        | ChainFamily::ZkStack
        | ChainFamily::Linea
        | ChainFamily::Polygon
        | ChainFamily::Anvil => Ok(DataFeeModel::None),
    }
}

async fn op_stack(
    pool: &RpcPool,
    multicall3: Option<Address>,
    block: &Value,
    extra_data: &[u8],
) -> Result<DataFeeModel, DataFeeFault> {
    let l1 = |call: Vec<u8>| (rollup::L1_BLOCK, call);
    let oracle = |call: Vec<u8>| (rollup::GAS_PRICE_ORACLE, call);
    let calls = [
        l1(L1Block::basefeeCall {}.abi_encode()),
        l1(L1Block::l1FeeOverheadCall {}.abi_encode()),
        l1(L1Block::l1FeeScalarCall {}.abi_encode()),
        l1(L1Block::baseFeeScalarCall {}.abi_encode()),
        l1(L1Block::blobBaseFeeCall {}.abi_encode()),
        l1(L1Block::blobBaseFeeScalarCall {}.abi_encode()),
        l1(L1Block::operatorFeeScalarCall {}.abi_encode()),
        l1(L1Block::operatorFeeConstantCall {}.abi_encode()),
        l1(L1Block::daFootprintGasScalarCall {}.abi_encode()),
        oracle(Oracle::l1BaseFeeCall {}.abi_encode()),
        oracle(Oracle::isEcotoneCall {}.abi_encode()),
        oracle(Oracle::isFjordCall {}.abi_encode()),
        oracle(Oracle::isIsthmusCall {}.abi_encode()),
        oracle(Oracle::isJovianCall {}.abi_encode()),
    ];
    let answers = words(pool, multicall3, calls, block).await?;
    let family = ChainFamily::OpStack;
    let missing = |what, address| DataFeeFault::Missing { family, what, address };
    let l1_base_fee = answers[0].ok_or_else(|| missing("L1Block", rollup::L1_BLOCK))?;
    if answers[9].is_none() {
        return Err(missing("GasPriceOracle", rollup::GAS_PRICE_ORACLE));
    }
    let value = |index: usize| answers[index].unwrap_or_default();
    let params = OpL1Params {
        l1_base_fee,
        overhead: value(1),
        scalar: value(2),
        base_fee_scalar: value(3).saturating_to(),
        blob_base_fee: value(4),
        blob_base_fee_scalar: value(5).saturating_to(),
        operator_fee_scalar: value(6).saturating_to(),
        operator_fee_constant: value(7).saturating_to(),
        da_footprint_gas_scalar: value(8).saturating_to(),
    };
    let flags = [(10, OpFork::Ecotone), (11, OpFork::Fjord), (12, OpFork::Isthmus), (13, OpFork::Jovian)];
    let told = flags.into_iter().filter(|(index, _)| !value(*index).is_zero()).map(|(_, fork)| fork).max();
    // Headers carry parameters since Holocene and a minimum since Jovian, whatever an old oracle reports.
    let shown = OpBaseFeeParams::parse(extra_data).ok();
    let shown = shown.map(|params| if params.min_base_fee.is_some() { OpFork::Jovian } else { OpFork::Fjord });
    let fork = told.max(shown).unwrap_or(OpFork::Regolith);
    Ok(DataFeeModel::OpStack(fork, params))
}

async fn arbitrum(pool: &RpcPool, block: &Value) -> Result<DataFeeModel, DataFeeFault> {
    let call = gasEstimateL1ComponentCall { to: Address::ZERO, contractCreation: false, data: Bytes::new() };
    let floor = ArbGasInfo::getMinimumGasPriceCall {}.abi_encode();
    let (component, floor) = tokio::join!(
        eth_call(pool, rollup::NODE_INTERFACE, call.abi_encode(), block),
        eth_call(pool, rollup::ARB_GAS_INFO, floor, block)
    );
    let family = ChainFamily::Arbitrum;
    let component = gasEstimateL1ComponentCall::abi_decode_returns(&component?).map_err(|_| DataFeeFault::Missing {
        family,
        what: "NodeInterface",
        address: rollup::NODE_INTERFACE,
    })?;
    let missing = DataFeeFault::Missing { family, what: "ArbGasInfo", address: rollup::ARB_GAS_INFO };
    let floor = word(&floor?).ok_or(missing)?;
    Ok(DataFeeModel::Arbitrum(ArbitrumPoster {
        l1_price_per_unit: component.l1BaseFeeEstimate,
        l2_base_fee: component.baseFee.saturating_to(),
        min_base_fee: floor.saturating_to(),
    }))
}

async fn scroll(pool: &RpcPool, multicall3: Option<Address>, block: &Value) -> Result<DataFeeModel, DataFeeFault> {
    let calls = [
        ScrollOracle::l1BaseFeeCall {}.abi_encode(),
        ScrollOracle::overheadCall {}.abi_encode(),
        ScrollOracle::scalarCall {}.abi_encode(),
        ScrollOracle::l1BlobBaseFeeCall {}.abi_encode(),
        ScrollOracle::commitScalarCall {}.abi_encode(),
        ScrollOracle::blobScalarCall {}.abi_encode(),
        ScrollOracle::penaltyThresholdCall {}.abi_encode(),
        ScrollOracle::penaltyFactorCall {}.abi_encode(),
        ScrollOracle::isCurieCall {}.abi_encode(),
        ScrollOracle::isFeynmanCall {}.abi_encode(),
        ScrollOracle::isGalileoCall {}.abi_encode(),
    ]
    .map(|call| (rollup::SCROLL_ORACLE, call));
    let answers = words(pool, multicall3, calls, block).await?;
    let l1_base_fee = answers[0].ok_or(DataFeeFault::Missing {
        family: ChainFamily::Scroll,
        what: "L1GasPriceOracle",
        address: rollup::SCROLL_ORACLE,
    })?;
    let value = |index: usize| answers[index].unwrap_or_default();
    let params = ScrollL1Params {
        l1_base_fee,
        overhead: value(1),
        scalar: value(2),
        l1_blob_base_fee: value(3),
        commit_scalar: value(4),
        blob_scalar: value(5),
        penalty_threshold: value(6),
        penalty_factor: value(7),
    };
    let flags = [(8, ScrollFork::Curie), (9, ScrollFork::Feynman), (10, ScrollFork::Galileo)];
    let fork = flags.into_iter().filter(|(index, _)| !value(*index).is_zero()).map(|(_, fork)| fork).max();
    Ok(DataFeeModel::Scroll(fork.unwrap_or(ScrollFork::PreCurie), params))
}

/// Asks the chain about a payload, at block `head` or the newest that most nodes have; a majority decides (invariant
/// I15). Without one the model's own arithmetic is used.
pub(in crate::relay) async fn ask(pool: &RpcPool, model: &DataFeeModel, payload: &Payload, head: u64) -> DataQuote {
    let block = json!(U64::from(pool.reference().map_or(head, |common| common.min(head))));
    match model {
        DataFeeModel::None | DataFeeModel::OpStack(..) | DataFeeModel::Quoted(_) => DataQuote::default(),
        DataFeeModel::Arbitrum(poster) => {
            let call =
                gasEstimateL1ComponentCall { to: payload.to, contractCreation: false, data: payload.data.clone() };
            let answer = eth_call(pool, rollup::NODE_INTERFACE, call.abi_encode(), &block).await;
            let gas = answer.ok().and_then(|output| gasEstimateL1ComponentCall::abi_decode_returns(&output).ok());
            let padded = gas.map(|gas| {
                let poster = ArbitrumPoster { l2_base_fee: gas.baseFee.saturating_to(), ..*poster };
                let padded = poster.pad_l1_component(gas.gasEstimateForL1);
                padded.saturating_add((padded / 100 + 1).saturating_mul(POSTER_GAS_MARGIN_PERCENT))
            });
            DataQuote { poster_gas: padded, data_fee: None }
        }
        DataFeeModel::Scroll(..) => {
            let call = ScrollOracle::getL1FeeCall { data: TxSize::sketch(&payload.data).into() };
            let answer = eth_call(pool, rollup::SCROLL_ORACLE, call.abi_encode(), &block).await;
            DataQuote { poster_gas: None, data_fee: answer.ok().and_then(|output| word(&output)) }
        }
    }
}

/// One return word per call, in order; `None` if the call reverted or returned less. One call through Multicall3 where
/// it is deployed, so that all are of one block.
async fn words<const N: usize>(
    pool: &RpcPool,
    multicall3: Option<Address>,
    calls: [(Address, Vec<u8>); N],
    block: &Value,
) -> Result<[Option<U256>; N], RpcError> {
    let mut words = [None; N];
    if let Some(multicall3) = multicall3 {
        let calls = calls
            .iter()
            .map(|(target, call)| multicall3::Call3 {
                target: *target,
                allowFailure: true,
                callData: call.clone().into(),
            })
            .collect();
        let output = eth_call(pool, multicall3, multicall3::aggregate3Call { calls }.abi_encode(), block).await?;
        if let Ok(results) = multicall3::aggregate3Call::abi_decode_returns(&output)
            && results.len() == N
        {
            for (found, result) in words.iter_mut().zip(results) {
                *found = result.success.then(|| word(&result.returnData)).flatten();
            }
            return Ok(words);
        }
    }
    for (found, (target, call)) in words.iter_mut().zip(calls) {
        *found = match eth_call(pool, target, call, block).await {
            Ok(output) => word(&output),
            Err(error) if error.class == RpcErrorClass::Reverted => None,
            Err(error) => return Err(error),
        };
    }
    Ok(words)
}

/// The answer of a majority of the nodes at a numbered block; of one node at `latest`, since the nodes' heads differ.
async fn eth_call(pool: &RpcPool, to: Address, input: Vec<u8>, block: &Value) -> Result<Bytes, RpcError> {
    let params = json!([{ "to": to, "input": Bytes::from(input) }, block]);
    match block.as_str() {
        Some("latest") => pool.call("eth_call", params).await,
        _ if !Protection::AgreedPrices.is_on() => pool.call("eth_call", params).await,
        _ => pool.call_agreed("eth_call", params).await,
    }
}

fn word(data: &[u8]) -> Option<U256> {
    Some(U256::from_be_slice(data.get(..32)?))
}
