//! `Guestbook`: the demo target, which counts entries per user.

use alloy_sol_types::sol;

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
        /// How many times `tag` was marked.
        function marks(bytes32 tag) external view returns (uint256);
        /// The user who marked `tag` last.
        function lastSender(bytes32 tag) external view returns (address);
        /// Entries of all users.
        function total() external view returns (uint256);
        /// Whether the book takes the appended sender from `forwarder`.
        function isTrustedForwarder(address forwarder) external view returns (bool);
    }
}
