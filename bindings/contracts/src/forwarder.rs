//! OpenZeppelin's `ERC2771Forwarder` (5.x): ABI, creation code, and known runtime codes.
//!
//! Source: `metatx/ERC2771Forwarder.sol` of `@openzeppelin/contracts`.

use alloc::vec::Vec;

use alloy_primitives::{B256, b256, keccak256};
use alloy_sol_types::{SolValue, sol};

use crate::code::{code_bytes, decode_code};

pub use IERC2771Forwarder::{
    ExecutedForwardRequest, eip712DomainCall, eip712DomainReturn, executeBatchCall, executeCall, noncesCall, verifyCall,
};
pub use IERC2771Recipient::isTrustedForwarderCall;

sol! {
    /// One request as `execute` and `executeBatch` take it. The signer's nonce is implied: the
    /// contract inserts its current value before it checks the signature.
    #[derive(Debug, Default, PartialEq, Eq, Hash)]
    struct ForwardRequestData {
        /// The user who signed; the target sees this account as the sender.
        address from;
        /// The target. It must trust the forwarder.
        address to;
        /// Wei passed to the target.
        uint256 value;
        /// Gas passed to the target, reserved in full.
        uint256 gas;
        /// Last block timestamp, in seconds, at which the request is valid (inclusive).
        uint48 deadline;
        /// Calldata for the target, to which the forwarder appends `from`.
        bytes data;
        /// 65 bytes `r ‖ s ‖ v` over the EIP-712 hash of [`ForwardRequest`].
        bytes signature;
    }

    /// The message that the user signs (EIP-712): the request with its nonce and without the signature.
    #[derive(Debug, Default, PartialEq, Eq, Hash)]
    struct ForwardRequest {
        /// The user who signs.
        address from;
        /// The target.
        address to;
        /// Wei passed to the target.
        uint256 value;
        /// Gas passed to the target.
        uint256 gas;
        /// `nonces(from)` at execution.
        uint256 nonce;
        /// Last block timestamp, in seconds, at which the request is valid (inclusive).
        uint48 deadline;
        /// Calldata for the target.
        bytes data;
    }

    /// The forwarder's interface, with the errors of all known releases.
    #[derive(Debug, PartialEq, Eq)]
    interface IERC2771Forwarder {
        /// A request ran and its nonce is consumed; `success` is that of the inner call.
        /// A request without this event was skipped.
        event ExecutedForwardRequest(address indexed signer, uint256 nonce, bool success);

        /// The signature recovers to `signer`, which is not `from`: a wrong signature, or a used nonce.
        error ERC2771ForwarderInvalidSigner(address signer, address from);
        /// The transaction's value is not the sum of the requests' values.
        error ERC2771ForwarderMismatchedValue(uint256 requestedValue, uint256 msgValue);
        /// The deadline is before the block's timestamp.
        error ERC2771ForwarderExpiredRequest(uint48 deadline);
        /// The target does not answer `isTrustedForwarder(forwarder)` with true.
        error ERC2771UntrustfulTarget(address target, address forwarder);
        /// Strict batch: value is left over and there is no refund receiver (5.7 and later).
        error ERC2771ForwarderNoRefundReceiver();
        /// Strict batch: an inner call with value failed. In no published release: development
        /// builds between 5.6 and 5.7 only.
        error ERC2771ForwarderFailureInAtomicBatch();
        /// The inner call of `execute` failed, or the refund receiver refused (5.1 and later).
        error FailedCall();
        /// The inner call of `execute` failed, or the refund receiver refused (5.0).
        error FailedInnerCall();
        /// The forwarder holds less than the refund (5.1 and later).
        error InsufficientBalance(uint256 balance, uint256 needed);
        /// The forwarder holds less than the refund (5.0).
        error AddressInsufficientBalance(address account);
        /// A nonce was not the account's current one.
        error InvalidAccountNonce(address account, uint256 currentNonce);

        /// Executes one request; reverts if it is invalid or if its call fails.
        function execute(ForwardRequestData calldata request) external payable;
        /// Executes many. Invalid ones are skipped, unless `refundReceiver` is zero (strict).
        function executeBatch(ForwardRequestData[] calldata requests, address payable refundReceiver) external payable;
        /// True if the request is valid in the current state.
        function verify(ForwardRequestData calldata request) external view returns (bool);
        /// The next nonce of `owner`.
        function nonces(address owner) external view returns (uint256);
        /// The EIP-712 domain (ERC-5267). `fields` is `0x0f`: name, version, chain id, contract.
        function eip712Domain()
            external
            view
            returns (
                bytes1 fields,
                string memory name,
                string memory version,
                uint256 chainId,
                address verifyingContract,
                bytes32 salt,
                uint256[] memory extensions
            );
    }

    /// Interface of every ERC-2771 target.
    #[derive(Debug, PartialEq, Eq)]
    interface IERC2771Recipient {
        /// True if the target accepts the appended sender from `forwarder`.
        function isTrustedForwarder(address forwarder) external view returns (bool);
    }
}

/// The `version` of the forwarder's EIP-712 domain. The `name` is a constructor argument: read it
/// from `eip712Domain()`.
pub const DOMAIN_VERSION: &str = "1";

