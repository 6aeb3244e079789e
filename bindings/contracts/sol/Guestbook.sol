// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {ERC2771Context} from "@openzeppelin/contracts/metatx/ERC2771Context.sol";

/// @title A guest book that counts entries per user: the demo target.
/// @notice Sees the user behind a trusted forwarder, not the relayer.
contract Guestbook is ERC2771Context {
    /// @notice Entries of each user.
    mapping(address user => uint256) public count;
    /// @notice How many times each tag was marked: a request with a tag of its own ran `marks(tag)` times.
    mapping(bytes32 tag => uint256) public marks;
    /// @notice The user who marked each tag last.
    mapping(bytes32 tag => address) public lastSender;
    /// @notice Entries of all users.
    uint256 public total;

    /// @notice An entry by `user`, its `count`-th. `tag` is the hash of the message, the mark, or zero.
    event Signed(address indexed user, uint256 count, bytes32 indexed tag);

    constructor(address forwarder) ERC2771Context(forwarder) {}

    /// @notice Signs the book.
    function sign(string calldata message) external {
        _enter(keccak256(bytes(message)));
    }

    /// @notice Signs the book without a word.
    function increment() external {
        _enter(bytes32(0));
    }

    /// @notice Signs the book and marks `tag`.
    function mark(bytes32 tag) external {
        ++marks[tag];
        lastSender[tag] = _msgSender();
        _enter(tag);
    }

    function _enter(bytes32 tag) private {
        address user = _msgSender();
        ++total;
        emit Signed(user, ++count[user], tag);
    }
}
