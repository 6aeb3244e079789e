//! L1 fee sources of rollups: predeploys and virtual contracts, as far as a relayer reads them.

use alloy_primitives::{Address, B256, address, b256};
use alloy_sol_types::sol;

use crate::code::{code_bytes, decode_code};

/// OP Stack `L1Block`: L1 attributes known to the L2.
pub const L1_BLOCK: Address = address!("0x4200000000000000000000000000000000000015");
/// OP Stack `GasPriceOracle`: fee estimates and active forks.
pub const GAS_PRICE_ORACLE: Address = address!("0x420000000000000000000000000000000000000F");
/// Arbitrum `NodeInterface`: not a contract, answers `eth_call` only, and not to other contracts.
pub const NODE_INTERFACE: Address = address!("0x00000000000000000000000000000000000000C8");
/// Arbitrum `ArbGasInfo` precompile.
pub const ARB_GAS_INFO: Address = address!("0x000000000000000000000000000000000000006C");
/// Scroll `L1GasPriceOracle`.
pub const SCROLL_ORACLE: Address = address!("0x5300000000000000000000000000000000000002");

sol! {
    /// OP Stack `L1Block`; the getters of a fork that is not active revert or are 0.
    #[derive(Debug, PartialEq, Eq)]
    interface L1Block {
        /// L1 base fee, wei per gas.
        function basefee() external view returns (uint256);
        /// Bedrock overhead, gas.
        function l1FeeOverhead() external view returns (uint256);
        /// Bedrock scalar, six decimals.
        function l1FeeScalar() external view returns (uint256);
        /// Ecotone: weight of the base fee, six decimals.
        function baseFeeScalar() external view returns (uint32);
        /// Ecotone: L1 blob base fee, wei per blob gas.
        function blobBaseFee() external view returns (uint256);
        /// Ecotone: weight of the blob base fee, six decimals.
        function blobBaseFeeScalar() external view returns (uint32);
        /// Isthmus: scalar of the operator fee.
        function operatorFeeScalar() external view returns (uint32);
        /// Isthmus: constant of the operator fee, wei.
        function operatorFeeConstant() external view returns (uint64);
        /// Jovian: gas scalar of the DA footprint.
        function daFootprintGasScalar() external view returns (uint16);
    }

    /// OP Stack `GasPriceOracle`.
    #[derive(Debug, PartialEq, Eq)]
    interface GasPriceOracle {
        /// L1 data fee of a transaction that is not signed yet, wei.
        function getL1Fee(bytes memory unsignedTx) external view returns (uint256);
        /// Upper estimate for a transaction of this size in bytes, wei.
        function getL1FeeUpperBound(uint256 unsignedTxSize) external view returns (uint256);
        /// Isthmus: operator fee for this amount of gas, wei.
        function getOperatorFee(uint256 gasUsed) external view returns (uint256);
        /// L1 base fee, wei per gas.
        function l1BaseFee() external view returns (uint256);
        /// True if Ecotone is active.
        function isEcotone() external view returns (bool);
        /// True if Fjord is active.
        function isFjord() external view returns (bool);
        /// True if Isthmus is active.
        function isIsthmus() external view returns (bool);
        /// True if Jovian is active.
        function isJovian() external view returns (bool);
    }

    /// Arbitrum `NodeInterface`.
    #[derive(Debug, PartialEq, Eq)]
    interface NodeInterface {
        /// Gas for the poster, with Nitro's padding of units and cost, over the whole base fee.
        function gasEstimateL1Component(address to, bool contractCreation, bytes calldata data)
            external
            payable
            returns (uint64 gasEstimateForL1, uint256 baseFee, uint256 l1BaseFeeEstimate);
    }

    /// Arbitrum `ArbGasInfo`.
    #[derive(Debug, PartialEq, Eq)]
    interface ArbGasInfo {
        /// Floor of the L2 base fee, wei per gas.
        function getMinimumGasPrice() external view returns (uint256);
    }

    /// Scroll `L1GasPriceOracle`; the getters of a fork that is not active revert or are 0.
    #[derive(Debug, PartialEq, Eq)]
    interface ScrollOracle {
        /// L1 data fee of an encoded transaction, wei.
        function getL1Fee(bytes memory data) external view returns (uint256);
        /// L1 base fee, wei per gas.
        function l1BaseFee() external view returns (uint256);
        /// Before Curie, gas.
        function overhead() external view returns (uint256);
        /// Before Curie, nine decimals.
        function scalar() external view returns (uint256);
        /// Curie: wei per blob gas.
        function l1BlobBaseFee() external view returns (uint256);
        /// Curie: scalar of the L1 base fee; from Feynman on, scalar of the execution part.
        function commitScalar() external view returns (uint256);
        /// Curie: scalar of the blob base fee.
        function blobScalar() external view returns (uint256);
        /// Feynman: threshold of the compression penalty.
        function penaltyThreshold() external view returns (uint256);
        /// Feynman: factor of the compression penalty.
        function penaltyFactor() external view returns (uint256);
        /// True if Curie is active.
        function isCurie() external view returns (bool);
        /// True if Feynman is active.
        function isFeynman() external view returns (bool);
        /// True if Galileo is active.
        function isGalileo() external view returns (bool);
    }
}

/// Keccak-256 of [`gas_price_oracle_code`].
pub const GAS_PRICE_ORACLE_CODE_HASH: B256 =
    b256!("0xa88fa50a2745b15e6794247614b5298483070661adacb8d32d716434ed24c6b2");
/// Keccak-256 of [`l1_block_code`].
pub const L1_BLOCK_CODE_HASH: B256 = b256!("0x3f5ec6b10ec3d60b3a840f6eb476ded32bbfc5dd68c12daccbbc775a2b93a10c");

/// Runtime code of `GasPriceOracle` 1.3.0 (Fjord), for local chains that can set code.
#[must_use]
pub const fn gas_price_oracle_code() -> &'static [u8] {
    &GAS_PRICE_ORACLE_CODE
}

/// Runtime code of `L1Block` 1.4.1-beta.1 (Fjord), for local chains that can set code.
#[must_use]
pub const fn l1_block_code() -> &'static [u8] {
    &L1_BLOCK_CODE
}

static GAS_PRICE_ORACLE_CODE: [u8; code_bytes(GAS_PRICE_ORACLE_HEX)] = decode_code(GAS_PRICE_ORACLE_HEX);
const GAS_PRICE_ORACLE_HEX: &[u8] = include_bytes!("../artifacts/GasPriceOracle.runtime.hex");
static L1_BLOCK_CODE: [u8; code_bytes(L1_BLOCK_HEX)] = decode_code(L1_BLOCK_HEX);
const L1_BLOCK_HEX: &[u8] = include_bytes!("../artifacts/L1Block.runtime.hex");
