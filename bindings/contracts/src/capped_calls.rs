//! `CappedCalls`: many calls in one transaction, each with a gas cap of its own, and `msg.sender` = the contract.
//!
//! The vehicle for calls that carry their authority as a signature and whose target, or whoever the target asks, may
//! burn all gas that it gets. All calls run with exactly their caps, or none runs and the transaction reverts; the
//! transaction's gas limit ([`gas_limit`]) and its calldata decide which, never a target.
//!
//! # Outcomes in a receipt
//! A transaction from `sender` to the contract that succeeded has exactly one [`Executed`] event of the contract with
//! `caller == sender` per call, in the order of the calls, `index` counting from 0. What a call logged stands before
//! its event and after the one before. Events with another `caller` belong to calls that a target made from within: they say
//! nothing. `success` is false for a target without code; true only says that the target did not revert.

use alloy_primitives::{Address, B256, address, b256};
use alloy_sol_types::sol;

use crate::code::{code_bytes, decode_code};

pub use ICappedCalls::{Executed, InsufficientGas, executeCall};

/// The contract's address on every chain where it was deployed with [`creation_code`] and salt 0 through [`DEPLOYER`]
/// (CREATE2): it has no constructor arguments.
pub const ADDRESS: Address = address!("0x61Ef8a805d6220454B110d8Df9946d1e2E6b0D84");

/// The deterministic deployment proxy: creates what follows a 32-byte salt in its calldata.
pub const DEPLOYER: Address = address!("0x4e59b44847b379578588920cA78FbF26c0B4956C");

/// Keccak-256 of the runtime code; it has no immutables.
pub const RUNTIME_CODE_HASH: B256 = b256!("0x571201e00847db639095aa5e49c275a5ded91be1a08ba3e8dbef993f3e2a127c");

/// Gas that a transaction needs beside its intrinsic gas and what its calls need.
pub const BASE_GAS: u64 = 1_000;

/// Gas that a call needs at most beside its cap, the share of it that EIP-150 keeps back and one gas per byte of data.
/// Nearly all of it is room that is not used: a call's use is below [`USED_PER_CALL_GAS`].
pub const OVERHEAD_PER_CALL_GAS: u64 = 12_600;

/// Gas that a call uses at most beside what its target does and one gas per byte of data: two cold accounts (the target
/// and, for one delegated by EIP-7702, its code), the event, and reading the call.
pub const USED_PER_CALL_GAS: u64 = 9_000;

sol! {
    /// One call of [`executeCall`].
    #[derive(Debug, Default, PartialEq, Eq, Hash)]
    struct Call {
        /// The contract to call.
        address target;
        /// Gas that the call gets, no more and no less.
        uint256 gas;
        /// Calldata.
        bytes data;
    }

    /// See `sol/CappedCalls.sol`.
    #[derive(Debug, PartialEq, Eq)]
    interface ICappedCalls {
        /// Call `index` of `caller` ended.
        event Executed(address indexed caller, address indexed target, uint256 index, bool success);

        /// The gas that is left can't give the calls up to `index` their caps. Nothing was executed.
        error InsufficientGas(uint256 index);

        /// Makes `calls` in order.
        function execute(Call[] calldata calls) external;
    }
}

/// Least gas with which `execute` gives every call its cap, without the transaction's intrinsic gas (or its calldata
/// floor), from each call's cap and its bytes of data. Saturates: no chain takes such a transaction.
///
/// Of a call's own part `cap / 63` is what EIP-150 keeps back from it.
pub fn gas_limit(calls: impl IntoIterator<Item = (u64, u64)>) -> u64 {
    calls.into_iter().fold(BASE_GAS, |sum, (cap, bytes)| {
        [cap, cap / 63, bytes, OVERHEAD_PER_CALL_GAS].into_iter().fold(sum, u64::saturating_add)
    })
}

/// Creation code; the constructor takes no arguments. Needs a chain with Cancun.
#[must_use]
pub const fn creation_code() -> &'static [u8] {
    &CREATION_CODE
}

/// The deployed code, for local chains that can set code.
#[must_use]
pub fn runtime_code() -> &'static [u8] {
    &CREATION_CODE[INIT_BYTES..]
}

/// Size of the init code, which only copies the runtime code after it.
const INIT_BYTES: usize = 28;

static CREATION_CODE: [u8; code_bytes(CREATION_HEX)] = decode_code(CREATION_HEX);
const CREATION_HEX: &[u8] = include_bytes!("../artifacts/CappedCalls.creation.hex");
