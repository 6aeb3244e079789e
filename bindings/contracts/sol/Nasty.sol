// SPDX-License-Identifier: MIT
pragma solidity ^0.8.24;

import {ERC2771Context} from "@openzeppelin/contracts/metatx/ERC2771Context.sol";

/// @title A target that misbehaves in every way a relayer must survive. For tests only.
contract Nasty is ERC2771Context {
    /// @notice How `isTrustedForwarder` answers.
    enum Trust {
        Honest,
        Deny,
        Burn
    }

    /// @notice How many times each tag was executed with success.
    mapping(bytes32 tag => uint256) public marks;
    /// @notice The sender of each tag's last success.
    mapping(bytes32 tag => address) public lastSender;
    /// @notice Wei received with each tag.
    mapping(bytes32 tag => uint256) public paid;
    /// @notice Whether `ifArmedRevert` and `ifArmedBurn` fail.
    bool public armed;
    /// @notice How `isTrustedForwarder` answers now.
    Trust public trust;

    /// @notice `tag` was executed for `user`.
    event Marked(address indexed user, bytes32 indexed tag);
    /// @notice The call back into the forwarder ended.
    event Reentered(bool success, bytes result);

    error IsArmed(bytes32 tag);
    error WrongSender(address expected, address actual);

    constructor(address forwarder) ERC2771Context(forwarder) {}

    /// @notice Arms or disarms. Anybody may: arm between simulation and inclusion to fail on chain only.
    function arm(bool on) external {
        armed = on;
    }

    /// @notice Sets how `isTrustedForwarder` answers. Anybody may.
    function setTrust(Trust mode) external {
        trust = mode;
    }

    /// @notice The trust check, which the forwarder calls with all the gas it has.
    function isTrustedForwarder(address forwarder) public view override returns (bool) {
        if (trust == Trust.Deny) return false;
        if (trust == Trust.Burn) _burn();
        return super.isTrustedForwarder(forwarder);
    }

    /// @notice Reverts with `Error(reason)`.
    function revertAlways(string calldata reason) external pure {
        revert(reason);
    }

    /// @notice Reverts with exactly `data`.
    function revertWith(bytes memory data) external pure {
        assembly ("memory-safe") {
            revert(add(data, 0x20), mload(data))
        }
    }

    /// @notice Consumes all the gas it was given.
    function burn() external pure {
        _burn();
    }

    /// @notice Marks `tag`; reverts when armed.
    function ifArmedRevert(bytes32 tag) external {
        if (armed) revert IsArmed(tag);
        _mark(tag);
    }

    /// @notice Marks `tag`; consumes all the gas it was given when armed.
    function ifArmedBurn(bytes32 tag) external {
        if (armed) _burn();
        _mark(tag);
    }

    /// @notice Reverts unless the user behind the forwarder is `expected`.
    function requireSender(address expected) external view {
        if (_msgSender() != expected) revert WrongSender(expected, _msgSender());
    }

    /// @notice Reverts unless the immediate caller is `expected`.
    function requireMsgSender(address expected) external view {
        if (msg.sender != expected) revert WrongSender(expected, msg.sender);
    }

    /// @notice Calls `forwarder` with `data` from within a forwarded call, and reports how that ended.
    function reenter(address forwarder, bytes calldata data) external payable {
        (bool success, bytes memory result) = forwarder.call{value: msg.value}(data);
        emit Reentered(success, result);
    }

    /// @notice Returns two words.
    function giveBackTwoWords() external pure returns (uint256, uint256) {
        return (1, 2);
    }

    /// @notice Marks `tag` and keeps the wei.
    function pay(bytes32 tag) external payable {
        paid[tag] += msg.value;
        _mark(tag);
    }

    /// @notice Reverts with `size` zero bytes.
    function returnBomb(uint256 size) external pure {
        assembly ("memory-safe") {
            revert(0x00, size)
        }
    }

    function _mark(bytes32 tag) private {
        ++marks[tag];
        lastSender[tag] = _msgSender();
        emit Marked(_msgSender(), tag);
    }

    function _burn() private pure {
        assembly ("memory-safe") {
            invalid()
        }
    }
}
