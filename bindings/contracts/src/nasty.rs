//! `Nasty`: a target that misbehaves in every way a relayer must survive. For tests only.

use alloc::vec::Vec;

use alloy_primitives::Address;
use alloy_sol_types::{SolValue, sol};

use crate::code::{code_bytes, decode_code};

sol! {
    /// See `sol/Nasty.sol`.
    #[derive(Debug, PartialEq, Eq)]
    interface INasty {
        /// `tag` was executed for `user`.
        event Marked(address indexed user, bytes32 indexed tag);
        /// The call back into the forwarder ended.
        event Reentered(bool success, bytes result);

        /// An armed function was called.
        error IsArmed(bytes32 tag);
        /// The sender was not the expected one.
        error WrongSender(address expected, address actual);

        /// Arms or disarms: arm between simulation and inclusion to fail on chain only.
        function arm(bool on) external;
        /// Sets the answer of `isTrustedForwarder`: 0 honest, 1 deny, 2 burn all gas.
        function setTrust(uint8 mode) external;
        /// Reverts with `Error(reason)`.
        function revertAlways(string calldata reason) external pure;
        /// Reverts with exactly `data`.
        function revertWith(bytes memory data) external pure;
        /// Consumes all the gas it was given.
        function burn() external pure;
        /// Marks `tag`; reverts when armed.
        function ifArmedRevert(bytes32 tag) external;
        /// Marks `tag`; consumes all the gas it was given when armed.
        function ifArmedBurn(bytes32 tag) external;
        /// Reverts unless the user behind the forwarder is `expected`.
        function requireSender(address expected) external view;
        /// Reverts unless the immediate caller is `expected`.
        function requireMsgSender(address expected) external view;
        /// Calls `forwarder` with `data` from within a forwarded call.
        function reenter(address forwarder, bytes calldata data) external payable;
        /// Returns `(1, 2)`.
        function giveBackTwoWords() external pure returns (uint256, uint256);
        /// Marks `tag` and keeps the wei.
        function pay(bytes32 tag) external payable;
        /// Reverts with `size` zero bytes.
        function returnBomb(uint256 size) external pure;

        /// Number of successful executions of `tag`.
        function marks(bytes32 tag) external view returns (uint256);
        /// The sender of the last success of `tag`.
        function lastSender(bytes32 tag) external view returns (address);
        /// Wei received with `tag`.
        function paid(bytes32 tag) external view returns (uint256);
        /// True while the armed functions fail.
        function armed() external view returns (bool);
        /// Current mode of `isTrustedForwarder`; see `setTrust`.
        function trust() external view returns (uint8);
        /// True if the target accepts the appended sender from `forwarder`.
        function isTrustedForwarder(address forwarder) external view returns (bool);
    }
}

/// Creation code, without constructor arguments. Needs a chain with Cancun.
#[must_use]
pub const fn creation_code() -> &'static [u8] {
    &CREATION_CODE
}

/// Init code that deploys it, trusting `forwarder`.
#[must_use]
pub fn deploy_code(forwarder: Address) -> Vec<u8> {
    [creation_code(), &forwarder.abi_encode()].concat()
}

static CREATION_CODE: [u8; code_bytes(CREATION_HEX)] = decode_code(CREATION_HEX);
const CREATION_HEX: &[u8] = include_bytes!("../artifacts/Nasty.creation.hex");
