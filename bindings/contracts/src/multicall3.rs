//! Multicall3: many calls in one transaction, with `msg.sender` = Multicall3.

use alloy_primitives::{Address, B256, address, b256};
use alloy_sol_types::sol;

use crate::code::{code_bytes, decode_code};

pub use IMulticall3::{
    aggregate3Call, aggregate3ValueCall, getBlockNumberCall, getCurrentBlockTimestampCall, getEthBalanceCall,
};

/// The address at which Multicall3 is deployed on nearly every chain.
pub const ADDRESS: Address = address!("0xcA11bde05977b3631167028862bE2a173976CA11");

/// Keccak-256 of the runtime code at [`ADDRESS`]; it has no immutables. Chains with another
/// instruction set (ZK Stack) have another code there.
pub const RUNTIME_CODE_HASH: B256 = b256!("0xd5c15df687b16f2ff992fc8d767b4216323184a2bbc6ee2f9c398c318e770891");

sol! {
    /// One call of [`aggregate3Call`].
    #[derive(Debug, Default, PartialEq, Eq, Hash)]
    struct Call3 {
        /// The contract to call.
        address target;
        /// If false, a failure of this call reverts the whole transaction.
        bool allowFailure;
        /// Calldata.
        bytes callData;
    }

    /// One call of [`aggregate3ValueCall`].
    #[derive(Debug, Default, PartialEq, Eq, Hash)]
    struct Call3Value {
        /// The contract to call.
        address target;
        /// If false, a failure of this call reverts the whole transaction.
        bool allowFailure;
        /// Wei to pass. The sum must equal the transaction's value.
        uint256 value;
        /// Calldata.
        bytes callData;
    }

    /// Outcome of one call. Visible in simulation only, not in a receipt.
    #[derive(Debug, Default, PartialEq, Eq, Hash)]
    struct Result {
        /// True if the call succeeded.
        bool success;
        /// Its return or revert data.
        bytes returnData;
    }

    /// The part of Multicall3 that a relayer uses. There is no gas limit per call.
    #[derive(Debug, PartialEq, Eq)]
    interface IMulticall3 {
        /// Calls each target in order.
        function aggregate3(Call3[] calldata calls) external payable returns (Result[] memory returnData);
        /// Calls each target in order, with value.
        function aggregate3Value(Call3Value[] calldata calls) external payable returns (Result[] memory returnData);
        /// Wei held by `addr`.
        function getEthBalance(address addr) external view returns (uint256 balance);
        /// The block number as the EVM sees it (on Arbitrum: L1's).
        function getBlockNumber() external view returns (uint256 blockNumber);
        /// The block's timestamp in seconds.
        function getCurrentBlockTimestamp() external view returns (uint256 timestamp);
    }
}

/// Creation code; the constructor takes no arguments.
#[must_use]
pub const fn creation_code() -> &'static [u8] {
    &CREATION_CODE
}

/// The deployed code at [`ADDRESS`], for local chains that can set code.
#[must_use]
pub fn runtime_code() -> &'static [u8] {
    &CREATION_CODE[INIT_BYTES..]
}

/// Size of the init code, which only copies the runtime code after it.
const INIT_BYTES: usize = 32;

static CREATION_CODE: [u8; code_bytes(CREATION_HEX)] = decode_code(CREATION_HEX);
const CREATION_HEX: &[u8] = include_bytes!("../artifacts/Multicall3.creation.hex");