/// Semantics of a known forwarder code, as far as releases differ. Everything else is the same in all 5.x releases.
///
/// | | [`V5_0`](Self::V5_0) | [`V5_7`](Self::V5_7) |
/// |---|---|---|
/// | releases | 5.0.0 to 5.6.1 | 5.7.0 |
/// | strict batch, invalid request | reverts with its error | reverts with its error |
/// | strict batch, failed call with value | succeeds; **the value is sent to address zero** | reverts `ERC2771ForwarderNoRefundReceiver` |
/// | strict batch, failed call without value | succeeds | succeeds |
/// | failed `execute` | `FailedInnerCall` (5.0), `FailedCall` (5.1 and later) | `FailedCall` |
///
/// "Strict" is `executeBatch` with refund receiver zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ForwarderVersion {
    /// Releases 5.0.0 to 5.6.1.
    V5_0,
    /// Release 5.7.0.
    V5_7,
}

/// Treatment of the value of a failed inner call in a strict batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StrictValueFailure {
    /// It is sent to address zero, and the batch succeeds: never send value in a strict batch.
    Burns,
    /// The batch reverts with `ERC2771ForwarderNoRefundReceiver`.
    Reverts,
}

impl ForwarderVersion {
    /// Treatment of the value of a failed inner call in a strict batch.
    #[must_use]
    pub const fn strict_value_failure(self) -> StrictValueFailure {
        match self {
            Self::V5_0 => StrictValueFailure::Burns,
            Self::V5_7 => StrictValueFailure::Reverts,
        }
    }

    /// Signature of the error with which a strict batch reverts on a failed call that carries value; `None` if it does
    /// not revert.
    #[must_use]
    pub const fn atomic_failure_error(self) -> Option<&'static str> {
        match self {
            Self::V5_0 => None,
            Self::V5_7 => Some("ERC2771ForwarderNoRefundReceiver()"),
        }
    }
}

/// One published compilation of the forwarder.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ForwarderBuild {
    /// Its semantics.
    pub version: ForwarderVersion,
    /// The releases of `@openzeppelin/contracts` that ship this code.
    pub releases: &'static [&'static str],
    /// The compiler, from the code's metadata.
    pub compiler: &'static str,
    /// Size of the runtime code without metadata.
    pub body_bytes: usize,
    /// Byte offsets of the 32-byte words that the constructor fills in.
    pub immutables: &'static [usize],
    /// Keccak-256 of the runtime code without metadata, with the immutables zeroed.
    pub masked_hash: B256,
}

/// All known builds, oldest first: the code that OpenZeppelin publishes in its packages.
pub static KNOWN_BUILDS: &[ForwarderBuild] = include!("../artifacts/forwarder_builds.rs");

/// The known build of which `runtime_code` (of `eth_getCode`) is an instance.
///
/// Immutables are masked, because they differ per chain, address and name, and so is the metadata, which is not
/// executed. A match therefore identifies the code's behaviour, not its domain: read that from `eip712Domain()`.
///
/// `None` means only that the code is not in our list: a forwarder compiled with other settings is as good, but has to
/// be configured.
#[must_use]
pub fn forwarder_build(runtime_code: &[u8]) -> Option<&'static ForwarderBuild> {
    let body = without_metadata(runtime_code)?;
    let mut candidates = KNOWN_BUILDS.iter().filter(|build| build.body_bytes == body.len());
    candidates.find(|build| masked_hash(body, build.immutables) == build.masked_hash)
}

/// Version of the known forwarder with `runtime_code` (of `eth_getCode`); `None` if the code is unknown. See
/// [`forwarder_build`].
#[must_use]
pub fn forwarder_version(runtime_code: &[u8]) -> Option<ForwarderVersion> {
    forwarder_build(runtime_code).map(|build| build.version)
}

/// Creation code of the 5.7.0 forwarder, without constructor arguments. Needs a chain with Cancun.
#[must_use]
pub const fn creation_code() -> &'static [u8] {
    &CREATION_CODE
}

/// Init code that deploys a forwarder whose EIP-712 domain is called `name`.
#[must_use]
pub fn deploy_code(name: &str) -> Vec<u8> {
    [creation_code(), &(name,).abi_encode_params()].concat()
}

/// Removes the compiler's metadata, whose length is in the last two bytes.
fn without_metadata(runtime_code: &[u8]) -> Option<&[u8]> {
    let (rest, length) = runtime_code.split_last_chunk::<2>()?;
    let body_bytes = rest.len().checked_sub(usize::from(u16::from_be_bytes(*length)))?;
    rest.get(..body_bytes)
}

fn masked_hash(body: &[u8], immutables: &[usize]) -> B256 {
    let mut masked = body.to_vec();
    for &offset in immutables {
        masked[offset..offset + 32].fill(0);
    }
    keccak256(masked)
}

static CREATION_CODE: [u8; code_bytes(CREATION_HEX)] = decode_code(CREATION_HEX);
const CREATION_HEX: &[u8] = include_bytes!("../artifacts/ERC2771Forwarder.creation.hex");
