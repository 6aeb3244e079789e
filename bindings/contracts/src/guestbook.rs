//! `Guestbook`: the demo target, which counts entries per user.

use alloc::vec::Vec;

use alloy_primitives::Address;
use alloy_sol_types::{SolValue, sol};

use crate::code::{code_bytes, decode_code};

sol! {
    /// See `sol/Guestbook.sol`.
    #[derive(Debug, PartialEq, Eq)]
    interface IGuestbook {
        /// An entry by `user`, its `count`-th. `tag` is the hash of the message, the mark, or zero.
        event Signed(address indexed user, uint256 count, bytes32 indexed tag);

        /// Signs the book.
        function sign(string calldata message) external;
        /// Signs the book without a word.
        function increment() external;
        /// Signs the book and marks `tag`.
        function mark(bytes32 tag) external;
        /// Entries of `user`.
        function count(address user) external view returns (uint256);
        /// Number of times that `tag` was marked.
        function marks(bytes32 tag) external view returns (uint256);
        /// The user who marked `tag` last.
        function lastSender(bytes32 tag) external view returns (address);
        /// Entries of all users.
        function total() external view returns (uint256);
        /// True if the book accepts the appended sender from `forwarder`.
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
const CREATION_HEX: &[u8] = include_bytes!("../artifacts/Guestbook.creation.hex");
