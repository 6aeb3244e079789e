//! OpenZeppelin's `ERC2771Forwarder` (5.x): ABI, creation code, and which runtime codes are known.
//!
//! Source: `metatx/ERC2771Forwarder.sol` of `@openzeppelin/contracts`.

use alloy_sol_types::sol;

pub use IERC2771Forwarder::{
    ExecutedForwardRequest, eip712DomainCall, eip712DomainReturn, executeBatchCall, executeCall,
    noncesCall, verifyCall,
};
pub use IERC2771Recipient::isTrustedForwarderCall;

sol! {
    /// One request as `execute` and `executeBatch` take it. The signer's nonce is implied: the
    /// contract inserts its current value before it checks the signature.
    #[derive(Debug, Default, PartialEq, Eq, Hash)]
    struct ForwardRequestData {
        /// The user who signed, and whom the target sees.
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

    /// What the user signs (EIP-712): the request with its nonce and without the signature.
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
        /// The target does not say `isTrustedForwarder(forwarder)`.
        error ERC2771UntrustfulTarget(address target, address forwarder);
        /// Strict batch: value is left over and nobody takes it (5.7 and later).
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
        /// Whether the request is valid in the current state.
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

    /// What every ERC-2771 target answers.
    #[derive(Debug, PartialEq, Eq)]
    interface IERC2771Recipient {
        /// Whether the target takes the appended sender from `forwarder`.
        function isTrustedForwarder(address forwarder) external view returns (bool);
    }
}

/// The `version` of the forwarder's EIP-712 domain. The `name` is a constructor argument: read it
/// from `eip712Domain()`.
pub const DOMAIN_VERSION: &str = "1";
