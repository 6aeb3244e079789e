//! EIP-3009: token transfers that the payer authorizes by a signature and anybody may submit.
//!
//! The function `receiveWithAuthorization` is left out on purpose: the token wants the payee itself as the caller, so that no
//! relayer can submit it.
//!
//! Sources: EIP-3009; Circle's `FiatTokenV2_2`, which adds the forms with `bytes`; OpenZeppelin's `draft-ERC3009.sol` and
//! `ERC20TransferAuthorization.sol` (5.7).

use alloy_primitives::{B256, b256};
use alloy_sol_types::sol;

pub use crate::forwarder::{eip712DomainCall, eip712DomainReturn};

/// EIP-712 type hash of [`TransferWithAuthorization`], as EIP-3009 states it.
pub const TRANSFER_TYPEHASH: B256 = b256!("0x7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267");

/// EIP-712 type hash of [`CancelAuthorization`], as EIP-3009 states it.
pub const CANCEL_TYPEHASH: B256 = b256!("0x158b0a9edf7a828aad02f63cd515c68ef2f50ba807396f6d12842833a1597429");

sol! {
    /// The message that a payer signs (EIP-712, in the token's domain).
    #[derive(Debug, Default, PartialEq, Eq, Hash)]
    struct TransferWithAuthorization {
        /// The payer, who signs.
        address from;
        /// The payee.
        address to;
        /// Amount, in the token's smallest unit.
        uint256 value;
        /// Unix seconds; valid in blocks with a later timestamp (exclusive).
        uint256 validAfter;
        /// Unix seconds; valid in blocks with an earlier timestamp (exclusive).
        uint256 validBefore;
        /// Any 32 bytes that the payer has not used. OpenZeppelin's `ERC20TransferAuthorization` counts the last 8 bytes
        /// up from 0 for each value of the first 24.
        bytes32 nonce;
    }

    /// The message with which a payer lets the payee itself submit (EIP-712, in the token's domain).
    #[derive(Debug, Default, PartialEq, Eq, Hash)]
    struct ReceiveWithAuthorization {
        /// The payer, who signs.
        address from;
        /// The payee: the only caller that the token takes.
        address to;
        /// Amount, in the token's smallest unit.
        uint256 value;
        /// Unix seconds; valid in blocks with a later timestamp (exclusive).
        uint256 validAfter;
        /// Unix seconds; valid in blocks with an earlier timestamp (exclusive).
        uint256 validBefore;
        /// Any 32 bytes that the payer has not used.
        bytes32 nonce;
    }

    /// The message with which a payer voids a nonce (EIP-712, in the token's domain).
    #[derive(Debug, Default, PartialEq, Eq, Hash)]
    struct CancelAuthorization {
        /// The payer, who signs.
        address authorizer;
        /// The nonce that can't be used any more.
        bytes32 nonce;
    }

    /// EIP-3009 as standardized: signatures in three parts, of payers without code only.
    #[derive(Debug, PartialEq, Eq)]
    interface IERC3009 {
        /// The authorization was executed.
        event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
        /// The authorization was voided; it can't be executed any more.
        event AuthorizationCanceled(address indexed authorizer, bytes32 indexed nonce);

        /// OpenZeppelin: the signature is not the payer's.
        error ERC3009InvalidSignature();
        /// OpenZeppelin: too early or too late.
        error ERC3009InvalidAuthorizationTime(uint256 validAfter, uint256 validBefore);
        /// OpenZeppelin: executed or voided before.
        error ERC3009UsedAuthorization(address authorizer, bytes32 nonce);

        /// Executes a transfer.
        function transferWithAuthorization(
            address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce,
            uint8 v, bytes32 r, bytes32 s
        ) external;
        /// Voids a nonce.
        function cancelAuthorization(address authorizer, bytes32 nonce, uint8 v, bytes32 r, bytes32 s) external;
        /// True if the nonce was used or voided.
        function authorizationState(address authorizer, bytes32 nonce) external view returns (bool);
    }

    /// The same with signatures as bytes. A payer with code, one delegated by EIP-7702 too, is asked by ERC-1271, with all gas
    /// that is left, and may answer otherwise at any time.
    #[derive(Debug, PartialEq, Eq)]
    interface IERC3009Bytes {
        /// Executes a transfer.
        function transferWithAuthorization(
            address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce,
            bytes memory signature
        ) external;
        /// Voids a nonce.
        function cancelAuthorization(address authorizer, bytes32 nonce, bytes memory signature) external;
    }

    /// The token's EIP-712 domain, for tokens without [`eip712DomainCall`] (Circle's). Not every token has all of these.
    #[derive(Debug, PartialEq, Eq)]
    interface IEip712Token {
        /// Name, of the domain too.
        function name() external view returns (string memory);
        /// Version of the domain; `"2"` for USDC, where it is not bridged.
        function version() external view returns (string memory);
        /// Separator of the domain: what it must hash to.
        function DOMAIN_SEPARATOR() external view returns (bytes32);
    }
}
